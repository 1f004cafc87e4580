"""What every metric of a run means, and which tools it agrees with.

The same name gives different figures in different tools.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from scgpt_bench.evaluation.metrics import metric_of

COLUMNS = [
    *("metric", "meaning", "better", "reference", "gene_set", "denominator", "tie_rule", "targets", "source"),
    "agrees_with",
]
OFFICIAL = "computed by the tool itself; docs/statistics.md says from what"


def metric_definitions(metrics: Iterable[str]) -> pd.DataFrame:
    """Write down what these metrics are, one row each, in their order; columns ``COLUMNS``.

    ``better`` is ``higher``, ``lower``, or the value at which a metric is best.

    Raises
    ------
    InputError
        For a metric that is not registered.
    """
    return pd.DataFrame([_row(identifier) for identifier in metrics], columns=COLUMNS)


def _row(identifier: str) -> tuple[str, ...]:
    metric = metric_of(identifier)
    agrees_with = OFFICIAL if metric.official else "; ".join(f"{tool}: {n} digits" for tool, n in metric.agrees_with)
    better = metric.best_at or ("higher" if metric.higher_is_better else "lower")
    return (
        *(metric.name, metric.label, better, metric.reference, metric.gene_set, metric.denominator, metric.tie_rule),
        *(metric.targets, metric.source, agrees_with),
    )
