"""What every method hands over: one predicted cell per test condition and drawn control cell.

The contract of ``predictions.h5ad`` is written and checked here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import COLUMNS, Condition, conditions_of, listed, rows_of, table_of
from scgpt_bench.data.means import mean_cell
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_h5ad, write_h5ad

if TYPE_CHECKING:
    import anndata

OBS_COLUMNS = [*COLUMNS, "control_cell", "weight"]


def anchored_cells(
    controls: sparse.csr_matrix | np.ndarray, weights: np.ndarray, control_mean: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Control cells drawn for one condition, moved so that their mean is ``control_mean + shift``.

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
    controls: anndata.AnnData, conditions: Sequence[Condition], control_means: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Anchored cells for every row of ``controls.h5ad``, from one shift per condition.

    Parameters
    ----------
    controls
        The contract's ``controls.h5ad``: drawn control cells, their conditions and ``obs["weight"]``.
    conditions
        Of the rows of ``control_means`` and ``shifts``.
    control_means, shifts
        float64 [conditions x genes].

    Returns
    -------
    float32 [drawn cells x genes], in the order of ``controls``.
    """
    rows = rows_of(controls.obs)
    if set(rows) != set(conditions):
        different = sorted(set(rows) ^ set(conditions))[0].label
        raise InputError("controls.h5ad", "obs['perturbation']", f"a difference in {different!r}", "test conditions")
    cells, weights = np.empty(controls.shape, dtype=np.float32), controls.obs["weight"].to_numpy()
    for condition, control_mean, shift in zip(conditions, control_means, shifts, strict=True):
        own = rows[condition]
        cells[own] = anchored_cells(controls.X[own], weights[own], control_mean, shift)
    return cells


def write_predictions(path: str | Path, X: np.ndarray, obs: pd.DataFrame, var_names: Sequence[str]) -> None:
    """Write ``predictions.h5ad``, whole or not at all.

    Parameters
    ----------
    X
        Predicted cells [rows x genes], in the scale of ``cells.h5ad``; stored as float32.
    obs
        One row per predicted cell with ``perturbation``, ``context``, ``control_cell`` and ``weight``, how much it
        counts in means (:func:`mean_cell`); other columns are not stored.
    """
    import anndata

    X = np.ascontiguousarray(X, dtype=np.float32)
    if not np.isfinite(X).all():
        row, gene = np.argwhere(~np.isfinite(X))[0]
        where = f"{listed(obs)[row].label}, gene {var_names[gene]}"
        raise InputError(path, where, str(X[row, gene]), "finite predictions")
    obs = obs[OBS_COLUMNS].set_axis(obs.index.astype(str))
    var = pd.DataFrame(index=pd.Index(var_names, dtype=object))
    predictions = anndata.AnnData(X, obs=obs, var=var)
    write_h5ad(predictions, path)


def mean_cell_obs(obs: pd.DataFrame) -> pd.DataFrame:
    """Make the ``obs`` of predictions that hold one mean cell per condition, in the order of conditions."""
    rows = rows_of(obs)
    cells = [f"mean of {len(own)} control cells" for own in rows.values()]
    return table_of([*rows]).assign(control_cell=cells, weight=1.0)


def read_predictions(path: str | Path, var_names: Sequence[str], split: pd.DataFrame) -> anndata.AnnData:
    """Read ``predictions.h5ad`` and refuse what breaks its contract.

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
    predictions = read_h5ad(path)
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
    values = predictions.X.data if sparse.issparse(predictions.X) else predictions.X
    if not np.isfinite(values).all():
        raise InputError(path, "X", f"{(~np.isfinite(values)).sum()} NaN or infinite values", "finite predictions")
    return predictions


def gather(shards: Sequence[anndata.AnnData], row_names: Sequence[str]) -> anndata.AnnData:
    """Put the shards of a prediction together, rows in the order of ``row_names``."""
    import anndata

    return anndata.concat(shards)[list(row_names)]


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
