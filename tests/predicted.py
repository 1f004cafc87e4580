"""Predictions as a whole, of functions that write one condition at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.predictions import writing


def whole(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[np.ndarray, Any]:
    """All predicted cells that ``function`` writes, float32 [rows x genes], and what it returns."""
    cells, _, found = with_rows(function, *arguments, **options)
    return cells, found


def with_rows(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[np.ndarray, pd.DataFrame, Any]:
    """The same, with ``obs`` of all cells."""
    cells, rows = [], []

    def write(block: np.ndarray, obs: pd.DataFrame) -> None:
        cells.append(block.astype(np.float32))
        rows.append(obs)

    found = function(*arguments, write=write, **options)
    return np.concatenate(cells), pd.concat(rows), found


def write_whole(path: str | Path, cells: np.ndarray, obs: pd.DataFrame, genes: Sequence[str]) -> None:
    """Write predicted cells to ``predictions.h5ad`` at once."""
    with writing(path, genes) as write:
        write(cells, obs)
