"""From metrics per condition to scores: a mean with an interval, and where it is between doing nothing and the truth.

The unit of uncertainty is the condition (a perturbation in a context) under a training seed: nothing is averaged before
:mod:`scgpt_bench.evaluation.paired_inference` has seen how it varies. Verdicts and contrasts start from the same
blocks: one metric of one data set, split and context [conditions x seeds] for every method.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition
from scgpt_bench.data.conditions import COLUMNS as CONDITION
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.control_blocks import WITHOUT
from scgpt_bench.evaluation.metrics import ERROR, HEADLINE, Metric, metric_of
from scgpt_bench.evaluation.paired_inference import SIGNIFICANCE, Comparison, Design, compare, design
from scgpt_bench.files import read_table
from scgpt_bench.method_record import read_record
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, group_of

SCORE_COLUMNS = [
    *("dataset", "split", "context", "method", "metric", "mean", "ci_low", "ci_high"),
    *("n_conditions", "n_asked", "n_seeds", "skill", "reason"),
]
KEY = ["dataset", "split", "context", "method", "metric"]  # of a row of scores.tsv and of verdicts.tsv

REFERENCE_SCORES = ["no_change", "noise_free", "own_half", "other_halves"]  # columns of reference_scores.tsv
_OF_PATH = ["dataset", "split", "method", "seed"]
_SIDE = ["n_conditions", "n_asked", "mean", "ci_low", "ci_high", "skill", "opponent", "verdict"]
RELIABLE_COLUMNS = [*KEY, *_SIDE, *(f"reliable_{name}" for name in _SIDE)]

NO_INTERVAL = "no interval: "  # how a reason begins
LEAK = "better than noise-free truth would score: a leak?"  # a reason
# What noise-free truth scores in the headline where noise is half of the measured variance. Below, it is not known well
# enough to say that a method is above it.
WELL_KNOWN = 0.7
ROUNDING = 1e-6  # relative; predictions are in single precision: scores that differ by less are the same


@dataclass(frozen=True, kw_only=True)
class ScoredStudy:
    """What scores, verdicts and contrasts are made of.

    Attributes
    ----------
    metrics
        ``dataset split method seed perturbation context metric value`` (:func:`gather`) and, where it is known,
        ``asked`` (:func:`with_asked`).
    kinds
        The kind of every method, by its name.
    references
        What :data:`REFERENCE_SCORES` score (:func:`gather_by_split` of ``reference_scores.tsv``).
    splits
        The role of every condition (:func:`gather_by_split` of ``split.tsv``).
    pooled
        The splits that answer one question, by the name under which they are pooled: the folds of one dealing (``all``)
        and splits that hold out one context each (any other name). All other splits are questions of their own.
    untrained
        Methods on a checkpoint of random weights: contrasts, no competitors.
    margin
        The difference in skill that counts as none.
    family
        The methods whose p-values are corrected together; None for all but ``untrained``.
    """

    metrics: pd.DataFrame
    kinds: Mapping[str, str]
    references: pd.DataFrame
    splits: pd.DataFrame
    control_blocks: pd.DataFrame = field(default_factory=lambda: gather((), ["metric", *WITHOUT]))
    pooled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    untrained: Sequence[str] = ()
    margin: float = 0.05
    family: Sequence[str] | None = None

    def holds_out_contexts(self, dataset: str, split: str) -> bool:
        """Return whether a split, or those that are pooled as it, hold out contexts.

        That of a file does, if most of what it tests is in contexts that it trains on no condition of.
        """
        if any(split == name or split in splits for name, splits in self.pooled.items() if name != ALL_SPLITS):
            return True
        roles = self.splits[(self.splits["dataset"] == dataset) & (self.splits["split"] == split)]
        trained = roles.loc[roles["role"] == "train", "context"].unique()
        tested = roles.loc[roles["role"] == "test", "context"]
        return len(trained) > 0 and bool((~tested.isin(trained)).mean() > 0.5)

    def corrects(self, method: str) -> bool:
        """Return whether a method competes: its p-value is corrected for the number of those."""
        return method not in self.untrained if self.family is None else method in self.family

    def of(self, metrics: pd.DataFrame) -> ScoredStudy:
        """Keep the rest with other metrics, such as a part of them."""
        return replace(self, metrics=metrics)

    @property
    def judging(self) -> ScoredStudy:
        """Keep the metrics that give verdicts."""
        names = [name for name in self.metrics["metric"].unique() if metric_of(name).judges]
        return self.of(self.metrics[self.metrics["metric"].isin(names)])


@dataclass(frozen=True, kw_only=True)
class Block:
    """One metric of one data set, split and context.

    Attributes
    ----------
    perturbations, contexts
        Of each condition, sorted.
    values
        By method [conditions x seeds]. Only those of benchmark controls can be missing.
    asked
        By method, which of its conditions it was asked about in every seed; empty where that is not known.
    no_change, noise_free
        What these score on each condition; missing where it is not known, for the ``reference_reason``.
    own_half, other_halves
        What half of a condition's cells scores against the other half, and what halves of other conditions do; missing
        where it is not known (:mod:`repeatability`).
    training
        For pooled folds the mean number of conditions that one trains on.
    holds_out_contexts
        Whether training had none of these contexts, or little of them: the answer is then about contexts too.
    without_blocks
        By method, where it is known, the values without each block of the control cells that the truth is counted from
        (:mod:`control_blocks`), means over seeds [conditions x blocks].
    """

    dataset: str
    split: str
    context: str
    metric: Metric
    perturbations: tuple[str, ...]
    contexts: tuple[str, ...]
    values: dict[str, np.ndarray]
    asked: dict[str, np.ndarray]
    no_change: np.ndarray
    noise_free: np.ndarray
    own_half: np.ndarray
    other_halves: np.ndarray
    reference_reason: str
    training: float | None
    holds_out_contexts: bool
    without_blocks: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, str]:
        """Name data set, split and context."""
        return self.dataset, self.split, self.context

    @property
    def sign(self) -> int:
        """Return what turns a value such that more is better."""
        return 1 if self.metric.higher_is_better else -1

    @property
    def n_asked(self) -> dict[str, int]:
        """Count the conditions that each method was asked about."""
        return {method: int(conditions.sum()) for method, conditions in self.asked.items()}

    def rows_of(self, *methods: str) -> np.ndarray:
        """Find the conditions on which all these methods have a value."""
        return np.logical_and.reduce([np.isfinite(self.values[method]).all(1) for method in methods])

    def design_of(self, rows: np.ndarray) -> Design:
        """Describe what is known of a mean over some of the conditions."""
        perturbations, contexts = (tuple(np.array(names)[rows]) for names in (self.perturbations, self.contexts))
        return design(perturbations, contexts if self.holds_out_contexts else ())

    def without_control_blocks(self, rows: np.ndarray, method: str, *opponents: str) -> np.ndarray | None:
        """Give the mean of a method, minus that of each opponent, without each block of control cells [blocks x K].

        Positive where the method is better. None where it is not known of all of them.
        """
        if any(name not in self.without_blocks for name in (method, *opponents)):
            return None
        own, *others = (self.sign * self.without_blocks[name][rows].mean(0) for name in (method, *opponents))
        return np.stack([own - other for other in others] if opponents else [own], axis=1)

    def skill(self, method: str) -> tuple[float, str]:
        """Place a method between no change (0) and noise-free truth (1) where both are known, or say why not."""
        length, reason = self.length(self.rows_of(method))
        rows = self.rows_of(method) & self._known
        if not np.isfinite(length):
            return np.nan, reason
        return float(self.sign * (self.values[method].mean(1) - self.no_change)[rows].mean() / length), reason

    def length(self, rows: np.ndarray) -> tuple[float, str]:
        """Measure the way from no change to noise-free truth in units of the metric, or say why there is none."""
        known = rows & self._known
        if not self.metric.has_skill:
            return np.nan, "no skill: not defined for this metric"
        if not known.any():
            return np.nan, f"no skill: {self.reference_reason or 'no score of noise-free truth is known'}"
        length = float(self.sign * (self.noise_free - self.no_change)[known].mean())
        if length <= ROUNDING * np.abs(self.noise_free[known]).max():
            return np.nan, "no skill: doing nothing scores as well as noise-free truth"
        partly = f"skill over {known.sum()} of {rows.sum()} conditions: {self.reference_reason}"
        return length, partly if known.sum() < rows.sum() else ""

    @cached_property
    def _known(self) -> np.ndarray:
        return np.isfinite(self.no_change) & np.isfinite(self.noise_free)


def read_study(files: Mapping[str, Sequence[str | Path]], settings: Mapping[str, Any]) -> ScoredStudy:
    """Read what a study is made of: the paths of its tables and, as ``records``, of each ``method.json``, by name.

    ``settings`` are the other attributes of :class:`ScoredStudy`.
    """
    return ScoredStudy(
        metrics=with_asked(gather(files["metrics"]), files["records"]),
        control_blocks=gather(files["control_blocks"], ["metric", *WITHOUT]),
        references=gather_by_split(files["references"]),
        splits=gather_by_split(files["splits"]),
        **settings,
    )


def gather(paths: Iterable[str | Path], columns: Sequence[str] = ("metric", "value", "reason")) -> pd.DataFrame:
    """Read tables ``.../<dataset>/<split>/<method>/<seed>/<file>`` into one, with those names as columns.

    Without a table, as in a study that scores nothing, it has these ``columns`` and no rows.
    """
    tables = [pd.DataFrame(columns=[*_OF_PATH, *CONDITION, *columns])]
    for path in paths:
        dataset, split, method, seed = Path(path).parts[-5:-1]
        table = read_table(path, dtype=dict.fromkeys(CONDITION, str))
        tables.append(table.assign(dataset=dataset, split=split, method=method, seed=int(seed)))
    filled = [table for table in tables if len(table)]  # an empty one, of what was not scored, has no types of its own
    return pd.concat(filled or tables, ignore_index=True)


def gather_by_split(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read tables ``.../<dataset>/<split>/<file>`` into one, with those names as columns; none make an empty one."""
    tables = []
    for path in paths:
        dataset, split = Path(path).parts[-3:-1]
        tables.append(read_table(path, dtype=dict.fromkeys(CONDITION, str)).assign(dataset=dataset, split=split))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["dataset", "split", *CONDITION])


def with_asked(metrics: pd.DataFrame, records: Iterable[str | Path]) -> pd.DataFrame:
    """Add the column ``asked``: whether the method was asked about the condition, as its ``method.json`` says."""
    rows = []
    for path in records:
        dataset, split, method, seed = Path(path).parts[-5:-1]
        rows += [(dataset, split, method, int(seed), *entry.condition) for entry in read_record(path).asked]
    key = [*_OF_PATH, *CONDITION]
    asked = pd.MultiIndex.from_tuples(rows, names=key)
    return metrics.assign(asked=pd.MultiIndex.from_frame(metrics[key]).isin(asked))


def scores(study: ScoredStudy, whole: pd.DataFrame | None = None) -> pd.DataFrame:
    """Average every metric over conditions and seeds, with a 95 % interval.

    The interval is that of :mod:`scgpt_bench.evaluation.paired_inference`, with 0 as the one opponent. It is empty
    where the conditions are too few for one. Rows with context ``all`` are over all conditions; where a data set has
    several contexts, others are over those of one. Rows with split ``all`` pool the folds of one dealing, those with
    ``contexts`` the splits that hold out one context each.

    ``n_asked`` of the ``n_conditions`` are those that the method was asked about in every seed; missing where the
    metrics do not say. The mean includes the others. ``skill`` is 0 for no change and 1 for what a prediction equal to
    the noise-free truth is expected to score, on the same conditions. ``reason`` says why a column is empty, and where
    a method scores above the noise-free truth by more than the margin: something may have leaked into its prediction.

    Parameters
    ----------
    whole
        The metrics of which those of ``study`` are a part, if they are: what splits and contexts there are is read
        there.

    Returns
    -------
    Table with the columns ``SCORE_COLUMNS``, in the order of the input's names.
    """
    rows = [_score(block, method, study) for block in blocks(study, whole) for method in block.values]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS).astype({"n_asked": "Int64"})


def _score(block: Block, method: str, study: ScoredStudy) -> dict[str, Any]:
    rows = block.rows_of(method)
    values = block.values[method][rows]
    known = block.design_of(rows)
    skill, reason = block.skill(method)
    low = high = np.nan
    if known.refusal:
        reason = "; ".join(filter(None, [NO_INTERVAL + known.refusal, reason]))
    else:
        is_control = group_of(study.kinds[method]) == BENCHMARK_CONTROL
        training, of_controls = None if is_control else block.training, block.without_control_blocks(rows, method)
        compared = compare(values[:, :, None], known, training, of_controls)
        low, high = compared.interval()
        below_noise = of_controls is not None and _below_noise(block, compared)
        if not is_control and (_above_truth(block, method, study.margin) or below_noise):
            reason = "; ".join(filter(None, [LEAK, reason]))
    return {
        **dict(zip(KEY, (*block.place, method, block.metric.name), strict=True)),
        "mean": values.mean(),
        "ci_low": low,
        "ci_high": high,
        "n_conditions": len(values),
        "n_asked": block.n_asked.get(method),
        "n_seeds": values.shape[1],
        "skill": skill,
        "reason": reason,
    }


def _above_truth(block: Block, method: str, margin: float) -> bool:
    """Whether a method scores above the noise-free truth by more than the margin, at 2.5 %: that one is an estimate."""
    if block.metric.name != HEADLINE:
        return False
    rows = block.rows_of(method) & np.isfinite(block.noise_free)
    known, (length, _) = block.design_of(rows), block.length(rows)
    if known.refusal or not np.isfinite(length) or block.noise_free[rows].mean() < WELL_KNOWN:
        return False
    above = differences(block.sign * block.values[method][rows], [block.sign * block.noise_free[rows, None]])
    compared = compare(above, known, block.training, block.without_control_blocks(rows, method))
    return compared.varies and compared.better(at=margin * length) <= SIGNIFICANCE / 2


def _below_noise(block: Block, compared: Comparison) -> bool:
    """Whether the error is less than the noise of the truth allows, at 0.5 %, also where that hides the response.

    The expected ``mse_unbiased`` of a prediction that has not seen the test cells is never below 0. To say so takes the
    noise of the control mean, which all conditions share.
    """
    return block.metric.name == ERROR and compared.varies and compared.interval(0.99)[1] < 0


def differences(method: np.ndarray, opponents: Sequence[np.ndarray]) -> np.ndarray:
    """Pair a method with its opponents, each [conditions x seeds]: differences [conditions x seeds x opponents].

    Seeds are paired in their order. What has a single one is compared with each; a method of one seed is compared with
    the mean of its opponent's. Differences of rounding are 0.
    """
    numbers = [values.shape[1] for values in opponents if values.shape[1] > 1]
    seeds = min(method.shape[1], *numbers) if numbers and method.shape[1] > 1 else method.shape[1]
    paired = [
        values[:, :seeds] if values.shape[1] >= seeds > 1 else values.mean(1, keepdims=True) for values in opponents
    ]
    found = np.stack([method[:, :seeds] - values for values in paired], axis=2)
    size = np.maximum(np.abs(method).max(), [np.abs(values).max() for values in paired])
    same = np.abs(found).max((0, 1)) <= ROUNDING * size
    return np.where(same, 0.0, found)


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
        values = means[[*KEY, *_SIDE[:-2]]]
        sides.append(values.merge(judged[[*KEY, "opponent", "verdict"]], on=KEY, how="left"))
    renamed = sides[1].rename(columns={name: f"reliable_{name}" for name in sides[1].columns if name not in KEY})
    table = sides[0].merge(renamed, on=KEY, how="left")
    return table[RELIABLE_COLUMNS].astype(
        dict.fromkeys(("reliable_n_conditions", "n_asked", "reliable_n_asked"), "Int64")
    )


def blocks(study: ScoredStudy, whole: pd.DataFrame | None = None) -> Iterator[Block]:
    """Yield each block of the study; see :func:`scores` for ``whole``.

    Sorted by condition, so that no result depends on the order of the rows; methods keep the order of the input.
    Conditions that a scorer leaves out for one method or seed are left out for all, so that all are compared on the
    same ones; a metric without any that all methods have gives no block. Benchmark controls are not compared: values
    that they lack are missing, since a scorer may have none for the ceiling, whose reference is half of the cells.
    """
    if study.metrics.empty:
        return
    whole = study.metrics if whole is None else whole
    references = dict(list(study.references.groupby(["dataset", "split", "metric"])))
    without_blocks = dict(list(study.control_blocks.groupby(["dataset", "metric"])))
    for dataset, table in study.metrics.groupby("dataset", sort=False):
        known = whole[whole["dataset"] == dataset]
        splits = {split: [split] for split in table["split"].unique()}
        for name, of_name in study.pooled.items():
            pooled = [split for split in of_name if (known["split"] == split).any()]
            if len(pooled) > 1 and table["split"].isin(pooled).any():
                splits[name] = pooled
        for split, members in splits.items():
            of_split, held_out = table[table["split"].isin(members)], study.holds_out_contexts(dataset, split)
            several = len(known.loc[known["split"].isin(members), "context"].unique()) > 1
            contexts = list(of_split.groupby("context", sort=False)) if several else []
            for context, part in [(ALL_CONTEXTS, of_split), *contexts]:
                training = None
                if split == ALL_SPLITS:
                    training = _training_conditions(study.splits, dataset, members, context)
                for metric, named, values, asked in _of_metrics(part, study.kinds):
                    competing = [method for method in values if group_of(study.kinds[method]) != BENCHMARK_CONTROL]
                    own = [references[key] for one in members if (key := (dataset, one, metric)) in references]
                    yield Block(
                        dataset=dataset,
                        split=split,
                        context=context,
                        metric=metric_of(metric),
                        perturbations=tuple(named.get_level_values(0)),
                        contexts=tuple(named.get_level_values(1)),
                        values=values,
                        asked=asked,
                        training=training,
                        holds_out_contexts=held_out,
                        without_blocks=_without_blocks(
                            without_blocks.get((dataset, metric)), members, named, competing
                        ),
                        **_on_conditions(own, named),
                    )


def _training_conditions(splits: pd.DataFrame, dataset: str, folds: Sequence[str], context: str) -> float:
    """Count the conditions that a fold trains on, in the mean; those of a context where one is given."""
    train = splits[(splits["dataset"] == dataset) & splits["split"].isin(folds) & (splits["role"] == "train")]
    if context != ALL_CONTEXTS:
        train = train[train["context"] == context]
    return max(len(train), 1) / len(folds)  # a fold of a context may train on none of it


def _without_blocks(
    table: pd.DataFrame | None, splits: Sequence[str], conditions: pd.MultiIndex, methods: Sequence[str]
) -> dict[str, np.ndarray]:
    """Find what competing methods score on these conditions without each block of control cells, or nothing at all.

    Raises
    ------
    InputError
        If it is known of some methods and conditions only: intervals would lack the noise of the control mean.
    """
    if table is None:
        return {}
    own = table[table["split"].isin(splits)].groupby(["method", *CONDITION], sort=False)[WITHOUT].mean()
    of_method = dict(list(own.groupby(level="method", sort=False)))
    found = {}
    for method in methods if of_method else ():
        part = of_method.get(method, own.iloc[:0]).droplevel("method").reindex(conditions)
        known = np.isfinite(part.to_numpy(float)).all(axis=1)
        if not known.all():
            where = f"{method}, {table['metric'].iloc[0]}, {Condition(*conditions[known.argmin()]).label}"
            raise InputError("control_blocks.tsv", where, "no value", "one for each that metrics.tsv has")
        found[method] = part.to_numpy(float)
    return found


def _on_conditions(tables: Sequence[pd.DataFrame], conditions: pd.MultiIndex) -> dict[str, Any]:
    """Find what the references score on these conditions, and why it is not known of some."""
    if not tables:
        return {**dict.fromkeys(REFERENCE_SCORES, np.full(len(conditions), np.nan)), "reference_reason": ""}
    table = pd.concat(tables).set_index(CONDITION).reindex(conditions)
    missing = table.loc[table[["no_change", "noise_free"]].isna().any(axis=1), "reason"].dropna()
    reason = "; ".join(missing[missing != ""].unique())
    return {**{name: table[name].to_numpy(float) for name in REFERENCE_SCORES}, "reference_reason": reason}


def _of_metrics(
    part: pd.DataFrame, kinds: Mapping[str, str]
) -> Iterator[tuple[str, pd.MultiIndex, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Each metric of one data set, split and context: name, conditions, values and what was asked."""
    rows, conditions = _codes(part[CONDITION], sort=True)
    columns, runs = _codes(part[["method", "seed"]], sort=False)
    splits, _ = _codes(part[["split"]], sort=False)
    split_of = np.zeros(len(conditions), dtype=int)
    split_of[rows] = splits
    value, told = part["value"].to_numpy(float), part["asked"].to_numpy(bool) if "asked" in part else None
    seeds_of: dict[str, list[int]] = {}
    for number, (method, _) in sorted(enumerate(runs), key=lambda run: run[1][1]):
        seeds_of.setdefault(method, []).append(number)
    order = list(dict.fromkeys(method for method, _ in runs))
    for metric, own in part.groupby("metric", sort=False).indices.items():
        table = np.full((len(conditions), len(runs)), np.nan)
        table[rows[own], columns[own]] = value[own]
        found = np.isfinite(table)
        # A method that was not run on every fold is compared where it was: on single ones.
        here = np.unique(split_of[found.any(1)])
        methods = [
            method
            for method in order
            if all(found[np.ix_(split_of == split, seeds_of[method])].any(0).all() for split in here)
        ]
        compared = [run for m in methods if group_of(kinds[m]) != BENCHMARK_CONTROL for run in seeds_of[m]]
        kept = found[:, compared].all(1) & found.any(1)
        values = {m: table[np.ix_(kept, seeds_of[m])] for m in methods if found[np.ix_(kept, seeds_of[m])].all(1).any()}
        asked = {}
        if told is not None:
            was = np.zeros(table.shape, dtype=bool)
            was[rows[own], columns[own]] = told[own]
            asked = {m: (was & found)[np.ix_(kept, seeds_of[m])].all(1) for m in values}
        if values:
            yield metric, conditions[kept], values, asked


def _codes(columns: pd.DataFrame, sort: bool) -> tuple[np.ndarray, pd.MultiIndex]:
    """Factorize the rows: the number of each row, and what has which number."""
    return pd.MultiIndex.from_frame(columns).factorize(sort=sort)
