"""Pseudo-bulks are means over the cells of a perturbation, measured or predicted."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved, measure
from predicted import write_whole
from scgpt_bench.data.controls import control_cells, draw_controls
from scgpt_bench.data.means import group_means
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.pseudobulk import add_untested, pseudobulk, replace_centroid, truth
from scgpt_bench.files import read_h5ad, write_h5ad
from scgpt_bench.predictions import read_predictions

SPLIT = pd.DataFrame({"perturbation": ["B", "A", "C"], "role": ["test", "test", "train"]})


def cells():
    X = np.array([[2, 2], [2, 2], [1, 0], [3, 0], [8, 8], [5, 5]], dtype=np.float32)
    obs = pd.DataFrame({"perturbation": ["control", "control", "B", "B", "A", "C"], "cell_type": "T"})
    obs.index = [f"cell{i}" for i in range(6)]
    return anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=["G1", "G2"]))


def test_group_means_equal_a_plain_loop_for_sparse_and_dense_cells_scattered_or_side_by_side():
    random = np.random.default_rng(3)
    X = np.where(random.random((500, 40)) < 0.2, random.random((500, 40)), 0).astype(np.float32)
    scattered = random.choice(["a", "b", "c", "unused"], 500)
    for labels in (scattered, np.sort(scattered)):
        expected = [X[labels == name].astype(np.float64).mean(axis=0) for name in ("c", "a", "b")]
        for form in (X, sparse.csr_matrix(X)):
            means, n_cells = group_means(form, labels, ["c", "a", "b"])
            np.testing.assert_allclose(means, expected, rtol=1e-12)
            assert n_cells.tolist() == [(labels == name).sum() for name in ("c", "a", "b")]


def test_a_group_mean_does_not_depend_on_other_cells_by_one_bit():
    random = np.random.default_rng(3)
    X, labels = random.random((300, 20)).astype(np.float32), random.choice(["a", "b"], 300)
    changed = np.where((labels == "b")[:, None], 1e6, X).astype(np.float32)
    assert (group_means(X, labels, ["a"])[0] == group_means(changed, labels, ["b", "a"])[0][1]).all()


def test_a_group_without_cells_has_no_mean():
    means, n_cells = group_means(np.ones((2, 3)), ["a", "a"], ["a", "b"])
    assert n_cells.tolist() == [2, 0]
    assert np.isnan(means[1]).all()


def test_truth_holds_means_controls_and_numbers_of_cells_of_test_perturbations():
    answer = truth(measure(cells()), SPLIT)
    assert answer.obs_names.tolist() == ["A", "B"]
    np.testing.assert_array_equal(answer.X, [[8, 8], [2, 0]])
    np.testing.assert_array_equal(answer.layers["reference_input"], [[2, 2], [2, 2]])
    assert answer.obs["n_cells"].tolist() == [1, 2]
    assert answer.X.dtype == np.float64


def test_truth_holds_the_mean_of_the_second_half_of_the_cells():
    answer = truth(measure(cells()), SPLIT)
    assert answer["A"].layers["half_b"].tolist() == [[8, 8]], "the first half of one cell is empty"
    assert answer["B"].layers["half_b"].tolist() in ([[1, 0]], [[3, 0]])


def test_truth_holds_the_centroid_of_the_training_perturbations():
    np.testing.assert_array_equal(truth(measure(cells()), SPLIT).layers["centroid"], [[5, 5], [5, 5]])


def test_truth_of_a_point_of_a_learning_curve_is_that_of_its_whole_split_with_another_centroid(tmp_path):
    random = np.random.default_rng(5)
    many = anndata.AnnData(sparse.csr_matrix(random.random((90, 7))), obs=pd.DataFrame(index=map(str, range(90))))
    many.obs["perturbation"], many.obs["cell_type"] = random.permutation(["control", *"ABCDEFGH"] * 10), "T"
    roles = dict(zip("HCAFBDEG", ["test", "test", *["train"] * 4, "validation", "validation"], strict=True))
    whole = pd.DataFrame({"perturbation": [*roles], "role": roles.values()})
    point = whole[~whole["perturbation"].isin(["A", "B"])]
    shares = measure(many)
    write_h5ad(add_untested(truth(shares, whole), shares), tmp_path / "truth.h5ad")
    found = read_h5ad(tmp_path / "truth.h5ad")
    replace_centroid(found, point)
    expected = add_untested(truth(shares, point), shares)
    assert not np.array_equal(found.layers["centroid"][:2], truth(shares, whole).layers["centroid"])
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert {*found.layers} == {*expected.layers}
    np.testing.assert_array_equal(found.X, expected.X)
    for name in expected.layers:
        np.testing.assert_array_equal(found.layers[name], expected.layers[name])


def test_truth_refuses_a_test_perturbation_without_cells():
    split = pd.DataFrame({"perturbation": ["A", "Z"], "role": "test"})
    with pytest.raises(InputError, match="'Z' without a cell"):
        truth(measure(cells()), split)


def test_pseudobulk_averages_predicted_cells_by_their_weight(tmp_path):
    obs = pd.DataFrame(
        {"perturbation": ["B", "A", "B"], "context": "all", "control_cell": ["x", "x", "y"], "weight": [0.5, 1, 1.5]}
    )
    X = np.array([[1, 1], [5, 6], [3, 1]], dtype=np.float32)
    write_whole(tmp_path / "predictions.h5ad", X, obs, ["G1", "G2"])
    predictions = read_predictions(tmp_path / "predictions.h5ad", ["G1", "G2"], SPLIT)
    means = pseudobulk(predictions)
    assert means.obs_names.tolist() == ["A", "B"]
    np.testing.assert_array_equal(means.X, [[5, 6], [2.5, 1]])
    assert means.obs["n_cells"].tolist() == [1, 2]


def test_a_prediction_that_is_right_for_every_control_cell_is_right_however_few_there_are_of_a_type():
    """B is measured half in type T and half in type R, and 3 of its 13 drawn control cells are of type R."""
    labels = np.repeat(["control", "control", "B", "B", "A", "C"], [80, 6, 10, 10, 10, 10])
    types = np.repeat(["T", "R", "T", "R", "T", "T"], [80, 6, 10, 10, 10, 10])
    X = np.array([[2, 0] if name == "T" else [0, 6] for name in types]) + np.where(labels == "B", 1, 0)[:, None]
    obs = pd.DataFrame({"perturbation": labels, "batch": "b", "cell_type": types, "context": "all", "direction": "up"})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    measured = anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs, var=pd.DataFrame(index=["G1", "G2"]))
    draw = draw_controls(halved(measured).obs, SPLIT, per_perturbation=20, seed=1, dataset="small", split_name="fold0")
    controls = control_cells(measured, draw)
    predicted = controls.X.toarray() + (controls.obs["perturbation"] == "B").to_numpy()[:, None]
    predictions = anndata.AnnData(predicted, obs=controls.obs, var=measured.var)
    means = pseudobulk(predictions)
    assert means.obs["n_cells"].tolist() == [20, 13]
    np.testing.assert_allclose(means.X, truth(measure(measured), SPLIT).X, atol=1e-6)
