"""Verdicts and contrasts: the rule of decision, who competes, and what the data do not allow to say."""

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.evaluation import contrasts as of_pairs
from scgpt_bench.evaluation.scores import scores as scores_of
from scgpt_bench.evaluation.scores import with_and_without
from scgpt_bench.evaluation.verdicts import COMPANIONS, VERDICT_COLUMNS, holm, verdicts
from scgpt_bench.methods import registry
from scored import ERRORS, JUDGING, kinds_of, metrics_table, references_of, study

N = 20
NOISE = np.random.default_rng(1).normal(0, 0.05, (8, N))


def judged(table, **options):
    return verdicts(study(table, **options)).set_index(["method", "metric"])


def of_metrics(values, **of_metric):
    """All judging metrics: what is said for all of them, or for one. Errors are 1 minus the value."""
    tables = []
    for metric in JUDGING:
        own = of_metric.get(metric, values)
        own = {name: 1 - np.asarray(numbers) for name, numbers in own.items()} if metric in ERRORS else own
        tables.append(metrics_table(own, metric))
    return pd.concat(tables, ignore_index=True)


def beside(advantage, base=0.4):
    """Two simple methods, one of them hard to beat, and scGPT."""
    best = base + NOISE[0]
    return {"control-mean": best - 0.3, "train-mean": best, "scgpt-knockout": best + advantage + NOISE[1]}


def test_better_takes_direction_specificity_and_size():
    table = judged(of_metrics(beside(0.2)))
    assert table["verdict"].tolist() == ["better"] * 4
    row = table.loc[("scgpt-knockout", "effect_pearson")]
    assert row["opponent"] == "train-mean"
    assert 0 < row["ci_low"] < row["difference"] < row["ci_high"]
    assert row["difference"] == pytest.approx(0.2 + NOISE[1].mean())
    assert list(verdicts(study(of_metrics(beside(0.2)))).columns) == VERDICT_COLUMNS


@pytest.mark.parametrize("leg", COMPANIONS)
def test_a_better_direction_with_one_worse_companion_is_not_better(leg):
    row = judged(of_metrics(beside(0.2), **{leg: beside(-0.2)})).loc[("scgpt-knockout", "effect_pearson")]
    assert row["verdict"] == "inconclusive"
    assert f"{leg} is worse than that of train-mean" in row["reason"]


@pytest.mark.parametrize("leg", COMPANIONS)
def test_absence_of_evidence_against_a_companion_is_not_enough(leg):
    """As good in the mean, but so noisy that it may be worse by more than the margin."""
    noisy = beside(0.0)
    noisy["scgpt-knockout"] = noisy["train-mean"] + 0.4 * np.where(np.arange(N) % 2, 1, -1)
    table = judged(of_metrics(beside(0.2), **{leg: noisy}))
    assert table.loc[("scgpt-knockout", leg), "verdict"] == "inconclusive"
    row = table.loc[("scgpt-knockout", "effect_pearson")]
    assert row["verdict"] == "inconclusive"
    assert f"{leg} is not shown to be as good" in row["reason"]


def test_a_companion_that_was_not_measured_or_has_no_margin_fails():
    values = of_metrics(beside(0.2))
    row = judged(values[values["metric"] != "discrimination"]).loc[("scgpt-knockout", "effect_pearson")]
    assert (row["verdict"], "discrimination is not known" in row["reason"]) == ("inconclusive", True)
    references = references_of(values)
    references.loc[references["metric"] == "mse_unbiased", "noise_free"] = np.nan
    row = judged(values, references=references).loc[("scgpt-knockout", "effect_pearson")]
    assert (row["verdict"], "mse_unbiased cannot be compared" in row["reason"]) == ("inconclusive", True)


def test_a_scaled_or_constant_simple_method_is_never_better():
    """Correlations do not see the scale: the size leg does. A constant has no direction of its own."""
    best = 0.4 + NOISE[0]
    for size in (0.9, 0.3):
        same = {"train-mean": best, "scgpt-knockout": best}
        row = judged(of_metrics(same, mse_unbiased={**same, "scgpt-knockout": size * best})).loc[
            ("scgpt-knockout", "effect_pearson")
        ]
        assert (row["verdict"], row["difference"], row["p_value"]) == ("equivalent", 0, 1)
    constant = {"train-mean": best, "scgpt-knockout": np.zeros(N)}
    assert judged(of_metrics(constant)).loc[("scgpt-knockout", "effect_pearson"), "verdict"] == "worse"


def test_worse_than_the_best_is_worse_even_when_better_than_another():
    row = judged(of_metrics(beside(-0.1))).loc[("scgpt-knockout", "effect_pearson")]
    assert (row["opponent"], row["verdict"]) == ("train-mean", "worse")
    assert row["ci_high"] < 0


def test_equivalent_is_an_interval_within_the_margin_of_skill():
    table = of_metrics(beside(0.0))
    for noise_free, verdict in ((1.0, "equivalent"), (0.3, "inconclusive")):
        row = judged(table, references=references_of(table, noise_free)).loc[("scgpt-knockout", "effect_pearson")]
        assert row["verdict"] == verdict
        assert -0.05 < row["ci_low"] < 0 < row["ci_high"] < 0.05
        assert row["smallest_detectable"] > 0.015
    assert judged(table, margin=0.01).loc[("scgpt-knockout", "effect_pearson"), "verdict"] == "inconclusive"


def test_without_a_margin_nothing_is_equivalent_and_the_reason_says_so():
    table = of_metrics(beside(0.0))
    references = references_of(table).assign(noise_free=np.nan, reason="one half of the cells only")
    row = judged(table, references=references).loc[("scgpt-knockout", "effect_pearson")]
    assert row["verdict"] == "inconclusive"
    assert "one half of the cells only" in row["reason"]


def test_lower_errors_are_better():
    error = {"train-mean": 0.5 + NOISE[0], "scgpt-knockout": 0.3 + NOISE[0] + NOISE[1]}
    row = judged(metrics_table(error, "mse_unbiased")).iloc[0]
    assert row["verdict"] == "better"
    assert row["difference"] == pytest.approx(0.2 - NOISE[1].mean())


def test_only_judging_metrics_give_verdicts():
    table = pd.concat([of_metrics(beside(0.2)), metrics_table(beside(0.2), "pearson_delta")], ignore_index=True)
    assert set(judged(table).index.get_level_values("metric")) == set(JUDGING)


def test_a_method_that_was_asked_about_nothing_is_not_judged_and_costs_others_nothing():
    values = {**beside(0.03), "scgpt-generate": beside(0.03)["scgpt-knockout"]}
    table = metrics_table(values)
    alone = judged(metrics_table(beside(0.03))).iloc[0]
    rows = judged(table.assign(asked=table["method"] != "scgpt-generate")).droplevel("metric")
    assert rows.loc["scgpt-generate", "verdict"] == "not asked"
    assert np.isnan(rows.loc["scgpt-generate", "p_value"])
    assert rows.loc["scgpt-knockout", "p_value"] == alone["p_value"]


def test_data_whose_responses_do_not_repeat_are_unreliable():
    table = metrics_table(beside(0.2), "specific_pearson")
    for above, verdict in ((0.0, "unreliable data"), (0.8, "better")):
        references = references_of(table).assign(own_half=above + NOISE[2], other_halves=NOISE[3])
        assert judged(table, references=references).iloc[0]["verdict"] == verdict
    assert judged(table).iloc[0]["verdict"] == "better", "nothing is known against the data"


@pytest.mark.parametrize(("n", "verdict"), [(1, "too few conditions"), (5, "too few conditions"), (6, "better")])
def test_fewer_than_six_conditions_give_no_verdict(n, verdict):
    row = judged(
        metrics_table({"train-mean": np.zeros(n), "scgpt-knockout": np.linspace(0.5, 0.6, n)}, COMPANIONS[0])
    ).iloc[0]
    assert row["verdict"] == verdict
    assert np.isnan(row["p_value"]) == (n < 6)


def test_copies_of_a_perturbation_in_several_contexts_are_no_evidence():
    table = metrics_table({"train-mean": np.zeros(3), "scgpt-knockout": [0.5, 0.55, 0.6]}, COMPANIONS[0])
    both = pd.concat([table.assign(context=name) for name in ("K562", "RPE1", "Jurkat")], ignore_index=True)
    rows = verdicts(study(both))
    assert set(rows["context"]) == {"all", "K562", "RPE1", "Jurkat"}
    assert set(rows["verdict"]) == {"too few conditions"}


def test_one_gene_in_most_conditions_gives_no_verdict():
    table = metrics_table(beside(0.2), COMPANIONS[0])
    row = judged(table.assign(perturbation="HUB+" + table["perturbation"])).iloc[0]
    assert (row["verdict"], "share one gene" in row["reason"]) == ("too few conditions", True)


def test_folds_are_one_question_and_gears_splits_are_others():
    tables = []
    for number, split in enumerate(("fold0", "fold1", "gears1", "gears2")):
        table = metrics_table(beside(0.2))
        tables.append(table.assign(split=split, perturbation=f"{number}" + table["perturbation"]))
    rows = verdicts(study(pd.concat(tables, ignore_index=True), pooled={"all": ("fold0", "fold1")}))
    assert rows["split"].tolist() == ["fold0", "fold1", "gears1", "gears2", "all"]


def test_p_values_are_corrected_for_the_methods_that_compete():
    values = beside(0.03)
    alone = judged(metrics_table(values)).iloc[0]
    three = {**values, "scgpt-generate": values["scgpt-knockout"], "twin": values["scgpt-knockout"]}
    kinds = {**kinds_of(metrics_table(values)), "scgpt-generate": "scgpt-generate", "twin": "scgpt-knockout"}
    rows = judged(metrics_table(three), kinds=kinds, untrained=["twin"]).droplevel("metric")
    assert rows.loc["scgpt-knockout", "p_value"] == pytest.approx(2 * alone["p_value"])
    assert rows.loc["twin", "p_value"] == pytest.approx(alone["p_value"]), "a twin does not compete"
    assert "does not compete" in rows.loc["twin", "reason"]


def test_the_family_may_be_listed():
    """The one that is asked about is not corrected; what is not listed is, over all; a listed twin competes."""
    values = beside(0.03)
    values = {**values, "scgpt-generate": values["scgpt-knockout"], "twin": values["scgpt-knockout"]}
    kinds = {**kinds_of(metrics_table(values)), "scgpt-generate": "scgpt-generate", "twin": "scgpt-knockout"}
    table = metrics_table(values)
    alone = judged(metrics_table(beside(0.03))).iloc[0]["p_value"]
    rows = judged(table, kinds=kinds, untrained=["twin"], family=["scgpt-knockout"]).droplevel("metric")
    names = ["scgpt-knockout", "scgpt-generate", "twin"]
    assert rows.loc[names, "p_value"].to_numpy() == pytest.approx([alone, 2 * alone, alone])
    assert "not in scores.family: p-value corrected over all 2 methods" in rows.loc["scgpt-generate", "reason"]
    assert "compete" not in rows.loc["scgpt-knockout", "reason"]
    rows = judged(table, kinds=kinds, untrained=["twin"], family=["scgpt-knockout", "twin"]).droplevel("metric")
    assert rows.loc["twin", "p_value"] == pytest.approx(2 * alone)


def test_what_only_the_correction_takes_away_is_said():
    difference = 0.4 + NOISE[1] - NOISE[1].mean() + 0.033
    values = {"train-mean": np.full(N, 0.4), **{f"scgpt{i}": difference for i in range(4)}}
    kinds = {name: "train-mean" if name == "train-mean" else "scgpt-knockout" for name in values}
    row = judged(metrics_table(values, COMPANIONS[0]), kinds=kinds).iloc[0]
    assert row["p_value"] > 0.05
    assert row["ci_low"] > 0
    assert "before Holm's correction over 4 methods" in row["reason"]


def test_holm_against_a_hand_computed_example():
    # sorted 0.01 x 3, 0.02 x 2, 0.03 x 1, then never falling
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_one_seed_of_a_trained_method_speaks_of_this_one_training():
    best = 0.4 + NOISE[0]
    values = {
        "train-mean": best,
        "scgpt-finetuned": best + 0.2 + NOISE[1],
        "imported": best,
        "scgpt-embedding-ridge": best,
    }
    reason = judged(metrics_table(values)).droplevel("metric")["reason"]
    assert "valid for the one training that was run" in reason["scgpt-finetuned"]
    assert "valid for the one seed that was run" in reason["imported"]
    assert "valid for" not in reason["scgpt-embedding-ridge"], "it does not depend on a seed"
    several = {**values, "scgpt-finetuned": (best + NOISE[1])[:, None] + 0.2 + NOISE[2:5].T}
    several["imported"] = np.tile(best[:, None], 3)
    reason = judged(metrics_table(several)).droplevel("metric")["reason"]
    assert "valid for" not in reason["scgpt-finetuned"]
    assert "valid for the one seed that was run" in reason["imported"], "three times the same says nothing of seeds"


def test_a_difference_within_the_margin_is_said_to_count_as_none():
    best = 0.4 + NOISE[0]
    small = {"train-mean": best, "scgpt-knockout": best + 0.005 + NOISE[1] / 50}
    row = judged(of_metrics(small)).loc[("scgpt-knockout", "effect_pearson")]
    assert row["p_value"] < 0.05
    assert (row["verdict"], "within the margin" in row["reason"]) == ("equivalent", True)
    row = judged(of_metrics(beside(0.2))).loc[("scgpt-knockout", "effect_pearson")]
    assert "within the margin" not in row["reason"]


def test_the_detectable_difference_is_that_from_the_named_opponent():
    best = 0.4 + NOISE[0]
    values = {"train-mean": best, "control-mean": 0.1 + 20 * NOISE[2], "scgpt-knockout": best + NOISE[1] / 10}
    row = judged(metrics_table(values)).iloc[0]
    alone = judged(metrics_table({name: values[name] for name in ("train-mean", "scgpt-knockout")})).iloc[0]
    assert row["opponent"] == "train-mean"
    assert row["smallest_detectable"] == pytest.approx(alone["smallest_detectable"])


def test_three_seeds_that_disagree_give_no_verdict_where_one_would():
    best = 0.4 + NOISE[0]
    seeds = best[:, None] + np.array([0.3, 0.02, -0.15])
    one = judged(
        metrics_table({"train-mean": best, "scgpt-finetuned": seeds[:, :1] + NOISE[1][:, None]}, COMPANIONS[0])
    )
    three = judged(metrics_table({"train-mean": best, "scgpt-finetuned": seeds + NOISE[1][:, None]}, COMPANIONS[0]))
    assert [table.iloc[0]["verdict"] for table in (one, three)] == ["better", "inconclusive"]


METHODS = {
    "train-mean": {"kind": "train-mean"},
    "scgpt-finetuned": {"kind": "scgpt-finetuned", "checkpoint": "human"},
    "published": {"kind": "scgpt-finetuned", "checkpoint": "human", "keep_targets": False},
    "scgpt-scratch": {"kind": "scgpt-scratch", "checkpoint": "random"},
    "scgpt-knockout": {"kind": "scgpt-knockout", "checkpoint": "human", "draws": 2},
    "more-draws": {"kind": "scgpt-knockout", "checkpoint": "human", "draws": 9},
    "untrained": {"kind": "scgpt-knockout", "checkpoint": "random", "draws": 2},
    "untrained-more": {"kind": "scgpt-knockout", "checkpoint": "random", "draws": 9},
    "embedding": {"kind": "scgpt-embedding-ridge", "checkpoint": "human", "penalty": 1.0},
    "random-embedding": {"kind": "scgpt-embedding-ridge", "checkpoint": "random", "penalty": 0.1},
}


def test_contrasts_are_found_in_the_configuration():
    assert registry.untrained(METHODS, ["random"]) == ["untrained", "untrained-more", "random-embedding"]
    from_random = ["scgpt-scratch", "untrained", "untrained-more", "random-embedding"]
    assert registry.without_pretraining(METHODS, ["random"]) == from_random
    assert registry.contrasts(METHODS, ["random"]) == [
        ("scgpt-finetuned", "scgpt-scratch"),
        ("scgpt-knockout", "untrained"),
        ("more-draws", "untrained-more"),
    ], "pairs with another recipe or penalty differ in more than pretraining"
    assert registry.contrasts({"train-mean": {"kind": "train-mean"}}, []) == []


def test_what_scgpt_is_given_is_contrasted_with_the_default_where_nothing_else_differs():
    common = {"kind": "scgpt-knockout", "checkpoint": "human", "seeds": [0]}
    methods = {
        "zero": {**common, "silenced_targets": "zero"},
        "left-out": {**common, "silenced_targets": "left_out"},
        "other": {**common, "silenced_targets": "left_out", "draws": 9},
        "log": {"kind": "scgpt-zero-shot", "checkpoint": "human", "seeds": [0], "value_input": "log1p"},
        "bins": {"kind": "scgpt-zero-shot", "checkpoint": "human", "seeds": [0, 1], "value_input": "bins"},
    }
    assert registry.contrasts(methods, ["random"]) == [("left-out", "zero"), ("bins", "log")]


def test_a_contrast_is_the_paired_comparison_of_two_methods():
    best = (0.4 + NOISE[0])[:, None]
    values = {"scgpt-finetuned": best + 0.1 + NOISE[1:4].T, "scgpt-scratch": best + NOISE[4:7].T}
    table = of_pairs.contrasts(study(of_metrics(values)), [("scgpt-finetuned", "scgpt-scratch"), ("absent", "too")])
    assert list(table.columns) == VERDICT_COLUMNS
    assert table["metric"].tolist() == list(JUDGING)
    assert set(table["opponent"]) == {"scgpt-scratch"}
    assert set(table["verdict"]) == {"better"}
    same = of_pairs.contrasts(study(of_metrics(values)), [("scgpt-scratch", "scgpt-scratch")])
    assert set(same["verdict"]) == {"equivalent"}
    assert of_pairs.contrasts(study(of_metrics(values)), []).empty


def test_a_contrast_is_over_the_conditions_that_both_were_asked_about():
    """Where neither knows the genes, both predict the same; where one does, they differ in vocabulary."""
    best = 0.4 + NOISE[0]
    values = {"train-mean": best, "scgpt-knockout": best + 0.1 + NOISE[1], "twin": best + NOISE[2]}
    kinds = {"train-mean": "train-mean", "scgpt-knockout": "scgpt-knockout", "twin": "scgpt-knockout"}
    table = metrics_table(values)
    number = table.groupby("method").cumcount()
    table["asked"] = (table["method"] == "train-mean") | (number < np.where(table["method"] == "twin", 15, 9))
    row = of_pairs.contrasts(study(table, kinds=kinds), [("scgpt-knockout", "twin")]).iloc[0]
    assert row["difference"] == pytest.approx((values["scgpt-knockout"] - values["twin"])[:9].mean())
    assert "over the 9 of 20 conditions that both were asked about" in row["reason"]
    table["asked"] = (table["method"] == "scgpt-knockout") == (number < 9)
    row = of_pairs.contrasts(study(table, kinds=kinds), [("scgpt-knockout", "twin")]).iloc[0]
    assert (row["verdict"], np.isnan(row["p_value"])) == ("not asked", True)


def simulated(random, n, advantage, n_baselines=4):
    """A method and baselines that are equally good up to noise, except for the method's advantage."""
    shared = random.normal(0.4, 0.2, n)
    baselines = {f"baseline{i}": shared + random.normal(0, 0.1, n) for i in range(n_baselines)}
    return {**baselines, "scgpt-knockout": shared + advantage + random.normal(0, 0.1, n)}


def verdicts_on(random, n, advantage):
    tables = [metrics_table(simulated(random, n, advantage), COMPANIONS[0], dataset=f"draw{i}") for i in range(200)]
    return judged(pd.concat(tables, ignore_index=True))


@pytest.mark.parametrize("n", [12, 25])
def test_no_advantage_is_called_better_or_worse_in_at_most_one_of_twenty_draws(n):
    found = verdicts_on(np.random.default_rng(11), n, 0.0)["verdict"]
    assert found.isin(["better", "worse"]).mean() <= 0.05


def test_a_real_advantage_is_found_and_covered():
    """An advantage of 1.4 standard deviations of a difference, 25 perturbations: power above 90 %."""
    found = verdicts_on(np.random.default_rng(12), 25, 0.2)
    assert (found["verdict"] == "better").mean() > 0.9
    assert ((found["ci_low"] <= 0.2) & (found["ci_high"] >= 0.2)).mean() >= 0.93


def test_scores_and_verdicts_over_reliable_conditions_stand_beside_those_over_all():
    table = metrics_table(beside(0.2), COMPANIONS[0])
    made, few = study(table), study(table[table["perturbation"].isin(["P0", "P1"])])
    both = with_and_without(scores_of(made), verdicts(made), scores_of(few), verdicts(few)).set_index("method")
    row = both.loc["scgpt-knockout"]
    assert (row["verdict"], row["reliable_verdict"]) == ("better", "too few conditions")
    assert (row["opponent"], row["n_conditions"], row["reliable_n_conditions"]) == ("train-mean", N, 2)


def of_contexts(differences, sd=0.01):
    """A method beside a simple one in splits that hold out a context each: the mean difference in each context."""
    random = np.random.default_rng(4)
    tables = []
    for name, mean in differences.items():
        easy = random.normal(0.5, 0.1, 20)
        values = {"baseline": easy, "tuned": easy + random.normal(mean, sd, 20)}
        tables.append(metrics_table(values, split=f"context-{name}", context=name))
    return pd.concat(tables, ignore_index=True), {"contexts": [f"context-{name}" for name in differences]}


def judged_over_contexts(differences):
    table, pooled = of_contexts(differences)
    rows = verdicts(study(table, pooled=pooled))
    rows = rows[(rows["metric"] == "effect_pearson") & (rows["method"] == "tuned")]
    return rows.set_index(["split", "context"])


def test_over_few_contexts_the_answer_speaks_of_these_contexts_only_and_says_so():
    rows = judged_over_contexts({"A": 0.1, "B": 0.2, "C": -0.05})
    assert rows.loc[("contexts", "all"), "p_value"] < 0.001
    assert "of these 3 contexts only, not of others" in rows.loc[("contexts", "all"), "reason"]
    assert "of this context only" in rows.loc[("contexts", "A"), "reason"]
    assert "of this context only" in rows.loc[("context-A", "all"), "reason"]


def test_over_four_contexts_the_answer_is_about_others_too_and_counts_contexts():
    rows = judged_over_contexts({"A": 0.1, "B": 0.2, "C": -0.05, "D": 0.02})
    over = rows.loc[("contexts", "all")]
    assert over["p_value"] > 0.05
    assert "only" not in over["reason"]
    assert over["ci_low"] < 0 < over["ci_high"]
    agree = judged_over_contexts({"A": 0.1, "B": 0.12, "C": 0.09, "D": 0.11}).loc[("contexts", "all")]
    assert agree["p_value"] < 0.05
    by_t_test = 2 * 3.18 * np.std([0.1, 0.12, 0.09, 0.11], ddof=1) / 2  # over the four means
    assert agree["ci_high"] - agree["ci_low"] == pytest.approx(by_t_test, rel=0.5)
