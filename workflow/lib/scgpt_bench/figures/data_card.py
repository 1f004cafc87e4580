"""How good the data are: which responses repeat, whether targets move, and the card in words."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scgpt_bench.figures.style import (
    INK,
    SMALL,
    WIDTH,
    count,
    elided,
    legend_above,
    literal,
    names_that_fit,
    new_figure,
    require,
    say,
    styled,
)

RELIABLE, UNRELIABLE = "#0072b2", "#d55e00"
SHOWN = 60  # perturbations that are named; beyond, dots without names


@styled
def reliability(perturbations: pd.DataFrame, minimum: float, title: str) -> Figure:
    """Split-half reliability of every perturbation with its interval, the best first, and against its cells.

    Parameters
    ----------
    perturbations
        The records of ``card.json``: ``perturbation``, ``n_cells``, ``reliability``, its interval, ``reliable``.
    minimum
        The threshold of ``reliable``.
    """
    require(perturbations, ["perturbation", "n_cells", "reliability", "reliability_low", "reliable"], "card.json")
    table = perturbations.sort_values("reliability", ascending=False, kind="stable", na_position="last")
    figure = new_figure(
        WIDTH,
        3.9,
        f"{title}: the response of {int(table['reliable'].sum())} of {count(len(table), 'perturbation')} repeats",
        "Correlation between the deltas of two halves of a perturbation's cells, each against its own half of the "
        f"controls (mean over all splits of ten blocks; bars: 95 % jackknife interval). Below {minimum:g} (dashed) a "
        "response is flagged as unreliable: scores on it are mostly noise.",
    )
    ranked, by_cells = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 1]})
    places, colours = np.arange(len(table)), np.where(table["reliable"], RELIABLE, UNRELIABLE)
    values = table["reliability"].to_numpy(dtype=float)
    bounds = table[["reliability_low", "reliability_high"]].to_numpy(dtype=float)
    ranked.vlines(places, bounds[:, 0], bounds[:, 1], color=colours, linewidth=1 if len(table) <= SHOWN else 0.4)
    size = 14 if len(table) <= SHOWN else 4
    for axes, x in ((ranked, places), (by_cells, table["n_cells"].to_numpy(dtype=float))):
        axes.scatter(x, values, s=size, color=colours, zorder=3)
        axes.axhline(minimum, color=INK, linewidth=0.7, linestyle="--")
        axes.axhline(0, color="#999999", linewidth=0.5)
    handles = [
        ranked.scatter([], [], s=14, color=colour, label=label)
        for label, colour in (("reliable", RELIABLE), ("unreliable", UNRELIABLE))
    ]
    legend_above(ranked, 2, handles)
    _name_columns(ranked, list(table["perturbation"]))
    ranked.set_ylabel("split-half reliability (correlation)")
    by_cells.set_xscale("log")
    by_cells.set_xlabel("cells")
    by_cells.set_ylim(min(-0.3, np.nanmin(values, initial=0) - 0.1), 1.05)
    say(
        figure,
        f"the responses of {int(table['reliable'].sum())} of {count(len(table), 'perturbation')} repeat; the median "
        f"reliability is {np.nanmedian(values) if np.isfinite(values).any() else np.nan:.2f}.",
    )
    return figure


@styled
def knock_down(perturbations: pd.DataFrame, perturbation_kind: str, title: str) -> Figure:
    """How far each measured target moved in the cells in which it is perturbed.

    Parameters
    ----------
    perturbations
        The records of ``card.json``: ``perturbation``, ``n_cells``, ``target_log_fold_change``.
    perturbation_kind
        Says which way a target is expected to go.
    """
    require(perturbations, ["perturbation", "n_cells", "target_log_fold_change"], "card.json")
    measured = perturbations.dropna(subset=["target_log_fold_change"])
    table = measured.sort_values("target_log_fold_change", kind="stable")
    up = perturbation_kind == "activation"
    expected = {"activation": "up", "mixed": "either way"}.get(perturbation_kind, "down")
    without = len(perturbations) - len(table)
    figure = new_figure(
        WIDTH,
        3.4,
        f"{title}: do the targets move? ({perturbation_kind}: expected {expected})",
        "Expression of the perturbed gene, log2 of its mean (scaled counts) over that of the matched controls; of a "
        "combination, the gene that moved least. One average control cell is added, so that few cells show little. "
        f"{count(without, 'perturbation')} without a measured target {'is' if without == 1 else 'are'} not shown. A "
        "knock-out need not lower the transcript.",
    )
    axes = figure.subplots()
    values = table["target_log_fold_change"].to_numpy(dtype=float)
    as_expected = np.ones(len(values), dtype=bool) if perturbation_kind == "mixed" else (values > 0) == up
    colours = np.where(as_expected, RELIABLE, UNRELIABLE)
    axes.vlines(np.arange(len(table)), 0, values, color=colours, linewidth=1)
    axes.scatter(np.arange(len(table)), values, s=14 if len(table) <= SHOWN else 4, color=colours, zorder=3)
    axes.axhline(0, color=INK, linewidth=0.6)
    if len(table):
        _name_columns(axes, list(table["perturbation"]))
    else:
        axes.text(0.5, 0.5, "no target was measured", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
    axes.set_ylabel("log2 fold change of the target")
    moved = f"{int(as_expected.sum())} of {count(len(table), 'measured target')} moved as expected"
    say(figure, f"{moved}; the median log2 fold change is {np.median(values) if len(values) else np.nan:.2f}.")
    return figure


def _name_columns(axes: Axes, names: Sequence[str]) -> None:
    """Names below consecutive columns where they fit, else only what they are."""
    axes.set_xlim(-0.8, len(names) - 0.2)
    width = 0.6 * WIDTH * 72 / max(len(names), 1)
    if len(names) <= SHOWN and names_that_fit(names, width, SMALL - 1) is not None:
        axes.set_xticks(range(len(names)), [literal(elided(name)) for name in names], rotation=90, fontsize=SMALL - 1)
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{count(len(names), 'perturbation')}, sorted")


def card_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """The perturbations of ``card.json``, one row each; ``targets`` are named without their changes."""
    table = pd.DataFrame(card["perturbations"])
    table["targets"] = table["targets"].map(lambda changes: ", ".join(changes))
    return table


def card_text(card: Mapping[str, Any], leakage: Sequence[str], of_splits: Sequence[str]) -> str:
    """``card.json`` as a piece of HTML for the report: what is wrong first, then what was measured."""
    noise = card["shared_control_noise"]
    facts = {
        "cells": f"{card['n_cells']:,}, {card['n_controls']:,} of them controls",
        "genes": f"{card['n_genes']:,}",
        "perturbations": f"{card['n_perturbations']:,}, {card['n_combinations']:,} of them combinations",
        "batches, cell types": f"{card['n_batches']}, {card['n_cell_types']}",
        "values": card["values_evidence"],
        "reliable responses": f"{card['n_reliable']} of {card['n_perturbations']} (split-half reliability of at least "
        f"{card['minimum_reliability']:g}); median {card['median_reliability']:.2f}",
        "shared response": f"cosine {card['median_shared_response']:.2f} (median) between one perturbation's response "
        "and the mean response of all others",
        "noise of the control mean": f"correlation {noise['same_controls']:.2f} (mean) between one perturbation's "
        "response and the mean response of all others, which are measured against the same controls; "
        f"{noise['disjoint_controls']:.2f} if the others had as many controls of their own",
        "left out for too few cells": ", ".join(card["dropped_perturbations"]) or "none",
    }
    lists = (
        ("Problems", card["problems"]),
        ("Repairs", card["repairs"]),
        ("What test and training share", leakage),
        ("What splits leave out, or judge by few cells", of_splits),
    )
    return "".join(
        f"<h4>{title}</h4><ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts) or '<li>none</li>'}</ul>"
        for title, texts in lists
    ) + facts_table("Measured", facts)


def facts_table(heading: str, facts: Mapping[str, str]) -> str:
    """A heading and a table of two columns, as a piece of HTML."""
    rows = "".join(f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(v)}</td></tr>' for k, v in facts.items())
    return f"<h4>{html.escape(heading)}</h4><table>{rows}</table>"
