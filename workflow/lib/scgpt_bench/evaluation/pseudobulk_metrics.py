"""Metrics of pseudo-bulks: functions of :class:`Means`, one value per condition.

What each is called, means and is compared with stands in :data:`scgpt_bench.evaluation.metrics.METRICS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import distance

# Predicted cells are float32, so a mean that did not change differs from the control mean by rounding. A vector whose
# root mean square is below this share of that of the means it was computed from is taken for zero.
ROUNDING = 4 * float(np.finfo(np.float32).eps)

Values = tuple[np.ndarray, np.ndarray]  # one value per condition, and why it is a convention (empty where it is not)


@dataclass(frozen=True)
class Means:
    """What metrics compare: float64 [conditions x genes] each.

    ``full_truth`` differs from ``truth`` only for a technical duplicate, which is scored against half of the cells, and
    not on the genes that this half has chosen. ``targets`` are the columns of each condition's own genes; a gene set
    has other columns, and none are given there.
    """

    prediction: np.ndarray
    truth: np.ndarray
    control: np.ndarray
    centroid: np.ndarray
    full_truth: np.ndarray
    targets: Sequence[np.ndarray]

    def of_genes(self, rows: np.ndarray, columns: np.ndarray) -> Means:
        """Select conditions [rows] and their gene sets [rows x genes of the set]."""
        return Means(**{name: matrix[rows[:, None], columns] for name, matrix in self._matrices()}, targets=())

    def of_conditions(self, rows: np.ndarray) -> Means:
        """Select conditions [rows], with all genes."""
        targets = [self.targets[row] for row in rows]
        return Means(**{name: matrix[rows] for name, matrix in self._matrices()}, targets=targets)

    def _matrices(self) -> list[tuple[str, np.ndarray]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "targets"]


def pearson(means: Means) -> Values:
    """Correlate the mean vectors."""
    return _correlation(means.prediction, means.truth, means, "variance", centre=True)


def mse(means: Means) -> Values:
    """Average the squared differences of the mean vectors over genes."""
    return _always(np.square(means.prediction - means.truth).mean(axis=1))


def mae(means: Means) -> Values:
    """Average the absolute differences of the mean vectors over genes."""
    return _always(np.abs(means.prediction - means.truth).mean(axis=1))


def pearson_delta(means: Means) -> Values:
    """Correlate the changes from the matched control mean, the same on both sides."""
    reference = means.control
    return _correlation(means.prediction - reference, means.truth - reference, means, "variance", centre=True)


def pearson_delta_centroid(means: Means) -> Values:
    """Correlate the changes from the centroid of the training perturbations, without the shift that all share."""
    reference = means.centroid
    return _correlation(means.prediction - reference, means.truth - reference, means, "variance", centre=True)


def cosine_delta(means: Means) -> Values:
    """Compute the cosine of the changes from control."""
    reference = means.control
    return _correlation(means.prediction - reference, means.truth - reference, means, "change", centre=False)


def r2_delta(means: Means) -> Values:
    """Compute 1 - sum of squared errors / sum of squares of the true changes around their mean over genes."""
    change = means.full_truth - means.control
    change = change - change.mean(axis=1, keepdims=True)
    flat = _is_zero(change, means.truth)
    errors = np.square(means.prediction - means.truth).sum(axis=1)
    values = 1 - errors / np.where(flat, 1.0, np.square(change).sum(axis=1))
    return np.where(flat, 0.0, values), np.where(flat, "truth has no variance", "")


def sign_agreement(means: Means) -> Values:
    """Count the genes predicted to change in the true direction, as a share of those with a true change.

    No predicted change counts as a half, as a coin would.
    """
    predicted, true = means.prediction - means.control, means.truth - means.control
    changes = true != 0
    still = np.abs(predicted) <= ROUNDING * np.abs(means.prediction)
    agreement = np.where(still, 0.5, np.sign(predicted) == np.sign(true))
    n = changes.sum(axis=1)
    values = (agreement * changes).sum(axis=1) / np.maximum(n, 1)
    return np.where(n > 0, values, 0.0), np.where(n > 0, "", "truth has no change")


def discrimination_l1(means: Means) -> Values:
    """Rank a condition's own true change by L1 distance from its predicted change among those of all conditions.

    1 - (number nearer) / n, ties as halves, without the targets of the predicted condition.
    """
    predicted, true = means.prediction - means.control, means.truth - means.control
    distances = distance.cdist(predicted, true, "cityblock")
    for row, columns in zip(range(len(distances)), means.targets, strict=True):
        distances[row] -= np.abs(predicted[row, columns] - true[:, columns]).sum(axis=1)
    n = len(distances)
    own = np.diagonal(distances)[:, None]
    nearer = (distances < own).sum(axis=1) + ((distances == own).sum(axis=1) - 1) / 2
    return 1 - nearer / n, np.full(n, "a single test perturbation" if n == 1 else "")


def squared_error_at_full_depth(values: np.ndarray) -> np.ndarray:
    """Halve it: so do twice the cells on both sides."""
    return values / 2


def absolute_error_at_full_depth(values: np.ndarray) -> np.ndarray:
    """Divide it by the square root of 2: so does half the squared error, of normal noise."""
    return values / np.sqrt(2)


def r2_at_full_depth(values: np.ndarray) -> np.ndarray:
    """Halve the squared error of the same true changes."""
    return 1 - (1 - values) / 2


def correlation_at_full_depth(values: np.ndarray) -> np.ndarray:
    """Use the Spearman-Brown formula, the same for both signs: noise around 0 would else have a mean above 0."""
    return 2 * values / (1 + np.abs(values))


def _always(values: np.ndarray) -> Values:
    return values, np.full(len(values), "")


def _correlation(prediction: np.ndarray, truth: np.ndarray, means: Means, missing: str, centre: bool) -> Values:
    """Cosine per row, after centring where asked for; 0, with the reason, where a side is zero up to rounding."""
    if centre:
        prediction = prediction - prediction.mean(axis=1, keepdims=True)
        truth = truth - truth.mean(axis=1, keepdims=True)
    no_prediction, no_truth = _is_zero(prediction, means.prediction), _is_zero(truth, means.truth)
    undefined = no_prediction | no_truth
    norms = np.sqrt(np.square(prediction).sum(axis=1) * np.square(truth).sum(axis=1))
    values = np.where(undefined, 0.0, (prediction * truth).sum(axis=1) / np.where(undefined, 1.0, norms))
    reasons = np.select(
        [no_prediction & no_truth, no_prediction, no_truth],
        [f"prediction and truth have no {missing}", f"prediction has no {missing}", f"truth has no {missing}"],
        "",
    )
    return values, reasons


def _is_zero(vectors: np.ndarray, computed_from: np.ndarray) -> np.ndarray:
    return _root_mean_square(vectors) <= ROUNDING * _root_mean_square(computed_from)


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(values).mean(axis=1))
