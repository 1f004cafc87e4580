"""Whether the responses of a data set repeat: half of a condition's cells predicts the other half.

If nothing responds, the half of any other condition predicts them as well. Both predictions are counted from the same
control cells (the quarter ``truth_a``) and scored against the same truth (``half_b``, counted from ``truth_b``). The
noise of the control cells, which no spread between conditions shows, is then the same on both sides, and their
difference is free of it. Two predictions that are counted from different control cells, such as those of
``technical-duplicate`` and ``shuffled``, differ by it: in data without any response the first was significantly above
the second in up to 37 % of simulated experiments.
"""

from __future__ import annotations

from collections.abc import Mapping

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, Condition, listed
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.evaluation.pseudobulk import select_tested
from scgpt_bench.methods.benchmark_controls import shuffles

KEY = [*COLUMNS, "metric"]


def repeatability(truth: anndata.AnnData, seed: int = 1) -> pd.DataFrame:
    """Score the first half of every test condition's cells against the second, and those of others beside it.

    Parameters
    ----------
    truth
        ``truth.h5ad``, with all conditions.
    seed
        Of the ways to deal out the halves of other conditions (:func:`benchmark_controls.shuffles`).

    Returns
    -------
    Columns ``perturbation``, ``context``, ``metric`` (those that judge), ``own_half`` and ``other_halves``: a mean over
    the other conditions of the context. Both are corrected for the halved depth (:func:`metrics.score`), and missing
    for a condition of a single cell or without another one in its context.
    """
    tested = select_tested(truth)
    conditions, control = listed(tested.obs), np.asarray(tested.layers["reference_truth_a"])
    changes = np.asarray(tested.layers["half_a"]) - control
    halved = [condition for condition, row in zip(conditions, changes, strict=True) if np.isfinite(row).all()]
    row_of = {condition: row for row, condition in enumerate(conditions)}
    names = pd.MultiIndex.from_frame(tested.obs[COLUMNS].astype(str))

    def scored(source: Mapping[Condition, Condition]) -> pd.Series:
        """Predict the change of each condition's source; the rest, whose score does not count, as no change."""
        rows = [row_of[condition] for condition in source]
        means = control.copy()
        means[rows] += changes[[row_of[other] for other in source.values()]]
        table = score(anndata.AnnData(means, obs=tested.obs, var=tested.var), truth, halved=True, only_judging=True)
        values = table.set_index(KEY)["value"]
        return values.where(values.index.droplevel("metric").isin(names[rows]))

    others = [scored(partner) for partner in shuffles(halved, seed)]
    own = scored({condition: condition for condition in halved})
    mean = pd.concat(others, axis=1).mean(axis=1) if others else own * np.nan
    return pd.DataFrame({"own_half": own.where(mean.notna()), "other_halves": mean}).reset_index()
