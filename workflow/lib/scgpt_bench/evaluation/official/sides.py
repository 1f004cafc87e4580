"""What the official scorers are given: measured and predicted cells with the challenge's labels.

Two sides of one context (``obs["target_gene"]``, control ``non-targeting``): the measured cells of the test
perturbations and the predicted ones, and **the same measured control cells on both sides**. A control that a method
predicted, or another draw of control cells, would move every change from control on one side only, and with it the
score (cell-eval issue 196). The scorers know one control: they are asked about one context at a time
(:func:`contexts_apart`), and not where a context has cells of several types (:func:`several_cell_types`).

What a prediction becomes on its way, since the scorers accept less than the contract of ``predictions.h5ad`` does:

- no negative value: :func:`nonnegative`, which keeps the mean of every perturbation;
- for ``cell_eval2``, counts: :func:`sampled_counts`;
- for the differentially expressed genes of ``cell_eval``, log1p values of such counts: :func:`log_sides_of_counts`.

A technical duplicate is scored against the other half of the measured cells, as everywhere in this package.

Cells may be on disk (:func:`scgpt_bench.data.on_disk.open_h5ad`, with their layer ``counts``): of a large experiment
only what is compared is read, and either log values or counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, contexts_of, labels_of, rows_of
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.means import first_half
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import batches, dense_rows
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.errors import InputError
from scgpt_bench.seeding import random_generator

TARGET, NON_TARGETING = "target_gene", "non-targeting"
COUNTS_SEED = 0  # a conversion, not a part of a method: the same for all of them


@dataclass(frozen=True)
class Sides:
    """What a scorer compares: AnnData with ``obs["target_gene"]``, CSR, and the same control cells on both."""

    measured: anndata.AnnData
    predicted: anndata.AnnData
    context: str
    halved: bool


def contexts_apart(split: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name each context with a test condition, and select its rows of ``split.tsv``."""
    contexts = split["context"].astype(str)
    for context in contexts_of(split[split["role"] == "test"]):
        yield context, split[contexts == context]


def several_cell_types(cells: anndata.AnnData, split: pd.DataFrame) -> str:
    """Return why the scorers cannot judge the context of ``split``; empty if they can.

    A prediction starts from control cells of its perturbation's own types. Beside the control cells of all types it
    would be scored on the cell type: in perturbench_devel the change that doing nothing would be given correlates with
    the measured one by 0.97 (mean of the perturbations measured in K562 alone).
    """
    rows = [own for condition, own in rows_of(cells.obs).items() if condition.context == _only_context(split)]
    types = sorted(cells.obs["cell_type"].iloc[np.concatenate(rows)].astype(str).unique())
    if len(types) == 1:
        return ""
    return (
        f"not scored: cells of {len(types)} types ({types[0]}, {types[1]}, ...). Official scorers know one control, "
        "and would measure the difference between cell types, not the perturbation"
    )


def _only_context(split: pd.DataFrame) -> str:
    contexts = contexts_of(split)
    if len(contexts) > 1:
        found = f"{len(contexts)} contexts ({contexts[0]}, {contexts[1]}, ...)"
        raise InputError("split.tsv", "context", found, "one context, as official scorers and submissions have")
    return contexts[0]


def nonnegative(X: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Log values without negative ones, and with the same mean of every group and gene wherever that is not negative.

    Methods that shift control cells go below 0 where few cells express a gene (cell-eval refuses that). Setting those
    values to 0 alone would raise the mean, so the group's positive values of that gene are scaled down by as much.
    A mean below 0, which no cells can have, becomes 0.

    Parameters
    ----------
    X
        Predicted cells [cells x genes], log1p.
    groups
        The condition of each cell.

    Returns
    -------
    float32 [cells x genes]; equal to ``X`` where nothing is negative.
    """
    result = np.maximum(X, 0, dtype=np.float32)
    for rows in pd.Series(groups).groupby(np.asarray(groups)).indices.values():
        genes = np.flatnonzero((X[rows] < 0).any(axis=0))
        before = np.maximum(X[np.ix_(rows, genes)].mean(axis=0, dtype=np.float64), 0)
        after = result[np.ix_(rows, genes)].mean(axis=0, dtype=np.float64)
        result[np.ix_(rows, genes)] *= np.divide(before, after, out=np.zeros_like(after), where=after > 0)
    return result


def sampled_counts(X: np.ndarray, depth_factors: np.ndarray, names: Sequence[str]) -> sparse.csr_matrix:
    """Draw whole counts for predicted log values.

    A cell's counts are ``expm1(X) * depth factor``, where the factor is that of the control cell from which it was
    predicted: an unchanged control cell gets its own counts back. What is left of a whole number decides by chance
    whether it is rounded up, so that the expected count is the predicted one; rounding to the nearest would delete
    every prediction below half a count, which is most of them. The chance depends on the cell's name only.

    What it cannot do: a log value is the mean of a log where a method predicts means, and its ``expm1`` is then below
    the mean count; the depth of a perturbed cell is that of its control; counts vary less than counted molecules do,
    where a method predicts the same values for all cells.

    Parameters
    ----------
    X
        Predicted cells [cells x genes], log1p, not negative.
    depth_factors
        Counts per unit of ``expm1(X)`` [cells]; see :func:`depth_factors_of`.
    names
        Name of each cell.

    Returns
    -------
    CSR float32 [cells x genes] of whole numbers.
    """
    rows = []
    for values, factor, name in zip(X, depth_factors, names, strict=True):
        # Float32 log values give back whole counts to about 1e-6 of the count: not a remainder to round up by chance.
        expected = np.expm1(values.astype(np.float64)) * factor
        nearest = np.rint(expected)
        expected = np.where(np.abs(expected - nearest) < 1e-5 * np.maximum(nearest, 1), nearest, expected)
        draws = random_generator(COUNTS_SEED, "counts", name).random(len(values))
        rows.append(sparse.csr_matrix((np.floor(expected) + (draws < expected % 1)).astype(np.float32)))
    return sparse.vstack(rows, format="csr")


def depth_factors_of(cells: anndata.AnnData, names: pd.Series) -> np.ndarray:
    """Give the counts per unit of ``expm1(X)`` of the named cells of ``cells.h5ad``, from their own counts.

    Raises
    ------
    InputError
        Where the data set has no raw counts: no rule could say how deep its cells were sequenced.
    """
    raw_counts(cells)
    rows = cells.obs_names.get_indexer(names)
    if (rows < 0).any():
        absent = names.iloc[int(np.argmin(rows))]
        raise InputError("predictions.h5ad", "obs['control_cell']", repr(absent), "cells of cells.h5ad")
    used, inverse = np.unique(rows, return_inverse=True)
    counts = np.asarray(rows_of_cells(cells.layers["counts"], used).sum(axis=1, dtype=np.float64)).ravel()
    values = np.asarray(rows_of_cells(cells.X, used).expm1().sum(axis=1, dtype=np.float64)).ravel()
    return np.divide(counts, values, out=np.zeros_like(counts), where=values > 0)[inverse]


def raw_counts(cells: anndata.AnnData) -> sparse.csr_matrix:
    """Read the counts of ``cells.h5ad``; an :class:`InputError` where there are none."""
    if "counts" not in cells.layers:
        raise InputError("cells.h5ad", "layers", "no 'counts'", "raw counts, which cell-eval2 compares")
    return cells.layers["counts"]


def log_sides(cells: anndata.AnnData, predictions: anndata.AnnData, split: pd.DataFrame, halved: bool = False) -> Sides:
    """Return both sides in log1p values, as ``cells.h5ad`` holds them.

    Parameters
    ----------
    cells, predictions, split
        ``cells.h5ad``; ``predictions.h5ad`` (read by ``predictions.read_predictions``), of which only the rows of the
        context are used; one context of ``split.tsv`` (:func:`contexts_apart`).
    halved
        Whether the prediction is one half of the measured cells, to be compared with the other: a technical duplicate.
    """
    predictions = _within(split, predictions)
    predicted = _by_condition(predictions, lambda X, _: sparse.csr_matrix(X))
    return _sides(cells, cells.X, predicted, predictions, split, halved)


def log_sides_of_counts(
    cells: anndata.AnnData,
    predictions: anndata.AnnData,
    split: pd.DataFrame,
    halved: bool = False,
    measured: anndata.AnnData | None = None,
) -> Sides:
    """Return both sides in log1p values with zeros, as cells have them: predicted ones from their counts.

    A rank test needs the zeros. Control cells that were moved by any positive amount have none, so that each is above
    every control cell that has zero of the gene: of ``control-mean``, which predicts no change, 129 to 173 of 299 genes
    are significant in papalexi_2021 (fold 0 of 5, 100 cells a perturbation), and none by their counts. Not for metrics
    that compare means: sampled counts have another mean of logs.
    """
    predictions = _within(split, predictions)
    factors = depth_factors_of(cells, predictions.obs["control_cell"].astype(str))
    scale = np.divide(1, factors, out=np.zeros_like(factors), where=factors > 0)
    predicted = sparse.csr_matrix(sparse.diags(scale) @ predicted_counts(predictions, factors)).log1p()
    return _sides(cells, cells.X, predicted.astype(np.float32), predictions, split, halved, measured)


def count_sides(
    cells: anndata.AnnData, predictions: anndata.AnnData, split: pd.DataFrame, halved: bool = False
) -> Sides:
    """Return both sides in whole counts: the measured raw counts, and :func:`predicted_counts`."""
    predictions = _within(split, predictions)
    factors = depth_factors_of(cells, predictions.obs["control_cell"].astype(str))
    return _sides(cells, raw_counts(cells), predicted_counts(predictions, factors), predictions, split, halved)


def predicted_counts(predictions: anndata.AnnData, depth_factors: np.ndarray) -> sparse.csr_matrix:
    """Count predicted cells, whole conditions: :func:`nonnegative`, then :func:`sampled_counts`.

    Cells of a condition that share a control cell, as imported ones may, are numbered: one name would round them all
    alike.

    Parameters
    ----------
    depth_factors
        Of the control cells that they were predicted from (:func:`depth_factors_of`) [rows of ``predictions``].

    Returns
    -------
    CSR float32 [rows of ``predictions`` x genes] of whole numbers.
    """
    names = labels_of(predictions.obs) + ":" + predictions.obs["control_cell"].astype(str)
    number = names.groupby(names).cumcount()
    names = names.where(number == 0, names + ":" + number.astype(str))
    names = names.to_numpy()
    return _by_condition(predictions, lambda X, rows: sampled_counts(X, depth_factors[rows], names[rows]))


def _within(split: pd.DataFrame, predictions: anndata.AnnData) -> anndata.AnnData:
    rows = codes_of(predictions.obs, conditions_of(split, "test")) >= 0
    return predictions if rows.all() else predictions[rows].copy()


def _by_condition(
    predictions: anndata.AnnData, made_of: Callable[[np.ndarray, np.ndarray], sparse.csr_matrix]
) -> sparse.csr_matrix:
    """Make :func:`nonnegative` predicted cells sparse, some conditions at a time: dense, they may be on disk.

    ``made_of`` gets cells [cells x genes] and their rows.
    """
    labels, rows, parts = labels_of(predictions.obs).to_numpy(), [*rows_of(predictions.obs).values()], []
    for batch in batches([len(own) for own in rows], predictions.n_vars):
        own = np.concatenate(rows[batch])
        parts.append(made_of(nonnegative(dense_rows(predictions.X, own), labels[own]), own))
    place = np.argsort(np.concatenate(rows), kind="stable")
    cells = sparse.vstack(parts, format="csr")
    return cells if np.array_equal(place, np.arange(len(place))) else cells[place]


def _sides(
    cells: anndata.AnnData,
    values: sparse.csr_matrix,
    predicted: sparse.csr_matrix,
    predictions: anndata.AnnData,
    split: pd.DataFrame,
    halved: bool,
    measured: anndata.AnnData | None = None,
) -> Sides:
    context = _only_context(split)
    measured = measured_side(cells, values, split, halved) if measured is None else measured
    controls = measured[(measured.obs[TARGET] == NON_TARGETING).to_numpy()]
    labels = [*predictions.obs["perturbation"].astype(str), *controls.obs[TARGET]]
    obs = pd.DataFrame({TARGET: labels}, index=[f"predicted{number}" for number in range(len(labels))])
    X = sparse.vstack([predicted, controls.X], format="csr")
    return Sides(measured, anndata.AnnData(X, obs=obs, var=measured.var.copy()), context, halved)


def measured_side(
    cells: anndata.AnnData, values: sparse.csr_matrix, split: pd.DataFrame, halved: bool = False
) -> anndata.AnnData:
    """Select the tested cells of a context (their second half, if ``halved``) and its controls, in the cells' order.

    Controls are those of the half ``input``, on both sides: scorers are defined with one set of controls.

    Parameters
    ----------
    values
        ``X`` or ``layers["counts"]`` of ``cells``.
    """
    conditions = conditions_of(split, "test")
    kept = codes_of(cells.obs, conditions) >= 0
    if halved:
        kept &= ~first_half(cells.obs, conditions)
    kept[input_controls(cells.obs, split)] = True
    rows = np.flatnonzero(kept)
    targets = cells.obs["perturbation"].astype(str).to_numpy().astype(object)[rows]
    targets[targets == CONTROL] = NON_TARGETING
    obs = pd.DataFrame({TARGET: targets}, index=cells.obs_names[rows])
    return anndata.AnnData(rows_of_cells(values, rows), obs=obs, var=pd.DataFrame(index=cells.var_names))


def input_controls(obs: pd.DataFrame, split: pd.DataFrame) -> np.ndarray:
    """Give the rows of the control cells of the context of ``split`` that methods see."""
    controls = rows_of(obs)[Condition(CONTROL, _only_context(split))]
    return controls[is_control_of(obs, INPUT)[controls]]
