"""What no change scores, and what the noise-free truth would: the two ends of ``skill``.

Both come from ``truth.h5ad`` alone. No change is scored as any prediction is. The noise-free truth is not known, and a
prediction equal to it scores less than perfectly, since the truth that it is compared with has noise. How much less
follows from the sampling variance of the measured change: with the variance S of the true changes over genes and V of
their noise, a correlation is expected to be sqrt(S / (S + V)), the root of the reliability of all cells, which the
Spearman-Brown formula gives from two halves. S + V is measured, V is known from the cells, and so S is.

So that every metric has such a number, by its own function, the experiment is measured again: the measured changes,
scaled down to variance S, play the truth; noise of variance V is added to them, the part of the control cells being the
same for all conditions of a context; and the truth without noise is scored against that, ``DRAWS`` times. What the
common training shift explains of a change, and what is the same for all genes, is one number each and measured well
with many genes: only the rest is scaled.

This is approximate. The true changes keep the pattern of the noise, so that they are spread over more genes than they
may be; ``NOT_KNOWN`` are the metrics that this misleads. The noise is normal and independent between genes, which
hardly matters to sums over many. A condition without a measurable effect has S = 0; where most are such, or a few dozen
control cells are all there is, the root of a noisy S is off by a few percent. Differentially expressed genes are those
that all cells showed: on them the noise-free score is somewhat high. For published metrics, which take one mean of
control cells on both sides, the noise-free truth is ``reference_input`` plus the true change too, as methods start from
it.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, Condition, listed
from scgpt_bench.data.names import CONTROL
from scgpt_bench.evaluation.metrics import METRICS, score
from scgpt_bench.evaluation.pseudobulk import select_tested
from scgpt_bench.evaluation.pseudobulk_metrics import LINE_UP, common_directions, without_directions
from scgpt_bench.evaluation.repeatability import KEY, repeatability
from scgpt_bench.seeding import random_generator

DRAWS = 5
# Of any prediction that does not depend on the condition.
CHANCE = {"discrimination": 0.5, "found_among_20": 1 / LINE_UP}
# Why a metric has no noise-free score, by the beginning of its identifier.
NOT_KNOWN = {
    "sign_agreement": "depends on how many genes respond, which noise hides",
    "pearson_delta_centroid": "its reference shares noise with the truth",
    "found_among_20": "noise makes measured changes more unlike one another than true ones are",
}
OF_CELLS = "of cells: not known from truth.h5ad"
UNKNOWN_NOISE = "sampling variance of the truth not known: a single cell"


def reference_scores(truth: anndata.AnnData, seed: int = 1) -> pd.DataFrame:
    """Score no change, noise-free truth and half of the cells: the content of ``reference_scores.tsv``.

    Parameters
    ----------
    truth
        ``truth.h5ad``, with all conditions.
    seed
        Of the noise, and of how halves are dealt out.

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric``, ``no_change``, ``noise_free`` and ``reason``: why one of them
    is missing; and ``own_half`` and ``other_halves`` of :mod:`repeatability`, of metrics that judge.
    """
    tested = select_tested(truth)
    references = np.asarray(tested.layers["reference_input"])
    table = score(_predicted(tested, references), truth).rename(columns={"value": "no_change"})
    changes = true_changes(truth)
    perfect = _predicted(tested, references + changes[truth.obs["tested"].to_numpy(dtype=bool)])
    again = [score(perfect, measured_again(truth, changes, seed, draw)) for draw in range(DRAWS)]
    table["noise_free"] = np.mean([scored["value"] for scored in again], axis=0)
    table["no_change"] = table["metric"].map(CHANCE).fillna(table["no_change"])
    table.loc[table["metric"] == "mse_unbiased", "noise_free"] = 0.0
    reasons = table["reason"].where(table["metric"].str.startswith(tuple(CHANCE)), "")  # alone in its context
    for name, reason in NOT_KNOWN.items():
        reasons[table["metric"].str.startswith(name) & (reasons == "")] = reason
    noise = tested.layers["variance_of_mean"] + tested.layers["variance_of_reference"]
    unknown = pd.MultiIndex.from_frame(tested.obs.loc[~np.isfinite(noise).all(axis=1), COLUMNS].astype(str))
    is_unknown = pd.MultiIndex.from_frame(table[COLUMNS]).isin(unknown)
    table["reason"] = np.where(is_unknown, UNKNOWN_NOISE, reasons)
    table.loc[table["reason"] != "", "noise_free"] = np.nan
    table = table[[*KEY, "no_change", "noise_free", "reason"]].merge(repeatability(truth, seed), on=KEY, how="left")
    of_cells = [name for name, metric in METRICS.items() if not metric.function and not metric.official]
    unscored = tested.obs[COLUMNS].astype(str).merge(pd.DataFrame({"metric": of_cells}), how="cross")
    unscored = unscored.assign(no_change=np.nan, noise_free=np.nan, reason=OF_CELLS)
    return pd.concat([table, unscored], ignore_index=True)


def true_changes(truth: anndata.AnnData) -> np.ndarray:
    """Scale measured changes to the size that they are expected to have without noise: float64 [conditions x genes].

    The size is that over all genes but the condition's own targets, whose change says nothing about the others'.
    """
    changes, variance = _changes(truth), _variance(truth).sum(axis=0)
    counted = np.ones(changes.shape)
    for row, condition in enumerate(listed(truth.obs)):
        columns = truth.var_names.get_indexer(list(condition.genes))
        counted[row, columns[columns >= 0]] = 0
    contexts, is_tested = truth.obs["context"].to_numpy(), truth.obs["tested"].to_numpy(dtype=bool)
    result = changes.copy()
    for context in np.unique(contexts[is_tested]):  # in others, nothing is scored
        rows, first = np.flatnonzero(contexts == context), np.flatnonzero((contexts == context) & is_tested)[:1]
        control = np.asarray(truth.layers["reference_input"][first])
        directions = common_directions(np.asarray(truth.layers["centroid"][first]) - control, control)[0]
        specific = without_directions(changes[rows], np.broadcast_to(directions, (len(rows), *directions.shape)))
        noise = (variance[rows] * counted[rows]) @ (1 - np.square(directions).sum(axis=0))
        size = (np.square(specific) * counted[rows]).sum(axis=1)
        share = np.clip(1 - noise / np.where(size == 0, 1, size), 0, 1)
        result[rows] += (np.sqrt(share)[:, None] - 1) * specific
    return result


def measured_again(truth: anndata.AnnData, changes: np.ndarray, seed: int, draw: int) -> anndata.AnnData:
    """Measure an experiment in which ``changes`` [conditions x genes] are true, with the noise of ``truth.h5ad``.

    The control cells that methods are given stay as they are, so that a prediction is ``reference_input`` plus a
    change.
    """
    of_mean, of_reference = np.sqrt(_variance(truth))
    shared: dict[str, np.ndarray] = {}
    noise = np.empty_like(changes)
    for row, condition in enumerate(listed(truth.obs)):
        own = _normal(seed, draw, condition, truth.n_vars)
        common = shared.setdefault(
            condition.context, _normal(seed, draw, Condition(CONTROL, condition.context), truth.n_vars)
        )
        noise[row] = of_mean[row] * own - of_reference[row] * common
    layers = {**truth.layers, "reference_truth": truth.layers["reference_input"]}
    means = np.asarray(truth.layers["reference_input"]) + changes + noise
    return anndata.AnnData(means, obs=truth.obs, var=truth.var, layers=layers)


def _normal(seed: int, draw: int, condition: Condition, n_genes: int) -> np.ndarray:
    return random_generator(seed, "measured again", draw, *condition.drawn_for).standard_normal(n_genes)


def _changes(truth: anndata.AnnData) -> np.ndarray:
    return np.asarray(truth.X) - np.asarray(truth.layers["reference_truth"])


def _variance(truth: anndata.AnnData) -> np.ndarray:
    """Of the mean and of its reference, float64 [2 x conditions x genes]; 0 where it is not known."""
    return np.nan_to_num(np.stack([truth.layers["variance_of_mean"], truth.layers["variance_of_reference"]]))


def _predicted(tested: anndata.AnnData, means: np.ndarray) -> anndata.AnnData:
    return anndata.AnnData(means, obs=tested.obs, var=tested.var)
