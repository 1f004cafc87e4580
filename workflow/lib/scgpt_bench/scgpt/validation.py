"""Validation of a fine-tuning: what its model scores on the validation perturbations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

from scgpt_bench.data.controls import matched_control_mean, type_weights
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.names import CONTROL
from scgpt_bench.scgpt import model
from scgpt_bench.scgpt.recipe import Options
from scgpt_bench.scgpt.training_set import TrainingSet
from scgpt_bench.seeding import random_generator


class Validation:
    """Score a model on the validation perturbations, by means over drawn control cells.

    As in the evaluation, a perturbation is compared with the control cells of its own cell types, and the mean of each
    type counts as that type does among its cells, however many control cells were drawn.
    """

    def __init__(self, training_set: TrainingSet, options: Options, seed: int):
        cells, self.perturbations = training_set.cells, training_set.validation
        self.values, self.encoding, self.batch_size = cells.X, training_set.encoding, options.batch_size
        perturbation, self.cell_type = (
            cells.obs[column].astype(str).to_numpy() for column in ("perturbation", "cell_type")
        )
        self.controls = {
            name: _matched_controls(perturbation, self.cell_type, name, options.validation_cells, seed)
            for name in self.perturbations
        }
        self.control_mean = dict(zip(self.perturbations, matched_control_mean(cells, self.perturbations), strict=True))
        self.truth = {
            name: np.asarray(cells.X[perturbation == name].mean(axis=0)).ravel() for name in self.perturbations
        }

    def __call__(self, generator: nn.Module) -> dict[str, float]:
        """Return the mean ``pearson``, ``pearson_delta`` and ``validation_mse`` of a model in evaluation mode."""
        scores = []
        for name in self.perturbations:
            mean, truth, control_mean = self._predict(generator, name), self.truth[name], self.control_mean[name]
            scores.append(
                {
                    "pearson": _pearson(mean, truth),
                    "pearson_delta": _pearson(mean - control_mean, truth - control_mean),
                    "validation_mse": float(np.square(mean - truth).mean()),
                }
            )
        return pd.DataFrame(scores).mean().to_dict()

    def _predict(self, generator: nn.Module, name: str) -> np.ndarray:
        """Predict the mean cell (n_genes,) of a perturbation."""
        device = next(generator.parameters()).device
        rows, shares = self.controls[name]
        values = self.values[rows].toarray()
        columns, batches = np.arange(values.shape[1]), []
        for start in range(0, len(values), self.batch_size):
            part = values[start : start + self.batch_size]
            inputs = self.encoding.inputs(part, [name] * len(part), columns)
            inputs = {key: tensor.to(device) for key, tensor in inputs.items()}
            batches.append(model.expression(generator, inputs)[:, : len(columns)].cpu())
        return mean_cell(torch.cat(batches).numpy(), type_weights(self.cell_type[rows], shares))


def _matched_controls(
    perturbation: np.ndarray, cell_type: np.ndarray, name: str, number: int, seed: int
) -> tuple[np.ndarray, pd.Series]:
    """Draw ``number`` control cells (or all) of a perturbation's cell types; return rows and its share of each type.

    As near to these shares as the control cells allow, but at least one of every type.
    """
    shares = pd.Series(cell_type[perturbation == name]).value_counts(normalize=True)
    rows = np.flatnonzero((perturbation == CONTROL) & np.isin(cell_type, shares.index))
    rows = random_generator(seed, "fine-tuning", "validation", name).permutation(rows)
    types = pd.Series(cell_type[rows])
    turn = types.groupby(types).cumcount() / types.map(shares)  # who comes when (Adams: the first of each type first)
    return np.sort(rows[np.argsort(turn, kind="stable")[: max(number, len(shares))]]), shares


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Pearson correlation; 0 where one side has no variance."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
