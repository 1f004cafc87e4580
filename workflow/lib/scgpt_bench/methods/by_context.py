"""Fit a method in each context, and write what it predicts there: for every method that shifts control cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, contexts_of, directions_of
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.method_record import Chosen, Training
from scgpt_bench.methods.training_data import (
    Shifts,
    ToPredict,
    TrainingData,
    changes_of_cell_types,
    learned_from,
    of_contexts,
    to_predict,
)
from scgpt_bench.predictions import Write, shifted_controls

Method: TypeAlias = Callable[[TrainingData, ToPredict], Shifts]


def predict(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    controls: anndata.AnnData,
    method: Method,
    *,
    transfers: bool = False,
    learns: bool = True,
    by_cell_type: bool = False,
    write: Write,
) -> dict[str, Any]:
    """Fit a method in each context and write every drawn control cell as predicted, one condition at a time.

    Where nothing can be learned in any context, no change is predicted, and the record says so.

    Parameters
    ----------
    cells, split, controls
        ``cells.h5ad``, ``split.tsv``, ``controls.h5ad``; X of both may stay on disk.
    transfers
        Whether the method learns from other contexts, also where a context has enough of its own.
    learns
        Whether the method learns anything. One that does not has an answer where nothing was measured, too.
    by_cell_type
        Whether the method asks for the mean change of each cell type.
    write
        Is given the predicted cells of each condition, sorted (:func:`shifted_controls`).

    Returns
    -------
    Entries of the method record.
    """
    shifts: dict[Condition, np.ndarray] = {}
    fallbacks: dict[Condition, tuple[str, str]] = {}
    chosen: dict[str, Chosen] = {}
    tested = conditions_of(controls.obs)
    asked_for = dict(zip(tested, directions_of(controls.obs, tested), strict=True))
    contexts = contexts_of(controls.obs)
    training_of = of_contexts(cells, split, contexts, asked_for)
    if by_cell_type:
        of_types = changes_of_cell_types(cells, split, contexts)
        training_of = {name: replace(training, of_cell_types=of_types[name]) for name, training in training_of.items()}
    used: set[str] = set()
    for context, training in training_of.items():
        test = to_predict(controls, context)
        used |= {context, *(training.others if transfers or not training.is_own else ())}
        for name, learned, rows in _questions(context, training, test, transfers):
            asked = test.only(rows)
            found = method(learned, asked) if learned.perturbations or not learns else _nothing(asked)
            if found.chosen:
                chosen[name] = found.chosen
            conditions = [Condition(one, context) for one in asked.perturbations]
            shifts |= dict(zip(conditions, found.values, strict=True))
            fallbacks |= {Condition(one, context): fallback for one, fallback in found.fallbacks.items()}
    learned_of = [condition for condition in learned_from(split) if condition.context in used]
    n_cells = int((codes_of(cells.obs, learned_of) >= 0).sum())
    means = control_means_of(controls)
    changes = np.array([shifts[condition] for condition in means])
    shifted_controls(controls, [*means], np.array([*means.values()]), changes, write=write)
    return {
        "fallbacks": fallbacks,
        "training": Training(perturbations=len({c.perturbation for c in learned_of}), cells=n_cells),
        "chosen": chosen,
    }


def _questions(
    context: str, training: TrainingData, test: ToPredict, transfers: bool
) -> Iterator[tuple[str, TrainingData, np.ndarray]]:
    """Ask apart about perturbations that other contexts show and about others, where a method learns from those."""
    seen = training.is_seen(test.perturbations)
    if training.is_own and not transfers:
        yield context, training, np.arange(len(seen))
        return
    if seen.any():
        yield context, replace(training, asks_of_seen=True), np.flatnonzero(seen)
    if not seen.all():
        yield context + (", seen in no context" if seen.any() else ""), training, np.flatnonzero(~seen)


def _nothing(test: ToPredict) -> Shifts:
    reason = ("nothing to learn from, in any context, in this direction", "no change")
    return Shifts(np.zeros(test.control_means.shape), dict.fromkeys(test.perturbations, reason))
