"""Choice of what a simple method leaves open, by cross-validation over the perturbations that it learns from.

One criterion chooses what changes the direction of a prediction: the mean, over perturbations held out, of the Pearson
correlation of predicted and measured change over all genes but the perturbation's own targets, as in the headline
metric. What scales a prediction minimizes the squared error over the same genes. What is fitted and what it is judged
by are counted from disjoint control cells (:class:`scgpt_bench.methods.training_data.TrainingData`): with one control
mean for both, its noise would be worth predicting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from scgpt_bench.data.means import FEWEST
from scgpt_bench.data.names import genes_of
from scgpt_bench.method_record import Candidate, Chosen
from scgpt_bench.methods.training_data import Shifts, ToPredict, TrainingData
from scgpt_bench.seeding import stream_seed

FOLDS = 10
MEAN = "mean"  # of the changes of all perturbations that are learned from: what every prediction has in common
Options = tuple[tuple[str, Any], ...]  # name and value
Targets = tuple[np.ndarray, np.ndarray]  # rows and columns of the perturbations' own genes
Fold = tuple[np.ndarray, np.ndarray]  # rows of perturbations to fit, and to predict


@dataclass(frozen=True)
class Tunable:
    """A method whose options are open.

    Attributes
    ----------
    name
        Its name among others.
    grid
        The values to choose from, of every option. A single value is fixed.
    predict
        Fits once and predicts for every combination of the values: yields options and float64 [perturbations x genes].
    """

    name: str
    grid: Mapping[str, Sequence[Any]]
    predict: Callable[..., Iterator[tuple[Options, np.ndarray]]]

    @property
    def candidates(self) -> list[Options]:
        """List all combinations; of equally good ones the first is chosen."""
        return [tuple(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def fixed(self, options: Options) -> Tunable:
        """Leave nothing open."""
        return Tunable(self.name, {key: [value] for key, value in options}, self.predict)

    def values(self, training: TrainingData, test: ToPredict) -> np.ndarray:
        """Predict where nothing is open."""
        [(_, values)] = self.predict(training, test, **self.grid)
        return values


def listed(value: Any) -> Sequence[Any]:
    """List the candidates of an option: a number is the only one."""
    return value if isinstance(value, Sequence) else [value]


def folds(perturbations: Sequence[str], most: int = FOLDS) -> list[Fold]:
    """Deal perturbations into folds by hashes of their names.

    The question is that of the test: about a gene that was not perturbed, or about a combination. A single-gene
    perturbation is predicted from perturbations of other genes; a combination from all perturbations that are not in
    its fold, those of its own genes included.
    """
    genes = [set(genes_of(name)) for name in perturbations]
    found = []
    for is_single in (True, False):
        own = [row for row, targets in enumerate(genes) if (len(targets) == 1) == is_single]
        own.sort(key=lambda row: (stream_seed(0, "cross-validation", perturbations[row]), perturbations[row]))
        n_folds = min(most, len(own))
        for number in range(n_folds):
            judged = sorted(own[number::n_folds])
            unseen = set[str]().union(*(genes[row] for row in judged)) if is_single else set()
            fitted = [row for row, targets in enumerate(genes) if row not in judged and not targets & unseen]
            if fitted:
                found.append((np.array(fitted), np.array(judged)))
    return found


def tuned(members: Sequence[Tunable], training: TrainingData, test: ToPredict, scaled: bool = True) -> Shifts:
    """Choose the options of each member, fit it to all that there is to learn from, and predict.

    Parameters
    ----------
    members
        A method, or several that are put together.
    scaled
        Whether the prediction becomes ``a m + sum of b_i (f_i - m)``: ``m`` is the mean change of the perturbations
        that are learned from, ``f_i`` what the members predict, and ``a`` and ``b_i`` are weights from 0 to 1 with the
        least squared error. Otherwise that of the first member stays as it is.

    Returns
    -------
    Shifts, with what was chosen. Where fewer than ``FEWEST`` perturbations can be judged, nothing is: the first
    candidates are taken, and members count alike.
    """
    dealt = folds(training.perturbations)
    if sum(len(judged) for _, judged in dealt) < FEWEST:
        dealt = []
    tried, best = [], []
    for member in members:
        scores = _scores(member, training, dealt)
        tried += [Candidate(method=member.name, options=dict(each), score=score) for each, score in scores.items()]
        best.append(member.fixed(max(scores, key=scores.__getitem__, default=member.candidates[0])))
    predicted = [member.values(training, test) for member in best]
    values, weights = predicted[0], {}
    if scaled:
        found = _weights(best, training, dealt) if dealt else [1.0] + [1 / len(best)] * len(best)
        weights = dict(zip([MEAN, *(member.name for member in best)], map(float, found), strict=True))
        mean = training.shifts.mean(axis=0)
        parts = [weights[member.name] * (own - mean) for member, own in zip(best, predicted, strict=True)]
        values = weights[MEAN] * mean + sum(parts)
    options = {member.name: dict(member.candidates[0]) for member in best}
    return Shifts(values, chosen=Chosen(options=options, candidates=tuple(tried), weights=weights))


def _scores(member: Tunable, training: TrainingData, dealt: Sequence[Fold]) -> dict[Options, float]:
    """Score the candidates by mean correlation over the perturbations held out; none where nothing is open."""
    totals: dict[Options, float] = defaultdict(float)
    if len(member.candidates) == 1:
        return totals
    for fitted, test, targets, measured in _held_out(training, dealt):
        directions = unit(measured, targets)
        for options, values in member.predict(fitted, test, **member.grid):
            totals[options] += float(np.vdot(unit(values, targets), directions))
    n_judged = sum(len(judged) for _, judged in dealt)
    return {options: totals[options] / n_judged for options in member.candidates if options in totals}


def _weights(members: Sequence[Tunable], training: TrainingData, dealt: Sequence[Fold]) -> np.ndarray:
    """Find the weights of the mean and of what the members predict beside it, by least squares within 0 and 1."""
    gram, cross = np.zeros((len(members) + 1,) * 2), np.zeros(len(members) + 1)
    for fitted, test, targets, measured in _held_out(training, dealt):
        mean = fitted.shifts.mean(axis=0)
        parts = [np.tile(mean, (len(measured), 1)), *(member.values(fitted, test) - mean for member in members)]
        for part in parts:
            part[targets] = 0
        flat = np.array(parts).reshape(len(parts), -1)
        gram += flat @ flat.T
        cross += flat @ measured.ravel()
    weights = np.zeros(len(cross))
    for _ in range(1000):  # descent along one weight after the other: the problem is convex, and the bounds are a box
        before = weights.copy()
        for i in np.flatnonzero(np.diag(gram) > 0):
            weights[i] = np.clip(weights[i] + (cross[i] - gram[i] @ weights) / gram[i, i], 0, 1)
        if (np.abs(weights - before) < 1e-12).all():
            break
    return weights


def _held_out(
    training: TrainingData, dealt: Sequence[Fold]
) -> Iterator[tuple[TrainingData, ToPredict, Targets, np.ndarray]]:
    """Give what each fold fits, what it predicts, and the measured changes to judge by."""
    for fitted, judged in dealt:
        names = [training.perturbations[row] for row in judged]
        test = ToPredict(names, training.means[judged] - training.shifts_to_fit[judged])
        yield training.only(fitted), test, training.targets_of(names), training.shifts_to_judge[judged]


def unit(changes: np.ndarray, targets: Targets) -> np.ndarray:
    """Centre each row over all genes but the perturbation's own, which become 0, and give it length 1 (or 0)."""
    centred = changes.copy()
    centred[targets] = 0
    n_genes = changes.shape[1] - np.bincount(targets[0], minlength=len(changes))
    centred -= (centred.sum(axis=1) / np.maximum(n_genes, 1))[:, None]
    centred[targets] = 0
    lengths = np.linalg.norm(centred, axis=1)
    varies = lengths > 1e-10 * np.linalg.norm(changes, axis=1)
    return centred * (varies / np.where(varies, lengths, 1))[:, None]
