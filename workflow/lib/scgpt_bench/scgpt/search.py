"""Choose the recipe of a fine-tuning among candidates, by what they score on the validation conditions.

Snakemake reads this module at every start: it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from scgpt_bench.errors import InputError


def candidates(search: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """List all combinations of the values of a method's ``search``, by names that are folders.

    A name says the values, so that another value in a list leaves the other candidates alone.
    """
    options = sorted(search)
    found = (dict(zip(options, values, strict=True)) for values in product(*(search[key] for key in options)))
    return {",".join(f"{key}={_as_text(value)}" for key, value in values.items()): values for values in found}


def _as_text(value: Any) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def choose(reports: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Choose the candidate with the best score on the validation conditions; of equal ones the first.

    Parameters
    ----------
    reports
        ``report.json`` of each candidate, by its name. They hold one of ``pearson_delta`` and ``pearson``: the metric
        that chose the epoch.

    Returns
    -------
    Its name, and the metric.

    Raises
    ------
    InputError
        If candidates were validated by different metrics.
    """
    metrics = {report["options"]["select"] for report in reports.values()}
    if len(metrics) > 1:
        raise InputError("search", "select", " and ".join(sorted(metrics)), "one metric for all candidates")
    (metric,) = metrics
    return max(reports, key=lambda name: reports[name][metric]), metric
