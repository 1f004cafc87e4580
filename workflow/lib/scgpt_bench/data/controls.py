"""Which control cells of its context a condition is compared with, and which of them every method starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import (
    COLUMNS,
    Condition,
    conditions_of,
    context_of,
    listed,
    rows_of,
    table_of,
)
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import CellWriter, batches, open_h5ad, with_categories
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.data.references import references
from scgpt_bench.errors import InputError
from scgpt_bench.seeding import random_generator

DRAW_COLUMNS = ["perturbation", "context", "direction", "control_cell", "batch", "cell_type", "weight"]


def draw_controls(
    cells_obs: pd.DataFrame,
    split: pd.DataFrame,
    *,
    per_perturbation: int,
    seed: int,
    dataset: str,
    split_name: str,
    direction_of: Mapping[Condition, str] | None = None,
) -> pd.DataFrame:
    """Draw control cells of its context for every test condition, without replacement.

    Only of the half ``input``. Cell types come in proportion to the condition's own cells (largest remainder), and so
    do batches within a cell type: each gets its share, rounded down or up by chance. A condition that nobody measured
    has the shares of the control cells. Where a batch has too few controls, others of the type stand in. A cell type
    with fewer controls than its part of the draw gives each of them once, and the condition has that many fewer cells;
    none is ever repeated. Weights make up for that in every mean over drawn cells (:func:`type_weights`).

    A draw depends on the seed, the names and the control cells of its context and cell type; neither on the order of
    the cells nor on other conditions.

    Parameters
    ----------
    cells_obs
        ``perturbation``, ``context``, ``direction``, ``batch``, ``cell_type`` and ``half`` of each cell, by name.
    split
        ``split.tsv``.
    per_perturbation
        Control cells for each test condition.
    seed, dataset, split_name
        What the draw depends on.
    direction_of
        The direction of conditions that nobody measured; no other condition may be without a cell.

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
    pools = dict(iter(_pool(obs[is_control_of(cells_obs, INPUT)]).groupby(["context", "cell_type"])))
    tests, rows, directions = conditions_of(split, "test"), rows_of(obs), dict(direction_of or {})
    of_controls = is_control_of(cells_obs, INPUT)
    for condition in directions.keys() - rows.keys():
        own = rows.get(Condition(CONTROL, condition.context), np.empty(0, dtype=np.int64))
        rows[condition] = own[of_controls[own]]
    numbers = _numbers_of_cells(cells_obs, {condition: rows.get(condition, ()) for condition in tests})
    batches, types = obs["batch"].to_numpy(), obs["cell_type"].to_numpy()
    drawn = []
    for i, condition in enumerate(tests):
        wanted = _largest_remainder(numbers.loc[i], per_perturbation)
        of_types = []
        for cell_type, number in wanted[wanted > 0].items():
            random = random_generator(seed, "controls", dataset, split_name, *condition.drawn_for, cell_type)
            own_rows = rows[condition][types[rows[condition]] == cell_type]
            of_types.append(_draw_by_batch(pools[condition.context, cell_type], number, batches[own_rows], random))
        own = pd.concat(of_types)
        weight = type_weights(own["cell_type"], numbers.loc[i])
        direction = directions.get(condition, obs["direction"].iloc[rows[condition][0]])
        drawn.append(own.assign(**condition._asdict(), direction=direction, weight=weight))
    if not drawn:
        raise InputError("split.tsv", "role", "no test perturbation", "at least one")
    table = pd.concat(drawn, ignore_index=True)
    return table.sort_values([*COLUMNS, "cell_type", "batch", "control_cell"], ignore_index=True)[DRAW_COLUMNS]


def _pool(controls: pd.DataFrame) -> pd.DataFrame:
    """Sort control cells by the names of batch and cell."""
    pool = controls[["context", "batch", "cell_type"]].assign(control_cell=controls.index.astype(str))
    return pool.sort_values(["batch", "control_cell"], ignore_index=True)


def _numbers_of_cells(obs: pd.DataFrame, rows: Mapping[Condition, Sequence[int]]) -> pd.DataFrame:
    """Count cells [conditions x cell types]; refuse a condition without a cell or without a control in its context."""
    conditions, types = [*rows], pd.Categorical(obs["cell_type"].astype(str))
    counts = [np.bincount(types.codes[list(own)], minlength=len(types.categories)) for own in rows.values()]
    numbers = pd.DataFrame(counts, columns=list(types.categories), dtype=np.int64)
    for condition, n_cells in zip(conditions, numbers.sum(axis=1), strict=True):
        if n_cells == 0:
            found = f"no cell of {condition.label!r}"
            raise InputError("cells.h5ad", "obs['perturbation']", found, "cells of every condition")
    controls = obs[is_control_of(obs, INPUT)]
    with_controls = {*zip(context_of(controls), controls["cell_type"].astype(str), strict=True)}
    for cell_type in numbers.columns:
        for i in numbers.index[numbers[cell_type] > 0]:
            if (conditions[i].context, cell_type) not in with_controls:
                found = f"{numbers.loc[i, cell_type]} cells of {conditions[i].label!r} of type {cell_type!r}"
                found += ", but no control"
                raise InputError(
                    "cells.h5ad", "obs['cell_type']", found, "control cells of every cell type, two at least"
                )
    return numbers


def _largest_remainder(weights: pd.Series, total: int) -> pd.Series:
    """Divide ``total`` in proportion to ``weights`` in whole numbers (Hamilton's method), ties to the first name."""
    weights = weights.sort_index()
    quotas = weights * total
    parts = quotas // weights.sum()
    remainders = (quotas % weights.sum()).sort_values(ascending=False, kind="stable")
    parts[remainders.index[: total - parts.sum()]] += 1
    return parts


def _draw_by_batch(pool: pd.DataFrame, number: int, batches: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """Draw ``number`` rows of ``pool``, or all, by the shares of ``batches``, those of the condition's own cells.

    Each batch gets its share of the draw, rounded down or up by chance. What its control cells are too few for is drawn
    from all others of the pool, by their batches. No cell is drawn twice: all positions are whole numbers.
    """
    number = min(number, len(pool))
    wanted = pd.Series(np.sort(batches)[_equally_spaced(len(batches), number, random)]).value_counts()
    shuffled = random.permutation(len(pool))
    shuffled = shuffled[np.argsort(pool["batch"].to_numpy()[shuffled], kind="stable")]
    of_batch = pool["batch"].iloc[shuffled]
    chosen = (of_batch.groupby(of_batch).cumcount() < of_batch.map(wanted).fillna(0)).to_numpy()
    others = shuffled[~chosen]
    more = others[_equally_spaced(len(others), number - chosen.sum(), random)]
    return pool.iloc[np.concatenate([shuffled[chosen], more])]


def _equally_spaced(n: int, number: int, random: np.random.Generator) -> np.ndarray:
    """Positions among ``n``, equally spaced from a random start; each once, where ``number`` is at most ``n``."""
    return (random.integers(n) + np.arange(number) * n) // number if number else np.empty(0, dtype=np.int64)


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
    varm["control_mean"]: float64 [genes x conditions], ``reference_input`` of each (:mod:`references`);
    uns["control_mean_of"]: the ``perturbation`` and ``context`` of its columns, sorted. (Names of columns would have to
    fit into 64 KB.)
    """
    X = sparse.csr_matrix(rows_of_cells(cells.X, _rows_of_drawn(cells, draw)), dtype=np.float32)
    return anndata.AnnData(X, **_described(cells, draw))


def write_control_cells(cells: anndata.AnnData, draw: pd.DataFrame, path: str | Path) -> None:
    """Write what :func:`control_cells` makes, holding each drawn cell once, however often it is drawn."""
    distinct, position = np.unique(_rows_of_drawn(cells, draw), return_inverse=True)
    drawn, described = rows_of_cells(cells.X, distinct), _described(cells, draw)
    with CellWriter(path, cells.n_vars) as file:
        for part in batches(np.ones(len(position), dtype=np.int64), cells.n_vars):
            file.append(drawn[position[part]])
        file.obs, file.var = with_categories(described["obs"]), described["var"]
        file.varm, file.uns = described["varm"], described["uns"]


def _rows_of_drawn(cells: anndata.AnnData, draw: pd.DataFrame) -> np.ndarray:
    rows = cells.obs_names.get_indexer(draw["control_cell"])
    if (rows < 0).any():
        absent = draw["control_cell"].iloc[int(np.argmin(rows))]
        raise InputError("cells.h5ad", "obs_names", f"no cell {absent!r}", "every drawn control cell")
    return rows


def _described(cells: anndata.AnnData, draw: pd.DataFrame) -> dict[str, Any]:
    """Make all of controls.h5ad but X."""
    conditions = conditions_of(draw)
    names = [f"{condition.label}:{cell}" for condition, cell in zip(listed(draw), draw["control_cell"], strict=True)]
    return {
        "obs": draw[DRAW_COLUMNS].set_axis(names),
        "var": pd.DataFrame(index=cells.var_names),
        "varm": {"control_mean": np.ascontiguousarray(references(cells, conditions, INPUT).T)},
        "uns": {"control_mean_of": table_of(conditions)},
    }


def open_controls(path: str | Path) -> anndata.AnnData:
    """Open ``controls.h5ad``, X on disk."""
    return open_h5ad(path, uns=["control_mean_of"], varm=["control_mean"])


def control_means_of(controls: anndata.AnnData) -> dict[Condition, np.ndarray]:
    """Read the control mean of each condition of ``controls.h5ad``: float64 [genes]; conditions are sorted."""
    conditions = listed(controls.uns["control_mean_of"])
    return dict(zip(conditions, np.asarray(controls.varm["control_mean"]).T, strict=True))
