"""How close the distribution of predicted cells is to that of measured cells."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import linalg as sparse_linalg
from scipy.spatial import distance

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, contexts_of, rows_of, table_of
from scgpt_bench.data.means import first_half
from scgpt_bench.data.names import CONTROL
from scgpt_bench.errors import InputError


def add_cell_space(truth: anndata.AnnData, cells: anndata.AnnData, components: int = 50) -> None:
    """Store in ``truth`` the space in which cells are compared, and the measured cells in it.

    The space of a context is that of the leading principal components of its measured test and control cells: the same
    for every method. Writes ``varm["components"]`` [genes x components x contexts, sorted; 0 beyond the components of a
    context], ``uns["cell_coordinates"]`` float32 [cells x components], ``uns["cell_condition"]`` (row of ``truth``) and
    ``uns["cell_half_b"]`` of the test cells.
    """
    conditions, contexts, rows = conditions_of(truth.obs), contexts_of(truth.obs), rows_of(cells.obs)
    axes = np.zeros((cells.n_vars, components, len(contexts)))
    coordinates = np.zeros((cells.n_obs, components), dtype=np.float32)
    for number, context in enumerate(contexts):
        compared = [Condition(CONTROL, context), *(name for name in conditions if name.context == context)]
        own = np.sort(np.concatenate([rows[condition] for condition in compared]))
        X = cells.X[own].astype(np.float64)
        found = _principal_axes(X, components)
        axes[:, : found.shape[1], number] = found
        coordinates[own, : found.shape[1]] = X @ found
    used, codes = axes.any(axis=(0, 2)), codes_of(cells.obs, conditions)
    test = codes >= 0
    truth.varm["components"] = axes[:, used]
    truth.uns["cell_coordinates"] = coordinates[np.ix_(test, used)]
    truth.uns["cell_condition"] = codes[test]
    truth.uns["cell_half_b"] = ~first_half(cells.obs, conditions)[test]


def _principal_axes(X: sparse.csr_matrix, components: int) -> np.ndarray:
    """The leading principal axes of cells [genes x components, or one less than there are cells or genes]."""
    mean = np.asarray(X.mean(axis=0)).ravel()
    operator = sparse_linalg.LinearOperator(
        X.shape,
        matvec=lambda v: X @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda u: X.T @ u.ravel() - mean * u.sum(),
        dtype=np.float64,
    )
    k = min(components, min(X.shape) - 1)
    # A fixed start makes the iteration, and so the space, the same in every run.
    return sparse_linalg.svds(operator, k=k, v0=np.ones(min(X.shape)))[2][::-1].T


def energy_distance(predictions: anndata.AnnData, truth: anndata.AnnData, halved: bool = False) -> pd.DataFrame:
    """Compute the energy distance between predicted and measured cells of each condition (Székely and Rizzo 2013).

    ``2 E|x - y| - E|x - x'| - E|y - y'|`` with Euclidean distances in the space of :func:`add_cell_space` and different
    cells x, x' (so that it does not depend on the number of cells, and can fall slightly below 0). Predicted cells
    count by their ``weight``, as in their mean; those that are identical count once. With a single cell on a side,
    ``E`` of that side is 0, and ``reason`` says so. Predictions of one cell per condition (means:
    ``inference.keep_cells: false``) have no distribution, and get no row.

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric``, ``value``, ``reason``, as :func:`metrics.score`. A technical
    duplicate (``halved``) is compared with the other half of the cells.
    """
    if "components" not in truth.varm:
        raise InputError("truth.h5ad", "varm", "no 'components'", "the space of measured cells")
    measured = np.asarray(truth.uns["cell_coordinates"], dtype=np.float64)
    measured_rows = np.asarray(truth.uns["cell_condition"])
    if halved:
        kept = np.asarray(truth.uns["cell_half_b"])
        measured, measured_rows = measured[kept], measured_rows[kept]
    rows, weights = rows_of(predictions.obs), predictions.obs["weight"].to_numpy()
    components = np.moveaxis(np.asarray(truth.varm["components"]), 2, 0)
    axes_of = dict(zip(contexts_of(truth.obs), map(np.ascontiguousarray, components), strict=True))
    values, reasons = [], []
    compared = [] if len(rows) == predictions.n_obs else conditions_of(truth.obs)
    for number, condition in enumerate(compared):
        own = rows[condition]
        predicted, first = np.unique(predictions.X[own] @ axes_of[condition.context], axis=0, return_index=True)
        value, reason = _energy_distance(predicted, weights[own[first]], measured[measured_rows == number])
        values.append(value)
        reasons.append(reason or ("one half of the cells against the other" if halved else ""))
    return table_of(compared).reset_index(drop=True).assign(metric="energy_distance", value=values, reason=reasons)


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
