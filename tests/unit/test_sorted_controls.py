"""Control cells that are sorted once: pdex says of them what it says of them as they come."""

import anndata
import numpy as np
import pandas as pd
import pdex
import pytest
from scipy import sparse

from scgpt_bench.evaluation.sorted_controls import sorted_controls

CONTROLS, CELLS, GENES = 60, 25, 40
OPTIONS = {"is_log1p": True, "as_pandas": True, "reference": "control", "threads": 1}


@pytest.fixture(scope="module")
def cells():
    """Values with many zeros and many ties, as of counts, and a gene without any."""
    X = np.log1p(np.random.default_rng(1).poisson(0.8, (CONTROLS + 2 * CELLS, GENES)))
    X[:, 7] = 0
    labels = ["control"] * CONTROLS + ["A"] * CELLS + ["B"] * CELLS
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{number}" for number in range(len(X))])
    genes = pd.DataFrame(index=[f"G{number}" for number in range(GENES)])
    return anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=genes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_the_same_to_the_bit(cells, dtype):
    cells = anndata.AnnData(cells.X.astype(dtype), obs=cells.obs, var=cells.var)
    before, index_of = cells.X.copy(), pdex.sparse_column_index
    expected = pdex.pdex(cells, "perturbation", **OPTIONS)
    with sorted_controls():
        found = pdex.pdex(cells, "perturbation", **OPTIONS)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert expected["p_value"].nunique() > GENES
    assert (before != cells.X).nnz == 0, "the cells stay as they are"
    assert pdex.sparse_column_index is index_of


def test_one_cell_stands_for_control_cells_that_are_sorted_once(cells):
    expected = pdex.pdex(cells, "perturbation", **OPTIONS)
    controls = cells.X[:CONTROLS]
    mean = sparse.csr_matrix(controls.mean(axis=0))
    with sorted_controls(controls):
        tables = []
        for label in "AB":
            own = cells[cells.obs["perturbation"] == label]
            obs = pd.DataFrame({"perturbation": [*own.obs["perturbation"], "control"]}, index=[*own.obs_names, "mean"])
            part = anndata.AnnData(sparse.vstack([own.X, mean], format="csr"), obs=obs, var=cells.var)
            tables.append(pdex.pdex(part, "perturbation", **OPTIONS))
    found = pd.concat(tables, ignore_index=True)
    np.testing.assert_array_equal(found[["p_value", "statistic", "fdr"]], expected[["p_value", "statistic", "fdr"]])
    np.testing.assert_allclose(found["log2_fold_change"], expected["log2_fold_change"], rtol=1e-12)
