"""What the responses look like: predicted against true delta, and which conditions share a response."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from scgpt_bench.data.conditions import labels_of, noun_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import DEFINED
from scgpt_bench.figures.style import (
    FAINT,
    INK,
    SMALL,
    WIDTH,
    count,
    elided,
    lines_within,
    listed,
    literal,
    names_that_fit,
    new_figure,
    require,
    say,
    styled,
    text_length,
)

_UNIT = "log1p expression"
_NAMES = SMALL - 1  # points
_ALL_LEAVES_ORDERED = 500  # optimal leaf ordering is cubic in their number


def changes(pseudobulk: anndata.AnnData, truth: anndata.AnnData, halved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and measured changes, each from control cells of its own, as ``effect_pearson`` scores them.

    Parameters
    ----------
    pseudobulk, truth
        ``pseudobulk.h5ad`` of a method; the test conditions (:func:`scgpt_bench.evaluation.pseudobulk.truth`).
    halved
        Whether the method predicts one half of the cells, and is scored against the other.

    Returns
    -------
    Two float64 matrices [conditions x genes], in the order of ``truth``.
    """
    predicted, layers = pseudobulk[truth.obs_names].X, truth.layers
    if halved:
        return predicted - layers["reference_truth_a"], layers["half_b"] - layers["reference_truth_b"]
    return predicted - layers["reference_input"], truth.X - layers["reference_truth"]


def left_over(metrics: pd.DataFrame, truth: anndata.AnnData) -> float:
    """Divide a method's mean squared error (``metrics.tsv``) by that of predicting no change."""
    no_change = np.square(truth.X - truth.layers["reference_input"]).mean()
    return float(metrics.loc[metrics["metric"] == "mse", "value"].mean() / max(no_change, 1e-12))


@styled
def predicted_against_true(
    predicted: np.ndarray,
    true: np.ndarray,
    conditions: Sequence[str],
    genes: Sequence[str],
    title: str,
    scores: pd.DataFrame,
    n_cells: Sequence[int] | None = None,
    colour: str = "#0072b2",
    n_named: int = 6,
) -> Figure:
    """Draw predicted against true delta, one panel a condition, the genes that respond most by name.

    Parameters
    ----------
    predicted, true
        [conditions, genes] deltas, in log1p expression.
    conditions, genes
        Names of the rows (labels) and of the columns.
    title
        Whose prediction of what.
    scores
        Its rows of ``metrics.tsv`` for ``effect_pearson`` (``perturbation``, ``context``, ``value``, ``reason``), so
        that figure and tables say the same.
    n_cells
        [conditions] measured cells behind each true delta.
    colour
        Of the dots: that of the method (``method_style``).
    n_named
        Genes to name in each panel, by absolute true delta; a name without room is left out.
    """
    predicted, true = _matrix(predicted, conditions, genes), _matrix(true, conditions, genes)
    columns = min(3, len(conditions))
    lines = -(-len(conditions) // columns)
    side, left, bottom, gap = 1.7, 0.78, 0.78, 0.53
    names = [lines_within(elided(name, 80), side + gap - 0.15, SMALL) for name in conditions]
    correlations, noun = _correlation_texts(scores, conditions), noun_of(scores)
    head = max(name.count("\n") for name in names) * 0.13 + 0.3
    width, height = WIDTH, 0.3 + bottom + lines * (side + head) + (lines - 1) * 0.28
    figure = new_figure(
        width,
        height,
        f"{title}: {count(len(conditions), noun)}, {count(len(genes), 'gene')}",
        f"One dot a gene; diagonal: a perfect prediction; horizontal line: no predicted response. "
        f"Named: the {n_named} genes with the largest true delta, as far as there is room. r: effect_pearson, as in "
        "the tables, without the target; undefined, it is set to 0.",
        constrained=False,
    )
    for panel, name in enumerate(names):
        line, column = divmod(panel, columns)
        top = height - 0.3 - head - line * (side + head + 0.28)
        axes = figure.add_axes(
            ((left + column * (side + gap)) / width, (top - side) / height, side / width, side / height)
        )
        cells = "" if n_cells is None else f", n = {count(int(np.asarray(n_cells)[panel]), 'cell')}"
        axes.set_title(f"{name}\n{correlations[panel]}{cells}", fontsize=SMALL)
        _scatter(axes, predicted[panel], true[panel], colour)
        _name_genes(axes, predicted[panel], true[panel], genes, n_named)
        if column == 0:
            axes.set_ylabel(f"predicted delta\n({_UNIT})", va="center")
            axes.yaxis.set_label_coords((0.2 - left) / side, 0.5)
        if panel + columns >= len(conditions):
            axes.set_xlabel(f"true delta ({_UNIT})")
    found = [f"{name} {text}" for name, text in zip(conditions, correlations, strict=True)]
    say(figure, f"effect_pearson: {listed(found, 12)}.")
    return figure


def _scatter(axes: Axes, predicted: np.ndarray, true: np.ndarray, colour: str) -> None:
    limit = 1.18 * max(np.abs(predicted).max(), np.abs(true).max(), 1e-6)
    axes.axline((0, 0), slope=1, color=INK, linewidth=0.6, linestyle=":")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    # Thousands of dots would make the file heavy: they are drawn as one image, text and axes stay vectors.
    axes.plot(true, predicted, ".", color=colour, markersize=3, markeredgewidth=0, alpha=0.6, rasterized=True)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.locator_params(nbins=5)


def _name_genes(axes: Axes, predicted: np.ndarray, true: np.ndarray, genes: Sequence[str], n_named: int) -> None:
    """Write the names of the strongest genes where they hide neither each other nor a named dot."""
    chosen = np.argsort(-np.abs(true), kind="stable")[:n_named]
    to_pixels, to_data = axes.transData.transform, axes.transData.inverted().transform
    points = to_pixels(np.column_stack([true[chosen], predicted[chosen]]))
    pixel = axes.figure.dpi / 72
    font = FontProperties(family=["DejaVu Sans"], size=_NAMES)
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    frame = np.array([axes.bbox.min, axes.bbox.max])
    taken = [np.array([point - 2 * pixel, point + 2 * pixel]) for point in points]
    along = np.linspace(*axes.get_xlim(), 100)
    drawn = to_pixels(np.vstack([np.column_stack([true, predicted]), np.column_stack([along, along])]))
    leaders = []
    for gene, point in zip(chosen, points, strict=True):
        text = elided(genes[gene], 16)
        size = np.array(renderer.get_text_width_height_descent(text, font, ismath=False)[:2]) + pixel
        place = _free_place(frame, taken, drawn, point, point - to_pixels((0.0, 0.0)), size, pixel)
        if place is None:
            continue
        taken.append(place)
        axes.text(*to_data(place.mean(axis=0)), literal(text), ha="center", va="center", fontsize=_NAMES)
        way, outside = place.mean(axis=0) - point, point - np.clip(point, *place)
        border = np.divide(-outside, way, out=np.zeros(2), where=outside != 0).max()  # share of the way to the box
        if border * np.hypot(*way) > 4 * pixel:  # a name right beside its dot needs no line
            leaders.append(to_data([point, point + border * way]))
    axes.add_collection(LineCollection(leaders, colors=INK, linewidths=0.4), autolim=False)


def _free_place(
    frame: np.ndarray,
    taken: Sequence[np.ndarray],
    drawn: np.ndarray,
    point: np.ndarray,
    outwards: np.ndarray,
    size: np.ndarray,
    pixel: float,
) -> np.ndarray | None:
    """Find the box of ``size`` near ``point`` that touches no ``taken`` box and hides few ``drawn`` points.

    A box is [lower left and upper right corner, x and y]. Four points of distance weigh as much as one hidden dot; ties
    go to the nearest box, and of those to the one that lies outwards. ``None`` where ``frame`` has no room.
    """
    distance, turn = np.meshgrid(np.array([3, 8, 14, 21, 29, 38]) * pixel, [0, 1, -1, 2, -2, 3, -3, 4], indexing="ij")
    distance, angle = distance.ravel(), np.arctan2(outwards[1], outwards[0]) + turn.ravel() * np.pi / 4
    centre = point + np.column_stack([np.cos(angle), np.sin(angle)]) * (distance[:, None] + size / 2)
    low, high = centre - size / 2, centre + size / 2
    free = ((frame[0] < low) & (high < frame[1])).all(axis=1)
    for box in taken:
        free &= ~((low <= box[1]) & (box[0] <= high)).all(axis=1)
    if not free.any():
        return None
    near = drawn[((drawn > low.min(axis=0)) & (drawn < high.max(axis=0))).all(axis=1)]
    hidden = ((near > low[:, None]) & (near < high[:, None])).all(axis=2).sum(axis=1)
    best = np.argmin(np.where(free, hidden + distance / (4 * pixel), np.inf))
    return np.array([low[best], high[best]])


def _correlation_texts(scores: pd.DataFrame, conditions: Sequence[str]) -> list[str]:
    require(scores, ["perturbation", "context", "value", "reason"], "metrics")
    rows = scores.set_index(labels_of(scores)).loc[list(conditions)]
    return [
        f"r = {row.value:.2f}".replace("-", "−") if row.reason in DEFINED else "r undefined, set to 0"
        for row in rows.fillna({"reason": ""}).itertuples()
    ]


@styled
def delta_heatmap(
    delta: np.ndarray,
    conditions: Sequence[str],
    genes: Sequence[str],
    title: str,
    n_genes: int = 25,
    noun: str = "perturbation",
) -> Figure:
    """Draw which conditions share a response: clustered deltas, and the correlation of each with each.

    Rows are ordered by hierarchical clustering (average linkage of 1 - Pearson correlation over all genes), the same
    on both sides; a response without variance correlates 0 with every other.

    Parameters
    ----------
    delta
        [conditions, genes] responses in log1p expression, usually the true ones.
    conditions, genes
        Names of the rows (labels) and of the columns.
    title
        Whose responses.
    n_genes
        Columns to show: the genes with the largest absolute delta in any condition.
    noun
        What a row is called.
    """
    delta = _matrix(delta, conditions, genes)
    shown = np.sort(np.argsort(-np.abs(delta).max(axis=0), kind="stable")[:n_genes])
    correlation = _correlation(delta)
    tree = _tree(correlation)
    rows = np.arange(len(delta)) if tree is None else hierarchy.leaves_list(tree)
    gene_tree = _tree(_correlation(delta[:, shown].T))
    columns = shown if gene_tree is None else shown[hierarchy.leaves_list(gene_tree)]

    names = [conditions[row] for row in rows]
    gene_names = [genes[column] for column in columns]
    height = float(np.clip(0.15 * len(rows), 0.9, 6.5))
    row_labels = _labels(names, np.linalg.norm(delta, axis=1)[rows], height)
    width = (WIDTH - 0.75 - text_length(row_labels[1], _NAMES)) * 5 / 11
    column_labels = _labels(gene_names, np.abs(delta).max(axis=0)[columns], width)
    mirrored_labels = _labels(names, np.linalg.norm(delta, axis=1)[rows], width)

    every_name = min(len(row_labels[1]), len(mirrored_labels[1])) == len(rows) and len(column_labels[1]) == len(columns)
    thinned = "" if every_name else " Where not every name has room, the strongest responses are named."
    figure = new_figure(
        WIDTH,
        height + 1.75 + text_length([*column_labels[1], *mirrored_labels[1]], _NAMES),
        f"{title}: {count(len(rows), noun)}, {count(len(genes), 'gene')}",
        f"Left: the {len(columns)} genes with the largest delta in any {noun}. Right: Pearson correlation of "
        f"deltas over all {len(genes):,} genes, columns in the order of the rows; tree: average linkage of "
        f"1 − correlation.{thinned}",
    )
    left, right, branches = figure.subplots(1, 3, width_ratios=[5, 5, 1])
    limit = max(float(np.quantile(np.abs(delta[:, columns]), 0.99)), 1e-6)
    _map(left, delta[np.ix_(rows, columns)], limit, f"delta ({_UNIT})", "both")
    _map(right, correlation[np.ix_(rows, rows)], 1.0, "correlation of deltas", "neither")
    left.set_yticks(*row_labels, fontsize=_NAMES, rotation=0)
    left.set_xticks(*column_labels, fontsize=_NAMES, rotation=90)
    right.set_xticks(*mirrored_labels, fontsize=_NAMES, rotation=90)
    right.set_yticks([])
    _draw_tree(branches, tree, len(rows))
    sizes = np.linalg.norm(delta, axis=1)
    found = f"Largest response: {conditions[sizes.argmax()]}; smallest: {conditions[sizes.argmin()]}."
    if len(rows) > 1:
        pairs = np.triu(correlation, 1)
        one, other = np.unravel_index(pairs.argmax(), pairs.shape)
        found += f" Most alike: {conditions[one]} and {conditions[other]}, r = {pairs.max():.2f}."
    say(figure, found)
    return figure


@styled
def residual_heatmap(
    predicted: np.ndarray,
    true: np.ndarray,
    conditions: Sequence[str],
    genes: Sequence[str],
    title: str,
    left_over: float,
    n_genes: int = 25,
    noun: str = "perturbation",
) -> Figure:
    """Draw what was measured, what was predicted, and what is left: three maps with the same rows, columns and colours.

    Rows are clustered by the measured responses, as in :func:`delta_heatmap`, so that the order says nothing of the
    method.

    Parameters
    ----------
    predicted, true
        [conditions, genes] deltas, in log1p expression.
    conditions, genes
        Names of the rows (labels) and of the columns.
    title
        Whose prediction of what.
    left_over
        Its mean squared error over all genes as a share of that of predicting no change, from ``mse`` as in the tables.
    n_genes
        Columns to show: the genes with the largest absolute true delta in any condition.
    noun
        What a row is called.
    """
    predicted, true = _matrix(predicted, conditions, genes), _matrix(true, conditions, genes)
    shown = np.argsort(-np.abs(true).max(axis=0), kind="stable")[:n_genes]
    gene_tree, tree = _tree(_correlation(true[:, np.sort(shown)].T)), _tree(_correlation(true))
    columns = np.sort(shown) if gene_tree is None else np.sort(shown)[hierarchy.leaves_list(gene_tree)]
    rows = np.arange(len(true)) if tree is None else hierarchy.leaves_list(tree)
    height = float(np.clip(0.15 * len(rows), 0.9, 6.5))
    row_labels = _labels([conditions[row] for row in rows], np.linalg.norm(true, axis=1)[rows], height)
    width = (WIDTH - 0.6 - text_length(row_labels[1], _NAMES)) / 3
    column_labels = _labels([genes[column] for column in columns], np.abs(true).max(axis=0)[columns], width)
    every_name = len(row_labels[1]) == len(rows) and len(column_labels[1]) == len(columns)
    thinned = "" if every_name else " Where not every name has room, the strongest responses are named."
    figure = new_figure(
        WIDTH,
        height + 1.75 + text_length(column_labels[1], _NAMES),
        f"{title}: {count(len(rows), noun)}, {count(len(columns), 'gene')} of {len(genes):,}",
        f"The {len(columns)} genes with the largest measured delta in any {noun}. Residual: measured minus "
        f"predicted. One scale of colours; rows and columns are clustered by what was measured.{thinned}",
    )
    limit = max(float(np.quantile(np.abs(true[:, columns]), 0.99)), 1e-6)
    maps = {"measured": true, "predicted": predicted, "residual": true - predicted}
    for axes, (words, values) in zip(figure.subplots(1, 3), maps.items(), strict=True):
        _map(axes, values[np.ix_(rows, columns)], limit, f"{words} delta ({_UNIT})", "both")
        axes.set_xticks(*column_labels, fontsize=_NAMES, rotation=90)
        axes.set_yticks([])
    figure.axes[0].set_yticks(*row_labels, fontsize=_NAMES, rotation=0)
    say(
        figure,
        f"Over all genes, the squared error is {100 * left_over:.0f} % of that of predicting no change"
        + (" (more than 100 %: worse)." if left_over > 1.005 else "."),
    )
    return figure


def _map(axes: Axes, matrix: np.ndarray, limit: float, label: str, extend: str) -> None:
    # The names of rows and columns are the caller's; seaborn's own would be laid out twice before they go.
    unnamed = {"cbar": False, "xticklabels": False, "yticklabels": False}
    sns.heatmap(matrix, ax=axes, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True, **unnamed)
    bar = axes.figure.colorbar(axes.collections[0], ax=axes, location="top", extend=extend, shrink=0.7, pad=0.02)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.locator_params(nbins=5)
    bar.outline.set_visible(False)


def _labels(names: Sequence[str], strength: np.ndarray, inches: float) -> tuple[np.ndarray, list[str]]:
    """Ticks and labels for cells along ``inches``: all, else the strongest that do not touch each other."""
    room = 72 * inches
    labels = names_that_fit(names, room / len(names), _NAMES)
    if labels is not None:
        return np.arange(len(names)) + 0.5, labels
    apart = 1.25 * _NAMES * len(names) / room
    ticks: list[int] = []
    for tick in np.argsort(-strength, kind="stable"):
        if all(abs(tick - other) >= apart for other in ticks):
            ticks.append(tick)
    return np.sort(ticks) + 0.5, [literal(elided(names[tick])) for tick in np.sort(ticks)]


def _draw_tree(axes: Axes, tree: np.ndarray | None, n: int) -> None:
    axes.set_axis_off()
    axes.set_ylim(10 * n, 0)
    if tree is None:
        return
    drawn = hierarchy.dendrogram(tree, no_plot=True)
    for leaf, height in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        axes.plot(height, leaf, color=INK, linewidth=0.5)
    axes.set_xlim(left=0)


def _correlation(rows: np.ndarray) -> np.ndarray:
    """[n, n] Pearson correlations of rows, 0 where one has no variance, 1 on the diagonal."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    correlation = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _tree(correlation: np.ndarray) -> np.ndarray | None:
    """Average linkage of 1 - correlation; ``None`` for a single row."""
    n = len(correlation)
    if n < 2:
        return None
    distance = squareform(1 - correlation, checks=False)
    return hierarchy.linkage(distance, "average", optimal_ordering=n <= _ALL_LEAVES_ORDERED)


def _matrix(values: np.ndarray, conditions: Sequence[str], genes: Sequence[str]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    expected = (len(conditions), len(genes))
    if values.shape != expected or 0 in expected:
        raise InputError("deltas", "shape", str(values.shape), f"{expected}, conditions x genes, neither empty")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError("deltas", f"{conditions[row]}, {genes[column]}", str(values[row, column]), "finite values")
    return values
