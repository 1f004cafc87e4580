"""What every metric is: the one registry that scores, verdicts, definitions and figures ask.

:func:`score` computes those of pseudo-bulks.

A metric's identifier is its name and, where it is not over all genes, the suffix of its gene set (``GENE_SETS``).
Official scorers' metrics carry the scorer's name: ``cell_eval.mae``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, contexts_of, listed
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import pseudobulk_metrics as functions
from scgpt_bench.evaluation.pseudobulk_metrics import Candidates, Means, Values

if TYPE_CHECKING:
    import anndata

HEADLINE, ERROR = "effect_pearson", "mse_unbiased"

HALVED = "one half of the cells against the other, not corrected for depth"
HALVED_CORRECTED = "one half of the cells against the other, corrected for depth"
DEFINED = ("", HALVED, HALVED_CORRECTED)  # reasons of values that are no convention

TOP_GENES = (20, 50, 100)
HIGH_GENES = 1000
NO_TARGET = "_no_target"

NO_REFERENCE = "none: the mean vectors themselves"
MATCHED_CONTROL = "control cells that methods are given, of the same cell types and batches, the same on both sides"
DISJOINT_CONTROL = (
    "control cells of the same cell types and batches: those that methods are given for the prediction, "
    "others for the truth"
)
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
    best_at
        The value that is right, in words, where neither more nor less than it is better.
    reference, denominator, source, tie_rule
        With what both sides are compared, what is divided by, who defined it, what happens to ties.
    label
        In words and with its unit, for figures.
    function
        Computes it from mean vectors; None where it is computed from cells
        (:func:`scgpt_bench.evaluation.cell_metrics.score_cells`) or by an official scorer.
    over_gene_sets
        Whether it is computed over each of ``GENE_SETS`` as well as over all genes.
    without_targets
        Whether it is computed over all genes but the perturbation's own targets, and no other gene set.
    gene_set, targets
        The genes it is computed over, and what happens to the perturbation's own among them.
    at_full_depth
        Turns what one half of the cells scores against the other (a technical duplicate) into what a second sample of
        all cells would score. None where this is not known: the score is that of half of the cells, a worse one.
    top_genes_at_full_depth
        Whether the same holds on the most differentially expressed genes.
    judges
        Whether it gives verdicts.
    has_skill
        Whether the way from no change to noise-free truth is one that a method goes.
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
    without_targets: bool = False
    gene_set: str = "all genes"
    targets: str = COUNTED
    at_full_depth: Callable[[np.ndarray], np.ndarray] | None = None
    top_genes_at_full_depth: bool = True
    judges: bool = False
    has_skill: bool = True
    best_at: str = ""
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
    NO_TARGET: GeneSet("all genes but the perturbation's own targets", "without the target gene", "left out"),
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


def _judging(**fields: Any) -> Metric:
    """Describe a metric that gives verdicts: disjoint control cells, without targets."""
    no_target = GENE_SETS[NO_TARGET]
    common = {"reference": DISJOINT_CONTROL, "gene_set": no_target.genes, "targets": no_target.targets, "judges": True}
    return Metric(**{"source": "this workflow", **common, **fields})


_REGISTERED = (
    _judging(
        name=HEADLINE,
        higher_is_better=True,
        denominator=NORMS_AROUND_MEANS,
        source="this workflow: pearson_delta on disjoint control cells, without targets",
        label="correlation of predicted and measured change",
        function=functions.effect_pearson,
        without_targets=True,
        at_full_depth=functions.correlation_at_full_depth,
    ),
    _judging(
        name="specific_pearson",
        higher_is_better=True,
        denominator="product of the norms, the mean over genes and the mean shift of the training perturbations "
        "projected out of both sides",
        source="this workflow, after Systema (Viñas Torné et al. 2025)",
        label="correlation of what is specific in predicted and measured change",
        function=functions.specific_pearson,
        without_targets=True,
        at_full_depth=functions.correlation_at_full_depth,
    ),
    _judging(
        name="discrimination",
        targets="those of both conditions of a pair are left out",
        higher_is_better=True,
        denominator="n - 1, the other conditions of the context, none of fewer cells than the smallest tested one",
        source="this workflow, after PDS of the Virtual Cell Challenge 2026",
        label="other perturbations further off than the own one (fraction)",
        tie_rule="ties count as halves",
        function=functions.discrimination,
    ),
    _judging(
        name=ERROR,
        higher_is_better=False,
        denominator="number of genes; the sampling variance of the measured change is subtracted",
        source="this workflow, after cell-eval2's expr_mse_unbiased",
        label="mean squared error of the change, without the noise of the truth (squared log1p expression)",
        function=functions.mse_unbiased,
        without_targets=True,
        at_full_depth=functions.squared_error_at_full_depth,
    ),
    Metric(
        name="effect_covariance",
        higher_is_better=True,
        best_at="a skill of 1",
        reference=DISJOINT_CONTROL,
        denominator="number of genes",
        source="this workflow; its skill is the slope of the predicted on the true change",
        label="covariance of predicted and measured change (squared log1p expression)",
        gene_set=GENE_SETS[NO_TARGET].genes,
        targets=GENE_SETS[NO_TARGET].targets,
        function=functions.effect_covariance,
        without_targets=True,
        at_full_depth=lambda values: values,  # its expectation does not depend on the number of cells
    ),
    Metric(
        name="found_among_20",
        higher_is_better=True,
        reference=DISJOINT_CONTROL,
        denominator="ways to draw 19 other conditions of the context, of as many cells as for discrimination",
        source="this workflow, from the distances of discrimination",
        label="own perturbation is the nearest of 20 (fraction)",
        tie_rule="a tie counts as half an other that is further off",
        gene_set=GENE_SETS[NO_TARGET].genes,
        targets="those of both conditions of a pair are left out",
        function=functions.found_among_20,
    ),
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
        has_skill=False,
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
        label="share of the other perturbations not nearer than the own one, L1 distance (fraction)",
        tie_rule="ties count as halves (cell-eval breaks them at random)",
        function=functions.discrimination_l1,
        targets="those of the predicted perturbation are left out of all distances",
        agrees_with=(("cell-eval 0.8.2 discrimination_score", 6),),
    ),
    Metric(
        name="energy_distance",
        higher_is_better=False,
        reference="measured cells, in the principal components of at most 20,000 measured test and control cells",
        denominator="pairs of different cells",
        source="Székely and Rizzo 2013; in perturbation data: scPerturb (Peidli et al. 2024)",
        label="energy distance between predicted and true cells (log1p expression)",
        tie_rule="identical predicted cells count once",
        targets="counted, as far as the principal components show them",
        at_full_depth=lambda values: values,  # it does not depend on the number of cells
    ),
    Metric(
        name="energy_distance_of_means",
        higher_is_better=False,
        reference="as energy_distance, for the drawn control cells moved to the predicted mean",
        denominator="pairs of different cells",
        source="this workflow; energy distance as above",
        label="energy distance of control cells at the predicted mean from true cells (log1p expression)",
        targets="counted, as far as the principal components show them",
        at_full_depth=lambda values: values,
    ),
    Metric(
        name="spread_ratio",
        higher_is_better=True,
        best_at="1",
        reference="the mean of the predicted, and of the measured cells",
        denominator="variance of the measured cells, summed over genes",
        source="this workflow",
        label="variance of predicted cells (fraction of the measured)",
        at_full_depth=lambda values: values,  # it does not depend on the number of cells
        has_skill=False,
    ),
    Metric(
        name="de_overlap",
        higher_is_better=True,
        reference=DISJOINT_CONTROL,
        denominator="N, the number of significant measured genes",
        source="this workflow; after overlap_at_N of cell-eval, with Welch's t-test and equal numbers of cells",
        label="overlap of differentially expressed genes, equal numbers of cells (fraction)",
        gene_set="all genes that a control cell expresses, but the perturbation's own targets",
        targets="left out",
        at_full_depth=lambda values: values,  # the number of cells is the same for all
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


def score(
    pseudobulk: anndata.AnnData, truth: anndata.AnnData, halved: bool = False, only_judging: bool = False
) -> pd.DataFrame:
    """Compute all pseudo-bulk metrics of one method and seed.

    A technical duplicate (``halved``) is compared with the other half of the cells; where the references are disjoint,
    each half of the cells has its own quarter of the control cells. What a duplicate of full depth would score follows
    from it (``Metric.at_full_depth``); metrics where it does not are left as they are, which is less than a full
    duplicate scores. Its most differentially expressed genes are those of the half that it is scored against: genes
    chosen by all cells would have been chosen by the noise of its own half too. On them ``r2_delta`` is left as it is,
    and what is corrected stays somewhat below a full duplicate, since half of the cells find fewer of the genes that
    respond. The column ``reason`` says which.

    Parameters
    ----------
    pseudobulk
        Predicted means: ``pseudobulk.h5ad``.
    truth
        Measured means and their references: ``truth.h5ad``. Only the test conditions are scored; ``discrimination``
        compares them with all. Gene sets of DE genes only where it has ``layers["de_rank"]`` (for a technical duplicate
        ``layers["de_rank_half_b"]``).
    only_judging
        Whether to leave out the metrics that give no verdict.

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric``, ``value`` and ``reason``: empty, or why a value is given by
    convention. Metrics that judge come first. No value is ever missing: what is undefined is 0 (``discrimination``:
    0.5), with the reason.

    Raises
    ------
    InputError
        When genes or conditions of the two differ.
    """
    is_tested = truth.obs["tested"].to_numpy(dtype=bool)
    tested = truth if is_tested.all() else truth[is_tested]
    pseudobulk = _aligned(pseudobulk, tested)
    layer, predicted_from, measured_from = ("half_b", "truth_a", "truth_b") if halved else ("X", "input", "truth")
    targets_of_all = [_columns_of(condition.genes, truth.var_names) for condition in listed(truth.obs)]
    targets = [targets_of_all[row] for row in np.flatnonzero(is_tested)]
    variance = _matrix(tested, "variance_of_mean") + _matrix(tested, "variance_of_reference")
    means = Means(
        prediction=np.asarray(pseudobulk.X),
        truth=_matrix(tested, layer),
        control=_matrix(tested, "reference_input"),
        centroid=_matrix(tested, "centroid"),
        predicted_from=_matrix(tested, f"reference_{predicted_from}"),
        measured_from=_matrix(tested, f"reference_{measured_from}"),
        variance=2 * variance if halved else variance,  # that of half of the cells
        full_truth=np.asarray(tested.X),
        targets=targets,
    )
    found: dict[str, Values] = {}
    computed = [metric for metric in METRICS.values() if metric.function and (metric.judges or not only_judging)]
    over_sets = [metric for metric in computed if metric.over_gene_sets]
    without_targets = [metric for metric in computed if metric.without_targets]
    for suffix, columns_of in _gene_sets(tested, targets, ranks="de_rank" + ("_half_b" if halved else "")):
        # The half that chose the genes is extreme on them, all cells less so: they give no scale for its errors.
        compared = replace(means, full_truth=means.truth) if suffix.startswith("_top") else means
        own = {metric.name: metric for metric in (without_targets if suffix == NO_TARGET else ())}
        own |= {metric.name + suffix: metric for metric in over_sets}
        if not own:
            continue
        found |= _of_gene_set(own, compared, columns_of)
    comparing = [metric for metric in computed if not metric.over_gene_sets and not metric.without_targets]
    changes = _matrix(truth, layer) - _matrix(truth, f"reference_{measured_from}")
    found |= _within_contexts(comparing, means, changes, targets_of_all, truth.obs)
    described = sorted(map(metric_of, found), key=lambda metric: not metric.judges)
    tables = [_table(tested.obs, metric, found[metric.name], halved=halved) for metric in described]
    return pd.concat(tables, ignore_index=True)


def _matrix(truth: anndata.AnnData, layer: str) -> np.ndarray:
    return np.asarray(truth.X if layer == "X" else truth.layers[layer])


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
        highest = np.argsort(-np.asarray(truth.layers["reference_input"]), axis=1, kind="stable")[:, :HIGH_GENES]
        yield f"_high{HIGH_GENES}", list(highest)
    yield NO_TARGET, [np.delete(np.arange(truth.n_vars), columns) for columns in targets]


def _of_gene_set(metrics: Mapping[str, Metric], means: Means, columns_of: list[np.ndarray] | None) -> dict[str, Values]:
    """Every metric, by its identifier, over one gene set: at once for all conditions whose sets have the same size."""
    n = len(means.prediction)
    computed = {name: metric.function for name, metric in metrics.items() if metric.function}
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


def _within_contexts(
    metrics: Iterable[Metric],
    means: Means,
    changes: np.ndarray,
    targets: list[np.ndarray],
    conditions: pd.DataFrame,
) -> dict[str, Values]:
    """Every metric that compares conditions with one another: with the measured ``changes`` of all of their context.

    Conditions of fewer cells than the smallest tested one are no candidates: their noise is far from any prediction.
    """
    n_cells = conditions["n_cells"].to_numpy()
    n, contexts, is_tested = len(means.prediction), conditions["context"].to_numpy(), conditions["tested"].to_numpy()
    results = {metric.name: (np.zeros(n), np.zeros(n, dtype=object)) for metric in metrics}
    for context in contexts_of(conditions[is_tested]):
        here = contexts == context
        everywhere = np.flatnonzero(here & (n_cells >= n_cells[here & is_tested].min()))
        candidates = Candidates(
            changes=changes[everywhere],
            targets=[targets[row] for row in everywhere],
            own=np.flatnonzero(is_tested[everywhere]),
        )
        rows = np.flatnonzero(contexts[is_tested] == context)
        part = means.of_conditions(rows, candidates)
        for metric in metrics:
            assert metric.function is not None
            results[metric.name][0][rows], results[metric.name][1][rows] = metric.function(part)
    return results


def _table(conditions: pd.DataFrame, metric: Metric, values: Values, halved: bool) -> pd.DataFrame:
    if halved:
        values = corrected_for_depth(metric, *values)
    table = conditions[COLUMNS].astype(str).reset_index(drop=True)
    return table.assign(metric=metric.name, value=values[0], reason=values[1])
