"""How long Snakemake takes to plan a large study: a dry run of 10 data sets x 5 splits x 12 methods x 3 seeds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import yaml

ROOT = Path(__file__).parents[1]
BASELINES = ("control-mean", "train-mean", "additive", "ridge", "knn", "target-only", "shuffled", "technical-duplicate")
SCGPT = ("scgpt-zero-shot", "scgpt-knockout", "scgpt-finetuned", "scgpt-scratch")
SECONDS, MEGABYTES = 30, 2000  # what a dry run may take


def study(folder: Path, datasets: int, splits: int, seeds: int) -> Path:
    """Write the configuration and its table of data sets; nothing of it is ever generated."""
    header, *rows = (ROOT / "config" / "datasets.tsv").read_text().splitlines()
    planted = next(row for row in rows if row.startswith("planted\t")).partition("\t")[2]
    names = [f"planted{index}" for index in range(datasets)]
    table, path = folder / "datasets.tsv", folder / "study.yaml"
    table.write_text("\n".join([header, *(f"{name}\t{planted}" for name in names)]) + "\n")
    methods = {name: {"seeds": list(range(seeds))} for name in (*BASELINES, *SCGPT)}
    for name in SCGPT:
        methods[name]["checkpoint"] = "untrained"
    configuration = {
        "dataset_table": str(table),
        "study": "planning",
        "datasets": names,
        "generated": {name: {} for name in names},
        "splits": {"folds": splits, "run": list(range(splits))},
        "checkpoints": {"untrained": {"source": "random"}},
        "methods": methods,
    }
    path.write_text(yaml.safe_dump(configuration))
    return path


def dry_run(configuration: Path) -> tuple[float, float, int]:
    """Seconds, peak memory in MB and number of jobs of a dry run, as a user sees it."""
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--configfile", str(configuration)]
    script = (
        "import json, resource, subprocess, sys;"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True);"
        "print(json.dumps([done.returncode, done.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--dry-run", "--quiet", "rules"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    status, output, kilobytes = json.loads(done.stdout)
    jobs = re.search(r"^total\s+(\d+)", output, re.MULTILINE)
    if status or jobs is None:
        raise RuntimeError(output[-3000:])
    return seconds, kilobytes / 2**10, int(jobs[1])


def rows(datasets: int = 10, splits: int = 5, seeds: int = 3) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        seconds, megabytes, jobs = dry_run(study(Path(folder), datasets, splits, seeds))
    size = f"{datasets} data sets x {splits} splits x {len(BASELINES + SCGPT)} methods x {seeds} seeds, {jobs} jobs"
    return [
        measure.row("planning a run", size, "time", "s", seconds, "limit", SECONDS, SECONDS / seconds, 1),
        measure.row("planning a run", size, "memory", "MB", megabytes, "limit", MEGABYTES, MEGABYTES / megabytes, 1),
    ]
