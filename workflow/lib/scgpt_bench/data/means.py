"""Means over cells, and the cells that they are over: what methods and their evaluation both need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import Condition, codes_of, rows_of
from scgpt_bench.data.halves import is_control_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import add_rows, row_chunks, rows
from scgpt_bench.errors import InputError
from scgpt_bench.seeding import random_generator

FEWEST = 3  # of anything: one or two cells, perturbations or genes have no spread that says anything


def group_means(
    X: sparse.csr_matrix | np.ndarray, labels: Sequence[Any], groups: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Average the rows of each group, in float64, reading each row of the groups once and no other row.

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
    """Average one condition's drawn or predicted cells; cell types count as among its measured cells.

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


def condition_means(cells: anndata.AnnData, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
    """Average the cells of each condition (:func:`group_means`).

    Parameters
    ----------
    cells
        ``cells.h5ad``, in memory or on disk.

    Returns
    -------
    means : float64 [conditions x genes]
    n_cells : int64 [conditions]

    Raises
    ------
    InputError
        For a condition without a cell.
    """
    means, n_cells = group_means(cells.X, codes_of(cells.obs, conditions), range(len(conditions)))
    if not n_cells.all():
        absent = conditions[int(np.argmin(n_cells))].label
        found = f"{absent!r} without a cell in cells.h5ad"
        raise InputError("split.tsv", "perturbation", found, "measured conditions")
    return means, n_cells


def cells_of(
    cells: anndata.AnnData,
    conditions: Sequence[Condition],
    half: str,
    read: Callable[[Any, np.ndarray], sparse.csr_matrix] = rows,
) -> anndata.AnnData:
    """Read the cells of some conditions, in their order; of control cells those of ``half``, if they are listed.

    ``cells`` may be on disk; ``read`` makes a matrix of the rows of X that are asked for.
    """
    others = (cells.obs["perturbation"] == CONTROL).to_numpy() & ~is_control_of(cells.obs, half)
    wanted = np.flatnonzero((codes_of(cells.obs, conditions) >= 0) & ~others)
    return anndata.AnnData(read(cells.X, wanted), obs=cells.obs.iloc[wanted], var=cells.var)


def first_half(obs: pd.DataFrame, conditions: Sequence[Condition]) -> np.ndarray:
    """Draw a random half, rounded down, of the cells of each condition, by names only: a mask [cells]."""
    mask, own_rows = np.zeros(len(obs), dtype=bool), rows_of(obs)
    for condition in conditions:
        own = own_rows[condition]
        own = own[np.argsort(obs.index[own])]
        drawn = random_generator(0, "half", *condition.drawn_for).permutation(len(own))[: len(own) // 2]
        mask[own[drawn]] = True
    return mask
