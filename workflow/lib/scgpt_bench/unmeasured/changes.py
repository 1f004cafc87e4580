"""Predicted changes, gene by gene."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import rows_of
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.on_disk import rows

CHANGE_COLUMNS = ["perturbation", "context", "gene", "change", "spread"]


def changes(predictions: Sequence[anndata.AnnData], controls: anndata.AnnData) -> pd.DataFrame:
    """Compute the predicted change of every gene under every condition: predicted mean minus control mean.

    Parameters
    ----------
    predictions
        ``predictions.h5ad`` of every seed, in memory or on disk; cells are read one condition at a time.
    controls
        ``controls.h5ad``.

    Returns
    -------
    Columns ``CHANGE_COLUMNS``, sorted by condition, genes in their order. ``change``: float32, log1p scale, the mean
    over seeds; ``spread``: float32, the standard deviation over seeds, missing for a single one.
    """
    own_rows = [rows_of(one.obs) for one in predictions]
    weights = [one.obs["weight"].to_numpy() for one in predictions]
    blocks = []
    for condition, control_mean in control_means_of(controls).items():
        found = np.array(
            [
                mean_cell(rows(one.X, own[condition]), weight[own[condition]]) - control_mean
                for one, own, weight in zip(predictions, own_rows, weights, strict=True)
            ]
        )
        spread = found.std(axis=0, ddof=1) if len(found) > 1 else np.full(found.shape[1], np.nan)
        block = {"gene": controls.var_names, "change": found.mean(axis=0), "spread": spread}
        blocks.append(pd.DataFrame({**condition._asdict(), **block}))
    table = pd.concat(blocks, ignore_index=True)
    names = {name: pd.Categorical(table[name]) for name in ("perturbation", "context", "gene")}
    numbers = {name: table[name].astype(np.float32) for name in ("change", "spread")}
    return table.assign(**names, **numbers)[CHANGE_COLUMNS]


def largest(changes: pd.DataFrame, number: int = 100) -> pd.DataFrame:
    """Select the largest changes of each condition, up or down, the largest first; ties in the order of genes."""
    order = changes.assign(size=changes["change"].abs()).sort_values("size", ascending=False, kind="stable")
    kept = order.groupby(["perturbation", "context"], observed=True, sort=False).head(number)
    kept = kept.sort_values(["perturbation", "context"], kind="stable")
    texts = {name: kept[name].astype(str) for name in ("perturbation", "context", "gene")}
    return kept.drop(columns="size").assign(**texts).reset_index(drop=True)
