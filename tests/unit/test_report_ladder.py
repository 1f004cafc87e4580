"""The picture of the start page puts every method where its skill is, and says what it leaves out."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.evaluation.verdicts import ONE_TRAINING
from scgpt_bench.report import page, summary
from scgpt_bench.report.ladder import LOWEST, MARGIN, MOST, Axis, ladder
from scgpt_bench.report.run import Run
from scgpt_bench.report.warnings import GROUPS

KINDS = {
    **{name: name for name in ("control-mean", "ridge", "scgpt-zero-shot", "scgpt-finetuned", "technical-duplicate")},
    **{"planted": "oracle", "other": "shuffled"},
}
# no change scores 0.1, noise-free truth 0.9: skill 0 and 1
SKILL = {
    **{"control-mean": 0.0, "ridge": 0.5, "scgpt-zero-shot": -3.0, "scgpt-finetuned": 0.75},
    **{"technical-duplicate": 0.9, "planted": 1.0, "other": 0.05},
}
SLOPE = {"ridge": 0.4, "scgpt-finetuned": 0.25, "scgpt-zero-shot": 1.6}
FOUND = {"ridge": 0.5, "scgpt-finetuned": 0.375}


def made_run(**more) -> Run:
    scores = pd.DataFrame({"method": SKILL, "skill": SKILL}).assign(method=list(SKILL), metric="effect_pearson")
    scores["mean"] = 0.1 + 0.8 * scores["skill"]
    others = [
        pd.DataFrame({"method": list(values), "metric": metric, column: list(values.values())})
        for metric, values, column in (
            ("effect_covariance", SLOPE, "skill"),
            ("found_among_20", FOUND, "mean"),
            ("sign_agreement_top20", FOUND, "mean"),
        )
    ]
    scores = pd.concat([scores, *others], ignore_index=True)
    scores["mean"] = scores["mean"].fillna(0.3)  # covariances that are shown to be above 0
    scores = scores.assign(ci_low=scores["mean"] - 0.08, ci_high=scores["mean"] + 0.04, n_conditions=30, n_asked=30)
    scores = scores.assign(dataset="drop", split="fold0", context="all", reason="")
    verdicts = scores[scores["method"].str.startswith("scgpt") & (scores["metric"] == "effect_pearson")]
    verdicts = verdicts.assign(
        opponent="ridge", difference=verdicts["mean"] - 0.5, p_value=0.01, smallest_detectable=0.08, verdict="better"
    ).drop(columns=["mean", "skill", "n_conditions", "n_asked"])
    return dataclasses.replace(Run(scores, verdicts, KINDS, {"own": "pretrain"}, {}, [], {}), **more)


def drawn(made: Run) -> dict:
    (place,) = summary.places(made)
    return place["ladder"]


def test_of_many_methods_the_strongest_are_shown_with_both_that_are_compared_and_the_bounds():
    """All that is better than these is another model's, so that the weakest would otherwise be all of ours."""
    made = made_run()
    headline = made.scores[made.scores["metric"] == "effect_pearson"]
    ridge = headline[headline["method"] == "ridge"]
    many = [ridge.assign(method=f"theirs{i}", mean=0.8 + i / 100, skill=0.9 + i / 100) for i in range(20)]
    kinds = {**KINDS, **{f"theirs{i}": "imported" for i in range(20)}}
    made = made_run(scores=pd.concat([made.scores, *many], ignore_index=True), kinds=kinds)
    shown = [row["method"] for row in drawn(made)["rows"] if row["shown"]]
    assert len(shown) == MOST
    assert {"technical-duplicate", "planted", "other", "ridge", "scgpt-finetuned", "theirs19"} <= {*shown}
    assert {"control-mean", "scgpt-zero-shot", "theirs0"}.isdisjoint(shown)
    text = re.sub(r"\s+", " ", summary.page(made))
    said = "13 more methods are not drawn; the best of them scores 100 % of the best possible: "
    assert f'{said}<a href="#scores/drop">Scores</a> has all 27.' in text


def test_a_value_is_between_the_ends_of_the_axis_and_beyond_them_it_is_cut():
    axis = Axis(-0.25, 1.0, skill=True)
    assert [axis.place(value) for value in (-0.25, 1.0)] == [MARGIN, 100 - MARGIN]
    assert axis.place(0.375) == 50
    assert (axis.place(-7.0), axis.cut(-7.0)) == (MARGIN, "left")
    assert (axis.place(3.0), axis.cut(3.0), axis.cut(0.5)) == (100 - MARGIN, "right", "")


def test_methods_are_placed_by_skill_the_best_first_with_intervals_in_its_units():
    picture = drawn(made_run())
    rows = {row["method"]: row for row in picture["rows"]}
    assert list(rows) == sorted(SKILL, key=SKILL.get, reverse=True)
    axis = picture["axis"]
    assert (axis.low, axis.high, axis.skill) == (LOWEST, pytest.approx(1.05), True)
    # a half-width of 0.08 and of 0.04 in the metric is one of 0.1 and 0.05 in skill
    assert rows["ridge"]["interval"] == pytest.approx((axis.place(0.4), axis.place(0.55)), abs=0.02)
    assert rows["ridge"]["x"] == axis.place(0.5)
    assert {name: row["cut"] for name, row in rows.items() if row["cut"]} == {"scgpt-zero-shot": "left"}
    assert [tick for _, tick in picture["ticks"]] == [0, 0.25, 0.5, 0.75, 1]


def test_size_sign_and_line_up_stand_beside_the_direction():
    rows = {row["method"]: row for row in drawn(made_run())["rows"]}
    of_tuned = rows["scgpt-finetuned"]
    assert [of_tuned[key] for key in ("slope", "sign", "found")] == [0.25, 0.375, 0.375]
    assert np.isnan(rows["planted"]["slope"])
    text = " ".join(summary.page(made_run()).split())
    assert (
        "Among 20 perturbations, the prediction of scgpt-finetuned is nearest to the right one for 38 % of them, "
        "that of ridge for 50 %; guessing gives 5 %." in text
    )
    assert "For each unit of true change, scgpt-finetuned predicts 0.25 on average, ridge 0.40; 1 is right." in text
    made = made_run()
    tested = made.verdicts[made.verdicts["method"] == "scgpt-finetuned"].assign(
        metric="discrimination", verdict="worse", opponent="knn"
    )
    with_test = dataclasses.replace(made, verdicts=pd.concat([made.verdicts, tested]))
    said = "The test of this (metric discrimination, against knn, which is hardest to beat by it) says: worse."
    assert said in " ".join(summary.page(with_test).split())


def test_a_slope_that_chance_could_give_is_not_printed():
    """Random weights had a slope of 0.98, with an error 60 times that of no change."""
    made = made_run()
    by_chance = (made.scores["metric"] == "effect_covariance") & (made.scores["method"] != "ridge")
    made.scores.loc[by_chance, "ci_low"] = -0.01
    rows = {row["method"]: row for row in drawn(made)["rows"]}
    assert [name for name, row in rows.items() if np.isfinite(row["slope"])] == ["ridge"]
    text = " ".join(summary.page(made).split())
    assert "Nothing shows that the changes predicted by scgpt-finetuned grow with the true ones, so no slope is" in text
    assert '<td class="number" data-label="slope">–</td>' in text


def test_a_line_up_of_fewer_than_twenty_is_not_called_one():
    made = made_run()
    made.scores.loc[made.scores["metric"] == "found_among_20", "reason"] = "no skill: among all 7 conditions"
    assert drawn(made)["columns"] == ["slope", "sign"]
    assert "among 20" not in summary.page(made)


def test_with_fewer_than_twenty_perturbations_discrimination_says_whether_they_are_told_apart():
    made = made_run()
    found = made.scores[made.scores["metric"] == "found_among_20"]
    far = {"scgpt-finetuned": 0.44, "ridge": 0.43, "technical-duplicate": 0.75}
    shares = pd.DataFrame({"method": [*far], "mean": [*far.values()], "metric": "discrimination"})
    shares = shares.assign(dataset="drop", split="fold0", context="all", reason="", n_conditions=30, n_asked=30)
    made = dataclasses.replace(made, scores=pd.concat([made.scores.drop(index=found.index), shares], ignore_index=True))
    assert (
        "Of the other perturbations, 44 % are further from the prediction of scgpt-finetuned than the right one is, 43 "
        "% from that of ridge; guessing gives 50 %, a second sample of the cells 75 %."
    ) in " ".join(summary.page(made).split())


def test_verdicts_are_those_of_the_table_and_controls_are_named():
    rows = {row["method"]: row for row in drawn(made_run())["rows"]}
    assert {name: row["verdict"] for name, row in rows.items() if row["verdict"]} == {
        "scgpt-finetuned": "better",
        "scgpt-zero-shot": "better",
    }
    assert [name for name, row in rows.items() if row["best_simple"]] == ["ridge"]
    assert rows["technical-duplicate"]["note"] == "second sample"
    assert rows["planted"]["note"] == "planted truth"


def test_a_method_is_explained_where_the_mouse_rests():
    assert '<th scope="row" title="Nothing changes.">control-mean</th>' in summary.page(made_run())
    unknown = {**KINDS, "ridge": "of another program"}
    assert 'title="Made by another program.">ridge</th>' in summary.page(made_run(kinds=unknown))


def test_without_a_known_skill_scores_are_drawn_as_they_are():
    made = made_run()
    made.scores["skill"] = np.nan
    picture = drawn(made)
    assert not picture["axis"].skill
    assert picture["rows"][0]["x"] == picture["axis"].place(0.9)
    text = summary.page(made)
    assert 'data-label="score"' in text
    assert "the best possible" not in text


def test_a_method_whose_skill_is_unknown_is_listed_last_and_not_drawn():
    made = made_run()
    made.scores.loc[made.scores["method"] == "ridge", "skill"] = np.nan
    last = drawn(made)["rows"][-1]
    assert (last["method"], last["x"], last["interval"]) == ("ridge", None, None)
    assert summary.page(made).count('data-label="% of best">unknown</td>') == 1


def test_nothing_is_drawn_where_nothing_was_scored():
    made = made_run()
    assert ladder(made, made.scores.iloc[:0], []) == {}


@pytest.mark.parametrize(
    ("checkpoints", "generated", "words"),
    [
        ({"human": "catalogue"}, {}, "Measured cells; published scGPT (human)."),
        (
            {"own": "pretrain", "zero": "random"},
            {"drop": {}},
            "Simulated cells; scGPT pretrained here on a small scale",
        ),
        ({"zero": "random"}, {"drop": {}}, "Simulated cells; no pretrained scGPT."),
        ({"mine": "folder"}, {}, "Measured cells; scGPT from a folder (mine)."),
    ],
)
def test_the_kind_of_cells_and_of_model_is_beside_the_name(checkpoints, generated, words):
    assert words in " ".join(summary.page(made_run(checkpoints=checkpoints, generated=generated)).split())


def test_what_was_planted_and_how_much_of_it_was_found_is_said_of_generated_data_only():
    assert "What was planted" not in summary.page(made_run())
    text = " ".join(summary.page(made_run(generated={"drop": {"structure": True}})).split())
    found = "planted truth 100, simple methods 50, pretrained scGPT 75, responses of other perturbations 5."
    assert f"after a knock-down. Found, in % of the best possible score: {found}" in text
    assert "which nothing can predict" in summary.page(made_run(generated={"drop": {"structure": False}}))


def test_a_verdict_of_one_training_is_a_limit():
    made = made_run()
    made.verdicts["reason"] = ["", f"p 0.01 before Holm's correction over 2 methods; {ONE_TRAINING}"]
    assert "<strong>One seed: scgpt-finetuned.</strong>" in summary.page(made)
    assert "One seed" not in summary.page(made_run())


def test_every_warning_is_in_one_of_at_most_five_lines_and_has_a_short_name():
    macros = (page.Path(page.__file__).parent / "sentences.html").read_text()
    _, of_warnings = macros.split("{# Warnings: ")
    warnings = set(re.findall(r"{% macro (\w+)\([^)]*\) %}\n<strong>", of_warnings))
    members = [name for group in GROUPS.values() for name in group]
    assert len(members) == len(set(members))
    assert set(members) == warnings == set(page.template("sentences.html").module.titles)
    assert len(GROUPS) <= 5


def test_the_text_to_paste_names_methods_conditions_and_version():
    text = " ".join(summary.page(made_run(), "abc-dirty").split())
    assert "Responses to 30 test perturbations of drop were held out (split fold0)." in text
    assert "simple methods (control-mean, ridge); scGPT (scgpt-zero-shot, scgpt-finetuned)" in text
    assert "revision abc-dirty" in text


def test_the_key_names_only_marks_that_are_drawn():
    text = summary.page(made_run())
    assert "◆ scGPT" in text
    assert "◇ without pretraining" not in text
    assert "▲ other model" not in text
