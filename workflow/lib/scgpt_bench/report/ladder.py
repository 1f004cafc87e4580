"""The pictures of the start page: every method between no change and noise-free truth, and a line for each question."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.evaluation.metrics import HEADLINE
from scgpt_bench.evaluation.pseudobulk_metrics import AMONG_ALL
from scgpt_bench.figures.scores import SLOPE, slopes_by_chance
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, CEILING, FLOOR, KINDS, ORACLE, SCGPT, SCRATCH, SIMPLE
from scgpt_bench.report.run import Run

SIGN, FOUND = "sign_agreement_top20", "found_among_20"  # columns beside the picture, as is SLOPE
APART = "discrimination"
LOWEST, HIGHEST = -0.3, 1.2  # what is drawn, at most, in units of skill; the rest is cut off, and marked
MOST = 14  # rows, which leave room for answers and limits on the first screen
MARGIN = 4.0  # per cent of the width, on either side
CONTROLS = {
    CEILING: "second sample",
    FLOOR: "another response",
    ORACLE: "planted truth",
}


@dataclass(frozen=True)
class Axis:
    """What is drawn, from ``low`` to ``high``; ``skill`` says whether 1 is the noise-free truth or a perfect score."""

    low: float
    high: float
    skill: bool

    def place(self, value: float) -> float:
        """Return where a value is, in per cent of the width; one that is not drawn is at the end."""
        share = (np.clip(value, self.low, self.high) - self.low) / (self.high - self.low)
        return round(float(MARGIN + (100 - 2 * MARGIN) * share), 2)

    def cut(self, value: float) -> str:
        """Say on which side a value is not drawn, if it is not."""
        return "left" if value < self.low else "right" if value > self.high else ""


def ladder(run: Run, scores: pd.DataFrame, rows: list[dict[str, Any]], named: Sequence[str] = ()) -> dict[str, Any]:
    """Lay the picture out.

    Parameters
    ----------
    scores
        Those of one question, over all contexts.
    rows
        Its verdicts (:func:`scgpt_bench.report.summary.places`).
    named
        The methods that the answer names, which are always shown.

    Returns
    -------
    ``axis``, ``ticks`` and ``rows``, the best first, each with what is written, where it is drawn, and whether it is
    one of the ``MOST`` that are shown; ``left_out`` are the others. Empty without a score.
    """
    scores = scores.assign(skill=scores["skill"].mask(slopes_by_chance(scores)))
    of_metric = {name: table.set_index("method") for name, table in scores.groupby("metric", sort=False)}
    headline = of_metric.get(HEADLINE)
    if headline is None:
        return {}
    drawn = _in_skill(headline)
    axis = _axis(drawn[["low", "value", "high"]].to_numpy(), skill=bool(headline["skill"].notna().any()))
    verdicts = {row["method"]: row["verdict"] for row in rows}
    without = run.without_pretraining()
    simple = [name for name in headline.index if run.group(name) == SIMPLE]
    best = headline.loc[simple, "mean"].idxmax() if simple else None
    found = []
    drawn = drawn.sort_values("value", ascending=False, kind="stable")
    shown = _shown(run, [*drawn.index], [*named, *([best] if best else [])], without)
    for method, at in drawn.iterrows():
        found.append(
            {
                "method": method,
                "shown": method in shown,
                "group": run.group(method).name.replace(" ", "-"),
                "about": about(run.kinds[method], method in without),
                "note": CONTROLS.get(run.kinds[method], ""),
                "untrained": method in without,
                "best_simple": method == best,
                "verdict": verdicts.get(method),
                "mean": headline.loc[method, "mean"],
                "ci": tuple(headline.loc[method, ["ci_low", "ci_high"]]),
                "skill": headline.loc[method, "skill"],
                "slope": _value(of_metric, SLOPE, method, "skill"),
                "sign": _value(of_metric, SIGN, method, "mean"),
                "found": _found(of_metric, method),
                "apart": _value(of_metric, APART, method, "mean"),
                "at": tuple(at[["low", "value", "high"]]),
                **_placed(axis, *at[["low", "value", "high"]]),
            }
        )
    columns = [name for name in ("slope", "sign", "found") if any(np.isfinite(row[name]) for row in found)]
    left_out = [row for row in found if not row["shown"]]
    return {"rows": found, "axis": axis, "ticks": _ticks(axis), "columns": columns, "left_out": left_out}


def _shown(run: Run, methods: Sequence[str], named: Sequence[str], without: Collection[str]) -> set[str]:
    """Choose what is always shown (bounds, ``named``, the best pretrained scGPT method), then the best others."""
    bounds = [method for method in methods if run.group(method) == BENCHMARK_CONTROL]
    best = [method for method in methods if run.group(method) == SCGPT and method not in without][:1]
    of_scores = [method for method in named if method in methods]
    return {*[*dict.fromkeys([*bounds, *of_scores, *best, *methods])][:MOST]}


def overview(places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay out one line for each question, all on one axis of skill.

    Parameters
    ----------
    places
        :func:`scgpt_bench.report.summary.places`. One whose scores have no skill has an empty line.

    Returns
    -------
    ``axis``, ``ticks``, and ``lines``: for each place the rows of its picture, placed on the common axis.
    """
    pictures = [place["ladder"] if place["ladder"] and place["ladder"]["axis"].skill else None for place in places]
    ends = [row["at"] for picture in pictures if picture for row in picture["rows"]]
    axis = _axis(np.array([*ends, (0, 0, 1)], float), skill=bool(ends))
    lines = [
        [{**row, **_placed(axis, *row["at"])} for row in picture["rows"]] if picture else [] for picture in pictures
    ]
    return {"axis": axis, "ticks": _ticks(axis), "lines": lines}


def _axis(drawn: np.ndarray, skill: bool) -> Axis:
    """Choose an axis for low, value and high of methods, within the limits of the picture."""
    return Axis(
        low=float(max(min(np.nanmin(drawn, initial=0), 0), LOWEST)),
        high=float(min(max(np.nanmax(drawn, initial=1), 1), HIGHEST)),
        skill=skill,
    )


def _placed(axis: Axis, low: float, value: float, high: float) -> dict[str, Any]:
    return {
        "x": axis.place(value) if np.isfinite(value) else None,
        "cut": axis.cut(value),
        "interval": (axis.place(low), axis.place(high)) if low <= high else None,
    }


def _ticks(axis: Axis) -> list[tuple[float, float]]:
    ticks = [value for value in (0.0, 0.25, 0.5, 0.75, 1.0) if axis.low <= value <= axis.high]
    return [(axis.place(tick), tick) for tick in ticks]


def about(kind: str, untrained: bool = False) -> str:
    """Say what methods of a kind do; ``untrained`` are those without pretraining."""
    if kind not in KINDS:
        return "Made by another program."
    control = "With random weights, as a control. " if untrained and kind != SCRATCH else ""
    return control + KINDS[kind].description.replace("`", "")


def _in_skill(headline: pd.DataFrame) -> pd.DataFrame:
    """Give value, low and high of every method in units of skill where that is known, of the metric where it is not.

    An interval is one of the mean. Skill is linear in it, with the same unit for all methods over the same conditions.
    """
    skill = headline["skill"].astype(float)
    if skill.isna().all():
        return headline.rename(columns={"mean": "value", "ci_low": "low", "ci_high": "high"})[["value", "low", "high"]]
    ends = [skill.idxmax(), skill.idxmin()]
    apart = skill[ends[0]] - skill[ends[1]]
    unit = (headline.loc[ends[0], "mean"] - headline.loc[ends[1], "mean"]) / apart if apart else np.nan
    spread = {name: skill + (headline[f"ci_{name}"] - headline["mean"]) / unit for name in ("low", "high")}
    return pd.DataFrame({"value": skill, **spread})


def _value(of_metric: Mapping[str, pd.DataFrame], metric: str, method: str, column: str) -> float:
    table = of_metric.get(metric)
    return float(table.loc[method, column]) if table is not None and method in table.index else np.nan


def _found(of_metric: Mapping[str, pd.DataFrame], method: str) -> float:
    """Give how often the own perturbation is found among twenty; unknown where there are fewer than twenty."""
    table = of_metric.get(FOUND)
    if table is None or method not in table.index or AMONG_ALL in str(table.loc[method, "reason"]):
        return np.nan
    return float(table.loc[method, "mean"])
