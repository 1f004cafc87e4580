"""The floor is a mean over many ways to deal out the responses of other conditions.

A single one depends on who happens to get whose response: in the demo one scores -0.13 in ``effect_pearson``, the mean
over all pairs of test perturbations 0.00.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, codes_of, conditions_of
from scgpt_bench.evaluation.cell_metrics import score_cells
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.evaluation.pseudobulk import pseudobulk, select_tested
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.methods.benchmark_controls import shuffles


def every_metric(predictions: anndata.AnnData, truth: anndata.AnnData, record: MethodRecord) -> pd.DataFrame:
    """Compute the metrics of pseudo-bulks and of cells: the content of ``metrics.tsv``.

    Parameters and table as in :func:`mean_over_shuffles`, by which the floor is scored; the record of the method says
    whether it is the floor, or a technical duplicate. ``truth`` has all conditions: ``truth.h5ad``.
    """
    tested = select_tested(truth)

    def of_cells(cells: anndata.AnnData) -> pd.DataFrame:
        of_means = score(pseudobulk(cells), truth, record.halved)
        return pd.concat([of_means, score_cells(cells, tested, record.halved)])

    if not record.shuffles:
        return of_cells(predictions)
    return mean_over_shuffles(predictions, tested, of_cells, record.seed)


def mean_over_shuffles(
    predictions: anndata.AnnData, truth: anndata.AnnData, metrics: Callable[[anndata.AnnData], pd.DataFrame], seed: int
) -> pd.DataFrame:
    """Compute ``metrics`` of the floor, as the mean over :func:`benchmark_controls.shuffles`.

    Parameters
    ----------
    predictions
        Predicted cells of the floor.
    truth
        The test conditions (:func:`pseudobulk.truth`).
    metrics
        Gives ``perturbation``, ``context``, ``metric``, ``value`` and ``reason`` for predicted cells.
    seed
        Of the floor.

    Returns
    -------
    What ``metrics`` gives: ``value`` is a mean, and ``reason`` that of any shuffle that has one.
    """
    tables = pd.concat([metrics(cells) for cells in _dealt(predictions, truth, seed)])
    means = tables.groupby(["metric", *COLUMNS], sort=False, as_index=False).agg({"value": "mean", "reason": "max"})
    return means[[*COLUMNS, "metric", "value", "reason"]]


def _dealt(predictions: anndata.AnnData, truth: anndata.AnnData, seed: int) -> Iterator[anndata.AnnData]:
    """Yield the same cells, moved as a whole to the mean that each shuffle predicts."""
    conditions = conditions_of(truth.obs)
    control = np.asarray(truth.layers["reference_input"])
    changes = np.asarray(truth.X) - control  # as in benchmark_controls.shuffled
    predicted = np.asarray(pseudobulk(predictions)[truth.obs_names].X) - control
    row, row_of = (
        codes_of(predictions.obs, conditions),
        {condition: number for number, condition in enumerate(conditions)},
    )
    for partner in shuffles(conditions, seed):
        dealt = np.zeros_like(changes)  # of a condition alone in its context
        for condition, other in partner.items():
            dealt[row_of[condition]] = changes[row_of[other]]
        moved_by = dealt - predicted
        X = np.asarray(predictions.X) + moved_by.astype(np.float32)[row]
        yield anndata.AnnData(X, obs=predictions.obs, var=predictions.var)
