"""What the official scorers answer, in the words of this package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.evaluation.metrics import corrected_for_depth, metric_of
from scgpt_bench.files import atomic_write

COLUMNS = ["perturbation", "context", "metric", "value", "reason"]
NOT_SCORED = "not_scored.txt"


def as_metrics(table: pd.DataFrame, scorer: str, context: str, halved: bool) -> pd.DataFrame:
    """Put a scorer's values under this package's column names, to 12 digits: polars adds up in no fixed order.

    Those of a technical duplicate (``halved``) are corrected for depth where the metric can be.

    Raises
    ------
    InputError
        For a metric that is not registered.
    """
    metrics = scorer + "." + table["metric"].astype(str)
    values = table["value"].to_numpy(dtype=np.float64, copy=True)
    reasons = np.full(len(table), "", dtype=object)
    for metric in map(metric_of, metrics.unique()):
        rows = (metrics == metric.name).to_numpy()
        if halved:
            values[rows], reasons[rows] = corrected_for_depth(metric, values[rows], reasons[rows])
    table = table.assign(
        context=context, metric=metrics, value=[float(f"{value:.12g}") for value in values], reason=reasons
    )
    return table[COLUMNS].sort_values(["metric", "perturbation"], ignore_index=True)


def join(answers: Mapping[str, tuple[pd.DataFrame, dict[str, Any]]]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join the answers of all contexts: one table, and the summaries by context."""
    tables = [table for table, _ in answers.values()]
    filled = [table for table in tables if len(table)]  # an empty one has no types of its own
    return pd.concat(filled or tables, ignore_index=True), {name: summary for name, (_, summary) in answers.items()}


def write_not_scored(reference: str | Path, reason: str) -> None:
    """Write a reference that says why no prediction is scored against it."""
    with atomic_write(reference) as partial:
        partial.mkdir()
        (partial / NOT_SCORED).write_text(f"{reason}\n")


def not_scored(reference: str | Path, package: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Give a table without rows and a summary with the reason, if :func:`write_not_scored` made the reference."""
    path = Path(reference) / NOT_SCORED
    return without_rows(package, path.read_text().strip()) if path.exists() else None


def without_rows(package: str, note: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write what stands in place of a scorer's answer where there is none: no rows, and a summary that says why."""
    return pd.DataFrame(columns=COLUMNS), {
        "scorer": name_and_version(package),
        "mean": {},
        "score": None,
        "note": note,
    }


def finite(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return numbers for JSON, which has no NaN: None where a scorer gives none.

    Six digits: the baseline of cell-eval is a float32 sum of groups in no fixed order.
    """
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) and np.isfinite(value) else None
        for name, value in sorted(values.items())
    }


def name_and_version(package: str) -> str:
    return f"{package} {version(package)}"
