"""Five data sets joined into one, on disk: time and memory by the number of cells.

Genes and stored values per cell are about those of the genome-scale screens of one laboratory. The five are one file,
whose genes have other names in each, so that every part has some that others lack. There is no peer: time is set
beside five times that of a fifth of the cells (a ratio of 1 means linear), memory beside 4 GiB.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import measure
import numpy as np

PARTS, GENES, PERTURBATIONS, CONTROL_SHARE, STORED = 5, 8_000, 150, 0.05, 2_000
SHIFT = 50  # genes that a part has and the one before it lacks
LIMIT = 4096.0  # MB


def rows(cells: int = 100_000, genes: int = GENES) -> list[dict]:
    """The table: seconds and peak memory of joining five times ``cells`` cells."""
    measured = []
    for size in (cells // 5, cells):
        with tempfile.TemporaryDirectory() as folder:
            measure.in_fresh_process(__file__, "part", folder, size, genes)
            measured.append(measure.in_fresh_process(__file__, "join", folder))
    small, large = measured
    work, name = "joining", f"{PARTS} x {cells:,} cells x {genes:,} genes"
    linear = 5 * small["s"]
    return [
        measure.row(work, name, "time", "s", large["s"], "5 x a fifth", linear, linear / large["s"]),
        measure.row(work, name, "peak memory", "MB", large["MB"], "limit", LIMIT, LIMIT / large["MB"], 1.0),
    ]


def write_part(folder: str, cells: int, genes: int) -> None:
    """Write ``cells.h5ad`` of a part, by chunks: counts at random, with a few perturbations."""
    import pandas as pd
    from scipy import sparse

    from scgpt_bench.data.halves import deal_halves
    from scgpt_bench.data.on_disk import CellWriter

    generator = np.random.default_rng(0)
    share = np.r_[CONTROL_SHARE, np.full(PERTURBATIONS, (1 - CONTROL_SHARE) / PERTURBATIONS)]
    labels = generator.choice(["control", *(f"GENE{i}" for i in range(1000, 1000 + PERTURBATIONS))], cells, p=share)
    obs = pd.DataFrame({"perturbation": labels, "context": "all"}, index=[f"cell{i}" for i in range(cells)])
    obs["direction"] = np.where(obs["perturbation"] == "control", "none", "down")
    obs["batch"], obs["cell_type"] = generator.choice([f"lane{i}" for i in range(50)], cells), "all"
    obs["half"] = deal_halves(obs)
    summary = {"target_sum": 1e4, "values_evidence": "counts", "n_cells_read": cells, "minimum_cells": 10}
    summary |= {"largest_shares_of_counts": {"gene": np.array(["GENE0"], dtype=object), "share": np.array([0.01])}}
    summary |= {name: np.array([], dtype=object) for name in ("dropped_perturbations", "repairs", "problems")}
    stored = min(STORED, genes // 2)
    with CellWriter(Path(folder, "cells.h5ad"), genes) as file:
        for start in range(0, cells, 1000):
            number = min(1000, cells - start)
            # One gene of each of ``stored`` equal intervals: sorted, distinct, and quick to draw.
            step = genes // stored
            indices = np.arange(stored) * step + generator.integers(step, size=(number, stored))
            counts = generator.geometric(0.4, number * stored).astype(np.float32)
            totals = counts.reshape(number, stored).sum(axis=1, keepdims=True)
            logs = np.log1p(counts.reshape(number, stored) / totals * 1e4).astype(np.float32)
            position = (indices.ravel(), np.arange(number + 1) * stored)
            X, layer = (sparse.csr_matrix((values, *position), (number, genes)) for values in (logs.ravel(), counts))
            file.append(X, counts=layer)
        file.obs = pd.DataFrame({name: pd.Categorical(obs[name]) for name in obs}, index=obs.index)
        file.obs["n_counts"] = 1e4
        file.var = pd.DataFrame(index=[f"GENE{i}" for i in range(genes)])
        file.uns = {"harmonized": summary}


def join(folder: str) -> None:
    from scgpt_bench.data.catalogue import Dataset
    from scgpt_bench.data.joining import write_joined
    from scgpt_bench.data.on_disk import open_h5ad

    parts = {f"part{i}": open_h5ad(Path(folder, "cells.h5ad"), layers=["counts"], uns=["harmonized"]) for i in range(5)}
    for number, cells in enumerate(parts.values()):
        cells.var_names = [f"GENE{i + SHIFT * number}" for i in range(cells.n_vars)]
    address = f"joined:{','.join(parts)}"
    row = Dataset("joined", address, "joined", "counts", 5e3, "perturbation", "control", "interference")
    write_joined(parts, row, Path(folder, "joined.h5ad"), maximum_genes=5000)


if __name__ == "__main__":
    measure.run_step(__doc__, {"part": write_part, "join": join}, "part: cells, genes")
