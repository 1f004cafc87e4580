"""cell-eval 0.8.2, the scorer of the Virtual Cell Challenge of 2025."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import codes_of, conditions_of, contexts_of
from scgpt_bench.data.means import group_means
from scgpt_bench.data.on_disk import VALUES_AT_ONCE, batches, row_chunks
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import HALVED
from scgpt_bench.evaluation.official.answers import as_metrics, finite, name_and_version, not_scored, write_not_scored
from scgpt_bench.evaluation.official.sides import (
    NON_TARGETING,
    TARGET,
    Sides,
    input_controls,
    measured_side,
    several_cell_types,
)
from scgpt_bench.evaluation.sorted_controls import sorted_controls
from scgpt_bench.files import atomic_write

if TYPE_CHECKING:
    import polars as pl
    from cell_eval import MetricsEvaluator


def refuse_another_scale(adata: anndata.AnnData, source: str) -> None:
    """Refuse values that cell-eval would not take for log1p ones.

    It guesses: without a fractional value it normalizes and takes the logarithm (again: cell-eval issue 198), and
    above 15 or below 0 it stops. The guess is asked here, of the scorer's own function, before it matters; of the
    values that decide it, so that X may stay on disk.
    """
    from cell_eval.utils import guess_is_lognorm

    deciding = [0.0]
    for _, chunk in row_chunks(adata.X):
        if (values := chunk.data if sparse.issparse(chunk) else chunk.ravel()).size:
            deciding += [values.min(), values.max(), values[np.argmax(np.modf(values)[0])]]
    try:
        is_log = guess_is_lognorm(anndata.AnnData(sparse.csr_matrix(np.array([deciding]))))
    except ValueError as error:
        raise InputError(source, "X", str(error), "log1p values") from None
    if not is_log:
        raise InputError(source, "X", "whole numbers only, which cell-eval takes for counts", "log1p values")


def write_reference(cells: anndata.AnnData, split: pd.DataFrame, threads: int, folder: str | Path) -> None:
    """Write what all methods on one context of a split share: cell-eval's own output for its baseline.

    The baseline is that of ``cell-eval baseline``: every predicted cell is the mean of the group means of the training
    cells, control included, as many cells of each test perturbation as were measured. Of the output, ``real_de.csv``
    (DE of the measured cells) and ``agg_results.csv`` are read again. Of cells of several types there is only the
    reason why nothing is scored.
    """
    if reason := several_cell_types(cells, split):
        write_not_scored(folder, reason)
        return
    measured = measured_side(cells, cells.X, split)
    baseline = baseline_cell(cells, split)
    targets = np.array(sorted({*measured.obs[TARGET]} - {NON_TARGETING}))
    controls = measured[(measured.obs[TARGET] == NON_TARGETING).to_numpy()].copy()
    # One cell stands for all cells of a perturbation, which are equal; the DE is that of as many as were measured.
    cell = sparse.csr_matrix(baseline)
    one_each = _side([*targets], [cell] * len(targets), controls)
    numbers = measured.obs[TARGET].value_counts()
    with atomic_write(folder) as partial:
        partial.mkdir()
        predicted_de = partial / "pred_de.csv"
        _de_of_equal_cells(cell, numbers[targets], controls, threads).write_csv(predicted_de)
        sides = Sides(measured, one_each, contexts_of(split)[0], halved=False)
        with sorted_controls():
            _evaluator(sides, None, threads, partial, predicted_de).compute(profile="vcc", break_on_error=True)


def baseline_cell(cells: anndata.AnnData, split: pd.DataFrame) -> np.ndarray:
    """Average the group means of the training conditions and of the control cells that methods see.

    ``build_base_mean_adata`` of cell-eval does so for a matrix in memory, dense and twice; here cells are read in
    chunks, and sums are float64.

    Returns
    -------
    float32 [genes]
    """
    conditions = conditions_of(split, "train")
    groups = codes_of(cells.obs, conditions)
    groups[input_controls(cells.obs, split)] = len(conditions)
    means, _ = group_means(cells.X, np.where(groups < 0, np.nan, groups), range(len(conditions) + 1))
    return means.astype(np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)


def _side(targets: list[str], cells: list[sparse.csr_matrix], controls: anndata.AnnData) -> anndata.AnnData:
    """Put predicted cells before the control cells."""
    labels = [*targets, *controls.obs[TARGET]]
    obs = pd.DataFrame({TARGET: labels}, index=[str(number) for number in range(len(labels))])
    return anndata.AnnData(sparse.vstack([*cells, controls.X], format="csr"), obs=obs, var=controls.var)


def _de_of_equal_cells(
    cell: sparse.csr_matrix, numbers: pd.Series, controls: anndata.AnnData, threads: int
) -> pl.DataFrame:
    """Test perturbations of ``numbers`` cells, all equal, as :class:`cell_eval.MetricsEvaluator` would.

    The cells have no zeros where any training cell has none, so some perturbations are tested at a time.
    """
    import polars as pl
    from pdex import pdex

    mean = anndata.AnnData(sparse.csr_matrix(controls.X.mean(axis=0)), obs=controls.obs[:1], var=controls.var)
    tables = []
    with sorted_controls(controls.X):
        for part in batches(numbers, cell.nnz, VALUES_AT_ONCE):
            own = numbers.iloc[part]
            targets = own.index.repeat(own)
            side = _side([*targets], [cell] * len(targets), mean)
            tables.append(pdex(side, TARGET, "ref", threads, is_log1p=True, epsilon=0.0, reference=NON_TARGETING))
    return pl.concat(tables)


def _evaluator(
    sides: Sides, real_de: Path | None, threads: int, folder: str | Path, predicted_de: Path | None = None
) -> MetricsEvaluator:
    """Set up cell-eval on both sides: it tests a perturbation at a time, but would average a dense copy of a side."""
    from cell_eval import MetricsEvaluator

    refuse_another_scale(sides.measured, "cells.h5ad")
    refuse_another_scale(sides.predicted, "predictions.h5ad")
    evaluator = MetricsEvaluator(
        adata_pred=sides.predicted,
        adata_real=sides.measured,
        de_pred=predicted_de and str(predicted_de),
        de_real=real_de and str(real_de),
        control_pert=NON_TARGETING,
        pert_col=TARGET,
        num_threads=threads,
        outdir=str(folder),
    )
    pair = evaluator.anndata_pair
    for means, side in ((pair.bulk_real, sides.measured), (pair.bulk_pred, sides.predicted)):
        labels = side.obs[TARGET].to_numpy(str)
        groups = np.unique(labels)
        means["_default"] = groups, group_means(side.X, labels, groups)[0].astype(side.X.dtype)
    return evaluator


def evaluate(
    sides: Sides, reference: str | Path, threads: int, of_counts: Sides | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Profile ``vcc`` of cell-eval's ``MetricsEvaluator``, and ``cell-eval score`` against its baseline.

    Parameters
    ----------
    sides
        From :func:`sides.log_sides`.
    reference
        The folder of :func:`write_reference`; the DE of the measured cells is computed anew for a technical
        duplicate, since half of them are not the same.
    threads
        Numba threads of the Wilcoxon test.
    of_counts
        From :func:`sides.log_sides_of_counts`, for the DE of the predicted cells; None where there are no counts, and
        ``sides`` serve.

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric`` (``cell_eval.<its name>``), ``value``, ``reason``, and the
    summary of the prediction: ``mean`` of every metric and ``score`` (0 the baseline, 1 the best, and ``avg_score``
    their mean; no score below 0). No rows, and a note in the summary, where nothing is scored against the reference.
    """
    import polars as pl
    from cell_eval import score_agg_metrics

    if unscored := not_scored(reference, "cell-eval"):
        return unscored
    baseline = pl.read_csv(Path(reference) / "agg_results.csv")
    with TemporaryDirectory() as folder, sorted_controls():
        real_de = None if sides.halved else Path(reference) / "real_de.csv"
        predicted_de = None
        if of_counts is not None:
            _evaluator(of_counts, real_de, threads, folder)
            real_de, predicted_de = real_de or Path(folder) / "real_de.csv", Path(folder) / "pred_de.csv"
        evaluator = _evaluator(sides, real_de, threads, folder, predicted_de)
        results, aggregated = evaluator.compute(profile="vcc", write_csv=False, break_on_error=True)
    table = as_metrics(
        results.to_pandas().melt("perturbation", var_name="metric"), "cell_eval", sides.context, sides.halved
    )
    without_de = set(table["perturbation"]) - set(evaluator.de_comparison.real.filter_to_significant()["target"])
    undefined = (table["metric"] == "cell_eval.overlap_at_N") & table["perturbation"].isin(without_de)
    table.loc[undefined, "reason"] = "no significant gene in the measured cells: 0 by cell-eval's rule"
    scores = score_agg_metrics(aggregated, baseline.select(aggregated.columns))
    return table, {
        "scorer": name_and_version("cell-eval"),
        "profile": "vcc",
        "mean": finite(aggregated.filter(aggregated["statistic"] == "mean").drop("statistic").row(0, named=True)),
        "score": finite(dict(zip(scores["metric"], scores["from_baseline"], strict=True))),
        "note": HALVED if sides.halved else "",
    }
