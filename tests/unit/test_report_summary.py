"""The start page says what the tables say: the verdict in words, and every limit that the run knows of."""

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from made_up import DEVIATIONS, method_record
from scgpt_bench.evaluation.metrics import HEADLINE
from scgpt_bench.evaluation.scores import LEAK, NO_INTERVAL
from scgpt_bench.evaluation.verdicts import ONE_TRAINING
from scgpt_bench.method_record import Candidate, Chosen, Embeddings, Imported, Prompts
from scgpt_bench.report import page, summary
from scgpt_bench.report.page import template
from scgpt_bench.report.run import RecordedPrediction, Run, Sentence
from scgpt_bench.report.warnings import warnings

KINDS = {
    **{"ridge": "ridge", "average": "train-mean", "tuned": "scgpt-finetuned", "flagged": "scgpt-zero-shot"},
    **{"second": "technical-duplicate", "other": "shuffled", "best": "tuned-simple"},
}
OF_METHODS = {"ridge": 0.3, "tuned": 0.5, "flagged": 0.1, "second": 0.8, "other": 0.01}
PUBLISHED = {"epochs": 15, "freeze": []}


def run(verdict="better", difference=0.2, splits=("fold0",), n=20, checkpoints=None, predictions=(), **more) -> Run:
    scores = pd.DataFrame(
        [(split, method, mean, n) for split in splits for method, mean in OF_METHODS.items()],
        columns=["split", "method", "mean", "n_conditions"],
    ).assign(dataset="drop", context="all", n_asked=n, metric="effect_pearson", reason="")
    scores["skill"] = scores["mean"] / 0.8
    scores = scores.assign(ci_low=scores["mean"] - 0.09, ci_high=scores["mean"] + 0.09)
    verdicts = pd.DataFrame(
        [
            (split, method, metric, value, found)
            for split in splits
            for metric in ("effect_pearson", "mse_unbiased")
            for method, value, found in (("flagged", difference - 0.4, "worse"), ("tuned", difference, verdict))
        ],
        columns=["split", "method", "metric", "difference", "verdict"],
    ).assign(dataset="drop", context="all", opponent="ridge", p_value=0.01, smallest_detectable=0.08, reason="")
    verdicts = verdicts.assign(ci_low=verdicts["difference"] - 0.1, ci_high=verdicts["difference"] + 0.1)
    checkpoints = {"human": "catalogue"} if checkpoints is None else checkpoints
    folds = [split for split in splits if split.startswith("fold")]
    return Run(scores, verdicts, KINDS, checkpoints, {}, predictions, PUBLISHED, pooled={"all": folds}, **more)


UNKNOWN = ("neither measured nor in the vocabulary", "not told what was perturbed")


def predicted(method: str, kind: str | None = None, split: str = "fold0", **entries) -> RecordedPrediction:
    return RecordedPrediction("drop", split, method, method_record(kind or KINDS[method], **entries))


def vectors_of(checkpoint, pretrained, padded=0):
    return Embeddings(
        source="checkpoint",
        name=checkpoint,
        sha256="0" * 64,
        dimensions=8,
        genes_without_vector=padded,
        checkpoint_pretrained=pretrained,
    )


def imported(*unchanged):
    return Imported(
        file="f.h5ad",
        sha256="0" * 64,
        made_by=None,
        perturbations_given_as_cells=0,
        perturbations_given_as_pseudobulk=1,
        genes_taken_as_unchanged=unchanged,
        perturbations_left_out=(),
        control_rows_left_out=0,
    )


SILENCED = Prompts(targets=("silenced",), zeros_in_pretraining=True, raised_without_expression=())
ALREADY = "control cells have the prompted value already"


def written(sentence: Sentence) -> str:
    macro = getattr(template("sentences.html").module, sentence.name)
    return " ".join(html.unescape(str(macro(**sentence.values))).split())


def warned(made: Run) -> list[tuple[str, str]]:
    """Titles and texts of the warnings."""
    texts = map(written, warnings(made, summary.places(made)))
    return [tuple(text.removeprefix("<strong>").split(".</strong> ")) for text in texts]


def test_every_sentence_that_code_chooses_is_written_and_every_written_one_is_chosen():
    folder = Path(page.__file__).parent
    code = (folder / "summary.py").read_text() + (folder / "warnings.py").read_text()
    chosen = set(re.findall(r'Sentence\(\s*"(\w+)"', code)) | {"some_not_asked", "none_asked"}
    chosen |= set(re.findall(r'_beside\(\s*run, "(\w+)"', code))
    chosen |= {f"scgpt_is_{verdict}" for verdict in ("better", "worse", "equivalent", "inconclusive")}
    macros = re.findall(r"{% macro ([a-z]\w*)\(", (folder / "sentences.html").read_text())
    assert set(macros) - {"listed", "interval", "percent", "whole"} == chosen


def test_names_are_escaped_once_in_every_list():
    names = ["a<b", "c&d"]
    better = Sentence("scgpt_is_better", {
        "method": "tuned", "verdicts": {"better": names}, "opponent": "ridge", "mean": 0.4, "opponent_mean": 0.3,
        "difference": 0.1, "ci_low": 0.0, "ci_high": 0.2, "asked": {}, "n": 2, "n_methods": 2, "reason": "",
    })  # fmt: skip
    for sentence in (better, Sentence("no_published_checkpoint", {"folders": names})):
        assert "a<b, c&d" in written(sentence), "unescaped once, as a browser does"


def whats(made: Run) -> list[str]:
    return [what for what, _ in warned(made)]


def answer_of(place) -> str:
    return re.sub("</?strong>", "", " ".join(map(written, place["answer"])))


def before_the_answer(made: Run) -> list[str]:
    (place,) = summary.places(made)
    return list(map(written, place["first"]))


@pytest.mark.parametrize(
    ("verdict", "difference", "answer"),
    [
        (
            "better",
            0.2,
            "Yes: tuned is better than each simple method. It predicts the direction of the response better. The "
            "hardest to beat is ridge. Of 2 pretrained scGPT methods, 1 is better (tuned) and 1 is worse (flagged). "
            "The best, tuned, scores 0.50 against 0.30 of ridge (correlation of predicted and measured change; "
            "difference +0.200, 95 % interval +0.100 to +0.300).",
        ),
        (
            "inconclusive",
            0.02,
            "Not shown: no pretrained scGPT method is shown to be better than ridge. Of 2 pretrained scGPT methods, 1 "
            "is inconclusive (tuned) and 1 is worse (flagged). The best, tuned, is compared with ridge (correlation",
        ),
        (
            "equivalent",
            0.01,
            "No: tuned is as good as the best simple method, and not better. Of 2 pretrained scGPT methods, 1 is as "
            "good (tuned) and 1 is worse (flagged). The best, tuned, ",
        ),
        (
            "worse",
            -0.2,
            "No: every pretrained scGPT method is worse than the best simple method. Both pretrained scGPT methods "
            "are worse (tuned, flagged). The closest, tuned, ",
        ),
        ("unreliable data", 0.2, "These data cannot tell. Even half of a perturbation's cells does not"),
        ("too few conditions", 0.2, "Too few test perturbations for a verdict: 5 conditions."),
    ],
)
def test_the_answer_is_that_of_the_best_scgpt_method(verdict, difference, answer):
    made = run(verdict, difference)
    made.verdicts.loc[made.verdicts["verdict"] == "too few conditions", "reason"] = "5 conditions"
    (place,) = summary.places(made)
    assert answer_of(place).startswith(answer)


@pytest.mark.parametrize(
    ("of_the_highest", "of_the_other", "answer"),
    [
        (
            "inconclusive",
            "better",
            "Yes: flagged is better than each simple method. It predicts the direction of the response better. ",
        ),
        (
            "worse",
            "inconclusive",
            "Not shown: no pretrained scGPT method is shown to be better than ridge. Of 2 pretrained scGPT methods, 1 "
            "is inconclusive (flagged) and 1 is worse (tuned). The best, flagged, ",
        ),
        (
            "equivalent",
            "inconclusive",
            "No: tuned is as good as the best simple method, and not better. Of 2 pretrained scGPT methods, 1 is as "
            "good ",
        ),
    ],
)
def test_a_verdict_counts_more_than_a_mean(of_the_highest, of_the_other, answer):
    made = run()
    verdict_of = {"tuned": of_the_highest, "flagged": of_the_other}
    made.verdicts["verdict"] = made.verdicts["method"].map(verdict_of)
    (place,) = summary.places(made)
    assert answer_of(place).startswith(answer)


def from_random_weights(method: str) -> RecordedPrediction:
    return predicted(method, load_report={"checkpoint_pretrained": False})


def test_what_was_never_pretrained_is_no_answer():
    (place,) = summary.places(run("better", predictions=[from_random_weights("tuned")]))
    assert answer_of(place).startswith(
        "No: flagged is worse than the best simple method. flagged scores 0.10 against 0.30 of ridge (correlation"
    )
    assert answer_of(place).endswith(" Better than each simple method without any pretraining: tuned.")
    (place,) = summary.places(run("worse", predictions=[from_random_weights("tuned"), from_random_weights("flagged")]))
    assert answer_of(place) == "No pretrained scGPT model was run on these data."


def test_a_training_from_random_weights_is_no_answer_either():
    (place,) = summary.places(run("better", predictions=[predicted("tuned", load_report={"n_pretrained": 0})]))
    assert answer_of(place).endswith(" Better than each simple method without any pretraining: tuned.")


def test_simple_methods_that_were_not_run_are_named():
    combined = card(("A+B", True, False, 0.1))
    made = dataclasses.replace(run(cards={"drop": combined}), kinds={**KINDS, "average": "control-mean"})
    assert "Simple methods not run: train-mean, additive" in whats(made)
    untuned = dataclasses.replace(run(), kinds={**KINDS, "best": "knn"})
    assert "Simple methods not run: tuned-simple" in whats(untuned)


def test_methods_that_transfer_are_missed_where_a_context_is_held_out_and_nowhere_else():
    made = dataclasses.replace(run(), kinds={**KINDS, "average": "control-mean"})
    assert "Simple methods not run: train-mean" in whats(made)
    held_out = dataclasses.replace(made, scores=made.scores.assign(split="context-K562"))
    methods = "train-mean, same-perturbation, same-perturbation-and-context"
    assert f"Simple methods not run: {methods}" in whats(held_out)


def test_targets_that_a_prompt_sets_are_said_to_be_left_alone():
    prompted = predicted("flagged", prompts=SILENCED)
    assert "Targeted genes are not predicted: flagged" in whats(run(predictions=[prompted]))


def test_prompts_with_the_value_0_are_named_where_the_checkpoint_has_not_seen_it():
    title = "Prompts hold the value 0, which the checkpoint has never seen: flagged"
    unseen = predicted("flagged", prompts=SILENCED.model_copy(update={"zeros_in_pretraining": False}))
    found = dict(warned(run(predictions=[unseen])))
    assert "silenced_targets: left_out" in found[title]
    assert title not in whats(run(predictions=[predicted("flagged", prompts=SILENCED)]))


def test_a_checkpoint_that_was_pretrained_here_is_told_from_a_published_one():
    title = "Not the published pretraining to the letter: own"
    found = dict(warned(run(checkpoints={"own": "pretrain", "human": "catalogue"})))
    assert "the middle one of these bins" in found[title]
    assert "one step ahead" in found[title]
    assert title not in whats(run(checkpoints={"human": "catalogue"}))


def test_the_rows_are_those_of_the_tables_best_first():
    (place,) = summary.places(run())
    assert [row["method"] for row in place["rows"]] == ["tuned", "flagged"]
    assert place["rows"][0]["skill"] == 0.625
    assert place["rows"][0]["companions"] == ["not judged", "not judged", "better"]
    assert (place["ceiling"], place["floor"]) == (0.8, 0.01)
    assert "A second sample of the same cells scores 0.800." in summary.page(run())


def test_a_verdict_says_what_limits_it():
    made = run("inconclusive", 0.02)
    reason = f"its direction is better, but specific_pearson is worse than that of ridge; {ONE_TRAINING}"
    made.verdicts.loc[made.verdicts["method"] == "tuned", "reason"] = reason
    (place,) = summary.places(made)
    assert answer_of(place).endswith(f" Note: {reason}.")
    assert "show that they are equal" not in answer_of(place), "p is 0.01: a difference was found"
    assert f">{reason}</td>" in summary.page(made)
    made.verdicts[["reason", "p_value"]] = np.nan, 0.4  # an empty column of a table
    (place,) = summary.places(made)
    assert "Note" not in answer_of(place)
    assert answer_of(place).endswith(
        "This does not show that they are equal: a true difference of 0.08 from ridge is found in 80 % of such runs."
    )
    made.verdicts.loc[made.verdicts["method"] == "flagged", "opponent"] = "average"
    assert answer_of(summary.places(made)[0]).startswith(
        "Not shown: no pretrained scGPT method is shown to be better than the best simple method."
    ), "they have no opponent in common"


def test_the_spread_of_cells_is_shown_where_it_was_measured():
    made = run()
    assert "spread of cells" not in summary.page(made)
    spread = made.scores[made.scores["method"] == "tuned"].assign(metric="spread_ratio", mean=0.004)
    text = summary.page(dataclasses.replace(made, scores=pd.concat([made.scores, spread])))
    assert "spread of cells" in text
    assert "<td>0.00</td>" in text


def test_folds_are_judged_together_and_every_other_split_alone():
    (place,) = summary.places(run(splits=("fold0", "fold1", "all")))
    assert (place["name"], place["split"], place["splits"]) == ("drop", "all", ["fold0", "fold1"])
    found = summary.places(run(splits=("fold0", "fold1", "gears1", "all")))
    assert [(place["name"], place["splits"]) for place in found] == [
        ("drop, folds", ["fold0", "fold1"]),
        ("drop, gears1", ["gears1"]),
    ]
    found = summary.places(run(splits=("fold0", "gears1")))
    assert [place["name"] for place in found] == ["drop, fold0", "drop, gears1"]


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        (["better"], "Yes. tuned: +0.10 over scratch (better)."),
        (["better", "inconclusive"], "Yes, in 1 of 2 comparisons. "),
        (["better", "worse"], "That depends on the method. "),
        (["worse"], "No: it makes predictions worse. "),
        (["worse", "equivalent"], "No: it makes predictions worse, in 1 of 2 comparisons. "),
        (["equivalent", "equivalent"], "No: it makes no difference. "),
        (["inconclusive", "equivalent"], "Not shown. "),
        (["not asked"], "Not shown."),
    ],
)
def test_what_pretraining_is_worth_is_said_of_every_pair(verdicts, answer):
    pairs = [("tuned", "scratch"), ("flagged", "untrained")][: len(verdicts)]
    contrasts = pd.DataFrame(pairs, columns=["method", "opponent"]).assign(
        **{"dataset": "drop", "split": "fold0", "context": "all", "metric": "effect_pearson", "difference": 0.1},
        **{"ci_low": 0.02, "ci_high": 0.18, "verdict": verdicts, "reason": ""},
    )
    random = vectors_of("random", pretrained=False)
    twins = [predicted(name, "scgpt-embedding-ridge", embeddings=random) for _, name in pairs]
    of_values = contrasts.assign(method="flagged-on-bins", opponent="flagged")
    made = run(contrasts=pd.concat([contrasts, of_values]), predictions=twins)
    made = dataclasses.replace(made, kinds={**KINDS, **{name: "scgpt-embedding-ridge" for _, name in pairs}})
    (place,) = summary.places(made)
    assert written(place["pretraining"]).startswith(answer)
    of_pairs = written(place["pairs"])
    assert "tuned against scratch: " in of_pairs
    assert all(
        f"{method} against {opponent}: {verdict}" in of_pairs
        for (method, opponent), verdict in zip(pairs, verdicts, strict=True)
    )
    assert "on-bins" not in written(place["pretraining"]) + of_pairs
    assert "Does pretraining help?" in summary.page(made)
    assert "Does pretraining help?" not in summary.page(run(contrasts=of_values))


def test_what_scores_above_noise_free_truth_is_named():
    made = run()
    made.scores.loc[made.scores["method"] == "tuned", "reason"] = f"no interval; {LEAK}"
    assert whats(made)[0] == "Better than the truth allows: tuned on drop"


def test_too_few_conditions_for_an_interval_are_said_however_many_there_are():
    made = run()
    assert "Few perturbations: drop" not in whats(made)
    reason = f"{NO_INTERVAL}20 conditions that count as 3.9, since they share genes; at least 6 are needed"
    made.scores.loc[made.scores["metric"] == HEADLINE, "reason"] = reason
    assert dict(warned(made))["Few perturbations: drop"] == (
        "There are 20 test perturbations. No interval and no verdict can be given: 20 conditions that count as 3.9, "
        "since they share genes; at least 6 are needed."
    )


def test_a_run_without_scgpt_says_so():
    made = run()
    made = Run(made.scores, made.verdicts.iloc[:0], KINDS, {}, {}, [], {})
    (place,) = summary.places(made)
    assert answer_of(place) == "No scGPT method was run on these data."
    assert "No published checkpoint" not in whats(made)


def test_every_limit_is_named():
    made = run(n=5, checkpoints={"own": "pretrain"}, predictions=[predicted("flagged"), predicted("tuned")])
    assert whats(made) == [
        "No published checkpoint",
        "Random decoder: flagged",
        "Few perturbations: drop",
        "Padded genes: drop",
        "Not the published recipe to the letter: tuned",
        "Not the published pretraining to the letter: own",
    ]
    why = dict(warned(made))
    assert "6 of 300 measured genes (2.0 %)" in why["Padded genes: drop"]
    assert why["Random decoder: flagged"].startswith("The checkpoint has no weights for 5.8 % of the parameters")
    assert why["Not the published recipe to the letter: tuned"] == (
        "Fine-tuning differs from the published recipe in 2 points of this workflow and in 2 options of the "
        'configuration (epochs 7 instead of 15, freeze encoder instead of none). <a href="#model">Model</a> has the '
        "list."
    )


def test_the_page_of_the_models_lists_how_recipes_differ_from_the_published_one():
    options = {"epochs": 7, "freeze": [], "pair_within": ["batch", "cell_type"]}
    predictions = [predicted("tuned"), predicted("scratch", "scgpt-scratch", finetuning={"options": options})]
    made = dataclasses.replace(run(predictions=predictions), kinds={**KINDS, "scratch": "scgpt-scratch"})
    (recipe,) = map(html.unescape, summary.answers(made)["Model"])
    assert recipe.startswith("How tuned, scratch differ from the published recipe of fine-tuning:")
    points = re.findall("<li>(.*?)</li>", recipe)
    assert f"<strong>pair_within: batch, cell_type</strong>: {DEVIATIONS['pair_within']}" in points
    assert f"<strong>unmeasured targets</strong>: {DEVIATIONS['unmeasured targets']}" in points
    assert points[-2:] == [
        "<strong>epochs: 7</strong>, by the configuration; published: 15",
        "<strong>freeze: encoder</strong> for tuned, by the configuration; published: none",
    ]
    assert len(points) == len(DEVIATIONS) + 2
    assert "Model" not in summary.answers(run())


def test_an_untrained_checkpoint_is_called_so_whatever_uses_it():
    """Beside a published one: the flagged call, a fine-tuning that starts from it, gene vectors; not scgpt-scratch."""
    weights = {"checkpoint": "random", "checkpoint_pretrained": False}
    predictions = [
        predicted("flagged", load_report=weights),
        predicted("tuned", load_report=weights),
        predicted("vectors", "scgpt-embedding-ridge", embeddings=vectors_of("random", False)),
        predicted("scratch", "scgpt-scratch", load_report={**weights, "n_pretrained": 0}),
        predicted("ridge"),
    ]
    made = run(predictions=predictions)
    made = dataclasses.replace(made, kinds={**KINDS, "vectors": "scgpt-embedding-ridge", "scratch": "scgpt-scratch"})
    named = [what for what in whats(made) if what.startswith(("Untrained", "Random"))]
    assert named == ["Untrained: flagged, tuned, vectors"], "one line for all"


def test_a_run_without_limits_says_so():
    made = run(predictions=[predicted("flagged", "scgpt-knockout", genes_padded=0)])
    assert whats(made) == []
    assert "Nothing that the workflow checks." in summary.page(made)


def card(*perturbations):
    """As much of ``card.json`` as the start page reads, of (name, reliable, confounded, batch shift)."""
    keys = ("perturbation", "reliable", "confounded", "batch_shift")
    rest = {"context": "all", "unknown": {}, "counts_ratio": 1.0, "counts_differ": False}
    return {
        "conditions": [{**rest, **dict(zip(keys, entry, strict=True))} for entry in perturbations],
        "dominant_genes": [],
        "minimum_reliability": 0.3,
        "n_genes": 1000,
    }


def test_perturbations_that_are_spread_over_batches_unlike_the_controls_are_named():
    confounded = card(("A", True, False, 0.1), ("B", True, True, 0.33), ("C", True, False, None))
    why = dict(warned(run(cards={"drop": confounded, "clean": card(("A", True, False, 0.1))})))
    assert "Batches: clean" not in why
    assert why["Batches: drop"].startswith(
        "The cells of 1 of 3 (B) are spread over the batches differently from the controls. Unmatched, that would make "
        "up as much as 33 % of the length of a response."
    )


def test_more_cell_types_than_contexts_are_a_limit():
    several = {**card(("A", True, False, 0.1)), "n_contexts": 2}
    assert "Cell types: drop" not in whats(run(cards={"drop": {**several, "n_cell_types": 2}}))
    found = dict(warned(run(cards={"drop": {**several, "n_cell_types": 3}})))
    assert found["Cell types: drop"].startswith("The cells are of 3 annotated types. ")


def test_unreliable_perturbations_and_targets_that_cannot_be_told_are_named():
    poor = card(("A", True, False, 0.0), ("B", False, False, 0.0))
    untold = predicted("tuned", fallbacks={"LINC1": UNKNOWN}, genes_padded=0)
    why = dict(warned(run(predictions=[untold], cards={"drop": poor})))
    assert why["Unreliable perturbations: drop"].startswith(
        "Two halves of the cells disagree about the response of 1 of 2 (B)"
    )
    assert why["Not asked about every test perturbation: drop"] == (
        "These methods fell back on a stated rule. "
        "LINC1 (1 of 20): tuned (neither measured nor in the vocabulary: not told what was perturbed)."
    )


def test_unknown_reliability_is_not_called_unreliable():
    few = card(("A", True, False, 0.0), ("B", None, None, None))
    few["conditions"][1]["unknown"] = {"reliability": "2 cells, of 3 at least"}
    why = dict(warned(run(cards={"drop": few, "clean": card(("A", True, False, 0.1))})))
    assert [what for what in why if "drop" in what or "clean" in what] == ["Unknown reliability: drop"]
    assert "1 of 2 perturbations (B)" in why["Unknown reliability: drop"]
    assert why["Unknown reliability: drop"].endswith("2 cells, of 3 at least.")


def test_counts_that_change_the_shares_of_other_genes_are_named():
    shifted = card(("HS2", True, False, 0.0), ("A", True, False, 0.0))
    shifted["conditions"][0] |= {"counts_ratio": 0.637, "counts_differ": True}
    shifted["dominant_genes"] = [{"gene": "HBE1", "share": 0.44}]
    why = dict(warned(run(cards={"drop": shifted, "unknown": {**card(), "dominant_genes": None}})))
    assert "Composition: unknown" not in why
    said_of_counts = "HBE1 has 44 % of all counts. Counts per cell differ from those of the controls (HS2 x 0.64)."
    assert why["Composition: drop"].startswith(said_of_counts)


def by_class(verdicts, split="fold0"):
    """``scores_by_class.tsv`` with these verdicts on ``tuned``: unseen single genes, combinations of seen ones."""
    rows = [
        ("drop", split, *of, method, "effect_pearson", n, difference, verdict)
        for of, n, difference, verdict in zip([(1, 0), (2, 2)], (27, 1), (0.1, -0.04), verdicts, strict=True)
        for method, verdict in (("tuned", verdict), ("ridge", None))
    ]
    columns = [*("dataset", "split", "n_genes", "n_genes_seen", "method", "metric")]
    table = pd.DataFrame(rows, columns=[*columns, "n_conditions", "difference", "verdict"])
    return table.assign(context="all", seen=False)


@pytest.mark.parametrize(
    ("pooled", "of_classes", "is_named"),
    [
        ("inconclusive", ("better", "worse"), True),
        ("inconclusive", ("inconclusive", "worse"), True),
        ("better", ("better", "worse"), True),
        ("unreliable data", ("better", "unreliable data"), True),
        ("better", ("better", "inconclusive"), False),
        ("better", ("too few conditions", "equivalent"), False),
    ],
)
def test_a_verdict_that_a_class_contradicts_is_named_with_those_of_all_classes(pooled, of_classes, is_named):
    what = "Unlike verdicts by class: tuned on drop"
    made = run(pooled, scores_by_class=by_class(of_classes))
    assert (what in whats(made)) == is_named
    assert what not in whats(dataclasses.replace(made, kinds={**KINDS, "tuned": "imported"}))
    if is_named:
        assert dict(warned(made))[what].startswith(
            f"Over all test perturbations {pooled}. By how many of their genes were seen in training: {of_classes[0]} "
            f"with 0 of 1 (+0.100, 27 perturbations), {of_classes[1]} with 2 of 2 (-0.040, 1 perturbation)."
        )


def test_a_class_is_judged_over_all_splits_or_by_the_only_one_that_tests_it():
    fold, pooled = by_class(("better", "worse")), by_class(("better", "inconclusive"), "all")
    made = run("better", splits=("fold0", "fold1", "all"), scores_by_class=pd.concat([fold, pooled]))
    assert "Unlike verdicts by class: tuned on drop" not in whats(made)
    alone = dataclasses.replace(made, scores_by_class=pd.concat([fold, pooled[pooled["n_genes"] == 1]]))
    assert "worse with 2 of 2 (" in dict(warned(alone))["Unlike verdicts by class: tuned on drop"]
    seen = dataclasses.replace(alone, scores_by_class=alone.scores_by_class.assign(seen=True))
    assert "worse with 2 of 2, in another context (" in dict(warned(seen))["Unlike verdicts by class: tuned on drop"]


def test_held_out_contexts_are_one_question_beside_the_folds():
    splits = ("fold0", "fold1", "all", "context-A", "context-B", "contexts", "context-A-fold0", "contexts-fold0")
    made = run(splits=splits)
    pooled = {"all": ["fold0", "fold1"], "contexts": ["context-A", "context-B"], "contexts-fold0": ["context-A-fold0"]}
    found = summary.places(dataclasses.replace(made, pooled=pooled))
    assert [(place["name"], place["splits"]) for place in found] == [
        ("drop, folds", ["fold0", "fold1"]),
        ("drop, held-out contexts", ["context-A", "context-B"]),
        ("drop, held-out contexts, perturbations unseen in all of them (fold0)", ["context-A-fold0"]),
    ]
    said = written(found[1]["in_contexts"])
    assert said == (
        "tuned against the best simple method in each context of which training had only control cells or a part: "
        "better in A, B."
    )
    assert found[0]["in_contexts"] is None


def test_what_a_method_does_not_learn_or_does_not_predict_is_named():
    """Once, however many splits say so; the notes of the floor name what it is made of, and are no limit."""
    trained = {"perturbations_without_token": ["A", "B"]}
    trained["paired_within"] = {"batch, cell_type": 48, "cell_type": 0, "any": 1200, "itself": 3}
    gaps = {
        "tuned": {"finetuning": trained},
        "flagged": {"fallbacks": {"C": ("no token", "no change"), "E": (ALREADY, "no change")}},
        "ridge": {"fallbacks": {"D": ("no vector", "counted as zero")}},
        "theirs": {"kind": "imported", "imported": imported("G1", "G2")},
        "floor": {"kind": "shuffled", "shuffles": 10},
    }
    folds = ("fold0", "fold1")
    made = run(predictions=[predicted(name, split=fold, **entries) for fold in folds for name, entries in gaps.items()])
    made = dataclasses.replace(made, kinds={**KINDS, "theirs": "imported", "floor": "shuffled"})
    why = dict(warned(made))
    assert (
        "no token (its entry for a gene) for 2 of the perturbations (A, B)"
        in why["Learns from fewer perturbations: tuned on drop"]
    )
    assert why["Trained on controls from elsewhere: tuned on drop"] == (
        "In 1,200 training pairs no control cell has the same batch, cell_type as the perturbed cell; any control cell "
        "is used."
    )
    assert "2 genes (G1, G2)" in why["Genes taken as unchanged: theirs on drop"]
    assert why["Not asked about every test perturbation: drop"] == (
        "These methods fell back on a stated rule. C (1 of 20): flagged (no token: no change). "
        "E (1 of 20): flagged (control cells have the prompted value already: no change). "
        "D (1 of 20): ridge (no vector: counted as zero)."
    )
    assert not [what for what in why if "floor" in what]
    assert len(warned(made)) == len(why)


def test_one_missing_target_is_one_line_however_many_methods_and_splits_say_so():
    """HS2 of a panel of 72 genes filled seven of twelve lines, and MLL3 and MLL2 of two folds had a line each."""
    fallbacks = {
        "ridge": ("ridge", "no vector", "counted as zero"),
        "average": ("knn", "no vector", "mean of all training perturbations"),
        "flagged": ("scgpt-zero-shot", *UNKNOWN),
        "tuned": ("scgpt-finetuned", *UNKNOWN),
        "prompt": ("scgpt-knockout", "no token", "no change"),
        "theirs": ("imported", "not predicted", "taken as no change"),
    }
    predictions = [
        predicted(name, kind, fold, fallbacks={"HS2": why})
        for fold in ("fold0", "fold1")
        for name, (kind, *why) in fallbacks.items()
    ]
    predictions.append(predicted("flagged", fallbacks={"MLL3": UNKNOWN}))
    made = dataclasses.replace(
        run(predictions=predictions), kinds={**KINDS, "prompt": "scgpt-knockout", "theirs": "imported"}
    )
    found = [(what, why) for what, why in warned(made) if "HS2" in why or "MLL3" in why]
    assert [what for what, _ in found] == ["Not asked about every test perturbation: drop"]
    assert found[0][1].count("HS2 (1 of 20)") == 1
    assert "ridge (no vector: counted as zero)" in found[0][1]
    assert "prompt (no token: no change)" in found[0][1]
    assert "HS2, MLL3 (2 of 20): flagged (neither measured nor in the vocabulary" in found[0][1]


def test_warnings_that_say_the_same_of_several_methods_are_one():
    """Random decoders of one size, recipes with one set of options, perturbations without a token."""
    kinds = {**KINDS, "flagged2": "scgpt-zero-shot", "tuned2": "scgpt-finetuned"}
    unlearnt = {"perturbations_without_token": ("A",)}
    names = ("flagged", "flagged2", "tuned", "tuned2")
    made = run(predictions=[predicted(name, kinds[name], finetuning=unlearnt) for name in names])
    assert [what for what in whats(dataclasses.replace(made, kinds=kinds)) if "2" in what] == [
        "Random decoder: flagged, flagged2",
        "Learns from fewer perturbations: tuned, tuned2 on drop",
        "Not the published recipe to the letter: tuned, tuned2",
    ]


def test_a_method_that_was_asked_nothing_is_not_compared():
    made = run("not asked")
    (place,) = summary.places(made)
    assert answer_of(place).startswith("No: flagged is worse than the best simple method")
    assert answer_of(place).endswith(" tuned could be asked about none of the 20 test perturbations.")
    made.verdicts["verdict"] = "not asked"
    (place,) = summary.places(made)
    assert answer_of(place) == (
        "No answer: the pretrained scGPT methods know none of the 20 test perturbations (tuned, flagged)."
    )


def test_how_many_perturbations_both_methods_were_asked_about_is_part_of_the_answer():
    made = run("inconclusive", 0.02)
    assert "asked about" not in answer_of(summary.places(made)[0])
    made.scores.loc[made.scores["method"] == "tuned", "n_asked"] = 14
    assert "tuned could be asked about 14 of 20 test perturbations." in answer_of(summary.places(made)[0])
    made.scores.loc[made.scores["method"] == "ridge", "n_asked"] = 15
    assert "tuned could be asked about 14, ridge about 15 of 20 test " in answer_of(summary.places(made)[0])
    assert summary.places(made)[0]["first"] == []
    made.scores.loc[made.scores["method"] == "tuned", "n_asked"] = 9
    (place,) = summary.places(made)
    assert "asked about" not in answer_of(place), "said once"
    assert [written(sentence) for sentence in place["first"]] == [
        "tuned could be asked about 9, ridge about 15 of the 20 test perturbations. A fallback rule predicts the "
        "others, and the verdict counts them too. “What was not predicted” names the rule."
    ]
    assert summary.page(made).count("Read this first.") == 1
    made.scores["n_asked"] = pd.NA
    assert "asked about" not in answer_of(summary.places(made)[0])


def test_a_folder_is_no_published_checkpoint():
    (published,) = [why for what, why in warned(run(checkpoints={"mine": "folder", "own": "pretrain"}))
                    if what == "No published checkpoint"]  # fmt: skip
    assert "came from a folder (mine)" in published
    assert "The workflow does not know what a folder contains." in published
    assert "No published checkpoint" not in whats(run(checkpoints={"mine": "folder", "human": "catalogue"}))
    assert "No published checkpoint" not in whats(run(checkpoints={}))


def test_genes_without_a_vector_are_named_for_methods_that_use_gene_vectors_only():
    vectors = {"embeddings": vectors_of("mine", True, padded=148), "n_genes": 155}
    made = run(predictions=[predicted("vectors", "scgpt-embedding-ridge", **vectors)])
    why = dict(warned(dataclasses.replace(made, kinds={**KINDS, "vectors": "scgpt-embedding-ridge"})))
    assert why["Padded genes: drop"].startswith("148 of 155 measured genes (95.5 %) are not in the vocabulary of mine.")


def test_methods_that_no_metric_tells_apart_are_named_together():
    made = run()
    made = dataclasses.replace(
        made,
        scores=pd.concat([made.scores, made.scores[made.scores["method"] == "ridge"].assign(method="sum")]),
        kinds={**KINDS, "sum": "additive"},
        predictions=[predicted("sum", "additive", fallbacks={"A": ("not perturbed alone", "mean")})],
    )
    why = dict(warned(made))
    assert why["The same prediction: ridge, sum on drop"] == (
        "They score the same by every metric: count them as one. Without combinations, additive is the mean of the "
        "training perturbations."
    )
    assert not [what for what in why if what.startswith("Not asked")], "said once"
    made.scores.loc[made.scores["method"] == "sum", "mean"] += 1e-4
    assert "The same prediction: ridge, sum on drop" not in whats(made)


def test_responses_that_are_mostly_noise_are_said_before_the_verdict():
    of_28 = [(f"P{number}", number == 0, False, 0.0) for number in range(29)]
    (place,) = summary.places(run(cards={"drop": card(*of_28)}))
    (first,) = map(written, place["first"])
    assert first.startswith(
        "Responses of 28 of the 29 test perturbations repeat poorly: the changes in two halves of their cells "
        "correlate by less than 0.3 (P1, P2, "
    )
    assert "Unreliable perturbations: drop" not in whats(run(cards={"drop": card(*of_28)})), "said once"
    page, _ = summary.answers(run(cards={"drop": card(*of_28)}))["Verdict"]
    assert page.startswith("Responses of 28 of the 29 test "), "on the page of the verdict too"
    tested = pd.DataFrame({"dataset": "drop", "split": "fold0", "perturbation": ["P0", "P1"], "context": "all"})
    (place,) = summary.places(run(cards={"drop": card(*of_28)}, classes=tested))
    assert place["first"] == [], "one of the two that were tested is reliable"
    elsewhere = pd.concat([tested, tested.assign(split="fold1", perturbation="P2")])
    (place,) = summary.places(run(cards={"drop": card(*of_28)}, classes=elsewhere))
    assert place["first"] == [], "what another split tests does not count"
    unknown = [(name, None, *rest) for name, _, *rest in of_28]
    assert summary.places(run(cards={"drop": card(*unknown)}))[0]["first"] == []


def test_names_are_escaped_and_a_missing_interval_is_unknown():
    made = run(predictions=[predicted("flagged")])
    made.verdicts["opponent"] = "<script>alert(1)</script>"
    made.verdicts[["ci_low", "ci_high"]] = np.nan
    text = summary.page(made)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "(unknown)" in text


def test_verdicts_within_each_context_stand_beside_that_over_all_conditions():
    made, within = run("better"), [run("better"), run("worse", -0.2)]
    scores = [found.scores.assign(context=name) for name, found in zip(("K562", "RPE1"), within, strict=True)]
    verdicts = [found.verdicts.assign(context=name) for name, found in zip(("K562", "RPE1"), within, strict=True)]
    made = dataclasses.replace(
        made, scores=pd.concat([made.scores, *scores]), verdicts=pd.concat([made.verdicts, *verdicts])
    )
    (place,) = summary.places(made)
    tuned = next(row for row in place["rows"] if row["method"] == "tuned")
    assert (tuned["verdict"], tuned["contexts"]) == ("better", {"K562": "better", "RPE1": "worse"})
    assert len(place["rows"]) == 2, "a row for each method, not for each context"
    said = written(place["in_contexts"])
    assert said == "tuned against the best simple method in each context: better in K562; worse in RPE1."
    page = summary.page(made)
    assert "mean over 20 test conditions" in page
    assert all(f'<th scope="col">in {name}</th>' in page for name in ("K562", "RPE1"))
    assert '<th scope="col">in ' not in summary.page(run("better"))


def test_what_was_chosen_is_said_over_splits_and_what_was_fixed_is_not():
    def choice(penalty, member="ridge"):
        tried = [{"penalty": value, "components": 10} for value in (0.1, 10.0)]
        candidates = tuple(Candidate(method=member, options=options, score=0.5) for options in tried)
        options = {member: {"penalty": penalty, "components": 10}}
        return Chosen(left_out="perturbations", options=options, candidates=candidates, weights={})

    predictions = [predicted("ridge", split=f"fold{n}", chosen={"all": choice(p)}) for n, p in enumerate((0.1, 10.0))]
    mean = {"options": {}, "candidates": (), "weights": {"mean": 0.5}}
    predictions.append(predicted("average", chosen={"all": Chosen(left_out="nothing", **mean)}))
    [place] = summary.places(run(splits=("fold0", "fold1", "all"), predictions=predictions))
    assert place["chosen"].values == {"methods": {"ridge": {"penalty": ["0.1", "10"]}}}
    page = summary.page(run(predictions=predictions))
    assert "ridge (penalty 0.1)." in page


def test_what_a_run_took_is_said_with_the_methods_that_the_answer_names():
    jobs = [("finetune", "tuned", 3, 0.5, 0.25, 2.0), ("tune", "ridge", 2, 0.001, 0, 0.5)]
    columns = ["rule", "method", "jobs", "hours", "gpu_hours", "memory_gib"]
    cost = pd.DataFrame([*jobs, ("truth", "every method", 1, 2, 0, 1)], columns=columns)
    (said,) = summary.answers(run(cost=cost))["Cost"]
    assert said == (
        "2 h 30 min of computing, summed over 6 jobs, 15.0 min of GPU time; at most 2.0 GiB of memory in one job. "
        "tuned took 30.0 min; ridge took 3.6 s."
    )
    with_weights = [predicted("tuned")]
    (said,) = summary.answers(run(cost=cost, predictions=with_weights))["Cost"]
    assert "tuned took 30.0 min and needs a checkpoint (pretraining: not in this run); ridge took 3.6 s." in said
    pretrained = pd.concat([cost, pd.DataFrame([("pretrain", "every method", 1, 0.5, 0, 1)], columns=columns)])
    (said,) = summary.answers(run(cost=pretrained, predictions=with_weights))["Cost"]
    assert "needs a checkpoint (pretraining: 30.0 min)" in said
    assert "Cost" not in summary.answers(run())


def test_a_learning_curve_says_from_how_many_perturbations_on_scgpt_is_ahead():
    row = {"dataset": "drop", "split": "fold0", "context": "all", "method": "tuned", "metric": "effect_pearson"}
    found = pd.DataFrame([{**row, "n_learned": 34.6, "ci_low": 20.2, "ci_high": np.nan, "reason": ""}])
    (said,) = summary.answers(run(crossings=found))["Learning curves"]
    assert said == (
        "tuned is above the best simple method from about 35 measured perturbations on "
        "(95 % interval 20 to more than were tried)."
    )
    unknown = found.assign(reason="an end of the interval is not known")
    (said,) = summary.answers(run(crossings=unknown))["Learning curves"]
    assert said.endswith("(95 % interval 20 to unknown).")
    for reason in ("not above the best simple method with 40 perturbations", "above it with 10 perturbations already"):
        without = found.assign(n_learned=np.nan, ci_low=np.nan, reason=reason)
        (said,) = summary.answers(run(crossings=without))["Learning curves"]
        assert said == f"No number can be given for tuned: {reason}."
    assert "Learning curves" not in summary.answers(run())


def test_a_run_of_several_questions_opens_with_how_many_have_which_answer():
    splits = ("fold0", "gears1")
    (said,) = summary.answers(run("better", splits=splits))["Verdict"]
    assert said == "In 2 comparisons (some share cells), scGPT is better than each simple method in 2."
    made = run("inconclusive", splits=splits)
    too_few = made.verdicts["verdict"].where(made.verdicts["split"] != "gears1", "too few conditions")
    made = dataclasses.replace(made, verdicts=made.verdicts.assign(verdict=too_few))
    (said,) = summary.answers(made)["Verdict"]
    assert (
        said == "In 2 comparisons (some share cells), scGPT is not shown to be better, as good or worse "
        "in 1 and has no verdict in 1."
    )
    text = " ".join(summary.page(made).split())
    assert text.count('<a href="#answer-') == 2
    assert '<span class="verdict too-few-conditions">too few conditions</span>' in text


def test_data_sets_of_one_series_share_cells():
    one = run("better")
    both = {
        name: pd.concat([getattr(one, name), getattr(one, name).assign(dataset="drop2")])
        for name in ("scores", "verdicts")
    }
    two = dataclasses.replace(one, **both, series={"drop": ["screen"], "drop2": ["screen2"]})
    assert "share cells" not in summary.answers(two)["Verdict"][0]
    versions = dataclasses.replace(two, series={"drop": ["screen"], "drop2": ["other", "screen"]})
    assert "In 2 comparisons (some share cells), " in summary.answers(versions)["Verdict"][0]


def test_the_methods_of_the_run_are_explained_in_a_table():
    made = run(predictions=[from_random_weights("flagged")])
    text = " ".join(summary.page(dataclasses.replace(made, kinds={**KINDS, "theirs": "imported"})).split())
    assert "<summary>The methods in a sentence each</summary>" in text
    assert '<th scope="row">average</th><td>simple method, a variant of train-mean</td><td>The mean shift of' in text
    assert "<td>With random weights, as a control. The call with a perturbation flag" in text
    assert "<td>Predictions of another program, from a file.</td>" in text


def test_the_text_to_paste_says_what_methods_had_to_go_by():
    unlearnt = {"perturbations_without_token": ("A", "B")}
    made = run(predictions=[predicted("tuned", finetuning=unlearnt)], margin=0.1)
    made.scores.loc[made.scores["method"] == "tuned", "n_asked"] = 9
    made = dataclasses.replace(made, kinds={**KINDS, "theirs": "imported"})
    text = " ".join(html.unescape(summary.page(made)).split())
    assert "Means are over all 20, of which tuned could be asked about 9; a stated rule predicted the others." in text
    assert "scGPT models: published scGPT (human)." in text
    assert "All methods except those of other programs (theirs) were given the same training perturbations" in text
    assert "from the validation perturbations, by which the epoch of tuned was chosen." in text
    assert "tuned could not use 2 perturbations without a token." in text
    assert "by more than a margin of 0.1 of skill" in text
    assert "by more than the margin (0.1 of skill)" in text
    without = dataclasses.replace(run(), kinds={**KINDS, "tuned": "scgpt-knockout"})
    assert "chosen" not in re.search("Simple methods also learned.*", summary.page(without))[0]
