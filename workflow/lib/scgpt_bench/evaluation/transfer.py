"""How far measured changes carry over from context to context: what copying them would score.

A perturbation's changes in two contexts are correlated over genes, without its targets. Noise lowers the correlation,
which is divided by the root of the product of both reliabilities (Spearman 1904, American Journal of Psychology 15:72),
each from two halves of cells and controls, stepped up to the whole (Spearman-Brown).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, rows_of
from scgpt_bench.data.halves import TRUTH
from scgpt_bench.data.means import FEWEST, first_half, group_means
from scgpt_bench.data.references import References

CHANGE, SPECIFIC = "change", "specific change"
COLUMNS = [
    *("perturbation", "context", "other_context", "what"),
    *("correlation", "reliability", "other_reliability", "corrected", "reason"),
]


@dataclass(frozen=True)
class Changes:
    """Measured changes of the conditions of a data set, each from the control cells of the half ``truth``.

    Attributes
    ----------
    conditions
        Sorted.
    whole, halves
        float64 [conditions x genes]; float64 [2 x conditions x genes]: of halves of the cells, each from half of the
        control cells.
    counted
        Genes [conditions x genes] that are no target of the condition.
    directions
        ``up`` or ``down``, of each condition.
    """

    conditions: Sequence[Condition]
    whole: np.ndarray
    halves: np.ndarray
    counted: np.ndarray
    directions: Sequence[str]

    def rows_in(self, context: str) -> Mapping[str, int]:
        """Find the row of each perturbation of a context."""
        return {c.perturbation: row for row, c in enumerate(self.conditions) if c.context == context}


def changes(cells: anndata.AnnData) -> Changes:
    """Measure the changes of ``cells.h5ad``, whose X may stay on disk."""
    conditions, of_controls = conditions_of(cells.obs), References(cells, [TRUTH])
    codes = codes_of(cells.obs, conditions)
    half = np.where(codes < 0, -1, 2 * codes + ~first_half(cells.obs, conditions))
    means, numbers = group_means(cells.X, half, range(2 * len(conditions)))
    means, numbers = means.reshape(len(conditions), 2, -1), numbers.reshape(-1, 2)
    sums = np.where(numbers[:, :, None] > 0, means, 0) * numbers[:, :, None]
    whole = sums.sum(1) / numbers.sum(1)[:, None] - of_controls.mean(conditions, TRUTH)
    halves = [means[:, number] - of_controls.mean(conditions, f"{TRUTH}_{part}") for number, part in enumerate("ab")]
    counted = np.ones(whole.shape, dtype=bool)
    for row, condition in enumerate(conditions):
        targets = cells.var_names.get_indexer(condition.genes)
        counted[row, targets[targets >= 0]] = False
    rows, directions = rows_of(cells.obs), cells.obs["direction"].astype(str).to_numpy()
    return Changes(conditions, whole, np.stack(halves), counted, [directions[rows[c][0]] for c in conditions])


def transfer(measured: Changes, minimum_reliability: float) -> pd.DataFrame:
    """Correlate the changes of each perturbation between each pair of contexts that have it.

    Twice: the change, and what is specific of it, that is without the mean change of all perturbations that both
    contexts have.

    Parameters
    ----------
    minimum_reliability
        Halves that correlate less are too noisy to be corrected for: ``corrected`` is empty, with a reason. So it is
        for a perturbation that goes up in one context and down in the other: it is not expected to carry over.

    Returns
    -------
    Columns ``COLUMNS``, a row for each pair of contexts, perturbation and ``what``.
    """
    contexts = sorted({condition.context for condition in measured.conditions})
    tables = [table for pair in combinations(contexts, 2) for table in _between(measured, *pair, minimum_reliability)]
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def _between(measured: Changes, one: str, other: str, minimum: float) -> Iterator[pd.DataFrame]:
    sides = measured.rows_in(one), measured.rows_in(other)
    names = sorted({*sides[0]} & {*sides[1]})
    rows = [np.array([side[name] for name in names], dtype=int) for side in sides]
    if not names:
        return
    turned = np.array([measured.directions[i] != measured.directions[j] for i, j in zip(*rows, strict=True)])
    counted = measured.counted[rows[0]]
    of_sides = [[measured.whole[own], *measured.halves[:, own]] for own in rows]
    for what in (CHANGE, SPECIFIC):
        if what == SPECIFIC:
            of_sides = [[values - _common(values[~turned]) for values in side] for side in of_sides]
        found = pd.DataFrame({"perturbation": names, "context": one, "other_context": other, "what": what})
        found["correlation"] = _correlations(of_sides[0][0], of_sides[1][0], counted)
        halved = [_correlations(side[1], side[2], counted) for side in of_sides]
        for column, of_halves in zip(("reliability", "other_reliability"), halved, strict=True):
            found[column] = np.where(of_halves > 0, 2 * of_halves / (1 + of_halves), of_halves)
        reliable = np.minimum(*halved) >= minimum
        with np.errstate(invalid="ignore", divide="ignore"):
            corrected = found["correlation"] / np.sqrt(found["reliability"] * found["other_reliability"])
        reasons = np.where(reliable, "", f"halves correlate by less than {minimum:g} in one of the contexts")
        if what == SPECIFIC and (~turned).sum() < FEWEST:
            reliable, reasons = np.zeros(len(names), bool), np.full(len(names), f"fewer than {FEWEST} perturbations")
        found["corrected"] = corrected.where(reliable & ~turned)
        found["reason"] = np.where(turned, "up in one context, down in the other", reasons)
        yield found


def _common(values: np.ndarray) -> np.ndarray | float:
    """Average over perturbations; not a number of none."""
    return values.mean(0) if len(values) else np.nan


def _correlations(one: np.ndarray, other: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Correlate rows over the genes that count [rows]; not a number where one side does not vary."""
    n = counted.sum(1, keepdims=True)
    centred = [np.where(counted, m - np.where(counted, m, 0).sum(1, keepdims=True) / n, 0) for m in (one, other)]
    sizes = np.sqrt(np.square(centred[0]).sum(1) * np.square(centred[1]).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sizes > 0, (centred[0] * centred[1]).sum(1) / sizes, np.nan)
