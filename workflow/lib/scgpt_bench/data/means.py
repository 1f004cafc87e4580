"""Means over cells, and the cells that they are over: what methods and their evaluation both need."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.on_disk import add_rows, row_chunks, rows
from scgpt_bench.seeding import random_generator

FEWEST = 3  # of anything: one or two cells, perturbations or genes have no spread that says anything


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


def mean_cell(cells: sparse.csr_matrix | np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of one perturbation's drawn or predicted cells, in which cell types count as among its measured cells.

    A cell type with few control cells has fewer in the draw than its share. ``weights``, that is ``obs["weight"]`` of
    ``controls.h5ad`` and ``predictions.h5ad``, make up for it.

    Parameters
    ----------
    cells
        [cells x genes], sparse or dense.
    weights
        float64 [cells].

    Returns
    -------
    float64 [genes]
    """
    dense = cells.toarray() if sparse.issparse(cells) else np.asarray(cells)
    return np.average(dense, axis=0, weights=weights)


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
