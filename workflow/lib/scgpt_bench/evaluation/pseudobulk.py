"""Means over the cells of each condition, measured or predicted."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, contexts_of, rows_of, table_of
from scgpt_bench.data.controls import matched_control_mean
from scgpt_bench.data.means import condition_means, first_half, group_means, mean_cell


def responses(cells: anndata.AnnData) -> pd.DataFrame:
    """Measure what every condition of a data set did: its pseudo-bulk minus the matched control mean.

    Returns
    -------
    float64 [conditions x genes], conditions sorted, indexed by their labels.
    """
    conditions = conditions_of(cells.obs)
    deltas = condition_means(cells, conditions)[0] - matched_control_mean(cells, conditions)
    return pd.DataFrame(deltas, index=table_of(conditions).index, columns=cells.var_names)


def truth(cells: anndata.AnnData, split: pd.DataFrame) -> anndata.AnnData:
    """Measure the test conditions: the answer [conditions x genes].

    Returns
    -------
    AnnData, conditions sorted, with

    - ``X``: the pseudo-bulk means (float64);
    - ``layers["control"]``: the mean of all control cells that each condition is compared with;
    - ``layers["centroid"]``: the same plus the mean shift of the training conditions of the context (of all contexts,
      where training has none of its own), the reference of ``pearson_delta_centroid``;
    - ``layers["half_b"]``: the mean of the second half of its cells (all but :func:`means.first_half`), against which a
      technical duplicate is scored;
    - ``obs``: ``perturbation``, ``context``, ``tested`` and ``n_cells``.
    """
    conditions = conditions_of(split, "test")
    answer = _measured(cells, conditions)
    second_half = codes_of(cells.obs, conditions)
    second_half[first_half(cells.obs, conditions)] = -1
    shifts = _mean_training_shifts(cells, split)
    answer.layers["centroid"] = answer.layers["control"] + np.array([shifts[name] for name in answer.obs["context"]])
    answer.layers["half_b"] = group_means(cells.X, second_half, range(len(conditions)))[0]
    answer.obs["tested"] = True
    return answer


def add_untested(truth: anndata.AnnData, cells: anndata.AnnData) -> anndata.AnnData:
    """Append all other conditions of the data set to :func:`truth`, means and controls: the content of ``truth.h5ad``.

    What only a tested condition has is NaN in their rows, and -1 where it is a rank. :func:`select_tested` undoes it.
    """
    tested = set(conditions_of(truth.obs))
    others = _measured(cells, [condition for condition in conditions_of(cells.obs) if condition not in tested])
    others.obs["tested"] = False
    layers = {}
    for name, layer in truth.layers.items():
        missing = np.full(others.shape, -1 if layer.dtype.kind == "i" else np.nan, dtype=layer.dtype)
        layers[name] = np.concatenate([layer, others.layers.get(name, missing)])
    return anndata.AnnData(
        np.concatenate([truth.X, others.X]),
        obs=pd.concat([truth.obs, others.obs]),
        var=truth.var,
        layers=layers,
        varm=dict(truth.varm),
        uns=dict(truth.uns),
    )


def select_tested(truth: anndata.AnnData) -> anndata.AnnData:
    """Select the test conditions of ``truth.h5ad``."""
    return truth[truth.obs["tested"].to_numpy()].copy()


def _measured(cells: anndata.AnnData, conditions: list[Condition]) -> anndata.AnnData:
    """Means, controls and numbers of cells of some conditions."""
    means, n_cells = condition_means(cells, conditions)
    control = np.asarray(matched_control_mean(cells, conditions), dtype=np.float64)
    obs = table_of(conditions).assign(n_cells=n_cells)
    if "direction" in cells.obs:
        rows, directions = rows_of(cells.obs), cells.obs["direction"].astype(str).to_numpy()
        obs["direction"] = [directions[rows[condition][0]] for condition in conditions]
    return anndata.AnnData(means, obs=obs, var=pd.DataFrame(index=cells.var_names), layers={"control": control})


def _mean_training_shifts(cells: anndata.AnnData, split: pd.DataFrame) -> dict[str, np.ndarray]:
    """The mean shift of the training conditions, by context."""
    conditions = conditions_of(split, "train")
    shifts = condition_means(cells, conditions)[0] - matched_control_mean(cells, conditions)
    contexts = np.array([condition.context for condition in conditions])
    own = {name: contexts == name for name in contexts_of(split)}
    return {name: shifts[rows if rows.any() else slice(None)].mean(axis=0) for name, rows in own.items()}


def pseudobulk(predictions: anndata.AnnData) -> anndata.AnnData:
    """Average the predicted cells of each condition; sorted, with ``obs["n_cells"]``.

    Predicted cells count in it by their ``weight`` (:func:`means.mean_cell`).
    """
    rows, weights = rows_of(predictions.obs), predictions.obs["weight"].to_numpy()
    means = [mean_cell(predictions.X[own], weights[own]) for own in rows.values()]
    obs = table_of([*rows]).assign(n_cells=[len(own) for own in rows.values()])
    var = pd.DataFrame(index=predictions.var_names)
    return anndata.AnnData(np.stack(means), obs=obs, var=var)
