"""What simple methods may learn from and predict, in one context: pseudo-bulks of perturbations that are not tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import CONTEXT, Condition, conditions_of
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import cells_of, condition_means
from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.data.references import References
from scgpt_bench.errors import InputError
from scgpt_bench.method_record import Chosen


@dataclass(frozen=True)
class TrainingData:
    """All that a method may learn from, of one context.

    Attributes
    ----------
    genes
        The genes of ``cells.h5ad``.
    controls
        All control cells of the half ``input``.
    perturbations
        Training and validation perturbations, sorted.
    means, shifts
        float64 [perturbations x genes]: mean over the cells, and the same minus the matched control mean.
    shifts_to_fit, shifts_to_judge
        The same minus the matched means of one half of these control cells, and of the other: in cross-validation, what
        is fitted and what it is judged by share no noise of a control mean.
    n_cells
        int64 [perturbations].
    """

    genes: pd.Index
    controls: anndata.AnnData
    perturbations: list[str]
    means: np.ndarray
    shifts: np.ndarray
    shifts_to_fit: np.ndarray
    shifts_to_judge: np.ndarray
    n_cells: np.ndarray

    def only(self, rows: np.ndarray) -> TrainingData:
        """Select perturbations to fit in cross-validation: their shifts are ``shifts_to_fit``."""
        names, shifts = [self.perturbations[row] for row in rows], self.shifts_to_fit[rows]
        nothing = shifts[:0]  # is judged by them
        means, n_cells = self.means[rows], self.n_cells[rows]
        return TrainingData(self.genes, self.controls, names, means, shifts, nothing, nothing, n_cells)

    def targets_of(self, perturbations: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Find the perturbations' own genes: rows and columns of [perturbations x genes]."""
        pairs = [(row, gene) for row, name in enumerate(perturbations) for gene in genes_of(name)]
        columns = self.genes.get_indexer([gene for _, gene in pairs])
        rows = np.array([row for row, _ in pairs], dtype=np.int64)
        return rows[columns >= 0], columns[columns >= 0]


@dataclass(frozen=True)
class ToPredict:
    """What a method may know of the perturbations to predict in a context: names, and the control means
    [perturbations x genes] that they are compared with, which depend on the cell types in which they were measured, not
    on what was measured.
    """

    perturbations: list[str]
    control_means: np.ndarray


@dataclass(frozen=True)
class Shifts:
    """Predicted change of the mean, float64 [perturbations x genes].

    ``fallbacks`` has, for each perturbation that the method could not be asked about, what it lacked of which target
    and what it predicts instead; ``chosen`` what was chosen by cross-validation, if anything was.
    """

    values: np.ndarray
    fallbacks: dict[str, tuple[str, str]] = field(default_factory=dict)
    chosen: Chosen | None = None


def learned_from(split: pd.DataFrame) -> list[Condition]:
    """List the conditions that simple methods learn from: those to train on, and those by which scGPT stops."""
    return conditions_of(split[split["role"].isin(["train", "validation"])])


def training_data(cells: anndata.AnnData, split: pd.DataFrame, context: str = CONTEXT) -> TrainingData:
    """Average the cells of the training and validation conditions of a context; of others only its controls count."""
    conditions = [c for c in learned_from(split) if c.context == context]
    if not conditions:
        found = "no perturbation with role 'train'" + ("" if context == CONTEXT else f" in context {context!r}")
        raise InputError("split.tsv", "role", found, "at least one to learn from")
    means, n_cells = condition_means(cells, conditions)
    references = References(cells, [INPUT])
    whole, to_fit, to_judge = (means - references.mean(conditions, INPUT + part) for part in ("", "_a", "_b"))
    controls = cells_of(cells, [Condition(CONTROL, context)], INPUT)
    names = [condition.perturbation for condition in conditions]
    return TrainingData(cells.var_names, controls, names, means, whole, to_fit, to_judge, n_cells)


def to_predict(controls: anndata.AnnData, context: str = CONTEXT) -> ToPredict:
    """List the test perturbations of a context, sorted, with their control means: those of ``controls.h5ad``."""
    means = {c.perturbation: mean for c, mean in control_means_of(controls).items() if c.context == context}
    return ToPredict([*means], np.array([*means.values()]))
