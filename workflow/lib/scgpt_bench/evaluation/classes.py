"""Scores by class of condition: how many genes it targets, how many of them some training condition targets, and
whether training has the perturbation itself in another context.

The first two make the classes of GEARS' simulation split: unseen single genes (0 of 1 seen) and combinations with 0, 1
or 2 of 2 genes seen. They ask for different things, so that a mean over all of them can hide opposite verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from scgpt_bench.data.conditions import COLUMNS as CONDITION
from scgpt_bench.evaluation.scores import KEY, ScoredStudy, gather_by_split, scores
from scgpt_bench.evaluation.verdicts import verdicts

CLASS = ["n_genes", "n_genes_seen", "seen"]
CLASS_COLUMNS = ["dataset", "split", *CONDITION, *CLASS]
_OF_SCORES = ["n_conditions", "n_asked", "mean", "ci_low", "ci_high", "skill"]
_OF_VERDICTS = ["opponent", "difference", "p_value", "verdict"]
COLUMNS = ["dataset", "split", "context", *CLASS, "method", "metric", *_OF_SCORES, *_OF_VERDICTS]


def gather_classes(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Gather the class of every test condition from tables ``.../<dataset>/<split>/split.tsv``.

    Returns
    -------
    Columns ``CLASS_COLUMNS``.
    """
    paths = [*paths]
    return classes_of(gather_by_split(paths)) if paths else pd.DataFrame(columns=CLASS_COLUMNS)


def classes_of(splits: pd.DataFrame) -> pd.DataFrame:
    """Keep the class of every test condition of ``ScoredStudy.splits``."""
    return splits.loc[splits["role"] == "test", CLASS_COLUMNS].reset_index(drop=True)


def scores_by_class(study: ScoredStudy) -> pd.DataFrame:
    """Score and judge within each class, for data sets that have test conditions of more than one.

    A condition may be of another class in another split: it is of the class that it has where it is tested, and rows
    with split ``all`` pool the folds that test the class; there are none where a single one does. Likewise there are
    rows of single contexts where several have conditions of the class.

    Returns
    -------
    Columns ``COLUMNS``, of the same meaning as in ``scores.tsv`` and ``verdicts.tsv``; what concerns the verdict is
    missing where a method is not judged. P-values are not corrected for the number of classes.
    """
    if study.metrics.empty:
        return pd.DataFrame(columns=COLUMNS)
    tables = []
    metrics = study.metrics.merge(classes_of(study.splits), on=["dataset", "split", *CONDITION])
    for _, of_dataset in metrics.groupby("dataset", sort=False):
        parts = of_dataset.groupby(CLASS)
        for names, part in parts if parts.ngroups > 1 else ():
            means = scores(study.of(part))[[*KEY, *_OF_SCORES]]
            judged = verdicts(study.of(part))[[*KEY, *_OF_VERDICTS]]
            table = means.merge(judged, on=KEY, how="left")
            tables.append(table.assign(**dict(zip(CLASS, names, strict=True))))
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)
