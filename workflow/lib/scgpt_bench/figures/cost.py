"""What a run costs: time, memory and GPU hours, per rule and per method."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from scgpt_bench.figures.numbers import readable_memory, readable_time
from scgpt_bench.figures.style import (
    WIDTH,
    beside_row,
    count,
    hover,
    keep,
    label_rows,
    new_figure,
    require,
    rows_height,
    say,
    styled,
)

COLUMNS = ["rule", "method", "jobs", "time", "hours", "gpu_hours", "memory_gib"]
_COLOURS = {"hours": "#0072b2", "gpu_hours": "#009e73", "memory_gib": "#d55e00"}
SHARED = "every method"  # what is not done for a single method
_log = logging.getLogger(__name__)


def read_costs(folder: str | Path, benchmarks: Mapping[str, str], seeds: Mapping[str, Collection[int]]) -> pd.DataFrame:
    """Read what Snakemake measured of the jobs that the configuration has, whenever they ran.

    A file that is missing is not asked for; one that is damaged is left out and named in the log.

    Parameters
    ----------
    folder
        Where the benchmark files are.
    benchmarks
        By rule, a regular expression of the paths of its benchmark files, with a group for each wildcard.
    seeds
        The seeds of each method. Files of other seeds, and files that no expression matches, are left out.

    Returns
    -------
    One row a job, sorted by path: ``rule``, ``method`` (``SHARED`` for a job that is not of a single method),
    ``seconds`` (wall clock) and ``memory_mib`` (peak; missing where a job was too short to be sampled).
    """
    patterns = {rule: re.compile(pattern) for rule, pattern in benchmarks.items()}
    rows = []
    for path in sorted(map(str, Path(folder).rglob("*.tsv"))):
        rule, match = next(((rule, found) for rule, of in patterns.items() if (found := of.match(path))), (None, None))
        if match is None:
            continue
        wildcards = match.groupdict()
        method, seed = wildcards.get("method", SHARED), wildcards.get("seed")
        if seed is not None and int(seed) not in seeds[method]:
            continue
        try:
            measured = pd.read_csv(path, sep="\t", na_values=["-", "NA"])[["s", "max_rss"]].astype(float).iloc[0]
        except (OSError, ValueError, KeyError, IndexError) as error:
            _log.warning("%s is not counted: it is no benchmark file of Snakemake (%s)", path, error)
            continue
        rows.append((rule, method, measured["s"], measured["max_rss"]))
    return pd.DataFrame(rows, columns=["rule", "method", "seconds", "memory_mib"])


def cost_table(costs: pd.DataFrame, gpus: Mapping[str, int]) -> pd.DataFrame:
    """Time, GPU hours and largest memory per rule and method, the longest first.

    Parameters
    ----------
    costs
        :func:`read_costs`.
    gpus
        GPUs that each job of a rule asks for; rules that are left out ask for none.

    Returns
    -------
    Columns ``COLUMNS``; hours are summed over jobs, which may have run side by side, and ``time`` is the same to read.
    """
    require(costs, ["rule", "method", "seconds", "memory_mib"], "costs", or_empty=True)
    table = costs.assign(
        hours=costs["seconds"] / 3600,
        gpu_hours=costs["seconds"] / 3600 * costs["rule"].map(gpus).fillna(0),
        memory_gib=costs["memory_mib"].astype(float) / 1024,
    )
    table = table.groupby(["rule", "method"], sort=True, as_index=False).agg(
        jobs=("seconds", "size"),
        hours=("hours", "sum"),
        gpu_hours=("gpu_hours", "sum"),
        memory_gib=("memory_gib", "max"),
    )
    table["time"] = [readable_time(hours) for hours in table["hours"]]
    return table.sort_values("hours", ascending=False, kind="stable", ignore_index=True)[COLUMNS]


@styled
def cost_bars(table: pd.DataFrame, title: str) -> Figure:
    """Time, GPU hours and peak memory per method, the longest on top.

    Parameters
    ----------
    table
        :func:`cost_table`.
    title
        Of which run.
    """
    require(table, COLUMNS, "costs", or_empty=True)
    if table.empty:
        return new_figure(WIDTH, 0.6, title, "No job is counted: its benchmark files are gone.")
    bars = table.groupby("method", sort=True).agg(
        hours=("hours", "sum"), gpu_hours=("gpu_hours", "sum"), memory_gib=("memory_gib", "max"), jobs=("jobs", "sum")
    )
    bars = bars.sort_values("hours", ascending=False, kind="stable")
    figure = new_figure(
        WIDTH,
        1.1 + rows_height(bars.index, 0.22),
        f"{title}: {count(int(bars['jobs'].sum()), 'job')}, {readable_time(bars['hours'].sum())}",
        "Time: sum over the jobs of a method (jobs may run side by side). GPU, where one was asked for: the same times "
        "the number of GPUs. Memory: the largest job.",
    )
    # Without a GPU there is nothing to draw of GPUs.
    columns = {name: colour for name, colour in _COLOURS.items() if name != "gpu_hours" or bars["gpu_hours"].any()}
    panels = dict(zip(columns, figure.subplots(1, len(columns), sharey=True), strict=True))
    rows = range(len(bars))
    for (column, colour), axes in zip(columns.items(), panels.values(), strict=True):
        most = bars[column].fillna(0).max()
        unit, size = ("GiB", 1.0) if column == "memory_gib" else _unit(most)
        written = readable_memory if column == "memory_gib" else readable_time
        for bar, name, value in zip(
            axes.barh(rows, bars[column] / size, height=0.62, color=colour), bars.index, bars[column], strict=True
        ):
            hover(bar, f"{name}: {'unknown' if pd.isna(value) else written(value)}")
        axes.set_xlabel({"hours": f"time ({unit})", "gpu_hours": f"GPU time ({unit})"}.get(column, f"memory ({unit})"))
        axes.locator_params(axis="x", nbins=3)
        axes.set_xlim(0, 1.02 * (most / size or 1.0))
    for row, entry in enumerate(bars.itertuples()):
        beside_row(panels["hours"], row, readable_time(entry.hours))
        if "gpu_hours" in panels:
            beside_row(panels["gpu_hours"], row, readable_time(entry.gpu_hours) if entry.gpu_hours else "none")
        memory = "unknown" if pd.isna(entry.memory_gib) else readable_memory(entry.memory_gib)
        beside_row(panels["memory_gib"], row, memory)
    label_rows(panels["hours"], list(bars.index))
    keep(figure, bars.reset_index())
    for axes in list(panels.values())[1:]:
        axes.tick_params(axis="y", length=0)
    largest = bars["memory_gib"].max()
    own = bars.drop(index=SHARED, errors="ignore")
    longest = f"; the most of one method: {own.index[0]}, {readable_time(own['hours'].iloc[0])}" if len(own) else ""
    shared = f"; of no single method: {readable_time(bars.loc[SHARED, 'hours'])}" if SHARED in bars.index else ""
    gpu_hours = bars["gpu_hours"].sum()
    on_gpu = f"{readable_time(gpu_hours)} of GPU time" if gpu_hours else "none on a GPU"
    say(
        figure,
        f"{readable_time(bars['hours'].sum())}, summed over all jobs, {on_gpu}{longest}{shared}."
        + ("" if pd.isna(largest) else f" Largest job: {readable_memory(largest)}."),
    )
    return figure


_UNITS = (("hours", 1.0), ("minutes", 1 / 60), ("seconds", 1 / 3600))


def _unit(hours: float) -> tuple[str, float]:
    return next((unit, size) for unit, size in _UNITS if hours >= 2 * size or unit == "seconds")
