"""How a drop differs from the last version of the same data set: cells, scores and verdicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition, noun_of
from scgpt_bench.data.conditions import COLUMNS as CONDITION

KEYS = ["split", "context", "method", "metric"]
COLUMNS = [
    *KEYS,
    *("n_conditions_before", "n_conditions", "mean_before", "mean", "change"),
    *("n_shared", "change_on_shared", "verdict_before", "verdict", "verdict_changed"),
]


def compare_scores(
    before: str,
    now: str,
    scores: pd.DataFrame,
    verdicts: pd.DataFrame,
    metrics: pd.DataFrame,
    pooled: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Set scores and verdicts of two drops side by side.

    A new drop may test other conditions, which alone moves a mean: ``change_on_shared`` is the mean change over the
    ``n_shared`` conditions that both drops test in the same split.

    Parameters
    ----------
    before, now
        Names of the two data sets.
    scores, verdicts
        ``scores.tsv``, ``verdicts.tsv``.
    metrics
        The metrics of both, as :func:`scgpt_bench.evaluation.scores.gather` reads them.
    pooled
        The splits that are pooled, by the name under which they are.

    Returns
    -------
    Columns ``COLUMNS``; rows that only one drop has are kept, with the other side missing.
    """
    sides = []
    for dataset in (before, now):
        own = scores.loc[scores["dataset"] == dataset, [*KEYS, "n_conditions", "mean"]]
        judged = verdicts.loc[verdicts["dataset"] == dataset, [*KEYS, "verdict"]]
        sides.append(own.merge(judged, on=KEYS, how="left"))
    table = sides[0].merge(sides[1], on=KEYS, how="outer", suffixes=("_before", ""))
    table["change"] = table["mean"] - table["mean_before"]
    table = table.merge(_changes_on_shared(before, now, metrics, pooled or {}), on=KEYS, how="left")
    both = table["verdict"].notna() & table["verdict_before"].notna()
    differs = (table["verdict"] != table["verdict_before"]).map({True: "yes", False: "no"})
    table["verdict_changed"] = differs.where(both)
    counts = dict.fromkeys(("n_conditions_before", "n_conditions", "n_shared"), "Int64")
    return table[COLUMNS].astype(counts)


def shown_split(table: pd.DataFrame, pooled: Collection[str]) -> str:
    """Choose the split of the figure: that of the folds together, where there are several."""
    splits = [*table["split"].unique()]
    return next((name for name in pooled if name in splits), splits[-1])


def _changes_on_shared(
    before: str, now: str, metrics: pd.DataFrame, pooled: Mapping[str, Collection[str]]
) -> pd.DataFrame:
    """``n_shared`` and ``change_on_shared`` by ``KEYS``, over pooled splits and over all contexts together too."""
    metrics = metrics.assign(condition=[*zip(*(metrics[name] for name in CONDITION), strict=True)])
    of_pooled = [metrics[metrics["split"].isin(members)].assign(split=name) for name, members in pooled.items()]
    metrics = pd.concat([metrics, *of_pooled])
    parts = metrics[metrics["context"] != ALL_CONTEXTS]  # where no context is declared, it has this name already
    metrics = pd.concat([metrics, parts.assign(context=ALL_CONTEXTS)])
    values = metrics.pivot_table(index=[*KEYS, "condition"], columns="dataset", values="value")
    values = values.reindex(columns=[before, now]).dropna()
    changes = (values[now] - values[before]).groupby(level=KEYS)
    return changes.agg(n_shared="size", change_on_shared="mean").reset_index()


def compare_cards(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """List what was gained and lost between two cards (``card.json``)."""
    names = [
        {Condition(row["perturbation"], row["context"]).label: row for row in card["conditions"]}
        for card in (before, now)
    ]
    noun = noun_of(pd.DataFrame([*before["conditions"], *now["conditions"]]))
    reliable = [{name for name, row in of_card.items() if row["reliable"]} for of_card in names]  # not unknown either
    in_both = names[0].keys() & names[1].keys()
    facts = {
        label: f"{before[key]:,} before, {now[key]:,} now ({now[key] - before[key]:+,})"
        for key, label in (
            ("n_cells", "cells"),
            ("n_controls", "controls"),
            ("n_genes", "genes"),
            ("n_batches", "batches"),
            ("n_conditions", f"{noun}s"),
            ("n_reliable", "of reliable response"),
        )
    }
    return {
        **facts,
        f"{noun}s gained": ", ".join(sorted(names[1].keys() - names[0].keys())) or "none",
        f"{noun}s lost": ", ".join(sorted(names[0].keys() - names[1].keys())) or "none",
        "became reliable": ", ".join(sorted(in_both & reliable[1] - reliable[0])) or "none",
        "no longer reliable": ", ".join(sorted(in_both & reliable[0] - reliable[1])) or "none",
        "problems only now": "; ".join(text for text in now["problems"] if text not in before["problems"]) or "none",
    }
