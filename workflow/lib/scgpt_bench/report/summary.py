"""The start page: for each data set the answer, a row per scGPT method, and what limits the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scgpt_bench.data.conditions import CONTEXT, Condition, noun_of
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.evaluation.scores import at_smallest_p_value
from scgpt_bench.methods.registry import CEILING, FLOOR, SCGPT
from scgpt_bench.report.page import template
from scgpt_bench.report.run import HEADLINE, NOT_ASKED, Run, Sentence
from scgpt_bench.report.warnings import CONTROL_NOISE, warnings

BESIDE = ("mse", "mae")  # metrics whose verdicts are shown beside the headline's
COMPARED = ("better", "worse", "indistinguishable")


def page(run: Run) -> str:
    """Return the HTML of the start page; names and numbers are escaped."""
    found = places(run)
    context = {"places": found, "warnings": warnings(run, found), "metric": HEADLINE, "beside": BESIDE}
    return template("summary.html").render(**context)


def places(run: Run) -> list[dict[str, Any]]:
    """Return, for each data set, its split (``all`` where there are several), the answer and a row per method.

    Answer and rows are over all contexts; ``contexts`` of a row are the verdicts within each, where there are several.
    ``first`` are sentences that belong before the answer, since they may explain it.

    A measured mean is the true one with noise. Two of them correlate by the share ``R`` of the first in their variance,
    the true one with either by its square root (attenuation, Spearman 1904). ``noise_free`` is the root of the mean of
    ``R`` over conditions and of the ends of its interval: an estimate, which a score of these very cells may exceed.
    """
    found = []
    for dataset, scores in run.scores.groupby("dataset", sort=False):
        splits = list(scores["split"].unique())
        split = ALL_SPLITS if ALL_SPLITS in splits else splits[0]
        here = scores[(scores["split"] == split) & (scores["context"] == CONTEXT)]
        n = int(here.loc[here["metric"] == HEADLINE, "n_conditions"].max())
        unasked = _unasked(run, dataset)
        rows = _rows(run, here, dataset, split, [name for name, names in unasked.items() if len(names) >= n])
        ceiling = _score_of_kind(run, here, CEILING)
        floor = _score_of_kind(run, here, FLOOR)
        found.append(
            {
                "dataset": dataset,
                "split": split,
                "splits": [name for name in splits if name != ALL_SPLITS],
                "contexts": [name for name in scores["context"].unique() if name != CONTEXT],
                "noun": noun_of(scores),
                "n_conditions": n,
                "rows": rows,
                "first": _before_the_answer(run, dataset, rows),
                "answer": _answer(run, rows, n, {name: n - len(names) for name, names in unasked.items()}),
                "ceiling": ceiling and ceiling[0],
                "noise_free": [max(value, 0) ** 0.5 for value in ceiling] if ceiling and ceiling[0] >= 0 else None,
                "floor": floor and floor[0],
            }
        )
    return found


def _unasked(run: Run, dataset: str) -> dict[str, set[Condition]]:
    """The test conditions that a method could not be asked about, by method."""
    found: dict[str, set[Condition]] = {}
    for made in run.predictions:
        if made.dataset == dataset:
            found.setdefault(made.method, set()).update(entry.condition for entry in made.record.fallbacks)
    return found


def _rows(run: Run, scores: pd.DataFrame, dataset: str, split: str, unasked: Sequence[str]) -> list[dict[str, Any]]:
    judged = run.verdicts[(run.verdicts["dataset"] == dataset) & (run.verdicts["split"] == split)]
    within = judged[(judged["metric"] == HEADLINE) & (judged["context"] != CONTEXT)].set_index(["method", "context"])
    here = run.scores[(run.scores["dataset"] == dataset) & (run.scores["split"] == split)]
    silent = here[(here["metric"] == HEADLINE) & (here["n_asked"] == 0)].set_index(["method", "context"]).index
    within.loc[within.index.isin(silent) & within["verdict"].isin(COMPARED), "verdict"] = NOT_ASKED
    verdicts = judged[judged["context"] == CONTEXT]
    verdicts = verdicts.assign(p_is_at_most=at_smallest_p_value(verdicts))
    verdicts.loc[verdicts["method"].isin(unasked) & verdicts["verdict"].isin(COMPARED), "verdict"] = NOT_ASKED
    verdict_of = verdicts.set_index(["method", "metric"])["verdict"].to_dict()
    score_of = scores[scores["metric"] == HEADLINE].set_index("method")
    contexts = within.index.unique("context")
    headline = verdicts[verdicts["metric"] == HEADLINE].sort_values("difference", ascending=False, kind="stable")
    return [
        {
            **row,
            "mean": score_of.loc[row["method"], "mean"],
            "fraction": score_of.loc[row["method"], "fraction_of_ceiling"],
            "beside": [verdict_of.get((row["method"], metric), "not judged") for metric in BESIDE],
            "contexts": {context: within.loc[(row["method"], context), "verdict"] for context in contexts},
        }
        for row in headline.to_dict("records")
    ]


def _before_the_answer(run: Run, dataset: str, rows: Sequence[Mapping[str, Any]]) -> list[Sentence]:
    """What may explain verdicts by itself: noise of the control mean, or responses that are mostly noise."""
    found = []
    same, disjoint = run.control_noise(dataset) or (0.0, 0.0)
    noise = same - disjoint
    explained = [
        row["method"] for row in rows if row["verdict"] in ("better", "worse") and abs(row["difference"]) <= noise
    ]
    if noise > CONTROL_NOISE and (explained or noise > same / 2):
        found.append(Sentence("noise_first", {"same": same, "disjoint": disjoint, "explained": explained}))
    tested, poor = run.unreliable(dataset)
    if len(poor) > len(tested) / 2:
        noun = noun_of(pd.DataFrame(run.cards[dataset]["conditions"]))
        found.append(Sentence("most_responses_are_noise", {"labels": poor, "n": len(tested), "noun": noun}))
    return found


def _answer(run: Run, rows: Sequence[Mapping[str, Any]], n: int, asked: Mapping[str, int]) -> list[Sentence]:
    scgpt = [row for row in rows if run.group(row["method"]) == SCGPT]
    if not scgpt:
        return [Sentence("no_scgpt", {})]
    verdicts = {row["verdict"] for row in scgpt}
    if "too few perturbations" in verdicts:
        return [Sentence("too_few_conditions", {"n_methods": len(rows)})]
    if "data cannot tell" in verdicts:
        return [Sentence("unreliable_data", {})]
    without = run.without_pretraining()
    pretrained = [row for row in scgpt if row["method"] not in without]
    judged = [row for row in pretrained if row["verdict"] != NOT_ASKED]
    silent = [row["method"] for row in pretrained if row["verdict"] == NOT_ASKED]
    untrained = [row["method"] for row in scgpt if row["method"] in without and row["verdict"] == "better"]
    answer = []
    if judged:
        answer.append(_best_verdict(judged, n, asked))
    if silent:
        answer.append(Sentence("some_not_asked" if judged else "none_asked", {"methods": silent, "n": n}))
    if not pretrained:
        answer.append(Sentence("no_pretrained_scgpt", {}))
    if untrained:
        answer.append(Sentence("better_without_pretraining", {"methods": untrained}))
    return answer


def _best_verdict(rows: Sequence[Mapping[str, Any]], n: int, asked: Mapping[str, int]) -> Sentence:
    """The best method that is better; else the best that is not shown to be worse; else the best of all."""
    verdicts = {row["verdict"] for row in rows}
    verdict = next((verdict for verdict in ("better", "indistinguishable") if verdict in verdicts), "worse")
    first, *others = [row for row in rows if row["verdict"] == verdict]
    opposite = {"better": "worse", "worse": "better"}.get(verdict)
    values = {key: first[key] for key in ("method", "best_baseline", "difference", "ci_low", "ci_high")}
    values |= {
        "metric": HEADLINE,
        "others": [row["method"] for row in others],
        "n_asked": asked.get(first["method"], n),
        "n": n,
        "n_methods": len(rows),
        "opposite": opposite,
        "opposite_by": [metric for metric, found in zip(BESIDE, first["beside"], strict=True) if found == opposite],
    }
    return Sentence(f"scgpt_is_{verdict}", values)


def _score_of_kind(run: Run, scores: pd.DataFrame, kind: str) -> list[float] | None:
    """The mean of the only method of a kind and its interval; None without one."""
    rows = scores[(scores["metric"] == HEADLINE) & (scores["method"].map(run.kinds) == kind)]
    return None if rows.empty else list(map(float, rows.iloc[0][["mean", "ci_low", "ci_high"]]))
