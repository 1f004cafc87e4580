"""Means over the cells of each perturbation, measured or predicted."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.controls import matched_control_mean
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import add_rows, row_chunks, rows
from scgpt_bench.errors import InputError
from scgpt_bench.methods.predictions import mean_cell, perturbations_of
from scgpt_bench.seeding import random_generator


def group_means(
    X: sparse.csr_matrix | np.ndarray, labels: Sequence[str], groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the rows of each group, in float64, reading each row of the groups once and no other row.

    A group's mean depends on its own rows only, to the bit: neither other groups nor their order matter.

    Parameters
    ----------
    X
        Cells [cells x genes], CSR or dense, in memory or on disk.
    labels
        The group of each cell; cells of other groups, or of none (NaN), are not read.
    groups
        The groups to average, in the order of the result.

    Returns
    -------
    means : float64 [groups x genes]; NaN for a group without cells
    n_cells : int64 [groups]
    """
    codes = pd.Categorical(np.asarray(labels, dtype=object), categories=list(groups)).codes
    sums = np.zeros((len(groups), X.shape[1]))
    for start, chunk in row_chunks(X, read=codes >= 0):
        add_rows(sums, chunk, codes[start : start + chunk.shape[0]])
    n_cells = np.bincount(codes[codes >= 0], minlength=len(groups))
    with np.errstate(invalid="ignore"):
        return sums / n_cells[:, None], n_cells


def responses(cells: anndata.AnnData) -> tuple[list[str], pd.DataFrame]:
    """What every perturbation of a data set did: its pseudo-bulk minus the matched control mean.

    Returns
    -------
    perturbations : sorted by name, without ``control``
    deltas : float64 [perturbations x genes]
    """
    labels = cells.obs["perturbation"].astype(str)
    perturbations = sorted(set(labels) - {CONTROL})
    means, _ = group_means(cells.X, labels, perturbations)
    deltas = means - matched_control_mean(cells, perturbations)
    return perturbations, pd.DataFrame(deltas, index=perturbations, columns=cells.var_names)


def truth(cells: anndata.AnnData, split: pd.DataFrame) -> anndata.AnnData:
    """The measured answer: test perturbations x genes.

    Returns
    -------
    AnnData, perturbations sorted by name, with

    - ``X``: the pseudo-bulk means (float64);
    - ``layers["control"]``: the mean of all control cells that each perturbation is compared with;
    - ``layers["centroid"]``: the same plus the mean shift of the training perturbations, the reference of
      ``pearson_delta_centroid``;
    - ``layers["half_b"]``: the mean of the second half of its cells (all but :func:`first_half`), against which a
      technical duplicate is scored;
    - ``obs["n_cells"]``.
    """
    perturbations = perturbations_of(split, "test")
    means, n_cells = group_means(cells.X, cells.obs["perturbation"].astype(str), perturbations)
    if not n_cells.all():
        absent = perturbations[int(np.argmin(n_cells))]
        raise InputError(
            "split.tsv", "perturbation", f"{absent!r} without a cell in cells.h5ad", "measured perturbations"
        )
    control = np.asarray(matched_control_mean(cells, perturbations), dtype=np.float64)
    second_half = cells.obs["perturbation"].astype(str).mask(first_half(cells.obs, perturbations))
    layers = {
        "control": control,
        "centroid": control + _mean_training_shift(cells, split),
        "half_b": group_means(cells.X, second_half, perturbations)[0],
    }
    obs = pd.DataFrame({"n_cells": n_cells}, index=pd.Index(perturbations, name="perturbation"))
    return anndata.AnnData(means, obs=obs, var=pd.DataFrame(index=cells.var_names), layers=layers)


def _mean_training_shift(cells: anndata.AnnData, split: pd.DataFrame) -> np.ndarray:
    perturbations = perturbations_of(split, "train")
    means, _ = group_means(cells.X, cells.obs["perturbation"].astype(str), perturbations)
    return (means - matched_control_mean(cells, perturbations)).mean(axis=0)


def cells_of(cells: anndata.AnnData, names: Sequence[str]) -> anndata.AnnData:
    """The cells of some perturbations, in memory, in their order; ``cells`` may be on disk."""
    wanted = np.flatnonzero(cells.obs["perturbation"].isin(names))
    return anndata.AnnData(rows(cells.X, wanted), obs=cells.obs.iloc[wanted], var=cells.var)


def first_half(obs: pd.DataFrame, perturbations: Sequence[str]) -> np.ndarray:
    """Mask [cells] of a random half, rounded down, of the cells of each perturbation; depends on names only."""
    mask = np.zeros(len(obs), dtype=bool)
    rows_of = obs.groupby(obs["perturbation"].astype(str)).indices
    for perturbation in perturbations:
        own = rows_of[perturbation]
        own = own[np.argsort(obs.index[own])]
        drawn = random_generator(0, "half", perturbation).permutation(len(own))[: len(own) // 2]
        mask[own[drawn]] = True
    return mask


def pseudobulk(predictions: anndata.AnnData) -> anndata.AnnData:
    """The mean predicted cell of each perturbation, sorted by name, with ``obs["n_cells"]`` and ``uns["method"]``.

    Predicted cells count in it by their ``weight`` (:func:`predictions.mean_cell`).
    """
    rows_of = predictions.obs.groupby(predictions.obs["perturbation"].astype(str)).indices
    perturbations, weights = sorted(rows_of), predictions.obs["weight"].to_numpy()
    means = [mean_cell(predictions.X[rows_of[name]], weights[rows_of[name]]) for name in perturbations]
    n_cells = [len(rows_of[name]) for name in perturbations]
    obs = pd.DataFrame({"n_cells": n_cells}, index=pd.Index(perturbations, name="perturbation"))
    var = pd.DataFrame(index=predictions.var_names)
    return anndata.AnnData(np.stack(means), obs=obs, var=var, uns={"method": predictions.uns["method"]})
