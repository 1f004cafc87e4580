"""Scores against the number of perturbations that methods learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from scgpt_bench.data.conditions import ALL_CONTEXTS
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.figures.style import (
    INK,
    WIDTH,
    count,
    hover,
    keep,
    method_style,
    metric_label,
    new_figure,
    require,
    say,
    styled,
)


@styled
def learning_curves(
    curves: pd.DataFrame,
    crossings: pd.DataFrame,
    metric: str,
    kinds: Mapping[str, str] | None = None,
    pooled: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Draw the curve of every method by one metric, over all contexts; a panel for each split or pooled splits.

    Parameters
    ----------
    curves, crossings
        The rows of ``learning_curves.tsv`` and ``crossings.tsv`` of one data set.
    metric
        Identifier of the metric to draw.
    kinds
        The kind of each method by its name, where it is another.
    pooled
        The splits that are pooled, by the name under which they are: they are left out.
    """
    kinds = kinds or {}
    require(curves, ["dataset", "split", "context", "method", "metric", "n_learned", "mean"], "learning curves")
    shown = curves[(curves["metric"] == metric) & (curves["context"] == ALL_CONTEXTS)]
    splits = [*dict.fromkeys(shown["split"])]
    of_pooled = {split for name, members in (pooled or {}).items() if name in splits for split in members}
    splits = [split for split in splits if split not in of_pooled]
    figure = new_figure(
        WIDTH,
        1.6 + 3.2 * len(splits),
        f"{shown['dataset'].iloc[0]}: {metric} by number of perturbations to learn from",
        "Mean over test conditions; bars: 95 % interval. Vertical line: the number from which on a method is above the "
        "best simple method.",
    )
    panels = figure.subplots(len(splits), 1, squeeze=False)[:, 0]
    handles, found = {}, []
    for axes, split in zip(panels, splits, strict=True):
        part = shown[shown["split"] == split]
        numbers = sorted(part["n_learned"].unique())
        for place, (method, curve) in enumerate(part.groupby("method", sort=False)):
            curve = curve.sort_values("n_learned")
            style = method_style(method, kinds.get(method, method), kinds)
            # Beside each other, where bars would hide each other.
            x = curve["n_learned"] * np.exp(0.012 * (place - part["method"].nunique() / 2))
            ends = np.abs(curve[["ci_low", "ci_high"]].to_numpy(float).T - curve["mean"].to_numpy(float))
            handles[method] = drawn = axes.errorbar(
                x,
                curve["mean"],
                yerr=ends,
                color=style.colour,
                marker=style.marker,
                fillstyle=style.fill,
                markerfacecoloralt="white",
                linestyle=style.line,
                markersize=4,
                linewidth=1.1,
                elinewidth=0.7,
                label=method,
            )
            # One scored point is drawn like any other; what has no score is no point.
            scored = curve.dropna(subset=["mean"])
            points = [f"{method}, {row.n_learned:g}: {row.mean:.3f}" for row in scored.itertuples()]
            hover(drawn[0], points or method)
            at = _crossing(crossings, split, method, metric)
            if np.isfinite(at):
                axes.axvline(at, color=style.colour, linewidth=0.8, linestyle=":")
                found.append(f"{split}: {method} is above the best simple method from {at:.0f} on.")
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("perturbations to learn from (training and validation)")
        axes.set_ylabel(metric_label(metric))
        if len(splits) > 1:
            axes.set_title("all folds" if split == ALL_SPLITS else split, loc="left", color=INK)
        axes.grid(axis="y")
    keep(figure, shown)
    figure.legend(handles=[*handles.values()], loc="outside right upper")
    say(figure, " ".join(found) or f"No method overtakes the best simple one ({count(len(handles), 'method')}).")
    return figure


def _crossing(crossings: pd.DataFrame, split: str, method: str, metric: str) -> float:
    own = crossings[
        (crossings["split"] == split)
        & (crossings["method"] == method)
        & (crossings["metric"] == metric)
        & (crossings["context"] == ALL_CONTEXTS)
    ]
    return float(own["n_learned"].iloc[0]) if len(own) else np.nan
