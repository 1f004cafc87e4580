"""A large drop from file to card: harmonize, card, control cells and pseudo-bulk, each in a process of its own.

Genes, perturbations, share of controls and stored values per cell (what the size of the published file comes to) are
those of the Virtual Cell Challenge 2025; how many cells is the fraction that the machine allows. There is no peer:
time is set beside twice that of half as many cells (a ratio of 1 means linear), memory beside 4 GiB, at the size that
was run and, along the slope, at full size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import measure
import numpy as np
from scipy import sparse

FULL = 221_273  # cells
GENES, PERTURBATIONS, CONTROL_SHARE, STORED = 18_080, 150, 38_176 / 221_273, 6_000
LIMIT = 4096.0  # MB
STEPS = ("harmonize", "card", "controls", "pseudo-bulk")


def rows(cells: int = 22_000, genes: int = GENES) -> list[dict]:
    """The table: for each step, seconds and peak memory of ``cells`` cells, and what they come to at full size."""
    sizes, table = (cells // 2, cells), []
    measured = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            measure.in_fresh_process(__file__, "drop", folder, size, genes)
            measured.append({step: measure.in_fresh_process(__file__, step, folder) for step in STEPS})
    half, whole = measured
    for step in STEPS:
        work, name = f"drop: {step}", f"{cells:,} cells x {genes:,} genes"
        seconds = [side[step]["s"] for side in (half, whole)]
        memory = [side[step]["MB"] for side in (half, whole)]
        full = memory[1] + max(0.0, memory[1] - memory[0]) / (sizes[1] - sizes[0]) * (FULL - cells)
        at_full = f"{FULL:,} cells, by the slope"
        table += [
            measure.row(work, name, "time", "s", seconds[1], "2 x half", 2 * seconds[0], 2 * seconds[0] / seconds[1]),
            measure.row(work, name, "peak memory", "MB", memory[1], "limit", LIMIT, LIMIT / memory[1], 1.0),
            measure.row(work, at_full, "peak memory", "MB", full, "limit", LIMIT, LIMIT / full, 1.0),
            measure.row(work, at_full, "time", "s", seconds[1] / cells * FULL, "", float("nan"), float("nan")),
        ]
    return table


def write_drop(folder: str, cells: int, genes: int) -> None:
    """Counts with about ``STORED`` values a cell, by chunks; controls and perturbations at random."""
    import pandas as pd

    from scgpt_bench.data.on_disk import CellWriter

    generator = np.random.default_rng(0)
    names = [f"GENE{i}" for i in range(genes)]
    share = np.r_[CONTROL_SHARE, np.full(PERTURBATIONS, (1 - CONTROL_SHARE) / PERTURBATIONS)]
    labels = generator.choice(["NT", *names[:PERTURBATIONS]], cells, p=share)
    stored = min(STORED, genes // 2)
    with CellWriter(Path(folder, "drop.h5ad"), genes) as file:
        for start in range(0, cells, 1000):
            rows = min(1000, cells - start)
            file.append(random_counts(generator, rows, genes, stored))
        file.obs = pd.DataFrame(
            {"gene": pd.Categorical(labels), "batch": pd.Categorical(generator.choice(["a", "b", "c"], cells))},
            index=[f"cell{i}" for i in range(cells)],
        )
        file.var = pd.DataFrame(index=names)


def random_counts(generator: np.random.Generator, rows: int, genes: int, stored: int) -> sparse.csr_matrix:
    """Counts of some cells, CSR [rows x genes], ``stored`` of them in each row."""
    # One gene of each of ``stored`` equal intervals: sorted, distinct, and quick to draw.
    step = genes // stored
    indices = np.arange(stored) * step + generator.integers(step, size=(rows, stored))
    counts = generator.geometric(0.4, rows * stored)
    return sparse.csr_matrix((counts, indices.ravel(), np.arange(rows + 1) * stored), (rows, genes))


def harmonize(folder: str) -> None:
    from scgpt_bench.data.catalogue import Dataset
    from scgpt_bench.data.harmonize import write_harmonized
    from scgpt_bench.data.readers import read

    source = Path(folder, "drop.h5ad")
    row = Dataset("drop", str(source), "h5ad", "counts", 1e4, "gene", "NT", "interference", batch_column="batch")
    write_harmonized(read(source, row), row, Path(folder, "cells.h5ad"), minimum_cells=10)


def card(folder: str) -> None:
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.data_card import data_card

    cells = open_h5ad(Path(folder, "cells.h5ad"))
    data_card(cells, dataset="drop", perturbation_kind="interference", minimum_reliability=0.3)


def controls(folder: str) -> None:
    from scgpt_bench.data.controls import draw_controls, write_control_cells
    from scgpt_bench.data.on_disk import open_h5ad

    cells = open_h5ad(Path(folder, "cells.h5ad"))
    draw = draw_controls(cells.obs, _split(cells), per_perturbation=100, seed=1, dataset="drop", split_name="fold0")
    write_control_cells(cells, draw, Path(folder, "controls.h5ad"))


def pseudobulk(folder: str) -> None:
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.pseudobulk import measured, truth

    cells = open_h5ad(Path(folder, "cells.h5ad"))
    truth(measured(cells), _split(cells))


def _split(cells):
    from scgpt_bench.data.splits import fold

    dealing = {"folds": 5, "seed": 1, "validation_share": 0.15, "minimum_cells": 10}
    return fold(cells.obs, dataset="drop", fold=0, **dealing)


if __name__ == "__main__":
    measure.run_step(
        __doc__,
        dict(zip(("drop", *STEPS), (write_drop, harmonize, card, controls, pseudobulk), strict=True)),
        "drop: cells, genes",
    )
