"""What a condition is compared with: the mean control cell of its context, cell types and batches.

The reference of a condition is the sum, over cell types t and batches b, of its own share of cells times
``C[t] + k (C[t, b] - C[t])``, where C are means of control cells of one half. ``k = tau^2 / (tau^2 + sigma^2 / n)``
shrinks the mean of a batch towards that of its cell type: tau^2 is the variance between batches, measured as the
product of two halves of those control cells, whose noise is independent; sigma^2 the variance of cells within a batch,
and n its control cells. Both are means over genes. A batch without control cells has the mean of its cell type.
"""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import Condition, context_of, controls_of, rows_of
from scgpt_bench.data.halves import INPUT, TRUTH, deal, is_control_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import Matrix, add_rows, row_chunks
from scgpt_bench.errors import InputError

PARTS = {"": (0, 1), "_a": (0,), "_b": (1,)}  # of a half, as positions of its quarters


class References:
    """References of conditions, from the control cells of one half or both, read in one pass.

    Parts are ``input`` and ``truth``, and the halves of each: ``truth_a``, ``truth_b``. A part without a control cell
    of a cell type has the mean of its half.

    Parameters
    ----------
    cells
        ``cells.h5ad``; X may stay on disk.
    halves
        The halves to read.
    """

    def __init__(self, cells: anndata.AnnData, halves: Sequence[str] = (INPUT, TRUTH)):
        obs = cells.obs
        self._obs = obs
        texts = [context_of(obs), obs["cell_type"].astype(str), obs["batch"].astype(str)]
        codes, self._strata = pd.MultiIndex.from_arrays(texts).factorize(sort=True)
        self._stratum = codes  # of every cell: the context, cell type and batch
        self._type, self._types = pd.factorize(self._strata.droplevel(2), sort=True)  # of every stratum
        # Of each part: shrunken means [strata x genes], k and control cells of strata, control cells of types.
        self._parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}
        self._within: dict[str, np.ndarray] = {}  # of each half: variance within batches [types x genes]
        group = np.full(cells.n_obs, -1)
        for number, half in enumerate(halves):
            own = is_control_of(obs, half)
            for control in controls_of(obs[own]):
                rows = rows_of(obs)[control]
                rows = rows[own[rows]]
                first = deal(obs.iloc[rows], "quarters of controls")
                group[rows] = (codes[rows] * len(halves) + number) * 2 + ~first
        n_groups = len(self._strata) * len(halves) * 2
        sums = np.zeros((n_groups, cells.n_vars))
        squares = np.zeros((len(self._types) * len(halves), cells.n_vars))
        for start, chunk in row_chunks(cells.X, read=group >= 0):
            of_chunk = group[start : start + chunk.shape[0]]
            add_rows(sums, chunk, of_chunk)
            kept = of_chunk >= 0
            of_type = self._type[of_chunk[kept] // (2 * len(halves))] * len(halves) + of_chunk[kept] // 2 % len(halves)
            add_rows(squares, squared(chunk[kept]), of_type)
        numbers = np.bincount(group[group >= 0], minlength=n_groups).reshape(len(self._strata), len(halves), 2)
        sums = sums.reshape(len(self._strata), len(halves), 2, -1)
        squares = squares.reshape(len(self._types), len(halves), -1)
        for number, half in enumerate(halves):
            self._fit(half, sums[:, number], numbers[:, number], squares[:, number])

    def _fit(self, half: str, sums: np.ndarray, numbers: np.ndarray, squares: np.ndarray) -> None:
        """Estimate the shrunken means and variances of a half and of its halves.

        ``sums`` [strata x 2 x genes], ``numbers`` [strata x 2], ``squares`` [types x genes].
        """
        n_types = len(self._types)
        between, within = np.zeros(n_types), np.full((n_types, sums.shape[2]), np.nan)
        for cell_type in range(n_types):
            own = np.flatnonzero((self._type == cell_type) & numbers.any(axis=1))
            between[cell_type] = _variance_between(sums[own], numbers[own])
            within[cell_type] = _variance_within(sums[own].sum(axis=1), numbers[own].sum(axis=1), squares[cell_type])
        whole = _totals(sums.sum(axis=1), self._type, n_types), _totals(numbers.sum(axis=1), self._type, n_types)
        for suffix, quarters in PARTS.items():
            total, n = sums[:, quarters].sum(axis=1), numbers[:, quarters].sum(axis=1)
            of_type, n_of_type = _totals(total, self._type, n_types), _totals(n, self._type, n_types)
            lacking = n_of_type == 0
            of_type[lacking], n_of_type[lacking] = whole[0][lacking], whole[1][lacking]
            with np.errstate(invalid="ignore", divide="ignore"):
                of_type = of_type / n_of_type[:, None]
                means = np.where(n[:, None] > 0, total / n[:, None], of_type[self._type])
                noise = within.mean(axis=1)[self._type] / n
                shrinkage = between[self._type] / (between[self._type] + noise)
            shrinkage[~np.isfinite(shrinkage)] = 0
            means = of_type[self._type] + shrinkage[:, None] * (means - of_type[self._type])
            self._parts[half + suffix] = means, shrinkage, np.maximum(n, 1), n_of_type
        self._within[half] = within

    def stratum_means(self, part: str) -> np.ndarray:
        """Give the shrunken control mean of every context, cell type and batch: float64 [strata x genes]."""
        return self._parts[part][0]

    def weights_of_cells(self, conditions: Sequence[Condition], half: str) -> np.ndarray:
        """Give the weight of one control cell of each stratum in the mean reference of its context: float64 [strata].

        The mean is over those of ``conditions`` that are of the context. The weights of its control cells sum up to 1.
        """
        _, shrinkage, n, n_of_type = self._parts[half]
        shares, numbers = np.zeros(len(n)), pd.Series([c.context for c in conditions]).value_counts()
        for condition, (strata, own) in zip(conditions, self._shares(conditions, half), strict=True):
            shares[strata] += own / numbers[condition.context]
        n_types = len(self._types)
        of_type, kept = (_totals(values, self._type, n_types) for values in (shares, shares * shrinkage))
        return shares * shrinkage / n + ((of_type - kept) / np.maximum(n_of_type, 1))[self._type]

    @property
    def stratum_of_cells(self) -> np.ndarray:
        """Give the row of :meth:`stratum_means` of each cell, int64 [cells]."""
        return self._stratum

    def mean(self, conditions: Sequence[Condition], part: str) -> np.ndarray:
        """Average the control cells that each condition is compared with: float64 [conditions x genes].

        A row depends on its own condition and the control cells only, to the bit. One that nobody measured is compared
        with all control cells of its context.

        Raises
        ------
        InputError
            If its context has no control cell, or none of a cell type of the condition in the half.
        """
        means = self._parts[part][0]
        result = np.empty((len(conditions), means.shape[1]))
        for row, (strata, shares) in enumerate(self._shares(conditions, part)):
            result[row] = np.einsum("s,sg->g", shares, means[strata])
        return result

    def variance(self, conditions: Sequence[Condition], half: str) -> np.ndarray:
        """Estimate the sampling variance of :meth:`mean`, float64 [conditions x genes]; NaN of a type of one cell.

        That of the control cells within batches: with shares w and W of a batch and its type, and K the sum of w k,
        it is the sum over types of sigma^2 (sum of (w k)^2 / n + (W^2 - K^2) / n of the type).
        """
        _, shrinkage, n, n_of_type = self._parts[half]
        result = np.zeros((len(conditions), self._within[half].shape[1]))
        for row, (strata, shares) in enumerate(self._shares(conditions, half)):
            kept = shares * shrinkage[strata]
            for cell_type in np.unique(self._type[strata]):
                own = self._type[strata] == cell_type
                factor = (kept[own] ** 2 / n[strata[own]]).sum()
                factor += (shares[own].sum() ** 2 - kept[own].sum() ** 2) / n_of_type[cell_type]
                result[row] += factor * self._within[half][cell_type]
        return result

    def variance_of_cells(self, conditions: Sequence[Condition], half: str) -> np.ndarray:
        """Average the variance of control cells within batches over each condition's cell types.

        Returns
        -------
        float64 [conditions x genes]; NaN of a type of one control cell.
        """
        result = np.zeros((len(conditions), self._within[half].shape[1]))
        for row, (strata, shares) in enumerate(self._shares(conditions, half)):
            result[row] = shares @ self._within[half][self._type[strata]]
        return result

    def _shares(self, conditions: Sequence[Condition], part: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """List the strata of each condition and its shares of cells in them."""
        own_rows, n_of_type = rows_of(self._obs), self._parts[part][3]
        found = []
        for condition in conditions:
            control = Condition(CONTROL, condition.context)
            rows = own_rows.get(condition, own_rows.get(control, ()))
            if not len(rows):
                what = f"no cell of {condition.label!r}, and no control cell of its context"
                raise InputError("cells.h5ad", "obs['perturbation']", what, "control cells of every context")
            strata, numbers = np.unique(self._stratum[rows], return_counts=True)
            lacking = n_of_type[self._type[strata]] == 0
            if lacking.any():
                name = self._strata[strata[lacking][0]][1]
                n_cells = numbers[self._strata[strata].get_level_values(1) == name].sum()
                what = f"{n_cells} cells of {condition.label!r} of type {name!r}, but no control"
                expected = "control cells of every cell type, two at least: one for each half"
                raise InputError("cells.h5ad", "obs['cell_type']", what, expected)
            found.append((strata, numbers / numbers.sum()))
        return found


def references(cells: anndata.AnnData, conditions: Sequence[Condition], half: str) -> np.ndarray:
    """Average the control cells of a half that each condition is compared with: float64 [conditions x genes]."""
    return References(cells, [half]).mean(conditions, half)


def squared(chunk: Matrix) -> Matrix:
    """Square the values of cells, in float64."""
    if sparse.issparse(chunk):
        chunk = chunk.astype(np.float64)
        chunk.data **= 2
        return chunk
    return np.asarray(chunk, dtype=np.float64) ** 2


def _totals(values: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    totals = np.zeros((n_groups, *values.shape[1:]), dtype=values.dtype)
    np.add.at(totals, groups, values)
    return totals


def _variance_between(sums: np.ndarray, numbers: np.ndarray) -> float:
    """Estimate the variance between batches of one cell type, mean over genes; 0 where it cannot be told from noise.

    With weights p of the batches, the expected sum of p d_a d_b, products of deviations from the weighted mean in two
    halves, is (1 - sum of p^2) times the variance.
    """
    both = (numbers > 0).all(axis=1)
    if both.sum() < 2:
        return 0.0
    weights = numbers[both].sum(axis=1) / numbers[both].sum()
    means = sums[both] / numbers[both][:, :, None]
    deviations = means - np.tensordot(weights, means, axes=1)
    products = (deviations[:, 0] * deviations[:, 1]).mean(axis=1)
    return max(0.0, float(weights @ products / (1 - weights @ weights)))


def _variance_within(sums: np.ndarray, numbers: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Estimate the variance of cells within batches [genes]; about the mean of all, where each batch has one cell."""
    freedom = numbers.sum() - len(numbers)
    if freedom < 1:
        sums, numbers = sums.sum(axis=0, keepdims=True), numbers.sum(keepdims=True)
        freedom = numbers.sum() - 1
    if freedom < 1:
        return np.full(len(squares), np.nan)
    return np.maximum(squares - (sums**2 / numbers[:, None]).sum(axis=0), 0) / freedom
