"""How much must be measured until a method pays: its score against the number of perturbations that it learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.evaluation.scores import KEY, SCORE_COLUMNS, ScoredStudy, blocks, scores
from scgpt_bench.evaluation.verdicts import Judged, against_simple

CURVE_COLUMNS = [
    *KEY,
    "n_learned",
    *(name for name in SCORE_COLUMNS if name not in (*KEY, "reason")),
    *("opponent", "difference", "difference_low", "difference_high", "reason"),
]
CROSSING_COLUMNS = [*KEY, "n_learned", "ci_low", "ci_high", "reason"]


def learning_curves(study: ScoredStudy, subsets: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """Score every method at every number of perturbations, on the same test conditions, by each metric that judges.

    Parameters
    ----------
    study
        Metrics, references and splits of the whole splits and of their subsets. Folds are pooled at each number.
    subsets
        Of each subset's name: the split that it is of, and how many perturbations were asked for.

    Returns
    -------
    Columns ``CURVE_COLUMNS``: those of ``scores.tsv``; ``n_learned``, the perturbations in training and validation,
    their mean where folds are pooled; and, of methods that are judged, the difference from the hardest simple method at
    the same number, as in ``verdicts.tsv``, with an interval for one number alone.
    """
    tables = []
    for size in [*sorted({size for _, size in subsets.values()}), None]:
        whole = {split for split, _ in subsets.values()}
        of_size = {name: split for name, (split, own) in subsets.items() if own == size} or {
            name: name for name in whole
        }
        one = _named_like_the_whole(study, of_size).judging
        rows = pd.DataFrame(
            [
                {**dict(zip(KEY, (*block.place, method, block.metric.name), strict=True)), **_difference(compared)}
                for block in blocks(one)
                for method, compared in against_simple(block, one).items()
            ],
            columns=[*KEY, "opponent", "difference", "difference_low", "difference_high"],
        )
        table = scores(one).merge(rows, on=KEY, how="left")
        learned = _numbers_learned(one.splits, study.pooled)
        table = _without_what_was_not_asked(table)
        table["n_learned"] = [learned[place] for place in zip(table["dataset"], table["split"], strict=True)]
        tables.append(table[CURVE_COLUMNS])
    curves = pd.concat(tables, ignore_index=True)
    # A number that is beyond what was measured is the whole split once more.
    curves = curves.drop_duplicates([*KEY, "n_learned"])
    first = {name: number for number, name in enumerate(dict.fromkeys(curves["dataset"]))}
    return curves.sort_values(
        ["dataset", "split", "context", "metric", "method", "n_learned"],
        key=lambda column: column.map(first) if column.name == "dataset" else column,
        kind="stable",
        ignore_index=True,
    )


def _named_like_the_whole(study: ScoredStudy, names: Mapping[str, str]) -> ScoredStudy:
    def part(table: pd.DataFrame) -> pd.DataFrame:
        own = table[table["split"].isin(names)]
        return own.assign(split=own["split"].map(names))

    names_of_tables = ("metrics", "control_blocks", "references", "splits")
    return replace(study, **{name: part(getattr(study, name)) for name in names_of_tables})


def _without_what_was_not_asked(table: pd.DataFrame) -> pd.DataFrame:
    """Empty the points of methods that could not be asked about any condition: what they fell back on is no score."""
    not_asked = (table["n_asked"] == 0).fillna(False).astype(bool)
    columns = ["mean", "ci_low", "ci_high", "skill", "opponent", "difference", "difference_low", "difference_high"]
    emptied = table.copy()
    emptied[columns] = emptied[columns].mask(not_asked)
    emptied.loc[not_asked, "reason"] = "not asked about any of these conditions"
    return emptied


def _difference(compared: Judged) -> dict[str, Any]:
    low, high = compared.interval
    return {
        "opponent": compared.opponent,
        "difference": compared.difference,
        "difference_low": low,
        "difference_high": high,
    }


def _numbers_learned(splits: pd.DataFrame, pooled: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], float]:
    """Count the perturbations in training and validation of every data set and split; the mean of pooled splits."""
    measured = splits[splits["role"] != "test"]
    numbers = measured.groupby(["dataset", "split"], sort=False)["perturbation"].nunique()
    found = numbers.to_dict()
    for name, members in pooled.items():
        of_members = numbers[numbers.index.get_level_values("split").isin(members)].groupby(level="dataset").mean()
        found |= {(dataset, name): number for dataset, number in of_members.items()}
    return found


def crossings(curves: pd.DataFrame) -> pd.DataFrame:
    """Find the number of perturbations from which on a method is above the best simple method.

    The difference from the hardest simple method is interpolated between the numbers that were run, on a logarithmic
    axis; the crossing is where it is 0 for the last time. Its interval holds the numbers whose own 95 % interval of the
    difference holds 0: below, the method is shown to be behind; above, to be ahead.

    Returns
    -------
    Columns ``CROSSING_COLUMNS``, a row for each judged method and metric. ``n_learned`` or an end of its interval is
    empty outside the range that was run; ``reason`` says on which side. Where neither is shown to be ahead at any
    number, the crossing is one of noise, and empty too.
    """
    rows = []
    judged = curves[curves["opponent"].notna()]
    for key, curve in judged.groupby(KEY, sort=False):
        curve = curve.sort_values("n_learned")
        numbers = curve["n_learned"].to_numpy(float)
        found, low, high = (
            last_crossing(numbers, curve[name].to_numpy(float))
            for name in ("difference", "difference_high", "difference_low")
        )
        rows.append(dict(zip(KEY, key, strict=True)) | _row(found, low, high, numbers))
    return pd.DataFrame(rows, columns=CROSSING_COLUMNS)


def last_crossing(numbers: np.ndarray, values: np.ndarray) -> float:
    """Find where ``values`` at ascending ``numbers`` become positive for good, interpolated over the logarithm.

    Returns
    -------
    ``-inf`` where they are positive everywhere, ``inf`` where they are not at the last number, not a number where any
    is missing.
    """
    if not len(values) or np.isnan(values).any():
        return np.nan
    behind = np.flatnonzero(values <= 0)
    if not len(behind):
        return -np.inf
    last = behind[-1]
    if last == len(values) - 1:
        return np.inf
    share = values[last] / (values[last] - values[last + 1])
    return float(np.exp(np.log(numbers[last]) + share * np.log(numbers[last + 1] / numbers[last])))


def _row(found: float, low: float, high: float, numbers: np.ndarray) -> dict[str, Any]:
    least, most = (f"{number:.4g}" for number in (numbers[0], numbers[-1]))
    if len(numbers) < 2:
        reason = "one number of perturbations only: no curve"
        found = low = high = np.nan
    elif np.isnan(found):
        reason = "no difference at one of the numbers"
    elif np.isposinf(found):
        reason = f"not above the best simple method with {most} perturbations"
        reason += ", where it is shown to be behind" if np.isposinf(low) else ", where neither is shown to be ahead"
    elif np.isneginf(found):
        reason = f"above the best simple method with {least} perturbations already"
        reason += "" if np.isneginf(high) else ", where it is not shown to be ahead"
    elif np.isneginf(low) and np.isposinf(high):
        reason = f"neither is shown to be ahead with any number from {least} to {most}"
        found = np.nan
    else:
        ends = [f"below {least}"] if np.isneginf(low) else []
        ends += [f"above {most}"] if np.isposinf(high) else []
        ends += ["not known"] if np.isnan(low) or np.isnan(high) else []
        reason = f"an end of the interval is {' and one '.join(ends)}" if ends else ""
    ends_of = [number if np.isfinite(number) else np.nan for number in (found, low, high)]
    return dict(zip(("n_learned", "ci_low", "ci_high", "reason"), (*ends_of, reason), strict=True))
