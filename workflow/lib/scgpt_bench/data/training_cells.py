"""The cells that a method may learn from, for a program of its own: nothing of what is tested is in the file."""

from __future__ import annotations

from pathlib import Path

import anndata
import pandas as pd

from scgpt_bench.data.conditions import codes_of, conditions_of
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.on_disk import CellWriter, row_chunks


def write_without_test_cells(cells: anndata.AnnData, split: pd.DataFrame, path: str | Path) -> None:
    """Write all that a method may learn from: cells of training and validation conditions and input controls.

    These are the control cells of the half ``input``. By chunks, with the layers of ``cells``, which may be on disk.
    """
    visible = [*conditions_of(split, "train"), *conditions_of(split, "validation")]
    kept = (codes_of(cells.obs, visible) >= 0) | is_control_of(cells.obs, INPUT)
    matrices = {"X": cells.X, **cells.layers}
    with CellWriter(path, cells.n_vars) as writer:
        for parts in zip(*(row_chunks(matrix, read=kept) for matrix in matrices.values()), strict=True):
            chosen = (part[kept[start : start + part.shape[0]]] for start, part in parts)
            writer.append(**dict(zip(matrices, chosen, strict=True)))
        writer.obs, writer.var, writer.uns = cells[kept].obs.copy(), cells.var, cells.uns
