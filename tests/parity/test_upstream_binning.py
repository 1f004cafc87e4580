"""Bins equal upstream's where upstream is deterministic, and lie in the middle of its draws where it is not."""

import numpy as np
import pytest
import torch
from scgpt import preprocess

from scgpt_bench.scgpt import binning


@pytest.mark.parametrize("n_genes", [30, 200, 2000])
def test_bins_of_distinct_values_equal_upstream(n_genes):
    generator = np.random.default_rng(n_genes)
    cells = (generator.gamma(2.0, size=(20, n_genes)) * (generator.random((20, n_genes)) < 0.6)).astype(np.float32)
    cells[:, 0] = 0
    bins, _ = binning.bin_cells(cells, 51)
    for cell, ours in zip(cells, bins, strict=True):
        np.testing.assert_array_equal(ours, preprocess.binning(torch.from_numpy(cell), 51).numpy())


def test_a_tied_value_gets_the_middle_of_the_bins_that_upstream_draws_from():
    cell = np.repeat(np.array([0, 1, 2, 5], dtype=np.float32), [10, 60, 30, 10])
    bins, _ = binning.bin_cells(cell[None], 51)
    np.random.seed(0)  # noqa: NPY002 - upstream draws from the global generator
    draws = np.stack([preprocess.binning(cell, 51) for _ in range(300)])
    for value in (1, 2, 5):
        drawn = draws[:, cell == value]
        ours = np.unique(bins[0, cell == value])
        assert len(ours) == 1
        assert ours[0] == (int(drawn.min()) + int(drawn.max())) // 2
        assert abs(ours[0] - drawn.mean()) < 1
    assert (bins[0, cell == 0] == 0).all()
