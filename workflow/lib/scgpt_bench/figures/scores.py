"""How well each method does: the ladder, the differences between two methods, and every condition."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy.cluster import hierarchy

from scgpt_bench.data.conditions import ALL_CONTEXTS, labels_of, noun_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.figures import numbers
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
    hover_cells,
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
    wrapped,
)
from scgpt_bench.methods.registry import CEILING, FLOOR, KINDS, SCGPT, SIMPLE, group_of

SLOPE = "effect_covariance"  # its skill is the slope of the predicted on the true change
BESIDE = 1.9  # inches to the right of a heat map of perturbations: medians and the colour bar
EQUAL = 1e-5  # scores that differ by less do so by rounding: predictions are in single precision
CLIPPED = (-0.995, 1.995)  # skill that is written as a number; what is beyond is marked
BEST_OF = ((SIMPLE, "Best simple method"), (SCGPT, "Best pretrained scGPT method"))
MARKS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}", "equivalent": "="}


@styled
def method_scores(
    scores: pd.DataFrame,
    metric: str,
    kinds: Mapping[str, str] | None = None,
    title: str | None = None,
    without_pretraining: Collection[str] = (),
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
    without_pretraining
        The scGPT methods with random weights, or trained from them; their markers are hollow.
    """
    kinds = kinds or {}
    require(scores, ["context", "method", "metric", "mean", "ci_low", "ci_high", "n_conditions", "skill"], "scores")
    rows = scores[scores["metric"] == metric]
    require(rows, ["dataset", "split"], f"scores of {metric}")
    rows = rows.sort_values(
        ["mean", "method"], ascending=[not metric_of(metric).higher_is_better, True], na_position="last"
    )
    is_error = not metric_of(metric).higher_is_better
    places = list(_contexts_apart(rows))
    of_all, noun = places[0][1], noun_of(rows)
    n = count_range(of_all["n_conditions"], noun)
    words = {FLOOR: "floor", CEILING: "ceiling"}
    kind_of = {method: kinds.get(method, method) for method in rows["method"]}
    bounds = {method: f"{method} ({words[kind]})" for method, kind in kind_of.items() if kind in words}
    heights = [rows_height(place["method"].replace(bounds)) for _, place in places]
    present = [kind for kind in words if kind in kind_of.values()]
    limits = without_outliers(*(rows[name].to_numpy(float) for name in ("mean", "ci_low", "ci_high")))
    figure = new_figure(
        WIDTH,
        1.25 + sum(heights) + 0.25 * len(places),
        title or f"{rows['dataset'].iloc[0]}, {rows['split'].iloc[0]}: {metric}, {n}",
        f"Mean over {n}, best on top; bars: 95 % interval over {noun}s."
        + (f" Dashed: {' and '.join(words[kind] for kind in present)}." if present else "")
        + (" Triangle at the edge: outside the picture." if limits else ""),
    )
    panels = figure.subplots(len(places), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (context, place) in zip(panels, places, strict=True):
        for row, score in enumerate(place.itertuples()):
            style = method_style(score.method, kind_of[score.method], kinds)
            hollow = score.method in without_pretraining
            mark = _interval(axes, row, score.mean, score.ci_low, score.ci_high, style, hollow, limits)
            hover(mark, f"{score.method}: {_value_text(score, is_error)}")
            if score.method in bounds:
                axes.axvline(score.mean, color=style.colour, linestyle=style.line, linewidth=0.8, zorder=0)
            beside_row(axes, row, _value_text(score, is_error))
        label_rows(axes, place["method"].replace(bounds).tolist())
        axes.grid(axis="x")
        if len(places) > 1:
            in_context = count_range(place["n_conditions"], noun)
            _head(axes, f"{'all contexts' if context == ALL_CONTEXTS else context}, {in_context}")
    _limit(panels, limits)
    direction = "higher is better" if metric_of(metric).higher_is_better else "lower is better"
    axes.set_xlabel(lines_within(f"{metric_of(metric).label}; {direction}", 0.6 * WIDTH, 8))
    if len(places) == 1:
        legend_above(axes, 3, group_handles(rows["method"], kinds, without_pretraining))
    say(figure, _ladder_in_words(of_all, kind_of, without_pretraining))
    keep(figure, rows)
    return figure


def _contexts_apart(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give the rows over all contexts, then those of each."""
    declared = sorted(set(rows["context"]) - {ALL_CONTEXTS})
    yield from ((context, rows[rows["context"] == context]) for context in [ALL_CONTEXTS, *declared])


def _head(axes: Axes, heading: str) -> None:
    heading = lines_within(heading, 4.0, SMALL, "bold")
    axes.set_title(heading, loc="left", fontsize=SMALL, fontweight="bold", pad=3)


def _ladder_in_words(rows: pd.DataFrame, kind_of: Mapping[str, str], without_pretraining: Collection[str]) -> str:
    """Choose the ends of the ladder, floor and ceiling, and the first of the others; ``rows`` best first."""
    group_of = {method: method_style(method, kind).group for method, kind in kind_of.items()}
    found = [f"{len(rows)} methods, from {_scored(rows.iloc[0])} (best) to {_scored(rows.iloc[-1])}."]
    for group, words in BEST_OF:
        members = rows[(rows["method"].map(group_of) == group.name) & ~rows["method"].isin(without_pretraining)]
        if len(members):
            found.append(f"{words}: {_scored(members.iloc[0])}.")
    for kind, words in ((CEILING, "Ceiling"), (FLOOR, "Floor")):
        members = rows[rows["method"].map(kind_of) == kind]
        found.append(f"{words}: {_scored(members.iloc[0])}." if len(members) else f"{words}: not run.")
    return " ".join(found)


def _scored(row: pd.Series) -> str:
    return f"{row['method']} {numbers.score(row['mean'], not metric_of(row['metric']).higher_is_better)}"


@styled
def skill_heatmap(
    scores: pd.DataFrame,
    verdicts: pd.DataFrame,
    kinds: Mapping[str, str] | None = None,
    title: str | None = None,
    without_pretraining: Collection[str] = (),
) -> Figure:
    """Draw the skill of every method by every metric, in per cent, with the verdicts of the metrics that judge.

    Methods are columns, the best by the headline first. Metrics that give every method the skill that one above gives
    are left out, and the note names them; so are those without any skill.

    Parameters
    ----------
    scores
        The rows of ``scores.tsv`` of one data set and split (``context method metric ci_low skill``). Only those over
        all contexts are drawn, and no slope that is not shown to be above 0.
    verdicts
        Those of ``verdicts.tsv`` (``context method metric verdict``).
    kinds
        The kind of each method by its name, where it is another.
    title
        What the numbers of metrics and methods are added to.
    without_pretraining
        The scGPT methods with random weights, or trained from them.
    """
    require(scores, ["context", "method", "metric", "ci_low", "skill"], "scores")
    require(verdicts, ["context", "method", "metric", "verdict"], "verdicts", or_empty=True)
    here = scores[scores["context"] == ALL_CONTEXTS]
    by_chance = slopes_by_chance(here)
    here = here.assign(skill=here["skill"].mask(by_chance))
    table = here.pivot_table(index="metric", columns="method", values="skill", sort=False).dropna(how="all")
    title = title or "Skill"
    if table.empty:
        return new_figure(WIDTH, 0.6, title, "No metric has a skill: no score of noise-free truth is known.")
    table = table.reindex(columns=here["method"].unique())
    first = table.iloc[0].fillna(-np.inf)
    table = table[first.sort_values(ascending=False, kind="stable").index]
    copies = _copies(table)
    table = table.drop(index=list(copies))
    judged = verdicts[verdicts["context"] == ALL_CONTEXTS]
    verdict_of = judged.set_index(["method", "metric"])["verdict"].to_dict()
    n_metrics, n_methods = table.shape
    room = 72 * (WIDTH - 2.6) / n_methods
    names = names_that_fit(table.columns, room, SMALL) or [literal(elided(name, 12)) for name in table.columns]
    note = "Skill in per cent: 0 is no change, 100 is what noise-free truth would score."
    said = [
        word for word in MARKS if word in {verdict_of.get((m, name)) for m in table.columns for name in table.index}
    ]
    if said:
        marks = ", ".join(f"{MARKS[word]} {word}" for word in said)
        note += f" By the metrics that decide, against the best simple method: {marks}."
    if ((table < CLIPPED[0]) | (table > CLIPPED[1])).any(axis=None):
        note += " \N{MUCH LESS-THAN}, \N{MUCH GREATER-THAN}: below -99, above 199."
    if table.isna().any(axis=None):
        note += " Grey: skill unknown" + (
            f", or a slope ({SLOPE}) not shown to be above 0." if by_chance.any() else "."
        )
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
    found = []
    for group, words in BEST_OF:
        of_group = [method for method in table if group_of((kinds or {}).get(method, method)) == group]
        known = table.columns[table.iloc[0].notna()]
        members = [method for method in of_group if method in known and method not in without_pretraining]
        if members:
            found.append(
                f"{words} by {table.index[0]}: {members[0]} ({_per_cent(table.loc[table.index[0], members[0]])})."
            )
    deciding = judged[judged["metric"] == table.index[0]]
    if len(deciding):
        found.append(f"Verdicts by {table.index[0]}: {_tally(deciding, kinds or {}, without_pretraining)}")
    keep(figure, table.reset_index())
    if cut := int(((table < CLIPPED[0]) | (table > CLIPPED[1])).sum().sum()):
        found.append(f"Out of scale: {cut} of {table.size}.")
    say(figure, " ".join(found))
    return figure


def slopes_by_chance(scores: pd.DataFrame) -> pd.Series:
    """Find slopes that are not shown to be above 0: large random changes may have one near 1 by chance."""
    return (scores["metric"] == SLOPE) & ~(scores["ci_low"] > 0)


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
    verdicts: pd.DataFrame,
    metric: str,
    kinds: Mapping[str, str] | None = None,
    title: str | None = None,
    opponent: str = "the best simple method",
    without_pretraining: Collection[str] = (),
) -> Figure:
    """Draw the difference of each method from its opponent, paired by condition, with interval and verdict.

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
    opponent
        What opponents are, in words.
    without_pretraining
        The scGPT methods with random weights, or trained from them; their markers are hollow.
    """
    kinds = kinds or {}
    columns = ["dataset", "split", "context", "method", "metric", "opponent", "difference", "ci_low", "ci_high"]
    columns += ["p_value", "verdict"]
    require(verdicts, columns, "verdicts", or_empty=True)
    rows = verdicts[verdicts["metric"] == metric]
    if rows.empty:
        return new_figure(WIDTH, 0.6, title or metric, "No method was compared on this metric.")
    rows = rows.sort_values(["dataset", "split", "difference", "method"], ascending=[True, True, False, True])
    noun = noun_of(rows)
    places = [
        (f"{dataset}, {split}" if context == ALL_CONTEXTS else f"{dataset}, {split}, {context}", place)
        for (dataset, split), of_split in rows.groupby(["dataset", "split"], sort=False)
        for context, place in _contexts_apart(of_split)
    ]
    unknown = [heading for heading, place in places if place["ci_low"].isna().all()]
    left_out = ""
    if 0 < len(unknown) < len(places):
        places = [(heading, place) for heading, place in places if heading not in unknown]
        rows = rows.loc[[index for _, place in places for index in place.index]]
        left_out = f" Not drawn, since no method has an interval: {'; '.join(unknown)}."
    several = "data sets, splits and contexts" if noun == "condition" else "data sets and splits"
    where = f"{len(places)} {several}" if len(places) > 1 else places[0][0]
    heights = [rows_height(place["method"]) for _, place in places]
    differences, low, high = (rows[name].to_numpy(float) for name in ("difference", "ci_low", "ci_high"))
    limits = without_outliers(differences, low, high, beside=0.0)
    is_error = not metric_of(metric).higher_is_better
    figure = new_figure(
        WIDTH,
        1.4 + sum(heights) + 0.25 * len(places),
        title or f"{where}: {metric}, {count(rows['method'].nunique(), 'method')} against {opponent}",
        f"Difference paired by {noun}; bars: 95 % interval. Right: verdict, p-value and the method compared with. "
        "Better is to the right"
        + (" (the sign of this error is flipped)." if is_error else ".")
        + (" Triangle at the edge: outside the picture." if limits else "")
        + left_out,
    )
    panels = figure.subplots(len(places), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (heading, place) in zip(panels, places, strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, verdict in enumerate(place.itertuples()):
            hollow = verdict.method in without_pretraining
            style = method_style(verdict.method, kinds.get(verdict.method), kinds)
            mark = _interval(axes, row, verdict.difference, verdict.ci_low, verdict.ci_high, style, hollow, limits)
            own, *ends = (
                numbers.difference(value, is_error) for value in (verdict.difference, verdict.ci_low, verdict.ci_high)
            )
            hover(mark, f"{verdict.method}: {own} [{', '.join(ends)}], {verdict.verdict}")
            is_cut = limits is not None and not limits[0] <= verdict.difference <= limits[1]
            beside_row(axes, row, (f"{own}: " if is_cut else "") + _verdict_text(verdict))
        label_rows(axes, place["method"].tolist())
        axes.grid(axis="x")
        if len(places) > 1:
            _head(axes, heading)
    _limit(panels, limits)
    turned = "" if metric_of(metric).higher_is_better else ", sign flipped: more is better"
    label = f"difference from {opponent} in {metric_of(metric).label}{turned}"
    axes.set_xlabel(lines_within(label, 0.6 * WIDTH, 8))
    if len(places) == 1:
        legend_above(axes, 3, group_handles(rows["method"], kinds, without_pretraining))
    extremes = {"Best": rows["difference"].idxmax(), "Worst": rows["difference"].idxmin()}
    told = [f"{word}: {_difference_in_words(rows.loc[row], is_error)}." for word, row in extremes.items()]
    say(figure, " ".join([_tally(rows, kinds, without_pretraining), *told[: len(rows)]]))
    keep(figure, rows)
    return figure


def _tally(rows: pd.DataFrame, kinds: Mapping[str, str], without_pretraining: Collection[str]) -> str:
    """Count verdicts, apart for untrained methods, which are controls: trained ones compete, from scratch too."""
    trained = rows["method"].map(
        lambda name: (kind := KINDS.get(kinds.get(name, name))) is not None and kind.is_trained
    )
    control = rows["method"].isin([*without_pretraining]) & ~trained
    parts = [("comparison", rows[~control]), ("untrained control", rows[control])]
    counted = [
        f"{count(len(part), noun)}: "
        + ", ".join(f"{number} {verdict}" for verdict, number in part["verdict"].value_counts().items())
        for noun, part in parts
        if len(part)
    ]
    return "; ".join(counted) + "."


def _difference_in_words(row: pd.Series, is_error: bool) -> str:
    where = f"{row['method']} on {row['dataset']}, {row['split']}"
    where += "" if row["context"] == ALL_CONTEXTS else f", {row['context']}"
    return f"{where}, {numbers.difference(row['difference'], is_error)} against {row['opponent']} ({row['verdict']})"


def _verdict_text(verdict: Any) -> str:
    p = ""
    if np.isfinite(verdict.p_value):
        p = f", p = {verdict.p_value:.2g}"
    return f"{literal(verdict.verdict)}{p} (vs {literal(elided(verdict.opponent))})"


@styled
def perturbation_heatmap(
    values: pd.DataFrame,
    metric: str,
    reliability: pd.Series | None = None,
    kinds: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the value of every condition under every method, alike conditions beside each other.

    Methods are rows, the best median on top. Conditions are columns, in the order of a hierarchical clustering (average
    linkage of the Euclidean distance between their values; one that is missing counts as the condition's mean).

    Parameters
    ----------
    values
        ``perturbation``, ``context``, ``method``, ``value``; several rows (seeds) are averaged.
    metric
        Identifier of the metric that ``value`` holds.
    reliability
        A further row below: the split-half reliability, indexed by the labels of conditions; its name is the row's.
    kinds
        The kind of each method by its name, where it is another.
    title
        What the numbers of conditions and methods are added to; without it, the metric.
    """
    require(values, ["perturbation", "context", "method", "value"], "metrics")
    noun, values = noun_of(values), values.assign(label=labels_of(values))
    table = values.pivot_table(index="method", columns="label", values="value", aggfunc="mean")
    if table.empty:
        raise InputError("metrics", f"values of {metric}", "none that is a number", "a value per condition")
    up = metric_of(metric).higher_is_better
    medians = table.median(axis=1).sort_values(ascending=not up, kind="stable")
    filled = table.fillna(table.mean())
    order = hierarchy.leaves_list(hierarchy.linkage(filled.T, "average")) if table.shape[1] > 2 else slice(None)
    table = table.loc[medians.index].iloc[:, order]
    n_methods, n = table.shape
    known = np.abs(table.to_numpy()[np.isfinite(table.to_numpy())])
    limit = float(np.quantile(known, 0.98)) or 1.0
    names, rotation = _names_below(table.columns, WIDTH - text_length(map(str, table.index), SMALL) - BESIDE)
    below = (
        text_length(names, SMALL - 1) if rotation else 0.12 * max((name.count("\n") + 1 for name in names), default=1)
    )
    heights = [rows_height(table.index, 0.19), *([0.19] if reliability is not None else [])]
    note = f"One column a {noun}, alike ones beside each other; methods by their median, which is on the right. "
    ends = f"{limit:.3g} and -{limit:.3g}" if table.min().min() < 0 else f"{limit:.3g}"
    note += f"The colour ends at {ends}." + (" Grey: no value." if table.isna().any(axis=None) else "")
    figure = new_figure(
        WIDTH,
        1.0 + sum(heights) + below,
        f"{title or metric}, {count(n, noun)}, {count(n_methods, 'method')}",
        note,
    )
    panels = figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    look = {"aspect": "auto", "interpolation": "nearest"}
    colours = mpl.colormaps["RdBu"].with_extremes(bad=FAINT)
    image = panels[0].imshow(np.ma.masked_invalid(table), cmap=colours, vmin=-limit, vmax=limit, **look)
    texts = [["no value" if np.isnan(value) else f"{value:.3f}" for value in row] for row in table.to_numpy()]
    hover_cells(panels[0], table.index, table.columns, texts, start=-0.5)
    label_rows(panels[0], list(table.index))
    for row, (label, method) in enumerate(zip(panels[0].get_yticklabels(), table.index, strict=True)):
        label.set_color(group_of((kinds or {}).get(method, method)).colour)
        beside_row(panels[0], row, numbers.score(medians[method], not up))
    if reliability is not None:
        own = reliability.reindex(table.columns).to_numpy(float)[None]
        greys = mpl.colormaps["Greys"].with_extremes(bad="white")
        panels[1].imshow(np.ma.masked_invalid(own), cmap=greys, vmin=0, vmax=1, **look)
        texts = [["unknown" if np.isnan(value) else f"{value:.2f}" for value in own[0]]]
        hover_cells(panels[1], [str(reliability.name)], table.columns, texts, start=-0.5)
        label_rows(panels[1], [str(reliability.name)])
        beside_row(panels[1], 0, f"{np.nanmedian(own):.2f}" if np.isfinite(own).any() else "unknown")
    for panel in panels:
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    panels[-1].set_xticks(range(n) if names else [], names, rotation=rotation, fontsize=SMALL - 1)
    figure.colorbar(image, ax=panels, shrink=0.6, pad=0.11, label=wrapped(metric_label(metric), 24))
    keep(figure, table.reset_index())
    typical = table.median()
    best, worst = (typical.idxmax(), typical.idxmin())[:: 1 if up else -1]
    told = f"{count(n, noun)} under {count(n_methods, 'method')}. Best median: {medians.index[0]} "
    extremes = [
        numbers.score(value, not up) for value in (medians.iloc[0], medians.iloc[-1], typical[best], typical[worst])
    ]
    told += f"{extremes[0]}; worst: {medians.index[-1]} {extremes[1]}. "
    told += f"Easiest {noun} (median over methods): {best} ({extremes[2]}); hardest: {worst} ({extremes[3]})."
    say(figure, told)
    return figure


def closest_pairs(
    verdicts: pd.DataFrame, metric: str, methods: Collection[str], most: int = 6
) -> list[tuple[str, str]]:
    """List the ``methods`` nearest to being better than their opponent, each with that opponent, the best first.

    Parameters
    ----------
    verdicts
        The rows of ``verdicts.tsv`` of one data set and question.
    """
    here = verdicts[
        (verdicts["metric"] == metric) & (verdicts["context"] == ALL_CONTEXTS) & verdicts["method"].isin(methods)
    ]
    here = here[here["difference"].notna()].sort_values("difference", ascending=False, kind="stable").head(most)
    return list(zip(here["method"], here["opponent"], strict=True))


@styled
def one_against_another(
    values: pd.DataFrame,
    metric: str,
    pairs: Sequence[tuple[str, str]],
    title: str,
    kinds: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one method's value against another's, a dot a condition and a panel a pair.

    Parameters
    ----------
    values
        ``perturbation``, ``context``, ``method``, ``value``; several rows (seeds) are averaged.
    metric
        Identifier of the metric that ``value`` holds.
    pairs
        Method and opponent of each panel. Pairs of which one has no value are left out.
    title
        Of which data and question.
    kinds
        The kind of each method by its name, where it is another.
    """
    require(values, ["perturbation", "context", "method", "value"], "metrics", or_empty=True)
    noun, values = noun_of(values), values.assign(label=labels_of(values))
    table = values.pivot_table(index="label", columns="method", values="value", aggfunc="mean")
    drawn = [(pair, table[list(pair)].dropna()) for pair in pairs if {*pair} <= set(table.columns)]
    drawn = [(pair, both) for pair, both in drawn if len(both)]
    if not drawn:
        return new_figure(WIDTH, 0.6, title, "No two methods are compared here.")
    across = min(3, len(drawn))
    down = -(-len(drawn) // across)
    up = metric_of(metric).higher_is_better
    figure = new_figure(
        WIDTH,
        0.9 + 2.5 * down,
        f"{title}: {count(len(drawn), 'comparison')}",
        f"One dot a {noun}; dotted: no difference. {'Above' if up else 'Below'} it the method of the panel is better. "
        f"Equal: nearer than {EQUAL:.5f}, which is rounding. Named: the largest difference.",
    )
    panels, found = figure.subplots(down, across, squeeze=False).ravel(), []
    for axes, ((method, opponent), both) in zip(panels, drawn, strict=False):
        x, y = both[opponent].to_numpy(), both[method].to_numpy()
        style = method_style(method, (kinds or {}).get(method), kinds)
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.6, linestyle=":")
        look = {"color": style.colour, "fillstyle": style.fill, "markersize": 3.5, "markeredgewidth": 0.3, "alpha": 0.7}
        (dots,) = axes.plot(x, y, style.marker, **look)
        hover(
            dots, [f"{name}: {own:.3f} against {other:.3f}" for name, own, other in zip(both.index, y, x, strict=True)]
        )
        most = int(np.argmax(np.abs(y - x)))
        name, to_the_left = literal(elided(both.index[most], 16)), x[most] > (x.min() + x.max()) / 2
        beside, side = ((-4, 0), "right") if to_the_left else ((4, 0), "left")
        look = {"fontsize": SMALL - 1, "va": "center", "ha": side}
        axes.annotate(name, (x[most], y[most]), beside, textcoords="offset points", **look)
        equal = np.isclose(x, y, rtol=0, atol=EQUAL)
        ahead, behind = (int((~equal & ((y > x) == (up == better))).sum()) for better in (True, False))
        counted = {"ahead": ahead, "equal": int(equal.sum()), "behind": behind}
        words = [f"{number} {word}" for word, number in counted.items() if number]
        axes.set_title(f"{literal(elided(method, 30))}\n{', '.join(words)}", fontsize=SMALL)
        axes.set_xlabel(lines_within(elided(opponent, 40), WIDTH / 3 - 0.6, SMALL), fontsize=SMALL)
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        margin = 0.08 * (high - low) or 0.1
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
        axes.locator_params(nbins=4)
        found.append(
            f"against {opponent}, {method} is ahead in {ahead}, equal in {counted['equal']} and behind in {behind} "
            f"of {count(len(both), noun)}"
        )
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    figure.supylabel(metric_label(metric), fontsize=8)
    keep(figure, table[list(dict.fromkeys(name for pair, _ in drawn for name in pair))].reset_index())
    said = "; ".join(found)
    say(figure, f"{said[0].upper()}{said[1:]}.")
    return figure


def _names_below(perturbations: pd.Index, width: float) -> tuple[list[str], int]:
    """Label perturbations on ``width`` inches: the labels, none where there is no room for all, and their rotation."""
    room = max(width, 1.0) / len(perturbations)
    if len(perturbations) <= 6:
        return [lines_within(elided(name, 80), 0.95 * room, SMALL - 1) for name in perturbations], 0
    return names_that_fit(perturbations, 72 * room, SMALL - 1) or [], 90


Limits = tuple[float, float]


def without_outliers(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, beside: float | None = None
) -> Limits | None:
    """Say what to draw where up to a quarter of the methods would squeeze the others; None where none does.

    They do where all values, with their intervals and ``beside``, need three times the width of the others.
    """
    lows, highs = np.fmin(values, low), np.fmax(values, high)
    nearest = np.abs(values - np.median(values)).argsort(kind="stable")
    kept = nearest[: len(values) - len(values) // 4]
    start, end = lows[kept].min(), highs[kept].max()
    if beside is not None:
        start, end = min(start, beside), max(end, beside)
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


def _value_text(score: Any, is_error: bool) -> str:
    text, *ends = (numbers.score(value, is_error) for value in (score.mean, score.ci_low, score.ci_high))
    if np.isfinite(score.ci_low) and np.isfinite(score.ci_high):
        text += f" [{', '.join(ends)}]"
    return f"{text}, skill {numbers.written(score.skill, '%.2f')}" if np.isfinite(score.skill) else text
