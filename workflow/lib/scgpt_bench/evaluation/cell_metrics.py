"""What predicted cells are worth: their distribution, their spread and the genes that they show to change.

:func:`score_cells` computes all of it, from predicted cells that may be on disk: it reads one condition at a time. The
mean and the spread of a prediction are told apart: ``energy_distance`` and ``spread_ratio`` compare cells as they are
given, ``energy_distance_of_means`` the drawn control cells, moved to the predicted mean.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse, stats
from scipy.sparse import linalg as sparse_linalg
from scipy.spatial import distance

from scgpt_bench.data.conditions import (
    Condition,
    codes_of,
    conditions_of,
    context_of,
    contexts_of,
    rows_of,
    table_of,
)
from scgpt_bench.data.means import first_half, mean_cell
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import dense_rows, row_chunks
from scgpt_bench.data.on_disk import rows as read_rows
from scgpt_bench.errors import InputError
from scgpt_bench.seeding import random_generator

logger = logging.getLogger(__name__)

AT_ONCE = 2**22  # values of a chunk that is multiplied, if it were dense: its float64 stays in a cache of the processor
AXES_FROM = 20_000  # cells of a context at most: principal components read their cells hundreds of times
FALSE_DISCOVERIES = 0.05  # among the genes called significant (Benjamini-Hochberg)
PERFECT = {"energy_distance": 0.0, "energy_distance_of_means": 0.0, "de_overlap": 1.0}  # of the truth itself
DRAWN_TO_TEST = "differential expression"
HALVED = "one half of the cells against the other"


def add_cell_space(
    truth: anndata.AnnData,
    cells: anndata.AnnData,
    controls: anndata.AnnData,
    components: int = 50,
    read: Callable[[Any, np.ndarray], sparse.csr_matrix] = read_rows,
    threads: int = 1,
) -> None:
    """Store in ``truth`` the space in which cells are compared, and the measured and the drawn control cells in it.

    The space of a context is that of the leading principal components of its measured test and control cells, or of
    :data:`AXES_FROM` of them, drawn by name: the same for every method. Writes ``varm["components"]`` [genes x
    components x contexts, sorted; 0 beyond the components of a context], ``uns["cell_coordinates"]`` float32 [cells x
    components], ``uns["cell_condition"]`` (row of ``truth``) and ``uns["cell_half_b"]`` of the test cells. Also
    ``obs["cell_variance"]``: the variance of each condition's cells, summed over genes.

    The cells of the components are read hundreds of times: ``cells`` should be in memory or mapped
    (:mod:`data.mapped`), and ``read`` makes a matrix of some of their rows. ``controls`` may be on disk. ``threads``
    multiply chunks of cells at the same time: the same bytes with any number of them.
    """
    conditions, contexts, rows = conditions_of(truth.obs), contexts_of(truth.obs), rows_of(cells.obs)
    axes = np.zeros((cells.n_vars, components, len(contexts)))
    coordinates = np.zeros((cells.n_obs, components), dtype=np.float32)
    for number, context in enumerate(contexts):
        compared = [Condition(CONTROL, context), *(name for name in conditions if name.context == context)]
        own = np.sort(np.concatenate([rows[condition] for condition in compared]))
        X = cells.X if len(own) == cells.n_obs else read(cells.X, own)
        with ThreadPoolExecutor(threads) as pool:
            some = _drawn(cells.obs_names[own], AXES_FROM, "principal components", context)
            logger.info("principal components of %d of %d cells %s", len(some), len(own), context)
            found = _principal_axes(X if len(some) == len(own) else read(X, some), components, pool)
            coordinates[own, : found.shape[1]] = _product(X, found, pool)
        axes[:, : found.shape[1], number] = found
    used, codes = axes.any(axis=(0, 2)), codes_of(cells.obs, conditions)
    test = codes >= 0
    truth.varm["components"] = axes[:, used]
    truth.uns["cell_coordinates"] = coordinates[np.ix_(test, used)]
    truth.uns["cell_condition"] = codes[test]
    truth.uns["cell_half_b"] = ~first_half(cells.obs, conditions)[test]
    truth.obs["cell_variance"] = [_total_variance(cells.X[rows[condition]]) for condition in conditions]
    truth.uns["control_condition"] = codes_of(controls.obs, conditions)
    truth.uns["control_weight"] = controls.obs["weight"].to_numpy(dtype=np.float64)
    truth.uns["control_coordinates"] = np.zeros((controls.n_obs, used.sum()), dtype=np.float32)
    for number, context in enumerate(contexts):
        own = (context_of(controls.obs) == context).to_numpy()
        for start, chunk in row_chunks(controls.X, read=own):
            here = np.flatnonzero(own[start : start + chunk.shape[0]])
            truth.uns["control_coordinates"][start + here] = chunk[here] @ axes[:, used, number]


def _total_variance(X: sparse.csr_matrix) -> float:
    """Sum the variance of cells over genes; 0 of a single cell."""
    X = sparse.csr_matrix(X, dtype=np.float64)
    variance = X.multiply(X).mean(axis=0).sum() - np.square(X.mean(axis=0)).sum()
    return float(max(variance, 0) * X.shape[0] / max(X.shape[0] - 1, 1))


def _principal_axes(X: sparse.csr_matrix, components: int, pool: Executor) -> np.ndarray:
    """Find the leading principal axes of cells [genes x components, or one less than there are cells or genes]."""
    mean = _transposed_product(X, np.full(X.shape[0], 1 / X.shape[0]), pool)
    products = itertools.count(1)

    def multiplied(v: np.ndarray) -> np.ndarray:
        if (number := next(products)) % 50 == 0:
            logger.info("principal components: multiplied %d times, usually 100 to 800 in all", number)
        return _product(X, v.ravel(), pool) - mean @ v.ravel()

    operator = sparse_linalg.LinearOperator(
        X.shape,
        matvec=multiplied,
        rmatvec=lambda u: _transposed_product(X, u.ravel(), pool) - mean * u.sum(),
        dtype=np.float64,
    )
    k = min(components, min(X.shape) - 1)
    # A fixed start makes the iteration, and so the space, the same in every run.
    return sparse_linalg.svds(operator, k=k, v0=np.ones(min(X.shape)))[2][::-1].T


def _chunks(X: sparse.csr_matrix) -> list[slice]:
    step = max(1, AT_ONCE // X.shape[1])
    return [slice(start, min(start + step, X.shape[0])) for start in range(0, X.shape[0], step)]


def _in_float64(X: sparse.csr_matrix, own: slice) -> sparse.csr_matrix:
    """Take some rows of a matrix in float64, without a copy of the whole and without checks: hundreds of times."""
    pointers = X.indptr[own.start : own.stop + 1]
    stored = slice(pointers[0], pointers[-1])
    values = (X.data[stored].astype(np.float64), X.indices[stored], pointers - pointers[0])
    return sparse.csr_matrix(values, (own.stop - own.start, X.shape[1]))


def _product(X: sparse.csr_matrix, right: np.ndarray, pool: Executor) -> np.ndarray:
    """Multiply cells [cells x genes] by a vector or matrix of genes."""
    return np.concatenate([*pool.map(lambda own: _in_float64(X, own) @ right, _chunks(X))])


def _transposed_product(X: sparse.csr_matrix, weights: np.ndarray, pool: Executor) -> np.ndarray:
    """Sum cells by their weights [cells]: float64 [genes], chunk after chunk whatever the threads."""
    return sum(pool.map(lambda own: _in_float64(X, own).T @ weights[own], _chunks(X)), start=np.zeros(X.shape[1]))


def add_significant_genes(truth: anndata.AnnData, cells: anndata.AnnData, controls: anndata.AnnData) -> None:
    """Store in ``truth`` which genes a number of measured cells shows to change, for :func:`de_overlap`.

    The number is that of the second half of a condition's cells (all but :func:`means.first_half`, which the technical
    duplicate predicts with), or that of its drawn control cells where it is smaller: then cells are drawn by name.
    Writes ``obs["n_cells_tested"]`` and ``layers["significant"]``, int8 [conditions x genes].
    """
    conditions, rows, drawn = conditions_of(truth.obs), rows_of(cells.obs), rows_of(controls.obs)
    second_half = ~first_half(cells.obs, conditions)
    numbers, significant = [], np.zeros(truth.shape, dtype=np.int8)
    for row, condition in enumerate(conditions):
        own = rows[condition][second_half[rows[condition]]]
        own = own[_drawn(cells.obs_names[own], len(drawn[condition]), DRAWN_TO_TEST, *condition.drawn_for)]
        numbers.append(len(own))
        p_values, _ = _welch(cells.X[own], np.ones(len(own)), truth, "reference_truth", row, condition)
        significant[row, p_values <= FALSE_DISCOVERIES] = 1
    truth.obs["n_cells_tested"] = np.array(numbers, dtype=np.float64)  # untested conditions have none: NaN
    truth.layers["significant"] = significant


def score_cells(
    predictions: anndata.AnnData, truth: anndata.AnnData, halved: bool = False, only_means: bool | None = None
) -> pd.DataFrame:
    """Compute every metric of predicted cells; a technical duplicate (``halved``) is compared with the other half.

    Means (``only_means``; None: if :func:`are_means`) have no distribution: only ``energy_distance_of_means`` has rows
    then. Give it where ``predictions`` are some conditions of several.

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric``, ``value``, ``reason``, as :func:`metrics.score`.
    """
    of_means = energy_distance_of_means(predictions, truth, halved)
    if are_means(predictions.obs) if only_means is None else only_means:
        return of_means
    tables = [energy_distance(predictions, truth, halved), of_means]
    return pd.concat([*tables, spread_ratio(predictions, truth), de_overlap(predictions, truth)], ignore_index=True)


def are_means(obs: pd.DataFrame) -> bool:
    """Say whether every condition has one predicted cell, its mean (``inference.keep_cells: false``)."""
    return len(rows_of(obs)) == len(obs)


def energy_distance(predictions: anndata.AnnData, truth: anndata.AnnData, halved: bool = False) -> pd.DataFrame:
    """Compute the energy distance between predicted and measured cells of each condition (Székely and Rizzo 2013).

    ``2 E|x - y| - E|x - x'| - E|y - y'|`` with Euclidean distances in the space of :func:`add_cell_space` and different
    cells x, x' (so that it does not depend on the number of cells, and can fall slightly below 0). Predicted cells
    count by their ``weight``, as in their mean; those that are identical count once. With a single cell on a side,
    ``E`` of that side is 0, and ``reason`` says so.
    """
    measured, axes_of = _measured_cells(truth, halved, predictions), _axes_of(truth)
    values, reasons = [], []
    for condition, own in rows_of(predictions.obs).items():
        weights = predictions.obs["weight"].to_numpy()[own]
        predicted, first = np.unique(
            dense_rows(predictions.X, own) @ axes_of[condition.context], axis=0, return_index=True
        )
        value, reason = _energy_distance(predicted, weights[first], measured[condition])
        values.append(value)
        reasons.append(reason or (HALVED if halved else ""))
    return _table([*rows_of(predictions.obs)], "energy_distance", values, reasons)


def energy_distance_of_means(
    predictions: anndata.AnnData, truth: anndata.AnnData, halved: bool = False
) -> pd.DataFrame:
    """Compute the energy distance of the drawn control cells, moved to each predicted mean, from the measured cells.

    What :func:`energy_distance` would be if the method predicted means only: the same for all ways to make cells.
    """
    measured, axes_of = _measured_cells(truth, halved, predictions), _axes_of(truth)
    coordinates, weights = np.asarray(truth.uns["control_coordinates"]), np.asarray(truth.uns["control_weight"])
    row_of = {condition: row for row, condition in enumerate(conditions_of(truth.obs))}
    values, reasons = [], []
    for condition, own in rows_of(predictions.obs).items():
        drawn = np.asarray(truth.uns["control_condition"]) == row_of[condition]
        controls = coordinates[drawn].astype(np.float64)
        mean = mean_cell(dense_rows(predictions.X, own), predictions.obs["weight"].to_numpy()[own])
        mean = mean @ axes_of[condition.context]
        moved = controls + (mean - mean_cell(controls, weights[drawn]))
        value, reason = _energy_distance(moved, weights[drawn], measured[condition])
        values.append(value)
        reasons.append(reason or (HALVED if halved else ""))
    return _table([*rows_of(predictions.obs)], "energy_distance_of_means", values, reasons)


def spread_ratio(predictions: anndata.AnnData, truth: anndata.AnnData) -> pd.DataFrame:
    """Divide the variance of the predicted cells of each condition by that of its measured ones, both over all genes.

    A sum of variances: 1 is right, 0 is one cell many times. Predicted cells count by their ``weight``.
    """
    measured = truth.obs["cell_variance"].to_numpy()
    row_of = {condition: row for row, condition in enumerate(conditions_of(truth.obs))}
    values, reasons = [], []
    for condition, own in rows_of(predictions.obs).items():
        weights = predictions.obs["weight"].to_numpy()[own]
        _, of_mean, n = _mean_and_its_variance(dense_rows(predictions.X, own), weights)
        known = measured[row_of[condition]] > 0  # neither a single cell nor cells that are all alike
        values.append(of_mean.sum() * n / measured[row_of[condition]] if known else 0.0)
        reasons.append("" if known else "measured cells have no variance")
    return _table([*rows_of(predictions.obs)], "spread_ratio", values, reasons)


def de_overlap(predictions: anndata.AnnData, truth: anndata.AnnData) -> pd.DataFrame:
    """Count the differentially expressed genes that as many predicted as measured cells show.

    Welch's t-test of predicted cells against ``reference_input`` and of measured ones against ``reference_truth``;
    genes at a false discovery rate of 5 %, without the targets and genes that no control cell expresses. Of N measured
    genes, the share that is among the N most significant predicted ones. Not a rank test: a shift of next to nothing
    lifts every zero above those of the control, which a rank test takes for a change.
    """
    values, reasons = [], []
    row_of = {condition: row for row, condition in enumerate(conditions_of(truth.obs))}
    for condition, own in rows_of(predictions.obs).items():
        row, n = row_of[condition], int(truth.obs["n_cells_tested"].iloc[row_of[condition]])
        drawn = _drawn(predictions.obs_names[own], n, DRAWN_TO_TEST, *condition.drawn_for)
        cells, weights = dense_rows(predictions.X, own)[drawn], predictions.obs["weight"].to_numpy()[own[drawn]]
        p_values, t = _welch(cells, weights, truth, "reference_input", row, condition)
        found = np.lexsort((-np.abs(t), p_values))[: np.count_nonzero(p_values <= FALSE_DISCOVERIES)]
        measured = np.asarray(truth.layers["significant"])[row] == 1
        values.append(measured[found[: measured.sum()]].sum() / max(measured.sum(), 1))
        few = f"{len(drawn)} predicted cells against {n} measured" if len(drawn) < n else ""
        reasons.append(few if measured.any() else "no measured gene is significant")
    return _table([*rows_of(predictions.obs)], "de_overlap", values, reasons)


def _welch(
    cells: sparse.csr_matrix | np.ndarray,
    weights: np.ndarray,
    truth: anndata.AnnData,
    reference: str,
    row: int,
    condition: Condition,
) -> tuple[np.ndarray, np.ndarray]:
    """p-values, adjusted over the genes that are tested, and t of cells against a reference of a condition.

    Both references are means of half of the control cells: the sampling variance of one is taken for either. Cells are
    not taken to vary less than control cells do: a few of them may not express a gene by chance, and predicted cells
    may be alike.
    """
    mean, of_mean, n = _mean_and_its_variance(cells, weights)
    of_mean = np.fmax(of_mean, np.asarray(truth.layers["variance_of_control_cells"])[row] / n)
    of_reference = np.asarray(truth.layers["variance_of_reference"])[row]
    tested = of_reference > 0
    tested[truth.var_names.isin(condition.genes)] = False
    p_values, t = np.ones(len(mean)), np.zeros(len(mean))
    if n > 1 and tested.any():
        of_mean, of_change = of_mean[tested], (of_mean + of_reference)[tested]
        t[tested] = (mean - np.asarray(truth.layers[reference])[row])[tested] / np.sqrt(of_change)
        df = (n - 1) * np.square(of_change / of_mean)  # control cells are many: their variance is taken as known
        p_values[tested] = stats.false_discovery_control(2 * stats.t.sf(np.abs(t[tested]), df))
    return p_values, t


def _mean_and_its_variance(
    cells: sparse.csr_matrix | np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weighted mean of cells, its sampling variance (without bias; both [genes]) and how many cells that counts as."""
    X = np.asarray(cells.toarray() if sparse.issparse(cells) else cells, dtype=np.float64)
    mean, share = mean_cell(X, weights), weights / weights.sum()
    n = 1 / np.square(share).sum()
    # A single cell has no spread, and says nothing of its variance; alike cells have none but for rounding.
    variance = share @ np.square(X - mean) * n / (n - 1) if len(X) > 1 else np.zeros_like(mean)
    return mean, variance / n, n


def _drawn(names: pd.Index, number: int, *drawn_for: str) -> np.ndarray:
    """Draw so many cells by their names: ascending positions in ``names``, all of them where there are no more."""
    order = random_generator(0, *drawn_for).permutation(len(names))
    return np.sort(np.argsort(names)[order[:number]])


def _axes_of(truth: anndata.AnnData) -> dict[str, np.ndarray]:
    """Give the axes of each context's space [genes x components]."""
    if "components" not in truth.varm:
        raise InputError("truth.h5ad", "varm", "no 'components'", "the space of measured cells")
    components = np.moveaxis(np.asarray(truth.varm["components"]), 2, 0)
    return dict(zip(contexts_of(truth.obs), map(np.ascontiguousarray, components), strict=True))


def _measured_cells(truth: anndata.AnnData, halved: bool, predictions: anndata.AnnData) -> dict[Condition, np.ndarray]:
    """Coordinates of the measured cells of each predicted condition, float64 [cells x components]."""
    cells, rows = np.asarray(truth.uns["cell_coordinates"]), np.asarray(truth.uns["cell_condition"])
    kept = np.asarray(truth.uns["cell_half_b"]) if halved else np.ones(len(rows), dtype=bool)
    row_of = {condition: row for row, condition in enumerate(conditions_of(truth.obs))}
    predicted = rows_of(predictions.obs)
    return {name: cells[kept & (rows == row_of[name])].astype(np.float64) for name in predicted}


def _table(conditions: list[Condition], metric: str, values: list[float], reasons: list[str]) -> pd.DataFrame:
    return table_of(conditions).reset_index(drop=True).assign(metric=metric, value=values, reason=reasons)


def _energy_distance(predicted: np.ndarray, weights: np.ndarray, measured: np.ndarray) -> tuple[float, str]:
    single = [side for side, cells in (("predicted", predicted), ("measured", measured)) if len(cells) < 2]
    within = 0.0
    if len(predicted) > 1:
        pairs = np.outer(weights, weights)[np.triu_indices(len(weights), k=1)]
        within += np.average(distance.pdist(predicted), weights=pairs)
    if len(measured) > 1:
        within += distance.pdist(measured).mean()
    between = np.average(distance.cdist(predicted, measured), weights=np.outer(weights, np.ones(len(measured))))
    value = 2 * between - within
    return float(value), f"a single {' and a single '.join(single)} cell" if single else ""
