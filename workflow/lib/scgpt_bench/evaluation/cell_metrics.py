"""How close the distribution of predicted cells is to that of measured cells."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import linalg as sparse_linalg
from scipy.spatial import distance

from scgpt_bench.data.conditions import listed
from scgpt_bench.data.means import first_half
from scgpt_bench.data.names import CONTROL
from scgpt_bench.errors import InputError
from scgpt_bench.predictions import method_of


def add_cell_space(truth: anndata.AnnData, cells: anndata.AnnData, components: int = 50) -> None:
    """Store in ``truth`` the space in which cells are compared, and the measured cells in it.

    The space is that of the leading principal components of the measured test and control cells: the same for every
    method. Writes ``varm["components"]`` [genes x components], ``uns["cell_coordinates"]`` float32 [cells x
    components], ``uns["cell_perturbation"]`` (row of ``truth``) and ``uns["cell_half_b"]`` of the test cells.
    """
    labels = cells.obs["perturbation"].astype(str)
    rows = np.flatnonzero(labels.isin([CONTROL, *truth.obs_names]))
    X = cells.X[rows].astype(np.float64)
    mean = np.asarray(X.mean(axis=0)).ravel()
    operator = sparse_linalg.LinearOperator(
        X.shape,
        matvec=lambda v: X @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda u: X.T @ u.ravel() - mean * u.sum(),
        dtype=np.float64,
    )
    k = min(components, min(X.shape) - 1)
    # A fixed start makes the iteration, and so the space, the same in every run.
    axes = sparse_linalg.svds(operator, k=k, v0=np.ones(min(X.shape)))[2][::-1].T
    test = labels.to_numpy()[rows] != CONTROL
    truth.varm["components"] = axes
    truth.uns["cell_coordinates"] = (X[test] @ axes).astype(np.float32)
    truth.uns["cell_perturbation"] = truth.obs_names.get_indexer(labels.iloc[rows[test]])
    truth.uns["cell_half_b"] = ~first_half(cells.obs, listed(truth.obs))[rows[test]]


def energy_distance(predictions: anndata.AnnData, truth: anndata.AnnData) -> pd.DataFrame:
    """Energy distance between predicted and measured cells of each perturbation (Székely and Rizzo 2013).

    ``2 E|x - y| - E|x - x'| - E|y - y'|`` with Euclidean distances in the space of :func:`add_cell_space` and different
    cells x, x' (so that it does not depend on the number of cells, and can fall slightly below 0). Predicted cells
    count by their ``weight``, as in their mean; those that are identical count once. With a single cell on a side,
    ``E`` of that side is 0, and ``reason`` says so. Predictions of one cell per perturbation (means:
    ``inference.keep_cells: false``) have no distribution, and get no row.

    Returns
    -------
    Table with ``perturbation``, ``metric``, ``value``, ``reason``, as :func:`metrics.score`. A technical
    duplicate is compared with the other half of the cells.
    """
    if "components" not in truth.varm:
        raise InputError("truth.h5ad", "varm", "no 'components'", "the space of measured cells")
    halved = method_of(predictions).get("scored_against") == "half_b"
    measured = np.asarray(truth.uns["cell_coordinates"], dtype=np.float64)
    measured_rows = np.asarray(truth.uns["cell_perturbation"])
    if halved:
        kept = np.asarray(truth.uns["cell_half_b"])
        measured, measured_rows = measured[kept], measured_rows[kept]
    rows_of = predictions.obs.groupby(predictions.obs["perturbation"].astype(str)).indices
    axes = np.asarray(truth.varm["components"])
    values, reasons = [], []
    weights = predictions.obs["weight"].to_numpy()
    compared = [] if len(rows_of) == predictions.n_obs else list(truth.obs_names)
    for number, perturbation in enumerate(compared):
        rows = rows_of[perturbation]
        predicted, first = np.unique(predictions.X[rows] @ axes, axis=0, return_index=True)
        value, reason = _energy_distance(predicted, weights[rows[first]], measured[measured_rows == number])
        values.append(value)
        reasons.append(reason or ("one half of the cells against the other" if halved else ""))
    return pd.DataFrame({"perturbation": compared, "metric": "energy_distance", "value": values, "reason": reasons})


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
