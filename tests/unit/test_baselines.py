"""Baselines on experiments whose answer is known."""

import time
import tracemalloc
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved
from predicted import whole
from registered import SIMPLE
from scgpt_bench.data.conditions import Condition, conditions_of, table_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.data.references import references
from scgpt_bench.methods.baselines import (
    additive,
    coexpression,
    control_mean,
    forest,
    knn,
    predict,
    read_embeddings,
    ridge,
    target_only,
    train_mean,
    tuned_simple,
    type_mean,
)
from scgpt_bench.methods.training_data import (
    ToPredict,
    TrainingData,
    changes_of_cell_types,
    to_predict,
    training_data,
)


def experiment(shifts, roles, cells_each=None):
    """Control cells around one profile; perturbation p is, without noise, the profile plus shifts[p]."""
    genes = [f"G{i}" for i in range(len(next(iter(shifts.values()))))]
    profile = np.linspace(1, 2, len(genes))
    spread = np.random.default_rng(1).normal(0, 0.1, (20, len(genes)))
    blocks, labels = [profile + spread - spread.mean(axis=0)], ["control"] * 20
    for name, shift in shifts.items():
        n = (cells_each or {}).get(name, 3)
        blocks.append(np.tile(profile + np.asarray(shift, dtype=float), (n, 1)))
        labels += [name] * n
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(labels))])
    X = np.concatenate(blocks).astype(np.float32)
    cells = halved(anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=genes)))
    for half in ("input", "truth"):  # both have the profile as their mean
        own = (cells.obs["half"] == half).to_numpy()
        X[own] += (profile - X[own].mean(axis=0)).astype(np.float32)
    cells.X = sparse.csr_matrix(X)
    split = pd.DataFrame({"perturbation": list(roles), "role": list(roles.values())})
    return cells, split


def data(cells, split):
    tested = conditions_of(split, "test")
    names = [condition.perturbation for condition in tested]
    cells = halved(cells)
    training = replace(training_data(cells, split), of_cell_types=changes_of_cell_types(cells, split, ["all"])["all"])
    of_type = pd.DataFrame({"T": 1.0}, index=names)
    return training, ToPredict(names, references(cells, tested, INPUT), of_type)


def drawn(cells, perturbation="G3"):
    """Four control cells for one perturbation, in the form of controls.h5ad."""
    controls = cells[np.flatnonzero(cells.obs["half"] == "input")[:4]].copy()
    controls.obs["perturbation"], controls.obs["weight"] = perturbation, 1.0
    controls.varm["control_mean"] = references(halved(cells), [Condition(perturbation)], INPUT).T
    controls.uns["control_mean_of"] = table_of([Condition(perturbation)])
    return controls


SHIFTS = {"G0": [1, 0, 0, 0], "G1": [0, 3, 0, 0], "G2": [0, 0, 7, 0], "G3": [9, 9, 9, 9]}
ROLES = {"G0": "train", "G1": "train", "G2": "validation", "G3": "test"}


def test_training_data_holds_training_and_validation_perturbations_and_no_other():
    training = training_data(*experiment(SHIFTS, ROLES))
    assert training.perturbations == ["G0", "G1", "G2"]
    np.testing.assert_allclose(training.shifts, [[1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 7, 0]], atol=1e-6)


def test_control_mean_changes_nothing():
    shifts = control_mean(*data(*experiment(SHIFTS, ROLES)))
    assert shifts.values.shape == (1, 4)
    assert (shifts.values == 0).all()


def test_train_mean_counts_each_perturbation_once_or_each_cell_once():
    training, test = data(*experiment(SHIFTS, ROLES, cells_each={"G0": 2, "G1": 6}))
    by_perturbation = train_mean(training, test, scaled=False).values
    np.testing.assert_allclose(by_perturbation, [[1 / 3, 1, 7 / 3, 0]], atol=1e-6)
    by_cell = train_mean(training, test, weighting="cell", scaled=False).values
    np.testing.assert_allclose(by_cell, [[2 / 11, 18 / 11, 21 / 11, 0]], atol=1e-6)


@pytest.mark.parametrize("method", SIMPLE.values(), ids=SIMPLE)
def test_cells_of_tested_perturbations_change_no_choice_and_no_prediction_by_one_bit(method):
    shifts, roles, _ = low_rank(16, 20, 3)
    shifts["G1+G2"] = shifts["G1"] + shifts["G2"]
    cells, split = experiment(shifts, {**roles, "G1+G2": "train"})
    held_out = split.loc[split["role"] == "test", "perturbation"]
    changed = cells.copy()
    dense = changed.X.toarray()
    dense[changed.obs["perturbation"].isin(held_out)] = 123.0
    changed.X = sparse.csr_matrix(dense)
    before, after = method(*data(cells, split)), method(*data(changed, split))
    assert (before.values == after.values).all()
    assert before.chosen == after.chosen


@pytest.mark.parametrize("method", SIMPLE.values(), ids=SIMPLE)
def test_cells_on_disk_give_the_same_prediction_to_the_bit(method, tmp_path, monkeypatch):
    cells, split = experiment(SHIFTS, ROLES)
    controls = drawn(cells)
    expected = whole(predict, cells, split, controls, method)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("scgpt_bench.data.on_disk.row_chunks.__defaults__", (4 * 7, None))  # seven cells at once
    found = whole(predict, open_h5ad(tmp_path / "cells.h5ad"), split, controls, method)
    assert (found[0] == expected[0]).all()
    assert found[1] == expected[1]


def test_predicted_cells_average_to_control_mean_plus_shift_and_say_what_made_them():
    cells, split = experiment(SHIFTS, ROLES)
    controls = drawn(cells)
    predicted, method = whole(predict, cells, split, controls, train_mean, weighting="cell", scaled=False)
    np.testing.assert_allclose(predicted.mean(axis=0), np.linspace(1, 2, 4) + np.array([1 / 3, 1, 7 / 3, 0]), atol=1e-6)
    assert (method["training"].perturbations, method["training"].cells) == (3, 9)


def planted_pairs():
    random = np.random.default_rng(2)
    single = {f"G{i}": random.normal(size=8) for i in range(4)}
    pairs = {"G0+G1": single["G0"] + single["G1"], "G2+G3": single["G2"] + single["G3"]}
    return {**single, **pairs}


def test_additive_is_exact_for_pairs_of_seen_singles():
    shifts = planted_pairs()
    roles = {name: "test" if "+" in name else "train" for name in shifts}
    predicted = additive(*data(*experiment(shifts, roles)), scaled=False)
    np.testing.assert_allclose(predicted.values, [shifts["G0+G1"], shifts["G2+G3"]], atol=1e-6)
    assert predicted.fallbacks == {}


def test_additive_takes_the_mean_single_shift_for_an_unseen_gene_and_says_so():
    shifts = planted_pairs()
    roles = {**dict.fromkeys(shifts, "train"), "G3": "test", "G2+G3": "test"}
    predicted = additive(*data(*experiment(shifts, roles)), scaled=False)
    mean_single = np.mean([shifts["G0"], shifts["G1"], shifts["G2"]], axis=0)
    np.testing.assert_allclose(predicted.values[0], shifts["G2"] + mean_single, atol=1e-6)
    assert predicted.fallbacks["G2+G3"] == ("G3 not perturbed alone in training", "mean single shift instead")


def low_rank(n_perturbations, n_genes, rank, seed=0):
    """Changes that are a linear function of gene vectors: loadings of genes x mixing x vector of the perturbed gene.

    Training vectors average to 0 and so do the loadings: the model has no other intercept than the mean change, and
    its principal components are centred over genes.
    """
    random = np.random.default_rng(seed)
    names = [f"G{i}" for i in range(n_genes)]
    roles = {name: "test" if i % 4 == 0 else "train" for i, name in enumerate(names[:n_perturbations])}
    embeddings = pd.DataFrame(random.normal(size=(n_genes, rank)), index=names)
    embeddings -= embeddings.loc[[name for name, role in roles.items() if role == "train"]].mean()
    loadings = random.normal(size=(rank, n_genes))
    changes = (
        0.3 * embeddings.to_numpy() @ random.normal(size=(rank, rank)) @ (loadings - loadings.mean(axis=1)[:, None])
    )
    return dict(zip(names, changes[:n_perturbations], strict=False)), roles, embeddings


def test_ridge_recovers_a_planted_low_rank_response():
    shifts, roles, embeddings = low_rank(40, 60, 3)
    training, test = data(*experiment(shifts, roles))
    expected = np.array([shifts[name] for name in test.perturbations])
    predicted = ridge(training, test, embeddings=embeddings, penalty=1e-6, components=8, scaled=False).values
    np.testing.assert_allclose(predicted, expected, atol=1e-3)


def test_gene_vectors_are_read_with_what_they_say_of_their_checkpoint(tmp_path):
    vectors = anndata.AnnData(np.eye(2, dtype=np.float32), obs=pd.DataFrame(index=["A", "B"]))
    vectors.uns = {"source": "checkpoint", "name": "untrained", "checkpoint_pretrained": False}
    vectors.write_h5ad(tmp_path / "vectors.h5ad")
    table = read_embeddings(tmp_path / "vectors.h5ad")
    assert table.loc["B"].tolist() == [0, 1]
    assert table.attrs == {"source": "checkpoint", "name": "untrained", "checkpoint_pretrained": False}


@pytest.mark.parametrize("own_embeddings", [True, False])
def test_ridge_equals_an_independent_dense_solution(own_embeddings):
    """The same estimate from one explicit design matrix (Kronecker product) and scikit-learn's principal components."""
    from sklearn.decomposition import PCA

    shifts, roles, embeddings = low_rank(24, 30, 5)
    cells, split = experiment(shifts, roles)
    training, test = data(cells, split)
    control = cells[cells.obs["perturbation"] == "control"].X.toarray().astype(np.float64).mean(axis=0)
    G = PCA(6, svd_solver="full").fit_transform(np.vstack([control, training.means]).T)
    rows = pd.DataFrame(G, index=cells.var_names) if own_embeddings else embeddings
    P = np.vstack([np.zeros(rows.shape[1]), rows.loc[training.perturbations]])
    Y = np.vstack([np.zeros(30), training.shifts]).T
    b = Y.mean(axis=1, keepdims=True)
    gram = np.kron(P.T @ P + 0.1 * np.eye(P.shape[1]), G.T @ G + 0.1 * np.eye(6))
    K = np.linalg.solve(gram, np.kron(P, G).T @ (Y - b).ravel(order="F")).reshape(6, -1, order="F")
    expected = (b + G @ K @ rows.loc[test.perturbations].T.to_numpy()).T
    own = embeddings if not own_embeddings else None
    predicted = ridge(training, test, embeddings=own, penalty=0.1, components=6, scaled=False).values
    np.testing.assert_allclose(predicted, expected, atol=1e-6)


def test_ridge_predicts_the_mean_change_for_a_gene_without_a_vector_and_says_so():
    shifts, roles, embeddings = low_rank(12, 20, 2)
    training, test = data(*experiment(shifts, roles))
    predicted = ridge(training, test, embeddings=embeddings.drop("G4"), scaled=False)
    b = training.shifts.sum(axis=0) / (len(training.perturbations) + 1)
    np.testing.assert_allclose(predicted.values[test.perturbations.index("G4")], b, atol=1e-9)
    assert predicted.fallbacks == {"G4": ("no vector", "counted as zero")}


def test_knn_with_all_neighbours_equals_train_mean():
    shifts, roles, embeddings = low_rank(12, 20, 3)
    training, test = data(*experiment(shifts, roles))
    for vectors in (embeddings, None):
        predicted = knn(training, test, embeddings=vectors, neighbours=len(training.perturbations), scaled=False)
        expected = train_mean(training, test, scaled=False).values
        np.testing.assert_allclose(predicted.values, expected, atol=1e-12)


def test_knn_takes_the_perturbations_of_the_most_similar_genes():
    vectors = pd.DataFrame([[1, 0], [2, 0.1], [0, 1], [1, 0.05]], index=["G0", "G1", "G2", "G3"], dtype=float)
    roles = {"G0": "train", "G1": "train", "G2": "train", "G3": "test"}
    training, test = data(*experiment(SHIFTS, roles))
    predicted = knn(training, test, embeddings=vectors, neighbours=2, scaled=False).values
    np.testing.assert_allclose(predicted, [[0.5, 1.5, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("with_vector", "taken"), [(["G1"], ["G1"]), (["G1", "G2"], ["G1", "G2"]), ([], ["G0", "G1", "G2"])]
)
def test_knn_averages_no_perturbation_without_a_vector(with_vector, taken):
    vectors = pd.DataFrame(1.0, index=[*with_vector, "G3"], columns=range(2))
    training, test = data(*experiment(SHIFTS, {"G0": "train", "G1": "train", "G2": "train", "G3": "test"}))
    predicted = knn(training, test, embeddings=vectors, neighbours=2, scaled=False)
    np.testing.assert_allclose(predicted.values[0], np.mean([SHIFTS[name] for name in taken], axis=0), atol=1e-6)
    assert predicted.fallbacks == ({} if with_vector else {"G3": ("no vector", "mean of all training perturbations")})


def test_coexpression_puts_genes_that_vary_together_side_by_side():
    random = np.random.default_rng(4)
    modules = np.repeat(np.eye(3), 10, axis=0)
    values = np.exp(random.normal(size=(400, 3)) @ modules.T * 0.5 + random.normal(0, 0.3, (400, 30)))
    obs = pd.DataFrame({"cell_type": np.repeat(["a", "b"], 200)}, index=[str(i) for i in range(400)])
    values[200:] += 5
    controls = anndata.AnnData(sparse.csr_matrix(np.float32(values)), obs=obs)
    vectors = coexpression(controls, 3).to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    same = modules @ modules.T == 1
    assert similarity[same].min() > 0.9
    assert np.abs(similarity[~same]).max() < 0.3


def test_coexpression_of_fewer_cells_than_genes_is_the_correlation_of_the_genes():
    values = np.random.default_rng(3).normal(2, 0.5, (40, 60)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": "T"}, index=[str(i) for i in range(40)])
    vectors = coexpression(anndata.AnnData(sparse.csr_matrix(values), obs=obs), 39).to_numpy()
    np.testing.assert_allclose(vectors @ vectors.T / 40, np.corrcoef(values.T), atol=1e-4)


def test_coexpression_of_many_cells_is_that_of_some_drawn_by_name(monkeypatch):
    monkeypatch.setattr("scgpt_bench.methods.training_data.CONTROLS", 5)
    cells, split = experiment(SHIFTS, {"G0": "train", "G1": "train", "G2": "train", "G3": "test"})
    drawn = training_data(cells, split).controls
    backwards = training_data(cells[::-1].copy(), split).controls
    assert drawn.n_obs == 5 < (cells.obs["half"] == INPUT).sum()
    assert (drawn.obs["half"] == INPUT).all()
    assert set(drawn.obs_names) == set(backwards.obs_names)
    np.testing.assert_array_equal(drawn.X.toarray(), cells[drawn.obs_names].X.toarray())


def of_two_types(n_types=2):
    """G0 to G2 have cells of two types in other shares; type A gains 1 and type B loses 1, whatever is perturbed."""
    random = np.random.default_rng(5)
    parts = [("control", "A", 200), ("control", "B", 200)]
    for number, (of_a, of_b) in enumerate(((30, 10), (10, 30), (20, 20), (8, 32))):
        parts += [(f"G{number}", "A", of_a), (f"G{number}", "B", of_b)]
    labels = [(name, kind) for name, kind, n in parts for _ in range(n)]
    obs = pd.DataFrame(labels, columns=["perturbation", "cell_type"])
    change = np.where(obs["perturbation"] == "control", 0, np.where(obs["cell_type"] == "A", 1.0, -1.0))
    level = np.where(obs["cell_type"] == "A", 3.0, 6.0)
    X = (level + change)[:, None] + random.normal(0, 0.1, (len(obs), 4))
    obs = obs.set_axis([f"cell{i}" for i in range(len(obs))])
    if n_types == 1:
        obs["cell_type"] = "A"
    genes = pd.DataFrame(index=[f"G{i}" for i in range(4)])
    return halved(anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs, var=genes))


def test_type_mean_mixes_the_changes_of_types_as_the_cells_of_the_perturbation_are():
    cells = of_two_types()
    split = pd.DataFrame({"perturbation": ["G0", "G1", "G2", "G3"], "role": ["train", "train", "train", "test"]})
    (found,) = changes_of_cell_types(cells, split, ["all"]).values()
    np.testing.assert_allclose(found.loc[["A", "B"]], [[1] * 4, [-1] * 4], atol=0.05)
    training = replace(training_data(cells, split), of_cell_types=found)
    shares = pd.DataFrame({"A": [0.2], "B": [0.8]}, index=["G3"])
    test = ToPredict(["G3"], references(cells, [Condition("G3")], INPUT), shares)
    np.testing.assert_allclose(type_mean(training, test).values, [[-0.6] * 4], atol=0.05)
    np.testing.assert_allclose(train_mean(training, test, scaled=False).values, [[0.0] * 4], atol=0.05)
    unknown = ToPredict(["G3"], test.control_means, pd.DataFrame({"A": [0.5], "C": [0.5]}, index=["G3"]))
    np.testing.assert_allclose(type_mean(training, unknown).values, [[0.5] * 4], atol=0.05)


def test_type_mean_of_one_type_is_the_mean_over_cells():
    cells = of_two_types(n_types=1)
    split = pd.DataFrame({"perturbation": ["G0", "G1", "G2", "G3"], "role": ["train", "train", "train", "test"]})
    drawn_cells = drawn(cells)
    test = to_predict(drawn_cells)
    training = replace(training_data(cells, split), of_cell_types=changes_of_cell_types(cells, split, ["all"])["all"])
    expected = train_mean(training, test, weighting="cell", scaled=False).values
    np.testing.assert_allclose(type_mean(training, test).values, expected, atol=1e-6)


def test_target_only_differs_from_control_mean_in_the_targeted_gene():
    # G0 goes from 1 to log1p(0.25 expm1(1)): a quarter of its normalized counts is left.
    left = np.log1p(0.25 * np.expm1(1.0))
    shifts = {"G0": [left - 1.0, 5, 0, 0], "G3": [9, 9, 9, 9]}
    predicted = target_only(*data(*experiment(shifts, {"G0": "train", "G3": "test"}))).values
    np.testing.assert_allclose(predicted, [[0, 0, 0, np.log1p(0.25 * np.expm1(2.0)) - 2.0]], atol=1e-6)


def test_target_only_changes_nothing_for_a_target_that_is_not_measured():
    shifts = {"G0": [-0.5, 0, 0, 0], "ABSENT": [1, 1, 1, 1]}
    predicted = target_only(*data(*experiment(shifts, {"G0": "train", "ABSENT": "test"})))
    assert (predicted.values == 0).all()
    assert predicted.fallbacks == {"ABSENT": ("not every target is measured", "no change by the others")}


def large(perturbations, genes, cells=500):
    """Random data of a size, and 100 perturbations to predict."""
    random = np.random.default_rng(6)
    names = pd.Index([f"G{i}" for i in range(genes)])
    obs = pd.DataFrame({"cell_type": "T"}, index=map(str, range(cells)))
    X = sparse.random(cells, genes, 0.1, "csr", np.float32, random_state=1)
    means = random.random((perturbations, genes))
    shifts, n_cells = means - 0.5, np.full(perturbations, 50)
    controls = anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=names))
    mean = np.asarray(X.mean(axis=0)).ravel()
    training = TrainingData(names, controls, mean, [*names[:perturbations]], means, shifts, shifts, shifts, n_cells)
    return training, ToPredict([*names[perturbations : perturbations + 100]], np.full((100, genes), 0.5))


def test_ridge_of_2000_perturbations_and_8000_genes_takes_less_than_4_gb():
    training, test = large(2000, 8000)
    tracemalloc.start()
    predicted = ridge(training, test, penalty=0.1, components=10, scaled=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak + 4 * training.means.nbytes < 4e9
    assert np.isfinite(predicted.values).all()


@pytest.mark.long
def test_all_options_for_2000_perturbations_and_8000_genes_take_five_minutes_and_4_gb():
    training, test = large(2000, 8000, 5000)
    tracemalloc.start()
    start = time.process_time()
    tuned_simple(training, test)
    assert time.process_time() - start < 300
    assert tracemalloc.get_traced_memory()[1] + 4 * training.means.nbytes < 4e9
    tracemalloc.stop()


def test_a_forest_learns_what_vectors_say_and_its_seed_decides_on_the_rest():
    shifts, roles, embeddings = low_rank(80, 90, 2)
    training, test = data(*experiment(shifts, roles))
    expected = np.array([shifts[name] for name in test.perturbations])
    fixed = {"embeddings": embeddings, "max_features": 1.0, "max_depth": 10}
    first, again, other = (forest(training, test, **fixed, seed=seed).values for seed in (0, 0, 1))
    error = np.square(first - expected).sum() / np.square(expected).sum()
    assert error < 0.3
    assert (first == again).all()
    assert (first != other).any()
