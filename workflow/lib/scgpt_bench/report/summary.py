"""The start page: for each question the answer, a row per method, and what limits the answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from scgpt_bench import __version__
from scgpt_bench.data import split_names
from scgpt_bench.data.conditions import ALL_CONTEXTS, noun_of
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.evaluation.metrics import HEADLINE
from scgpt_bench.evaluation.scores import NO_INTERVAL
from scgpt_bench.evaluation.verdicts import COMPANIONS
from scgpt_bench.methods import registry
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, CEILING, FLOOR, KINDS, SCGPT
from scgpt_bench.report.ladder import about, ladder, overview
from scgpt_bench.report.page import template
from scgpt_bench.report.run import Run, Sentence, grouped, without_token
from scgpt_bench.report.warnings import GROUPS, recipes, warnings

ORDER = {"better": 0, "equivalent": 1, "inconclusive": 1, "worse": 2}  # the verdicts that compare
RANK = {"better": 0, "equivalent": 1, "inconclusive": 2, "worse": 3}  # in which they are counted
PRETRAINING = ("pretrain", "pretrain_census")  # rules
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
        "tally": _tally(run, found),
        "cost": _cost(run, found),
        "models": _models(run),
        "limits": limits(warnings(run, found)),
        "methods": _explained(run),
        "margin": run.margin,
        "methods_text": _methods_text(run, found),
        "revision": revision,
        "lists": run.lists,
        "metric": HEADLINE,
        "companions": COMPANIONS,
        **_SOFTWARE,
    }
    return template("summary.html").render(**context)


def _explained(run: Run) -> list[dict[str, Any]]:
    """Say in a sentence what each method does, those of a group together."""
    order, without = [group.name for group in registry.GROUPS], run.without_pretraining()
    rows = [
        {
            "method": method,
            "variant_of": "" if kind == method or kind not in KINDS else kind,
            "group": run.group(method).name,
            "about": about(kind, method in without),
        }
        for method, kind in run.kinds.items()
    ]
    return sorted(rows, key=lambda row: order.index(row["group"]))


def answers(run: Run) -> dict[str, list[str]]:
    """Return the sentences with which pages of the report open, as HTML, by category."""
    found = places(run)
    several = len(found) > 1

    def of_places(key: str) -> list[tuple[str, Sentence]]:
        return [(place["name"] if several else "", place[key]) for place in found if place[key]]

    sentences = {
        "Verdict": [("", _tally(run, found))] if several else [],
        "Pretraining": of_places("pretraining"),
        "Learning curves": of_places("crossing"),
        "Contexts": of_places("in_contexts"),
        "Model": [("", sentence) for sentence in recipes(run)],
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


def _tally(run: Run, found: Sequence[Mapping[str, Any]]) -> Sentence:
    """Count the answers; those about one data set, or about versions of it, depend on each other."""
    named = [place["dataset"] for place in found]
    of_series = [name for dataset in dict.fromkeys(named) for name in run.series.get(dataset, [dataset])]
    share_cells = len({*named}) < len(named) or len({*of_series}) < len(of_series)
    return Sentence("tally", {"words": [place["word"] for place in found], "share_cells": share_cells})


def _methods_text(run: Run, found: Sequence[Mapping[str, Any]]) -> Sentence:
    """Write down what a paper says of the methods of this run."""
    no_token = grouped((made.method, name) for made in run.predictions for name in without_token(made.record))
    values = {
        "places": [
            {
                **{key: place[key] for key in ("dataset", "splits", "noun", "n_conditions")},
                "asked": grouped((number, method) for method, number in place["asked"].items()),
            }
            for place in found
        ],
        "groups": grouped((run.group(method).name, method) for method in run.kinds),
        **_models(run).values,
        "imported": [method for method, kind in run.kinds.items() if kind == "imported" or kind not in KINDS],
        "finetuned": [method for method, kind in run.kinds.items() if kind in KINDS and KINDS[kind].is_trained],
        "no_token": grouped((len(names), method) for method, names in no_token.items()),
        "margin": run.margin,
    }
    return Sentence("methods_text", values | _SOFTWARE)


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
            here = of_split[of_split["context"] == ALL_CONTEXTS]
            n = max(here.loc[here["metric"] == HEADLINE, "n_conditions"], default=0)
            rows = _rows(run, here, dataset, split)
            named = _in_the_answer(run, rows)
            picture = ladder(run, here, rows, [named["method"], named["opponent"]] if named else [])
            asked = _asked(here)
            answer = _answer(run, rows, int(n), _means(here), asked)
            question = _named(split, run.pooled)
            found.append(
                {
                    "dataset": dataset,
                    "name": f"{dataset}, {question}" if len(questions) > 1 or HELD_OUT in question else dataset,
                    "split": split,
                    "splits": splits,
                    "contexts": [name for name in of_split["context"].unique() if name != ALL_CONTEXTS],
                    "noun": noun_of(scores),
                    "n_conditions": int(n),
                    "n_genes": run.cards.get(dataset, {}).get("n_genes"),
                    "no_interval": _why_no_interval(here),
                    "rows": rows,
                    "generated": dataset in run.generated,
                    "asked": asked,
                    "first": [*_unreliable(run, dataset, splits), *_few_asked(named, asked, int(n), noun_of(scores))],
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
    contexts = [name for name in judged["context"].unique() if name != ALL_CONTEXTS]
    score_of = scores[scores["metric"] == HEADLINE].set_index("method")
    spread_of = scores[scores["metric"] == SPREAD].set_index("method")["mean"].to_dict()
    headline = judged[(judged["metric"] == HEADLINE) & (judged["context"] == ALL_CONTEXTS)]
    headline = headline.sort_values("difference", ascending=False, kind="stable")
    return [
        {
            **row,
            "reason": _text(row["reason"]),
            **score_of.loc[row["method"], ["mean", "skill"]],
            "spread": spread_of.get(row["method"]),
            "companions": [verdict_of.get((row["method"], name, ALL_CONTEXTS), "not judged") for name in COMPANIONS],
            "opponents": [opponent_of.get((row["method"], name, ALL_CONTEXTS), "") for name in COMPANIONS],
            "contexts": {name: verdict_of.get((row["method"], HEADLINE, name), "not judged") for name in contexts},
        }
        for row in headline.to_dict("records")
    ]


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else cell  # an empty cell of a table


def _unreliable(run: Run, dataset: str, splits: Collection[str]) -> list[Sentence]:
    """Say what may explain verdicts by itself: most responses do not repeat."""
    tested, poor = run.unreliable(dataset, splits)
    if len(poor) <= len(tested) / 2:
        return []
    noun = noun_of(pd.DataFrame(run.cards[dataset]["conditions"]))
    values = {"labels": poor, "n": len(tested), "noun": noun, "minimum": run.cards[dataset]["minimum_reliability"]}
    return [Sentence("most_responses_are_unreliable", values)]


def _asked(scores: pd.DataFrame) -> dict[str, int]:
    """Count what methods were asked about, of those that could not be asked about every condition."""
    headline = scores[(scores["metric"] == HEADLINE) & scores["n_asked"].notna()]
    fewer = headline[headline["n_asked"] < headline["n_conditions"]]
    return dict(zip(fewer["method"], fewer["n_asked"].astype(int), strict=True))


def _few_asked(named: Mapping[str, Any] | None, asked: Mapping[str, int], n: int, noun: str) -> list[Sentence]:
    """Say that the method of the answer was asked about fewer than half of the conditions."""
    if named is None or asked.get(named["method"], n) >= n / 2:
        return []
    both = {name: asked[name] for name in (named["method"], named["opponent"]) if name in asked}
    return [Sentence("few_asked", {"asked": both, "n": n, "noun": noun})]


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
    prefix, verdicts = f"{split_names.HELD_OUT_CONTEXT}-", named["contexts"]
    held_out = [split for split in splits if split.startswith(prefix)]
    if held_out:
        headline = run.verdicts[(run.verdicts["metric"] == HEADLINE) & (run.verdicts["context"] == ALL_CONTEXTS)]
        of_method = headline[headline["method"] == named["method"]]
        found = {split.removeprefix(prefix): _at(of_method, dataset, split)["verdict"] for split in held_out}
        verdicts = {context: verdict.iloc[0] for context, verdict in found.items() if len(verdict)}
    if not verdicts:
        return None
    by_verdict = grouped((verdict, context) for context, verdict in verdicts.items())
    return Sentence("in_contexts", {"method": named["method"], "held_out": bool(held_out), "verdicts": by_verdict})


def _crossing(run: Run, rows: Sequence[Mapping[str, Any]], dataset: str, split: str) -> Sentence | None:
    """Say from how many perturbations on the method of the answer is ahead; None without learning curves."""
    named = _in_the_answer(run, rows)
    here = _at(run.crossings, dataset, split)
    here = here[(here["metric"] == HEADLINE) & (here["context"] == ALL_CONTEXTS)]
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
    pretraining = run.cost.loc[run.cost["rule"].isin(PRETRAINING), "hours"].sum()
    return Sentence(
        "cost",
        {
            "hours": float(run.cost["hours"].sum()),
            "jobs": int(run.cost["jobs"].sum()),
            "gpu_hours": float(run.cost["gpu_hours"].sum()),
            "memory": float(run.cost["memory_gib"].max()),
            "methods": {name: float(of_method[name]) for name in list(named)[:4] if name in of_method},
            "of_checkpoints": {made.method for made in run.predictions if made.record.weights},
            "pretraining": float(pretraining),
        },
    )


def _tells_apart(run: Run, rows: Sequence[Mapping[str, Any]], picture: Mapping[str, Any]) -> Sentence | None:
    """Say how often predictions are nearest to the right one of twenty, or else what discrimination is."""
    ceiling = next((row for row in picture.get("rows", ()) if run.kinds[row["method"]] == CEILING), None)
    return _beside(run, "tells_apart", ["found"], "discrimination", rows, picture) or _beside(
        run, "discriminates", ["apart"], "discrimination", rows, picture, ceiling=ceiling and ceiling["apart"]
    )


def _slope(run: Run, rows: Sequence[Mapping[str, Any]], picture: Mapping[str, Any]) -> Sentence | None:
    floor = next((row for row in picture.get("rows", ()) if run.kinds[row["method"]] == FLOOR), None)
    return _beside(run, "slope", ["slope", "sign"], "mse_unbiased", rows, picture, floor=floor and floor["sign"])


def _beside(
    run: Run,
    name: str,
    keys: Collection[str],
    metric: str,
    rows: Sequence[Mapping[str, Any]],
    picture: Mapping[str, Any],
    **more: Any,
) -> Sentence | None:
    """Set two methods side by side in numbers that are no test, with the verdict of the metric that tests it.

    None where none of the numbers ``keys`` is known of both.
    """
    compared = _compared(run, rows, picture)
    if len(compared) != 2 or not any(all(np.isfinite(row[key]) for row in compared) for key in keys):
        return None
    (judged,) = (row for row in rows if row["method"] == compared[0]["method"])
    at = COMPANIONS.index(metric)
    values = {"rows": compared, "metric": metric, **more}
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


def _answer(
    run: Run, rows: Sequence[Mapping[str, Any]], n: int, means: Mapping[str, float], asked: Mapping[str, int]
) -> list[Sentence]:
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
        answer.append(_best_verdict(judged, n, means, asked))
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


def _best_verdict(
    rows: Sequence[Mapping[str, Any]], n: int, means: Mapping[str, float], asked: Mapping[str, int]
) -> Sentence:
    first = _first(rows)
    told = asked.get(first["method"], n) >= n / 2  # with fewer it is said before the answer
    keys = ("method", "opponent", "difference", "ci_low", "ci_high", "p_value", "smallest_detectable", "reason")
    values = {key: first[key] for key in keys} | {
        "mean": means[first["method"]],
        "opponent_mean": means.get(first["opponent"], np.nan),
        "opponents": [*dict.fromkeys(row["opponent"] for row in rows)],
        "verdicts": grouped(
            (row["verdict"], row["method"]) for row in sorted(rows, key=lambda row: RANK[row["verdict"]])
        ),
        "asked": {name: asked[name] for name in (first["method"], first["opponent"]) if told and name in asked},
        "n": n,
        "n_methods": len(rows),
    }
    return Sentence(f"scgpt_is_{first['verdict']}", values)


def _pretraining(run: Run, dataset: str, split: str) -> dict[str, Sentence | None]:
    """Say what the contrasts show, and list them; None where nothing was run that differs in pretraining alone."""
    here = _at(run.contrasts, dataset, split)
    here = here[here["opponent"].isin(run.without_pretraining())]
    pairs = here[(here["metric"] == HEADLINE) & (here["context"] == ALL_CONTEXTS)].to_dict("records")
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
