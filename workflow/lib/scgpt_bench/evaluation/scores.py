"""From metrics per condition to scores with intervals, and to verdicts against the best baseline.

The unit of uncertainty is the condition (a perturbation in a context): seeds are averaged first, and over several
splits the tests of one condition too, since its measured cells are the same in all of them. One input table serves all:
columns ``dataset split method seed perturbation context metric value``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from scgpt_bench.data.conditions import COLUMNS as CONDITION
from scgpt_bench.data.conditions import CONTEXT
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.files import read_table
from scgpt_bench.method_record import read_record
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, CEILING, FLOOR, group_of
from scgpt_bench.seeding import random_generator

SIGNIFICANCE = 0.05
SIGN_FLIPS = 9999
EXACT_UP_TO = 13  # conditions; all 2^13 sign patterns are then enumerated

SCORE_COLUMNS = [
    *("dataset", "split", "context", "method", "metric", "mean", "ci_low", "ci_high"),
    *("n_conditions", "n_asked", "n_seeds", "fraction_of_ceiling"),
]
VERDICT_COLUMNS = [
    *("dataset", "split", "context", "method", "metric", "best_baseline", "difference"),
    *("ci_low", "ci_high", "n_conditions", "p_value", "verdict"),
]

KEY = ["dataset", "split", "context", "method", "metric"]  # of a row of scores.tsv and of verdicts.tsv
_SIDE = ["n_conditions", "mean", "ci_low", "ci_high", "verdict"]
RELIABLE_COLUMNS = [*KEY, *_SIDE, *(f"reliable_{name}" for name in _SIDE)]


def gather(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read tables ``.../<dataset>/<split>/<method>/<seed>/metrics.tsv`` into one, with those names as columns."""
    tables = []
    for path in paths:
        dataset, split, method, seed = Path(path).parts[-5:-1]
        table = read_table(path, dtype=dict.fromkeys(CONDITION, str))
        tables.append(table.assign(dataset=dataset, split=split, method=method, seed=int(seed)))
    filled = [table for table in tables if len(table)]  # an empty one, of what was not scored, has no types of its own
    return pd.concat(filled or tables, ignore_index=True)


def with_asked(metrics: pd.DataFrame, records: Iterable[str | Path]) -> pd.DataFrame:
    """Add the column ``asked``: whether the method was asked about the condition, as its ``method.json`` says."""
    rows = []
    for path in records:
        dataset, split, method, seed = Path(path).parts[-5:-1]
        rows += [(dataset, split, method, int(seed), *entry.condition) for entry in read_record(path).asked]
    key = ["dataset", "split", "method", "seed", *CONDITION]
    asked = pd.MultiIndex.from_tuples(rows, names=key)
    return metrics.assign(asked=pd.MultiIndex.from_frame(metrics[key]).isin(asked))


def scores(
    metrics: pd.DataFrame,
    kinds: Mapping[str, str],
    bootstrap_draws: int,
    seed: int,
    whole: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Average every metric over conditions, with a 95 % interval.

    The interval is the expanded percentile bootstrap (Hesterberg 2015, The American Statistician 69:371): plain
    percentiles are too narrow for few conditions. It is missing for a single condition. Rows with context ``all`` are
    over all conditions; where a data set has several contexts, others are over those of one. Where it has several
    splits, rows with split ``all`` pool the conditions of all splits, each counted once.

    ``n_asked`` of the ``n_conditions`` are those that the method was asked about in every split and seed that tests
    them; missing where ``metrics`` does not say (:func:`with_asked`). The mean includes the others.

    ``fraction_of_ceiling`` is mean / mean of ``technical-duplicate`` on the same split (its inverse for errors, where
    lower is better); missing where the ceiling was not run, is not above 0, is that of half of the cells only
    (``Metric.at_full_depth``), or is expected to be 0 (``Metric.fraction_of_ceiling``). It can exceed 1: a second
    sample has noise of its own.

    Parameters
    ----------
    metrics
        The input table of this module.
    kinds
        The kind of every method, by its name.
    bootstrap_draws
        Resamples behind each interval.
    seed
        Seed of the resamples, which depend on data set, split, context and number of conditions only, so that all
        methods and metrics see the same ones.
    whole
        The table of which ``metrics`` are a part, if they are: what splits and contexts there are is read there.

    Returns
    -------
    Table with the columns ``SCORE_COLUMNS``, in the order of the input's names.
    """
    rows = []
    for (dataset, split, context, metric), values in _blocks(metrics, kinds, whole):
        known, ceiling = metric_of(metric), np.nan
        if known.at_full_depth is not None and known.fraction_of_ceiling:
            ceiling = values[_of_kind(values, kinds, CEILING)].mean().mean()
        for method in values:
            scored = values[method].dropna().to_numpy()
            low, high = _interval(scored, _resamples(len(scored), bootstrap_draws, seed, dataset, split, context))
            mean = scored.mean()
            rows.append(
                {
                    "dataset": dataset,
                    "split": split,
                    "context": context,
                    "method": method,
                    "metric": metric,
                    "mean": mean,
                    "ci_low": low,
                    "ci_high": high,
                    "n_conditions": len(scored),
                    "n_asked": values.attrs["n_asked"].get(method),
                    "n_seeds": values.attrs["n_seeds"][method],
                    "fraction_of_ceiling": _fraction(mean, ceiling, known.higher_is_better),
                }
            )
    return pd.DataFrame(rows, columns=SCORE_COLUMNS).astype({"n_asked": "Int64"})


def verdicts(
    metrics: pd.DataFrame,
    kinds: Mapping[str, str],
    bootstrap_draws: int,
    seed: int,
    whole: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Whether each method beats the best of the baselines.

    ``difference`` is the method's mean minus that of the baseline with the best mean on the same conditions, turned
    so that a positive value means that the method is better, errors (``mse``) included.

    The choice of the best baseline on the same data is accounted for:

    - better than the best means better than each, so the p-value of "better" is the largest of the one-sided p-values
      against each baseline (intersection-union test; needs no correction);
    - worse than the best means worse than at least one, so the p-value of "worse" comes from the distribution of the
      largest statistic over all baselines (max-T), which corrects for looking at several;
    - the interval combines one-sided bounds of the same bootstrap as in :func:`scores` in the same way: its lower end
      is the lowest of the single lower bounds, its upper end the lowest of the simultaneous upper bounds.

    Both tests flip the signs of the paired differences, the same way for all baselines: all sign patterns up to
    ``EXACT_UP_TO`` conditions, ``SIGN_FLIPS`` seeded ones above. The two-sided p-value is twice the smaller one,
    corrected by Holm over the methods compared on the same data set, split, context and metric.

    ``verdict`` is ``better`` or ``worse`` at a corrected p-value of 0.05 or less, else ``indistinguishable``. It is
    ``data cannot tell`` when ceiling and floor were run and the ceiling (``technical-duplicate``) is not above the
    floor (``shuffled``) by the same test: by this metric, a second sample of the same cells says no more of a response
    than other perturbations do. It is ``too few perturbations`` where there are so few conditions that no differences
    could give a p-value of 0.05 (5 for one method, 6 for two).

    Parameters
    ----------
    metrics, bootstrap_draws, seed, whole
        As in :func:`scores`.
    kinds
        The kind of every method, by its name; the registry of methods says which judge and which are judged.
    """
    rows = []
    for (dataset, split, context, metric), values in _blocks(metrics, kinds, whole):
        drawn_for = dataset, split, context
        judges = [name for name in values if group_of(kinds[name]).judges]
        judged = [name for name in values if group_of(kinds[name]).is_judged]
        if not judges or not judged:
            continue
        oriented = values if metric_of(metric).higher_is_better else -values
        signs = _sign_patterns(len(values), seed, *drawn_for)
        resamples = _resamples(len(values), bootstrap_draws, seed, *drawn_for)
        undecided = None
        if smallest_p_value(len(values), len(judged)) > SIGNIFICANCE:
            undecided = "too few perturbations"
        elif not _ceiling_above_floor(oriented, kinds, seed, *drawn_for):
            undecided = "data cannot tell"
        block = []
        for method in judged:
            differences = oriented[[method]].to_numpy() - oriented[judges].to_numpy()
            best = int(np.argmin(differences.mean(axis=0)))
            better, worse = _p_values(differences, signs)
            low, high = _interval_of_lowest(differences, resamples)
            block.append(
                {
                    "dataset": dataset,
                    "split": split,
                    "context": context,
                    "method": method,
                    "metric": metric,
                    "best_baseline": judges[best],
                    "difference": differences.mean(axis=0)[best],
                    "ci_low": low,
                    "ci_high": high,
                    "n_conditions": len(values),
                    "p_value": min(1.0, 2 * min(better, worse)),
                }
            )
        for row, p_value in zip(block, holm([row["p_value"] for row in block]), strict=True):
            row["p_value"] = p_value
            row["verdict"] = undecided or _verdict(row["difference"], p_value)
        rows += block
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def smallest_p_value(n_conditions: Any, n_methods: Any) -> Any:
    """The smallest p-value that :func:`verdicts` can give one of ``n_methods``: numbers or arrays.

    It is 2 / number of sign patterns times the number of methods compared (Holm).
    """
    enumerated = 2.0 ** np.minimum(n_conditions, EXACT_UP_TO)
    return 2 * n_methods / np.where(np.asarray(n_conditions) <= EXACT_UP_TO, enumerated, SIGN_FLIPS + 1)


def fewest_conditions(n_methods: int) -> int | None:
    """How many test conditions a verdict on ``n_methods`` methods takes at least; None where no number is enough."""
    numbers = range(1, EXACT_UP_TO + 2)  # beyond, more conditions give no smaller p-value
    return next((n for n in numbers if smallest_p_value(n, n_methods) <= SIGNIFICANCE), None)


def at_smallest_p_value(verdicts: pd.DataFrame) -> pd.Series:
    """Say of every row of ``verdicts.tsv`` whether its p-value is the smallest that there can be.

    It is shown as "at most": where patterns are drawn, none was as extreme as the data, and the p-value of all patterns
    may be lower.
    """
    compared = verdicts.groupby(["dataset", "split", "context", "metric"])["method"].transform("size")
    smallest = smallest_p_value(verdicts["n_conditions"], compared)
    return (smallest < 1) & (verdicts["p_value"] <= smallest * (1 + 1e-9))


def of_reliable(metrics: pd.DataFrame, cards: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Keep the rows of the input table whose condition has a reliable response (``card.json``, one a data set)."""
    reliable = {
        (card["dataset"], row["perturbation"], row["context"])
        for card in cards
        for row in card["conditions"]
        if row["reliable"]
    }
    keys = zip(metrics["dataset"], metrics["perturbation"], metrics["context"], strict=True)
    return metrics[[key in reliable for key in keys]]


def with_and_without(
    scores: pd.DataFrame, verdicts: pd.DataFrame, reliable_scores: pd.DataFrame, reliable_verdicts: pd.DataFrame
) -> pd.DataFrame:
    """Set scores and verdicts over all test conditions beside those over the reliable ones.

    Returns
    -------
    Columns ``RELIABLE_COLUMNS``; those that begin with ``reliable_`` are missing where a split (or a context in it) has
    no reliable test condition, verdicts where a method is not judged.
    """
    sides = []
    for means, judged in ((scores, verdicts), (reliable_scores, reliable_verdicts)):
        values = means[[*KEY, "n_conditions", "mean", "ci_low", "ci_high"]]
        sides.append(values.merge(judged[[*KEY, "verdict"]], on=KEY, how="left"))
    renamed = sides[1].rename(columns={name: f"reliable_{name}" for name in sides[1].columns if name not in KEY})
    table = sides[0].merge(renamed, on=KEY, how="left")
    return table[RELIABLE_COLUMNS].astype({"reliable_n_conditions": "Int64"})


def _of_kind(values: pd.DataFrame, kinds: Mapping[str, str], kind: str) -> list[str]:
    return [name for name in values if kinds[name] == kind]


def _verdict(difference: float, p_value: float) -> str:
    if p_value > SIGNIFICANCE:
        return "indistinguishable"
    return "better" if difference > 0 else "worse"


def _blocks(
    metrics: pd.DataFrame, kinds: Mapping[str, str], whole: pd.DataFrame | None = None
) -> Iterator[tuple[tuple[str, str, str, str], pd.DataFrame]]:
    """Each (data set, split, context, metric) with its table [conditions x methods], averaged over seeds and splits.

    Sorted by condition, so that no result depends on the order of the rows; methods keep the order of the input.
    Conditions that a scorer leaves out for one method are left out for all, so that all are compared on the same ones;
    a metric without any that all methods have gives no table. Benchmark controls are not compared: values that they
    lack are missing, since a scorer may have none for the ceiling, whose reference is half of the cells.
    """
    whole = metrics if whole is None else whole
    for dataset, table in metrics.groupby("dataset", sort=False):
        known = whole[whole["dataset"] == dataset]
        splits = list(table.groupby("split", sort=False))
        for split, of_split in [*splits, (ALL_SPLITS, table)] if len(known["split"].unique()) > 1 else splits:
            several = len(known.loc[(known["split"] == split) | (split == ALL_SPLITS), "context"].unique()) > 1
            contexts = list(of_split.groupby("context", sort=False)) if several else []
            for context, part in [(CONTEXT, of_split), *contexts]:
                for metric, block in part.groupby("metric", sort=False):
                    values = _values(block, kinds)
                    if not values.empty:
                        yield (dataset, split, context, metric), values


def _values(block: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """One metric of one data set [conditions x methods]: see :func:`_blocks`."""
    values = block.pivot_table(index=["split", *CONDITION], columns="method", values="value", aggfunc="mean", sort=True)
    # A method that was not run on every split is compared where it was: on single splits.
    on_every_split = values.notna().groupby(level="split").any().all()
    order = [name for name in block["method"].unique() if on_every_split[name]]
    compared = [name for name in order if group_of(kinds[name]) != BENCHMARK_CONTROL]
    values = values[order].dropna(subset=compared).groupby(level=CONDITION).mean()
    values = values.dropna(axis="columns", how="all")
    values.attrs["n_asked"] = _n_asked(block, values) if "asked" in block else {}
    values.attrs["n_seeds"] = block.groupby("method")["seed"].nunique().to_dict()
    return values


def _n_asked(block: pd.DataFrame, values: pd.DataFrame) -> dict[str, int]:
    """How many of the conditions in ``values`` each method was asked about."""
    asked = block.pivot_table(index=CONDITION, columns="method", values="asked", aggfunc="min")
    return {method: int(asked[method].reindex(values[method].dropna().index).sum()) for method in values}


@lru_cache(maxsize=2)  # the same for all metrics of a data set, split and context, but for what a scorer leaves out
def _resamples(n: int, draws: int, seed: int, dataset: str, split: str, context: str) -> np.ndarray:
    """How often each of ``n`` rows is drawn [draws x rows] in bootstrap resamples.

    Over all conditions of several splits at once: within splits of few conditions, resamples vary too little (intervals
    of 12 splits of 2 would hold the true mean in 83 % of cases instead of 95).
    """
    drawn = random_generator(seed, "bootstrap", *_names(dataset, split, context)).integers(n, size=(draws, n))
    counts = np.zeros((draws, n))
    np.add.at(counts, (np.arange(draws)[:, None], drawn), 1.0)
    return counts


def _interval(values: np.ndarray, resamples: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` [rows]: expanded percentiles of the resampled means."""
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    tail = _expanded_tail(n)
    low, high = np.quantile(resamples @ values / n, [tail, 1 - tail])
    return float(low), float(high)


def _interval_of_lowest(values: np.ndarray, resamples: np.ndarray) -> tuple[float, float]:
    """95 % interval of the lowest column mean of ``values`` [rows x columns]; see :func:`verdicts`."""
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    tail = _expanded_tail(n)
    means = values.mean(axis=0)
    spread = values.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    deviations = (resamples @ values / n - means) / spread
    low = (means + np.quantile(deviations, tail, axis=0) * spread).min()
    high = (means + np.quantile(deviations.max(axis=1), 1 - tail) * spread).min()
    return float(low), float(high)


def _expanded_tail(n: int) -> float:
    """The share of resampled means to leave out on each side so that ``n`` normal values give 95 % coverage."""
    return float(special.ndtr(-np.sqrt(n / (n - 1)) * stats.t.ppf(1 - SIGNIFICANCE / 2, n - 1)))


def _fraction(mean: float, ceiling: float, higher: bool) -> float:
    if not ceiling > 0:
        return np.nan
    if higher:
        return mean / ceiling
    return ceiling / mean if mean > 0 else np.nan


def _names(dataset: str, split: str, context: str) -> tuple[str, ...]:
    return (dataset, split) if context == CONTEXT else (dataset, split, context)


@lru_cache(maxsize=2)
def _sign_patterns(n: int, seed: int, dataset: str, split: str, context: str) -> np.ndarray:
    """Signs [patterns x rows], the first row all +1 (the data as they are): every pattern, or a seeded sample."""
    if n <= EXACT_UP_TO:
        return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    drawn = random_generator(seed, "sign-flip", *_names(dataset, split, context)).integers(2, size=(SIGN_FLIPS, n))
    return np.concatenate([np.ones((1, n)), 1.0 - 2.0 * drawn])


def _p_values(differences: np.ndarray, signs: np.ndarray) -> tuple[float, float]:
    """One-sided p-values that the method is better than every baseline, and worse than the best one.

    ``differences`` [rows x baselines], positive where the method is better. The statistic is the mean divided by the
    root mean square, which no sign pattern changes, so that baselines of unequal noise count alike.
    """
    size = np.sqrt(np.square(differences).mean(axis=0))
    flipped = signs @ (differences / np.where(size > 0, size, 1.0)) / len(differences)
    margin = 1e-12  # patterns that tie with the data are counted in spite of rounding
    better = (flipped >= flipped[0] - margin).mean(axis=0).max()
    worst = flipped.min(axis=1)
    worse = (worst <= worst[0] + margin).mean()
    return float(better), float(worse)


def _ceiling_above_floor(oriented: pd.DataFrame, kinds: Mapping[str, str], seed: int, *drawn_for: str) -> bool:
    """Whether the ceiling beats the floor on the conditions that both have.

    True where either was not run, or where they share too few for any difference to show: nothing is then known against
    the ceiling.
    """
    ceiling, floor = _of_kind(oriented, kinds, CEILING), _of_kind(oriented, kinds, FLOOR)
    if not ceiling or not floor:
        return True
    differences = (oriented[ceiling].mean(axis=1) - oriented[floor].mean(axis=1)).dropna().to_numpy()
    signs = _sign_patterns(len(differences), seed, *drawn_for)
    return 1 / len(signs) > SIGNIFICANCE or _p_values(differences[:, None], signs)[0] <= SIGNIFICANCE


def holm(p_values: list[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down procedure, in the order given."""
    ordered = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[ordered] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[ordered] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
