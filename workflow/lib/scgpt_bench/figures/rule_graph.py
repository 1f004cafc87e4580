"""The rules of a run and what each needs, as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from scgpt_bench.figures.numbers import readable_memory, readable_time
from scgpt_bench.figures.style import (
    INK,
    SMALL,
    WIDTH,
    count,
    elided,
    hover,
    keep,
    listed,
    literal,
    new_figure,
    require,
    say,
    styled,
    text_length,
)

# Files of rules, in the order of the chain; what is below another in a column follows it. Others are in the last.
COLUMNS = (
    ("fetch", "preprocess"),
    ("train", "predict"),
    ("evaluate", "official_scorers", "trust", "unmeasured"),
    ("figures", "report"),
)
_COLOURS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7")  # of the arrows from each column
_ROW, _GUTTER = 0.17, 0.32  # inches: a rule, and the space between columns
_NAMES = SMALL - 1.2  # points


@styled
def rule_graph(rules: Mapping[str, Mapping[str, Any]], costs: pd.DataFrame, title: str) -> Figure:
    """Draw the rules of a run in the order of its stages, with an arrow from each rule to those that need its files.

    Parameters
    ----------
    rules
        By name, the ``stage`` of a rule (the name of its file), what it ``needs`` (names of rules), its ``script`` and
        its ``environment``.
    costs
        :func:`scgpt_bench.figures.cost.cost_table`.
    title
        Of which run.
    """
    require(costs, ["rule", "jobs", "hours", "memory_gib"], "costs", or_empty=True)
    of_rule = costs.groupby("rule").agg(
        jobs=("jobs", "sum"), hours=("hours", "sum"), memory_gib=("memory_gib", "max"), gpu_hours=("gpu_hours", "sum")
    )
    needs = {name: [one for one in rule["needs"] if one in rules and one != name] for name, rule in rules.items()}
    before = {name: _before(name, needs) for name in rules}
    columns = [_in_stages(rules, before, stages) for stages in _stages(rules)]
    n_rows = max(len(column) for column in columns)
    height = 0.75 + _ROW * n_rows
    figure = new_figure(
        WIDTH,
        height,
        f"{title}: {count(len(rules), 'rule')}",
        "An arrow leads from a rule to one that needs its files; what follows from other arrows is left out. Right: "
        "time over all jobs; the longer, the stronger the colour.",
        constrained=False,
    )
    axes = figure.add_axes((0, 0.42 / height, 1, _ROW * n_rows / height))
    axes.set(xlim=(0, WIDTH), ylim=(n_rows, 0))
    axes.set_axis_off()
    pitch = (WIDTH - 0.1) / len(COLUMNS)
    left_of = {name: 0.1 + pitch * at for at, column in enumerate(columns) for name, heading in column if not heading}
    row_of = {name: row for column in columns for row, (name, heading) in enumerate(column) if not heading}
    width = pitch - _GUTTER
    for name in rules:
        for one in _direct(name, needs, before):
            _arrow(axes, left_of[one], row_of[one], left_of[name], row_of[name], width, pitch)
    shares = np.sqrt(of_rule["hours"] / max(of_rule["hours"].sum(), 1e-12))
    for at, column in enumerate(columns):
        for row, (name, heading) in enumerate(column):
            if heading:
                text = {"fontsize": _NAMES + 0.5, "fontweight": "bold", "va": "center"}
                axes.text(0.1 + pitch * at, row + 0.55, literal(name.replace("_", " ")), **text)
                continue
            known = name in of_rule.index
            words = _in_words(name, rules[name], of_rule.loc[name] if known else None, needs)
            paper = mpl.colormaps["Blues"](0.55 * shares[name]) if known else "white"
            box = Rectangle((left_of[name], row + 0.1), width, 0.8, facecolor=paper, edgecolor="#777777", linewidth=0.5)
            hover(axes.add_patch(box), words)
            place = {"va": "center", "fontsize": _NAMES}
            hover(axes.text(left_of[name] + 0.04, row + 0.5, _fitted(name, width - 0.5), **place), words)
            if known:
                time = readable_time(of_rule.loc[name, "hours"])
                hover(axes.text(left_of[name] + width - 0.04, row + 0.5, time, ha="right", color=INK, **place), words)
    longest = of_rule["hours"].sort_values(ascending=False, kind="stable").head(3)
    found = [f"{name} {readable_time(hours)}" for name, hours in longest.items()]
    stages = {rule["stage"] for rule in rules.values()}
    say(figure, f"{count(len(rules), 'rule')} in {count(len(stages), 'stage')}. Longest: {listed(found)}.")
    table = pd.DataFrame(
        [
            (name, rule["stage"], rule["script"], rule["environment"], ", ".join(rule["needs"]))
            for name, rule in rules.items()
        ],
        columns=["rule", "stage", "script", "environment", "needs"],
    )
    keep(figure, table.merge(of_rule.reset_index(), how="left", on="rule"))
    return figure


def _fitted(name: str, inches: float) -> str:
    """``name`` with as much of its middle left out as it takes to fit."""
    sizes = range(len(name), 6, -1)
    return literal(next((t for n in sizes if text_length([t := elided(name, n)], _NAMES) <= inches), elided(name, 6)))


def _stages(rules: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Give the stages of each column."""
    others = {rule["stage"] for rule in rules.values()} - {stage for column in COLUMNS for stage in column}
    return [*COLUMNS[:-1], (*COLUMNS[-1], *sorted(others))]


def _in_stages(
    rules: Mapping[str, Mapping[str, Any]], before: Mapping[str, set[str]], stages: Sequence[str]
) -> list[tuple[str, bool]]:
    """List a column from above, names with whether they are headings; a rule is below those that it needs."""
    column: list[tuple[str, bool]] = []
    for stage in stages:
        members = [name for name, rule in rules.items() if rule["stage"] == stage]
        if members:
            in_order = sorted(members, key=lambda name: (len(before[name]), name))
            column += [(stage, True), *((name, False) for name in in_order)]
    return column


def _before(name: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    """Return all rules that must run before a rule."""
    found: set[str] = set()
    left = [name]
    while left:
        new = [one for one in needs[left.pop()] if one not in found]
        found.update(new)
        left += new
    return found


def _direct(name: str, needs: Mapping[str, Sequence[str]], before: Mapping[str, set[str]]) -> list[str]:
    """Leave out what a rule needs through another rule that it needs (a search trains, chooses and trains again)."""
    return [
        one
        for one in needs[name]
        if not any(one in before[other] and other not in before[one] for other in needs[name] if other != one)
    ]


def _arrow(axes: Any, x: float, row: int, to_x: float, to_row: int, width: float, pitch: float) -> None:
    colour = _COLOURS[min(int((x - 0.05) / pitch), len(_COLOURS) - 1)]
    if to_x > x:
        start, end = x + width, to_x
        bends = (start + 0.5 * _GUTTER + 0.1, end - 0.5 * _GUTTER - 0.1)
    elif to_x == x:
        start = end = x + width
        bends = (start + 0.6 * _GUTTER,) * 2
    else:
        start, end = x, to_x + width
        bends = (start - _GUTTER, end + _GUTTER)
    heights = (row + 0.5, row + 0.5, to_row + 0.5, to_row + 0.5)
    points = [*zip((start, *bends, end), heights, strict=True)]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, linewidth=0.6, alpha=0.7, zorder=0.5))
    axes.plot([end], [to_row + 0.5], ".", markersize=2.5, markeredgewidth=0, color=colour, zorder=3, clip_on=False)


def _in_words(name: str, rule: Mapping[str, Any], cost: pd.Series | None, needs: Mapping[str, Sequence[str]]) -> str:
    words = [name]
    if cost is not None:
        words.append(f"{count(int(cost['jobs']), 'job')}, {readable_time(cost['hours'])}")
        if np.isfinite(cost["memory_gib"]):
            words.append(f"largest job {readable_memory(cost['memory_gib'])}")
    if rule["environment"]:
        words.append(f"environment {rule['environment']}")
    words.append(f"needs {listed(needs[name]) or 'no other rule'}")
    needed_by = [other for other, its in needs.items() if name in its]
    if needed_by:
        words.append(f"needed by {listed(needed_by)}")
    return "; ".join(words)
