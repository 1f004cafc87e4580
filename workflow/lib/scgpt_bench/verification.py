"""Repeat a run from its provenance.json in a folder of its own, and say what differs.

``make verify study=<study>``, or ``python -m scgpt_bench.verification results/<study>/provenance.json`` in the folder
of the run. Exit status: 0 when every table of results has the same bytes, 1 when one differs, 2 when the run cannot be
repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml

from scgpt_bench import provenance
from scgpt_bench.data.download import record
from scgpt_bench.errors import InputError
from scgpt_bench.files import content_sha256, read_json, read_table, sha256

WORKFLOW = Path(__file__).parents[2]
NEEDED = ("configuration", "revision", "own_files", "inputs", "results", "versions", "scgpt", "hardware")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Read ``provenance.json``; what is needed to repeat the run must be in it."""
    document = read_json(path, "the provenance of a run")
    missing = [key for key in NEEDED if not isinstance(document, dict) or key not in document]
    if missing:
        raise InputError(path, "top level", "no " + ", ".join(missing), "the provenance of a run of this version")
    return document


def surroundings(document: Mapping[str, Any]) -> list[str]:
    """List how this machine, its packages and this code differ from those of the run: one line each."""
    lines = []
    for name, then, now in (
        ("code", document["revision"], provenance.revision()),
        ("processor", document["hardware"]["processor"], provenance.hardware()["processor"]),
    ):
        if then != now:
            lines.append(f"{name}: {then} in the run, {now} here")
    here = provenance.installed_versions()
    ran_with = set(document["versions"].items())
    for entry in document["scgpt"]:
        for step in ("prediction", "finetuning"):
            ran_with |= set(entry.get(step, {"versions": {}})["versions"].items())
    for name, version in sorted(ran_with):
        if here.get(name) != version:
            lines.append(f"{name}: {version} in the run, {here.get(name, 'not installed')} here")
    return lines


def repeat(document: Mapping[str, Any], run: Path, scratch: Path) -> None:
    """Run the configuration in ``scratch`` up to its tables of results.

    Downloads are taken from the resources of ``run`` where they are still there, by checksum. What is fetched again has
    to be the same bytes, also where the table of data sets knows no checksum.

    Raises
    ------
    InputError
        For a file or folder of the user's that is gone or has changed, or a run that fails.
    """
    for entry in document["own_files"]:
        source = run / entry["path"]
        found = content_sha256(source) if source.exists() else "no such file"
        if found != entry["sha256"]:
            raise InputError(source, "sha256", found, f"{entry['sha256']}, as in the run")
        if not Path(entry["path"]).is_absolute():
            target = _below(scratch, entry["path"])
            if not target.exists():  # it does as a file of a folder before it
                target.symlink_to(source.resolve())
    for entry in document["inputs"]:
        # Read where the table knows no checksum (data.download.fetch), and nowhere else.
        record(_below(scratch, entry["path"]), entry["sha256"])
    configuration = dict(document["configuration"])
    configuration["mirrors"] = [*configuration["mirrors"], str((run / "resources").resolve())]
    configuration_file = scratch / "configuration.yaml"
    configuration_file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--snakefile", WORKFLOW / "Snakefile", "--directory", scratch]
    command += ["--configfile", configuration_file, "--profile", WORKFLOW.parent / "profiles" / "local"]
    targets = [entry["path"] for entry in document["results"]]
    if subprocess.run([*map(str, command), "--", *targets], check=False).returncode:
        raise InputError(configuration_file, "run", "a failed job (see above)", "a run that completes")


def _below(scratch: Path, path: str) -> Path:
    """Return where a file of the run goes in ``scratch``, and make its folder."""
    target = Path(os.path.normpath(scratch / path))
    if not target.is_relative_to(scratch):
        raise InputError("provenance.json", "path", path, "a path below the folder of the run, or an absolute one")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def differences(document: Mapping[str, Any], run: Path, scratch: Path) -> list[str]:
    """List the tables of results whose bytes differ from those of the run, and by how much: one line each."""
    lines = []
    for entry in document["results"]:
        path = entry["path"]
        if sha256(scratch / path) == entry["sha256"]:
            continue
        before = run / path
        if not before.is_file() or sha256(before) != entry["sha256"]:
            lines.append(f"{path}: differs (by how much is unknown: the table of the run is gone or has changed)")
        else:
            lines.append(f"{path}: {_difference(read_table(before), read_table(scratch / path))}")
    return lines


def _difference(before: pd.DataFrame, after: pd.DataFrame) -> str:
    if before.shape != after.shape or list(before) != list(after):
        return f"{before.shape} became {after.shape} (rows, columns)"
    changed = (before != after) & ~(before.isna() & after.isna())
    numbers = before.select_dtypes("number").columns
    largest = (before[numbers] - after[numbers]).abs().max().max()
    return f"{int(changed.any(axis=1).sum())} of {len(before)} rows differ, numbers by at most {largest:.3g}"


def main(path: str) -> int:
    """Repeat the run of this ``provenance.json`` and print what differs; the exit status."""
    run = Path.cwd()
    try:
        document = read_provenance(path)
        for line in surroundings(document):
            print(f"other surroundings: {line}")
        with TemporaryDirectory(prefix="scgpt-bench-verify-") as scratch:
            repeat(document, run, Path(scratch))
            lines = differences(document, run, Path(scratch))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(f"differs: {line}")
    print(f"{len(document['results']) - len(lines)} of {len(document['results'])} tables of results are the same bytes")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
