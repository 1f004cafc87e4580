"""How a drop differs from the last one: cells gained, scores moved, verdicts changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition, noun_of
from scgpt_bench.figures.style import (
    FAINT,
    INK,
    WIDTH,
    beside_row,
    hover,
    keep,
    label_rows,
    legend_above,
    method_style,
    metric_label,
    new_figure,
    require,
    rows_height,
    say,
    styled,
)


@styled
def drop_comparison(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    table: pd.DataFrame,
    metric: str,
    split: str,
    kinds: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the cells of every condition and one score of every method over all contexts, before and now.

    Parameters
    ----------
    before, now
        The two cards.
    table
        Of :func:`scgpt_bench.evaluation.drops.compare_scores`.
    metric, split
        Which score is shown.
    kinds
        The kind of each method by its name, where it is another.
    """
    kinds = kinds or {}
    require(
        table, ["split", "context", "method", "metric", "mean_before", "mean", "verdict_changed"], "drop comparison"
    )
    shown = table[(table["metric"] == metric) & (table["split"] == split) & (table["context"] == ALL_CONTEXTS)]
    shown = shown.reset_index(drop=True)
    noun = noun_of(pd.DataFrame([*before["conditions"], *now["conditions"]]))
    figure = new_figure(
        WIDTH,
        1.9 + rows_height(shown["method"]),
        f"{now['dataset']} against {before['dataset']}: {now['n_cells'] - before['n_cells']:+,} cells",
        f"Left: cells of each {noun}; on the axes, {noun}s that only one version has. Right: {split}, open: "
        "before, filled: now; in words, a verdict that changed. Each version is scored on its own test perturbations: "
        "the change on those that both test is in the table.",
    )
    cells, scores = figure.subplots(1, 2, gridspec_kw={"width_ratios": [2, 3]})
    counts = [
        {Condition(row["perturbation"], row["context"]): row["n_cells"] for row in card["conditions"]}
        for card in (before, now)
    ]
    names = sorted(counts[0].keys() | counts[1].keys())
    x, y = (np.array([count.get(name, 0) for name in names], dtype=float) for count in counts)
    cells.plot([0, max(x.max(), y.max())], [0, max(x.max(), y.max())], color=FAINT, linewidth=0.8)
    points = cells.scatter(x, y, s=10, color="#0072b2")
    if len(names) > 1:
        hover(points, [f"{n.label}: {a:.0f} cells before, {b:.0f} now" for n, a, b in zip(names, x, y, strict=True)])
    cells.set_xlabel(f"cells in {before['dataset']}")
    cells.set_ylabel(f"cells in {now['dataset']}")
    rows = np.arange(len(shown))
    colours = [method_style(method, kinds.get(method), kinds).colour for method in shown["method"]]
    scores.hlines(rows, shown["mean_before"], shown["mean"], color=colours, linewidth=1)
    scores.scatter(shown["mean_before"], rows, s=22, facecolors="white", edgecolors=colours, zorder=3)
    scores.scatter(shown["mean"], rows, s=22, color=colours, zorder=3)
    for row in np.flatnonzero(shown["verdict_changed"] == "yes"):
        beside_row(scores, row, f"{shown['verdict_before'][row]} → {shown['verdict'][row]}")
    label_rows(scores, list(shown["method"]))
    scores.set_xlabel(metric_label(metric))
    scores.grid(axis="x")
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=4.5, color=INK, markerfacecolor=face, label=label)
        for label, face in (("before", "white"), ("now", INK))
    ]
    legend_above(scores, 2, handles)
    changed = int((shown["verdict_changed"] == "yes").sum())
    keep(figure, shown)
    say(
        figure,
        f"{now['n_cells'] - before['n_cells']:+,} cells, {len(names)} {noun}s in one of the versions or both; "
        f"{changed} of {len(shown)} methods have another verdict.",
    )
    return figure
