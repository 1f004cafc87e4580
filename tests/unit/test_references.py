"""Control cells are dealt into two halves; a condition is compared with those of its own cell types and batches."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.halves import FEWEST_OF_HALF, INPUT, TRUTH, deal_halves, few_controls
from scgpt_bench.data.references import References, references


def observations(n_controls, n_cells, batches="xyz", leaning=(0.8, 0.1, 0.1), types="t", seed=1):
    random = np.random.default_rng(seed)
    batch = [*random.choice([*batches], n_controls), *random.choice([*batches], n_cells, p=leaning)]
    obs = pd.DataFrame({"perturbation": ["control"] * n_controls + ["A"] * n_cells, "context": "all", "batch": batch})
    obs["cell_type"] = random.choice([*types], len(obs))
    return obs.set_axis([f"cell{number}" for number in range(len(obs))]).assign(half=deal_halves)


def cells(obs, batch_sd, n_genes=300, seed=2, form=sparse.csr_matrix):
    random = np.random.default_rng(seed)
    effects = {name: random.normal(0, batch_sd, n_genes) for name in sorted(set(obs["batch"]))}
    X = 2 + np.array([effects[name] for name in obs["batch"]]) + random.normal(0, 1, (len(obs), n_genes))
    genes = pd.DataFrame(index=[f"G{number}" for number in range(n_genes)])
    return anndata.AnnData(form(X.astype(np.float32)), obs=obs, var=genes)


@pytest.mark.parametrize("n_controls", [2, 3, 25, 301])
def test_halves_are_disjoint_and_balanced_in_each_batch_and_cell_type(n_controls):
    obs = observations(n_controls, 4, types="tuv")
    controls = obs[obs["perturbation"] == "control"]
    assert set(controls["half"]) == {INPUT, TRUTH}
    assert set(obs["half"][obs["perturbation"] != "control"]) == {""}
    for columns in (["context"], ["batch"], ["cell_type"], ["batch", "cell_type"]):
        numbers = pd.crosstab([controls[column] for column in columns], controls["half"])
        assert (numbers[INPUT] - numbers[TRUTH]).abs().max() <= 1


def test_halves_do_not_depend_on_the_order_of_cells():
    obs = observations(101, 7, types="tu")
    order = np.random.default_rng(0).permutation(len(obs))
    assert (deal_halves(obs.iloc[order]) == obs["half"].to_numpy()[order]).all()


def test_few_controls_are_warned_of_at_less_than_the_minimum_of_a_half():
    assert len(few_controls(observations(2 * FEWEST_OF_HALF - 1, 3))) == 1
    assert few_controls(observations(2 * FEWEST_OF_HALF, 3)) == []


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_with_one_batch_and_type_the_reference_is_the_mean_of_the_half(form):
    small = cells(observations(60, 5, batches="x", leaning=(1,)), 0, form=form)
    for half in (INPUT, TRUTH):
        own = np.asarray(small.X[(small.obs["half"] == half).to_numpy()].mean(axis=0)).ravel()
        np.testing.assert_allclose(references(small, [Condition("A")], half)[0], own, atol=1e-6)


def test_a_lean_to_a_batch_leaves_no_change_where_batches_differ():
    leaning = cells(observations(900, 300), batch_sd=0.5)
    change = np.asarray(leaning.X[(leaning.obs["perturbation"] == "A").to_numpy()].mean(axis=0)).ravel()
    plain = np.asarray(leaning.X[(leaning.obs["half"] == TRUTH).to_numpy()].mean(axis=0)).ravel()
    matched = References(leaning)
    left = change - matched.mean([Condition("A")], TRUTH)[0]
    noise = 1 / 300 + matched.variance([Condition("A")], TRUTH).mean()
    assert np.square(change - plain).mean() > 5 * noise
    assert np.square(left).mean() == pytest.approx(noise, rel=0.25)


def test_where_batches_do_not_differ_matching_them_adds_little_noise():
    same = References(cells(observations(900, 300), batch_sd=0))
    assert same.variance([Condition("A")], TRUTH).mean() == pytest.approx(1 / 450, rel=0.15)


def test_a_reference_does_not_depend_on_other_conditions_by_one_bit():
    obs = observations(90, 40)
    obs.iloc[-15:, obs.columns.get_loc("perturbation")] = "B"
    both = cells(obs, 0.3)
    together = references(both, [Condition("A"), Condition("B")], INPUT)
    assert (together[1] == references(both, [Condition("B")], INPUT)[0]).all()
