"""The floor is a mean over many ways to deal out the responses of other conditions.

A single one depends on who happens to get whose response: in the demo one scores -0.13 in ``effect_pearson``, the mean
over all pairs of test perturbations 0.00.
"""

from __future__ import annotations

from collections.abc import Iterator

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, conditions_of
from scgpt_bench.evaluation.cell_metrics import score_cells
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.evaluation.pseudobulk import pseudobulk, select_tested
from scgpt_bench.evaluation.versions import Name, Versions, score_versions
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.methods.benchmark_controls import shuffles


def every_metric(predictions: anndata.AnnData, truth: anndata.AnnData, record: MethodRecord) -> pd.DataFrame:
    """Compute the metrics of pseudo-bulks and of cells: the content of ``metrics.tsv``.

    Parameters and table as in :func:`mean_over_shuffles`, by which the floor is scored; the record of the method says
    whether it is the floor, or a technical duplicate.
    """
    if record.shuffles:
        return mean_over_shuffles(predictions, truth, record.seed)
    of_means = score(pseudobulk(predictions), truth, record.halved)
    return pd.concat([of_means, score_cells(predictions, select_tested(truth), halved=record.halved)])


def mean_over_shuffles(
    predictions: anndata.AnnData, truth: anndata.AnnData, seed: int, of_cells: bool = True
) -> pd.DataFrame:
    """Compute the metrics of the floor, as the mean over :func:`benchmark_controls.shuffles`.

    Parameters
    ----------
    predictions
        Predicted cells of the floor; X may be on disk.
    truth
        All conditions: ``truth.h5ad``.
    seed
        Of the floor.
    of_cells
        Whether to compute metrics of cells too.

    Returns
    -------
    A table as :func:`metrics.score` gives it: ``value`` is a mean, and ``reason`` that of any shuffle that has one.
    """
    tables = pd.concat([*score_versions(predictions, truth, _dealt(predictions, truth, seed), of_cells).values()])
    means = tables.groupby(["metric", *COLUMNS], sort=False, as_index=False).agg({"value": "mean", "reason": "max"})
    return means[[*COLUMNS, "metric", "value", "reason"]]


def _dealt(predictions: anndata.AnnData, truth: anndata.AnnData, seed: int) -> Versions:
    """Make the same cells, moved as a whole to the mean that each shuffle predicts."""
    tested = select_tested(truth)
    conditions = conditions_of(tested.obs)
    control = np.asarray(tested.layers["reference_input"])
    changes = np.asarray(tested.X) - control  # as in benchmark_controls.shuffled
    predicted = np.asarray(pseudobulk(predictions)[tested.obs_names].X) - control
    row_of = {condition: number for number, condition in enumerate(conditions)}
    sources = [
        np.array([row_of[partner[name]] if name in partner else -1 for name in conditions])
        for partner in shuffles(conditions, seed)
    ]

    def versions(cells: np.ndarray, row: np.ndarray) -> Iterator[tuple[Name, np.ndarray]]:
        own, place = np.unique(row, return_inverse=True)
        for number, source in enumerate(sources):
            dealt = changes[source[own]]
            dealt[source[own] < 0] = 0  # a condition alone in its context
            yield ("shuffled", number), cells + (dealt - predicted[own]).astype(np.float32)[place]

    return versions
