"""How well each method does: the ladder, the differences from the best simple method, and every condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from scgpt_bench.data.conditions import CONTEXT, labels_of, noun_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.figures.style import (
    FAINT,
    INK,
    SMALL,
    WIDTH,
    MethodStyle,
    beside_row,
    count,
    count_range,
    elided,
    group_handles,
    hover,
    keep,
    label_rows,
    legend_above,
    lines_within,
    literal,
    method_style,
    metric_label,
    names_that_fit,
    new_figure,
    require,
    rows_height,
    say,
    styled,
    text_length,
)
from scgpt_bench.methods.registry import CEILING, FLOOR, SCGPT, SIMPLE, group_of

CLIPPED = (-0.995, 1.995)  # skill that is written as a number; what is beyond is marked
MARKS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}", "equivalent": "="}


@styled
def method_scores(
    scores: pd.DataFrame, metric: str, kinds: Mapping[str, str] | None = None, title: str | None = None
) -> Figure:
    """Draw the ladder of methods on one metric, best on top, between floor and ceiling where they were run.

    Where there are several contexts, a panel over all of them comes first, then one of each.

    Parameters
    ----------
    scores
        The rows of ``scores.tsv`` of one data set and split (``dataset split context method metric mean ci_low ci_high
        n_conditions skill``); an interval or a skill that is missing is not drawn.
    metric
        Identifier of the metric to draw.
    kinds
        The kind of each method by its name, where it is another; floor and ceiling are kinds.
    title
        Instead of the one made from data set, split and metric.
    """
    kinds = kinds or {}
    require(scores, ["context", "method", "metric", "mean", "ci_low", "ci_high", "n_conditions", "skill"], "scores")
    rows = scores[scores["metric"] == metric]
    require(rows, ["dataset", "split"], f"scores of {metric}")
    rows = rows.sort_values(
        ["mean", "method"], ascending=[not metric_of(metric).higher_is_better, True], na_position="last"
    )
    places = list(_contexts_apart(rows))
    of_all, noun = places[0][1], noun_of(rows)
    n = count_range(of_all["n_conditions"], noun)
    words = {FLOOR: "floor", CEILING: "ceiling"}
    kind_of = {method: kinds.get(method, method) for method in rows["method"]}
    bounds = {method: f"{method} ({words[kind]})" for method, kind in kind_of.items() if kind in words}
    heights = [rows_height(place["method"].replace(bounds)) for _, place in places]
    figure = new_figure(
        WIDTH,
        1.25 + sum(heights) + 0.25 * len(places),
        title or f"{rows['dataset'].iloc[0]}, {rows['split'].iloc[0]}: {metric}, {n}",
        f"Mean over {n}, best on top; bars: 95 % interval over {noun}s. "
        "Dashed: floor and ceiling, where they were run. Triangle at the edge: outside the picture.",
    )
    panels = figure.subplots(len(places), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    limits = without_outliers(*(rows[name].to_numpy(float) for name in ("mean", "ci_low", "ci_high")))
    for axes, (context, place) in zip(panels, places, strict=True):
        for row, score in enumerate(place.itertuples()):
            style = method_style(score.method, kind_of[score.method], kinds)
            mark = _interval(axes, row, score.mean, score.ci_low, score.ci_high, style, limits=limits)
            hover(mark, f"{score.method}: {_value_text(score)}")
            if score.method in bounds:
                axes.axvline(score.mean, color=style.colour, linestyle=style.line, linewidth=0.8, zorder=0)
            beside_row(axes, row, _value_text(score))
        label_rows(axes, place["method"].replace(bounds).tolist())
        axes.grid(axis="x")
        if len(places) > 1:
            in_context = count_range(place["n_conditions"], noun)
            _head(axes, f"{'all contexts' if context == CONTEXT else context}, {in_context}")
    _limit(panels, limits)
    direction = "higher is better" if metric_of(metric).higher_is_better else "lower is better"
    axes.set_xlabel(lines_within(f"{metric_of(metric).label}; {direction}", 0.6 * WIDTH, 8))
    if len(places) == 1:
        legend_above(axes, 4, group_handles(rows["method"], kinds))
    say(figure, _ladder_in_words(of_all, kind_of))
    keep(figure, rows)
    return figure


def _contexts_apart(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give the rows over all contexts, then those of each."""
    declared = sorted(set(rows["context"]) - {CONTEXT})
    yield from ((context, rows[rows["context"] == context]) for context in [CONTEXT, *declared])


def _head(axes: Axes, heading: str) -> None:
    heading = lines_within(heading, 4.0, SMALL, "bold")
    axes.set_title(heading, loc="left", fontsize=SMALL, fontweight="bold", pad=3)


def _ladder_in_words(rows: pd.DataFrame, kind_of: Mapping[str, str]) -> str:
    """Choose the ends of the ladder, floor and ceiling, and the first of the others; ``rows`` best first."""
    group_of = {method: method_style(method, kind).group for method, kind in kind_of.items()}
    found = [f"{len(rows)} methods, from {_scored(rows.iloc[0])} (best) to {_scored(rows.iloc[-1])}."]
    for group, words in ((SIMPLE, "Best simple method"), (SCGPT, "Best scGPT method")):
        members = rows[rows["method"].map(group_of) == group.name]
        if len(members):
            found.append(f"{words}: {_scored(members.iloc[0])}.")
    for kind, words in ((CEILING, "Ceiling"), (FLOOR, "Floor")):
        members = rows[rows["method"].map(kind_of) == kind]
        found.append(f"{words}: {_scored(members.iloc[0])}." if len(members) else f"{words}: not run.")
    return " ".join(found)


def _scored(row: pd.Series) -> str:
    return f"{row['method']} {row['mean']:.3f}"


@styled
def skill_heatmap(
    scores: pd.DataFrame, verdicts: pd.DataFrame, kinds: Mapping[str, str] | None = None, title: str | None = None
) -> Figure:
    """Draw the skill of every method by every metric, in per cent, with the verdicts of the metrics that judge.

    Methods are columns, the best by the headline first. Metrics that give every method the skill that one above gives
    are left out, and the note names them; so are those without any skill.

    Parameters
    ----------
    scores
        The rows of ``scores.tsv`` of one data set and split (``context method metric skill``). Only those over all
        contexts are drawn.
    verdicts
        Those of ``verdicts.tsv`` (``context method metric verdict``).
    kinds
        The kind of each method by its name, where it is another.
    title
        What the numbers of metrics and methods are added to.
    """
    require(scores, ["context", "method", "metric", "skill"], "scores")
    require(verdicts, ["context", "method", "metric", "verdict"], "verdicts", or_empty=True)
    here = scores[scores["context"] == CONTEXT]
    table = here.pivot_table(index="metric", columns="method", values="skill", sort=False).dropna(how="all")
    title = title or "Skill"
    if table.empty:
        return new_figure(WIDTH, 0.6, title, "No metric has a skill: no score of noise-free truth is known.")
    table = table.reindex(columns=here["method"].unique())
    first = table.iloc[0].fillna(-np.inf)
    table = table[first.sort_values(ascending=False, kind="stable").index]
    copies = _copies(table)
    table = table.drop(index=list(copies))
    judged = verdicts[verdicts["context"] == CONTEXT]
    verdict_of = judged.set_index(["method", "metric"])["verdict"].to_dict()
    n_metrics, n_methods = table.shape
    room = 72 * (WIDTH - 2.6) / n_methods
    names = names_that_fit(table.columns, room, SMALL) or [literal(elided(name, 12)) for name in table.columns]
    note = "Skill in per cent: 0 is no change, 100 is what noise-free truth would score. "
    note += f"{MARKS['better']} better, {MARKS['worse']} worse, {MARKS['equivalent']} equivalent to the best simple "
    note += "method, by the metrics that decide. \N{MUCH LESS-THAN}, \N{MUCH GREATER-THAN}: below -99, above 199. "
    note += "Grey: no skill."
    if copies:
        equal = "; ".join(f"{name} ({as_what})" for name, as_what in copies.items())
        note += f" Not drawn, since equal to another for every method: {equal}."
    figure = new_figure(
        WIDTH,
        1.0 + text_length(names, SMALL) + 0.17 * n_metrics + 0.12 * max(len(note) // 110, 1),
        f"{title}, {count(n_metrics, 'metric')}, {count(n_methods, 'method')}",
        note,
    )
    axes = figure.subplots()
    colours = mpl.colormaps["RdBu"].with_extremes(bad=FAINT)
    axes.imshow(np.ma.masked_invalid(table.clip(-1, 1)), cmap=colours, vmin=-1.25, vmax=1.25, aspect="auto")
    for (row, metric), (column, method) in product(enumerate(table.index), enumerate(table.columns)):
        value = table.loc[metric, method]
        verdict = verdict_of.get((method, metric), "")
        words = f"{method}, {metric}: skill {value:.3f}" + (f", {verdict}" if verdict else "")
        # All but nothing to see, and a place for the mouse.
        hover(axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, alpha=0.004, linewidth=0)), words)
        if np.isfinite(value):
            text = _per_cent(value) + MARKS.get(verdict, "")
            ink = "white" if abs(value) > 0.8 else INK
            place = {"ha": "center", "va": "center", "fontsize": SMALL - 1.5}
            hover(axes.text(column, row, text, color=ink, **place), words)
    axes.set_yticks(range(n_metrics), [literal(elided(name, 48)) for name in table.index])
    axes.set_xticks(range(n_methods), names, rotation=90)
    axes.xaxis.tick_top()
    for label, method in zip(axes.get_xticklabels(), table.columns, strict=True):
        label.set_color(group_of((kinds or {}).get(method, method)).colour)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.axhline(sum(metric_of(name).judges for name in table.index) - 0.5, color=INK, linewidth=0.8)
    said = (judged["verdict"].value_counts() if len(judged) else pd.Series(dtype=int)).items()
    tally = ", ".join(f"{number} {verdict}" for verdict, number in said)
    found = []
    for group, words in ((SIMPLE, "Best simple method"), (SCGPT, "Best scGPT method")):
        members = [method for method in table if group_of((kinds or {}).get(method, method)) == group]
        if members:
            found.append(
                f"{words} by {table.index[0]}: {members[0]} ({_per_cent(table.loc[table.index[0], members[0]])})."
            )
    if tally:
        found.append(f"Verdicts: {tally}.")
    keep(figure, table.reset_index())
    if cut := int(((table < CLIPPED[0]) | (table > CLIPPED[1])).sum().sum()):
        found.append(f"Out of scale: {cut} of {table.size}.")
    say(figure, " ".join(found))
    return figure


def _copies(table: pd.DataFrame) -> dict[str, str]:
    """Find the metrics that give every method the skill that an earlier one gives: the earlier one, by their names."""
    kept: list[str] = []
    copies: dict[str, str] = {}
    for metric, row in table.iterrows():
        equal = (name for name in kept if np.allclose(table.loc[name], row, rtol=1e-6, atol=1e-9, equal_nan=True))
        if (as_what := next(equal, None)) is None:
            kept.append(metric)
        else:
            copies[metric] = as_what
    return copies


def _per_cent(skill: float) -> str:
    if skill < CLIPPED[0]:
        return "\N{MUCH LESS-THAN}"
    return "\N{MUCH GREATER-THAN}" if skill > CLIPPED[1] else f"{round(100 * skill)}"


@styled
def paired_differences(
    verdicts: pd.DataFrame, metric: str, kinds: Mapping[str, str] | None = None, title: str | None = None
) -> Figure:
    """Draw the difference of each method from the best simple method, paired by condition, with interval and verdict.

    Parameters
    ----------
    verdicts
        Rows of ``verdicts.tsv`` (``dataset split context method metric opponent difference ci_low ci_high p_value
        verdict``), of one or of several data sets, splits and contexts; a positive difference is better. Without a row
        of this metric, the figure says so.
    metric
        Identifier of the metric to draw.
    kinds
        The kind of each method by its name, where it is another.
    title
        Instead of the one made from data set, split and metric.
    """
    kinds = kinds or {}
    columns = ["dataset", "split", "context", "method", "metric", "opponent", "difference", "ci_low", "ci_high"]
    columns += ["p_value", "verdict"]
    require(verdicts, columns, "verdicts", or_empty=True)
    rows = verdicts[verdicts["metric"] == metric]
    if rows.empty:
        return new_figure(WIDTH, 0.6, title or metric, "No method was compared with a simple one on this metric.")
    rows = rows.sort_values(["dataset", "split", "difference", "method"], ascending=[True, True, False, True])
    noun = noun_of(rows)
    places = [
        (f"{dataset}, {split}" if context == CONTEXT else f"{dataset}, {split}, {context}", place)
        for (dataset, split), of_split in rows.groupby(["dataset", "split"], sort=False)
        for context, place in _contexts_apart(of_split)
    ]
    several = "data sets, splits and contexts" if noun == "condition" else "data sets and splits"
    where = f"{len(places)} {several}" if len(places) > 1 else places[0][0]
    heights = [rows_height(place["method"]) for _, place in places]
    figure = new_figure(
        WIDTH,
        1.4 + sum(heights) + 0.25 * len(places),
        title or f"{where}: {metric}, {count(rows['method'].nunique(), 'method')} against the best simple method",
        f"Difference paired by {noun}; bars: 95 % interval. Right: verdict, p-value and the simple method that is "
        "hardest to beat. Better is to the right, for errors too. Open marker: neither better nor worse. "
        "Triangle at the edge: outside the picture.",
    )
    panels = figure.subplots(len(places), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    drawn = [np.append(rows[name].to_numpy(float), 0.0) for name in ("difference", "ci_low", "ci_high")]
    limits = without_outliers(*drawn)
    for axes, (heading, place) in zip(panels, places, strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, verdict in enumerate(place.itertuples()):
            hollow = verdict.verdict not in ("better", "worse")
            style = method_style(verdict.method, kinds.get(verdict.method), kinds)
            mark = _interval(axes, row, verdict.difference, verdict.ci_low, verdict.ci_high, style, hollow, limits)
            interval = f"{verdict.difference:+.3g} [{verdict.ci_low:.3g}, {verdict.ci_high:.3g}]"
            hover(mark, f"{verdict.method}: {interval}, {verdict.verdict}")
            is_cut = limits is not None and not limits[0] <= verdict.difference <= limits[1]
            beside_row(axes, row, (f"{verdict.difference:+.3g}: " if is_cut else "") + _verdict_text(verdict))
        label_rows(axes, place["method"].tolist())
        axes.grid(axis="x")
        if len(places) > 1:
            _head(axes, heading)
    _limit(panels, limits)
    turned = "" if metric_of(metric).higher_is_better else ", sign flipped: more is better"
    label = f"difference from the best simple method in {metric_of(metric).label}{turned}"
    axes.set_xlabel(lines_within(label, 0.6 * WIDTH, 8))
    if len(places) == 1:
        legend_above(axes, 4, group_handles(rows["method"], kinds))
    tally = rows["verdict"].value_counts()
    ends = {"Best": rows["difference"].idxmax(), "Worst": rows["difference"].idxmin()}
    told = [f"{word}: {_difference_in_words(rows.loc[row])}." for word, row in ends.items()]
    say(
        figure,
        f"{count(len(rows), 'comparison')}: {', '.join(f'{number} {verdict}' for verdict, number in tally.items())}. "
        + " ".join(told[: len(rows)]),
    )
    keep(figure, rows)
    return figure


def _difference_in_words(row: pd.Series) -> str:
    where = f"{row['method']} on {row['dataset']}, {row['split']}"
    where += "" if row["context"] == CONTEXT else f", {row['context']}"
    return f"{where}, {row['difference']:+.3g} against {row['opponent']}"


def _verdict_text(verdict: Any) -> str:
    p = ""
    if np.isfinite(verdict.p_value):
        p = f", p = {verdict.p_value:.2g}"
    return f"{literal(verdict.verdict)}{p} (vs {literal(elided(verdict.opponent))})"


@styled
def perturbation_strip(
    values: pd.DataFrame,
    metric: str,
    order: pd.Series | None = None,
    kinds: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the value of every condition under every method, one panel a method, the same order in all.

    Parameters
    ----------
    values
        ``perturbation``, ``context``, ``method``, ``value``; several rows (seeds) are averaged.
    metric
        Identifier of the metric that ``value`` holds.
    order
        What to sort conditions by, highest first, and to draw at the bottom: for instance the split-half reliability or
        the number of cells. Indexed by their labels; its name is that of the axis. Without it, the mean value over
        methods sorts.
    kinds
        The kind of each method by its name, where it is another.
    title
        What the numbers of conditions and methods are added to; without it, the metric.
    """
    require(values, ["perturbation", "context", "method", "value"], "metrics")
    noun, values = noun_of(values), values.assign(label=labels_of(values))
    table = values.pivot_table(index="label", columns="method", values="value", aggfunc="mean")
    if table.empty:
        raise InputError("metrics", f"values of {metric}", "none that is a number", "a value per condition")
    sorted_by = "mean over methods" if order is None else str(order.name)
    key = table.mean(axis=1) if order is None else order.reindex(table.index)
    table = table.iloc[np.lexsort([table.index.to_numpy(str), -key.fillna(-np.inf).to_numpy(float)])]
    methods = table.median().sort_values(ascending=not metric_of(metric).higher_is_better, kind="stable").index
    n, panels = len(table), len(methods) + (order is not None)
    names, rotation = _names_below(table.index)
    figure = new_figure(
        WIDTH,
        1.2
        + 0.78 * panels
        + (text_length(names, SMALL - 1) if rotation else 0.12 * max(name.count("\n") + 1 for name in names)),
        f"{title or metric}, {count(n, noun)}, {count(len(methods), 'method')}",
        f"One dot a {noun}, the same order in every panel ({sorted_by}, highest left). "
        "Line: median of the method. Grey: range of all methods.",
    )
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for panel, method in zip(axes, methods, strict=False):
        style = method_style(method, (kinds or {}).get(method))
        _strip(panel, table, method, style, rasterized=n * panels > 1500)
    if order is not None:
        axes[-1].bar(np.arange(n), key.reindex(table.index), width=0.8, color="#777777", linewidth=0, rasterized=n > 60)
        axes[-1].set_title(lines_within(sorted_by, WIDTH - 1.2, SMALL), loc="left", fontsize=SMALL, pad=2)
        axes[-1].locator_params(axis="y", nbins=3)
    for panel in axes[:-1]:
        panel.tick_params(axis="x", length=0)
    axes[-1].set_xlim(-0.6, n - 0.4)
    if names:
        axes[-1].set_xticks(range(n), names, rotation=rotation, fontsize=SMALL - 1)
    else:
        step = next((step for step in (10, 20, 50, 100, 200, 500, 1000) if n / step <= 8), n)
        ranks = [1, *range(step, n + 1, step)]
        axes[-1].set_xticks([rank - 1 for rank in ranks], [f"{rank:,}" for rank in ranks])
        axes[-1].set_xlabel(f"{noun}s by rank of {literal(sorted_by)}")
    figure.supylabel(metric_label(metric), fontsize=8)
    typical = table.median(axis=1)
    best, worst = (typical.idxmax(), typical.idxmin())[:: 1 if metric_of(metric).higher_is_better else -1]
    say(
        figure,
        f"{count(n, noun)} under {count(len(methods), 'method')}. Best median: {methods[0]} "
        f"{table[methods[0]].median():.3f}; worst: {methods[-1]} {table[methods[-1]].median():.3f}. Predicted best "
        f"by the median method: {best} ({typical[best]:.3f}); worst: {worst} ({typical[worst]:.3f}).",
    )
    return figure


def _strip(axes: Axes, table: pd.DataFrame, method: str, style: MethodStyle, rasterized: bool) -> None:
    """One method's dots before the range of all methods."""
    n, x = len(table), np.arange(len(table))
    low, high, median = table.min(axis=1), table.max(axis=1), table[method].median()
    axes.bar(x, high - low, bottom=low, width=0.9, color=FAINT, alpha=0.7, linewidth=0, rasterized=n > 60)
    axes.axhline(median, color=style.colour, linewidth=1.0)
    size = 5.0 if n <= 12 else 3.5 if n <= 60 else 2.0
    axes.plot(x, table[method], style.marker, color=style.colour, markersize=size, rasterized=rasterized)
    axes.set_title(
        lines_within(f"{method}, median {median:.3g}", WIDTH - 1.2, SMALL), loc="left", fontsize=SMALL, pad=2
    )
    axes.grid(axis="y")
    margin = 0.1 * max(high.max() - low.min(), 1e-6)
    axes.set_ylim(low.min() - margin, high.max() + margin)
    axes.locator_params(axis="y", nbins=4)


def _names_below(perturbations: pd.Index) -> tuple[list[str], int]:
    """Labels for the perturbations and their rotation in degrees; no label where there is no room for all."""
    room = (WIDTH - 1.0) / len(perturbations)
    if len(perturbations) <= 6:
        return [lines_within(elided(name, 80), 0.95 * room, SMALL - 1) for name in perturbations], 0
    return names_that_fit(perturbations, 72 * room, SMALL - 1) or [], 90


Limits = tuple[float, float]


def without_outliers(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Limits | None:
    """Say what to draw where up to a quarter of the methods would squeeze the others; None where none does.

    They do where all values, with their intervals, need three times the width of the others.
    """
    lows, highs = np.fmin(values, low), np.fmax(values, high)
    nearest = np.abs(values - np.median(values)).argsort(kind="stable")
    kept = nearest[: len(values) - len(values) // 4]
    start, end = lows[kept].min(), highs[kept].max()
    if not highs.max() - lows.min() > 3 * (end - start) > 0:
        return None
    return start - 0.05 * (end - start), end + 0.05 * (end - start)


def _interval(
    axes: Axes,
    row: float,
    mean: float,
    low: float,
    high: float,
    style: MethodStyle,
    hollow: bool = False,
    limits: Limits | None = None,
) -> Line2D:
    """Draw a mean and its interval; the mark of the mean."""
    if np.isfinite(low) and np.isfinite(high):
        axes.plot([low, high], [row, row], color=style.colour, linewidth=1.8, solid_capstyle="butt")
    face = "white" if hollow else style.colour
    edge = style.colour if hollow else INK
    start, end = limits or (-np.inf, np.inf)
    marker = "<" if mean < start else ">" if mean > end else style.marker
    look = {"markerfacecolor": face, "markeredgecolor": edge, "markersize": 5.5, "markeredgewidth": 0.6}
    if not hollow:
        look |= {"fillstyle": style.fill, "markerfacecoloralt": "white"}
    inside = 0.015 * (end - start) if limits else 0.0
    return axes.plot(np.clip(mean, start + inside, end - inside), row, marker, **look)[0]


def _limit(panels: Sequence[Axes], limits: Limits | None) -> None:
    """Draw no more than ``limits``, on axes that are shared."""
    if limits:
        panels[0].set_xlim(*limits)


def _value_text(score: Any) -> str:
    text = f"{score.mean:.3f}"
    if np.isfinite(score.ci_low) and np.isfinite(score.ci_high):
        text += f" [{score.ci_low:.3f}, {score.ci_high:.3f}]"
    return f"{text}, skill {score.skill:.2f}" if np.isfinite(score.skill) else text
