"""DE ranks find the genes that were changed."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from made_up import measure
from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.means import first_half
from scgpt_bench.evaluation import differential_expression
from scgpt_bench.evaluation.differential_expression import de_ranks
from scgpt_bench.evaluation.pseudobulk import truth


def experiment():
    """Cells of two types far apart; P changes genes 3 and 7 in type a only, Q gene 5 in both types."""
    random = np.random.default_rng(1)
    labels = np.repeat(["control", "control", "P", "Q", "Q"], 60)
    types = np.repeat(["a", "b", "a", "a", "b"], 60)
    X = random.gamma(3.0, 0.3, (300, 20)) + np.where(types == "b", 2.0, 0.0)[:, None]
    X[labels == "P", 3] += 1.5
    X[labels == "P", 7] += 0.8
    X[labels == "Q", 5] += 1.5
    obs = pd.DataFrame({"perturbation": labels, "cell_type": types}, index=[f"cell{i}" for i in range(300)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(20)])
    cells = anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs, var=var)
    return cells, pd.DataFrame({"perturbation": ["P", "Q", "Q"], "role": ["test", "test", "train"]})


def test_ranks_are_those_of_a_wilcoxon_test_against_controls_of_the_same_cell_types():
    cells, split = experiment()
    ranks = de_ranks(cells, truth(measure(cells), split))
    assert (ranks[0, 3], ranks[0, 7], ranks[1, 5]) == (0, 1, 0)
    assert (np.sort(ranks, axis=1) == np.arange(20)).all()
    dense, obs = cells.X.toarray(), cells.obs
    of_a = (obs["cell_type"] == "a").to_numpy()
    perturbed, control = (dense[of_a & (obs["perturbation"] == name).to_numpy()] for name in ("P", "control"))
    p_values = stats.mannwhitneyu(perturbed, control, method="asymptotic").pvalue
    assert np.argsort(ranks[0])[:5].tolist() == np.argsort(p_values)[:5].tolist()


def test_cell_types_are_tested_apart_and_combined_by_signed_z_values():
    cells, split = experiment()
    dense, z_values = cells.X.toarray(), []
    for cell_type in ("a", "b"):
        of_type = (cells.obs["cell_type"] == cell_type).to_numpy()
        perturbed, control = (dense[of_type & (cells.obs["perturbation"] == name)] for name in ("Q", "control"))
        test = stats.mannwhitneyu(perturbed, control, method="asymptotic")
        z_values.append(stats.norm.isf(test.pvalue / 2) * np.sign(test.statistic - 60 * 60 / 2))
    expected = np.argsort(-np.abs(np.sum(z_values, axis=0)))  # as many cells of both types: the same weights
    assert np.argsort(de_ranks(cells, truth(measure(cells), split))[1]).tolist() == expected.tolist()


def test_a_marker_of_cell_types_is_no_effect_where_types_are_mixed_unlike_the_controls():
    """Controls are half a, half b, P nine tenths a. Gene 0 is a marker of b, gene 1 responds."""
    random = np.random.default_rng(2)
    labels = np.repeat(["control", "P"], [400, 100])
    types = np.repeat(["a", "b", "a", "b"], [200, 200, 90, 10])
    X = random.gamma(3.0, 0.3, (500, 20))
    X[types == "b", 0] += 3.0
    X[labels == "P", 1] += 0.3
    obs = pd.DataFrame({"perturbation": labels, "cell_type": types}, index=[f"cell{i}" for i in range(500)])
    cells = anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs)
    split = pd.DataFrame({"perturbation": ["P", "P"], "role": ["test", "train"]})
    assert np.argsort(de_ranks(cells, truth(measure(cells), split))[0])[0] == 1


def test_ranks_of_the_second_half_are_those_of_its_cells_alone():
    cells, split = experiment()
    measured = truth(measure(cells), split)
    second = cells[~first_half(cells.obs, [Condition("P"), Condition("Q")])].copy()
    ranks = de_ranks(cells, measured, halved=True)
    assert (ranks == de_ranks(second, truth(measure(second), split))).all()
    assert (ranks != de_ranks(cells, measured)).any()


@pytest.mark.parametrize("halved", [False, True])
def test_blocks_of_genes_and_of_perturbations_change_no_rank(monkeypatch, halved):
    cells, split = experiment()
    measured = truth(measure(cells), split)
    whole = de_ranks(cells, measured, halved=halved)
    monkeypatch.setattr(differential_expression, "AT_ONCE", 3 * cells.n_obs)
    monkeypatch.setattr(differential_expression, "TABLE_ROWS", 3)
    assert (de_ranks(cells, measured, halved=halved) == whole).all()
