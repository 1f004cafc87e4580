"""Control cells sorted once by gene, for the Wilcoxon tests of pdex 0.3.0.

pdex reads the control cells of a gene from all over memory and sorts them again for every perturbation. Its test takes
them in any order: sorted and side by side, it is twice as fast, and its results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pdex
from pdex._math import SparseColumnIndex
from scipy import sparse


def by_gene(cells: sparse.csr_matrix) -> SparseColumnIndex:
    """Make the index of pdex's tests from values [cells x genes] that are not negative, sorted within each gene."""
    columns = cells.tocsc().astype(np.float64, copy=False)
    for start, stop in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
        columns.data[start:stop].sort()
    places = np.arange(columns.nnz)
    return SparseColumnIndex(columns.data, columns.indptr.astype(np.int64), places, *columns.shape)


@contextmanager
def sorted_controls(same: sparse.csr_matrix | None = None) -> Iterator[None]:
    """Let pdex sort the control cells of its tests by gene, once in each call.

    With ``same``, log1p values [cells x genes], all calls compare with those, which are sorted once: the control cells
    of the data that pdex is given then count for its means alone, and one cell, their mean, can stand for all of them.
    """
    index_of, made = pdex.sparse_column_index, None if same is None else by_gene(same)
    pdex.sparse_column_index = by_gene if made is None else lambda _: made
    try:
        yield
    finally:
        pdex.sparse_column_index = index_of
