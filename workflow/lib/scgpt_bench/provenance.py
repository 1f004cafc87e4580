"""What it takes to repeat a run: inputs by checksum, versions, configuration and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scgpt_bench.files import content_sha256
from scgpt_bench.method_record import read_record

# Where Snakemake keeps the files of `github(...)`; the folder between is the tag or commit.
_COPY_OF_HOSTED = re.compile(r"/hosted-git/.+/([^/]+)/workflow/lib/scgpt_bench$")


def describe(
    configuration: Mapping[str, Any],
    own_files: Iterable[str | Path],
    inputs: Iterable[str | Path],
    results: Iterable[str | Path],
    scgpt: Iterable[str | Path],
) -> dict[str, Any]:
    """Describe the provenance of a run, ready for JSON; :mod:`scgpt_bench.verification` repeats the run from it.

    Parameters
    ----------
    configuration
        The configuration with every default filled in.
    own_files
        Files and folders of the user's that the configuration names: tables, splits, predictions, scripts, local drops.
    inputs
        Data drops and checkpoints, as the workflow keeps them.
    results
        The tables that the run is for.
    scgpt
        The method records of scGPT's predictions.
    """
    return {
        "configuration": configuration,
        "revision": revision(),
        "own_files": checksums(own_files),
        "inputs": checksums(inputs),
        "results": checksums(results),
        "versions": installed_versions(),
        "scgpt": computed_on(scgpt),
        "hardware": hardware(),
    }


def checksums(paths: Iterable[str | Path]) -> list[dict[str, str]]:
    """List ``path`` and ``sha256`` of every file or folder, sorted."""
    return [{"path": path, "sha256": content_sha256(path)} for path in sorted(set(map(str, paths)))]


def revision() -> str | None:
    """Return the commit of the workflow, with ``-dirty`` when files differ from it; None outside a git checkout.

    Of Snakemake's copy of ``github(...)``, the tag or commit that was asked for.
    """
    folder = Path(__file__).parent
    if copy := _COPY_OF_HOSTED.search(folder.as_posix()):
        return unquote(copy[1])
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of every distribution in the environment that asks, by name."""
    packages = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **dict(sorted(packages.items(), key=lambda item: item[0].lower()))}


def computed_on(records: Iterable[str | Path]) -> list[dict[str, Any]]:
    """List device and versions of packages of every scGPT prediction and, where there was one, of its fine-tuning.

    On a cluster these jobs run on other machines, in other environments than the job that asks.
    """
    found = []
    for path in sorted(map(str, records)):
        record = read_record(path)
        steps = {"prediction": record.scgpt, "finetuning": record.finetuning}
        parts = {step: {"device": by.device, "versions": by.versions} for step, by in steps.items() if by}
        found.append({"path": path, **parts})
    return found


def hardware() -> dict[str, Any]:
    """Describe operating system, processor, cores, memory (GiB) and NVIDIA GPUs of the machine that asks.

    On a cluster other machines may have predicted and trained: see :func:`computed_on`.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": _gpus(Path("/proc/driver/nvidia/gpus")),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpus(driver: Path) -> list[str]:
    """List the models of the GPUs, as their driver names them; the environment that asks has no PyTorch."""
    files = sorted(driver.glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith("Model:")]
    return [line.split(":", 1)[1].strip() for line in lines]
