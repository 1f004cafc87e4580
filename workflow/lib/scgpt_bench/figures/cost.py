"""What a run costs: time and memory per rule."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from scgpt_bench.figures.style import WIDTH, beside_row, count, label_rows, new_figure, require, rows_height, styled


@styled
def cost_bars(costs: pd.DataFrame, title: str) -> Figure:
    """Time and peak memory per rule, the longest on top.

    Parameters
    ----------
    costs
        One row a job: ``rule``, ``seconds`` (wall clock), ``memory_mib`` (peak resident memory; may be missing).
    title
        Of which run.
    """
    require(costs, ["rule", "seconds", "memory_mib"], "costs")
    table = costs.groupby("rule", sort=True).agg(
        seconds=("seconds", "sum"), memory_mib=("memory_mib", "max"), jobs=("seconds", "size")
    )
    table = table.sort_values("seconds", ascending=False, kind="stable")
    unit, size = next((u, s) for u, s in _UNITS if table["seconds"].max() >= 2 * s or s == 1)
    figure = new_figure(
        WIDTH,
        1.1 + rows_height(table.index, 0.22),
        f"{title}: {count(len(costs), 'job')} of {count(len(table), 'rule')}, {_time(table['seconds'].sum())} in all",
        "Time: sum over the jobs of a rule (jobs may run side by side). Memory: the largest job.",
    )
    time, memory = figure.subplots(1, 2, sharey=True)
    rows = range(len(table))
    time.barh(rows, table["seconds"] / size, height=0.62, color="#0072b2")
    memory.barh(rows, table["memory_mib"] / 1024, height=0.62, color="#d55e00")
    for row, (seconds, peak, jobs) in enumerate(table.itertuples(index=False)):
        beside_row(time, row, f"{_time(seconds)}, {count(jobs, 'job')}")
        beside_row(memory, row, "unknown" if pd.isna(peak) else _memory(peak))
    label_rows(time, list(table.index))
    memory.tick_params(axis="y", length=0)
    time.set_xlabel(f"time ({unit})")
    memory.set_xlabel("peak memory (GiB)")
    for axes in (time, memory):
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlim(left=0)
    return figure


_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _memory(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
