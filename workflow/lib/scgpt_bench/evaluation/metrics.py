"""What every metric is: the one registry that scores, verdicts, definitions and figures ask.

:func:`score` computes those of pseudo-bulks.

A metric's identifier is its name and, where it is not over all genes, the suffix of its gene set (``GENE_SETS``).
Official scorers' metrics carry the scorer's name: ``cell_eval.mae``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, conditions_of, contexts_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import pseudobulk_metrics as functions
from scgpt_bench.evaluation.pseudobulk_metrics import Means, Values

if TYPE_CHECKING:
    import anndata

HALVED = "one half of the cells against the other, not corrected for depth"
HALVED_CORRECTED = "one half of the cells against the other, corrected for depth"
DEFINED = ("", HALVED, HALVED_CORRECTED)  # reasons of values that are no convention

TOP_GENES = (20, 50, 100)
HIGH_GENES = 1000

NO_REFERENCE = "none: the mean vectors themselves"
MATCHED_CONTROL = "all control cells of the same cell types, the same on both sides"
NORMS_AROUND_MEANS = "product of the norms around each side's mean over genes"
COUNTED = "counted like any gene"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is.

    Attributes
    ----------
    name
        Its identifier.
    higher_is_better
        Whether a larger value means a better prediction.
    reference, denominator, source, tie_rule
        With what both sides are compared, what is divided by, who defined it, what happens to ties.
    label
        In words and with its unit, for figures.
    function
        Computes it from mean vectors; None where it is computed from cells
        (:func:`scgpt_bench.evaluation.cell_metrics.energy_distance`) or by an official scorer.
    over_gene_sets
        Whether it is computed over each of ``GENE_SETS`` as well as over all genes.
    gene_set, targets
        The genes it is computed over, and what happens to the perturbation's own among them.
    at_full_depth
        Turns what one half of the cells scores against the other (a technical duplicate) into what a second sample of
        all cells would score. None where this is not known: the score is that of half of the cells, a worse one.
    top_genes_at_full_depth
        Whether the same holds on the most differentially expressed genes.
    fraction_of_ceiling
        Whether a share of the ceiling has a meaning.
    agrees_with
        (tool with version and name there, decimal digits); only what ``tests/parity`` tests.
    official
        Whether the scorer's own program computes it.
    """

    name: str
    higher_is_better: bool
    reference: str
    denominator: str
    source: str
    label: str
    tie_rule: str = "none arise"
    function: Callable[[Means], Values] | None = None
    over_gene_sets: bool = False
    gene_set: str = "all genes"
    targets: str = COUNTED
    at_full_depth: Callable[[np.ndarray], np.ndarray] | None = None
    top_genes_at_full_depth: bool = True
    fraction_of_ceiling: bool = True
    agrees_with: tuple[tuple[str, int], ...] = ()
    official: bool = False

    def over(self, suffix: str) -> Metric:
        """Describe this metric over the gene set of ``suffix``."""
        genes = GENE_SETS[suffix]
        known = self.top_genes_at_full_depth or not suffix.startswith("_top")
        return replace(
            self,
            name=self.name + suffix,
            label=f"{self.label}, {genes.label}",
            gene_set=genes.genes,
            targets=genes.targets,
            at_full_depth=self.at_full_depth if known else None,
            agrees_with=(),
        )


@dataclass(frozen=True)
class GeneSet:
    """Genes of each perturbation: which, in words for figures, and what happens to its own."""

    genes: str
    label: str
    targets: str = COUNTED


GENE_SETS = {
    **{
        f"_top{number}": GeneSet(
            f"the {number} most differentially expressed genes of the perturbation (Wilcoxon, measured cells)",
            f"top {number} genes",
        )
        for number in TOP_GENES
    },
    f"_high{HIGH_GENES}": GeneSet(
        f"the {HIGH_GENES:,} genes with the highest mean in the matched control",
        f"{HIGH_GENES:,} genes highest in control",
    ),
    "_no_target": GeneSet("all genes but the perturbation's own targets", "without the target gene", "left out"),
}


def _official(name: str, package: str, higher_is_better: bool, at_full_depth: Callable | None = None) -> Metric:
    """Describe a metric of an official scorer, which defines all but the direction."""
    theirs = f"as {package} defines it"
    return Metric(
        name=name,
        higher_is_better=higher_is_better,
        reference=theirs,
        gene_set=theirs,
        denominator=theirs,
        tie_rule=theirs,
        targets=theirs,
        source=f"{package}, {name.split('.')[1]}",
        label=name,
        at_full_depth=at_full_depth,
        official=True,
    )


_REGISTERED = (
    Metric(
        name="pearson",
        higher_is_better=True,
        reference=NO_REFERENCE,
        denominator=NORMS_AROUND_MEANS,
        source="scGPT (Cui et al. 2024), GEARS (Roohani et al. 2024)",
        label="Pearson correlation of mean expression",
        function=functions.pearson,
        over_gene_sets=True,
        at_full_depth=functions.correlation_at_full_depth,
        agrees_with=(("scgpt 0.2.4 compute_perturbation_metrics", 6),),
    ),
    Metric(
        name="mse",
        higher_is_better=False,
        reference=NO_REFERENCE,
        denominator="number of genes",
        source="GEARS (Roohani et al. 2024)",
        label="mean squared error (squared log1p expression)",
        function=functions.mse,
        over_gene_sets=True,
        at_full_depth=functions.squared_error_at_full_depth,
        agrees_with=(("cell-eval 0.8.2 mse", 6),),
    ),
    Metric(
        name="mae",
        higher_is_better=False,
        reference=NO_REFERENCE,
        denominator="number of genes",
        source="Virtual Cell Challenge 2025",
        label="mean absolute error (log1p expression)",
        function=functions.mae,
        over_gene_sets=True,
        at_full_depth=functions.absolute_error_at_full_depth,
        agrees_with=(("cell-eval 0.8.2 mae", 6),),
    ),
    Metric(
        name="pearson_delta",
        higher_is_better=True,
        reference=MATCHED_CONTROL,
        denominator=NORMS_AROUND_MEANS,
        source="scGPT (Cui et al. 2024)",
        label="Pearson delta (correlation)",
        function=functions.pearson_delta,
        over_gene_sets=True,
        at_full_depth=functions.correlation_at_full_depth,
        agrees_with=(("cell-eval 0.8.2 pearson_delta", 6), ("scgpt 0.2.4 compute_perturbation_metrics", 6)),
    ),
    Metric(
        name="pearson_delta_centroid",
        higher_is_better=True,
        reference="the matched control mean plus the mean shift of the training perturbations, the same on both sides; "
        "where test perturbations do nothing, predicting no change is right by it, and the mean shift of training is "
        "not",
        denominator=NORMS_AROUND_MEANS,
        source="Systema (Viñas Torné et al. 2025)",
        label="Pearson delta from the centroid of perturbations (correlation)",
        function=functions.pearson_delta_centroid,
        over_gene_sets=True,
        at_full_depth=functions.correlation_at_full_depth,
    ),
    Metric(
        name="cosine_delta",
        higher_is_better=True,
        reference=MATCHED_CONTROL,
        denominator="product of the norms",
        source="cosine of the changes",
        label="cosine of predicted and true delta",
        function=functions.cosine_delta,
        over_gene_sets=True,
        at_full_depth=functions.correlation_at_full_depth,
    ),
    Metric(
        name="r2_delta",
        higher_is_better=True,
        reference=MATCHED_CONTROL,
        denominator="sum of squares of the true changes around their mean over genes",
        source="coefficient of determination",
        label="R² of delta (fraction of variance)",
        function=functions.r2_delta,
        over_gene_sets=True,
        at_full_depth=functions.r2_at_full_depth,
        top_genes_at_full_depth=False,  # the half that chose the genes is extreme on them: it gives no scale for errors
    ),
    Metric(
        name="sign_agreement",
        higher_is_better=True,
        reference=MATCHED_CONTROL,
        denominator="genes with a true change",
        source="share of right directions",
        label="genes with the right sign of delta (fraction)",
        tie_rule="no predicted change counts as a half",
        function=functions.sign_agreement,
        over_gene_sets=True,
    ),
    Metric(
        name="discrimination_l1",
        higher_is_better=True,
        reference=MATCHED_CONTROL,
        denominator="n, the number of test perturbations",
        source="Virtual Cell Challenge 2025, discrimination_score_l1",
        label="discrimination_l1",
        tie_rule="ties count as halves (cell-eval breaks them at random)",
        function=functions.discrimination_l1,
        targets="those of the predicted perturbation are left out of all distances",
        agrees_with=(("cell-eval 0.8.2 discrimination_score", 6),),
    ),
    Metric(
        name="energy_distance",
        higher_is_better=False,
        reference="measured cells, in the principal components of the measured test and control cells",
        denominator="pairs of different cells",
        source="Székely and Rizzo 2013; in perturbation data: scPerturb (Peidli et al. 2024)",
        label="energy distance between predicted and true cells (log1p expression)",
        tie_rule="identical predicted cells count once",
        targets="counted, as far as the principal components show them",
        at_full_depth=lambda values: values,  # it does not depend on the number of cells
        fraction_of_ceiling=False,  # a second sample's is expected to be 0: what it comes out as is noise
    ),
    _official("cell_eval.overlap_at_N", "cell-eval", higher_is_better=True),
    _official("cell_eval.discrimination_score_l1", "cell-eval", higher_is_better=True),
    _official("cell_eval.mae", "cell-eval", False, functions.absolute_error_at_full_depth),
    # Members of the preset that order methods; the preset's other members describe the data or are parts of these.
    # expr_mse_unbiased_capped is the part per perturbation of expr_mse_unbiased_capped_norm, a ratio of sums.
    _official("cell_eval2.pds_cosine", "cell-eval2", higher_is_better=True),
    _official("cell_eval2.expr_mse_unbiased_capped", "cell-eval2", higher_is_better=False),
    _official("cell_eval2.de_wilcoxon_direction_fidelity_yield_raw", "cell-eval2", higher_is_better=True),
    _official("cell_eval2.de_wilcoxon_direction_reach_raw", "cell-eval2", higher_is_better=True),
    _official("cell_eval2.de_wilcoxon_sig_jaccard", "cell-eval2", higher_is_better=True),
    _official("cell_eval2.de_wilcoxon_lfc_nmae", "cell-eval2", higher_is_better=False),
)
METRICS = {metric.name: metric for metric in _REGISTERED}


def metric_of(identifier: str) -> Metric:
    """Find a metric by its identifier, with that of its gene set.

    Raises
    ------
    InputError
        For an identifier that is not registered.
    """
    if identifier in METRICS:
        return METRICS[identifier]
    for suffix in GENE_SETS:
        metric = METRICS.get(identifier.removesuffix(suffix))
        if metric and metric.over_gene_sets:
            return metric.over(suffix)
    raise InputError("metrics", "metric", repr(identifier), "a metric of METRICS in scgpt_bench.evaluation.metrics")


def corrected_for_depth(metric: Metric, values: np.ndarray, reasons: np.ndarray) -> Values:
    """Turn what one half of the cells scores against the other into what all of them would; the reasons say which."""
    defined = np.asarray(reasons) == ""
    if metric.at_full_depth is None:
        return values, np.where(defined, HALVED, reasons)
    return np.where(defined, metric.at_full_depth(values), values), np.where(defined, HALVED_CORRECTED, reasons)


def score(pseudobulk: anndata.AnnData, truth: anndata.AnnData, halved: bool = False) -> pd.DataFrame:
    """Compute all pseudo-bulk metrics of one method and seed.

    A technical duplicate (``halved``) is compared with the other half of the
    cells. What a duplicate of full depth would score follows from it (``Metric.at_full_depth``); metrics where it does
    not are left as they are, which is less than a full duplicate scores. Its most differentially expressed genes are
    those of the half that it is scored against: genes chosen by all cells would have been chosen by the noise of its
    own half too. On them ``r2_delta`` is left as it is, and what is corrected stays somewhat below a full duplicate,
    since half of the cells find fewer of the genes that respond. The column ``reason`` says which.

    Parameters
    ----------
    pseudobulk
        Predicted means: ``pseudobulk.h5ad``.
    truth
        Measured means and their references of the test conditions (:func:`pseudobulk.truth`). Gene sets of DE genes
        only where it has ``layers["de_rank"]`` (for a technical duplicate ``layers["de_rank_half_b"]``).

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric``, ``value`` and ``reason``: empty, or why a value is given by
    convention. No value is ever missing: what is undefined is 0, with the reason.

    Raises
    ------
    InputError
        When genes or conditions of the two differ.
    """
    pseudobulk = _aligned(pseudobulk, truth)
    layer = "half_b" if halved else None
    targets = [_columns_of(condition.genes, truth.var_names) for condition in conditions_of(truth.obs)]
    means = Means(
        prediction=np.asarray(pseudobulk.X),
        truth=np.asarray(truth.layers[layer] if layer else truth.X),
        control=np.asarray(truth.layers["control"]),
        centroid=np.asarray(truth.layers["centroid"]),
        full_truth=np.asarray(truth.X),
        targets=targets,
    )
    tables = []
    over_sets = [metric for metric in METRICS.values() if metric.function and metric.over_gene_sets]
    for suffix, columns_of in _gene_sets(truth, targets, ranks="de_rank" + (f"_{layer}" if layer else "")):
        # The half that chose the genes is extreme on them, all cells less so: they give no scale for its errors.
        compared = replace(means, full_truth=means.truth) if suffix.startswith("_top") else means
        for name, values in _of_gene_set(over_sets, compared, columns_of).items():
            tables.append(_table(truth.obs, metric_of(name + suffix), values, halved=halved))
    # The others compare conditions with one another: those of one context.
    for metric in METRICS.values():
        if metric.function and not metric.over_gene_sets:
            values = np.zeros(truth.n_obs), np.zeros(truth.n_obs, dtype=object)
            for context in contexts_of(truth.obs):
                rows = np.flatnonzero(truth.obs["context"] == context)
                values[0][rows], values[1][rows] = metric.function(means.of_conditions(rows))
            tables.append(_table(truth.obs, metric, values, halved=halved))
    return pd.concat(tables, ignore_index=True)


def _aligned(pseudobulk: anndata.AnnData, truth: anndata.AnnData) -> anndata.AnnData:
    if list(pseudobulk.var_names) != list(truth.var_names):
        raise InputError("pseudobulk.h5ad", "var_names", "other genes or another order", "the genes of truth.h5ad")
    if set(pseudobulk.obs_names) != set(truth.obs_names):
        different = sorted(set(pseudobulk.obs_names) ^ set(truth.obs_names))[0]
        raise InputError("pseudobulk.h5ad", "obs_names", f"a difference in {different!r}", "the test conditions")
    return pseudobulk[truth.obs_names]


def _columns_of(targets: Iterable[str], genes: pd.Index) -> np.ndarray:
    columns = genes.get_indexer(list(targets))
    return columns[columns >= 0]


def _gene_sets(
    truth: anndata.AnnData, targets: list[np.ndarray], ranks: str
) -> Iterator[tuple[str, list[np.ndarray] | None]]:
    """Suffix and columns for each condition of every gene set; None stands for all genes.

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


def _of_gene_set(metrics: Iterable[Metric], means: Means, columns_of: list[np.ndarray] | None) -> dict[str, Values]:
    """Every metric over one gene set: at once for all conditions whose sets have the same size."""
    n = len(means.prediction)
    computed = {metric.name: metric.function for metric in metrics if metric.function}
    if columns_of is None:
        return {name: function(means) for name, function in computed.items()}
    results = {name: (np.zeros(n), np.full(n, "no gene left", dtype=object)) for name in computed}
    sizes = np.array([len(columns) for columns in columns_of])
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        part = means.of_genes(rows, np.stack([columns_of[row] for row in rows]))
        for name, function in computed.items():
            results[name][0][rows], results[name][1][rows] = function(part)
    return results


def _table(conditions: pd.DataFrame, metric: Metric, values: Values, halved: bool) -> pd.DataFrame:
    if halved:
        values = corrected_for_depth(metric, *values)
    table = conditions[COLUMNS].astype(str).reset_index(drop=True)
    return table.assign(metric=metric.name, value=values[0], reason=values[1])
