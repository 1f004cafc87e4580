"""Validation of a fine-tuning: what its model scores on the validation conditions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, rows_of
from scgpt_bench.data.controls import type_weights
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.references import references
from scgpt_bench.options import Precision
from scgpt_bench.scgpt.encoding import flags_of
from scgpt_bench.scgpt.engine import Engine
from scgpt_bench.scgpt.model import TransformerGenerator
from scgpt_bench.scgpt.recipe import Recipe
from scgpt_bench.scgpt.training_set import TrainingSet
from scgpt_bench.seeding import random_generator


class Validation:
    """Score a model on the validation conditions, by means over drawn control cells.

    As in the evaluation, a condition is compared with the control cells of its context and cell types, and the mean of
    each type counts as that type does among its cells, however many control cells were drawn.
    """

    def __init__(self, training_set: TrainingSet, options: Recipe, seed: int, precision: Precision | None = None):
        self.precision = precision  # as predictions will have it
        cells, self.conditions = training_set.cells, training_set.validation
        self.values, self.encoding = cells.X, training_set.encoding
        self.cell_type, rows = cells.obs["cell_type"].astype(str).to_numpy(), rows_of(cells.obs)
        self.controls = {
            condition: _matched_controls(rows, self.cell_type, condition, options.validation_cells, seed)
            for condition in self.conditions
        }
        self.control_mean = dict(zip(self.conditions, references(cells, self.conditions, INPUT), strict=True))
        flags = flags_of(cells.obs, options.flag_direction)
        self.flags = {condition: flags[rows[condition]] for condition in self.conditions}
        self.truth = {c: np.asarray(cells.X[rows[c]].mean(axis=0)).ravel() for c in self.conditions}

    def __call__(self, generator: TransformerGenerator) -> dict[str, float]:
        """Return the mean ``pearson``, ``pearson_delta`` and ``validation_mse`` of a model in evaluation mode.

        It predicts as the tested conditions are predicted (:mod:`engine`), in batches that fit the memory.
        """
        engine = Engine(generator, self.encoding.token_ids, "all", self.encoding.n_bins, self.precision)
        scores = []
        for condition in self.conditions:
            mean, truth = self._predict(engine, condition), self.truth[condition]
            control_mean = self.control_mean[condition]
            scores.append(
                {
                    "pearson": _pearson(mean, truth),
                    "pearson_delta": _pearson(mean - control_mean, truth - control_mean),
                    "validation_mse": float(np.square(mean - truth).mean()),
                }
            )
        return pd.DataFrame(scores).mean().to_dict()

    def _predict(self, engine: Engine, condition: Condition) -> np.ndarray:
        """Predict the mean cell (n_genes,) of a condition."""
        rows, shares = self.controls[condition]
        targets, flag = self.encoding.targets[condition.perturbation], int(self.flags[condition][0])
        most = engine.cells_per_batch(self.values.shape[1] + len(targets.added))
        parts = (self.values[rows[start : start + most]] for start in range(0, len(rows), most))
        predicted = [engine.predict(part.toarray().astype(np.float32, copy=False), targets, flag) for part in parts]
        return mean_cell(np.concatenate(predicted), type_weights(self.cell_type[rows], shares))


def _matched_controls(
    rows_of_condition: Mapping[Condition, np.ndarray],
    cell_type: np.ndarray,
    condition: Condition,
    number: int,
    seed: int,
) -> tuple[np.ndarray, pd.Series]:
    """Draw ``number`` control cells (or all) of a condition's cell types; return rows and its share of each type.

    As near to these shares as the control cells allow, but at least one of every type.
    """
    shares = pd.Series(cell_type[rows_of_condition[condition]]).value_counts(normalize=True)
    rows = rows_of_condition[Condition(CONTROL, condition.context)]
    rows = rows[np.isin(cell_type[rows], shares.index)]
    rows = random_generator(seed, "fine-tuning", "validation", *condition.drawn_for).permutation(rows)
    types = pd.Series(cell_type[rows])
    turn = types.groupby(types).cumcount() / types.map(shares)  # who comes when (Adams: the first of each type first)
    return np.sort(rows[np.argsort(turn, kind="stable")[: max(number, len(shares))]]), shares


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Pearson correlation; 0 where one side has no variance."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
