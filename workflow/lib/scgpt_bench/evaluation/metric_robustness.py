"""What each metric makes of cheap transformations of a prediction, on these very data.

A transformation uses the prediction and, at most, what every method knows (control means, the name of the target); only
``another truth`` uses measured responses, of the wrong conditions. None adds knowledge of what a perturbation does:
a metric that rises rewards something else, at best a better size of the change.

==================  ===================================================================================================
``delta x 0.25``    the predicted change, a quarter of it; also ``x 0.5``, ``x 2``, ``x 4``
``log again``       log1p of the predicted values, as after a wrong guess of the scale
``spread x 2``      cells twice as far from their mean, which stays
``constant``        every condition gets the mean of all predicted changes of its context
``genes shuffled``  the predicted change of each condition, dealt to other genes at random
``target spiked``   the targets' own expression set to 0, or to the control's raised by 1 in log1p where it is activated
``another truth``   the measured change of another condition, as ``shuffled`` among the benchmark controls: the mean
                    over several ways to deal them out
==================  ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, conditions_of
from scgpt_bench.evaluation.cell_metrics import PERFECT
from scgpt_bench.evaluation.metrics import metric_of, score
from scgpt_bench.evaluation.pseudobulk import pseudobulk, select_tested
from scgpt_bench.evaluation.versions import Name, Versions, score_versions
from scgpt_bench.methods.benchmark_controls import shuffles
from scgpt_bench.seeding import random_generator

UNTOUCHED = "as predicted"
FACTORS = (0.25, 0.5, 2, 4)
SPREAD = 2
SMALLEST_GAP = 1e-6  # in units of the metric; closer to a perfect score, a share of the way is noise


def metric_robustness(
    predictions: anndata.AnnData, truth: anndata.AnnData, activated: bool = False, seed: int = 1
) -> pd.DataFrame:
    """Score one method's predictions before and after every transformation.

    Parameters
    ----------
    predictions, truth
        ``predictions.h5ad`` and ``truth.h5ad``. Metrics of cells are there if ``truth`` has their space. X of
        predictions may be on disk.
    activated
        Whether perturbations raise their targets.
    seed
        Of the shuffles.

    Returns
    -------
    One row per ``transformation`` and ``metric``:

    - ``value``: mean over the conditions;
    - ``change``: ``value`` minus that of the untouched prediction, turned so that positive means that the metric sees a
      better prediction;
    - ``share_of_gap``: ``change`` divided by what separates the untouched prediction from the score of the truth
      itself; missing where nothing does.
    """
    tested = select_tested(truth)
    found: dict[str, list[pd.Series]] = {}
    versions = transformed(predictions, tested, activated, seed)
    for (name, _), table in score_versions(predictions, truth, versions, "components" in truth.varm).items():
        found.setdefault(name, []).append(table.groupby("metric", sort=False)["value"].mean())
    (untouched,) = found[UNTOUCHED]
    perfect = score(_as_prediction(tested), truth).groupby("metric", sort=False)["value"].mean()
    for metric, value in PERFECT.items():
        perfect[metric] = value
    rows = []
    for name, several in found.items():
        for metric, value in (sum(several) / len(several)).items():
            if metric_of(metric).best_at:  # it has no right direction
                continue
            direction = 1 if metric_of(metric).higher_is_better else -1
            change = direction * (value - untouched[metric])
            gap = direction * (perfect[metric] - untouched[metric])
            share = change / gap if gap > SMALLEST_GAP else np.nan
            rows.append((name, metric, value, change, share))
    return pd.DataFrame(rows, columns=["transformation", "metric", "value", "change", "share_of_gap"])


def transformed(
    predictions: anndata.AnnData, truth: anndata.AnnData, activated: bool = False, seed: int = 1
) -> Versions:
    """Return a function that makes the cells of every transformation, with its name and a number, of some conditions.

    ``truth`` has the test conditions only (:func:`pseudobulk.select_tested`).

    ``another truth`` comes several times, with numbers from 0. All but ``log again``, ``spread x 2`` and ``target
    spiked`` move the cells of a condition together.
    """
    conditions = conditions_of(truth.obs)
    control = np.asarray(truth.layers["reference_input"])
    mean = np.asarray(pseudobulk(predictions)[truth.obs_names].X)
    delta, measured = mean - control, np.asarray(truth.X) - control
    constant, of_other_genes = _means_of_contexts(delta, conditions), _shuffled_genes(delta, conditions, seed)
    several = truth.obs["context"].value_counts().min() > 1
    row_of = {condition: number for number, condition in enumerate(conditions)}
    sources = [
        np.array([row_of[partner[condition]] for condition in conditions])
        for partner in (shuffles(conditions, seed) if several else ())
    ]

    def versions(cells: np.ndarray, row: np.ndarray) -> Iterator[tuple[Name, np.ndarray]]:
        own, place = np.unique(row, return_inverse=True)

        def moved(new_delta: np.ndarray) -> np.ndarray:
            return cells + (new_delta - delta[own]).astype(np.float32)[place]

        yield (UNTOUCHED, 0), cells
        for factor in FACTORS:
            yield (f"delta x {factor}", 0), moved(factor * delta[own])
        yield ("log again", 0), np.log1p(np.maximum(cells, 0))
        yield (f"spread x {SPREAD}", 0), cells + (SPREAD - 1) * (cells - mean[own].astype(np.float32)[place])
        yield ("constant", 0), moved(constant[own])
        yield ("genes shuffled", 0), moved(of_other_genes[own])
        yield ("target spiked", 0), _spiked(cells, row, control, truth, activated)
        for number, source in enumerate(sources):
            yield ("another truth", number), moved(measured[source[own]])

    return versions


def _means_of_contexts(delta: np.ndarray, conditions: list[Condition]) -> np.ndarray:
    contexts = np.array([condition.context for condition in conditions])
    return np.array([delta[contexts == name].mean(axis=0) for name in contexts])


def _shuffled_genes(delta: np.ndarray, conditions: list[Condition], seed: int) -> np.ndarray:
    orders = [random_generator(seed, "stress", *name.drawn_for).permutation(delta.shape[1]) for name in conditions]
    return np.take_along_axis(delta, np.array(orders), axis=1)


def _spiked(
    cells: np.ndarray, row: np.ndarray, control: np.ndarray, truth: anndata.AnnData, activated: bool
) -> np.ndarray:
    spiked = cells.copy()
    directions = truth.obs.get("direction", pd.Series("up" if activated else "down", index=truth.obs_names))
    for number, (condition, direction) in enumerate(zip(conditions_of(truth.obs), directions, strict=True)):
        columns = truth.var_names.get_indexer(list(condition.genes))
        columns = columns[columns >= 0]
        spiked[np.ix_(row == number, columns)] = control[number, columns] + 1 if direction == "up" else 0
    return spiked


def _as_prediction(truth: anndata.AnnData) -> anndata.AnnData:
    return anndata.AnnData(np.asarray(truth.X), obs=truth.obs, var=truth.var)
