"""Which metric can be gamed: what cheap transformations of a prediction do to its scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scgpt_bench.evaluation.metric_robustness import UNTOUCHED
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.figures.style import (
    SMALL,
    WIDTH,
    count,
    hover_cells,
    keep,
    literal,
    new_figure,
    require,
    say,
    styled,
    text_length,
)

ROW = 0.15  # inches
_NAMES = SMALL - 1  # points
GAMED = 0.01  # share of the gap to a perfect score from which a metric counts as gamed


@styled
def robustness_heatmap(panel: pd.DataFrame, title: str) -> Figure:
    """Metrics by transformations: the share of the way to a perfect score that a transformation wins or loses.

    Parameters
    ----------
    panel
        The table of :func:`scgpt_bench.evaluation.metric_robustness.metric_robustness`.
    title
        Whose prediction of what.
    """
    require(panel, ["transformation", "metric", "share_of_gap"], "metric robustness")
    panel = panel[panel["transformation"] != UNTOUCHED]
    metrics, transformations = list(panel["metric"].unique()), list(panel["transformation"].unique())
    shares = panel.pivot_table(index="metric", columns="transformation", values="share_of_gap", dropna=False)
    shares = 100 * shares.reindex(index=metrics, columns=transformations).to_numpy(dtype=float)
    left, right, above, below = text_length(map(literal, metrics), _NAMES) + 0.15, 1.1, 1.05, 0.65
    map_height = ROW * len(metrics)
    height = above + map_height + below
    figure = new_figure(
        WIDTH,
        height,
        title,
        "Change of each metric under a transformation that adds no knowledge, in % of what separates the untouched "
        "prediction from the score of the truth itself (beyond 100 %: the colour of 100 %). Red, with the number: the "
        "metric rewards it, so it can be gamed on these data; errors are turned round. Grey: no gap to judge by.",
        constrained=False,
    )
    width = WIDTH - left - right
    axes = figure.add_axes((left / WIDTH, below / height, width / WIDTH, map_height / height))
    axes.set_facecolor("#d9d9d9")
    image = axes.pcolormesh(np.ma.masked_invalid(shares), cmap="RdBu_r", vmin=-100, vmax=100, rasterized=True)
    for row, column in np.argwhere(np.nan_to_num(shares) >= 100 * GAMED):
        colour = "white" if shares[row, column] > 60 else "black"
        text = f"+{min(shares[row, column], 999):.0f}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=_NAMES - 0.5, color=colour)
    texts = [["no gap" if np.isnan(share) else f"{share:+.1f} % of the gap" for share in row] for row in shares]
    hover_cells(axes, metrics, transformations, texts)
    axes.set_yticks(np.arange(len(metrics)) + 0.5, [literal(metric) for metric in metrics], fontsize=_NAMES)
    axes.set_xticks(np.arange(len(transformations)) + 0.5, [literal(name) for name in transformations], rotation=45)
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in axes.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    beside = figure.add_axes(((WIDTH - 0.85) / WIDTH, below / height, 0.12 / WIDTH, min(map_height, 3) / height))
    bar = figure.colorbar(image, cax=beside, extend="both")
    bar.set_label("change towards a perfect score (%)", fontsize=SMALL)
    bar.outline.set_visible(False)
    deciding = [metric for metric in metrics if metric_of(metric).judges]
    found = []
    if deciding:
        gains = [f"{metric} {_largest_gain(panel[panel['metric'] == metric])}" for metric in deciding]
        found.append(f"Of the metrics that decide: {', '.join(gains)}.")
    gamed = panel[panel["share_of_gap"] >= GAMED].sort_values("share_of_gap", ascending=False, kind="stable")
    many = f"{gamed['metric'].nunique()} of {count(len(metrics), 'metric')} gain 1 % of the gap or more from a trick"
    if len(gamed):
        worst = gamed.iloc[0]
        many += f"; most: {worst['metric']} from {worst['transformation']} ({100 * worst['share_of_gap']:.0f} %)"
    say(figure, " ".join([*found, f"{many}."]))
    keep(figure, panel)
    return figure


def _largest_gain(of_metric: pd.DataFrame) -> str:
    """Write what a metric gains at most, as a share of the gap, and from what."""
    known = of_metric.dropna(subset=["share_of_gap"])
    if known.empty:
        return "has no gap to judge by"
    most = known.loc[known["share_of_gap"].idxmax()]
    if most["share_of_gap"] < GAMED:
        return "gains less than 1 %"
    return f"gains {100 * most['share_of_gap']:.0f} % from {most['transformation']}"
