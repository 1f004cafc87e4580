"""What no change and the noise-free truth score: a prediction of the true effects has a skill of 1."""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.evaluation.metrics import METRICS, score
from scgpt_bench.evaluation.reference_scores import DRAWS, reference_scores, true_changes

TESTED, TRAINED, GENES = 30, 12, 2000
CELLS, CONTROLS = (20, 80, 320), (50, 500, 5000)
EXPERIMENTS = 2
JUDGING = [name for name, metric in METRICS.items() if metric.judges]


def experiment(seed, n_cells, n_controls, effect=1.0, genes=GENES, contexts=("all",)):
    """truth.h5ad and what a method predicts that knows the true effects, in each context.

    A tenth of the genes responds; effects have about the size of a cell's spread, as in the demo (``oracle`` correlates
    by 0.9 at 80 cells), with a part that all conditions share, and differ in size between conditions.
    """
    random = np.random.default_rng([seed, n_cells, n_controls, int(100 * effect)])
    n, made, true = TESTED + TRAINED, [], []
    for context in contexts:
        spread = np.clip(np.exp(random.normal(-1, 0.6, genes)), 0.02, 1)
        common, own = (
            np.where(random.random(shape) < 0.1, random.normal(size=shape), 0) * spread for shape in (genes, (n, genes))
        )
        effects = effect * np.exp(random.normal(0, 0.5, (n, 1))) * (0.5 * common + 0.87 * own)
        n_half = n_controls // 2
        base = random.exponential(size=genes)
        halves = base + random.normal(size=(2, genes)) * spread / np.sqrt(n_half)
        means = base + effects + random.normal(size=(n, genes)) * spread / np.sqrt(n_cells)
        layers = {
            "reference_input": halves[0],
            "reference_truth": halves[1],
            "centroid": means[TESTED:].mean(axis=0),
            "variance_of_mean": spread**2 / n_cells * random.chisquare(n_cells - 1, (n, genes)) / (n_cells - 1),
            "variance_of_reference": spread**2 / n_half * random.chisquare(n_half - 1, genes) / (n_half - 1),
        }
        layers = {name: np.broadcast_to(layer, means.shape).copy() for name, layer in layers.items()}
        layers["centroid"][TESTED:] = np.nan
        obs = table_of([Condition(f"P{number:02}", context) for number in range(n)])
        obs["tested"], obs["n_cells"] = np.arange(n) < TESTED, 50
        var = pd.DataFrame(index=[f"G{number}" for number in range(genes)])
        made.append(anndata.AnnData(means, obs=obs, var=var, layers=layers))
        true.append(halves[0] + effects[:TESTED])
    truth = measured_without_noise(anndata.concat(made, merge="same") if len(made) > 1 else made[0])
    tested = truth.obs[truth.obs["tested"]]
    return truth, anndata.AnnData(np.concatenate(true), obs=tested, var=truth.var)


def skills(truth, oracle):
    scored = score(oracle, truth).groupby("metric")["value"].mean()
    references = reference_scores(truth).groupby("metric")[["no_change", "noise_free"]].mean()
    way = references["noise_free"] - references["no_change"]
    return (scored - references["no_change"])[way.index] / way


@pytest.mark.parametrize("n_controls", CONTROLS)
@pytest.mark.parametrize("n_cells", CELLS)
def test_the_true_effects_have_a_skill_of_one(n_cells, n_controls):
    """Mean of 2 experiments of 30 conditions and 2,000 genes, seeds 0 and 1."""
    found = [skills(*experiment(seed, n_cells, n_controls))[JUDGING] for seed in range(EXPERIMENTS)]
    assert pd.concat(found, axis=1).mean(axis=1).to_dict() == pytest.approx(dict.fromkeys(JUDGING, 1.0), abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 1.5])
def test_the_skill_of_the_covariance_is_the_share_of_the_true_change_that_is_predicted(share):
    """Of one experiment of 30 conditions and 2,000 genes, 80 cells and 500 controls, seed 1."""
    truth, oracle = experiment(1, 80, 500)
    control = truth[oracle.obs_names].layers["reference_input"]
    oracle.X = control + share * (oracle.X - control)
    scored = score(oracle, truth).query("metric == 'effect_covariance'")["value"].mean()
    ends = reference_scores(truth).query("metric == 'effect_covariance'")
    assert (ends["no_change"] == 0).all()
    assert scored / ends["noise_free"].mean() == pytest.approx(share, abs=0.03)


def test_published_metrics_have_it_too_where_it_is_known():
    truth, oracle = experiment(1, 80, 500)
    found = skills(truth, oracle)
    for metric in ("pearson", "mse", "mae", "pearson_delta", "cosine_delta", "r2_delta", "pearson_delta_no_target"):
        assert found[metric] == pytest.approx(1, abs=0.03), metric
    table = reference_scores(truth)
    unknown = table[table["noise_free"].isna()]
    assert {"sign_agreement", "pearson_delta_centroid", "energy_distance"} <= set(unknown["metric"])
    assert (unknown["reason"] != "").all()
    assert (table.loc[table["noise_free"].notna(), "reason"] == "").all()


def test_the_noise_free_correlation_is_the_root_of_the_reliability_of_all_cells():
    """Two halves of the same experiment correlate by r, all cells by 2 r / (1 + r); over 30 conditions."""
    truth, _ = experiment(2, 40, 2000)
    random = np.random.default_rng(1)
    of_mean, of_reference = (np.sqrt(truth.layers[f"variance_of_{name}"]) for name in ("mean", "reference"))
    # The difference between two halves has four times the variance of the mean of all, and is independent of it.
    apart = of_mean * random.normal(size=truth.shape) - of_reference * random.normal(size=GENES)
    change = truth.X - truth.layers["reference_truth"]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip((change + apart)[:TESTED], (change - apart)[:TESTED], strict=True)]
    reliability = 2 * np.array(r) / (1 + np.array(r))
    table = reference_scores(truth).query("metric == 'effect_pearson'")
    assert table["noise_free"].mean() == pytest.approx(np.sqrt(reliability).mean(), abs=0.01)
    assert np.corrcoef(table["noise_free"], np.sqrt(reliability))[0, 1] > 0.9


def test_no_change_is_scored_as_it_is_predicted_but_by_chance_in_discrimination():
    truth, oracle = experiment(3, 80, 500, genes=200)
    table = reference_scores(truth)
    oracle.X = truth[oracle.obs_names].layers["reference_input"]
    expected = score(oracle, truth)
    compared = table[: len(expected)].reset_index(drop=True)
    assert (compared["metric"] == expected["metric"]).all()
    by_chance = expected["metric"].isin(["discrimination", "found_among_20"]).to_numpy()
    np.testing.assert_array_equal(compared["no_change"][~by_chance], expected["value"][~by_chance])
    assert set(compared["no_change"][by_chance]) == {0.5, 0.05}
    correlations = compared["metric"].isin(["effect_pearson", "specific_pearson"])
    assert (compared["no_change"][correlations] == 0).all()
    assert (compared["noise_free"][compared["metric"] == "mse_unbiased"] == 0).all()


def test_where_nothing_responds_the_truth_has_next_to_nothing_to_be_known():
    truth, _ = experiment(4, 80, 500, effect=0.0)
    table = reference_scores(truth).groupby("metric")["noise_free"].mean()
    assert 0 <= table["effect_pearson"] < 0.15, "the root of what noise leaves above 0"
    assert true_changes(truth).std() < 0.3 * (truth.X - truth.layers["reference_truth"]).std()


def test_a_strong_target_does_not_make_the_rest_of_a_change_reliable():
    truth, _ = experiment(5, 80, 500, effect=0.0)
    truth.obs = table_of([Condition(f"G{number}") for number in range(truth.n_obs)]).assign(
        tested=truth.obs["tested"].to_numpy(), n_cells=50
    )
    plain = reference_scores(truth).query("metric == 'effect_pearson'")["noise_free"].mean()
    truth.X[np.arange(truth.n_obs), np.arange(truth.n_obs)] -= 5
    strong = reference_scores(truth).query("metric == 'effect_pearson'")["noise_free"].mean()
    assert strong == pytest.approx(plain, abs=0.02)


def test_what_is_not_known_of_a_single_cell_is_missing_and_says_why():
    truth, _ = experiment(6, 20, 50, genes=300)
    truth.layers["variance_of_mean"][0] = np.nan
    table = reference_scores(truth).query("metric in @JUDGING").set_index(["metric", "perturbation"])
    for metric in JUDGING:
        assert np.isnan(table.loc[(metric, "P00"), "noise_free"])
        assert "single cell" in table.loc[(metric, "P00"), "reason"]
        assert np.isfinite(table.loc[(metric, "P01"), "noise_free"])
    assert np.isfinite(table["no_change"]).all()


def test_contexts_are_measured_again_each_by_itself():
    truth, _ = experiment(7, 20, 50, genes=300, contexts=("k", "r"))
    table = reference_scores(truth)
    for context in ("k", "r"):
        own = reference_scores(truth[(truth.obs["context"] == context).to_numpy()].copy())
        together = table[table["context"] == context].reset_index(drop=True)
        pd.testing.assert_frame_equal(together, own, rtol=1e-9)


def test_the_same_file_gives_the_same_scores_and_draws_are_few():
    truth, _ = experiment(8, 20, 50, genes=100)
    pd.testing.assert_frame_equal(reference_scores(truth), reference_scores(truth))
    other = reference_scores(truth, seed=2)
    assert not other["noise_free"].equals(reference_scores(truth)["noise_free"])
    assert DRAWS >= 2
