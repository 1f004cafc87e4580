"""Which control cells of its context a condition is compared with, and which of them every method starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import (
    COLUMNS,
    Condition,
    codes_of,
    conditions_of,
    context_of,
    listed,
    rows_of,
    table_of,
)
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import add_rows, row_chunks
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.errors import InputError
from scgpt_bench.seeding import random_generator

DRAW_COLUMNS = ["perturbation", "context", "direction", "control_cell", "batch", "cell_type", "weight"]


def draw_controls(
    cells_obs: pd.DataFrame, split: pd.DataFrame, *, per_perturbation: int, seed: int, dataset: str, split_name: str
) -> pd.DataFrame:
    """Draw control cells of its context for every test condition, without replacement.

    Cell types come in proportion to the condition's own cells (largest remainder), and within a cell type batches
    in proportion to its control cells: each batch gets its share, rounded down or up by chance, so that small batches
    are neither lost nor favoured. A cell type with fewer controls than its part of the draw gives each of them once,
    and the condition has that many fewer cells; none is ever repeated. Weights make up for that in every mean over
    drawn cells (:func:`type_weights`).

    A draw depends on the seed, the names and the control cells of its context and cell type; neither on the order of
    the cells nor on other conditions.

    Parameters
    ----------
    cells_obs
        ``perturbation``, ``context``, ``direction``, ``batch`` and ``cell_type`` of each cell, indexed by cell.
    split
        ``split.tsv``.
    per_perturbation
        Control cells for each test condition.
    seed, dataset, split_name
        What the draw depends on.

    Returns
    -------
    One row per drawn cell: ``perturbation``, ``context``, ``direction`` (the condition's), ``control_cell``, ``batch``,
    ``cell_type``, ``weight``, sorted by condition, cell type, batch and cell.

    Raises
    ------
    InputError
        If a test condition has no cell, or cells of a type of which its context has no control cell.
    """
    obs = cells_obs[["perturbation", "context", "direction", "batch", "cell_type"]].astype(str)
    pools = dict(iter(_pool(obs[obs["perturbation"] == CONTROL]).groupby(["context", "cell_type"])))
    tests, rows = conditions_of(split, "test"), rows_of(obs)
    numbers = _numbers_of_cells(obs, tests)
    drawn = []
    for i, condition in enumerate(tests):
        wanted = _largest_remainder(numbers.loc[i], per_perturbation)
        of_types = []
        for cell_type, number in wanted[wanted > 0].items():
            random = random_generator(seed, "controls", dataset, split_name, *condition.drawn_for, cell_type)
            of_types.append(_systematic_draw(pools[condition.context, cell_type], number, random))
        own = pd.concat(of_types)
        weight = type_weights(own["cell_type"], numbers.loc[i])
        direction = obs["direction"].iloc[rows[condition][0]]
        drawn.append(own.assign(**condition._asdict(), direction=direction, weight=weight))
    if not drawn:
        raise InputError("split.tsv", "role", "no test perturbation", "at least one")
    table = pd.concat(drawn, ignore_index=True)
    return table.sort_values([*COLUMNS, "cell_type", "batch", "control_cell"], ignore_index=True)[DRAW_COLUMNS]


def _pool(controls: pd.DataFrame) -> pd.DataFrame:
    """Sort control cells by the names of batch and cell, and add the rank of their batch."""
    pool = controls[["context", "batch", "cell_type"]].assign(control_cell=controls.index.astype(str))
    pool["batch_rank"] = pd.factorize(pool["batch"], sort=True)[0]
    return pool.sort_values(["batch_rank", "control_cell"], ignore_index=True)


def _numbers_of_cells(obs: pd.DataFrame, conditions: Sequence[Condition]) -> pd.DataFrame:
    """Count cells [conditions x cell types]; refuse a condition without a cell or without a control in its context."""
    codes = codes_of(obs, conditions)
    numbers = pd.crosstab(codes, obs["cell_type"].astype(str).to_numpy()).reindex(range(len(conditions)), fill_value=0)
    for condition, n_cells in zip(conditions, numbers.sum(axis=1), strict=True):
        if n_cells == 0:
            found = f"no cell of {condition.label!r}"
            raise InputError("cells.h5ad", "obs['perturbation']", found, "cells of every condition")
    controls = obs[obs["perturbation"] == CONTROL]
    with_controls = {*zip(context_of(controls), controls["cell_type"].astype(str), strict=True)}
    for cell_type in numbers.columns:
        for i in numbers.index[numbers[cell_type] > 0]:
            if (conditions[i].context, cell_type) not in with_controls:
                found = f"{numbers.loc[i, cell_type]} cells of {conditions[i].label!r} of type {cell_type!r}"
                found += ", but no control"
                raise InputError("cells.h5ad", "obs['cell_type']", found, "control cells of every cell type")
    return numbers


def _largest_remainder(weights: pd.Series, total: int) -> pd.Series:
    """Divide ``total`` in proportion to ``weights`` in whole numbers (Hamilton's method), ties to the first name."""
    weights = weights.sort_index()
    quotas = weights * total
    parts = quotas // weights.sum()
    remainders = (quotas % weights.sum()).sort_values(ascending=False, kind="stable")
    parts[remainders.index[: total - parts.sum()]] += 1
    return parts


def _systematic_draw(pool: pd.DataFrame, number: int, random: np.random.Generator) -> pd.DataFrame:
    """Draw ``number`` rows of ``pool``, or all: equally spaced, after shuffling within each batch.

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
    """Compute how much each cell counts in a mean over cells in which every cell type counts as ``shares`` says.

    Parameters
    ----------
    cell_types
        The type of each cell.
    shares
        What each cell type is to count, such as the number of a condition's own cells; only proportions matter.

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
    """Make the content of ``controls.h5ad``: the drawn cells of ``cells``, one row for each row of ``draw``.

    Returns
    -------
    X: CSR float32 [rows of draw x genes]; obs: the columns of ``draw``, indexed by ``<condition>:<control cell>``;
    varm["control_mean"]: float64 [genes x conditions], the mean of all control cells that each is compared with;
    uns["control_mean_of"]: the ``perturbation`` and ``context`` of its columns, sorted. (Names of columns would have to
    fit into 64 KB.)
    """
    rows = cells.obs_names.get_indexer(draw["control_cell"])
    if (rows < 0).any():
        absent = draw["control_cell"].iloc[int(np.argmin(rows))]
        raise InputError("cells.h5ad", "obs_names", f"no cell {absent!r}", "every drawn control cell")
    names = [f"{condition.label}:{cell}" for condition, cell in zip(listed(draw), draw["control_cell"], strict=True)]
    X = sparse.csr_matrix(rows_of_cells(cells.X, rows), dtype=np.float32)
    conditions = conditions_of(draw)
    means = {"control_mean": np.ascontiguousarray(matched_control_mean(cells, conditions).T)}
    obs, var = draw[DRAW_COLUMNS].set_axis(names), pd.DataFrame(index=cells.var_names)
    return anndata.AnnData(X, obs=obs, var=var, varm=means, uns={"control_mean_of": table_of(conditions)})


def control_means_of(controls: anndata.AnnData) -> dict[Condition, np.ndarray]:
    """Read the control mean of each condition of ``controls.h5ad``: float64 [genes]; conditions are sorted."""
    conditions = listed(controls.uns["control_mean_of"])
    return dict(zip(conditions, np.asarray(controls.varm["control_mean"]).T, strict=True))


def matched_control_mean(cells: anndata.AnnData, conditions: Sequence[Condition]) -> np.ndarray:
    """Average the control cells that each condition is compared with: all of its context and cell types.

    The mean control cell of each type, weighted by the condition's own cells of that type, so that a perturbation
    measured in one cell type is not compared with another.

    Returns
    -------
    float64 [conditions x genes]

    Raises
    ------
    InputError
        If a condition has no cell, or cells of a type of which its context has no control cell.
    """
    obs = cells.obs
    numbers = _numbers_of_cells(obs, conditions)
    shares = numbers.div(numbers.sum(axis=1), axis=0)
    contexts = np.array([condition.context for condition in conditions], dtype=object)
    cell_types, own_rows = obs["cell_type"].astype(str).to_numpy(), rows_of(obs)
    result = np.zeros((len(conditions), cells.n_vars))
    for context in sorted(set(contexts)):
        here, controls = contexts == context, own_rows[Condition(CONTROL, context)]
        for cell_type in shares.columns[shares[here].any()]:
            # One product per cell type: a matrix product's last bits would depend on which conditions are asked for.
            mean = _mean_of_rows(cells.X, controls[cell_types[controls] == cell_type])
            result[here] += np.outer(shares.loc[here, cell_type], mean)
    return result


def _mean_of_rows(X: Any, rows: np.ndarray) -> np.ndarray:
    group = np.full(X.shape[0], -1)
    group[rows] = 0
    total = np.zeros((1, X.shape[1]))
    for start, chunk in row_chunks(X, read=group == 0):
        add_rows(total, chunk, group[start : start + chunk.shape[0]])
    return total[0] / len(rows)
