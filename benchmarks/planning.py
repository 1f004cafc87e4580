"""How long Snakemake takes to plan a large study: a dry run of 10 data sets x 5 splits x 12 methods x 3 seeds.

And of one joined data set whose contexts are held out in turn, with learning curves.
"""

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


def study(folder: Path, datasets: int, splits: int, seeds: int, joined: bool = False) -> Path:
    """Write the configuration and its table of data sets, or parts of one; nothing of it is ever generated."""
    header, *rows = (ROOT / "config" / "datasets.tsv").read_text().splitlines()
    planted = next(row for row in rows if row.startswith("planted\t")).partition("\t")[2]
    names = [f"planted{index}" for index in range(datasets)]
    table, path = folder / "datasets.tsv", folder / "study.yaml"
    lines = [header, *(f"{name}\t{planted}" for name in names)]
    row = {"name": "joined", "address": f"joined:{','.join(names)}", "format": "joined", "target_sum": "400"}
    lines += ["\t".join(row.get(column, "") for column in header.split("\t"))] if joined else []
    table.write_text("\n".join(lines) + "\n")
    methods = {name: {"seeds": list(range(seeds))} for name in (*BASELINES, *SCGPT)}
    for name in SCGPT:
        methods[name]["checkpoint"] = "untrained"
    configuration = {
        "dataset_table": str(table),
        "study": "planning",
        "datasets": ["joined"] if joined else names,
        "generated": {name: {} for name in names},
        "splits": {"folds": splits, "run": list(range(splits))},
        "checkpoints": {"untrained": {"source": "random"}},
        "methods": methods,
    }
    if joined:
        configuration["splits"] |= {"contexts": {"hold_out": "all"}, "training_sizes": [20, 40]}
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
    table = []
    for joined in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            seconds, megabytes, jobs = dry_run(study(Path(folder), datasets, splits, seeds, joined))
        parts = f"{datasets} parts joined, each held out, curves" if joined else f"{datasets} data sets"
        size = f"{parts} x {splits} splits x {len(BASELINES + SCGPT)} methods x {seeds} seeds, {jobs} jobs"
        table += [
            measure.row("planning a run", size, "time", "s", seconds, "limit", SECONDS, SECONDS / seconds, 1),
            measure.row(
                "planning a run", size, "memory", "MB", megabytes, "limit", MEGABYTES, MEGABYTES / megabytes, 1
            ),
        ]
    return table
