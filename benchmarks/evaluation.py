"""Metrics that cell-eval 0.8.2 and we share, from sparse cells to a value per perturbation.

Both sides get the same measured and predicted cells, with the control cells in both. Two readings of the time stand
side by side: that of the work on cells in memory, and that of a fresh process, its reading of h5ad files included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import measure
import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

WORK, PEER = "shared metrics", "cell-eval 0.8.2"
SIZE = (150, 100, 18_080)  # perturbations, cells of each, genes
TIME_GOAL, MEMORY_GOAL, TOLERANCE = 20.0, 4.0, 1e-6
METRICS = {  # ours: cell-eval's
    "pearson_delta": "pearson_delta",
    "mse": "mse",
    "mae": "mae",
    "discrimination_l1": "discrimination_score_l1",
}
SIDES = ("measured", "predicted")
CONTROL = "control"


def rows(repeats: int = 3, size: tuple[int, int, int] = SIZE) -> list[dict]:
    """The table: times, peak memory and the largest difference between the values."""
    name = "{} perturbations x {} cells x {} genes".format(*size)
    time_goal, memory_goal = (TIME_GOAL, MEMORY_GOAL) if size == SIZE else (None, None)
    with tempfile.TemporaryDirectory() as folder:
        measure.in_fresh_process(__file__, "cells", folder, *size)
        seconds = measure.in_fresh_process(__file__, "time", folder, repeats)
        ours, peer = (measure.in_fresh_process(__file__, side, folder) for side in ("ours", "peer"))
    difference = float(np.abs(np.array(ours["values"]) - np.array(peer["values"])).max())

    def compared(quantity: str, unit: str, ours: float, peer: float, goal: float | None) -> dict:
        return measure.row(WORK, name, quantity, unit, ours, PEER, peer, peer / ours, goal)

    return [
        compared("time, cells in memory", "s", seconds["ours"], seconds["peer"], time_goal),
        compared("time, from files, fresh process", "s", ours["s"], peer["s"], None),
        compared("peak memory", "MB", ours["MB"], peer["MB"], memory_goal),
        measure.row(
            WORK, name, "largest difference", "1", difference, "allowed", TOLERANCE, TOLERANCE / difference, 1.0
        ),
    ]


def write_cells(folder: str, perturbations: int, cells: int, genes: int) -> None:
    """Measured and predicted cells with 80 % zeros; predictions have half of the true effects and other cells."""
    import anndata
    import pandas as pd
    from scipy import sparse

    generator = np.random.default_rng(0)
    names = [f"G{i}" for i in range(genes)]
    labels = [CONTROL, *names[:perturbations]]
    level = generator.gamma(0.3, 1.0, genes)
    effects = np.where(generator.random((len(labels), genes)) < 0.1, generator.normal(0, 1, (len(labels), genes)), 0)
    effects[0] = 0
    control = sparse.csr_matrix(_log_cells(generator, level, cells))
    obs = pd.DataFrame({"perturbation": np.repeat(labels, cells)}, index=map(str, range(len(labels) * cells)))
    for side, strength in zip(SIDES, (1.0, 0.5), strict=True):
        groups = [sparse.csr_matrix(_log_cells(generator, level * np.exp(strength * e), cells)) for e in effects[1:]]
        stacked = anndata.AnnData(
            sparse.vstack([control, *groups], format="csr"), obs=obs, var=pd.DataFrame(index=names)
        )
        stacked.write_h5ad(Path(folder, f"{side}.h5ad"))


def _log_cells(generator: np.random.Generator, level: np.ndarray, cells: int) -> np.ndarray:
    counts = generator.poisson(level, (cells, len(level)))
    return np.log1p(counts * (1e4 / counts.sum(axis=1, keepdims=True))).astype(np.float32)


def ours(read: Callable[[str], AnnData]) -> list[list[float]]:
    """[metrics x perturbations sorted by name]; holds one side's cells at a time."""
    from scgpt_bench.data.means import group_means
    from scgpt_bench.evaluation import pseudobulk_metrics as metrics

    means = {}
    for side in SIDES:
        cells = read(side)
        labels, genes = cells.obs["perturbation"].astype(str), cells.var_names
        perturbations = sorted(set(labels) - {CONTROL})
        means[side], _ = group_means(cells.X, labels, [CONTROL, *perturbations])
        del cells
    truth, prediction = means["measured"][1:], means["predicted"][1:]
    control = np.broadcast_to(means["measured"][0], truth.shape)
    targets = [genes.get_indexer([name]) for name in perturbations]
    references = dict.fromkeys(("control", "centroid", "predicted_from", "measured_from", "variance"), control)
    compared = metrics.Means(prediction=prediction, truth=truth, full_truth=truth, targets=targets, **references)
    return [getattr(metrics, name)(compared)[0].tolist() for name in METRICS]


def peer(read: Callable[[str], AnnData]) -> list[list[float]]:
    """The same by cell-eval, which is told to compute nothing else."""
    from cell_eval import MetricsEvaluator
    from cell_eval.metrics import metrics_registry

    with tempfile.TemporaryDirectory() as folder:
        evaluator = MetricsEvaluator(
            adata_real=read("measured"), adata_pred=read("predicted"), control_pert=CONTROL, pert_col="perturbation",
            skip_de=True, outdir=str(Path(folder, "cell-eval")),
        )  # fmt: skip
        others = [name for name in metrics_registry.list_metrics() if name not in METRICS.values()]
        table, _ = evaluator.compute("anndata", skip_metrics=others, write_csv=False, break_on_error=True)
    return [table.sort("perturbation")[name].cast(float).to_list() for name in METRICS.values()]


def _from_files(run: Callable, folder: str) -> dict:
    """Seconds, peak memory and values of one run that reads its files; imports do not count as time."""
    for module in (
        ("anndata", "scgpt_bench.data.means", "scgpt_bench.evaluation.pseudobulk_metrics")
        if run is ours
        else ("cell_eval",)
    ):
        importlib.import_module(module)
    start = time.perf_counter()
    values = run(lambda side: _read(folder, side))
    return {"s": time.perf_counter() - start, "MB": measure.peak_memory_mb(), "values": values}


def _in_memory(folder: str, repeats: int) -> dict:
    cells = {side: _read(folder, side) for side in SIDES}
    first, theirs, second = measure.alternating(
        *(partial(run, cells.__getitem__) for run in (ours, peer, ours)), repeats=repeats
    )
    return {"ours": (first + second) / 2, "peer": theirs}


def _read(folder: str, side: str) -> AnnData:
    import anndata

    return anndata.read_h5ad(Path(folder, f"{side}.h5ad"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cells", "time", "ours", "peer"))
    parser.add_argument("folder")
    parser.add_argument(
        "numbers", nargs="*", type=int, help="cells: perturbations, cells of each, genes; time: repeats"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    runs = {
        "cells": write_cells,
        "time": _in_memory,
        "ours": partial(_from_files, ours),
        "peer": partial(_from_files, peer),
    }
    json.dump(runs[arguments.what](arguments.folder, *arguments.numbers), sys.stdout)
    print()


if __name__ == "__main__":
    main()
