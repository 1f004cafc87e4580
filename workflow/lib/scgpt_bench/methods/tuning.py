"""Choice of what a simple method leaves open, by cross-validation over the conditions that it learns from.

The question is that of the test. Where a context has conditions of its own to learn from, some of them are left out;
where it has too few, another context is, and so are perturbations, if those of the test are seen in no other context.

One criterion chooses what changes the direction of a prediction: the mean, over perturbations held out, of the Pearson
correlation of predicted and measured change over all genes but the perturbation's own targets, as in the headline
metric. What scales a prediction minimizes the squared error over the same genes. What is fitted and what it is judged
by are counted from disjoint control cells (:class:`scgpt_bench.methods.training_data.TrainingData`): with one control
mean for both, its noise would be worth predicting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from scgpt_bench.data.means import FEWEST
from scgpt_bench.data.names import genes_of
from scgpt_bench.method_record import Candidate, Chosen
from scgpt_bench.methods.training_data import Shifts, ToPredict, TrainingData
from scgpt_bench.seeding import stream_seed

FOLDS = 10
SMALLEST = 0.1  # weight: with none a prediction has no direction, and a few perturbations can say so by chance
MEAN = "mean"  # of the changes of all perturbations that are learned from: what every prediction has in common
NamedOptions = tuple[tuple[str, Any], ...]  # name and value
Targets = tuple[np.ndarray, np.ndarray]  # rows and columns of the perturbations' own genes
Fold = tuple[np.ndarray, np.ndarray]  # rows of perturbations to fit, and to predict
HeldOut = tuple[Callable[[], TrainingData], TrainingData, np.ndarray]  # makes what is fitted; rows of what is predicted


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
    transfers
        Whether it takes from other contexts what a perturbation does there.
    """

    name: str
    grid: Mapping[str, Sequence[Any]]
    predict: Callable[..., Iterator[tuple[NamedOptions, np.ndarray]]]
    transfers: bool = False

    @property
    def candidates(self) -> list[NamedOptions]:
        """List all combinations; of equally good ones the first is chosen."""
        return [tuple(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def fixed(self, options: NamedOptions) -> Tunable:
        """Leave nothing open."""
        return Tunable(self.name, {key: [value] for key, value in options}, self.predict, self.transfers)

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


def tuned(
    members: Sequence[Tunable], training: TrainingData, test: ToPredict, scaled: bool = True, beside_mean: bool = True
) -> Shifts:
    """Choose the options of each member, fit it to all that there is to learn from, and predict.

    Parameters
    ----------
    members
        A method, or several that are put together.
    scaled
        Whether the prediction becomes ``a m + sum of b_i (f_i - m)``: ``m`` is the mean change of the perturbations
        that are learned from, ``f_i`` what the members predict, and ``a`` and ``b_i`` are the weights with the least
        squared error: from ``SMALLEST``, divided among the ``b_i``, to 1. Otherwise the first member's stays as it is.
    beside_mean
        Without it, a scaled prediction is ``sum of b_i f_i``: that of one member keeps its direction.

    Returns
    -------
    Shifts, with what was chosen. Where fewer than ``FEWEST`` conditions can be judged, nothing is: the first candidates
    are taken, the mean has the weight 1, and members count alike.
    """
    left_out, dealt = _dealt(training, any(member.transfers for member in members))
    tried, best = [], []
    for member in members:
        scores = _scores(member, dealt)
        tried += [Candidate(method=member.name, options=dict(each), score=score) for each, score in scores.items()]
        best.append(member.fixed(max(scores, key=scores.__getitem__, default=member.candidates[0])))
    weights: dict[str, float] = {}
    if scaled:
        weights = dict.fromkeys([MEAN] if beside_mean else [], 1.0) | {one.name: 1 / len(best) for one in best}
        if dealt:
            weights = _weights(best, dealt, {name: SMALLEST * each for name, each in weights.items()})
        parts = _parts(best, training, test, beside_mean)
        values = sum(weights[name] * part for name, part in parts.items())
    else:
        values = best[0].values(training, test)
    options = {member.name: dict(member.candidates[0]) for member in best}
    chosen = Chosen(left_out=left_out, options=options, candidates=tuple(tried), weights=weights)
    return Shifts(values, chosen=chosen)


def _dealt(
    training: TrainingData, transfers: bool
) -> tuple[Literal["perturbations", "contexts", "nothing"], list[HeldOut]]:
    """Deal what can be judged: conditions of the context itself or, with too few of them, of one other after the other.

    A method that ``transfers`` is judged by perturbations that other contexts show, if it is asked about such.
    """
    dealt: list[HeldOut] = []
    if training.is_own:
        for fitted, judged in folds(training.perturbations):
            names = [training.perturbations[row] for row in judged]
            known = training.others if transfers else {}
            hidden = () if training.asks_of_seen else _alike(names, known.values())
            if transfers and training.asks_of_seen:
                judged = judged[training.is_seen(names)]
            if len(judged):
                dealt.append((partial(training.only, fitted, hidden), training, judged))
    if _n_judged(dealt) >= FEWEST:
        return "perturbations", dealt
    if training.is_own and not transfers:
        return "nothing", []
    dealt = [one for context in training.others for one in _without_context(training, context)]
    return ("contexts", dealt) if _n_judged(dealt) >= FEWEST else ("nothing", [])


def _without_context(training: TrainingData, context: str) -> Iterator[HeldOut]:
    """Leave out a context; where the test asks of perturbations seen nowhere, also those that are predicted there."""
    left = training.others[context]
    rest = [other for name, other in training.others.items() if name != context]
    known = {name for other in rest for name in other.perturbations}
    if training.asks_of_seen:
        judged = np.flatnonzero([name in known for name in left.perturbations])
        if len(judged):
            yield partial(training.without, context), left, judged
        return
    for _, judged in folds(left.perturbations, max(FEWEST, FOLDS // len(training.others))):
        hidden = _alike([left.perturbations[row] for row in judged], rest)
        if known - hidden:
            yield partial(training.without, context, hidden), left, judged


def _alike(names: Sequence[str], contexts: Collection[TrainingData]) -> set[str]:
    """List what contexts show of perturbations that are not to be known (:func:`folds`)."""
    genes = {gene for name in names for gene in genes_of(name)}
    known = {name for context in contexts for name in context.perturbations}
    if len(genes_of(names[0])) == 1:
        return {name for name in known if genes & {*genes_of(name)}}
    return known & {*names}


def _n_judged(dealt: Sequence[HeldOut]) -> int:
    return sum(len(judged) for _, _, judged in dealt)


def _scores(member: Tunable, dealt: Sequence[HeldOut]) -> dict[NamedOptions, float]:
    """Score the candidates by mean correlation over the conditions held out; none where nothing is open."""
    totals: dict[NamedOptions, float] = defaultdict(float)
    if len(member.candidates) == 1:
        return totals
    for fitted, test, targets, measured in _held_out(dealt):
        directions = unit(measured, targets)
        for options, values in member.predict(fitted, test, **member.grid):
            totals[options] += float(np.vdot(unit(values, targets), directions))
    return {options: totals[options] / _n_judged(dealt) for options in member.candidates if options in totals}


def _parts(
    members: Sequence[Tunable], training: TrainingData, test: ToPredict, beside_mean: bool
) -> dict[str, np.ndarray]:
    """Predict what gets a weight each, float64 [perturbations x genes]."""
    predicted = {member.name: member.values(training, test) for member in members}
    if not beside_mean:
        return predicted
    mean = training.shifts.mean(axis=0)
    beside = {name: values - mean for name, values in predicted.items()}
    return {MEAN: np.tile(mean, (len(test.perturbations), 1)), **beside}


def _weights(members: Sequence[Tunable], dealt: Sequence[HeldOut], smallest: Mapping[str, float]) -> dict[str, float]:
    """Find the weights with the least squared error over the perturbations held out, from ``smallest`` to 1."""
    low = np.array([*smallest.values()])
    gram, cross = np.zeros((len(low), len(low))), np.zeros(len(low))
    for fitted, test, targets, measured in _held_out(dealt):
        parts = np.array([*_parts(members, fitted, test, MEAN in smallest).values()])
        parts[:, *targets] = 0
        flat = parts.reshape(len(parts), -1)
        gram += flat @ flat.T
        cross += flat @ measured.ravel()
    weights = low.copy()
    for _ in range(1000):  # descent along one weight after the other: the problem is convex, and the bounds are a box
        before = weights.copy()
        for i in np.flatnonzero(np.diag(gram) > 0):
            weights[i] = np.clip(weights[i] + (cross[i] - gram[i] @ weights) / gram[i, i], low[i], 1)
        if (np.abs(weights - before) < 1e-12).all():
            break
    return dict(zip(smallest, map(float, weights), strict=True))


def _held_out(dealt: Sequence[HeldOut]) -> Iterator[tuple[TrainingData, ToPredict, Targets, np.ndarray]]:
    """Give what each fold fits, what it predicts, and the measured changes to judge by."""
    for fitted, of, judged in dealt:
        names = [of.perturbations[row] for row in judged]
        test = ToPredict(names, of.means[judged] - of.shifts_to_fit[judged])
        yield fitted(), test, of.targets_of(names), of.shifts_to_judge[judged]


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
