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

SUM_ROUNDING = 1e-11  # of sums over genes in float64, as a share of what is summed

LINE_UP = 20  # conditions among which a predicted change is to find its own
ALONE = "a single condition in its context"
AMONG_ALL = "among all"  # a line-up of fewer than LINE_UP

Values = tuple[np.ndarray, np.ndarray]  # one value per condition, and why it is a convention (empty where it is not)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Measured changes of all conditions of a context, among which a predicted change is to find its own.

    Attributes
    ----------
    changes
        float64 [candidates x genes], from the reference of the half ``truth``.
    targets
        Columns of each candidate's own genes.
    own
        The candidate that each predicted condition is.
    """

    changes: np.ndarray
    targets: Sequence[np.ndarray]
    own: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Means:
    """What metrics compare: float64 [conditions x genes] each.

    Attributes
    ----------
    prediction, truth
        Predicted and measured means.
    control, centroid
        References that published metrics subtract from both sides.
    predicted_from, measured_from
        What the predicted and the measured change are counted from: means of disjoint control cells.
    variance
        Sampling variance of the measured change; NaN where it is not known.
    full_truth
        Differs from ``truth`` only for a technical duplicate, which is scored against half of the cells, and not on the
        genes that this half has chosen.
    targets
        Columns of each condition's own genes; a gene set has other columns, and none are given there.
    candidates
        Given to metrics that compare conditions with one another.
    """

    prediction: np.ndarray
    truth: np.ndarray
    control: np.ndarray
    centroid: np.ndarray
    predicted_from: np.ndarray
    measured_from: np.ndarray
    variance: np.ndarray
    full_truth: np.ndarray
    targets: Sequence[np.ndarray] = ()
    candidates: Candidates | None = None

    @property
    def predicted_change(self) -> np.ndarray:
        """Count the predicted change from the control cells that methods are given."""
        return self.prediction - self.predicted_from

    @property
    def measured_change(self) -> np.ndarray:
        """Count the measured change from other control cells than the predicted one."""
        return self.truth - self.measured_from

    def of_genes(self, rows: np.ndarray, columns: np.ndarray) -> Means:
        """Select conditions [rows] and their gene sets [rows x genes of the set]."""
        return Means(**{name: matrix[rows[:, None], columns] for name, matrix in self._matrices()})

    def of_conditions(self, rows: np.ndarray, candidates: Candidates) -> Means:
        """Select conditions [rows], with all genes, and say among which others they are."""
        targets = [self.targets[row] for row in rows]
        matrices = {name: matrix[rows] for name, matrix in self._matrices()}
        return Means(**matrices, targets=targets, candidates=candidates)

    def _matrices(self) -> list[tuple[str, np.ndarray]]:
        names = [field.name for field in fields(self) if field.name not in ("targets", "candidates")]
        return [(name, getattr(self, name)) for name in names]


def effect_pearson(means: Means) -> Values:
    """Correlate the predicted with the measured change, each from control cells of its own."""
    return _correlation(means.predicted_change, means.measured_change, means, "variance", centre=True)


def specific_pearson(means: Means) -> Values:
    """Correlate what of both changes is specific: what the mean change in training, times any number, leaves.

    Predicting no change, or any multiple of that mean, gives 0.
    """
    common = common_directions(means.centroid - means.control, means.control)
    predicted = without_directions(means.predicted_change, common)
    measured = without_directions(means.measured_change, common)
    return _correlation(predicted, measured, means, "specific change", centre=False)


def common_directions(shift: np.ndarray, computed_from: np.ndarray) -> np.ndarray:
    """Give orthonormal directions that no condition has to itself: all genes alike, and the common shift.

    Parameters
    ----------
    shift
        float64 [conditions x genes].
    computed_from
        Means that it was computed from, which tell it from rounding.

    Returns
    -------
    float64 [conditions x 2 x genes]; the second is 0 where there is no common shift.
    """
    centred = shift - shift.mean(axis=1, keepdims=True)
    centred[_is_zero(centred, computed_from)] = 0
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    alike = np.full(shift.shape, 1 / np.sqrt(max(shift.shape[1], 1)))
    return np.stack([alike, centred / np.where(norms == 0, 1.0, norms)], axis=1)


def without_directions(changes: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Project orthonormal ``directions`` [conditions x directions x genes] out of ``changes`` [conditions x genes].

    A change along them leaves exactly 0.
    """
    left = changes - np.einsum("cd,cdg->cg", np.einsum("cg,cdg->cd", changes, directions), directions)
    left[_root_mean_square(left) <= SUM_ROUNDING * _root_mean_square(changes)] = 0
    return left


def mse_unbiased(means: Means) -> Values:
    """Average the squared error of the change over genes, without the part that the noise of the truth has in it.

    The sampling variance of the measured change is subtracted: the expectation is the squared distance from the true
    change, and a value can be negative. Where it is not known, of a single cell, nothing is subtracted.
    """
    errors = np.square(means.predicted_change - means.measured_change).mean(axis=1)
    noise = means.variance.mean(axis=1)
    known = np.isfinite(noise)
    reasons = np.where(known, "", "sampling variance of the truth not known, not subtracted")
    return errors - np.where(known, noise, 0.0), reasons


def effect_covariance(means: Means) -> Values:
    """Average the product of the predicted and the measured change over genes, both around their means.

    The control cells of both sides are different ones, so that noise adds nothing to the expectation: of no change it
    is 0, of the true change its variance, and of a share of the true change the same share of it.
    """
    predicted, measured = means.predicted_change, means.measured_change
    centred = measured - measured.mean(axis=1, keepdims=True)
    return _always((predicted * centred).mean(axis=1))


def discrimination(means: Means) -> Values:
    """Return the share of the context's other conditions whose measured change is further off than the own.

    Distances are L1, from the predicted change. A pair of conditions is compared over the genes that are targets of
    neither, so that two conditions with the same prediction share one point between them. Ties count as halves.
    """
    further, n_others = _further_off(means)
    if n_others == 0:
        return np.full(len(further), 0.5), np.full(len(further), ALONE)
    return further / n_others, np.full(len(further), "")


def found_among_20(means: Means) -> Values:
    """Give the probability that the own measured change is the nearest among itself and 19 others drawn by chance.

    The others are conditions of the context, without replacement; distances are those of :func:`discrimination`. A tie
    counts as half an other that is further off.
    """
    further, n_others = _further_off(means)
    n, drawn = len(further), min(LINE_UP - 1, n_others)
    if drawn == 0:
        return np.full(n, 1 / LINE_UP), np.full(n, ALONE)
    left = np.arange(drawn)
    values = (np.maximum(further[:, None] - left, 0) / (n_others - left)).prod(axis=1)
    return values, np.full(n, "" if drawn == LINE_UP - 1 else f"{AMONG_ALL} {n_others + 1} conditions of its context")


def _further_off(means: Means) -> tuple[np.ndarray, int]:
    """Count the other conditions of the context that are further off than the own one, and the others in all."""
    candidates = means.candidates
    assert candidates is not None  # score gives them
    predicted, changes, own = means.predicted_change, candidates.changes, candidates.own
    others = distance.cdist(predicted, changes, "cityblock")
    rounding = SUM_ROUNDING * others
    errors = np.abs(predicted - changes[own])
    is_target = np.zeros(predicted.shape, dtype=bool)
    for row, columns in enumerate(means.targets):
        others[row] -= np.abs(predicted[row, columns] - changes[:, columns]).sum(axis=1)
        errors[row, columns], is_target[row, columns] = 0, True
    owns = np.repeat(errors.sum(axis=1)[:, None], len(changes), axis=1)
    for row, columns in enumerate(candidates.targets):
        left_out = np.abs(predicted[:, columns] - changes[row, columns])
        others[:, row] -= np.where(is_target[:, columns], 0.0, left_out).sum(axis=1)
        owns[:, row] -= errors[:, columns].sum(axis=1)
    further = np.where(np.abs(others - owns) <= rounding, 0.5, others > owns)
    further[np.arange(len(predicted)), own] = 0
    return further.sum(axis=1), len(changes) - 1


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
