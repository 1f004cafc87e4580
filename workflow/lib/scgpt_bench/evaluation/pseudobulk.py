"""Means over the cells of each perturbation, measured or predicted."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import codes_of, conditions_of, table_of
from scgpt_bench.data.controls import matched_control_mean
from scgpt_bench.data.means import condition_means, first_half, group_means, mean_cell


def responses(cells: anndata.AnnData) -> tuple[list[str], pd.DataFrame]:
    """What every perturbation of a data set did: its pseudo-bulk minus the matched control mean.

    Returns
    -------
    perturbations : sorted by name, without ``control``
    deltas : float64 [perturbations x genes]
    """
    conditions = conditions_of(cells.obs)
    deltas = condition_means(cells, conditions)[0] - matched_control_mean(cells, conditions)
    names = [condition.label for condition in conditions]
    return names, pd.DataFrame(deltas, index=names, columns=cells.var_names)


def truth(cells: anndata.AnnData, split: pd.DataFrame) -> anndata.AnnData:
    """The measured answer: test perturbations x genes.

    Returns
    -------
    AnnData, perturbations sorted by name, with

    - ``X``: the pseudo-bulk means (float64);
    - ``layers["control"]``: the mean of all control cells that each perturbation is compared with;
    - ``layers["centroid"]``: the same plus the mean shift of the training perturbations, the reference of
      ``pearson_delta_centroid``;
    - ``layers["half_b"]``: the mean of the second half of its cells (all but :func:`means.first_half`), against which a
      technical duplicate is scored;
    - ``obs["n_cells"]``.
    """
    conditions = conditions_of(split, "test")
    means, n_cells = condition_means(cells, conditions)
    control = np.asarray(matched_control_mean(cells, conditions), dtype=np.float64)
    codes = np.where(first_half(cells.obs, conditions), -1, codes_of(cells.obs, conditions))
    layers = {
        "control": control,
        "centroid": control + _mean_training_shift(cells, split),
        "half_b": group_means(cells.X, codes, range(len(conditions)))[0],
    }
    obs = table_of(conditions).assign(n_cells=n_cells).rename_axis("condition")
    return anndata.AnnData(means, obs=obs, var=pd.DataFrame(index=cells.var_names), layers=layers)


def _mean_training_shift(cells: anndata.AnnData, split: pd.DataFrame) -> np.ndarray:
    conditions = conditions_of(split, "train")
    return (condition_means(cells, conditions)[0] - matched_control_mean(cells, conditions)).mean(axis=0)


def pseudobulk(predictions: anndata.AnnData) -> anndata.AnnData:
    """The mean predicted cell of each perturbation, sorted by name, with ``obs["n_cells"]`` and ``uns["method"]``.

    Predicted cells count in it by their ``weight`` (:func:`means.mean_cell`).
    """
    rows_of = predictions.obs.groupby(predictions.obs["perturbation"].astype(str)).indices
    perturbations, weights = sorted(rows_of), predictions.obs["weight"].to_numpy()
    means = [mean_cell(predictions.X[rows_of[name]], weights[rows_of[name]]) for name in perturbations]
    n_cells = [len(rows_of[name]) for name in perturbations]
    obs = pd.DataFrame({"n_cells": n_cells}, index=pd.Index(perturbations, name="perturbation"))
    var = pd.DataFrame(index=predictions.var_names)
    return anndata.AnnData(np.stack(means), obs=obs, var=var, uns={"method": predictions.uns["method"]})
