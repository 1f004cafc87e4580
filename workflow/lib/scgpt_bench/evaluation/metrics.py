"""How close predicted pseudo-bulks are to measured ones, per perturbation.

A metric's identifier is its name and, where it is not over all genes, the suffix of its gene set.

==========================  ===========================================================================================
``pearson``                 correlation of the mean vectors
``mse``, ``mae``            mean squared and mean absolute difference of the mean vectors
``pearson_delta``           correlation of the changes from the matched control mean, the same on both sides
                            (scGPT 0.2.4 ``compute_perturbation_metrics``)
``pearson_delta_centroid``  the same with the centroid of the training perturbations as the reference, which removes
                            the shift that all perturbations share (Systema, Viñas Torné et al. 2025)
``cosine_delta``            cosine of the changes from control
``r2_delta``                1 - sum of squared errors / sum of squares of the true changes around their mean over genes
``sign_agreement``          share of the genes with a true change that are predicted to change in the same direction;
                            no predicted change counts as a half, as a coin would
``discrimination_l1``       rank of a perturbation's own true change by L1 distance from its predicted change among
                            those of all test perturbations, without its targets: 1 - (number nearer) / n, ties as
                            halves (cell-eval 0.8.2 ``discrimination_score_l1``, which breaks ties at random)
==========================  ===========================================================================================

Gene sets: ``_top20``, ``_top50``, ``_top100`` (most differentially expressed, ``truth.layers["de_rank"]``; for a
technical duplicate ``truth.layers["de_rank_half_b"]``), ``_high1000`` (highest mean in the matched control), each where
there are more genes than that; ``_no_target`` (all but the perturbation's own targets).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import distance

from scgpt_bench.data.names import genes_of
from scgpt_bench.errors import InputError
from scgpt_bench.predictions import method_of

if TYPE_CHECKING:
    import anndata

# Predicted cells are float32, so a mean that did not change differs from the control mean by rounding. A vector whose
# root mean square is below this share of that of the means it was computed from is taken for zero.
ROUNDING = 4 * float(np.finfo(np.float32).eps)

HALVED = "one half of the cells against the other, not corrected for depth"
HALVED_CORRECTED = "one half of the cells against the other, corrected for depth"
DEFINED = ("", HALVED, HALVED_CORRECTED)  # reasons of values that are no convention

TOP_GENES = (20, 50, 100)
HIGH_GENES = 1000

Values = tuple[np.ndarray, np.ndarray]  # one value per perturbation, and why it is a convention (empty where it is not)


@dataclass(frozen=True)
class Means:
    """What metrics compare: float64 [perturbations x genes] each.

    ``full_truth`` differs from ``truth`` only for a technical duplicate, which is scored against half of the cells, and
    not on the genes that this half has chosen.
    """

    prediction: np.ndarray
    truth: np.ndarray
    control: np.ndarray
    centroid: np.ndarray
    full_truth: np.ndarray

    def of_genes(self, rows: np.ndarray, columns: np.ndarray) -> Means:
        """The same for some perturbations [rows] and their gene sets [rows x genes of the set]."""
        return replace(self, **{f.name: getattr(self, f.name)[rows[:, None], columns] for f in fields(self)})


def pearson(means: Means) -> Values:
    return _correlation(means.prediction, means.truth, means, "variance", centre=True)


def mse(means: Means) -> Values:
    return _always(np.square(means.prediction - means.truth).mean(axis=1))


def mae(means: Means) -> Values:
    return _always(np.abs(means.prediction - means.truth).mean(axis=1))


def pearson_delta(means: Means) -> Values:
    reference = means.control
    return _correlation(means.prediction - reference, means.truth - reference, means, "variance", centre=True)


def pearson_delta_centroid(means: Means) -> Values:
    reference = means.centroid
    return _correlation(means.prediction - reference, means.truth - reference, means, "variance", centre=True)


def cosine_delta(means: Means) -> Values:
    reference = means.control
    return _correlation(means.prediction - reference, means.truth - reference, means, "change", centre=False)


def r2_delta(means: Means) -> Values:
    change = means.full_truth - means.control
    change = change - change.mean(axis=1, keepdims=True)
    flat = _is_zero(change, means.truth)
    errors = np.square(means.prediction - means.truth).sum(axis=1)
    values = 1 - errors / np.where(flat, 1.0, np.square(change).sum(axis=1))
    return np.where(flat, 0.0, values), np.where(flat, "truth has no variance", "")


def sign_agreement(means: Means) -> Values:
    predicted, true = means.prediction - means.control, means.truth - means.control
    changes = true != 0
    still = np.abs(predicted) <= ROUNDING * np.abs(means.prediction)
    agreement = np.where(still, 0.5, np.sign(predicted) == np.sign(true))
    n = changes.sum(axis=1)
    values = (agreement * changes).sum(axis=1) / np.maximum(n, 1)
    return np.where(n > 0, values, 0.0), np.where(n > 0, "", "truth has no change")


METRICS: dict[str, Callable[[Means], Values]] = {
    "pearson": pearson,
    "mse": mse,
    "mae": mae,
    "pearson_delta": pearson_delta,
    "pearson_delta_centroid": pearson_delta_centroid,
    "cosine_delta": cosine_delta,
    "r2_delta": r2_delta,
    "sign_agreement": sign_agreement,
}


def discrimination_l1(means: Means, targets: list[np.ndarray]) -> Values:
    """See the module; ``targets`` are the columns of each perturbation's own genes. Needs all genes."""
    predicted, true = means.prediction - means.control, means.truth - means.control
    distances = distance.cdist(predicted, true, "cityblock")
    for row, columns in enumerate(targets):
        distances[row] -= np.abs(predicted[row, columns] - true[:, columns]).sum(axis=1)
    n = len(distances)
    own = np.diagonal(distances)[:, None]
    nearer = (distances < own).sum(axis=1) + ((distances == own).sum(axis=1) - 1) / 2
    return 1 - nearer / n, np.full(n, "a single test perturbation" if n == 1 else "")


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of the metric (its identifier, with scorer and suffix) means a better prediction."""
    name = metric.split(".")[-1]
    return not any(error in name for error in ("mse", "mae", "energy_distance"))


def duplicate_is_at_full_depth(metric: str) -> bool:
    """Whether the score of a technical duplicate is that of all cells, not of half of them, which is a worse one.

    Of official scorers' metrics only cell-eval's mean absolute error is corrected. The energy distance needs no
    correction: it does not depend on the number of cells.
    """
    scorer, _, name = metric.rpartition(".")
    if scorer:
        return metric == "cell_eval.mae"
    return not name.startswith(("sign_agreement", "discrimination_l1", "r2_delta_top"))


def score(pseudobulk: anndata.AnnData, truth: anndata.AnnData) -> pd.DataFrame:
    """All pseudo-bulk metrics of one method and seed.

    A technical duplicate (``uns["method"]["scored_against"] == "half_b"``) is compared with the other half of the
    cells. What a duplicate of full depth would score follows from it: half the squared error (in ``mse`` and
    ``r2_delta``), the absolute error divided by the square root of 2 (normal noise), and for correlations and cosines
    the Spearman-Brown formula ``2 r / (1 + |r|)``: the same for both signs, since noise around 0 would otherwise have a
    mean above 0. ``sign_agreement`` and ``discrimination_l1`` are left as they are, which is less than a full duplicate
    scores. Its most differentially expressed genes are those of the half that it is scored against: genes chosen by all
    cells would have been chosen by the noise of its own half too. On them ``r2_delta`` is left as it is, and what is
    corrected stays somewhat below a full duplicate, since half of the cells find fewer of the genes that respond. The
    column ``reason`` says which.

    Parameters
    ----------
    pseudobulk
        Predicted means: ``pseudobulk.h5ad``.
    truth
        Measured means and their references: ``truth.h5ad``. Gene sets of DE genes only where it has
        ``layers["de_rank"]`` (for a technical duplicate ``layers["de_rank_half_b"]``).

    Returns
    -------
    Table with ``perturbation``, ``metric``, ``value`` and ``reason``: empty, or why a value is given by convention. No
    value is ever missing: what is undefined is 0, with the reason.

    Raises
    ------
    InputError
        When genes or perturbations of the two differ.
    """
    pseudobulk = _aligned(pseudobulk, truth)
    layer = method_of(pseudobulk).get("scored_against")
    means = Means(
        prediction=np.asarray(pseudobulk.X),
        truth=np.asarray(truth.layers[layer] if layer else truth.X),
        control=np.asarray(truth.layers["control"]),
        centroid=np.asarray(truth.layers["centroid"]),
        full_truth=np.asarray(truth.X),
    )
    targets = [_columns_of(name, truth.var_names) for name in truth.obs_names]
    tables = []
    for suffix, columns_of in _gene_sets(truth, targets, ranks="de_rank" + (f"_{layer}" if layer else "")):
        # The half that chose the genes is extreme on them, all cells less so: they give no scale for its errors.
        compared = replace(means, full_truth=means.truth) if suffix.startswith("_top") else means
        for metric, (values, reasons) in _of_gene_set(compared, columns_of).items():
            tables.append(_table(truth.obs_names, metric, suffix, values, reasons, halved=layer is not None))
    values, reasons = discrimination_l1(means, targets)
    tables.append(_table(truth.obs_names, "discrimination_l1", "", values, reasons, halved=layer is not None))
    return pd.concat(tables, ignore_index=True)


def _aligned(pseudobulk: anndata.AnnData, truth: anndata.AnnData) -> anndata.AnnData:
    if list(pseudobulk.var_names) != list(truth.var_names):
        raise InputError("pseudobulk.h5ad", "var_names", "other genes or another order", "the genes of truth.h5ad")
    if set(pseudobulk.obs_names) != set(truth.obs_names):
        different = sorted(set(pseudobulk.obs_names) ^ set(truth.obs_names))[0]
        raise InputError("pseudobulk.h5ad", "obs_names", f"a difference in {different!r}", "the test perturbations")
    return pseudobulk[truth.obs_names]


def _columns_of(perturbation: str, genes: pd.Index) -> np.ndarray:
    columns = genes.get_indexer(list(genes_of(perturbation)))
    return columns[columns >= 0]


def _gene_sets(
    truth: anndata.AnnData, targets: list[np.ndarray], ranks: str
) -> Iterator[tuple[str, list[np.ndarray] | None]]:
    """Suffix and columns for each perturbation of every gene set; None stands for all genes.

    A set of as many genes as there are is left out: its metrics would be copies.
    """
    yield "", None
    if ranks in truth.layers:
        order = np.argsort(np.asarray(truth.layers[ranks]), axis=1)
        for number in TOP_GENES:
            if number < truth.n_vars:
                yield f"_top{number}", list(order[:, :number])
    if truth.n_vars > HIGH_GENES:
        highest = np.argsort(-np.asarray(truth.layers["control"]), axis=1, kind="stable")[:, :HIGH_GENES]
        yield f"_high{HIGH_GENES}", list(highest)
    yield "_no_target", [np.delete(np.arange(truth.n_vars), columns) for columns in targets]


def _of_gene_set(means: Means, columns_of: list[np.ndarray] | None) -> dict[str, Values]:
    """Every metric over one gene set: at once for all perturbations whose sets have the same size."""
    n = len(means.prediction)
    if columns_of is None:
        return {name: metric(means) for name, metric in METRICS.items()}
    results = {name: (np.zeros(n), np.full(n, "no gene left", dtype=object)) for name in METRICS}
    sizes = np.array([len(columns) for columns in columns_of])
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        part = means.of_genes(rows, np.stack([columns_of[row] for row in rows]))
        for name, metric in METRICS.items():
            results[name][0][rows], results[name][1][rows] = metric(part)
    return results


def _table(
    perturbations: pd.Index, metric: str, suffix: str, values: np.ndarray, reasons: np.ndarray, halved: bool
) -> pd.DataFrame:
    if halved:
        defined, corrected = np.asarray(reasons) == "", duplicate_is_at_full_depth(metric + suffix)
        values = np.where(defined & corrected, _at_full_depth(metric, values), values)
        reasons = np.where(defined, HALVED_CORRECTED if corrected else HALVED, reasons)
    return pd.DataFrame({"perturbation": perturbations, "metric": metric + suffix, "value": values, "reason": reasons})


def _at_full_depth(metric: str, values: np.ndarray) -> np.ndarray:
    """What a duplicate with twice the cells on both sides would score; see :func:`score`."""
    if metric == "mse":
        return values / 2
    if metric == "mae":
        return values / np.sqrt(2)
    if metric == "r2_delta":
        return 1 - (1 - values) / 2
    if metric.startswith(("pearson", "cosine")):
        return 2 * values / (1 + np.abs(values))
    return values


def _always(values: np.ndarray) -> Values:
    return values, np.full(len(values), "")


def _correlation(prediction: np.ndarray, truth: np.ndarray, means: Means, missing: str, centre: bool) -> Values:
    """Cosine per row, after centring where asked for; 0, with the reason, where a side is zero up to rounding."""
    if centre:
        prediction = prediction - prediction.mean(axis=1, keepdims=True)
        truth = truth - truth.mean(axis=1, keepdims=True)
    no_prediction, no_truth = _is_zero(prediction, means.prediction), _is_zero(truth, means.truth)
    undefined = no_prediction | no_truth
    norms = np.sqrt(np.square(prediction).sum(axis=1) * np.square(truth).sum(axis=1))
    values = np.where(undefined, 0.0, (prediction * truth).sum(axis=1) / np.where(undefined, 1.0, norms))
    reasons = np.select(
        [no_prediction & no_truth, no_prediction, no_truth],
        [f"prediction and truth have no {missing}", f"prediction has no {missing}", f"truth has no {missing}"],
        "",
    )
    return values, reasons


def _is_zero(vectors: np.ndarray, computed_from: np.ndarray) -> np.ndarray:
    return _root_mean_square(vectors) <= ROUNDING * _root_mean_square(computed_from)


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(values).mean(axis=1))
