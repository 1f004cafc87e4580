"""A finished run, and the facts about it that answers and warnings both need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition, labels_of
from scgpt_bench.evaluation.classes import CLASS_COLUMNS, COLUMNS
from scgpt_bench.evaluation.learning_curves import CROSSING_COLUMNS
from scgpt_bench.evaluation.verdicts import VERDICT_COLUMNS
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, Group, group_of


class Sentence(NamedTuple):
    """A sentence as data: the name of its macro in ``sentences.html``, and the values that the macro takes."""

    name: str
    values: dict[str, Any]


@dataclass(frozen=True)
class RecordedPrediction:
    """One prediction: its data set, its split, its method and the method's record."""

    dataset: str
    split: str
    method: str
    record: MethodRecord


@dataclass(frozen=True)
class Run:
    """Tables and records of a run.

    Attributes
    ----------
    scores, verdicts, contrasts
        ``scores.tsv``, ``verdicts.tsv`` and ``contrasts.tsv``.
    kinds
        The kind of every method.
    checkpoints
        ``source`` of every checkpoint.
    generated
        Options of the data sets that were generated here.
    predictions
        Of all methods, the first seed.
    published
        Options of the published fine-tuning recipe with their values.
    cards
        ``card.json`` of each data set.
    scores_by_class
        ``scores_by_class.tsv``.
    classes
        The class of every test condition (:func:`scgpt_bench.evaluation.classes.gather_classes`).
    pooled
        The splits that answer one question, by the name under which they are pooled.
    lists
        Names of the lists of perturbations that nobody measured.
    cost
        ``cost.tsv``.
    crossings
        ``crossings.tsv``, where there are learning curves.
    margin
        The difference in skill that counts as none.
    series
        The series of every data set, or those of its parts: data sets of one series share cells.
    """

    scores: pd.DataFrame
    verdicts: pd.DataFrame
    kinds: Mapping[str, str]
    checkpoints: Mapping[str, str]
    generated: Mapping[str, Mapping[str, Any]]
    predictions: Sequence[RecordedPrediction]
    published: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scores_by_class: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    classes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CLASS_COLUMNS))
    contrasts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=VERDICT_COLUMNS))
    pooled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lists: Sequence[str] = ()
    cost: pd.DataFrame = field(default_factory=pd.DataFrame)
    crossings: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CROSSING_COLUMNS))
    margin: float = 0.05
    series: Mapping[str, Collection[str]] = field(default_factory=dict)

    def group(self, method: str) -> Group:
        """Return the group of a method."""
        return group_of(self.kinds[method])

    def questions(self, dataset: str) -> dict[str, list[str]]:
        """List the splits that have an answer each, with those that they pool; what is not pooled is alone."""
        splits = self.scores.loc[self.scores["dataset"] == dataset, "split"].unique()
        pooled = {
            name: [split for split in splits if split in members]
            for name, members in self.pooled.items()
            if name in splits
        }
        of_pooled = {split for members in pooled.values() for split in members}
        return pooled | {split: [split] for split in splits if split not in {*pooled, *of_pooled}}

    def without_pretraining(self) -> set[str]:
        """List the methods that use scGPT with random weights, or train it from random weights."""
        found = set()
        for made in self.predictions:
            weights, scgpt = made.record.weights, made.record.scgpt
            if weights and not (weights.checkpoint_pretrained and (scgpt is None or scgpt.load_report.n_pretrained)):
                found.add(made.method)
        return found

    def copies(self, dataset: str, split: str) -> list[list[str]]:
        """Group the methods that have the same scores in every metric; benchmark controls are left out."""
        scores = self.scores[(self.scores["dataset"] == dataset) & (self.scores["split"] == split)]
        scores = scores[scores["context"] == ALL_CONTEXTS]
        table = scores.pivot_table(index="metric", columns="method", values="mean", sort=False)
        left = [name for name in scores["method"].unique() if self.group(name) != BENCHMARK_CONTROL]
        groups = []
        while left:
            equal = np.isclose(table[left].T, table[left[0]], rtol=1e-6, atol=1e-9, equal_nan=True).all(axis=1)
            groups.append([name for name, is_equal in zip(left, equal, strict=True) if is_equal or name == left[0]])
            left = [name for name in left if name not in groups[-1]]
        return [group for group in groups if len(group) > 1]

    def unreliable(self, dataset: str, splits: Collection[str] | None = None) -> tuple[list[str], list[str]]:
        """List the test conditions of splits (None: of all), and those of unreliable response.

        Where nothing is known of splits, the conditions are those of the whole card.
        """
        card = labelled(self.cards[dataset]) if dataset in self.cards else {}
        classes = self.classes[self.classes["dataset"] == dataset]
        tested = set(labels_of(classes if splits is None else classes[classes["split"].isin(splits)]))
        here = {label: entry for label, entry in card.items() if not tested or label in tested}
        return list(here), [label for label, entry in here.items() if entry["reliable"] is False]  # None is unknown


def labelled(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Index the conditions of a data card by their labels."""
    return {Condition(entry["perturbation"], entry["context"]).label: entry for entry in card["conditions"]}


def grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """List the names that share a key, each once; keys and names in the order of ``pairs``."""
    found: dict[Any, dict[Any, None]] = {}
    for key, name in pairs:
        found.setdefault(key, {})[name] = None
    return {key: list(names) for key, names in found.items()}


def without_token(record: MethodRecord) -> Sequence[str]:
    """List the perturbations that fine-tuning could not use, for want of a token."""
    return record.finetuning.perturbations_without_token if record.finetuning else ()


def methods_by_names(run: Run, names_of: Callable[[MethodRecord], Iterable[Any]]) -> dict[tuple, list[str]]:
    """Group methods by data set and by the names that their records give there; methods without a name are left out."""
    named = grouped(((made.dataset, made.method), name) for made in run.predictions for name in names_of(made.record))
    return grouped(((dataset, tuple(names)), method) for (dataset, method), names in named.items())
