"""Predictions of a list that nobody measured, on disk: time and memory by the number of perturbations.

Control cells are drawn, moved by ``train-mean`` and averaged again to changes: 400 cells for each perturbation, genes
and stored values per cell about those of the Virtual Cell Challenge of 2025. There is no peer: time is set beside five
times that of a fifth of the perturbations (a ratio of 1 means linear), memory beside 4 GiB.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import drops
import measure
import numpy as np

CELLS, GENES, STORED, LEARNED_FROM, CONTROLS = 400, 18_080, 5_000, 50, 20_000
STEPS = ("draw", "predict", "changes")
LIMIT = 4096.0  # MB


def rows(perturbations: int = 300, genes: int = GENES, controls: int = CONTROLS) -> list[dict]:
    """The table: seconds and peak memory of every step, for a list of so many perturbations."""
    with tempfile.TemporaryDirectory() as folder:
        measure.in_fresh_process(__file__, "screen", folder, genes, controls)
        small, large = (
            {step: measure.in_fresh_process(__file__, step, folder, number) for step in STEPS}
            for number in (perturbations // 5, perturbations)
        )
    table, name = [], f"{perturbations} x {CELLS} cells x {genes:,} genes"
    for step in STEPS:
        work, linear, memory = f"predicting: {step}", 5 * small[step]["s"], large[step]["MB"]
        seconds = large[step]["s"]
        table += [
            measure.row(work, name, "time", "s", seconds, "5 x a fifth", linear, linear / seconds),
            measure.row(work, name, "peak memory", "MB", memory, "limit", LIMIT, LIMIT / memory, 1.0),
        ]
    return table


def write_screen(folder: str, genes: int, controls: int) -> None:
    """Write ``cells.h5ad`` of what methods learn from: values at random, few perturbations, many control cells."""
    import pandas as pd

    from scgpt_bench.data.halves import deal_halves
    from scgpt_bench.data.on_disk import CellWriter

    generator, number, stored = np.random.default_rng(0), controls + 40 * LEARNED_FROM, min(STORED, genes // 2)
    measured = np.repeat([f"GENE{i}" for i in range(LEARNED_FROM)], 40)
    obs = pd.DataFrame({"perturbation": [*["control"] * controls, *measured], "context": "all"})
    obs.index = [f"cell{i}" for i in range(number)]
    obs["direction"] = np.where(obs["perturbation"] == "control", "none", "down")
    obs["batch"], obs["cell_type"] = generator.choice([f"lane{i}" for i in range(20)], number), "all"
    obs["half"] = deal_halves(obs)
    with CellWriter(Path(folder, "cells.h5ad"), genes) as file:
        for start in range(0, number, 1000):
            n = min(1000, number - start)
            file.append(drops.random_counts(generator, n, genes, stored).astype(np.float32).log1p())
        file.obs = pd.DataFrame({name: pd.Categorical(obs[name]) for name in obs}, index=obs.index)
        file.var = pd.DataFrame(index=[f"GENE{i}" for i in range(genes)])


def draw(folder: str, perturbations: int) -> None:
    import pandas as pd

    from scgpt_bench.data import unmeasured
    from scgpt_bench.data.conditions import listed
    from scgpt_bench.data.controls import draw_controls, write_control_cells
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import write_table

    cells = open_h5ad(Path(folder, "cells.h5ad"))
    wanted = pd.DataFrame({"given": [f"GENE{LEARNED_FROM + i}" for i in range(perturbations)], "direction": "down"})
    asked = unmeasured.asked(wanted, cells.obs, cells.var, contexts=[], direction=None, source="list")
    split = unmeasured.split(cells.obs, asked)
    directions = dict(zip(listed(asked), asked["direction"], strict=True))
    names = {"seed": 1, "dataset": "screen", "split_name": "predicted-list"}
    drawn = draw_controls(cells.obs, split, per_perturbation=CELLS, direction_of=directions, **names)
    write_control_cells(cells, drawn, Path(folder, "controls.h5ad"))
    write_table(split, Path(folder, "split.tsv"))


def predict(folder: str, perturbations: int) -> None:
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_table
    from scgpt_bench.methods import baselines
    from scgpt_bench.predictions import writing

    cells, split = open_h5ad(Path(folder, "cells.h5ad")), read_table(Path(folder, "split.tsv"))
    assert (split["role"] == "test").sum() == perturbations
    controls = open_controls(Path(folder, "controls.h5ad"))
    with writing(Path(folder, "predictions.h5ad"), cells.var_names) as write:
        baselines.predict(cells, split, controls, baselines.train_mean, write=write)


def changes(folder: str, perturbations: int) -> None:
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.unmeasured.changes import changes as changes_of
    from scgpt_bench.unmeasured.changes import write

    found = changes_of([open_h5ad(Path(folder, "predictions.h5ad"))], open_controls(Path(folder, "controls.h5ad")))
    largest = write(found, Path(folder, "changes.parquet"))
    assert len(largest) == 100 * perturbations


if __name__ == "__main__":
    measure.run_step(
        __doc__,
        dict(zip(("screen", *STEPS), (write_screen, draw, predict, changes), strict=True)),
        "screen: genes, control cells; else: perturbations",
    )
