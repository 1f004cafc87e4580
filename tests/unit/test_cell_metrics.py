"""Metrics of cells on cells whose distributions are known."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial import distance

from made_up import measure
from scgpt_bench.evaluation import cell_metrics
from scgpt_bench.evaluation.cell_metrics import (
    add_cell_space,
    add_significant_genes,
    de_overlap,
    energy_distance,
    energy_distance_of_means,
    score_cells,
    spread_ratio,
)
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.evaluation.pseudobulk import truth

SPLIT = pd.DataFrame({"perturbation": ["P", "Q", "trained"], "role": ["test", "test", "train"]})


@pytest.fixture(scope="module")
def measured():
    """Normal cells around 0 (controls, a training perturbation), 1 (P) and 2 (Q) in 8 genes."""
    random = np.random.default_rng(2)
    labels = np.repeat(["control", "trained", "P", "Q"], 200)
    X = random.normal(np.repeat([0.0, 0, 1, 2], 200)[:, None], 0.5, (800, 8)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(800)])
    cells = anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(8)]))
    answer = truth(measure(cells), SPLIT)
    add_cell_space(answer, cells, drawn(cells, 100), components=7)
    return cells, answer


def drawn(cells, n):
    """The first control cells, for each of the two test perturbations."""
    obs = pd.DataFrame({"perturbation": np.repeat(["P", "Q"], n), "weight": 1.0}).rename(index=str)
    return anndata.AnnData(cells.X[np.tile(np.arange(n), 2)], obs=obs, var=cells.var)


def predicted(X, perturbations):
    obs = pd.DataFrame({"perturbation": perturbations, "weight": 1.0}, index=[str(i) for i in range(len(X))])
    return anndata.AnnData(np.float32(X), obs=obs)


def sample(means, n, seed=0):
    random = np.random.default_rng(seed)
    X = np.concatenate([random.normal(mean, 0.5, (n, 8)) for mean in means])
    return predicted(X, np.repeat(["P", "Q"], n))


def test_cells_of_the_same_distribution_are_at_distance_zero_whatever_their_number(measured):
    for n in (20, 500):
        values = energy_distance(sample([1, 2], n), measured[1])["value"]
        assert np.abs(values).max() < 0.15


def test_distance_grows_with_the_distance_of_the_means(measured):
    values = energy_distance(sample([1.5, 4], 100), measured[1])["value"]
    assert 0.2 < values[0] < values[1]


def test_the_space_does_not_depend_on_the_chunks_that_cells_are_multiplied_in(measured, monkeypatch):
    cells, answer = measured
    again = truth(measure(cells), SPLIT)
    monkeypatch.setattr(cell_metrics, "AT_ONCE", 8 * 7)
    add_cell_space(again, cells, drawn(cells, 100), components=7)
    in_threads = truth(measure(cells), SPLIT)
    add_cell_space(in_threads, cells, drawn(cells, 100), components=7, threads=3)
    np.testing.assert_array_equal(in_threads.varm["components"], again.varm["components"])
    np.testing.assert_array_equal(in_threads.uns["cell_coordinates"], again.uns["cell_coordinates"])
    found, expected = (adata.varm["components"][:, :, 0] for adata in (again, answer))
    np.testing.assert_allclose(np.abs(found.T @ expected), np.eye(7), atol=1e-12)  # either sign of an axis is right
    found, expected = (distance.pdist(adata.uns["cell_coordinates"]) for adata in (again, answer))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_space_of_many_cells_is_that_of_some_of_them_whatever_their_order(measured, monkeypatch):
    cells, answer = measured
    monkeypatch.setattr(cell_metrics, "AXES_FROM", 300)
    read = []

    def spaces(cells):
        found = truth(measure(cells), SPLIT)
        add_cell_space(found, cells, drawn(cells, 100), 2, lambda X, rows: read.append(len(rows)) or X[rows])
        return found

    some, reordered = spaces(cells), spaces(cells[::-1])
    assert read == [600, 300] * 2  # the test and control cells, and those that the space is of
    axes = [adata.varm["components"][:, :, 0] for adata in (some, reordered, answer)]
    np.testing.assert_allclose(np.abs(axes[0].T @ axes[1]), np.eye(2), atol=1e-6)
    leading = np.abs(axes[0].T @ axes[2])[0, 0]  # all conditions differ along one direction
    assert 0.99 < leading < 1 - 1e-6
    assert some.uns["cell_coordinates"].shape == (400, 2)  # all test cells have a place in it


def test_the_definition_of_the_distance_says_of_how_many_cells_its_space_is():
    assert f"at most {cell_metrics.AXES_FROM:,} measured" in metric_of("energy_distance").reference


def test_distance_equals_its_definition_in_the_full_space():
    """With as many components as the data have dimensions (two genes, one of them constant) the space is lossless."""
    X = np.array([[0, 5], [0, 5], [1, 5], [3, 5], [7, 5], [2, 5]], dtype=np.float32)
    labels = ["control", "control", "trained", "P", "P", "Q"]
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(6)])
    cells = anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=["G0", "G1"]))
    answer = truth(measure(cells), SPLIT)
    add_cell_space(answer, cells, drawn(cells, 1))
    table = energy_distance(predicted([[1, 5], [2, 5], [2, 5]], ["P", "P", "Q"]), answer).set_index("perturbation")
    # P: predicted 1, 2; measured 3, 7. 2 x mean(2, 6, 1, 5) - 1 - 4
    assert table.loc["P", ["value", "reason"]].tolist() == [pytest.approx(2.0, abs=1e-5), ""]
    assert table.loc["Q", "value"] == pytest.approx(0, abs=1e-5)
    assert table.loc["Q", "reason"] == "a single predicted and a single measured cell"


def test_predicted_cells_count_in_the_distance_by_their_weight(measured):
    """As if every cell were there as often as its weight says, but for distances between a cell and its own copy."""
    few, answer = sample([1, 2], 30), measured[1]
    weights = np.tile(np.repeat([0.5, 1.5], 15), 2)
    few.obs["weight"] = weights
    of_p = (few.X[:30] @ answer.varm["components"][:, :, 0]).astype(np.float64)
    own = answer.uns["cell_coordinates"][answer.uns["cell_condition"] == 0].astype(np.float64)
    share = weights[:30] / 30
    pairs = np.outer(share, share)[~np.eye(30, dtype=bool)]
    within = pairs @ distance.cdist(of_p, of_p)[~np.eye(30, dtype=bool)] / pairs.sum()
    expected = 2 * share @ distance.cdist(of_p, own).mean(axis=1) - within - distance.pdist(own).mean()
    assert energy_distance(few, answer)["value"][0] == pytest.approx(expected, abs=1e-5)
    few.obs["weight"] = 1.0
    assert energy_distance(few, answer)["value"][0] != pytest.approx(expected, abs=1e-3)


def test_mean_cells_have_no_distribution_to_compare(screen):
    _, answer, controls = screen
    means = predicted(np.tile(controls.X.toarray().mean(axis=0), (2, 1)), ["P", "Q"])
    assert set(score_cells(means, answer)["metric"]) == {"energy_distance_of_means"}


def test_conditions_scored_apart_have_the_scores_of_all_together_also_one_of_a_single_cell(screen):
    _, answer, controls = screen
    cells = changed_by(controls, 0.5)
    cells = cells[np.r_[0, np.flatnonzero(cells.obs["perturbation"] == "Q")]].copy()  # a single cell of P
    together = score_cells(cells, answer)
    apart = [score_cells(cells[cells.obs["perturbation"] == name].copy(), answer, only_means=False) for name in "PQ"]
    by = ["metric", "perturbation"]
    pd.testing.assert_frame_equal(
        pd.concat(apart).sort_values(by, ignore_index=True), together.sort_values(by, ignore_index=True)
    )


def test_one_cell_many_times_has_the_distance_of_its_mean_and_no_spread(measured):
    right_mean = predicted(np.repeat([[1.0] * 8, [2.0] * 8], 25, axis=0), np.repeat(["P", "Q"], 25))
    assert energy_distance(right_mean, measured[1])["value"].min() > 0.5
    assert energy_distance_of_means(right_mean, measured[1])["value"].abs().max() < 0.15
    assert spread_ratio(right_mean, measured[1])["value"].max() < 1e-6
    wrong_mean = predicted(right_mean.X + 1, right_mean.obs["perturbation"].to_numpy())
    assert energy_distance_of_means(wrong_mean, measured[1])["value"].min() > 1


def test_the_distance_of_means_does_not_see_how_cells_were_made(measured):
    cells, answer = sample([1, 2], 30), measured[1]
    of_means = energy_distance_of_means(cells, answer)
    copies = predicted(
        np.repeat(cells.X.reshape(2, 30, 8).mean(axis=1), 30, axis=0), cells.obs["perturbation"].to_numpy()
    )
    np.testing.assert_allclose(energy_distance_of_means(copies, answer)["value"], of_means["value"], atol=1e-5)
    of_p = cells[:30].X.mean(axis=0)
    controls = measured[0].X[:100].toarray().astype(np.float64)
    moved = predicted(controls + of_p - controls.mean(axis=0), ["P"] * 100)
    assert energy_distance(moved, answer)["value"][0] == pytest.approx(of_means["value"][0], abs=1e-4)


@pytest.mark.parametrize(("spread", "ratio"), [(0.5, 1.0), (0.25, 0.25), (1.0, 4.0)])
def test_the_spread_of_predicted_cells_is_a_share_of_the_measured_variance(measured, spread, ratio):
    random = np.random.default_rng(3)
    cells = predicted(random.normal(5, spread, (1000, 8)), np.repeat(["P", "Q"], 500))
    assert spread_ratio(cells, measured[1])["value"].to_numpy() == pytest.approx(ratio, rel=0.1)


def test_the_spread_counts_cells_by_their_weight_and_does_not_depend_on_their_number(measured):
    copies = [spread_ratio(sample([1, 2], 5, seed=s), measured[1])["value"].mean() for s in range(200)]
    assert np.mean(copies) == pytest.approx(1, abs=0.05)
    half = sample([1, 2], 1000, seed=4)
    half.X[::2] += 100
    half.obs["weight"] = np.tile([1e-9, 1], 1000)
    assert spread_ratio(half, measured[1])["value"].mean() == pytest.approx(1, abs=0.1)


def screen_of(changed, n=80, controls=400, seed=5):
    """Counts of 400 genes, 2 n cells of P and of Q, of which n are tested and n control cells drawn for each.

    P changes 40 genes four-fold if ``changed``.
    """
    random = np.random.default_rng(seed)
    labels = np.repeat(["control", "trained", "P", "Q"], [controls, 40, 2 * n, 2 * n])
    names = [f"G{i}" for i in range(400)]
    level = np.tile(random.gamma(1, 1, 400), (len(labels), 1))
    level[np.ix_(labels == "P", np.arange(40))] *= 4 if changed else 1
    X = np.log1p(random.poisson(level)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(labels))])
    cells = anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=names))
    answer, controls = truth(measure(cells), SPLIT), drawn(cells, n)
    add_cell_space(answer, cells, controls)
    add_significant_genes(answer, cells, controls)
    return cells, answer, controls


@pytest.fixture(scope="module")
def screen():
    return screen_of(changed=True)


def changed_by(controls, shift):
    return predicted(controls.X.toarray() + shift, controls.obs["perturbation"].to_numpy())


def test_no_gene_is_significant_where_nothing_changes():
    assert screen_of(changed=False)[1].layers["significant"].mean() < 0.01


@pytest.mark.parametrize(("n", "controls", "found_at_least"), [(10, 100, 0.5), (25, 100, 0.7), (80, 1000, 0.85)])
def test_few_cells_are_not_too_sure_of_a_gene(n, controls, found_at_least):
    """20 draws: at most 5 % of the findings are false, and most of the genes that change four-fold are found."""
    significant = np.array(
        [screen_of(True, n, controls, seed)[1].layers["significant"][0] for seed in range(20)], dtype=float
    )
    false = significant[:, 40:].sum(axis=1) / np.maximum(significant.sum(axis=1), 1)
    assert false.mean() <= 0.05
    assert significant[:, :40].mean() >= found_at_least


def test_the_own_target_is_no_finding():
    cells = screen_of(changed=True)[0]
    cells.var_names = ["P", *cells.var_names[1:]]
    answer, controls = truth(measure(cells), SPLIT), drawn(cells, 80)
    add_significant_genes(answer, cells, controls)
    assert answer.layers["significant"][0, 0] == 0
    assert answer.layers["significant"][0, 1:40].sum() > 25


def test_genes_that_change_are_significant_and_genes_that_do_not_are_not(screen):
    significant = screen[1].layers["significant"]
    assert significant[0, :40].sum() > 25
    assert significant[0, 40:].sum() <= 0.15 * significant[0].sum()
    assert significant[1].mean() < 0.01
    assert (screen[1].obs["n_cells_tested"] == 80).all()


def test_the_right_change_of_control_cells_finds_the_genes_and_doing_nothing_finds_none(screen):
    _, answer, controls = screen
    change = np.repeat(answer.X - answer.layers["reference_truth"], 80, axis=0)
    assert de_overlap(changed_by(controls, change), answer)["value"][0] > 0.8
    for nothing in (0.0, 1e-4 * np.random.default_rng(1).normal(size=400)):
        assert de_overlap(changed_by(controls, nothing), answer)["value"][0] < 0.05


def test_more_predicted_cells_find_no_more_genes(screen):
    """A change too small to be found with 80 cells is not found with ten times as many copies of them either."""
    _, answer, controls = screen
    change = 0.12 * np.repeat(answer.X - answer.layers["reference_truth"], 80, axis=0)
    few = changed_by(controls, change)
    many = predicted(np.concatenate([few.X] * 10), np.tile(few.obs["perturbation"].to_numpy(), 10))
    assert abs(de_overlap(many, answer)["value"][0] - de_overlap(few, answer)["value"][0]) < 0.15


def test_fewer_predicted_cells_than_measured_ones_are_said(screen):
    table = de_overlap(changed_by(drawn(screen[0], 20), 0.0), screen[1])
    assert table["reason"].tolist()[0] == "20 predicted cells against 80 measured"


def test_where_no_gene_changes_no_overlap_is_defined():
    _, answer, controls = screen_of(changed=False)
    answer.layers["significant"][:] = 0
    table = de_overlap(changed_by(controls, 1.0), answer)
    assert table[["value", "reason"]].to_numpy().tolist() == [[0, "no measured gene is significant"]] * 2


def test_a_technical_duplicate_is_compared_with_the_other_half(measured):
    cells, answer = measured
    own_half = ~answer.uns["cell_half_b"]
    test_cells = cells[cells.obs["perturbation"].isin(["P", "Q"])]
    duplicate = predicted(test_cells.X[own_half].toarray(), test_cells.obs["perturbation"].to_numpy()[own_half])
    against_all = energy_distance(duplicate, answer)["value"]
    table = energy_distance(duplicate, answer, halved=True)
    of_p = answer.uns["cell_condition"] == 0
    a, b = (answer.uns["cell_coordinates"][of_p & half] for half in (own_half, ~own_half))
    expected = 2 * distance.cdist(a, b).mean() - distance.pdist(a).mean() - distance.pdist(b).mean()
    assert table["value"][0] == pytest.approx(expected, abs=1e-4)
    assert table["value"][0] != pytest.approx(against_all[0], abs=1e-4)
    assert table["reason"][0] == "one half of the cells against the other"
