"""Choose the recipe of a fine-tuning among candidates, by what they score on the validation conditions.

Snakemake reads this module at every start: it imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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


def choose(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Choose the candidate with the best score on the validation conditions; of equal ones the first.

    Parameters
    ----------
    reports
        ``report.json`` of each candidate, by its name. They hold one of ``pearson_delta`` and ``pearson``: the metric
        that chose the epoch; or ``failed``, why the training could not go on. Such a candidate is the worst. Where a
        point of a learning curve has ``nothing_to_train_on``, that is so for all of them, and the first is chosen.

    Returns
    -------
    Its name.

    Raises
    ------
    InputError
        If candidates were validated by different metrics, or all of them failed.
    """
    metrics = {report["options"]["select"] for report in reports.values()}
    if len(metrics) > 1:
        raise InputError("search", "select", " and ".join(sorted(metrics)), "one metric for all candidates")
    scores = {name: score(report) for name, report in reports.items()}
    known = {name: value for name, value in scores.items() if value is not None}
    if all("nothing_to_train_on" in report for report in reports.values()):
        return next(iter(reports))
    if not known:
        why = "; ".join(f"{name}: {report.get('failed', 'no score')}" for name, report in reports.items())
        raise InputError("search", "candidates", f"none that could be trained ({why})", "other values to choose from")
    return max(known, key=known.__getitem__)


def score(report: Mapping[str, Any]) -> float | None:
    """Give what a candidate scored on the validation conditions; None where it failed or has no score."""
    value = report.get(report["options"]["select"])
    return None if value is None or math.isnan(value) else float(value)


def table(
    candidates: Mapping[str, Mapping[str, Any]], reports: Mapping[str, Mapping[str, Any]], winner: str
) -> list[dict[str, Any]]:
    """List what each candidate scored: rows of ``search.tsv``, without its seconds."""
    return [
        {
            **values,
            reports[name]["options"]["select"]: score(reports[name]),
            "selected_epoch": reports[name].get("selected_epoch"),
            "chosen": "yes" if name == winner else "",
            "reason": reports[name].get("failed") or reports[name].get("nothing_to_train_on", ""),
        }
        for name, values in candidates.items()
    ]


def epochs(reports: Iterable[Mapping[str, Any]]) -> int:
    """Choose how long to train on all that was measured: the median of the epochs that validation conditions selected.

    Parameters
    ----------
    reports
        ``report.json`` of the same method, of every split and seed of the study.
    """
    selected = sorted(report["selected_epoch"] for report in reports)
    return selected[(len(selected) - 1) // 2]
