"""Speed and memory beside the peers: runs every part, prints the table and writes it to results/<machine>.tsv.

The file always holds one whole run; with ``--only`` or ``--quick`` the table is printed and nothing is written.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

# The parts import torch, scgpt and cell-eval in processes of their own: on Linux a new process counts the memory of the
# one that started it as its own peak, so this one stays small.
import drops
import evaluation
import finetuning
import inference
import joining
import masked_attention
import measure
import planning
import predicting
import tuning

MODULES = (inference, finetuning, masked_attention, evaluation, planning, drops, joining, predicting, tuning)
PARTS = {part.__name__: part for part in MODULES}
QUICK: dict[str, dict[str, Any]] = {  # small enough to see in a few minutes that everything runs
    "inference": {"repeats": 1, "sizes": inference.SIZES[:1]},
    "finetuning": {"repeats": 2},
    "masked_attention": {"repeats": 1, "lengths": masked_attention.LENGTHS[:2]},
    "evaluation": {"repeats": 1, "size": (30, 50, 5000)},
    "planning": {"datasets": 1, "splits": 2, "seeds": 1},
    "drops": {"cells": 4000, "genes": 2000},
    "joining": {"cells": 2000, "genes": 2000},
    "predicting": {"perturbations": 10, "genes": 2000, "controls": 2000},
    "tuning": {"size": (120, 3000), "largest": (300, 3000)},
}
RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name, as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Name of a results file: processor and cores, in lower case letters, digits, dots and hyphens."""
    words = re.sub(r"\((r|tm)\)", "", processor().lower())
    return re.sub(r"[^a-z0-9.]+", "-", f"{words} {cores()} cores").strip("-.")


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_aligned(table: list[dict]) -> None:
    lines = [measure.COLUMNS, *([shown(row[column]) for column in measure.COLUMNS] for row in table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(measure.COLUMNS))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write(table: list[dict], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([measure.COLUMNS, *([shown(row[column]) for column in measure.COLUMNS] for row in table)])
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats")
    arguments = parser.parse_args()
    table = []
    for name in arguments.only:
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        start = time.monotonic()
        table += PARTS[name].rows(**QUICK[name] if arguments.quick else {})
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    print_aligned(table)
    if arguments.only == list(PARTS) and not arguments.quick:
        path = RESULTS / f"{machine()}.tsv"
        write(table, path)
        print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
