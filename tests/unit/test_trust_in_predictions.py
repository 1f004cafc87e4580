"""What the page *Predicted* says first: scores of the same methods on conditions that were as well known."""

import numpy as np
import pandas as pd
import pytest

import scored
from made_up import method_record
from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.splits import table_of_roles
from scgpt_bench.method_record import record_of
from scgpt_bench.methods.registry import KINDS
from scgpt_bench.report import predicted
from scgpt_bench.unmeasured.expected import prediction_interval
from scgpt_bench.unmeasured.trust import TRUST_COLUMNS, trust

TESTED = [f"P{i}" for i in range(12)]
LISTED = ["N1", "N2", "N3"]
KINDS_OF = {name: name for name in ("control-mean", "ridge", "tuned-simple", "knn", "scgpt-zero-shot")}
LEVELS = {"control-mean": 0.0, "ridge": 0.3, "tuned-simple": 0.4, "knn": 0.6, "scgpt-zero-shot": -0.2}


def split_of(test, train=("T1", "T2"), context="all"):
    roles = dict.fromkeys((Condition(name, "all") for name in train), "train")
    return table_of_roles(roles | {Condition(name, context): "test" for name in test})


def study(levels=LEVELS, not_asked=()):
    """Methods that score about a level each."""
    noise = np.random.default_rng(5).normal(0, 0.02, (len(levels), len(TESTED)))
    tables = []
    for metric in ("effect_pearson", "sign_agreement_top20"):
        values = {method: level + noise[i] * (level != 0) for i, (method, level) in enumerate(levels.items())}
        tables.append(scored.metrics_table(values, metric))
    table = pd.concat(tables, ignore_index=True)
    known = [(method, name) not in not_asked for method, name in table[["method", "perturbation"]].to_numpy()]
    splits = split_of(TESTED).assign(dataset="planted", split="fold0")
    return scored.study(table.assign(asked=known), {name: KINDS_OF[name] for name in levels}, splits=splits)


def records(methods, fallbacks=()):
    missing = {Condition(name): ("no token", "train mean") for name in fallbacks}
    entries = {"options": {}, "seed": 0, "n_genes": 5}
    return {method: record_of(map(Condition, LISTED), missing, kind=method, **entries) for method in methods}


@pytest.fixture(scope="module")
def everything():
    return trust(study(), split_of(LISTED), records(LEVELS))


def test_a_method_is_set_beside_its_score_on_measured_conditions_of_the_same_kind(everything):
    table = everything.set_index("method")
    assert [table.index.name, *table.columns] == TRUST_COLUMNS
    assert table["n_predicted"].eq(3).all()
    assert table["n_conditions"].eq(12).all()
    assert table["split"].eq("fold0").all()
    for method, level in LEVELS.items():
        assert table.loc[method, ["mean", "right_signs"]].to_numpy(float) == pytest.approx([level] * 2, abs=0.02)
    assert table["expected_low"].between(-1, table["ci_low"] + 1e-9).all()
    assert table["expected_high"].between(table["ci_high"] - 1e-9, 1).all()
    assert table["against_no_change"].tolist() == ["the same", "better", "better", "better", "worse"]
    assert table["against_tuned_simple"].tolist() == ["worse", "worse", "the same", "better", "worse"]
    judged = [KINDS[method].group.is_judged for method in LEVELS]
    assert table.loc[judged, ["verdict", "opponent"]].to_numpy().tolist() == [["worse", "knn"]]
    assert table.loc[~np.array(judged), "verdict"].eq("not judged").all()


def test_what_a_method_is_not_asked_about_is_a_row_of_its_own_with_the_score_of_its_fallback():
    few = [("scgpt-zero-shot", name) for name in TESTED[:7]]
    table = trust(study(not_asked=few), split_of(LISTED), records(["scgpt-zero-shot"], ["N3"])).set_index("asked")
    assert table.loc["yes", ["n_predicted", "n_conditions"]].tolist() == [2, 5]
    assert table.loc["no", ["n_predicted", "n_conditions", "verdict"]].tolist() == [1, 7, "not asked"]


def test_the_mean_of_a_list_is_expected_within_a_prediction_interval():
    scores = [0.1, 0.2, 0.3, 0.4]
    half = 3.182446 * np.std(scores, ddof=1) * np.sqrt(1 / 4 + 1 / 6)  # t of 3 degrees of freedom
    assert prediction_interval(scores, 6) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)
    assert np.isnan(prediction_interval([0.5], 6)).all()


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (split_of(["A+B"]), "no split tests perturbations that are known like these"),
        (
            split_of(["N1"], context="elsewhere"),
            "no split tests perturbations that are known like these",
        ),  # where nothing was measured
        (split_of(["T1"], context="elsewhere"), "no split tests perturbations that are known like these"),
    ],
)
def test_no_score_is_taken_from_conditions_of_another_kind(split, reason):
    rows = split[split["role"] == "test"]
    conditions = [Condition(*names) for names in rows[["perturbation", "context"]].to_numpy()]
    record = record_of(conditions, {}, kind="ridge", options={}, seed=0, n_genes=5)
    (row,) = trust(study(), split, {"ridge": record}).to_dict("records")
    assert row["n_conditions"] == 0
    assert {row[name] for name in ("verdict", "against_no_change", "against_tuned_simple", "split")} == {"not measured"}
    assert reason in row["reason"]


def test_a_method_without_a_score_and_a_study_without_any_say_not_measured():
    without = {name: level for name, level in LEVELS.items() if name != "knn"}
    table = trust(study(without), split_of(LISTED), records(["ridge", "knn"])).set_index("method")
    assert table["n_conditions"].tolist() == [12, 0]
    assert "no score on this data set" in table.loc["knn", "reason"]
    whole = study()
    table = trust(whole.of(whole.metrics[:0]), split_of(LISTED), records(["ridge"]))
    assert table["reason"].tolist() == ["the study holds out nothing that was measured"]
    assert table["verdict"].tolist() == ["not measured"]


def ranking(methods, not_asked=()):
    rows = [
        {"method": method, "perturbation": name, "context": "all", "asked": "no" if name in not_asked else "yes",
         "effect": 0.3 - i / 10, "rank_by_effect": i + 1, "agreement": 0.5, "signature": np.nan,
         "rank_by_signature": pd.NA}
        for method in methods
        for i, name in enumerate(LISTED)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def names(table, **options):
    return [sentence.name for sentence in predicted.first_sentences(table, ranking(LEVELS, **options))]


def test_the_first_line_says_what_speaks_against_the_predictions(everything):
    assert names(everything[everything["method"].isin(["knn", "tuned-simple"])]) == ["best"]
    assert names(everything) == ["worse_than_simple", "not_better_than_no_change", "best"]
    assert names(everything, not_asked=["N1"]) == [*names(everything)[:2], "not_asked", "best"]
    whole = study(LEVELS)
    unlike = trust(
        whole,
        split_of([*LISTED, "A+B"]),
        {"knn": record_of(map(Condition, [*LISTED, "A+B"]), {}, kind="knn", options={}, seed=0, n_genes=5)},
    )
    assert names(unlike) == ["unlike_measured", "best"]
    nothing = trust(whole.of(whole.metrics[:0]), split_of(LISTED), records(["knn"]))
    assert names(nothing) == ["nothing_measured"]


def test_the_page_shows_warnings_before_everything_else_and_escapes_names(everything):
    asked = pd.DataFrame([["<b>", "<b>", "all", "down", "no", "asked for twice"]],
                         columns=["given", "perturbation", "context", "direction", "predicted", "reason"])  # fmt: skip
    record = method_record("knn", {"<i>": ("no vector of <i>", "train mean")})
    records = {"knn": record, "scgpt-zero-shot": method_record("scgpt-zero-shot")}
    text = predicted.page("next", "planted", everything, ranking(LEVELS, not_asked=["N2"]), asked, records)
    assert text.lstrip().startswith('<p class="warning"><strong>Read this first.</strong>')
    words = " ".join(text.split())
    assert "Worse than the best simple method on measured perturbations: scgpt-zero-shot (than knn)." in words
    assert "Not shown to be better than predicting no change: control-mean, scgpt-zero-shot." in words
    assert "Best on measured perturbations that are like most of the list: knn" in words
    assert "scgpt-zero-shot (1 of 3)" in words
    assert "Not ranked, because random weights give the answers: scgpt-zero-shot." in words
    assert "&lt;b&gt;: not predicted; asked for twice" in words
    assert "knn: &lt;i&gt; (no vector of &lt;i&gt;). Predicted in its place: train mean." in words
    assert "N1 (0.3)" in words
    assert "N2 (0.2, not asked)" in words
