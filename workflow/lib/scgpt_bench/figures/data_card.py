"""How good the data are: which responses repeat, whether targets move, and the card in words."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from scgpt_bench.data.conditions import ALL_CONTEXTS, contexts_of, labels_of, noun_of
from scgpt_bench.evaluation.data_card import COLUMNS
from scgpt_bench.figures.numbers import written
from scgpt_bench.figures.style import (
    INK,
    SMALL,
    WIDTH,
    count,
    elided,
    hover,
    keep,
    legend_above,
    literal,
    names_that_fit,
    new_figure,
    require,
    say,
    styled,
)

RELIABLE, UNRELIABLE, UNDECIDED = "#0072b2", "#d55e00", "#999999"
SHOWN = 60  # perturbations that are named; beyond, dots without names


@styled
def reliability(conditions: pd.DataFrame, minimum: float, title: str) -> Figure:
    """Draw the split-half reliability of every condition with its interval, the best first.

    Where conditions differ in their number of cells, a second panel draws it against that.

    Parameters
    ----------
    conditions
        The records of ``card.json``: ``perturbation``, ``context``, ``n_cells``, ``reliability``, its interval,
        ``reliable``. Those of unknown reliability come last, as crosses at the bottom.
    minimum
        The threshold of ``reliable``.
    """
    require(
        conditions,
        ["perturbation", "context", "n_cells", "reliability", "reliability_low", "reliable"],
        "card.json",
        or_empty=True,
    )
    numbers = ["n_cells", "reliability", "reliability_low", "reliability_high"]
    table = conditions.astype(dict.fromkeys(numbers, float))
    table = table.sort_values("reliability", ascending=False, kind="stable", na_position="last")
    values, is_reliable = table["reliability"].to_numpy(), (table["reliable"] == True).to_numpy()  # noqa: E712
    noun = noun_of(table)
    known, total = np.isfinite(values), count(len(table), noun)
    unknown = f" ({(~known).sum()} unknown)" if not known.all() else ""
    figure = new_figure(
        WIDTH,
        3.9,
        f"{title}: the response of {is_reliable.sum()} of {total} repeats{unknown}",
        f"Correlation between the deltas of two halves of a {noun}'s cells, each against its own half of the "
        f"controls (mean over all splits of ten blocks; bars: 95 % jackknife interval). Below {minimum:g} (dashed) a "
        "response is flagged as unreliable: scores on it say little about a method."
        + ("" if known.all() else " Unknown: too few cells or controls."),
    )
    varies = bool(table["n_cells"].min() < table["n_cells"].max())
    ranked, *by_cells = figure.subplots(1, 1 + varies, sharey=True, squeeze=False, width_ratios=[3, 1][: 1 + varies])[0]
    places, colours = np.arange(len(table)), np.where(is_reliable, RELIABLE, UNRELIABLE)
    bounds = table[["reliability_low", "reliability_high"]].to_numpy()
    ranked.vlines(places, bounds[:, 0], bounds[:, 1], color=colours, linewidth=1 if len(table) <= SHOWN else 0.4)
    size = 14 if len(table) <= SHOWN else 4
    bottom = min(-0.3, np.nanmin(values, initial=0) - 0.1)
    for axes, x in zip((ranked, *by_cells), (places, table["n_cells"].to_numpy()), strict=False):
        points = axes.scatter(x[known], values[known], s=size, color=colours[known], zorder=3)
        if known.sum() > 1:
            told = zip(labels_of(table[known]), values[known], table.loc[known, "n_cells"], strict=True)
            hover(points, [f"{name}: {value:.2f}, {cells:.0f} cells" for name, value, cells in told])
        axes.scatter(x[~known], np.full((~known).sum(), bottom + 0.05), s=size, color=UNDECIDED, marker="x")
        axes.axhline(minimum, color=INK, linewidth=0.7, linestyle="--")
        axes.axhline(0, color="#999999", linewidth=0.5)
    marks = (("reliable", RELIABLE, "o"), ("unreliable", UNRELIABLE, "o"), ("unknown", UNDECIDED, "x"))
    occurs = (is_reliable.any(), (known & ~is_reliable).any(), not known.all())
    _legend(ranked, [mark for mark, here in zip(marks, occurs, strict=True) if here])
    _name_columns(ranked, list(labels_of(table)), noun)
    ranked.set_ylabel("split-half reliability (correlation)")
    ranked.set_ylim(bottom, 1.05)
    for axes in by_cells:
        axes.set_xscale("log")
        ends = sorted({table["n_cells"].min(), table["n_cells"].max()})
        axes.set_xticks(ends, [f"{number:,.0f}" for number in ends])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("cells")
    median = f"the median reliability is {np.median(values[known]):.2f}" if known.any() else "no reliability is known"
    unknown = f"; {(~known).sum()} are unknown" if known.any() and not known.all() else ""
    keep(figure, table[["perturbation", "context", *numbers, "reliable"]])
    say(figure, f"the responses of {is_reliable.sum()} of {total} repeat; {median}{unknown}.")
    return figure


@styled
def knock_down(conditions: pd.DataFrame, perturbation_kind: str, title: str) -> Figure:
    """Draw how far each measured target moved in the cells in which it is perturbed.

    Parameters
    ----------
    conditions
        The records of ``card.json``: ``perturbation``, ``context``, ``n_cells``, ``target_log_fold_change``,
        ``target_wrong_way``.
    perturbation_kind
        Says which way a target is expected to go.
    """
    columns = ["perturbation", "context", "n_cells", "target_log_fold_change", "target_wrong_way"]
    require(conditions, columns, "card.json", or_empty=True)
    measured, noun = conditions.dropna(subset=["target_log_fold_change"]), noun_of(conditions)
    table = measured.astype({"target_log_fold_change": float}).sort_values("target_log_fold_change", kind="stable")
    expected = {"activation": "up", "mixed": "either way"}.get(perturbation_kind, "down")
    without = len(conditions) - len(table)
    figure = new_figure(
        WIDTH,
        3.4,
        f"{title}: do the targets move? ({perturbation_kind}: expected {expected})",
        "Expression of the perturbed gene, log2 of its mean (scaled counts) over that of the matched controls; of a "
        "combination, the gene that moved least. One average control cell is added, so that few cells show little. "
        f"{count(without, noun)} {'is' if without == 1 else 'are'} not shown: the target is not measured or "
        "not expressed, or cells or controls are too few. Beyond chance: one-sided Welch test, false discovery rate "
        "5 % over all targets. A knock-out need not lower the transcript.",
    )
    axes = figure.subplots()
    values = table["target_log_fold_change"].to_numpy()
    as_expected = {"up": values > 0, "down": values < 0}.get(expected, np.ones(len(values), dtype=bool))
    against = (table["target_wrong_way"] == True).to_numpy()  # noqa: E712
    colours = np.select([against, as_expected], [UNRELIABLE, RELIABLE], UNDECIDED)
    axes.vlines(np.arange(len(table)), 0, values, color=colours, linewidth=1)
    points = axes.scatter(np.arange(len(table)), values, s=14 if len(table) <= SHOWN else 4, color=colours, zorder=3)
    if len(table) > 1:
        hover(points, [f"{name}: {value:+.2f}" for name, value in zip(labels_of(table), values, strict=True)])
    axes.axhline(0, color=INK, linewidth=0.6)
    if len(table):
        _name_columns(axes, list(labels_of(table)), noun)
    else:
        axes.text(0.5, 0.6, "no change of a target is known", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
    if perturbation_kind != "mixed" and len(table):
        words = {RELIABLE: "as expected", UNDECIDED: "other way, within chance", UNRELIABLE: "other way, beyond chance"}
        _legend(axes, [(text, colour, "o") for colour, text in words.items() if colour in colours])
    axes.set_ylabel("log2 fold change of the target")
    keep(figure, table[columns])
    if len(table):
        have = "has" if len(table) == 1 else "have"
        measured = f"{len(table)} of the {count(len(conditions), noun)} {have} a measured target"
        median = f"median log2 fold change {written(float(np.median(values)), '%.2f')}"
        if perturbation_kind == "mixed":
            say(figure, f"{measured}; {median}; either direction is expected.")
        else:
            way = "higher" if expected == "up" else "lower"
            moved = int(as_expected.sum())
            which = f"all {moved}" if moved == len(table) > 1 else f"{moved}"
            told = f"{which} {'is' if moved == 1 else 'are'} {way} than in control cells (half would be by chance)"
            wrong = int(against.sum())
            beyond = f"{wrong or 'none'} {'is' if wrong <= 1 else 'are'} significantly the other way"
            say(figure, f"{measured}; {told}, {median}; {beyond}.")
    else:
        say(figure, "no change of a target is known.")
    return figure


def _legend(axes: Axes, marks: Sequence[tuple[str, str, str]]) -> None:
    """Draw a legend of (label, colour, marker)."""
    handles = [axes.scatter([], [], s=14, color=colour, marker=marker, label=label) for label, colour, marker in marks]
    legend_above(axes, max(len(marks), 1), handles)


def _name_columns(axes: Axes, names: Sequence[str], noun: str) -> None:
    """Names below consecutive columns where they fit, else only what they are."""
    axes.set_xlim(-0.8, len(names) - 0.2)
    width = 0.6 * WIDTH * 72 / max(len(names), 1)
    if 0 < len(names) <= SHOWN and names_that_fit(names, width, SMALL - 1) is not None:
        axes.set_xticks(range(len(names)), [literal(elided(name)) for name in names], rotation=90, fontsize=SMALL - 1)
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{count(len(names), noun)}, sorted")


def card_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate the conditions of ``card.json``, one row each; ``targets`` are named without their changes.

    ``unknown`` names what is left empty, and why. There is no ``context`` where none is declared.
    """
    table = pd.DataFrame(card["conditions"], columns=COLUMNS)
    if card["n_contexts"] == 1 and contexts_of(table) in ([], [ALL_CONTEXTS]):
        table = table.drop(columns="context")
    table["targets"] = table["targets"].map(lambda changes: ", ".join(changes))
    table["unknown"] = table["unknown"].map(_reasons)
    return table


def _reasons(unknown: Mapping[str, str]) -> str:
    """``reliability, n_de_genes: 2 cells, of 3 at least``: each reason once."""
    names_of: dict[str, list[str]] = {}
    for name, reason in unknown.items():
        names_of.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in names_of.items())


def card_text(card: Mapping[str, Any], leakage: Sequence[str], of_splits: Sequence[str]) -> str:
    """``card.json`` as a piece of HTML for the report: what is wrong first, then what was measured."""
    noise, unknown = card["shared_control_noise"], card["unknown"]
    noun = noun_of(pd.DataFrame(card["conditions"], columns=COLUMNS))
    in_contexts = (
        f", {card['n_conditions']:,} conditions in {card['n_contexts']} contexts" if noun == "condition" else ""
    )

    def known(name: str, text: str) -> str:
        return f"unknown: {unknown[name]}" if name in unknown else text

    def number(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.2f}"

    dominant = [f"{gene['gene']} ({100 * gene['share']:.0f} %)" for gene in card["dominant_genes"] or ()]
    facts = {
        "cells": f"{card['n_cells']:,}, {card['n_controls']:,} of them controls",
        "genes": f"{card['n_genes']:,}",
        "perturbations": f"{card['n_perturbations']:,}, {card['n_combinations']:,} of them combinations{in_contexts}",
        "batches, cell types": f"{card['n_batches']}, {card['n_cell_types']}",
        "values": card["values_evidence"],
        f"genes above {100 * card['thresholds']['dominant_share_of_counts']:.0f} % of all counts": known(
            "dominant_genes", ", ".join(dominant) or "none"
        ),
        "reliable responses": f"{card['n_reliable']} of {card['n_conditions']} (split-half reliability of at least "
        f"{card['minimum_reliability']:g}); median {number(card['median_reliability'])}",
        "shared response": known(
            "median_shared_response",
            f"cosine {number(card['median_shared_response'])} (median) between one {noun}'s response and the "
            "mean response of all others",
        ),
        "noise of the control mean": known(
            "shared_control_noise",
            f"correlation {number(noise['same_controls'])} (mean) between one {noun}'s response and the mean "
            "response of all others, which are measured against the same controls; "
            f"{number(noise['disjoint_controls'])} if the others had as many controls of their own",
        ),
        "left out for too few cells": ", ".join(card["dropped_perturbations"]) or "none",
        "unknown with fewer than": _fewest(card["thresholds"], noun),
    }
    lists = (
        ("Problems", card["problems"]),
        ("Notes", card["notes"]),
        ("Repairs", card["repairs"]),
        ("What test and training share", leakage),
        ("What splits leave out, or judge by few cells", of_splits),
    )
    return "".join(
        f"<h4>{title}</h4><ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts) or '<li>none</li>'}</ul>"
        for title, texts in lists
    ) + facts_table("Measured", facts)


def _fewest(thresholds: Mapping[str, float], noun: str) -> str:
    return (
        f"{thresholds['fewest_cells']} cells of a {noun} ({thresholds['fewest_cells_halved']} where they are "
        f"halved), {thresholds['fewest_controls_of_a_cell_type']} controls of a cell type that is more than "
        f"{100 * thresholds['rare_cell_type']:.0f} % of them, {thresholds['fewest_conditions']} {noun}s"
    )


def facts_table(heading: str, facts: Mapping[str, str]) -> str:
    """Write a heading and a table of two columns, as a piece of HTML."""
    rows = "".join(f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(v)}</td></tr>' for k, v in facts.items())
    return f"<h4>{html.escape(heading)}</h4><table>{rows}</table>"
