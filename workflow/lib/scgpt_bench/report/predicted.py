"""The page *Predicted*: how far to trust each method of a list first, then what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.evaluation.metrics import HEADLINE
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.report.page import template
from scgpt_bench.report.run import Sentence
from scgpt_bench.unmeasured.trust import KNOWN, NOT_MEASURED, RIGHT_SIGNS

TOP = 20  # perturbations that a ranking shows
FEW = 20  # lines that are shown of what was not asked


def page(
    name: str,
    dataset: str,
    trust: pd.DataFrame,
    ranking: pd.DataFrame,
    asked: pd.DataFrame,
    records: Mapping[str, MethodRecord],
) -> str:
    """Return a piece of HTML on one list of perturbations; names and numbers are escaped.

    Parameters
    ----------
    name, dataset
        Of the list, and of its data set.
    trust, ranking, asked
        ``trust.tsv``, ``ranking.tsv`` and ``asked.tsv``.
    records
        The record of each method, of its first seed.
    """
    context = {
        "name": name,
        "dataset": dataset,
        "metric": HEADLINE,
        "right_signs": RIGHT_SIGNS,
        "not_measured": NOT_MEASURED,
        "first": first_sentences(trust, ranking),
        "classes": _classes(trust),
        "rankings": _rankings(ranking),
        "agreement": _agreement(ranking),
        "unranked": [method for method, record in records.items() if record.untrained],
        "filled": _filled(records),
        "lines": asked[(asked["predicted"] == "no") | asked["reason"].fillna("").ne("")].to_dict("records"),
        "few": FEW,
        "top": TOP,
    }
    return template("predicted.html").render(**context)


def first_sentences(trust: pd.DataFrame, ranking: pd.DataFrame) -> list[Sentence]:
    """Say first what speaks against a prediction; without that, what the best method scored.

    In this order: nothing was measured; methods that are worse than the best simple one, that are not shown to be
    better than no change, that were not asked about some of the list, and that have no score; perturbations that are
    known like no measured one.
    """
    methods = [*dict.fromkeys(trust["method"])]
    known = trust[(trust["asked"] == "yes") & (trust["n_conditions"] > 0)]
    if known.empty:
        reasons = [*dict.fromkeys(trust["reason"])]
        return [Sentence("nothing_measured", {"reasons": reasons}), *_not_asked(ranking)]
    found = []
    worse = known[known["verdict"] == "worse"]
    if len(worse):
        pairs = worse[["method", "opponent"]].drop_duplicates().to_dict("records")
        found.append(Sentence("worse_than_simple", {"pairs": pairs}))
    idle = [*dict.fromkeys(known.loc[~known["against_no_change"].isin(["better", NOT_MEASURED]), "method"])]
    if idle:
        found.append(Sentence("not_better_than_no_change", {"methods": idle}))
    found += _not_asked(ranking)
    unknown = [method for method in methods if method not in set(known["method"])]
    if unknown:
        found.append(Sentence("not_measured", {"methods": unknown}))
    unlike = [one for one in _classes(trust) if not one["measured"]]
    if unlike:
        of = sum(one["n_predicted"] for one in _classes(trust))
        found.append(Sentence("unlike_measured", {"n": sum(one["n_predicted"] for one in unlike), "of": of}))
    of_classes = (known[(known[KNOWN] == [one[name] for name in KNOWN]).all(axis=1)] for one in _classes(trust))
    alike = next(rows for rows in of_classes if len(rows))  # what most of the list is like comes first
    sure = alike[alike["ci_low"].notna()]
    best = (sure if len(sure) else alike).pipe(lambda rows: rows.loc[rows["mean"].idxmax()])
    return [*found, Sentence("best", best.to_dict())]


def _classes(trust: pd.DataFrame) -> list[dict[str, Any]]:
    """Group the rows of ``trust.tsv`` by how well conditions are known; those with the most of the list come first."""
    classes = []
    for known, part in trust.groupby(KNOWN):
        n_predicted = part.drop_duplicates(["method", "asked"]).groupby("method")["n_predicted"].sum()
        part = part.assign(reason=part["reason"].fillna(""))
        classes.append(
            {
                **dict(zip(KNOWN, known, strict=True)),
                "n_predicted": int(n_predicted.max()),
                "measured": bool((part["n_conditions"] > 0).any()),
                "rows": part.to_dict("records"),
            }
        )
    return sorted(classes, key=lambda one: -one["n_predicted"])


def _not_asked(ranking: pd.DataFrame) -> list[Sentence]:
    """Say which methods fell back on a rule, for how many of the list."""
    number = ranking["asked"].eq("no").groupby(ranking["method"], sort=False).agg(["sum", "size"])
    number = number[number["sum"] > 0]
    counts = [{"method": method, "n": n, "of": of} for method, n, of in number.itertuples()]
    return [Sentence("not_asked", {"counts": counts})] if counts else []


def _rankings(ranking: pd.DataFrame) -> list[dict[str, Any]]:
    """Make a table for each way to rank and each context: the first perturbations of each method, side by side."""
    tables = []
    for column, value in (("rank_by_signature", "signature"), ("rank_by_effect", "effect")):
        for context, own in ranking[ranking[column].notna()].groupby("context", sort=False):
            of_method = {
                method: part.sort_values([column, "perturbation"]).head(TOP)[["perturbation", value, "asked"]]
                for method, part in own.groupby("method", sort=False)
            }
            rows = max(map(len, of_method.values()))
            cells = {
                method: [*part.to_dict("records"), *[None] * (rows - len(part))] for method, part in of_method.items()
            }
            several = len({*ranking["context"]}) > 1
            tables.append(
                {"by": value, "context": context if several else "", "value": value, "n": rows, "methods": cells}
            )
    return tables


def _agreement(ranking: pd.DataFrame) -> list[dict[str, Any]]:
    """Summarize how alike the changes are that a method and the others predict."""
    rows = []
    for method, values in ranking["agreement"].groupby(ranking["method"], sort=False):
        known = values[np.isfinite(values)]
        if len(known):
            rows.append(
                {"method": method, "mean": known.mean(), "low": known.min(), "high": known.max(), "n": len(known)}
            )
    return rows


def _filled(records: Mapping[str, MethodRecord]) -> list[dict[str, Any]]:
    """Group what methods could not be asked about by what they lacked and predicted in its place."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for method, record in records.items():
        for entry in record.fallbacks:
            groups.setdefault((method, entry.reason, entry.prediction), []).append(entry.condition.label)
    return [
        {"method": method, "reason": reason, "prediction": prediction, "conditions": conditions}
        for (method, reason, prediction), conditions in groups.items()
    ]
