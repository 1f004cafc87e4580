"""What simple methods may learn from and predict, in one context: pseudo-bulks of conditions that are not tested.

A context learns from its own conditions where it has ``FEWEST`` or more. Where it has fewer, as one that is held out,
it learns from those of all contexts together: a row per perturbation, its mean change over the contexts that have it.
What single other contexts show is there in both cases, for the methods that transfer it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import (
    ALL_CONTEXTS,
    Condition,
    codes_of,
    conditions_of,
    context_of,
    directions_of,
    rows_of,
)
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.means import FEWEST, condition_means, group_means
from scgpt_bench.data.names import genes_of
from scgpt_bench.data.on_disk import rows
from scgpt_bench.data.references import References
from scgpt_bench.method_record import Chosen
from scgpt_bench.seeding import random_generator

CONTROLS = 5000  # cells of a context, of which co-expression is learned: neither time nor memory grows with more


@dataclass(frozen=True)
class TrainingData:
    """All that a method may learn from, for one context.

    Attributes
    ----------
    genes
        The genes of ``cells.h5ad``.
    controls
        Control cells of the half ``input`` of the context: all, or ``CONTROLS`` of them, drawn by their names.
    control_mean
        Mean over all control cells of that half, float64 [genes].
    perturbations
        Training and validation perturbations, sorted: those of the context, or of all contexts together.
    means, shifts
        float64 [perturbations x genes]: mean over the cells, and the same minus the matched control mean. Of all
        contexts together, shifts are means over contexts that count alike, and ``means`` these shifts from the
        context's own control mean.
    shifts_to_fit, shifts_to_judge
        The same minus the matched means of one half of these control cells, and of the other: in cross-validation, what
        is fitted and what it is judged by share no noise of a control mean. Nothing of all contexts together, which are
        judged by one context after the other.
    n_cells
        int64 [perturbations].
    others
        What each other context shows by itself, of perturbations in the direction that they have in this context, or
        are asked for in, or that most measured ones have. Contexts are sorted; those that show nothing are not among
        them.
    is_own
        Whether the rows are the context's own.
    asks_of_seen
        Whether the perturbations to predict are those that ``others`` show, or such that no context shows.
    of_cell_types
        The mean change of each cell type [cell types x genes] (:func:`changes_of_cell_types`), if a method asks.
    """

    genes: pd.Index
    controls: anndata.AnnData
    control_mean: np.ndarray
    perturbations: list[str]
    means: np.ndarray
    shifts: np.ndarray
    shifts_to_fit: np.ndarray
    shifts_to_judge: np.ndarray
    n_cells: np.ndarray
    others: Mapping[str, TrainingData] = field(default_factory=dict)
    is_own: bool = True
    asks_of_seen: bool = False
    of_cell_types: pd.DataFrame | None = None

    def only(self, rows: np.ndarray, hidden: Collection[str] = ()) -> TrainingData:
        """Select perturbations to fit in cross-validation: their shifts are ``shifts_to_fit``.

        Those in ``hidden`` are not in other contexts either.
        """
        nothing = self.shifts[:0]  # is judged by them
        names, shifts = [self.perturbations[row] for row in rows], self.shifts_to_fit[rows]
        return replace(
            self,
            perturbations=names,
            means=self.means[rows],
            shifts=shifts,
            shifts_to_fit=nothing,
            shifts_to_judge=nothing,
            n_cells=self.n_cells[rows],
            others=self._others(hidden),
        )

    def without(self, context: str, hidden: Collection[str] = ()) -> TrainingData:
        """Select what there would be to learn from in another context, if that one and ``hidden`` were not.

        The answers that its own conditions give are in ``others[context]``.
        """
        left = self.others[context]
        rest = {name: own for name, own in self._others(hidden).items() if name != context}
        left = replace(left, control_mean=(left.means - left.shifts_to_fit).mean(axis=0))
        return replace(_together(left, rest.values(), rest), asks_of_seen=self.asks_of_seen)

    def is_seen(self, perturbations: Sequence[str]) -> np.ndarray:
        """Return whether another context has each perturbation, bool [perturbations]."""
        shown = {name for other in self.others.values() for name in other.perturbations}
        return np.array([name in shown for name in perturbations], dtype=bool)

    def elsewhere(self, perturbations: Sequence[str], centred: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Average what perturbations do in the other contexts that show them, which count alike.

        Parameters
        ----------
        centred
            Whether the change of a context counts as its difference from the mean change of that context.

        Returns
        -------
        float64 [perturbations x genes], 0 where no other context shows it; bool [perturbations], whether one does.
        """
        total, number = np.zeros((len(perturbations), len(self.genes))), np.zeros(len(perturbations), dtype=np.int64)
        for other in self.others.values():
            row_of = {name: row for row, name in enumerate(other.perturbations)}
            shown = np.array([name in row_of for name in perturbations], dtype=bool)
            rows = [row_of[name] for name in perturbations if name in row_of]
            total[shown] += other.shifts[rows] - (other.shifts.mean(axis=0) if centred else 0)
            number[shown] += 1
        return total / np.maximum(number, 1)[:, None], number > 0

    def mean_over_contexts(self) -> np.ndarray:
        """Average the mean change of each context, which count alike: float64 [genes]."""
        own = [self.shifts.mean(axis=0)] if self.is_own else []
        return np.mean([*own, *(other.shifts.mean(axis=0) for other in self.others.values())], axis=0)

    def targets_of(self, perturbations: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Find the perturbations' own genes: rows and columns of [perturbations x genes]."""
        pairs = [(row, gene) for row, name in enumerate(perturbations) for gene in genes_of(name)]
        columns = self.genes.get_indexer([gene for _, gene in pairs])
        rows = np.array([row for row, _ in pairs], dtype=np.int64)
        return rows[columns >= 0], columns[columns >= 0]

    def _others(self, hidden: Collection[str]) -> Mapping[str, TrainingData]:
        """Leave out perturbations, and contexts that show no other."""
        if not hidden:
            return self.others
        kept = {name: np.array([one not in hidden for one in own.perturbations]) for name, own in self.others.items()}
        return {name: self.others[name].of(rows) for name, rows in kept.items() if rows.any()}

    def of(self, kept: np.ndarray) -> TrainingData:
        """Select perturbations as they are, bool [perturbations]."""
        arrays = ("means", "shifts", "shifts_to_fit", "shifts_to_judge", "n_cells")
        selected = {name: getattr(self, name)[kept] for name in arrays}
        names = [name for name, is_kept in zip(self.perturbations, kept, strict=True) if is_kept]
        return replace(self, perturbations=names, **selected)


@dataclass(frozen=True)
class ToPredict:
    """What a method may know of the perturbations to predict in a context: names, and the control means
    [perturbations x genes] that they are compared with, which depend on the cell types in which they were measured, not
    on what was measured. ``cell_types`` has the share of each of these types [perturbations x cell types].
    """

    perturbations: list[str]
    control_means: np.ndarray
    cell_types: pd.DataFrame = field(default_factory=pd.DataFrame)

    def only(self, rows: np.ndarray) -> ToPredict:
        """Select perturbations."""
        names = [self.perturbations[row] for row in rows]
        return ToPredict(names, self.control_means[rows], self.cell_types.reindex(names))


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


def training_data(cells: anndata.AnnData, split: pd.DataFrame, context: str = ALL_CONTEXTS) -> TrainingData:
    """Give what a context learns from (:func:`of_contexts`)."""
    return of_contexts(cells, split, [context])[context]


def of_contexts(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    contexts: Sequence[str],
    asked: Mapping[Condition, str] | None = None,
) -> dict[str, TrainingData]:
    """Average the cells of the training and validation conditions, for each of some contexts.

    Parameters
    ----------
    cells
        ``cells.h5ad``, whose X may stay on disk; of the cells of other conditions, only control cells are read.
    split
        ``split.tsv``.
    asked
        The direction of each condition that nobody measured.

    Returns
    -------
    What each context learns from, without a perturbation where nothing was measured in its direction, or at all.
    """
    learned = learned_from(split)
    means, n_cells = condition_means(cells, learned)
    references = References(cells, [INPUT])
    whole, to_fit, to_judge = (means - references.mean(learned, INPUT + part) for part in ("", "_a", "_b"))
    is_control = is_control_of(cells.obs, INPUT)
    shown: dict[str, TrainingData] = {}
    named = sorted({*contexts, *(condition.context for condition in learned)})
    control_means, _ = group_means(cells.X, context_of(cells.obs).where(is_control), named)
    for context, control_mean in zip(named, control_means, strict=True):
        rows = [row for row, condition in enumerate(learned) if condition.context == context]
        controls = _drawn(cells, is_control & (context_of(cells.obs) == context).to_numpy(), context)
        names = [learned[row].perturbation for row in rows]
        of_rows = (array[rows] for array in (means, whole, to_fit, to_judge, n_cells))
        shown[context] = TrainingData(cells.var_names, controls, control_mean, names, *of_rows)
    measured = rows_of(cells.obs)
    conditions = [condition for condition in conditions_of(split) if condition in measured]
    direction_of = dict(zip(conditions, directions_of(cells.obs, conditions), strict=True))
    return {context: _for_context(context, shown, direction_of, asked or {}) for context in contexts}


def changes_of_cell_types(
    cells: anndata.AnnData, split: pd.DataFrame, contexts: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Average the change of each cell type over all cells of the training and validation conditions.

    Every cell counts alike, minus the mean control cell of its context, cell type and batch. A context without such
    cells has the means over all contexts.

    Parameters are those of :func:`of_contexts`.

    Returns
    -------
    For each context float64 [cell types x genes], index: names of the types that have a cell.
    """
    own = codes_of(cells.obs, learned_from(split)) >= 0
    types = pd.MultiIndex.from_arrays([context_of(cells.obs), cells.obs["cell_type"].astype(str)])
    codes, types = types[own].factorize(sort=True)
    group = np.full(cells.n_obs, -1)
    group[own] = codes
    means, n_cells = group_means(cells.X, group, range(len(types)))
    references = References(cells, [INPUT])
    of_controls = references.stratum_means(INPUT)
    in_strata = np.zeros((len(types), len(of_controls)))
    np.add.at(in_strata, (codes, references.stratum_of_cells[own]), 1)
    sums = pd.DataFrame(n_cells[:, None] * means - in_strata @ of_controls, index=types)
    numbers = pd.Series(n_cells, index=types)
    found = {context: sums.loc[context].div(numbers.loc[context], axis=0) for context in types.unique(0)}
    together = sums.groupby(level=1).sum().div(numbers.groupby(level=1).sum(), axis=0)
    return {context: found.get(context, together) for context in contexts}


def _drawn(cells: anndata.AnnData, wanted: np.ndarray, context: str) -> anndata.AnnData:
    """Read ``CONTROLS`` of the wanted cells, or all where there are no more, in the order of the file."""
    found = np.flatnonzero(wanted)
    if len(found) > CONTROLS:
        by_name = found[np.argsort(cells.obs_names[found])]
        found = np.sort(random_generator(0, "controls to learn from", context).permutation(by_name)[:CONTROLS])
    return anndata.AnnData(rows(cells.X, found), obs=cells.obs.iloc[found], var=cells.var)


def _for_context(
    context: str,
    shown: Mapping[str, TrainingData],
    direction_of: Mapping[Condition, str],
    asked: Mapping[Condition, str],
) -> TrainingData:
    own, others = shown[context], {}
    here = {c.perturbation: direction for c, direction in direction_of.items() if c.context == context}
    usual = next((way for way, _ in Counter(here.values() or direction_of.values()).most_common(1)), "")
    here = {c.perturbation: direction for c, direction in asked.items() if c.context == context} | here
    for name, other in shown.items():
        same = [direction_of[Condition(one, name)] == here.get(one, usual) for one in other.perturbations]
        if name != context and any(same):
            others[name] = other if all(same) else other.of(np.array(same))
    if len(own.perturbations) >= FEWEST or not others:
        return replace(own, others=others)
    return _together(own, [own, *others.values()], others)


def _together(
    place: TrainingData,
    contexts: Collection[TrainingData],
    others: Mapping[str, TrainingData],
) -> TrainingData:
    """Average changes over contexts, to be learned from in ``place``; its own rows count if it is in ``contexts``."""
    names = sorted({name for own in contexts for name in own.perturbations})
    row_of = {name: row for row, name in enumerate(names)}
    shifts, number = np.zeros((len(names), len(place.genes))), np.zeros((2, len(names)), dtype=np.int64)
    for own in contexts:
        rows = [row_of[name] for name in own.perturbations]
        shifts[rows] += own.shifts
        number[:, rows] += np.array([np.ones_like(own.n_cells), own.n_cells])
    shifts /= np.maximum(number[0], 1)[:, None]
    nothing = shifts[:0]
    return replace(
        place,
        perturbations=names,
        means=place.control_mean + shifts,
        shifts=shifts,
        shifts_to_fit=nothing,
        shifts_to_judge=nothing,
        n_cells=number[1],
        others=others,
        is_own=False,
    )


def to_predict(controls: anndata.AnnData, context: str = ALL_CONTEXTS) -> ToPredict:
    """List the test perturbations of a context, sorted, with their control means: those of ``controls.h5ad``."""
    means = {c.perturbation: mean for c, mean in control_means_of(controls).items() if c.context == context}
    here = controls.obs[(context_of(controls.obs) == context).to_numpy()]
    names, types = here["perturbation"].astype(str), here["cell_type"].astype(str)
    shares = pd.crosstab(names, types, here["weight"].astype(float), aggfunc="sum").fillna(0).reindex([*means])
    return ToPredict([*means], np.array([*means.values()]), shares.div(shares.sum(axis=1), axis=0))
