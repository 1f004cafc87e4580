"""The predictions contract: what is written can be read, and what breaks the contract is refused by name."""

import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from predicted import whole, with_rows, write_whole
from scgpt_bench.data import on_disk
from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.controls import draw_controls, open_controls, write_control_cells
from scgpt_bench.data.halves import deal_halves
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.pseudobulk import pseudobulk
from scgpt_bench.files import read_h5ad
from scgpt_bench.methods import baselines
from scgpt_bench.predictions import anchored_cells, gather, read_predictions, shifted_controls, writing
from scgpt_bench.unmeasured.changes import changes
from scgpt_bench.unmeasured.changes import write as write_changes

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


def test_shifted_controls_are_written_by_condition_with_their_rows():
    obs = pd.DataFrame({"perturbation": ["C", "A", "C", "A"], "weight": 1.0}, index=list("wxyz"))
    controls = anndata.AnnData(sparse.csr_matrix(np.zeros((4, 3), dtype=np.float32)), obs=obs)
    conditions, shifts = [Condition("A"), Condition("C")], np.array([[1.0, 1, 1], [2.0, 2, 2]])
    cells, rows, _ = with_rows(shifted_controls, controls, conditions, np.zeros((2, 3)), shifts)
    assert cells[:, 0].tolist() == [1, 1, 2, 2]
    assert rows.index.tolist() == ["x", "z", "w", "y"]


def test_shifted_controls_refuse_a_perturbation_without_shift():
    obs = pd.DataFrame({"perturbation": ["D"], "weight": 1.0}, index=["w"])
    controls = anndata.AnnData(np.zeros((1, 3), dtype=np.float32), obs=obs)
    with pytest.raises(InputError, match="'A'"):
        whole(shifted_controls, controls, [Condition("A"), Condition("D")], np.zeros((2, 3)), np.zeros((2, 3)))


def test_predictions_are_the_same_bytes_however_they_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "STORED_AT_ONCE", 12)  # values: four rows
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": list("AAAAACCCCC"), "context": "all", "control_cell": list("vwxyzvwxyz")})
    obs = obs.astype("category").assign(weight=1.0)
    write_whole(tmp_path / "whole.h5ad", X, obs, GENES)
    with writing(tmp_path / "parts.h5ad", GENES) as write:
        for part in (slice(0, 3), slice(3, 5), slice(5, 6), slice(6, 10)):
            own = obs.iloc[part].astype({"control_cell": str})
            write(X[part], own.astype({"control_cell": "category"}))
    assert (tmp_path / "parts.h5ad").read_bytes() == (tmp_path / "whole.h5ad").read_bytes()
    np.testing.assert_array_equal(read_h5ad(tmp_path / "parts.h5ad").X, X)


def peak_of(folder, n):
    """Bytes in use at most while ``n`` perturbations x 50 cells x 2,000 genes are drawn, predicted and averaged."""
    generator, genes = np.random.default_rng(0), [f"G{number}" for number in range(2000)]
    X = sparse.csr_matrix(generator.poisson(0.5, (400, 2000)).astype(np.float32))
    obs = pd.DataFrame({"perturbation": ["control"] * 300 + ["G0"] * 50 + ["G1"] * 50, "context": "all"})
    obs = obs.assign(direction="down", batch="all", cell_type="all").set_axis([f"cell{i}" for i in range(400)])
    obs["half"] = deal_halves(obs)
    anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(folder / "cells.h5ad")
    names = [f"G{number}" for number in range(2, n + 2)]
    split = pd.DataFrame({"perturbation": ["G0", "G1", *names], "context": "all", "role": ["train"] * 2 + ["test"] * n})
    tracemalloc.start()
    cells = open_h5ad(folder / "cells.h5ad")
    directions = {Condition(name): "down" for name in names}
    draw = draw_controls(
        cells.obs, split, per_perturbation=50, seed=1, dataset="d", split_name="s", direction_of=directions
    )
    write_control_cells(cells, draw, folder / "controls.h5ad")
    controls = open_controls(folder / "controls.h5ad")
    with writing(folder / "predictions.h5ad", genes) as write:
        baselines.predict(cells, split, controls, baselines.train_mean, write=write)
    predictions = read_predictions(folder / "predictions.h5ad", genes, split)
    write_changes(changes([predictions], controls), folder / "changes.parquet")
    pseudobulk(predictions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.long
def test_memory_does_not_grow_with_the_predicted_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk.row_chunks, "__defaults__", (2**20, None))
    monkeypatch.setattr(on_disk.batches, "__defaults__", (2**22,))
    few, many = (peak_of(tmp_path, n) for n in (50, 250))
    print(few / 1e6, many / 1e6)
    assert many - few < 0.25 * 200 * 50 * 2000 * 4  # what the cells of 200 more perturbations would take


def test_shards_are_put_together_by_condition(tmp_path):
    X, obs = predicted_cells(["C", "A", "A"])
    for name, part in (("one", slice(1)), ("two", slice(1, 3))):
        write_whole(tmp_path / f"{name}.h5ad", X[part], obs[part], GENES)
    cells, rows, _ = with_rows(gather, [open_h5ad(tmp_path / f"{name}.h5ad") for name in ("one", "two")])
    assert rows["perturbation"].tolist() == ["A", "A", "C"]
    np.testing.assert_array_equal(cells, X[[1, 2, 0]])


def test_predictions_round_trip(tmp_path):
    X, obs = predicted_cells()
    write_whole(tmp_path / "predictions.h5ad", X, obs, GENES)
    predictions = read_predictions(tmp_path / "predictions.h5ad", GENES, SPLIT)
    np.testing.assert_array_equal(predictions.X[:], X)
    assert predictions.X.dtype == np.float32
    assert predictions.obs["control_cell"].tolist() == ["c1", "c2", "c1"]
    assert predictions.obs["weight"].tolist() == [0.5, 1.5, 1]


@pytest.mark.parametrize(
    ("genes", "message"),
    [(["B", "A", "C"], "order of cells.h5ad"), (["A", "B", "X"], "missing 'C'"), (["A", "B"], "2 genes")],
)
def test_other_genes_are_refused(tmp_path, genes, message):
    X, obs = predicted_cells()
    write_whole(tmp_path / "predictions.h5ad", X[:, : len(genes)], obs, genes)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "predictions.h5ad", GENES, SPLIT)


@pytest.mark.parametrize(
    ("perturbations", "message"),
    [(["A", "A", "A"], "no cell of 'C'"), (["A", "C", "B"], "'B'; expected test conditions only")],
)
def test_missing_and_extra_perturbations_are_refused(tmp_path, perturbations, message):
    X, obs = predicted_cells(perturbations)
    write_whole(tmp_path / "predictions.h5ad", X, obs, GENES)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "predictions.h5ad", GENES, SPLIT)


def test_a_prediction_that_is_not_finite_is_neither_written_nor_read(tmp_path):
    X, obs = predicted_cells()
    X[2, 1] = np.nan
    with pytest.raises(InputError, match="C, gene B: found nan"):
        write_whole(tmp_path / "predictions.h5ad", X, obs, GENES)
    assert list(tmp_path.iterdir()) == []
    foreign = anndata.AnnData(X, obs=obs.set_index(pd.Index(list("xyz"))), var=pd.DataFrame(index=GENES))
    foreign.write_h5ad(tmp_path / "foreign.h5ad")
    with pytest.raises(InputError, match="1 NaN or infinite"):
        read_predictions(tmp_path / "foreign.h5ad", GENES, SPLIT)
