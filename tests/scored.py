"""Made-up tables of metrics, and what scores and verdicts need beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS as CONDITION
from scgpt_bench.evaluation.scores import REFERENCE_SCORES, ScoredStudy

JUDGING = ("effect_pearson", "specific_pearson", "discrimination", "mse_unbiased")
ERRORS = ("mse", "mae", "mse_unbiased")


def metrics_table(values, metric="effect_pearson", dataset="planted", split="fold0", seeds=(0,), context="all"):
    """A value of every method on each perturbation, equal for every seed, or [perturbations x seeds]."""
    rows = [
        (dataset, split, method, seed, f"P{i}", metric, value[number] if hasattr(value, "__len__") else value)
        for method, numbers in values.items()
        for i, value in enumerate(numbers)
        for number, seed in enumerate(range(len(value)) if hasattr(value, "__len__") else seeds)
    ]
    columns = ["dataset", "split", "method", "seed", "perturbation", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).assign(context=context)


def kinds_of(table: pd.DataFrame) -> dict[str, str]:
    """Methods named like a baseline with a number are baselines; all others are of the kind that they are named by."""
    return {name: "train-mean" if name.startswith("baseline") else name for name in table["method"].unique()}


def references_of(table: pd.DataFrame, noise_free: float = 1.0) -> pd.DataFrame:
    """Doing nothing scores 0 and the truth 1; of errors, doing nothing makes 1. Of halves nothing is known."""
    own = table[["dataset", "split", "perturbation", "context", "metric"]].drop_duplicates()
    error = own["metric"].isin(ERRORS)
    own = own.assign(
        no_change=error.astype(float), noise_free=(~error) * noise_free, own_half=np.nan, other_halves=np.nan
    )
    return own.assign(reason="")[["dataset", "split", *CONDITION, "metric", *REFERENCE_SCORES, "reason"]]


def study(
    table: pd.DataFrame,
    kinds: Mapping[str, str] | None = None,
    references: pd.DataFrame | None = None,
    splits: pd.DataFrame | None = None,
    pooled: Mapping[str, Sequence[str]] | None = None,
    training: int = 100,
    **options,
) -> ScoredStudy:
    """A study with these metrics; where splits are not given, each trains on other conditions than it tests."""
    if splits is None:
        own = table[["dataset", "split", "context"]].drop_duplicates()
        splits = own.loc[own.index.repeat(training)].assign(perturbation="other", role="train")
    return ScoredStudy(
        metrics=table,
        kinds=kinds_of(table) if kinds is None else kinds,
        references=references_of(table) if references is None else references,
        splits=splits,
        pooled=pooled or {},
        **options,
    )
