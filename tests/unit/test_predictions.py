"""The predictions contract: what is written can be read, and what breaks the contract is refused by name."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.means import mean_cell
from scgpt_bench.errors import InputError
from scgpt_bench.predictions import anchored_cells, read_predictions, shifted_controls, write_predictions

GENES = ["A", "B", "C"]
SPLIT = pd.DataFrame({"perturbation": ["A", "B", "C"], "role": ["test", "train", "test"]})


def predicted_cells(perturbations=("A", "A", "C")):
    obs = pd.DataFrame({"perturbation": perturbations, "context": "all"})
    obs = obs.assign(control_cell=["c1", "c2", "c1"], weight=[0.5, 1.5, 1])
    return np.arange(9, dtype=np.float32).reshape(3, 3), obs


def test_mean_of_anchored_cells_is_control_mean_plus_shift():
    controls = np.random.default_rng(1).exponential(size=(100, 50)).astype(np.float32)
    control_mean, shift = np.linspace(0, 3, 50), np.linspace(-1, 1, 50)
    for weights in (np.ones(100), np.linspace(0.1, 1.9, 100)):
        for form in (controls, sparse.csr_matrix(controls)):
            cells = anchored_cells(form, weights, control_mean, shift)
            assert cells.dtype == np.float32
            mean = weights @ cells.astype(np.float64) / 100
            np.testing.assert_allclose(mean, control_mean + shift, atol=1e-7)


def test_a_mean_of_cells_that_count_alike_is_their_plain_mean_to_the_bit():
    cells = np.random.default_rng(1).exponential(size=(62, 50)).astype(np.float32)
    for form in (cells, sparse.csr_matrix(cells)):
        assert (mean_cell(form, np.ones(62)) == cells.mean(axis=0, dtype=np.float64)).all()


def test_anchored_cells_keep_the_spread_of_the_controls():
    controls = np.random.default_rng(1).exponential(size=(100, 50))
    cells = anchored_cells(controls, np.ones(100), np.zeros(50), np.ones(50))
    np.testing.assert_allclose(np.cov(cells.T), np.cov(controls.T), atol=1e-5)


def test_shifted_controls_follow_the_rows_of_the_drawn_controls():
    obs = pd.DataFrame({"perturbation": ["C", "A", "C", "A"], "weight": 1.0}, index=list("wxyz"))
    controls = anndata.AnnData(sparse.csr_matrix(np.zeros((4, 3), dtype=np.float32)), obs=obs)
    cells = shifted_controls(
        controls, [Condition("A"), Condition("C")], np.zeros((2, 3)), np.array([[1.0, 1, 1], [2.0, 2, 2]])
    )
    assert cells[:, 0].tolist() == [2, 1, 2, 1]


def test_shifted_controls_refuse_a_perturbation_without_shift():
    obs = pd.DataFrame({"perturbation": ["D"], "weight": 1.0}, index=["w"])
    controls = anndata.AnnData(np.zeros((1, 3), dtype=np.float32), obs=obs)
    with pytest.raises(InputError, match="'A'"):
        shifted_controls(controls, [Condition("A"), Condition("D")], np.zeros((2, 3)), np.zeros((2, 3)))


def test_predictions_round_trip(tmp_path):
    X, obs = predicted_cells()
    write_predictions(tmp_path / "predictions.h5ad", X, obs, GENES)
    predictions = read_predictions(tmp_path / "predictions.h5ad", GENES, SPLIT)
    np.testing.assert_array_equal(predictions.X, X)
    assert predictions.X.dtype == np.float32
    assert predictions.obs["control_cell"].tolist() == ["c1", "c2", "c1"]
    assert predictions.obs["weight"].tolist() == [0.5, 1.5, 1]


@pytest.mark.parametrize(
    ("genes", "message"),
    [(["B", "A", "C"], "order of cells.h5ad"), (["A", "B", "X"], "missing 'C'"), (["A", "B"], "2 genes")],
)
def test_other_genes_are_refused(tmp_path, genes, message):
    X, obs = predicted_cells()
    write_predictions(tmp_path / "predictions.h5ad", X[:, : len(genes)], obs, genes)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "predictions.h5ad", GENES, SPLIT)


@pytest.mark.parametrize(
    ("perturbations", "message"),
    [(["A", "A", "A"], "no cell of 'C'"), (["A", "C", "B"], "'B'; expected test conditions only")],
)
def test_missing_and_extra_perturbations_are_refused(tmp_path, perturbations, message):
    X, obs = predicted_cells(perturbations)
    write_predictions(tmp_path / "predictions.h5ad", X, obs, GENES)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "predictions.h5ad", GENES, SPLIT)


def test_a_prediction_that_is_not_finite_is_neither_written_nor_read(tmp_path):
    X, obs = predicted_cells()
    X[2, 1] = np.nan
    with pytest.raises(InputError, match="C, gene B: found nan"):
        write_predictions(tmp_path / "predictions.h5ad", X, obs, GENES)
    assert list(tmp_path.iterdir()) == []
    foreign = anndata.AnnData(X, obs=obs.set_index(pd.Index(list("xyz"))), var=pd.DataFrame(index=GENES))
    foreign.write_h5ad(tmp_path / "foreign.h5ad")
    with pytest.raises(InputError, match="1 NaN or infinite"):
        read_predictions(tmp_path / "foreign.h5ad", GENES, SPLIT)
