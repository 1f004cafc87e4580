"""Scores, intervals and verdicts: exact on tables computed by hand, calibrated on simulated ones."""

import itertools

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.data.conditions import Condition
from scgpt_bench.evaluation.scores import (
    SCORE_COLUMNS,
    VERDICT_COLUMNS,
    fewest_conditions,
    gather,
    holm,
    scores,
    verdicts,
    with_asked,
)
from scgpt_bench.method_record import record_of, write_record


def metrics_table(values, metric="pearson_delta", dataset="planted", split="fold0", seeds=(0,)):
    """One value per method and perturbation, equal for every seed."""
    rows = [
        (dataset, split, method, seed, f"P{i}", metric, value)
        for method, numbers in values.items()
        for seed in seeds
        for i, value in enumerate(numbers)
    ]
    columns = ["dataset", "split", "method", "seed", "perturbation", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).assign(context="all")


def kinds_of(table):
    """Methods named like a baseline with a number are baselines; all others are of the kind that they are named by."""
    return {name: "train-mean" if name.startswith("baseline") else name for name in table["method"].unique()}


def scores_of(table, draws=200):
    return scores(table, kinds_of(table), draws, seed=1)


def verdict_of(table, draws=200):
    return verdicts(table, kinds_of(table), draws, seed=1)


def test_seeds_are_averaged_before_perturbations():
    table = metrics_table({"scgpt": [0.0, 1.0]}, seeds=[0, 1])
    table.loc[(table["seed"] == 1) & (table["perturbation"] == "P0"), "value"] = 0.5
    row = scores_of(table, 200).iloc[0]
    assert row["mean"] == pytest.approx((0.25 + 1.0) / 2)
    assert (row["n_conditions"], row["n_seeds"]) == (2, 2)
    assert list(row.index) == SCORE_COLUMNS


def test_scores_do_not_depend_on_the_order_of_rows():
    random = np.random.default_rng(1)
    table = metrics_table({"a": random.random(12), "b": random.random(12)})
    mixed = table.sample(frac=1, random_state=3)
    key = ["method", "metric"]
    pd.testing.assert_frame_equal(
        scores_of(table, 300).sort_values(key, ignore_index=True),
        scores_of(mixed, 300).sort_values(key, ignore_index=True),
    )


def test_interval_of_one_perturbation_is_missing_and_of_equal_values_is_a_point():
    assert scores_of(metrics_table({"a": [0.3]}), 200)[["ci_low", "ci_high"]].isna().all(axis=None)
    row = scores_of(metrics_table({"a": [0.25] * 5}), 200).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == (0.25, 0.25)


def test_splits_are_pooled_under_the_name_all():
    other = metrics_table({"a": [1.0]}, split="fold1").assign(perturbation="Q")
    means = scores_of(pd.concat([metrics_table({"a": [0.0, 0.0]}), other]), 200).set_index("split")["mean"]
    assert means.to_dict() == {"fold0": 0, "fold1": 1, "all": pytest.approx(1 / 3)}


def test_a_perturbation_that_two_splits_test_counts_once():
    table = pd.concat([metrics_table({"a": [0.0, 0.2, 0.4]}), metrics_table({"a": [1.0]}, split="gears1")])
    row = scores_of(table, 200).set_index("split").loc["all"]
    assert row["n_conditions"] == 3
    assert row["mean"] == pytest.approx((0.5 + 0.2 + 0.4) / 3)


def test_a_method_that_was_not_run_on_every_split_is_left_out_of_all():
    table = pd.concat([metrics_table({"a": [0.1, 0.2], "b": [0.3, 0.4]}), metrics_table({"a": [0.5]}, split="fold1")])
    found = scores_of(table, 200)
    assert found.loc[found["split"] == "all", "method"].tolist() == ["a"]
    assert found.loc[found["split"] == "fold0", "method"].tolist() == ["a", "b"]


def without(table, method, *perturbations):
    return table[(table["method"] != method) | ~table["perturbation"].isin(perturbations)]


def test_a_perturbation_that_one_method_was_not_scored_on_is_left_out_for_all():
    table = metrics_table({"train-mean": [0.1, 0.2, 0.3], "scgpt": [0.7, 0.8, 0.9]})
    table = without(without(table, "train-mean", "P0"), "scgpt", "P2")
    found = scores_of(table, 200).set_index("method")
    assert found["n_conditions"].tolist() == [1, 1]
    assert found["mean"].to_dict() == {"train-mean": 0.2, "scgpt": 0.8}
    nothing_in_common = table[(table["perturbation"] != "P1")]
    assert scores_of(nothing_in_common, 200).empty


def test_what_the_ceiling_was_not_scored_on_is_left_to_the_methods():
    """cell-eval2 has no value where the reference, half of the cells for the ceiling, has no significant gene."""
    advantage = np.linspace(0.1, 0.3, 20)
    table = metrics_table(
        {
            "train-mean": np.zeros(20),
            "scgpt": advantage,
            "technical-duplicate": np.full(20, 0.9),
            "shuffled": np.zeros(20),
        }
    )
    for kept in (3, 8):  # with 3 the test of ceiling against floor cannot show anything
        poor = without(table, "technical-duplicate", *(f"P{i}" for i in range(kept, 20)))
        n = scores_of(poor).set_index("method")["n_conditions"].to_dict()
        assert n == {"train-mean": 20, "scgpt": 20, "technical-duplicate": kept, "shuffled": 20}
        assert verdict_of(poor)["verdict"].tolist() == ["better"]
    same = without(table.replace({"value": {0.9: 0.0}}), "technical-duplicate", *(f"P{i}" for i in range(8, 20)))
    assert verdict_of(same)["verdict"].tolist() == ["data cannot tell"]


@pytest.mark.parametrize(
    ("metric", "missing"),
    [
        ("sign_agreement_top20", True),
        ("discrimination_l1", True),
        ("cell_eval2.pds_cosine", True),
        ("energy_distance", True),
        ("cell_eval.mae", False),
        ("r2_delta", False),
    ],
)
def test_no_fraction_of_a_ceiling_of_half_of_the_cells_or_one_that_is_noise_around_zero(metric, missing):
    table = metrics_table({"scgpt": [0.2, 0.4], "technical-duplicate": [0.6, 0.6]}, metric)
    assert scores_of(table, 200)["fraction_of_ceiling"].isna().all() == missing


@pytest.mark.parametrize(("metric", "fraction"), [("pearson_delta", 0.5), ("mse", 2.0)])
def test_fraction_of_ceiling_is_inverted_for_errors(metric, fraction):
    table = metrics_table({"scgpt": [0.2, 0.4], "technical-duplicate": [0.6, 0.6]}, metric)
    assert scores_of(table, 200)["fraction_of_ceiling"].tolist() == pytest.approx([fraction, 1.0])


def test_fraction_of_ceiling_is_missing_without_a_ceiling_above_zero():
    assert scores_of(metrics_table({"scgpt": [0.2]}), 200)["fraction_of_ceiling"].isna().all()
    table = metrics_table({"scgpt": [0.2], "technical-duplicate": [-0.1]})
    assert scores_of(table, 200)["fraction_of_ceiling"].isna().all()


def test_intervals_of_a_mean_cover_it_as_often_as_they_say():
    """20 perturbations, the size of a small test set: 95 % within the error of 1,000 simulations."""
    random = np.random.default_rng(8)
    table = metrics_table({f"m{i}": random.normal(0.3, 0.2, 20) for i in range(1000)})
    assert 0.93 <= covered(scores_of(table, 1000)) <= 0.97


def test_intervals_over_small_splits_cover_as_often():
    """12 splits of 2 perturbations; resampled within splits they would cover 83 %."""
    random = np.random.default_rng(9)
    methods = {f"m{i}": random.normal(0.3, 0.2, 24) for i in range(400)}
    table = metrics_table(methods)
    table["split"] = "fold" + (table["perturbation"].str[1:].astype(int) // 2).astype(str)
    intervals = scores_of(table, 1000)
    assert 0.93 <= covered(intervals[intervals["split"] == "all"]) <= 0.97


def covered(intervals):
    return ((intervals["ci_low"] <= 0.3) & (intervals["ci_high"] >= 0.3)).mean()


def test_verdict_against_the_best_baseline_with_an_exact_p_value():
    # All 8 differences favour scgpt, so 1 of 2^8 sign patterns is as extreme: two-sided p = 2 / 256.
    best = np.linspace(0.1, 0.5, 8)
    table = metrics_table({"control-mean": best - 0.3, "train-mean": best, "scgpt": best + np.linspace(0.05, 0.15, 8)})
    row = verdict_of(table).iloc[0]
    assert list(row.index) == VERDICT_COLUMNS
    assert (row["best_baseline"], row["verdict"]) == ("train-mean", "better")
    assert row["difference"] == pytest.approx(0.1)
    assert row["p_value"] == pytest.approx(2 / 2**8)
    assert 0 < row["ci_low"] < 0.1 < row["ci_high"]


def test_p_value_equals_an_enumeration_of_all_signs():
    differences = np.array([0.3, -0.1, 0.25, 0.4, -0.05, 0.2])
    table = metrics_table({"train-mean": np.zeros(6), "scgpt": differences})
    sums = np.array([np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=6)])
    expected = 2 * (sums >= differences.sum() - 1e-12).mean()
    assert verdict_of(table).iloc[0]["p_value"] == pytest.approx(expected)


def test_lower_errors_are_better():
    error = np.linspace(0.5, 1.0, 10)
    table = metrics_table({"control-mean": error, "train-mean": error + 0.2, "scgpt": error - 0.1}, "mse")
    row = verdict_of(table).iloc[0]
    assert (row["best_baseline"], row["verdict"]) == ("control-mean", "better")
    assert row["difference"] == pytest.approx(0.1)


def test_a_method_equal_to_the_best_baseline_is_indistinguishable_from_it():
    numbers = np.linspace(0, 1, 10)
    row = verdict_of(metrics_table({"train-mean": numbers, "scgpt": numbers})).iloc[0]
    assert (row["difference"], row["p_value"], row["verdict"]) == (0, 1, "indistinguishable")


def test_worse_than_the_best_is_worse_even_when_better_than_another():
    best = np.linspace(0.3, 0.6, 12)
    table = metrics_table({"control-mean": best - 0.5, "train-mean": best, "scgpt": best - np.linspace(0.1, 0.2, 12)})
    row = verdict_of(table).iloc[0]
    assert (row["best_baseline"], row["verdict"]) == ("train-mean", "worse")
    assert row["ci_high"] < 0


def test_a_ceiling_that_is_not_above_the_floor_leaves_the_data_mute():
    random = np.random.default_rng(4)
    noise = random.normal(size=(2, 15))
    better = {"train-mean": np.zeros(15), "scgpt": np.linspace(0.5, 1, 15)}
    mute = metrics_table({**better, "technical-duplicate": noise[0], "shuffled": noise[1]})
    assert verdict_of(mute)["verdict"].tolist() == ["data cannot tell"]
    telling = metrics_table({**better, "technical-duplicate": noise[1] + 5, "shuffled": noise[1]})
    assert verdict_of(telling)["verdict"].tolist() == ["better"]


@pytest.mark.parametrize("methods", [1, 2, 3, 11, 200])
def test_the_fewest_conditions_of_a_verdict_are_those_of_the_verdicts(methods):
    fewest = fewest_conditions(methods)
    for n in (fewest - 1, fewest):
        table = metrics_table({"baseline": [0.0] * n, **{f"scgpt{i}": [1.0] * n for i in range(methods)}})
        assert set(verdict_of(table, 20)["verdict"]) == {"too few perturbations" if n < fewest else "better"}


def test_of_too_many_methods_there_is_no_verdict_whatever_is_tested():
    assert fewest_conditions(10_000) is None


@pytest.mark.parametrize(
    ("n", "methods", "expected"), [(5, 1, "too few perturbations"), (6, 1, "better"), (6, 2, "too few perturbations")]
)
def test_too_few_perturbations_allow_no_verdict(n, methods, expected):
    """2^5 sign patterns: however large the advantage, the two-sided p-value cannot be below 2 / 32."""
    advantage = np.linspace(0.5, 1, n)
    table = metrics_table({"train-mean": np.zeros(n), **{f"scgpt{i}": advantage for i in range(methods)}})
    assert set(verdict_of(table)["verdict"]) == {expected}


def test_holm_against_a_hand_computed_example():
    # sorted 0.01 x 3, 0.02 x 2, 0.03 x 1, then never falling
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_p_values_are_corrected_for_the_number_of_methods():
    difference = np.linspace(0.1, 0.2, 8)
    one = verdict_of(metrics_table({"train-mean": np.zeros(8), "a": difference}))
    two = verdict_of(metrics_table({"train-mean": np.zeros(8), "a": difference, "b": difference}))
    assert two["p_value"].tolist() == pytest.approx([2 * one["p_value"].item()] * 2)


def simulated(random, n, advantage, n_baselines=4):
    """A method and baselines that are equally good up to noise, but for the method's advantage."""
    shared = random.normal(0.4, 0.2, n)
    baselines = {f"baseline{i}": shared + random.normal(0, 0.1, n) for i in range(n_baselines)}
    return {**baselines, "scgpt": shared + advantage + random.normal(0, 0.1, n)}


@pytest.mark.parametrize("n", [12, 25])
def test_no_advantage_is_called_better_or_worse_in_at_most_one_of_twenty_draws(n):
    random = np.random.default_rng(11)
    tables = [metrics_table(simulated(random, n, 0.0), dataset=f"draw{i}") for i in range(200)]
    found = verdict_of(pd.concat(tables))["verdict"].value_counts(normalize=True)
    assert found.get("better", 0) + found.get("worse", 0) <= 0.05


def test_a_real_advantage_is_found_and_covered():
    """An advantage of 1.4 standard deviations of a difference, 25 perturbations: power above 90 %."""
    random = np.random.default_rng(12)
    tables = [metrics_table(simulated(random, 25, 0.2), dataset=f"draw{i}") for i in range(200)]
    found = verdict_of(pd.concat(tables))
    assert (found["verdict"] == "better").mean() > 0.9
    assert ((found["ci_low"] <= 0.2) & (found["ci_high"] >= 0.2)).mean() >= 0.93


def test_tables_are_gathered_with_the_names_of_their_folders(tmp_path):
    path = tmp_path / "planted" / "fold0" / "train-mean" / "3" / "metrics.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("perturbation\tcontext\tmetric\tvalue\treason\nNA\tall\tmse\t0.5\t\n")
    row = gather([path]).iloc[0]
    assert row[["dataset", "split", "method", "seed", "perturbation"]].tolist() == [
        "planted",
        "fold0",
        "train-mean",
        3,
        "NA",
    ]


def test_the_conditions_that_a_method_was_asked_about_are_counted_and_its_mean_is_over_all(tmp_path):
    """In two contexts, of four conditions: both seeds were asked about P0, one of them about P1 in K562."""
    table = metrics_table({"scgpt": [0.0, 1.0, 2.0]}, seeds=[0, 1]).assign(context="K562")
    table = pd.concat([table, table[table["perturbation"] == "P0"].assign(context="RPE1")])
    fallback, paths = ("no token", "no change"), []
    for seed, known in ((0, ["P0", "P1"]), (1, ["P0"])):
        asked = [Condition(name, "K562") for name in known]
        fallbacks = {Condition(name, "K562"): fallback for name in ("P1", "P2") if name not in known}
        fallbacks[Condition("P0", "RPE1")] = fallback
        paths.append(tmp_path / "planted" / "fold0" / "scgpt" / str(seed) / "method.json")
        made = record_of([*asked, *fallbacks], fallbacks, kind="script", options={}, seed=seed, n_genes=5)
        write_record(made, paths[-1])
    rows = scores_of(with_asked(table, paths)).set_index("context")
    assert rows.loc["all", ["n_conditions", "n_asked", "mean"]].tolist() == [4, 1, 0.75]
    assert rows.loc["K562", ["n_conditions", "n_asked"]].tolist() == [3, 1]
    assert rows.loc["RPE1", ["n_conditions", "n_asked"]].tolist() == [1, 0]
    assert scores_of(table)["n_asked"].isna().all(), "no record says"
