"""Pairs of methods that differ in one thing, such as pretraining, each compared like a verdict with one opponent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgpt_bench.evaluation.scores import ScoredStudy, blocks
from scgpt_bench.evaluation.verdicts import VERDICT_COLUMNS, beside, decide, is_reliable, of_contexts, of_one_seed


def contrasts(study: ScoredStudy, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Compare each pair (:func:`scgpt_bench.methods.registry.contrasts`) by each metric that judges.

    Returns
    -------
    The columns of ``verdicts.tsv``: ``verdict`` is that of ``method`` against ``opponent``, over the conditions that
    both were asked about. Each pair is a question of its own: p-values are not corrected.
    """
    rows = []
    for block in blocks(study.judging):
        reliable = is_reliable(block)
        for method, opponent in pairs:
            if method not in block.values or opponent not in block.values:
                continue
            everything = np.ones(len(block.perturbations), dtype=bool)
            both = block.asked.get(method, everything) & block.asked.get(opponent, everything)
            one = beside(block, method, [opponent], study.margin, both if both.any() else everything)
            verdict, reasons = decide(one, block, one.p_value, reliable) if both.any() else ("not asked", [])
            if both.any() and not both.all():
                reasons.append(f"over the {both.sum()} of {len(both)} conditions that both were asked about")
            limits = dict.fromkeys(of_one_seed(name, block, study.kinds) for name in (method, opponent))
            p_value = np.nan if verdict == "not asked" else one.p_value
            rows.append(one.row(block, p_value, verdict, [*reasons, *limits, of_contexts(block)]))
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)
