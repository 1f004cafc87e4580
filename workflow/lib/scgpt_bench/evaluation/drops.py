"""How a drop differs from the last version of the same data set: cells, scores and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from scgpt_bench.data.names import ALL_SPLITS

KEYS = ["split", "method", "metric"]
COLUMNS = [
    *KEYS,
    *("n_perturbations_before", "n_perturbations", "mean_before", "mean", "change"),
    *("n_shared", "change_on_shared", "verdict_before", "verdict", "verdict_changed"),
]


def compare_scores(
    before: str, now: str, scores: pd.DataFrame, verdicts: pd.DataFrame, metrics: pd.DataFrame
) -> pd.DataFrame:
    """Scores and verdicts of two drops side by side.

    A new drop may test other perturbations, which alone moves a mean: ``change_on_shared`` is the mean change over the
    ``n_shared`` perturbations that both drops test in the same split.

    Parameters
    ----------
    before, now
        Names of the two data sets.
    scores, verdicts
        ``scores.tsv``, ``verdicts.tsv``.
    metrics
        The metrics of both, as :func:`scgpt_bench.evaluation.scores.gather` reads them.

    Returns
    -------
    Columns ``COLUMNS``; rows that only one drop has are kept, with the other side missing.
    """
    sides = []
    for dataset in (before, now):
        own = scores.loc[scores["dataset"] == dataset, [*KEYS, "n_perturbations", "mean"]]
        judged = verdicts.loc[verdicts["dataset"] == dataset, [*KEYS, "verdict"]]
        sides.append(own.merge(judged, on=KEYS, how="left"))
    table = sides[0].merge(sides[1], on=KEYS, how="outer", suffixes=("_before", ""), sort=False)
    table["change"] = table["mean"] - table["mean_before"]
    pooled = metrics.assign(split=ALL_SPLITS)
    values = pd.concat([metrics, pooled]).pivot_table(index=[*KEYS, "perturbation"], columns="dataset", values="value")
    shared = values.reindex(columns=[before, now]).dropna()
    shared = (shared[now] - shared[before]).groupby(level=KEYS).agg(n_shared="size", change_on_shared="mean")
    table = table.merge(shared.reset_index(), on=KEYS, how="left")
    both = table["verdict"].notna() & table["verdict_before"].notna()
    differs = (table["verdict"] != table["verdict_before"]).map({True: "yes", False: "no"})
    table["verdict_changed"] = differs.where(both)
    counts = dict.fromkeys(("n_perturbations_before", "n_perturbations", "n_shared"), "Int64")
    return table[COLUMNS].astype(counts)


def compare_cards(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What was gained and lost between two cards (``card.json``), in words."""
    names = [{row["perturbation"]: row for row in card["perturbations"]} for card in (before, now)]
    flipped = {
        name for name in names[0].keys() & names[1].keys() if names[0][name]["reliable"] != names[1][name]["reliable"]
    }
    became = sorted(name for name in flipped if names[1][name]["reliable"])
    facts = {
        label: f"{before[key]:,} before, {now[key]:,} now ({now[key] - before[key]:+,})"
        for key, label in (
            ("n_cells", "cells"),
            ("n_controls", "controls"),
            ("n_genes", "genes"),
            ("n_batches", "batches"),
            ("n_perturbations", "perturbations"),
            ("n_reliable", "of reliable response"),
        )
    }
    return {
        **facts,
        "perturbations gained": ", ".join(sorted(names[1].keys() - names[0].keys())) or "none",
        "perturbations lost": ", ".join(sorted(names[0].keys() - names[1].keys())) or "none",
        "became reliable": ", ".join(became) or "none",
        "no longer reliable": ", ".join(sorted(flipped - set(became))) or "none",
        "problems only now": "; ".join(text for text in now["problems"] if text not in before["problems"]) or "none",
    }
