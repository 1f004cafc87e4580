"""Value bins of a cell over its own non-zero quantiles, and the way back to expression.

scGPT is pretrained on bins: 0 stays 0, and the non-zero values of a cell fall into bins 1 to ``n_bins - 1`` between
``n_bins - 1`` quantile edges (``scgpt.preprocess.binning``, scGPT 0.2.4). Upstream draws a bin at random for a value
that equals several edges at once (a tie). Here such a value gets the middle of the bins that the draw could give, its
expectation, so that equal values of a cell share a bin and the result is a function of the cell alone. Everywhere else
(values between edges, and values that equal one edge) upstream is deterministic and this is equal to it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from scgpt_bench.errors import InputError


def bin_cells(cells: np.ndarray | sp.csr_matrix, n_bins: int, source: str = "cells") -> tuple[np.ndarray, np.ndarray]:
    """Bin every cell over its own non-zero quantiles.

    Parameters
    ----------
    cells
        (n_cells, n_genes), values at or above 0 in any monotone scale (counts, log1p).
    n_bins
        Number of bins, the zero bin included (51 in scGPT).
    source
        The file to name in an error.

    Returns
    -------
    bins
        (n_cells, n_genes) float32, integers 0 to ``n_bins - 1``.
    edges
        (n_cells, n_bins - 1) float32, the ascending quantile edges; all 0 for a cell without counts.

    Raises
    ------
    InputError
        For fewer than 3 bins, and for values that are negative or not finite.
    """
    if n_bins < 3:
        raise InputError(source, "n_bins", str(n_bins), "at least 3 bins, one of them for zero")
    matrix = sp.csr_matrix(cells, dtype=np.float32)
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        faulty = matrix.data[~np.isfinite(matrix.data) | (matrix.data < 0)][0]
        raise InputError(source, "X", str(faulty), "finite expression values at or above 0")
    bins = np.zeros(matrix.shape, dtype=np.float32)
    edges = np.zeros((matrix.shape[0], n_bins - 1), dtype=np.float32)
    steps = np.linspace(0, 1, n_bins - 1)
    for row, (start, end) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        expressed = matrix.data[start:end] > 0
        values, genes = matrix.data[start:end][expressed], matrix.indices[start:end][expressed]
        if values.size:
            # numpy.quantile is slow on the few values of one cell: binning took four times as long with it.
            edges[row] = np.interp(steps * (values.size - 1), np.arange(values.size), np.sort(values))
            bins[row, genes] = _middle_bin(values, edges[row])
    return bins, edges


def expression_of_bins(bins: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Compute the expression that (fractional) bins of a cell stand for, in the scale that the cell was binned in.

    A whole bin stands for the middle of its interval, the last one for the cell's largest value, 0 for 0; between two
    bins the expression is interpolated. Values outside the bins are clipped to them.

    Parameters
    ----------
    bins
        (n_cells, n_genes), any real numbers.
    edges
        (n_cells, n_bins - 1) of the same cells.

    Returns
    -------
    (n_cells, n_genes) float32.
    """
    upper = np.concatenate([edges[:, 1:], edges[:, -1:]], axis=1)
    levels = np.concatenate([np.zeros_like(edges[:, :1]), (edges + upper) / 2], axis=1)  # (n_cells, n_bins)
    bins = np.clip(bins, 0, edges.shape[1])
    below = np.minimum(bins.astype(np.int64), edges.shape[1] - 1)
    low, high = np.take_along_axis(levels, below, axis=1), np.take_along_axis(levels, below + 1, axis=1)
    return (low + (bins - below) * (high - low)).astype(np.float32)


def _middle_bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Compute the expectation, as a whole bin, of upstream's uniform draw from the bins ``right + 1`` to ``left``."""
    left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
    return (left + right + 1) // 2
