"""Energy distance on cells whose distributions are known."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial import distance

from scgpt_bench.evaluation.cell_metrics import add_cell_space, energy_distance
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
    answer = truth(cells, SPLIT)
    add_cell_space(answer, cells, components=7)
    return cells, answer


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


def test_distance_equals_its_definition_in_the_full_space():
    """With as many components as the data have dimensions (two genes, one of them constant) the space is lossless."""
    X = np.array([[0, 5], [1, 5], [3, 5], [7, 5], [2, 5]], dtype=np.float32)
    labels = ["control", "trained", "P", "P", "Q"]
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(5)])
    cells = anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=["G0", "G1"]))
    answer = truth(cells, SPLIT)
    add_cell_space(answer, cells)
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


def test_mean_cells_have_no_distribution_to_compare(measured):
    assert energy_distance(predicted([[1.0] * 8, [2.0] * 8], ["P", "Q"]), measured[1]).empty


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
