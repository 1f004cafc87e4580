"""Scores and their intervals: exact on tables computed by hand."""

import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scgpt_bench.data.conditions import Condition
from scgpt_bench.evaluation import scores as module
from scgpt_bench.evaluation.control_blocks import WITHOUT
from scgpt_bench.evaluation.scores import SCORE_COLUMNS, differences, read_study, with_asked
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.method_record import record_of, write_record
from scored import JUDGING, metrics_table, references_of, study


def scores_of(table, **options):
    return module.scores(study(table, **options))


def spread(n, mean=0.3):
    """Values that are symmetric around their mean."""
    return mean + np.linspace(-0.2, 0.2, n)


def test_the_interval_is_that_of_a_t_test_over_conditions():
    values = spread(12)
    row = scores_of(metrics_table({"scgpt": values})).iloc[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(expected))
    assert row["mean"] == pytest.approx(0.3)
    assert list(row.index) == SCORE_COLUMNS


def test_seeds_that_differ_widen_the_interval():
    values = spread(12)[:, None] + np.array([-0.2, 0.0, 0.2])
    rows = [scores_of(metrics_table({"scgpt": table})).iloc[0] for table in (values, values[:, [1, 1, 1]])]
    assert [row["mean"] for row in rows] == pytest.approx([0.3, 0.3])
    assert [row["n_seeds"] for row in rows] == [3, 3]
    width = [row["ci_high"] - row["ci_low"] for row in rows]
    assert width[0] > 2 * width[1]


def test_scores_do_not_depend_on_the_order_of_rows():
    random = np.random.default_rng(1)
    table = metrics_table({"a": random.random((12, 2)), "b": random.random(12)})
    key = ["method", "metric"]
    pd.testing.assert_frame_equal(
        scores_of(table).sort_values(key, ignore_index=True),
        scores_of(table.sample(frac=1, random_state=3)).sort_values(key, ignore_index=True),
    )


def test_too_few_conditions_have_a_mean_without_an_interval_and_equal_values_a_point():
    for n in (1, 2, 5):
        row = scores_of(metrics_table({"a": [0.3] * n})).iloc[0]
        assert row["mean"] == 0.3
        assert row[["ci_low", "ci_high"]].isna().all()
        assert "no interval" in row["reason"]
    row = scores_of(metrics_table({"a": [0.25] * 6})).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == (0.25, 0.25)


def of_splits(*names, n=8):
    """Each split tests perturbations of its own."""
    tables = [metrics_table({"a": spread(n, 0.1 * i)}, split=name) for i, name in enumerate(names)]
    return pd.concat(
        [table.assign(perturbation=table["split"] + table["perturbation"]) for table in tables], ignore_index=True
    )


def test_folds_of_one_dealing_are_pooled_and_nothing_else_is():
    table = of_splits("fold0", "fold1", "gears1", "gears2", "published")
    rows = scores_of(table, pooled={"all": ("fold0", "fold1")}).set_index("split")
    assert rows.index.tolist() == ["fold0", "fold1", "gears1", "gears2", "published", "all"]
    assert rows.loc["all", ["n_conditions", "mean"]].tolist() == [16, pytest.approx(0.05)]
    assert "all" not in set(scores_of(table, pooled={"all": ("fold0",)})["split"])


def test_pooled_intervals_are_widened_by_what_folds_train_on():
    table = of_splits("fold0", "fold1")
    widths = [
        rows["ci_high"] - rows["ci_low"]
        for training in (16, 100_000)
        for rows in [
            scores_of(table, pooled={"all": ("fold0", "fold1")}, training=training).set_index("split").loc["all"]
        ]
    ]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(2), rel=1e-3)


def test_a_method_that_was_not_run_on_every_fold_is_left_out_of_all():
    table = of_splits("fold0", "fold1")
    both = pd.concat([table, table[table["split"] == "fold0"].assign(method="b")])
    found = scores_of(both, pooled={"all": ("fold0", "fold1")})
    assert found.loc[found["split"] == "all", "method"].tolist() == ["a"]
    assert found.loc[found["split"] == "fold0", "method"].tolist() == ["a", "b"]


def without(table, method, *perturbations):
    return table[(table["method"] != method) | ~table["perturbation"].isin(perturbations)]


def test_a_perturbation_that_one_method_was_not_scored_on_is_left_out_for_all():
    table = metrics_table({"train-mean": [0.1, 0.2, 0.3], "scgpt": [0.7, 0.8, 0.9]})
    table = without(without(table, "train-mean", "P0"), "scgpt", "P2")
    found = scores_of(table).set_index("method")
    assert found["n_conditions"].tolist() == [1, 1]
    assert found["mean"].to_dict() == {"train-mean": 0.2, "scgpt": 0.8}
    assert scores_of(table[table["perturbation"] != "P1"]).empty


def test_what_the_ceiling_was_not_scored_on_is_left_to_the_methods():
    """cell-eval2 has no value where the reference, half of the cells for the ceiling, has no significant gene."""
    table = metrics_table({"train-mean": np.zeros(20), "technical-duplicate": np.full(20, 0.9)})
    poor = without(table, "technical-duplicate", *(f"P{i}" for i in range(8, 20)))
    assert scores_of(poor).set_index("method")["n_conditions"].to_dict() == {"train-mean": 20, "technical-duplicate": 8}


def with_references(table, without=None, **columns):
    options = {} if without is None else {"control_blocks": without}
    return scores_of(table, references=references_of(table).assign(**columns), **options).set_index("method")


def test_skill_is_0_for_no_change_and_1_for_noise_free_truth():
    table = metrics_table({"scgpt": spread(8, 0.5), "train-mean": spread(8, 0.2), "scgpt-scratch": spread(8, 0.8)})
    skill = with_references(table, no_change=0.2, noise_free=0.8)["skill"]
    assert skill.to_dict() == pytest.approx({"scgpt": 0.5, "train-mean": 0.0, "scgpt-scratch": 1.0})
    errors = metrics_table({"scgpt": spread(8, 0.3)}, "mse_unbiased")
    assert with_references(errors, no_change=0.4, noise_free=0.0).loc["scgpt", "skill"] == pytest.approx(0.25)


def test_skill_is_empty_with_a_reason_where_there_is_no_way_to_go():
    table = metrics_table({"scgpt": spread(8)})
    for columns, reason in (
        ({"no_change": 0.5, "noise_free": 0.5}, "doing nothing"),
        ({"noise_free": np.nan, "reason": "one half only"}, "one half only"),
    ):
        row = with_references(table, **columns).loc["scgpt"]
        assert np.isnan(row["skill"])
        assert reason in row["reason"]
    row = scores_of(metrics_table({"scgpt": spread(8)}, "pearson")).iloc[0]
    assert np.isnan(row["skill"])
    assert "not defined for this metric" in row["reason"]


def test_skill_is_over_the_conditions_whose_references_are_known():
    table = metrics_table({"scgpt": [0.5] * 6 + [0.0] * 2})
    noise_free = [1.0] * 6 + [np.nan] * 2
    row = with_references(table, noise_free=noise_free, reason=[""] * 6 + ["few cells"] * 2).loc["scgpt"]
    assert row["skill"] == pytest.approx(0.5)
    assert row["reason"] == "skill over 6 of 8 conditions: few cells"


def test_what_is_above_noise_free_truth_is_flagged_as_a_leak():
    random = np.random.default_rng(2)
    noise = random.normal(0, 0.05, 20)
    table = metrics_table({"scgpt": 0.8 + noise, "scgpt-scratch": 0.7 + noise, "technical-duplicate": 0.8 + noise})
    reason = with_references(table, noise_free=0.71)["reason"]
    assert "leak" in reason["scgpt"]
    assert reason["scgpt-scratch"] == reason["technical-duplicate"] == ""
    assert not with_references(table, noise_free=0.5)["reason"].any(), "of noisy truth the bound is not known well"


def test_an_error_below_the_noise_of_the_truth_is_flagged_as_a_leak():
    """Without a leak its expectation is not below 0, however noisy the truth is."""
    noise = np.random.default_rng(2).normal(0, 0.01, 20)
    table = metrics_table({"scgpt": noise - 0.02, "scgpt-scratch": noise + 0.02, "train-mean": noise}, "mse_unbiased")
    without = table.drop(columns="value").assign(**dict.fromkeys(WITHOUT, table["value"]))
    reason = with_references(table, without, no_change=0.01, noise_free=0.0)["reason"]
    assert "leak" in reason["scgpt"]
    assert reason["scgpt-scratch"] == reason["train-mean"] == ""
    unsure = without.assign(**{WITHOUT[0]: table["value"] + 0.02})
    assert not with_references(table, unsure, no_change=0.01)["reason"].any(), "the noise of the control mean"
    assert not with_references(table, no_change=0.01)["reason"].any(), "that noise is not known"


@pytest.mark.parametrize(("trained", "verdict"), [("K562", "inconclusive"), ("RPE1", "better")])
def test_a_file_that_holds_out_contexts_counts_as_few_contexts_as_it_tests(trained, verdict):
    """In each of four contexts all perturbations have one error in common: 80 conditions, but four contexts."""
    random = np.random.default_rng(3)
    names = ("A", "B", "C", "D")
    tables, roles = [], []
    for context, shift in zip(names, (0.16, 0.06, 0.15, 0.0), strict=True):
        best = 0.4 + random.normal(0, 0.05, 20)
        table = metrics_table({"train-mean": best, "scgpt": best + shift + random.normal(0, 0.02, 20)}, JUDGING[1])
        tables.append(table.assign(context=context, perturbation=context + table["perturbation"]))
        of_test = tables[-1][["dataset", "split", "perturbation", "context"]].drop_duplicates()
        own = trained if trained == "K562" else context
        roles += [of_test.assign(role="test"), of_test.assign(role="train", context=own, perturbation="other")]
    found = verdicts(study(pd.concat(tables, ignore_index=True), splits=pd.concat(roles, ignore_index=True)))
    assert found.loc[found["context"] == "all", "verdict"].tolist() == [verdict]


def test_differences_of_rounding_are_none():
    values = spread(8)[:, None]
    assert not differences(values, [values + 1e-8]).any()
    assert differences(values, [values + 1e-4]).all()


def test_seeds_are_paired_and_a_single_one_is_compared_with_each():
    three, one = np.arange(6.0).reshape(2, 3), np.ones((2, 1))
    assert differences(three, [one, three]).shape == (2, 3, 2)
    assert not differences(three, [one, three])[:, :, 1].any()
    assert differences(one, [three])[:, :, 0].tolist() == [[0.0], [-3.0]]


def test_tables_are_gathered_with_the_names_of_their_folders(tmp_path):
    path = tmp_path / "planted" / "fold0" / "train-mean" / "3" / "metrics.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("perturbation\tcontext\tmetric\tvalue\treason\nNA\tall\tmse\t0.5\t\n")
    files = dict.fromkeys(("records", "control_blocks", "references", "splits"), ())
    row = read_study({**files, "metrics": [path]}, {"kinds": {}}).metrics.iloc[0]
    names = ["dataset", "split", "method", "seed", "perturbation"]
    assert row[names].tolist() == ["planted", "fold0", "train-mean", 3, "NA"]


def test_the_conditions_that_a_method_was_asked_about_are_counted_and_its_mean_is_over_all(tmp_path):
    """In two contexts, of four conditions: both seeds were asked about P0, one of them about P1 in K562."""
    table = metrics_table({"scgpt": [0.0, 1.0, 2.0]}, seeds=[0, 1], context="K562")
    table = pd.concat([table, table[table["perturbation"] == "P0"].assign(context="RPE1")], ignore_index=True)
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


@pytest.mark.long
def test_scores_and_verdicts_of_a_large_study_take_less_than_a_minute():
    """10 data sets, 12 methods, 300 conditions that share genes, 16 metrics, three seeds of three methods."""
    random = np.random.default_rng(3)
    names = [f"G{i % 150}+G{(7 * i + 1) % 150}" for i in range(300)]
    methods = {f"baseline{i}": 1 for i in range(6)} | {"shuffled": 1, "technical-duplicate": 1, "scgpt-knockout": 1}
    methods |= {"scgpt-zero-shot": 3, "scgpt-finetuned": 3, "scgpt-scratch": 3}
    metrics = [*JUDGING, *(f"{name}_top{n}" for name in ("pearson_delta", "mse", "mae") for n in (20, 50, 100))]
    metrics += [f"cell_eval.{name}" for name in ("mae", "overlap_at_N", "discrimination_score_l1")]
    runs = [(method, seed) for method, seeds in methods.items() for seed in range(seeds)]
    index = pd.MultiIndex.from_product([[f"d{i}" for i in range(10)], metrics, range(len(runs)), names])
    table = index.to_frame(index=False, name=["dataset", "metric", "run", "perturbation"])
    table["method"] = table["run"].map(lambda run: runs[run][0])
    table["seed"] = table["run"].map(lambda run: runs[run][1])
    table = table.assign(split="fold0", context="all", value=random.normal(0.3, 0.1, len(table)))
    made, start = study(table), time.perf_counter()
    module.scores(made)
    verdicts(made)
    assert time.perf_counter() - start < 60
