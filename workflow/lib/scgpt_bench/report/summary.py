"""The start page: for each question the answer, a row per method, and what limits the answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from scgpt_bench.data.conditions import CONTEXT, noun_of
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.evaluation.scores import HEADLINE
from scgpt_bench.evaluation.verdicts import COMPANIONS
from scgpt_bench.methods.registry import CEILING, FLOOR, SCGPT
from scgpt_bench.report.page import template
from scgpt_bench.report.run import Run, Sentence, grouped
from scgpt_bench.report.warnings import warnings

SPREAD = "spread_ratio"  # of predicted cells


def page(run: Run) -> str:
    """Return the HTML of the start page; names and numbers are escaped."""
    found = places(run)
    context = {"places": found, "warnings": warnings(run, found), "metric": HEADLINE, "companions": COMPANIONS}
    context["lists"] = run.lists
    return template("summary.html").render(**context)


def places(run: Run) -> list[dict[str, Any]]:
    """Return, for each data set and question (:meth:`Run.questions`), the answer and a row per method.

    Answer and rows are over all contexts; ``contexts`` of a row are the verdicts within each, where there are several.
    ``first`` are sentences that belong before the answer, since they may explain it.
    """
    found = []
    for dataset, scores in run.scores.groupby("dataset", sort=False):
        questions = run.questions(dataset)
        for split, splits in questions.items():
            of_split = scores[scores["split"] == split]
            here = of_split[of_split["context"] == CONTEXT]
            n = max(here.loc[here["metric"] == HEADLINE, "n_conditions"], default=0)
            rows = _rows(run, here, dataset, split)
            found.append(
                {
                    "dataset": dataset,
                    "name": f"{dataset}, {_named(split, run.pooled)}" if len(questions) > 1 else dataset,
                    "split": split,
                    "splits": splits,
                    "contexts": [name for name in of_split["context"].unique() if name != CONTEXT],
                    "noun": noun_of(scores),
                    "n_conditions": int(n),
                    "rows": rows,
                    "first": _before_the_answer(run, dataset),
                    "answer": _answer(run, rows, int(n)),
                    "pretraining": _pretraining(run, dataset, split),
                    "chosen": _chosen(run, dataset, splits),
                    "ceiling": _score_of_kind(run, here, CEILING),
                    "floor": _score_of_kind(run, here, FLOOR),
                }
            )
    return found


def _named(split: str, pooled: Collection[str]) -> str:
    """Name a question in words: pooled splits by what they have in common, any other by its name."""
    if split == ALL_SPLITS:
        return "folds"
    if split not in pooled:
        return split
    _, _, group = split.partition("-")
    if group.startswith("seen"):
        return f"held-out contexts of which training has a share of {group.removeprefix('seen')}"
    return "held-out contexts" + (f", perturbations unseen in all of them ({group})" if group else "")


def _at(table: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    return table[(table["dataset"] == dataset) & (table["split"] == split)]


def _rows(run: Run, scores: pd.DataFrame, dataset: str, split: str) -> list[dict[str, Any]]:
    judged = _at(run.verdicts, dataset, split)
    verdict_of = judged.set_index(["method", "metric", "context"])["verdict"].to_dict()
    contexts = [name for name in judged["context"].unique() if name != CONTEXT]
    score_of = scores[scores["metric"] == HEADLINE].set_index("method")
    spread_of = scores[scores["metric"] == SPREAD].set_index("method")["mean"].to_dict()
    headline = judged[(judged["metric"] == HEADLINE) & (judged["context"] == CONTEXT)]
    headline = headline.sort_values("difference", ascending=False, kind="stable")
    return [
        {
            **row,
            "reason": _text(row["reason"]),
            **score_of.loc[row["method"], ["mean", "skill", "n_asked"]],
            "spread": spread_of.get(row["method"]),
            "companions": [verdict_of.get((row["method"], name, CONTEXT), "not judged") for name in COMPANIONS],
            "contexts": {name: verdict_of.get((row["method"], HEADLINE, name), "not judged") for name in contexts},
        }
        for row in headline.to_dict("records")
    ]


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else cell  # an empty cell of a table


def _before_the_answer(run: Run, dataset: str) -> list[Sentence]:
    """Say what may explain verdicts by itself: responses that are mostly noise."""
    tested, poor = run.unreliable(dataset)
    if len(poor) <= len(tested) / 2:
        return []
    noun = noun_of(pd.DataFrame(run.cards[dataset]["conditions"]))
    return [Sentence("most_responses_are_noise", {"labels": poor, "n": len(tested), "noun": noun})]


def _answer(run: Run, rows: Sequence[Mapping[str, Any]], n: int) -> list[Sentence]:
    scgpt = [row for row in rows if run.group(row["method"]) == SCGPT]
    if not scgpt:
        return [Sentence("no_scgpt", {})]
    refused = {row["verdict"]: row["reason"] for row in scgpt}
    if "too few conditions" in refused:
        return [Sentence("too_few_conditions", {"reason": refused["too few conditions"]})]
    if "unreliable data" in refused:
        return [Sentence("unreliable_data", {})]
    without = run.without_pretraining()
    pretrained = [row for row in scgpt if row["method"] not in without]
    judged = [row for row in pretrained if row["verdict"] != "not asked"]
    silent = [row["method"] for row in pretrained if row["verdict"] == "not asked"]
    untrained = [row["method"] for row in scgpt if row["method"] in without and row["verdict"] == "better"]
    answer = []
    if judged:
        answer.append(_best_verdict(judged, n))
    if silent:
        answer.append(Sentence("some_not_asked" if judged else "none_asked", {"methods": silent, "n": n}))
    if not pretrained:
        answer.append(Sentence("no_pretrained_scgpt", {}))
    if untrained:
        answer.append(Sentence("better_without_pretraining", {"methods": untrained}))
    return answer


def _best_verdict(rows: Sequence[Mapping[str, Any]], n: int) -> Sentence:
    """Choose the best method that is better; else the best that is not shown to be worse; else the best of all."""
    order = {"better": 0, "equivalent": 1, "inconclusive": 1, "worse": 2}
    first = min(rows, key=lambda row: order[row["verdict"]])
    keys = ("method", "opponent", "difference", "ci_low", "ci_high", "p_value", "smallest_detectable", "reason")
    values = {key: first[key] for key in keys} | {
        "metric": HEADLINE,
        "others": [row["method"] for row in rows if row is not first and row["verdict"] == first["verdict"]],
        "n_asked": n if pd.isna(first["n_asked"]) else int(first["n_asked"]),
        "n": n,
        "n_methods": len(rows),
    }
    return Sentence(f"scgpt_is_{first['verdict']}", values)


def _pretraining(run: Run, dataset: str, split: str) -> Sentence | None:
    """Say what the contrasts show; None where nothing was run that differs in pretraining alone."""
    here = _at(run.contrasts, dataset, split)
    here = here[here["opponent"].isin(run.without_pretraining())]
    pairs = here[(here["metric"] == HEADLINE) & (here["context"] == CONTEXT)].to_dict("records")
    if not pairs:
        return None
    pairs = [{**pair, "reason": _text(pair["reason"])} for pair in pairs]
    return Sentence("pretraining", {"pairs": pairs, "verdicts": [pair["verdict"] for pair in pairs]})


def _chosen(run: Run, dataset: str, splits: Sequence[str]) -> Sentence | None:
    """List what methods chose by cross-validation, over splits and contexts; None where nothing was open."""
    methods: dict[str, dict[str, list[str]]] = {}
    for made in run.predictions:
        if made.dataset != dataset or made.split not in splits:
            continue
        for chosen in made.record.chosen.values():
            tried = grouped(((c.method, key), value) for c in chosen.candidates for key, value in c.options.items())
            for name, options in chosen.options.items():
                of_member = f"{name} " if len(chosen.options) > 1 else ""
                for key in (key for key in options if len(tried.get((name, key), [])) > 1):
                    values = methods.setdefault(made.method, {}).setdefault(of_member + key, [])
                    if (value := f"{options[key]:g}") not in values:
                        values.append(value)
    return Sentence("chosen", {"methods": methods}) if methods else None


def _score_of_kind(run: Run, scores: pd.DataFrame, kind: str) -> float | None:
    """Give the mean of the only method of a kind; None without one."""
    rows = scores[(scores["metric"] == HEADLINE) & (scores["method"].map(run.kinds) == kind)]
    return None if rows.empty else float(rows.iloc[0]["mean"])
