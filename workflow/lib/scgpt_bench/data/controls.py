"""Which control cells a perturbation is compared with, and which of them every method starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import add_rows, row_chunks
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.data.splits import perturbations_of
from scgpt_bench.errors import InputError
from scgpt_bench.seeding import random_generator

DRAW_COLUMNS = ["perturbation", "control_cell", "batch", "cell_type", "weight"]


def draw_controls(
    cells_obs: pd.DataFrame, split: pd.DataFrame, *, per_perturbation: int, seed: int, dataset: str, split_name: str
) -> pd.DataFrame:
    """Draw control cells for every test perturbation, without replacement.

    Cell types come in proportion to the perturbation's own cells (largest remainder), and within a cell type batches
    in proportion to its control cells: each batch gets its share, rounded down or up by chance, so that small batches
    are neither lost nor favoured. A cell type with fewer controls than its part of the draw gives each of them once,
    and the perturbation has that many fewer cells; none is ever repeated. Weights make up for that in every mean over
    drawn cells (:func:`type_weights`).

    A draw depends on the seed, the names and the control cells of its cell type; neither on the order of the cells nor
    on other perturbations.

    Parameters
    ----------
    cells_obs
        ``perturbation``, ``batch`` and ``cell_type`` of each cell, indexed by cell.
    split
        ``split.tsv``.
    per_perturbation
        Control cells for each test perturbation.
    seed, dataset, split_name
        What the draw depends on.

    Returns
    -------
    One row per drawn cell: ``perturbation``, ``control_cell``, ``batch``, ``cell_type``, ``weight``, sorted by
    perturbation, cell type, batch and cell.

    Raises
    ------
    InputError
        If a test perturbation has no cell, or cells of a type without control cells.
    """
    obs = cells_obs[["perturbation", "batch", "cell_type"]].astype(str)
    is_control = obs["perturbation"] == CONTROL
    pools = dict(iter(_pool(obs[is_control]).groupby("cell_type")))
    tests = perturbations_of(split, "test")
    numbers = _numbers_of_cells(obs, tests, pools)
    drawn = []
    for perturbation in tests:
        wanted = _largest_remainder(numbers.loc[perturbation], per_perturbation)
        of_types = []
        for cell_type, number in wanted[wanted > 0].items():
            random = random_generator(
                seed, "controls", dataset, split_name, *Condition(perturbation).drawn_for, cell_type
            )
            of_types.append(_systematic_draw(pools[cell_type], number, random))
        own = pd.concat(of_types)
        weight = type_weights(own["cell_type"], numbers.loc[perturbation])
        drawn.append(own.assign(perturbation=perturbation, weight=weight))
    if not drawn:
        raise InputError("split.tsv", "role", "no test perturbation", "at least one")
    table = pd.concat(drawn, ignore_index=True)
    return table.sort_values(["perturbation", "cell_type", "batch", "control_cell"], ignore_index=True)[DRAW_COLUMNS]


def _pool(controls: pd.DataFrame) -> pd.DataFrame:
    """Control cells in an order of names, with the rank of their batch."""
    pool = controls[["batch", "cell_type"]].assign(control_cell=controls.index.astype(str))
    pool["batch_rank"] = pd.factorize(pool["batch"], sort=True)[0]
    return pool.sort_values(["batch_rank", "control_cell"], ignore_index=True)


def _numbers_of_cells(obs: pd.DataFrame, perturbations: Sequence[str], with_controls: Iterable[str]) -> pd.DataFrame:
    """Cells of each perturbation [perturbations x cell types], refusing what has no cell or no control."""
    numbers = pd.crosstab(obs["perturbation"], obs["cell_type"]).reindex(perturbations, fill_value=0)
    without_cells = numbers.index[numbers.sum(axis=1) == 0]
    if len(without_cells):
        raise InputError(
            "cells.h5ad", "obs['perturbation']", f"no cell of {without_cells[0]!r}", "cells of every perturbation"
        )
    for cell_type in numbers.columns.difference(list(with_controls)):
        measured = numbers.index[numbers[cell_type] > 0]
        if len(measured):
            found = (
                f"{numbers.loc[measured[0], cell_type]} cells of {measured[0]!r} of type {cell_type!r}, but no control"
            )
            raise InputError("cells.h5ad", "obs['cell_type']", found, "control cells of every cell type")
    return numbers


def _largest_remainder(weights: pd.Series, total: int) -> pd.Series:
    """``total`` divided in proportion to ``weights`` in whole numbers (Hamilton's method), ties to the first name."""
    weights = weights.sort_index()
    quotas = weights * total
    parts = quotas // weights.sum()
    remainders = (quotas % weights.sum()).sort_values(ascending=False, kind="stable")
    parts[remainders.index[: total - parts.sum()]] += 1
    return parts


def _systematic_draw(pool: pd.DataFrame, number: int, random: np.random.Generator) -> pd.DataFrame:
    """``number`` rows of ``pool``, or all: equally spaced, after shuffling within each batch.

    Every cell has the same chance, and every batch its share of the draw, rounded down or up. In whole numbers, so that
    no rounding error can draw a cell twice.
    """
    n_pool = len(pool)
    number = min(number, n_pool)
    shuffled = random.permutation(n_pool)
    shuffled = shuffled[np.argsort(pool["batch_rank"].to_numpy()[shuffled], kind="stable")]
    positions = (random.integers(n_pool) + np.arange(number) * n_pool) // number
    return pool.iloc[shuffled[positions]]


def type_weights(cell_types: Sequence[str], shares: pd.Series) -> np.ndarray:
    """How much each cell counts in a mean over cells, so that every cell type counts as ``shares`` says.

    Parameters
    ----------
    cell_types
        The type of each cell.
    shares
        What each cell type is to count, such as the number of a perturbation's own cells; only proportions matter.

    Returns
    -------
    float64 [cells], 1 on average, and exactly 1 where the cells have these proportions. A type without a cell counts
    nothing.
    """
    numbers = pd.Series(cell_types).value_counts()
    wanted = shares[numbers.index]
    weights = wanted * numbers.sum() / (wanted.sum() * numbers)
    return weights[cell_types].to_numpy(dtype=np.float64)


def control_cells(cells: anndata.AnnData, draw: pd.DataFrame) -> anndata.AnnData:
    """The content of ``controls.h5ad``: the drawn cells of ``cells``, one row for each row of ``draw``.

    Returns
    -------
    X: CSR float32 [rows of draw x genes]; obs: the columns of ``draw``, indexed by ``<perturbation>:<control cell>``;
    varm["control_mean"]: float64 [genes x perturbations], the mean of all control cells that each is compared with;
    uns["control_mean_of"]: the perturbations of its columns, sorted. (Names of columns would have to fit into 64 KB.)
    """
    rows = cells.obs_names.get_indexer(draw["control_cell"])
    if (rows < 0).any():
        absent = draw["control_cell"].iloc[int(np.argmin(rows))]
        raise InputError("cells.h5ad", "obs_names", f"no cell {absent!r}", "every drawn control cell")
    obs = draw[DRAW_COLUMNS].set_axis(draw["perturbation"] + ":" + draw["control_cell"]).rename_axis(None)
    X = sparse.csr_matrix(rows_of_cells(cells.X, rows), dtype=np.float32)
    perturbations = sorted(draw["perturbation"].unique())
    means = {"control_mean": np.ascontiguousarray(matched_control_mean(cells, perturbations).T)}
    of = {"control_mean_of": np.array(perturbations, dtype=object)}
    return anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=cells.var_names), varm=means, uns=of)


def control_means_of(controls: anndata.AnnData) -> pd.DataFrame:
    """The control means of ``controls.h5ad``: float64 [perturbations x genes]."""
    names = [*map(str, controls.uns["control_mean_of"])]
    return pd.DataFrame(np.asarray(controls.varm["control_mean"]).T, index=names, columns=controls.var_names)


def matched_control_mean(cells: anndata.AnnData, perturbations: Sequence[str]) -> np.ndarray:
    """The mean that each perturbation is compared with: all control cells of its cell types.

    The mean control cell of each type, weighted by the perturbation's own cells of that type, so that a perturbation
    measured in one cell type is not compared with another.

    Returns
    -------
    float64 [perturbations x genes]

    Raises
    ------
    InputError
        If a perturbation has no cell, or cells of a type without control cells.
    """
    obs = cells.obs[["perturbation", "cell_type"]].astype(str)
    controls = np.flatnonzero(obs["perturbation"] == CONTROL)
    rows_of = obs.iloc[controls].groupby("cell_type").indices
    numbers = _numbers_of_cells(obs, perturbations, rows_of)
    shares = numbers.div(numbers.sum(axis=1), axis=0)
    result = np.zeros((len(perturbations), cells.n_vars))
    for cell_type in shares.columns[shares.any()]:
        # One product per cell type: a matrix product's last bits would depend on which perturbations are asked for.
        result += np.outer(shares[cell_type], _mean_of_rows(cells.X, controls[rows_of[cell_type]]))
    return result


def _mean_of_rows(X: Any, rows: np.ndarray) -> np.ndarray:
    group = np.full(X.shape[0], -1)
    group[rows] = 0
    total = np.zeros((1, X.shape[1]))
    for start, chunk in row_chunks(X, read=group == 0):
        add_rows(total, chunk, group[start : start + chunk.shape[0]])
    return total[0] / len(rows)
