"""Predicted changes, gene by gene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from scgpt_bench.data.conditions import COLUMNS, rows_of
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.on_disk import dense_rows

CHANGE_COLUMNS = ["perturbation", "context", "gene", "change", "spread"]


def changes(predictions: Sequence[anndata.AnnData], controls: anndata.AnnData) -> Iterator[pd.DataFrame]:
    """Compute the predicted change of every gene, condition by condition: predicted mean minus control mean.

    Parameters
    ----------
    predictions
        ``predictions.h5ad`` of every seed, in memory or on disk; cells are read one condition at a time.
    controls
        ``controls.h5ad``, of which no cell is read.

    Yields
    ------
    A table for each condition, sorted: columns ``CHANGE_COLUMNS``, genes in their order. ``change``: float32, log1p
    scale, the mean over seeds; ``spread``: float32, the standard deviation over seeds, missing for a single one. Names
    are categorical, with the same categories in every table.
    """
    own_rows = [rows_of(one.obs) for one in predictions]
    weights = [one.obs["weight"].to_numpy() for one in predictions]
    control_means = control_means_of(controls)
    names = {name: sorted({getattr(one, name) for one in control_means}) for name in COLUMNS}
    genes = pd.Categorical(controls.var_names, categories=sorted(controls.var_names))
    for condition, control_mean in control_means.items():
        found = np.array(
            [
                mean_cell(dense_rows(one.X, own[condition]), weight[own[condition]]) - control_mean
                for one, own, weight in zip(predictions, own_rows, weights, strict=True)
            ]
        )
        spread = found.std(axis=0, ddof=1) if len(found) > 1 else np.full(found.shape[1], np.nan)
        own_names = {
            name: pd.Categorical.from_codes(np.full(len(genes), names[name].index(value)), names[name])
            for name, value in condition._asdict().items()
        }
        numbers = {"change": found.mean(axis=0).astype(np.float32), "spread": spread.astype(np.float32)}
        yield pd.DataFrame({**own_names, "gene": genes, **numbers})[CHANGE_COLUMNS]


def write(changes: Iterator[pd.DataFrame], path: str | Path) -> pd.DataFrame:
    """Write changes to a Parquet file, a row group for each condition, and select the :func:`largest` of each."""
    first, few = next(changes), []
    schema = pa.Schema.from_pandas(first, preserve_index=False)
    with parquet.ParquetWriter(path, schema) as file:
        for table in chain([first], changes):
            file.write_table(pa.Table.from_pandas(table, schema))
            few.append(largest(table))
    return pd.concat(few, ignore_index=True)


def largest(changes: pd.DataFrame, number: int = 100) -> pd.DataFrame:
    """Select the largest changes of each condition, up or down, the largest first; ties in the order of genes."""
    order = changes.assign(size=changes["change"].abs()).sort_values("size", ascending=False, kind="stable")
    kept = order.groupby(["perturbation", "context"], observed=True, sort=False).head(number)
    kept = kept.sort_values(["perturbation", "context"], kind="stable")
    texts = {name: kept[name].astype(str) for name in ("perturbation", "context", "gene")}
    return kept.drop(columns="size").assign(**texts).reset_index(drop=True)
