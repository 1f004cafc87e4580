"""What a bin means: zeros stay zero, order is kept, equal values share a bin, and expression is recovered."""

import numpy as np
import pytest
import scipy.sparse as sp

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import binning


def counts(n_cells=40, n_genes=300, mean=1.5, seed=0):
    generator = np.random.default_rng(seed)
    return np.log1p(generator.poisson(generator.gamma(2, mean / 2, size=(n_cells, n_genes)))).astype(np.float32)


def test_zeros_stay_zero_and_expressed_genes_are_in_bins_1_to_50():
    cells = counts()
    bins, edges = binning.bin_cells(cells, 51)
    assert ((bins == 0) == (cells == 0)).all()
    assert bins.max() <= 50
    assert edges.shape == (40, 50)
    assert (np.diff(edges, axis=1) >= 0).all()


def test_bins_keep_the_order_of_values_and_equal_values_share_a_bin():
    for cell, bins in zip(counts(), binning.bin_cells(counts(), 51)[0], strict=True):
        order = np.argsort(cell, kind="stable")
        assert (np.diff(bins[order]) >= 0).all()
        for value in np.unique(cell):
            assert len(np.unique(bins[cell == value])) == 1


def test_bins_do_not_depend_on_the_sparse_layout_or_on_other_cells():
    cells = counts()
    bins, edges = binning.bin_cells(cells, 51)
    stored_zeros = sp.csr_matrix(np.ones_like(cells))
    stored_zeros.data[:] = cells.ravel()
    np.testing.assert_array_equal(binning.bin_cells(stored_zeros, 51)[0], bins)
    np.testing.assert_array_equal(binning.bin_cells(cells[7:8], 51)[0], bins[7:8])
    np.testing.assert_array_equal(binning.bin_cells(cells[7:8], 51)[1], edges[7:8])


def test_the_way_back_gives_an_expression_within_the_bin():
    cells = np.random.default_rng(1).gamma(2.0, size=(10, 500)).astype(np.float32)
    bins, edges = binning.bin_cells(cells, 51)
    back = binning.expression_of_bins(bins, edges)
    index = bins.astype(int)
    low = np.take_along_axis(edges, index - 1, axis=1)
    high = np.take_along_axis(edges, np.minimum(index, 49), axis=1)
    assert (back >= low - 1e-6).all()
    assert (back <= high + 1e-6).all()


def test_the_way_back_is_monotone_continuous_and_clipped_to_the_cell():
    cells = counts()
    _, edges = binning.bin_cells(cells, 51)
    ladder = np.tile(np.linspace(-3, 55, 2000, dtype=np.float32), (len(cells), 1))
    back = binning.expression_of_bins(ladder, edges)
    assert (np.diff(back, axis=1) >= 0).all()
    np.testing.assert_array_equal(back[:, 0], 0)
    np.testing.assert_allclose(back[:, -1], cells.max(axis=1), rtol=1e-6)


def test_a_cell_without_counts_is_all_zero_both_ways():
    bins, edges = binning.bin_cells(np.zeros((2, 9)), 51)
    assert not bins.any()
    assert not binning.expression_of_bins(np.full((2, 9), 20.0), edges).any()


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_are_no_expression_are_refused(value):
    cells = counts()
    cells[3, 5] = value
    with pytest.raises(InputError, match="finite expression values at or above 0"):
        binning.bin_cells(cells, 51, "atlas.h5ad")


def test_fewer_than_three_bins_are_refused():
    with pytest.raises(InputError, match="n_bins"):
        binning.bin_cells(counts(), 2)
