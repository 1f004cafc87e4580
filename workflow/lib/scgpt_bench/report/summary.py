"""The start page: for each question the answer, a row per method, and what limits the answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from scgpt_bench import __version__
from scgpt_bench.data import split_names
from scgpt_bench.data.conditions import CONTEXT, noun_of
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.evaluation.scores import HEADLINE, NO_INTERVAL
from scgpt_bench.evaluation.verdicts import COMPANIONS
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, CEILING, FLOOR, SCGPT
from scgpt_bench.report.ladder import ladder, overview
from scgpt_bench.report.page import template
from scgpt_bench.report.run import Run, Sentence, grouped
from scgpt_bench.report.warnings import GROUPS, warnings

ORDER = {"better": 0, "equivalent": 1, "inconclusive": 1, "worse": 2}  # the verdicts that compare
# What an answer comes to, by the name of its first sentence.
WORDS = {f"scgpt_is_{verdict}": verdict for verdict in ORDER} | {
    "too_few_conditions": "too few conditions",
    "unreliable_data": "unreliable data",
    "none_asked": "not asked",
    "no_pretrained_scgpt": "no scGPT",
    "no_scgpt": "no scGPT",
}
HELD_OUT = "held-out contexts"
SPREAD = "spread_ratio"  # of predicted cells
_SOFTWARE = {"version": __version__}


def page(run: Run, revision: str | None = None) -> str:
    """Return the HTML of the start page; names and numbers are escaped.

    Parameters
    ----------
    revision
        The commit of the workflow, where it is known.
    """
    found = places(run)
    context = {
        "places": found,
        "overview": overview(found) if len(found) > 1 else None,
        "tally": _tally(found),
        "cost": _cost(run, found),
        "models": _models(run),
        "limits": limits(warnings(run, found)),
        "methods_text": Sentence("methods_text", {"places": found, "groups": _methods_by_group(run), **_SOFTWARE}),
        "revision": revision,
        "lists": run.lists,
        "metric": HEADLINE,
        "companions": COMPANIONS,
        **_SOFTWARE,
    }
    return template("summary.html").render(**context)


def answers(run: Run) -> dict[str, list[str]]:
    """Return the sentences with which pages of the report open, as HTML, by category."""
    found = places(run)
    several = len(found) > 1

    def of_places(key: str) -> list[tuple[str, Sentence]]:
        return [(place["name"] if several else "", place[key]) for place in found if place[key]]

    sentences = {
        "Verdict": [("", _tally(found))] if several else [],
        "Pretraining": of_places("pretraining"),
        "Learning curves": of_places("crossing"),
        "Contexts": of_places("in_contexts"),
        "Cost": [("", cost)] if (cost := _cost(run, found)) else [],
    }
    if found and not several:
        sentences["Verdict"] = [("", sentence) for sentence in (*found[0]["first"], *found[0]["answer"])]
    module = template("sentences.html").module
    return {
        category: [
            str(Markup("<strong>{}:</strong> {}").format(name, said) if name else said)
            for name, sentence in sentences
            for said in [Markup(" ".join(getattr(module, sentence.name)(**sentence.values).split()))]
        ]
        for category, sentences in sentences.items()
        if sentences
    }


def limits(found: Sequence[Sentence]) -> dict[str, list[Sentence]]:
    """Sort warnings into the lines of the start page, that with the most important one first."""
    group_of_warning = {warning: group for group, members in GROUPS.items() for warning in members}
    lines: dict[str, list[Sentence]] = {}
    for sentence in found:
        lines.setdefault(group_of_warning[sentence.name], []).append(sentence)
    return lines


def _tally(found: Sequence[Mapping[str, Any]]) -> Sentence:
    """Count the answers; those of questions about one data set depend on each other."""
    share_cells = len({place["dataset"] for place in found}) < len(found)
    return Sentence("tally", {"words": [place["word"] for place in found], "share_cells": share_cells})


def _methods_by_group(run: Run) -> dict[str, list[str]]:
    return grouped((run.group(method).name, method) for method in run.kinds)


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
            picture = ladder(run, here, rows)
            answer = _answer(run, rows, int(n), _means(here))
            question = _named(split, run.pooled)
            found.append(
                {
                    "dataset": dataset,
                    "name": f"{dataset}, {question}" if len(questions) > 1 or HELD_OUT in question else dataset,
                    "split": split,
                    "splits": splits,
                    "contexts": [name for name in of_split["context"].unique() if name != CONTEXT],
                    "noun": noun_of(scores),
                    "n_conditions": int(n),
                    "n_genes": run.cards.get(dataset, {}).get("n_genes"),
                    "no_interval": _why_no_interval(here),
                    "rows": rows,
                    "generated": dataset in run.generated,
                    "first": _before_the_answer(run, dataset, splits),
                    "answer": answer,
                    "word": WORDS[answer[0].name],
                    "ladder": picture,
                    "compared": _compared(run, rows, picture),
                    "apart": _tells_apart(run, rows, picture),
                    "slope": _slope(run, rows, picture),
                    "in_contexts": _in_contexts(run, rows, dataset, splits),
                    "crossing": _crossing(run, rows, dataset, split),
                    "planted": _planted(run, picture, dataset),
                    **_pretraining(run, dataset, split),
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
        return f"{HELD_OUT} of which training has a share of {group.removeprefix('seen')}"
    return HELD_OUT + (f", perturbations unseen in all of them ({group})" if group else "")


def _at(table: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    return table[(table["dataset"] == dataset) & (table["split"] == split)]


def _rows(run: Run, scores: pd.DataFrame, dataset: str, split: str) -> list[dict[str, Any]]:
    judged = _at(run.verdicts, dataset, split)
    by_metric = judged.set_index(["method", "metric", "context"])
    verdict_of, opponent_of = by_metric["verdict"].to_dict(), by_metric["opponent"].to_dict()
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
            "opponents": [opponent_of.get((row["method"], name, CONTEXT), "") for name in COMPANIONS],
            "contexts": {name: verdict_of.get((row["method"], HEADLINE, name), "not judged") for name in contexts},
        }
        for row in headline.to_dict("records")
    ]


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else cell  # an empty cell of a table


def _before_the_answer(run: Run, dataset: str, splits: Collection[str]) -> list[Sentence]:
    """Say what may explain verdicts by itself: responses most of which are not shown to be more than noise."""
    tested, poor = run.unreliable(dataset, splits)
    if len(poor) <= len(tested) / 2:
        return []
    noun = noun_of(pd.DataFrame(run.cards[dataset]["conditions"]))
    values = {"labels": poor, "n": len(tested), "noun": noun, "minimum": run.cards[dataset]["minimum_reliability"]}
    return [Sentence("most_responses_are_unreliable", values)]


def _models(run: Run) -> Sentence:
    """Say which models the answers are about."""
    return Sentence("models", {"sources": grouped((source, name) for name, source in run.checkpoints.items())})


def _compared(run: Run, rows: Sequence[Mapping[str, Any]], picture: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the rows of the picture of the two methods that the answer names, scGPT's first."""
    named = _in_the_answer(run, rows)
    drawn = {row["method"]: row for row in picture["rows"]} if picture else {}
    return [drawn[name] for name in (named["method"], named["opponent"]) if name in drawn] if named else []


def _in_the_answer(run: Run, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Give the row of the pretrained scGPT method that the answer names; None where none was compared."""
    without = run.without_pretraining()
    scgpt = [row for row in rows if run.group(row["method"]) == SCGPT and row["method"] not in without]
    judged = [row for row in scgpt if row["verdict"] in ORDER]
    return _first(judged) if judged else None


def _in_contexts(run: Run, rows: Sequence[Mapping[str, Any]], dataset: str, splits: Sequence[str]) -> Sentence | None:
    """Sort the contexts by the verdict within each; None where there is one context."""
    named = _in_the_answer(run, rows)
    if named is None:
        return None
    held_out = [split for split in splits if split.startswith(f"{split_names.CONTEXT}-")]
    verdicts = named["contexts"]
    if held_out:
        of_method = run.verdicts[(run.verdicts["method"] == named["method"]) & (run.verdicts["metric"] == HEADLINE)]
        found = {split: _at(of_method, dataset, split) for split in held_out}
        verdicts = {
            split.removeprefix(f"{split_names.CONTEXT}-"): table.loc[table["context"] == CONTEXT, "verdict"].iloc[0]
            for split, table in found.items()
            if (table["context"] == CONTEXT).any()
        }
    if not verdicts:
        return None
    by_verdict = grouped((verdict, context) for context, verdict in verdicts.items())
    return Sentence("in_contexts", {"method": named["method"], "held_out": bool(held_out), "verdicts": by_verdict})


def _crossing(run: Run, rows: Sequence[Mapping[str, Any]], dataset: str, split: str) -> Sentence | None:
    """Say from how many perturbations on the method of the answer is ahead; None without learning curves."""
    named = _in_the_answer(run, rows)
    here = _at(run.crossings, dataset, split)
    here = here[(here["metric"] == HEADLINE) & (here["context"] == CONTEXT)]
    here = here[here["method"] == named["method"]] if named else here.head(0)
    if here.empty:
        return None
    row = {**here.iloc[0], "reason": _text(here.iloc[0]["reason"])}
    return Sentence("crossing", {key: row[key] for key in ("method", "n_learned", "ci_low", "ci_high", "reason")})


def _cost(run: Run, found: Sequence[Mapping[str, Any]]) -> Sentence | None:
    """Say what the run took, and the methods that answers name; None where no job was counted."""
    if run.cost.empty:
        return None
    named = dict.fromkeys(row["method"] for place in found for row in place["compared"])
    of_method = run.cost.groupby("method")["hours"].sum()
    return Sentence(
        "cost",
        {
            "hours": float(run.cost["hours"].sum()),
            "jobs": int(run.cost["jobs"].sum()),
            "gpu_hours": float(run.cost["gpu_hours"].sum()),
            "memory": float(run.cost["memory_gib"].max()),
            "methods": {name: float(of_method[name]) for name in list(named)[:4] if name in of_method},
        },
    )


def _tells_apart(run: Run, rows: Sequence[Mapping[str, Any]], picture: Mapping[str, Any]) -> Sentence | None:
    return _beside(run, "tells_apart", "found", "discrimination", rows, picture)


def _slope(run: Run, rows: Sequence[Mapping[str, Any]], picture: Mapping[str, Any]) -> Sentence | None:
    return _beside(run, "slope", "slope", "mse_unbiased", rows, picture)


def _beside(
    run: Run, name: str, key: str, metric: str, rows: Sequence[Mapping[str, Any]], picture: Mapping[str, Any]
) -> Sentence | None:
    """Set two methods side by side in a number that is no test, with the verdict of the metric that tests it."""
    compared = _compared(run, rows, picture)
    if len(compared) != 2 or any(np.isnan(row[key]) for row in compared):
        return None
    (judged,) = (row for row in rows if row["method"] == compared[0]["method"])
    at = COMPANIONS.index(metric)
    floor = next((row for row in picture["rows"] if run.kinds[row["method"]] == FLOOR), None)
    values = {"rows": compared, "metric": metric, "floor": floor}
    return Sentence(name, {**values, "verdict": judged["companions"][at], "opponent": judged["opponents"][at]})


def _planted(run: Run, picture: Mapping[str, Any], dataset: str) -> Sentence | None:
    """Say what was planted in a generated data set, and how much of it was found."""
    if dataset not in run.generated or not picture or not picture["axis"].skill:
        return None
    without = run.without_pretraining()
    best: dict[str, Mapping[str, Any]] = {}
    for row in picture["rows"]:  # the best comes first
        group = run.group(row["method"])
        kind = run.kinds[row["method"]]
        role = kind if group == BENCHMARK_CONTROL else "untrained" if row["method"] in without else group.name
        best.setdefault(role, row)
    return Sentence("planted", {"structure": run.generated[dataset].get("structure", True), "best": best})


def _answer(run: Run, rows: Sequence[Mapping[str, Any]], n: int, means: Mapping[str, float]) -> list[Sentence]:
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
        answer.append(_best_verdict(judged, n, means))
    if silent:
        answer.append(Sentence("some_not_asked" if judged else "none_asked", {"methods": silent, "n": n}))
    if not pretrained:
        answer.append(Sentence("no_pretrained_scgpt", {}))
    if untrained:
        answer.append(Sentence("better_without_pretraining", {"methods": untrained}))
    return answer


def _first(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Choose the best method that is better; else the best that is not shown to be worse; else the best of all."""
    return min(rows, key=lambda row: ORDER[row["verdict"]])


def _best_verdict(rows: Sequence[Mapping[str, Any]], n: int, means: Mapping[str, float]) -> Sentence:
    first = _first(rows)
    keys = ("method", "opponent", "difference", "ci_low", "ci_high", "p_value", "smallest_detectable", "reason")
    values = {key: first[key] for key in keys} | {
        "mean": means[first["method"]],
        "opponent_mean": means.get(first["opponent"], np.nan),
        "others": [row["method"] for row in rows if row is not first and row["verdict"] == first["verdict"]],
        "n_asked": n if pd.isna(first["n_asked"]) else int(first["n_asked"]),
        "n": n,
        "n_methods": len(rows),
    }
    return Sentence(f"scgpt_is_{first['verdict']}", values)


def _pretraining(run: Run, dataset: str, split: str) -> dict[str, Sentence | None]:
    """Say what the contrasts show, and list them; None where nothing was run that differs in pretraining alone."""
    here = _at(run.contrasts, dataset, split)
    here = here[here["opponent"].isin(run.without_pretraining())]
    pairs = here[(here["metric"] == HEADLINE) & (here["context"] == CONTEXT)].to_dict("records")
    if not pairs:
        return {"pretraining": None, "pairs": None}
    pairs = [{**pair, "reason": _text(pair["reason"])} for pair in pairs]
    verdicts = [pair["verdict"] for pair in pairs]
    decoded_at_random = {made.method for made in run.predictions if made.record.random_decoder}
    random = [pair["method"] for pair in pairs if pair["method"] in decoded_at_random]
    return {
        "pretraining": Sentence("pretraining", {"pairs": pairs, "verdicts": verdicts, "random_decoder": random}),
        "pairs": Sentence("pretraining_pairs", {"pairs": pairs}),
    }


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


def _why_no_interval(scores: pd.DataFrame) -> str:
    """Say why the headline metric has no interval; empty where it has."""
    reasons = scores.loc[scores["metric"] == HEADLINE, "reason"].map(_text)
    refused = reasons[reasons.str.startswith(NO_INTERVAL)].str.removeprefix(NO_INTERVAL)
    return min(refused, key=len, default="")


def _means(scores: pd.DataFrame) -> dict[str, float]:
    headline = scores[scores["metric"] == HEADLINE]
    return dict(zip(headline["method"], headline["mean"], strict=True))


def _score_of_kind(run: Run, scores: pd.DataFrame, kind: str) -> float | None:
    """Give the mean of the only method of a kind; None without one."""
    rows = scores[(scores["metric"] == HEADLINE) & (scores["method"].map(run.kinds) == kind)]
    return None if rows.empty else float(rows.iloc[0]["mean"])
