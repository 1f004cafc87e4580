"""What every method hands over: one predicted cell per test condition and drawn control cell.

The contract of ``predictions.h5ad`` is written and checked here and nowhere else. A method hands over one condition, or
a part of one, at a time: neither a method nor what reads its file has all predicted cells in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import COLUMNS, Condition, conditions_of, listed, rows_of, table_of
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.on_disk import CellWriter, dense_rows, open_h5ad, row_chunks, with_categories
from scgpt_bench.errors import InputError

Write: TypeAlias = Callable[[np.ndarray, pd.DataFrame], None]  # the next cells [rows x genes], and ``obs`` of them
OBS_COLUMNS = [*COLUMNS, "control_cell", "weight"]


def anchored_cells(
    controls: sparse.csr_matrix | np.ndarray, weights: np.ndarray, control_mean: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Move the control cells drawn for one condition until their mean is ``control_mean + shift``.

    Each cell is ``control + shift + (control_mean - mean of the drawn cells)``: the cells keep their spread, and the
    noise of the draw (100 of thousands of control cells) does not enter the predicted pseudo-bulk. Values are not
    clipped at 0, since that would move the mean.

    Parameters
    ----------
    controls
        Drawn control cells [cells x genes], log1p scale, sparse or dense.
    weights
        How much each counts in their mean (:func:`mean_cell`) [cells].
    control_mean
        Mean of all control cells that the condition is compared with [genes].
    shift
        Predicted change of the mean [genes].

    Returns
    -------
    float32 [cells x genes]
    """
    dense = controls.toarray() if sparse.issparse(controls) else np.asarray(controls)
    drawn_mean = mean_cell(dense, weights)
    return (dense + (np.asarray(control_mean) - drawn_mean + np.asarray(shift))).astype(np.float32)


def shifted_controls(
    controls: anndata.AnnData,
    conditions: Sequence[Condition],
    control_means: np.ndarray,
    shifts: np.ndarray,
    *,
    write: Write,
) -> None:
    """Write anchored cells for every row of ``controls.h5ad``, from one shift per condition.

    Parameters
    ----------
    controls
        The contract's ``controls.h5ad``, whose X may stay on disk: drawn control cells, their conditions and
        ``obs["weight"]``.
    conditions
        Of the rows of ``control_means`` and ``shifts``.
    control_means, shifts
        float64 [conditions x genes].
    write
        Is given the cells of each condition, in the order of ``conditions``.
    """
    rows = rows_of(controls.obs)
    if set(rows) != set(conditions):
        different = sorted(set(rows) ^ set(conditions))[0].label
        raise InputError("controls.h5ad", "obs['perturbation']", f"a difference in {different!r}", "test conditions")
    for condition, control_mean, shift in zip(conditions, control_means, shifts, strict=True):
        own = controls.obs.iloc[rows[condition]]
        cells = dense_rows(controls.X, rows[condition])
        write(anchored_cells(cells, own["weight"].to_numpy(), control_mean, shift), own)


@contextmanager
def writing(path: str | Path, var_names: Sequence[str]) -> Iterator[Write]:
    """Write ``predictions.h5ad`` block by block, whole or not at all. The blocks change no byte of the file.

    Yields
    ------
    The function that writes the next rows. Of predicted cells [rows x genes], in the scale of ``cells.h5ad``, it stores
    float32; of ``obs``, one row per predicted cell, the columns ``perturbation``, ``context``, ``control_cell`` and
    ``weight``, how much it counts in means (:func:`mean_cell`).

    Raises
    ------
    InputError
        For a value that is not finite: its condition and gene.
    """
    written = []
    with CellWriter(path, len(var_names)) as file:

        def write(cells: np.ndarray, obs: pd.DataFrame) -> None:
            if not np.isfinite(cells).all():
                row, gene = np.argwhere(~np.isfinite(cells))[0]
                where = f"{listed(obs)[row].label}, gene {var_names[gene]}"
                raise InputError(path, where, str(cells[row, gene]), "finite predictions")
            file.append(cells)
            written.append(obs[OBS_COLUMNS].set_axis(obs.index.astype(str)))

        yield write
        texts = dict.fromkeys([*COLUMNS, "control_cell"], object)  # blocks may have other categories
        file.obs = with_categories(pd.concat(written).astype(texts))
        file.var = pd.DataFrame(index=pd.Index(var_names, dtype=object))


def mean_cell_obs(obs: pd.DataFrame) -> pd.DataFrame:
    """Make the ``obs`` of predictions that hold one mean cell per condition, in the order of conditions."""
    rows = rows_of(obs)
    cells = [f"mean of {len(own)} control cells" for own in rows.values()]
    return table_of([*rows]).assign(control_cell=cells, weight=1.0)


def read_predictions(path: str | Path, var_names: Sequence[str], split: pd.DataFrame) -> anndata.AnnData:
    """Open ``predictions.h5ad`` and refuse what breaks its contract.

    X stays on disk: :func:`scgpt_bench.data.on_disk.dense_rows` reads the cells of a condition.

    Parameters
    ----------
    var_names
        The genes of ``cells.h5ad``, in order.
    split
        ``split.tsv``; every test condition must be predicted, and no other.

    Raises
    ------
    InputError
        For other genes or another order, missing or extra conditions, missing columns, or values that are not
        finite.
    """
    predictions = open_h5ad(path)
    _check_genes(path, list(predictions.var_names), list(var_names))
    for column in OBS_COLUMNS:
        if column not in predictions.obs:
            found = ", ".join(map(str, predictions.obs.columns)) or "no columns"
            raise InputError(path, "obs", found, f"the column {column!r}")
    predicted, wanted = set(rows_of(predictions.obs)), set(conditions_of(split, "test"))
    if wanted - predicted:
        found = f"no cell of {min(wanted - predicted).label!r}"
        raise InputError(path, "obs['perturbation']", found, "every test condition")
    if predicted - wanted:
        found = repr(min(predicted - wanted).label)
        raise InputError(path, "obs['perturbation']", found, "test conditions only")
    chunks = (chunk.data if sparse.issparse(chunk) else chunk for _, chunk in row_chunks(predictions.X))
    if wrong := sum(int((~np.isfinite(values)).sum()) for values in chunks):
        raise InputError(path, "X", f"{wrong} NaN or infinite values", "finite predictions")
    return predictions


def gather(shards: Sequence[anndata.AnnData], *, write: Write) -> None:
    """Put the shards of a prediction together, conditions sorted. Each has whole conditions; X may be on disk."""
    found = {condition: (shard, rows) for shard in shards for condition, rows in rows_of(shard.obs).items()}
    for _, (shard, rows) in sorted(found.items()):
        write(dense_rows(shard.X, rows), shard.obs.iloc[rows])


def _check_genes(path: str | Path, found: list[str], expected: list[str]) -> None:
    if found == expected:
        return
    if sorted(found) == sorted(expected):
        first = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        raise InputError(
            path, f"var_names[{first}]", repr(found[first]), f"{expected[first]!r}: the order of cells.h5ad"
        )
    missing, extra = set(expected) - set(found), set(found) - set(expected)
    example = f"missing {sorted(missing)[0]!r}" if missing else f"extra {sorted(extra)[0]!r}"
    raise InputError(path, "var_names", f"{len(found)} genes ({example})", f"the {len(expected)} genes of cells.h5ad")
