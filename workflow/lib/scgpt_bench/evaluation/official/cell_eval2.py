"""cell-eval2 0.20.0, the scorer of the Virtual Cell Challenge of 2026."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import conditions_of
from scgpt_bench.data.on_disk import batches
from scgpt_bench.evaluation.metrics import HALVED, METRICS
from scgpt_bench.evaluation.official.answers import (
    as_metrics,
    finite,
    name_and_version,
    not_scored,
    without_rows,
    write_not_scored,
)
from scgpt_bench.evaluation.official.sides import (
    NON_TARGETING,
    TARGET,
    Sides,
    measured_side,
    raw_counts,
    several_cell_types,
)
from scgpt_bench.evaluation.sorted_controls import sorted_controls
from scgpt_bench.files import atomic_write

if TYPE_CHECKING:
    import polars as pl
    from cell_eval2 import EvalConfig

CELLS_AT_ONCE = 2000  # tested at a time, beside the control cells
REFUSED = "refused.txt"
NO_EFFECT = "no measurable aggregate effect"  # of cells that do not respond it gives no metric at all, and says so


def preset(genes: pd.Index, perturbations: list[str], threads: int) -> EvalConfig:
    """Choose the preset ``vcc2026``, on this CPU; without excluded targets where no perturbation is a measured gene."""
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


@contextmanager
def de_in_parts() -> Iterator[None]:
    """Let cell-eval2 test some perturbations at a time, beside control cells that are prepared once.

    It copies the cells that it tests four times, in float64. Each perturbation is compared with the same control cells,
    and p-values are adjusted within it (``fdr_scope: per_pert``), so the values are the same. Fold changes need the
    mean of the control cells alone.
    """
    import polars as pl
    from cell_eval2 import de_compute

    whole = de_compute.compute_de

    def in_parts(adata: anndata.AnnData, *, groupby: str, reference: str, **options: Any) -> pl.DataFrame:
        known = {"fdr_scope": "per_pert", "mean_calc": "arithmetic", "input_type": "counts"}
        if options["target_sum"] is None or any(options[name] != value for name, value in known.items()):
            raise AssertionError("perturbations depend on each other, or on more than the mean control cell")
        labels, X = adata.obs[groupby].to_numpy(str), sparse.csr_matrix(adata.X)
        controls = anndata.AnnData(X[labels == reference], var=adata.var)
        scaled = de_compute._to_linear(controls, options["input_type"], options["target_sum"]).X
        mean = sparse.csr_matrix(scaled.mean(axis=0))
        targets, numbers = np.unique(labels[labels != reference], return_counts=True)
        tables = []
        with sorted_controls(scaled.log1p()):
            del controls, scaled
            for part in batches(numbers, 1, CELLS_AT_ONCE):
                rows = np.flatnonzero(np.isin(labels, targets[part]))
                names = [*adata.obs_names[rows], "mean control"]
                obs = pd.DataFrame({groupby: [*labels[rows], reference]}, index=names)
                cells = anndata.AnnData(sparse.vstack([X[rows], mean], format="csr"), obs=obs, var=adata.var)
                tables.append(whole(cells, groupby=groupby, reference=reference, **options))
        return pl.concat(tables)

    de_compute.compute_de = in_parts
    try:
        yield
    finally:
        de_compute.compute_de = whole


def write_reference(cells: anndata.AnnData, split: pd.DataFrame, threads: int, folder: str | Path) -> None:
    """Write the real bundle of ``cell-eval2 prep-real-bundle`` for one context: what scores 0 and what scores 1.

    0 is the scorer's generic baseline (control cells resampled and scaled to the mean response of the very test
    perturbations, as in the challenge), 1 the mean of five splits of the measured cells into halves. Where a scale
    cannot be drawn on these data (the scorer refuses, for instance since nothing is significant), the folder holds
    the scorer's words in ``refused.txt`` instead. Of cells of several types there is only the reason why nothing is
    scored.
    """
    from cell_eval2.baseline import build_baseline_prediction, generic_response_profile
    from cell_eval2.real_bundle import build_real_bundle

    if reason := several_cell_types(cells, split):
        write_not_scored(folder, reason)
        return
    measured = measured_side(cells, raw_counts(cells), split)
    tested = [condition.perturbation for condition in conditions_of(split, "test")]
    config = preset(measured.var_names, tested, threads)
    labels = {"pert_col": TARGET, "control": NON_TARGETING}
    with atomic_write(folder) as partial, de_in_parts():
        try:
            profile = generic_response_profile(measured, target_gene_map=config.target_gene_map, **labels)
            baseline = build_baseline_prediction(profile, measured, **labels)
            build_real_bundle(measured, baseline, config=config, outdir=str(partial), bundle_id="measured cells")
        except ValueError as error:
            partial.mkdir(exist_ok=True)
            (partial / REFUSED).write_text(f"{error}\n")


def evaluate(sides: Sides, bundle: str | Path, threads: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Preset ``vcc2026`` of cell-eval2's ``compute_metrics``, and its score against the real bundle.

    Parameters
    ----------
    sides
        From :func:`sides.count_sides`.
    bundle
        From :func:`write_reference`.

    Returns
    -------
    Table with ``perturbation``, ``context``, ``metric`` (``cell_eval2.<its name>``, those of ``METRICS``), ``value``,
    ``reason``, without the perturbations that the scorer does not score (a rule on the measured cells alone, which are
    other ones for a technical duplicate); and the summary: ``mean`` of all members of the preset, ``score`` (0 the
    baseline, 1 a replicate), or why there is none. No rows where nothing is scored against the bundle, or where the
    scorer refuses these cells: ``note`` then holds its words.
    """
    from cell_eval2 import aggregate_metrics_wide, compute_metrics
    from cell_eval2.run import metric_output_names

    if unscored := not_scored(bundle, "cell-eval2"):
        return unscored
    perturbations = sorted(set(sides.measured.obs[TARGET]) - {NON_TARGETING})
    config = preset(sides.measured.var_names, perturbations, threads)
    try:
        with de_in_parts():
            results = compute_metrics(sides.predicted, sides.measured, config=config)
        aggregated = aggregate_metrics_wide(results, metrics=metric_output_names(config))
    except ValueError as error:
        if NO_EFFECT not in str(error):
            raise
        return without_rows("cell-eval2", f"not scored: {error}")
    table = results.to_pandas()
    known = "cell_eval2." + table["metric"].astype(str)
    table = table[known.isin(METRICS) & np.isfinite(table["value"])]
    summary = {
        "scorer": name_and_version("cell-eval2"),
        "preset": "vcc2026",
        "mean": finite(aggregated.filter(aggregated["statistic"] == "mean").drop("statistic").row(0, named=True)),
        **_score(sides, aggregated, config, Path(bundle)),
    }
    return as_metrics(table, "cell_eval2", sides.context, sides.halved), summary


def _score(sides: Sides, aggregated: pl.DataFrame, config: EvalConfig, bundle: Path) -> dict[str, Any]:
    from cell_eval2 import score_metrics
    from cell_eval2.baseline import build_run_meta

    if sides.halved:
        return {"score": None, "note": f"{HALVED}; the scale is that of all cells"}
    if (bundle / REFUSED).exists():
        return {"score": None, "note": (bundle / REFUSED).read_text().strip()}
    meta = build_run_meta(config, sides.measured, sides.predicted)
    scores = score_metrics(aggregated, real_bundle=str(bundle), user_meta=meta)
    return {"score": finite(dict(zip(scores["metric"], scores["from_replicate"], strict=True))), "note": ""}
