"""Every rule of a run: what it took, what it ran in, and its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scgpt_bench.figures.numbers import readable_memory, readable_time
from scgpt_bench.figures.rule_graph import COLUMNS
from scgpt_bench.figures.style import count
from scgpt_bench.report.page import template


def piece(
    rules: Mapping[str, Mapping[str, Any]],
    environments: Mapping[str, Sequence[str]],
    costs: pd.DataFrame,
    scripts: str | Path,
) -> str:
    """Return a piece of HTML with the environments and the rules of a run; names and code are escaped.

    Parameters
    ----------
    rules
        As :func:`scgpt_bench.figures.rule_graph.rule_graph` takes them.
    environments
        The packages of each environment.
    costs
        :func:`scgpt_bench.figures.cost.cost_table`.
    scripts
        The folder of the rules' scripts.
    """
    order = [stage for column in COLUMNS for stage in column]
    stages: dict[str, list[dict[str, Any]]] = {stage: [] for stage in order}
    for name, rule in sorted(rules.items()):
        own = costs[costs["rule"] == name]
        code = (Path(scripts) / rule["script"]).read_text(encoding="utf-8") if rule["script"] else ""
        shown = {"name": name, **rule, "cost": _cost(own), "code": code}
        stages.setdefault(rule["stage"], []).append(shown)
    used = sorted({rule["environment"] for rule in rules.values() if rule["environment"]})
    context = {
        "environments": [
            {
                "name": name,
                "rules": sorted(one for one, rule in rules.items() if rule["environment"] == name),
                "packages": environments.get(name, ()),
            }
            for name in used
        ],
        "stages": [
            {
                "name": stage,
                "rules": members,
                "cost": _cost(costs[costs["rule"].isin([rule["name"] for rule in members])]),
            }
            for stage, members in stages.items()
            if members
        ],
    }
    return template("rules.html").render(context)


def _cost(rows: pd.DataFrame) -> str:
    """Write jobs, time and memory of some rows of the costs."""
    if rows.empty:
        return "not measured"
    parts = [count(int(rows["jobs"].sum()), "job"), readable_time(rows["hours"].sum())]
    if rows["gpu_hours"].any():
        parts.append(f"{readable_time(rows['gpu_hours'].sum())} of GPU time")
    largest = rows["memory_gib"].max()
    if pd.notna(largest):
        parts.append(readable_memory(largest))
    return ", ".join(parts)
