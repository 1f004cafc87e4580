"""Means over the cells of each condition, measured or predicted."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import codes_of, conditions_of, directions_of, listed, rows_of, table_of
from scgpt_bench.data.halves import TRUTH
from scgpt_bench.data.means import condition_means, first_half, mean_cell
from scgpt_bench.data.on_disk import Matrix, add_rows, dense_rows, row_chunks
from scgpt_bench.data.references import References, references
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import control_blocks

REFERENCES = ("input", "truth", "truth_a", "truth_b")


def responses(cells: anndata.AnnData) -> pd.DataFrame:
    """Measure what every condition of a data set did: its pseudo-bulk minus its reference of the half ``truth``.

    Returns
    -------
    float64 [conditions x genes], conditions sorted, indexed by their labels.
    """
    conditions = conditions_of(cells.obs)
    deltas = condition_means(cells, conditions)[0] - references(cells, conditions, TRUTH)
    return pd.DataFrame(deltas, index=table_of(conditions).index, columns=cells.var_names)


def measured(cells: anndata.AnnData) -> anndata.AnnData:
    """Measure every condition of a data set, with three passes over the cells.

    Returns
    -------
    AnnData [conditions x genes], float64, conditions sorted, with

    - ``X``: the pseudo-bulk means;
    - ``layers["reference_input"]``, ``["reference_truth"]``, ``["reference_truth_a"]``, ``["reference_truth_b"]``: what
      they are compared with (:mod:`references`);
    - ``layers["half_a"]``, ``["half_b"]``: means of the first half of a condition's cells (:func:`means.first_half`;
      NaN of a single cell) and of the others, against which a technical duplicate is scored;
    - ``layers["variance_of_mean"]``: sampling variance of X: the variance of the condition's cells about the control
      means of their own cell types and batches, divided by their number; NaN of a single cell;
    - ``layers["variance_of_reference"]``: sampling variance of ``reference_truth``;
    - ``layers["variance_of_control_cells"]``: of single control cells of the same cell types, within batches;
    - ``varm["control_blocks"]``: how ``reference_truth`` changes without each block of its control cells
      (:func:`control_blocks.changes_of_reference`);
    - ``obs``: ``perturbation``, ``context``, ``n_cells`` and, where known, ``direction``.
    """
    conditions, of_controls = conditions_of(cells.obs), References(cells)
    layers = {f"reference_{part}": of_controls.mean(conditions, part) for part in REFERENCES}
    code = codes_of(cells.obs, conditions)
    half = 2 * code + ~first_half(cells.obs, conditions)
    half[code < 0] = -1
    strata, expected = of_controls.stratum_of_cells, of_controls.stratum_means(TRUTH)
    sums, squares = np.zeros((2 * len(conditions), cells.n_vars)), np.zeros((len(conditions), cells.n_vars))
    for start, chunk in row_chunks(cells.X, read=code >= 0):
        here = slice(start, start + chunk.shape[0])
        add_rows(sums, chunk, half[here])
        own = code[here] >= 0
        add_rows(squares, _squared_about(chunk[own], expected, strata[here][own]), code[here][own])
    n_halves = np.bincount(half[half >= 0], minlength=len(sums)).reshape(-1, 2)
    n_cells, sums = n_halves.sum(axis=1), sums.reshape(len(conditions), 2, -1)
    means = sums.sum(axis=1) / n_cells[:, None]
    squares -= n_cells[:, None] * (means - layers["reference_truth"]) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        layers["half_a"], layers["half_b"] = (sums[:, number] / n_halves[:, number, None] for number in (0, 1))
        freedom = np.where(n_cells > 1, n_cells * (n_cells - 1.0), np.nan)
        layers["variance_of_mean"] = np.maximum(squares, 0) / freedom[:, None]
    layers["variance_of_reference"] = of_controls.variance(conditions, TRUTH)
    layers["variance_of_control_cells"] = of_controls.variance_of_cells(conditions, TRUTH)
    varm = {"control_blocks": control_blocks.changes_of_reference(cells, conditions, of_controls)}
    obs = table_of(conditions).assign(n_cells=n_cells)
    if "direction" in cells.obs:
        obs["direction"] = directions_of(cells.obs, conditions)
    return anndata.AnnData(means, obs=obs, var=pd.DataFrame(index=cells.var_names), layers=layers, varm=varm)


def _squared_about(chunk: Matrix, expected: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Squares of the differences between cells and the mean control cells of their strata, float64 [cells x genes]."""
    dense = chunk.toarray() if sparse.issparse(chunk) else np.asarray(chunk)
    return (dense - expected[strata]) ** 2


def truth(measured: anndata.AnnData, split: pd.DataFrame) -> anndata.AnnData:
    """Select the test conditions of :func:`measured`: the answer [conditions x genes].

    Returns
    -------
    AnnData, conditions sorted, with what they have in ``measured`` and

    - ``layers["centroid"]``: ``reference_input`` plus the mean shift of the training conditions of the context (of all
      contexts, where training has none of its own) from theirs, the reference of ``pearson_delta_centroid``;
    - ``obs["tested"]``: true.
    """
    answer = _of_role(measured, split, "test").copy()
    answer.layers["centroid"] = _centroid(answer, _of_role(measured, split, "train"))
    answer.obs["tested"] = True
    return answer


def replace_centroid(truth: anndata.AnnData, split: pd.DataFrame) -> None:
    """Put the centroid of another split into ``truth.h5ad``: one with the same test, but other training conditions."""
    tested = truth.obs["tested"].to_numpy()
    truth.layers["centroid"][tested] = _centroid(truth[tested], _of_role(truth, split, "train"))


def _of_role(measured: anndata.AnnData, split: pd.DataFrame, role: str) -> anndata.AnnData:
    """Select the conditions of a role of ``split``, in its order."""
    row_of = {condition: row for row, condition in enumerate(listed(measured.obs))}
    conditions = conditions_of(split, role)
    for condition in conditions:
        if condition not in row_of:
            found = f"{condition.label!r} without a cell in cells.h5ad"
            raise InputError("split.tsv", "perturbation", found, "measured conditions")
    return measured[[row_of[condition] for condition in conditions]]


def _centroid(answer: anndata.AnnData, train: anndata.AnnData) -> np.ndarray:
    """Add the mean shift of training conditions of their contexts to the references of conditions."""
    shifts, contexts = train.X - train.layers["reference_input"], train.obs["context"].to_numpy()
    own = {name: contexts == name for name in answer.obs["context"].unique()}
    mean = {name: shifts[rows if rows.any() else slice(None)].mean(axis=0) for name, rows in own.items()}
    return answer.layers["reference_input"] + np.array([mean[name] for name in answer.obs["context"]])


def add_untested(truth: anndata.AnnData, measured: anndata.AnnData) -> anndata.AnnData:
    """Append all other conditions of the data set to :func:`truth`: the content of ``truth.h5ad``.

    What only a tested condition has is NaN in their rows, and -1 where it is a rank. :func:`select_tested` undoes it.
    """
    others = measured[~measured.obs_names.isin(truth.obs_names)].copy()
    others.obs["tested"] = False
    layers = {}
    for name, layer in truth.layers.items():
        missing = np.full(others.shape, -1 if layer.dtype.kind == "i" else np.nan, dtype=layer.dtype)
        layers[name] = np.concatenate([layer, others.layers.get(name, missing)])
    return anndata.AnnData(
        np.concatenate([truth.X, others.X]),
        obs=pd.concat([truth.obs, others.obs]),
        var=truth.var,
        layers=layers,
        varm=dict(truth.varm),
        uns=dict(truth.uns),
    )


def select_tested(truth: anndata.AnnData) -> anndata.AnnData:
    """Select the test conditions of ``truth.h5ad``."""
    return truth[truth.obs["tested"].to_numpy()].copy()


def pseudobulk(predictions: anndata.AnnData) -> anndata.AnnData:
    """Average the predicted cells of each condition; sorted, with ``obs["n_cells"]``. They may be on disk.

    Predicted cells count in it by their ``weight`` (:func:`means.mean_cell`).
    """
    rows, weights = rows_of(predictions.obs), predictions.obs["weight"].to_numpy()
    means = [mean_cell(dense_rows(predictions.X, own), weights[own]) for own in rows.values()]
    obs = table_of([*rows]).assign(n_cells=[len(own) for own in rows.values()])
    var = pd.DataFrame(index=predictions.var_names)
    return anndata.AnnData(np.stack(means), obs=obs, var=var)
