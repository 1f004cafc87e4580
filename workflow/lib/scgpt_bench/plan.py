"""Estimate what a run will cost before it starts: jobs, core hours, GPU hours, disk and memory, and hours by method.

The estimates are those by which jobs ask for memory and time (:mod:`resources`), without their margins. The speed of
trainings is this machine's own where one of the same size is among its results.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from scgpt_bench.resources import DISK, GPU_MINUTES, MINUTES, Needs
from scgpt_bench.sizes import OF_NETWORKS, Network, Sizes, network_of

SHARED = "every method"  # what is not done for a single method
PASSES = 3  # a training step, in forward passes


@dataclass(frozen=True)
class Job:
    """One job that a run would start: what its rule needs, and what it asks for."""

    needs: Needs
    wildcards: Mapping[str, str]
    threads: int
    gpus: int
    memory_mb: int


def rates(results: str | Path = "results") -> dict[tuple[Network, bool], float]:
    """Measure how fast this machine trained before: operations per second of one core, or of one GPU.

    Parameters
    ----------
    results
        The folder of all studies: their ``configuration.yaml`` has the size of a network, ``history.tsv`` of each
        training its tokens per second. What is unfinished or damaged is left out.

    Returns
    -------
    By network and whether on a GPU; the median over trainings.
    """
    found: dict[tuple[Network, bool], list[float]] = {}
    for path in sorted(Path(results).glob("*/configuration.yaml")):
        with suppress(OSError, ValueError, yaml.YAMLError):
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
            for pattern in ("checkpoints/*/history.tsv", "*/*/*/*/model/history.tsv"):
                for history in sorted(path.parent.glob(pattern)):
                    with suppress(OSError, ValueError, KeyError, TypeError):  # such as one that had nothing to train on
                        _add(found, history, config)
    return {key: median(speeds) for key, speeds in found.items()}


def _add(found: dict[tuple[Network, bool], list[float]], history: Path, config: Mapping[str, Any]) -> None:
    pretrained = history.parts[-3] == "checkpoints"
    checkpoint = history.parts[-2] if pretrained else config["methods"][history.parts[-4]]["checkpoint"]
    report = json.loads((history.parent / "report.json").read_text(encoding="utf-8"))
    on_gpu = report["device"] != "cpu"
    network = network_of(config["checkpoints"][checkpoint])
    with history.open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    shared_by = report["processes"] if on_gpu else config["hardware"]["threads"]
    for row in rows:
        tokens = float(row["tokens_per_second"])
        of_cell = tokens / float(row["cells_per_second"])
        found.setdefault((network, on_gpu), []).append(PASSES * network.flop(tokens, of_cell) / shared_by)


def slower(job: Job, sizes: Sizes, measured: Mapping[tuple[Network, bool], float]) -> float:
    """Return how many times as long as the table says this machine takes for the network of a job; 1 if unknown."""
    terms = job.needs.terms.get(GPU_MINUTES if job.gpus else MINUTES, [])
    minutes = next((term.per_unit for term in terms if term.unit in OF_NETWORKS), None)
    checkpoint = job.wildcards.get("checkpoint")
    if minutes and not checkpoint:
        checkpoint = sizes.config["methods"][job.wildcards["method"]]["checkpoint"]
    speed = measured.get((sizes.network(checkpoint), job.gpus > 0)) if minutes and checkpoint else None
    return 1e15 / speed / 60 / minutes if speed and minutes else 1.0


def text(jobs: Sequence[Job], sizes: Sizes, table: str, measured: Mapping[tuple[Network, bool], float]) -> str:
    """Return the plan of ``jobs`` as text; ``table`` names where the coefficients are."""
    methods: dict[str, list[float]] = {}
    longest, largest, disk = (0.0, ""), (0, ""), 0.0
    on_this_machine = False
    for job in jobs:
        factor = slower(job, sizes, measured)
        on_this_machine |= factor != 1.0
        hours = job.needs.minutes(sizes, job.wildcards, job.threads, job.gpus, factor) / 60
        row = methods.setdefault(job.wildcards.get("method", SHARED), [0, 0.0, 0.0])
        row[0] += 1
        row[1] += hours * job.threads
        row[2] += hours * job.gpus
        longest = max(longest, (hours, job.needs.rule))
        largest = max(largest, (job.memory_mb, job.needs.rule))
        disk += job.needs.expected(DISK, sizes, job.wildcards)
    totals = [sum(column) for column in zip(*methods.values(), strict=True)]
    speed = "the speed of trainings is this machine's own" if on_this_machine else "no training was measured here"
    by_method = [
        (name, f"{row[0]:,.0f}", _hours(row[1]), _hours(row[2]))
        for name, row in sorted(methods.items(), key=lambda item: -item[1][1])
    ]
    names = [*dict.fromkeys(name for name in sizes.config["datasets"])]
    shapes = [(name, sizes.shape(name)) for name in names]
    by_dataset = [
        (name, f"{one.cells:,.0f}", f"{one.genes:,.0f}", f"{one.perturbations:,.0f}", one.known_from)
        for name, one in shapes
    ]
    summary = [
        ("jobs", f"{len(jobs):,}"),
        ("core hours", _hours(totals[1])),
        ("GPU hours", _hours(totals[2])),
        ("disk", f"{disk / 1000:,.0f} GB" if disk >= 10_000 else f"{disk:,.0f} MB"),
        ("largest memory", f"{largest[0] / 1000:,.1f} GB, asked for by {largest[1]}"),
        ("longest job", f"{_hours(60 * longest[0])} minutes, {longest[1]}"),
    ]
    head = (
        f"Plan of what is not done yet. All numbers are estimates ({table}; {speed}).\n"
        "Not known before: a training that stops early takes less, a job that is tried again takes more."
    )
    return "\n\n".join(
        [
            head,
            _table(summary),
            _table([("method", "jobs", "core hours", "GPU hours"), *by_method]),
            _table([("data set", "cells", "genes", "perturbations", "known from"), *by_dataset]),
        ]
    )


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Align columns: names to the left, numbers to the right."""
    rows = [*rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
