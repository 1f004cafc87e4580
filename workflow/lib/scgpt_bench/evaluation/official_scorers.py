"""The Virtual Cell Challenge's own scorers, run as they are: what they are given, and what they answer.

``cell_eval`` is cell-eval 0.8.2 (challenge of 2025: DES ``overlap_at_N``, PDS ``discrimination_score_l1``, ``mae``),
``cell_eval2`` is cell-eval2 0.20.0 (challenge of 2026, preset ``vcc2026``). Each lives in an environment of its own, so
that it is imported only where it is called.

Both are given two sides with the challenge's labels (``obs["target_gene"]``, control ``non-targeting``): the measured
cells of the test perturbations and the predicted ones, and **the same measured control cells on both sides**. A control
that a method predicted, or another draw of control cells, would move every change from control on one side only, and
with it the score (cell-eval issue 196). Control cells of all cell types are pooled: the scorers know one control.

What a prediction becomes on its way, since the scorers accept less than the contract of ``predictions.h5ad`` does:

- no negative value: :func:`nonnegative`, which keeps the mean of every perturbation;
- for ``cell_eval2``, counts: :func:`sampled_counts`.

A technical duplicate is scored against the other half of the measured cells, as everywhere in this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.names import CONTROL
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.pseudobulk import first_half
from scgpt_bench.files import whole
from scgpt_bench.methods.predictions import method_of, perturbations_of
from scgpt_bench.seeding import random_generator

if TYPE_CHECKING:
    import polars as pl
    from cell_eval import MetricsEvaluator
    from cell_eval2 import EvalConfig

TARGET, NON_TARGETING = "target_gene", "non-targeting"
COUNTS_SEED = 0  # a conversion, not a part of a method: the same for all of them
HALVED = "one half of the cells against the other"
# Members of the preset that order methods; the preset's other members describe the data or are parts of these.
# expr_mse_unbiased_capped is the part per perturbation of expr_mse_unbiased_capped_norm, a ratio of sums.
CELL_EVAL2_METRICS = (
    "pds_cosine",
    "expr_mse_unbiased_capped",
    "de_wilcoxon_direction_fidelity_yield_raw",
    "de_wilcoxon_direction_reach_raw",
    "de_wilcoxon_sig_jaccard",
    "de_wilcoxon_lfc_nmae",
)
REFUSED = "refused.txt"


@dataclass(frozen=True)
class Sides:
    """What a scorer compares: AnnData with ``obs["target_gene"]``, the same control cells last on both."""

    measured: anndata.AnnData
    predicted: anndata.AnnData
    halved: bool


# What the scorers are given


def nonnegative(X: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Log values without negative ones, and with the same mean of every group and gene wherever that is not negative.

    Methods that shift control cells go below 0 where few cells express a gene (cell-eval refuses that). Setting those
    values to 0 alone would raise the mean, so the group's positive values of that gene are scaled down by as much.
    A mean below 0, which no cells can have, becomes 0.

    Parameters
    ----------
    X
        Predicted cells [cells x genes], log1p.
    groups
        The perturbation of each cell.

    Returns
    -------
    float32 [cells x genes]; equal to ``X`` where nothing is negative.
    """
    result = np.maximum(X, 0, dtype=np.float32)
    for rows in pd.Series(groups).groupby(np.asarray(groups)).indices.values():
        genes = np.flatnonzero((X[rows] < 0).any(axis=0))
        before = np.maximum(X[np.ix_(rows, genes)].mean(axis=0, dtype=np.float64), 0)
        after = result[np.ix_(rows, genes)].mean(axis=0, dtype=np.float64)
        result[np.ix_(rows, genes)] *= np.divide(before, after, out=np.zeros_like(after), where=after > 0)
    return result


def sampled_counts(X: np.ndarray, depth_factors: np.ndarray, names: Sequence[str]) -> sparse.csr_matrix:
    """Whole counts for predicted log values.

    A cell's counts are ``expm1(X) * depth factor``, where the factor is that of the control cell from which it was
    predicted: an unchanged control cell gets its own counts back. What is left of a whole number decides by chance
    whether it is rounded up, so that the expected count is the predicted one; rounding to the nearest would delete
    every prediction below half a count, which is most of them. The chance depends on the cell's name only.

    What it cannot do: a log value is the mean of a log where a method predicts means, and its ``expm1`` is then below
    the mean count; the depth of a perturbed cell is that of its control; counts vary less than counted molecules do,
    where a method predicts the same values for all cells.

    Parameters
    ----------
    X
        Predicted cells [cells x genes], log1p, not negative.
    depth_factors
        Counts per unit of ``expm1(X)`` [cells]; see :func:`depth_factors_of`.
    names
        Name of each cell.

    Returns
    -------
    CSR float32 [cells x genes] of whole numbers.
    """
    rows = []
    for values, factor, name in zip(X, depth_factors, names, strict=True):
        # Float32 log values give back whole counts to about 1e-6 of the count: not a remainder to round up by chance.
        expected = np.expm1(values.astype(np.float64)) * factor
        nearest = np.rint(expected)
        expected = np.where(np.abs(expected - nearest) < 1e-5 * np.maximum(nearest, 1), nearest, expected)
        draws = random_generator(COUNTS_SEED, "counts", name).random(len(values))
        rows.append(sparse.csr_matrix((np.floor(expected) + (draws < expected % 1)).astype(np.float32)))
    return sparse.vstack(rows, format="csr")


def depth_factors_of(cells: anndata.AnnData, names: pd.Series) -> np.ndarray:
    """Counts per unit of ``expm1(X)`` of the named cells of ``cells.h5ad``, from their own counts.

    Raises
    ------
    InputError
        Where the data set has no raw counts: no rule could say how deep its cells were sequenced.
    """
    _raw_counts(cells)
    rows = cells.obs_names.get_indexer(names)
    if (rows < 0).any():
        absent = names.iloc[int(np.argmin(rows))]
        raise InputError("predictions.h5ad", "obs['control_cell']", repr(absent), "cells of cells.h5ad")
    used, inverse = np.unique(rows, return_inverse=True)
    counts = np.asarray(cells.layers["counts"][used].sum(axis=1, dtype=np.float64)).ravel()
    values = np.asarray(cells.X[used].expm1().sum(axis=1, dtype=np.float64)).ravel()
    return np.divide(counts, values, out=np.zeros_like(counts), where=values > 0)[inverse]


def _raw_counts(cells: anndata.AnnData) -> sparse.csr_matrix:
    if "counts" not in cells.layers:
        raise InputError("cells.h5ad", "layers", "no 'counts'", "raw counts, which cell-eval2 compares")
    return cells.layers["counts"]


def log_sides(cells: anndata.AnnData, predictions: anndata.AnnData, split: pd.DataFrame) -> Sides:
    """Both sides in log1p values, as ``cells.h5ad`` holds them.

    Parameters
    ----------
    cells, predictions, split
        ``cells.h5ad``, ``predictions.h5ad`` (read by ``predictions.read_predictions``), ``split.tsv``.
    """
    return _sides(cells, cells.X, sparse.csr_matrix(_nonnegative_cells(predictions)), predictions, split)


def count_sides(cells: anndata.AnnData, predictions: anndata.AnnData, split: pd.DataFrame) -> Sides:
    """Both sides in whole counts: the measured raw counts, and :func:`predicted_counts`."""
    return _sides(cells, _raw_counts(cells), predicted_counts(cells, predictions), predictions, split)


def predicted_counts(cells: anndata.AnnData, predictions: anndata.AnnData) -> sparse.csr_matrix:
    """The counts of all predicted cells: :func:`nonnegative`, then :func:`sampled_counts` at the depth of the controls.

    Returns
    -------
    CSR float32 [rows of ``predictions`` x genes] of whole numbers.
    """
    names = predictions.obs["perturbation"].astype(str) + ":" + predictions.obs["control_cell"].astype(str)
    factors = depth_factors_of(cells, predictions.obs["control_cell"].astype(str))
    return sampled_counts(_nonnegative_cells(predictions), factors, names)


def _nonnegative_cells(predictions: anndata.AnnData) -> np.ndarray:
    X = predictions.X.toarray() if sparse.issparse(predictions.X) else np.asarray(predictions.X)
    return nonnegative(X, predictions.obs["perturbation"].astype(str).to_numpy())


def _sides(
    cells: anndata.AnnData,
    values: sparse.csr_matrix,
    predicted: sparse.csr_matrix,
    predictions: anndata.AnnData,
    split: pd.DataFrame,
) -> Sides:
    halved = method_of(predictions).get("scored_against") == "half_b"
    measured = measured_side(cells, values, split, halved)
    controls = measured[(measured.obs[TARGET] == NON_TARGETING).to_numpy()]
    labels = [*predictions.obs["perturbation"].astype(str), *controls.obs[TARGET]]
    obs = pd.DataFrame({TARGET: labels}, index=[f"predicted{number}" for number in range(len(labels))])
    X = sparse.vstack([predicted, controls.X], format="csr")
    return Sides(measured, anndata.AnnData(X, obs=obs, var=measured.var.copy()), halved)


def measured_side(
    cells: anndata.AnnData, values: sparse.csr_matrix, split: pd.DataFrame, halved: bool = False, role: str = "test"
) -> anndata.AnnData:
    """The measured cells of the perturbations with this role (their second half, if ``halved``), then all controls.

    Parameters
    ----------
    values
        ``X`` or ``layers["counts"]`` of ``cells``.
    """
    perturbations = perturbations_of(split, role)
    labels = cells.obs["perturbation"].astype(str)
    kept = labels.isin(perturbations).to_numpy()
    if halved:
        kept &= ~first_half(cells.obs, perturbations)
    rows = np.concatenate([np.flatnonzero(kept), np.flatnonzero(labels == CONTROL)])
    targets = labels.to_numpy().astype(object)[rows]
    targets[targets == CONTROL] = NON_TARGETING
    obs = pd.DataFrame({TARGET: targets}, index=cells.obs_names[rows])
    return anndata.AnnData(sparse.csr_matrix(values[rows]), obs=obs, var=pd.DataFrame(index=cells.var_names))


# cell-eval, challenge of 2025


def refuse_another_scale(adata: anndata.AnnData, source: str) -> None:
    """Refuse values that cell-eval would not take for log1p ones.

    It guesses: without a fractional value it normalizes and takes the logarithm (again: cell-eval issue 198), and
    above 15 or below 0 it stops. The guess is asked here, of the scorer's own function, before it matters.
    """
    from cell_eval.utils import guess_is_lognorm

    try:
        is_log = guess_is_lognorm(adata)
    except ValueError as error:
        raise InputError(source, "X", str(error), "log1p values") from None
    if not is_log:
        raise InputError(source, "X", "whole numbers only, which cell-eval takes for counts", "log1p values")


def write_cell_eval_reference(cells: anndata.AnnData, split: pd.DataFrame, threads: int, folder: str | Path) -> None:
    """Write what all methods on a split share: cell-eval's own output for its baseline.

    The baseline is that of ``cell-eval baseline``: every predicted cell is the mean of the group means of the training
    cells, control included, as many cells of each test perturbation as were measured. Of the output, ``real_de.csv``
    (DE of the measured cells) and ``agg_results.csv`` are read again.
    """
    import polars as pl
    from cell_eval import build_base_mean_adata

    measured = measured_side(cells, cells.X, split)
    refuse_another_scale(measured, "cells.h5ad")
    numbers = measured.obs[TARGET].value_counts().sort_index()
    baseline = build_base_mean_adata(
        measured_side(cells, cells.X, split, role="train"),
        counts_df=pl.DataFrame({TARGET: list(numbers.index), "n_cells": list(numbers)}),
        pert_col=TARGET,
        control_pert=NON_TARGETING,
    )
    with whole(folder) as partial:
        evaluator = _evaluator(Sides(measured, baseline, halved=False), None, threads, partial)
        evaluator.compute(profile="vcc", break_on_error=True)


def _evaluator(sides: Sides, real_de: Path | None, threads: int, folder: str | Path) -> MetricsEvaluator:
    from cell_eval import MetricsEvaluator

    refuse_another_scale(sides.measured, "cells.h5ad")
    refuse_another_scale(sides.predicted, "predictions.h5ad")
    return MetricsEvaluator(
        adata_pred=sides.predicted,
        adata_real=sides.measured,
        de_real=real_de and str(real_de),
        control_pert=NON_TARGETING,
        pert_col=TARGET,
        num_threads=threads,
        outdir=str(folder),
    )


def cell_eval(sides: Sides, reference: str | Path, threads: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Profile ``vcc`` of cell-eval's ``MetricsEvaluator``, and ``cell-eval score`` against its baseline.

    Parameters
    ----------
    sides
        From :func:`log_sides`.
    reference
        The folder of :func:`write_cell_eval_reference`; the DE of the measured cells is computed anew for a technical
        duplicate, since half of them are not the same.
    threads
        Numba threads of the Wilcoxon test.

    Returns
    -------
    Table with ``perturbation``, ``metric`` (``cell_eval.<its name>``), ``value``, ``reason``, and the summary of the
    prediction: ``mean`` of every metric and ``score`` (0 the baseline, 1 the best, and ``avg_score`` their mean; no
    score below 0).
    """
    import polars as pl
    from cell_eval import score_agg_metrics

    baseline = pl.read_csv(Path(reference) / "agg_results.csv")
    with TemporaryDirectory() as folder:
        evaluator = _evaluator(sides, None if sides.halved else Path(reference) / "real_de.csv", threads, folder)
        results, aggregated = evaluator.compute(profile="vcc", write_csv=False, break_on_error=True)
    table = results.to_pandas().melt("perturbation", var_name="metric")
    without_de = set(table["perturbation"]) - set(evaluator.de_comparison.real.filter_to_significant()["target"])
    undefined = (table["metric"] == "overlap_at_N") & table["perturbation"].isin(without_de)
    table = _as_metrics(table, "cell_eval", sides.halved)
    table.loc[undefined.to_numpy(), "reason"] = "no significant gene in the measured cells: 0 by cell-eval's rule"
    scores = score_agg_metrics(aggregated, baseline.select(aggregated.columns))
    return _sorted(table), {
        "scorer": _version("cell-eval"),
        "profile": "vcc",
        "mean": _finite(aggregated.filter(aggregated["statistic"] == "mean").drop("statistic").row(0, named=True)),
        "score": _finite(dict(zip(scores["metric"], scores["from_baseline"], strict=True))),
        "note": HALVED if sides.halved else "",
    }


# cell-eval2, challenge of 2026


def cell_eval2_config(genes: pd.Index, perturbations: list[str], threads: int) -> EvalConfig:
    """The preset ``vcc2026``, on this CPU. Where no perturbation is a measured gene, none is excluded as a target."""
    from cell_eval2 import EvalConfig

    config = EvalConfig.from_preset("vcc2026")
    without_targets = None if genes.isin(perturbations).any() else {"*": None}
    return replace(
        config,
        pert_col=TARGET,
        device="cpu",
        num_threads=threads,
        de=replace(config.de, backend="pdex"),
        target_gene_map=without_targets,
    )


def write_cell_eval2_reference(cells: anndata.AnnData, split: pd.DataFrame, threads: int, folder: str | Path) -> None:
    """Write the real bundle of ``cell-eval2 prep-real-bundle``: what scores 0 and what scores 1 on these cells.

    0 is the scorer's generic baseline (control cells resampled and scaled to the mean response of the very test
    perturbations, as in the challenge), 1 the mean of five splits of the measured cells into halves. Where a scale
    cannot be drawn on these data (the scorer refuses, for instance since nothing is significant), the folder holds
    the scorer's words in ``refused.txt`` instead.
    """
    from cell_eval2.baseline import build_baseline_prediction, generic_response_profile
    from cell_eval2.real_bundle import build_real_bundle

    measured = measured_side(cells, _raw_counts(cells), split)
    config = cell_eval2_config(measured.var_names, perturbations_of(split, "test"), threads)
    labels = {"pert_col": TARGET, "control": NON_TARGETING}
    profile = generic_response_profile(measured, target_gene_map=config.target_gene_map, **labels)
    baseline = build_baseline_prediction(profile, measured, **labels)
    with whole(folder) as partial:
        try:
            build_real_bundle(measured, baseline, config=config, outdir=str(partial), bundle_id="measured cells")
        except ValueError as error:
            partial.mkdir(exist_ok=True)
            (partial / REFUSED).write_text(f"{error}\n")


def cell_eval2(sides: Sides, bundle: str | Path, threads: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Preset ``vcc2026`` of cell-eval2's ``compute_metrics``, and its score against the real bundle.

    Parameters
    ----------
    sides
        From :func:`count_sides`.
    bundle
        From :func:`write_cell_eval2_reference`.

    Returns
    -------
    Table with ``perturbation``, ``metric`` (``cell_eval2.<its name>``, those of ``CELL_EVAL2_METRICS``), ``value``,
    ``reason``, without the perturbations that the scorer does not score (a rule on the measured cells alone); and the
    summary: ``mean`` of all members of the preset, ``score`` (0 the baseline, 1 a replicate), or why there is none.
    """
    from cell_eval2 import aggregate_metrics_wide, compute_metrics
    from cell_eval2.run import metric_output_names

    perturbations = sorted(set(sides.measured.obs[TARGET]) - {NON_TARGETING})
    config = cell_eval2_config(sides.measured.var_names, perturbations, threads)
    results = compute_metrics(sides.predicted, sides.measured, config=config)
    aggregated = aggregate_metrics_wide(results, metrics=metric_output_names(config))
    table = results.to_pandas()
    table = table[table["metric"].isin(CELL_EVAL2_METRICS) & np.isfinite(table["value"])]
    summary = {
        "scorer": _version("cell-eval2"),
        "preset": "vcc2026",
        "mean": _finite(aggregated.filter(aggregated["statistic"] == "mean").drop("statistic").row(0, named=True)),
        **_cell_eval2_score(sides, aggregated, config, Path(bundle)),
    }
    return _sorted(_as_metrics(table, "cell_eval2", sides.halved)), summary


def _cell_eval2_score(sides: Sides, aggregated: pl.DataFrame, config: EvalConfig, bundle: Path) -> dict[str, Any]:
    from cell_eval2 import score_metrics
    from cell_eval2.baseline import build_run_meta

    if sides.halved:
        return {"score": None, "note": f"{HALVED}: the scale is that of all cells"}
    if (bundle / REFUSED).exists():
        return {"score": None, "note": (bundle / REFUSED).read_text().strip()}
    meta = build_run_meta(config, sides.measured, sides.predicted)
    scores = score_metrics(aggregated, real_bundle=str(bundle), user_meta=meta)
    return {"score": _finite(dict(zip(scores["metric"], scores["from_replicate"], strict=True))), "note": ""}


# What the scorers answer


def _as_metrics(table: pd.DataFrame, scorer: str, halved: bool) -> pd.DataFrame:
    """A scorer's values under this package's column names, to 12 digits: polars adds up in no fixed order."""
    metrics = scorer + "." + table["metric"].astype(str)
    values = [float(f"{value:.12g}") for value in table["value"]]
    table = table.assign(metric=metrics, value=values, reason=HALVED if halved else "")
    return table[["perturbation", "metric", "value", "reason"]]


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["metric", "perturbation"], ignore_index=True)


def _finite(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN: None where a scorer gives none.

    Six digits: the baseline of cell-eval is a float32 sum of groups in no fixed order.
    """
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) and np.isfinite(value) else None
        for name, value in sorted(values.items())
    }


def _version(package: str) -> str:
    from importlib.metadata import version

    return f"{package} {version(package)}"
