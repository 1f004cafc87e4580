"""What the responses look like: predicted and measured changes, and which conditions share a response."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from scgpt_bench.errors import InputError
from scgpt_bench.figures.style import (
    INK,
    SMALL,
    WIDTH,
    count,
    elided,
    hover_cells,
    keep,
    literal,
    names_that_fit,
    new_figure,
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


def clustered(delta: np.ndarray, n_genes: int, tree: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Order the rows of a heat map, and choose and order its genes.

    Parameters
    ----------
    delta
        [conditions, genes] responses.
    n_genes
        Genes to choose: those with the largest absolute delta in any condition.
    tree
        The rows' linkage, where it is known: average linkage of 1 - Pearson correlation over all genes.

    Returns
    -------
    Rows and columns of ``delta``.
    """
    tree = _tree(_correlation(delta)) if tree is None else tree
    shown = np.sort(np.argsort(-np.abs(delta).max(axis=0), kind="stable")[:n_genes])
    gene_tree = _tree(_correlation(delta[:, shown].T))
    rows = np.arange(len(delta)) if tree is None else hierarchy.leaves_list(tree)
    return rows, shown if gene_tree is None else shown[hierarchy.leaves_list(gene_tree)]


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
    correlation = _correlation(delta)
    tree = _tree(correlation)
    rows, columns = clustered(delta, n_genes, tree)

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
    for axes, matrix, across in (
        (left, delta[np.ix_(rows, columns)], gene_names),
        (right, correlation[np.ix_(rows, rows)], names),
    ):
        hover_cells(axes, names, across, [[f"{value:.3f}" for value in row] for row in matrix])
    left.set_yticks(*row_labels, fontsize=_NAMES, rotation=0)
    left.set_xticks(*column_labels, fontsize=_NAMES, rotation=90)
    right.set_xticks(*mirrored_labels, fontsize=_NAMES, rotation=90)
    right.set_yticks([])
    _draw_tree(branches, tree, len(rows))
    sizes = np.linalg.norm(delta, axis=1)
    found = f"Largest response: {conditions[sizes.argmax()]}; smallest: {conditions[sizes.argmin()]}."
    if len(rows) > 1:
        pairs = np.where(np.triu(np.ones_like(correlation, dtype=bool), 1), correlation, -np.inf)
        one, other = np.unravel_index(pairs.argmax(), pairs.shape)
        found += f" Most alike: {conditions[one]} and {conditions[other]}, r = {pairs.max():.2f}."
    say(figure, found)
    keep(figure, pd.DataFrame(delta[np.ix_(rows, columns)], names, gene_names).round(4).reset_index(names=noun))
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
