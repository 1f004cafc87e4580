"""Floor, ceiling and oracle on cells whose means are known."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import higher_is_better, score
from scgpt_bench.evaluation.pseudobulk import first_half, group_means, pseudobulk, truth
from scgpt_bench.methods.baselines import METHODS
from scgpt_bench.methods.baselines import predict as baselines_predict
from scgpt_bench.methods.benchmark_controls import predict, shuffled

NAMES = [f"P{i}" for i in range(8)]
SPLIT = pd.DataFrame({"perturbation": [*NAMES, "trained"], "role": ["test"] * 8 + ["train"]})


@pytest.fixture(scope="module")
def experiment():
    """Noisy cells around planted means, their truth, and 10 drawn controls for each perturbation."""
    random = np.random.default_rng(3)
    genes = pd.DataFrame(index=[f"G{i}" for i in range(60)])
    planted = anndata.AnnData(random.exponential(size=(8, 60)), obs=pd.DataFrame(index=NAMES), var=genes)
    labels = np.repeat(["control", *NAMES, "trained"], 40)
    means = np.vstack([np.ones(60), planted.X, np.ones(60)])[np.repeat(np.arange(10), 40)]
    X = sparse.csr_matrix(np.maximum(means + random.normal(0, 0.5, means.shape), 0).astype(np.float32))
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(labels))])
    cells = anndata.AnnData(X, obs=obs, var=genes)
    drawn = pd.DataFrame({"perturbation": np.repeat(NAMES, 10)}, index=[f"drawn{i}" for i in range(80)])
    controls = anndata.AnnData(cells.X[np.tile(np.arange(10), 8)], obs=drawn, var=genes)
    return cells, controls, truth(cells, SPLIT), planted


def means_of(predicted, controls):
    return group_means(predicted, controls.obs["perturbation"], NAMES)[0]


def test_shuffled_gives_each_perturbation_the_change_of_another_one(experiment):
    cells, controls, measured, _ = experiment
    predicted, method = predict(cells, controls, measured, "shuffled", seed=1)
    sources = method["notes"]
    assert all(name != source for name, source in sources.items())
    assert sorted(sources.values()) == NAMES
    expected = measured[[sources[name] for name in NAMES]].X
    np.testing.assert_allclose(means_of(predicted, controls), expected, atol=1e-6)


def test_shuffling_depends_on_names_and_seed_only():
    assert shuffled(NAMES, 1) == {name: shuffled(NAMES[::-1], 1)[name] for name in NAMES}
    assert shuffled(NAMES, 1) != shuffled(NAMES, 2)
    with_one_more = shuffled([*NAMES, "new"], 1)
    assert sum(with_one_more[name] != shuffled(NAMES, 1)[name] for name in NAMES) == 1


def test_shuffling_one_perturbation_is_refused():
    with pytest.raises(InputError, match="two or more"):
        shuffled(["P0"], 1)


def test_technical_duplicate_predicts_one_half_and_is_scored_against_the_other(experiment):
    cells, controls, measured, _ = experiment
    predicted, method = predict(cells, controls, measured, "technical-duplicate", seed=1)
    assert method["scored_against"] == "half_b"
    halves = (means_of(predicted, controls) + measured.layers["half_b"]) / 2
    np.testing.assert_allclose(halves, measured.X, atol=1e-6)
    assert np.abs(means_of(predicted, controls) - measured.layers["half_b"]).max() > 0.1


def test_halves_do_not_depend_on_the_order_of_cells(experiment):
    cells = experiment[0]
    order = np.random.default_rng(5).permutation(cells.n_obs)
    mask, mixed = first_half(cells.obs, NAMES), first_half(cells.obs.iloc[order], NAMES)
    assert (mask[order] == mixed).all()
    assert mask.sum() == 8 * 20


def test_oracle_predicts_the_planted_mean(experiment):
    cells, controls, measured, planted = experiment
    predicted, _ = predict(cells, controls, measured, "oracle", seed=1, planted=planted[::-1, ::-1])
    np.testing.assert_allclose(means_of(predicted, controls), planted.X, atol=1e-6)


def test_oracle_needs_every_planted_mean(experiment):
    cells, controls, measured, planted = experiment
    with pytest.raises(InputError, match="P3"):
        predict(cells, controls, measured, "oracle", seed=1, planted=planted[planted.obs_names != "P3"])


@pytest.mark.parametrize("metric", ["pearson_delta", "mse", "discrimination_l1"])
def test_oracle_and_technical_duplicate_are_at_the_top_and_shuffled_is_not(experiment, metric):
    cells, controls, measured, planted = experiment
    means = {}
    for kind in ("oracle", "technical-duplicate", "shuffled", "control-mean"):
        if kind in METHODS:
            X, method = baselines_predict(cells, SPLIT, controls, kind)
        else:
            X, method = predict(cells, controls, measured, kind, seed=1, planted=planted)
        uns = {"method": json.dumps(method)}
        table = score(pseudobulk(anndata.AnnData(X, obs=controls.obs, var=controls.var, uns=uns)), measured)
        value = table.groupby("metric")["value"].mean()[metric]
        means[kind] = value if higher_is_better(metric) else -value
    assert min(means["oracle"], means["technical-duplicate"]) > max(means["shuffled"], means["control-mean"])
    assert metric == "discrimination_l1" or means["shuffled"] == min(means.values())
