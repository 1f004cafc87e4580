"""What the model is and how it was trained: training history, vocabulary coverage, load report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.figures.style import (
    INK,
    SMALL,
    WIDTH,
    beside_row,
    count,
    count_range,
    hover,
    keep,
    label_rows,
    legend_above,
    lines_within,
    listed,
    literal,
    new_figure,
    require,
    rows_height,
    say,
    styled,
)

_STATUS = ("in_vocabulary", "renamed", "padded")
_LOADED = {
    "pretrained": ("pretrained", "#0072b2"),
    "random": ("random", "#d55e00"),
    "unused": ("in the checkpoint, unused", ""),
}
_RATE = "tokens_per_second"
_BOOKKEEPING = {"epoch", "step", "learning_rate", "gradient_norm", "seconds", "peak_memory_mb"}
_BOOKKEEPING |= {_RATE, "cells_per_second", "data_wait", "peak_share"}
_TRAINING, _VALIDATION = "#0072b2", "#d55e00"
_ACROSS = 3  # panels of a training history


@styled
def training_history(
    histories: Mapping[str, pd.DataFrame],
    title: str,
    kept: Mapping[str, float] | None = None,
    loss_unit: str = "squared log1p expression",
) -> Figure:
    """Loss, validation metrics, learning rate and speed over the course of a method's trainings, a line for each.

    Parameters
    ----------
    histories
        By the name of a training, ``history.tsv`` of ``scgpt_bench.scgpt.training``, one row an epoch: ``epoch`` (or
        ``step``), ``loss`` and any ``<name>_loss`` measured on held-out cells (one panel), validation metrics by name
        (a panel each) and ``learning_rate``. Where it has them, ``tokens_per_second``, with ``data_wait`` and
        ``peak_share`` in words. Missing values are left out; gradient norm, time and memory are not drawn.
    title
        Which method on which data.
    kept
        By the name of a training, the epoch or step whose weights were kept.
    loss_unit
        The unit of the loss.
    """
    kept = kept or {}
    history = pd.concat([table.assign(training=name) for name, table in histories.items()], ignore_index=True)
    time = next((name for name in ("epoch", "step") if name in history.columns), "epoch")
    require(history, [time], "training history")
    losses = [name for name in history.columns if name == "loss" or name.endswith("_loss")]
    metrics = [name for name in history.columns if name not in {*losses, *_BOOKKEEPING, "training"}]
    panels = ([losses] if losses else []) + [[name] for name in metrics]
    panels += [[name] for name in ("learning_rate", _RATE) if name in history.columns]
    if not panels:
        known = ", ".join(map(str, history.columns.drop("training")))
        raise InputError("training history", "columns", known, "loss, a validation metric or learning_rate")
    down = -(-len(panels) // _ACROSS)
    rings = f" Ring: the {time} whose weights were kept." if kept else ""
    figure = new_figure(
        WIDTH,
        0.9 + 1.35 * down,
        f"{title}: {count(len(histories), 'training')}",
        f"A line is a training. Blue: training cells; vermilion: held-out cells.{rings}",
    )
    places = figure.subplots(down, _ACROSS, sharex=True, squeeze=False)
    for axes in places.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes, names in zip(places.ravel(), panels, strict=False):
        for name in names:
            colour = {"loss": _TRAINING, "learning_rate": INK, _RATE: INK}.get(name, _VALIDATION)
            for training, rows in history[[time, name, "training"]].dropna().groupby("training", sort=False):
                marker = "o" if len(rows) == 1 else ""
                (line,) = axes.plot(rows[time], rows[name], marker=marker, markersize=3, linewidth=0.9, color=colour)
                hover(
                    line, f"{training}, {name}: {rows[name].iloc[0]:.3g} at first, {rows[name].iloc[-1]:.3g} at the end"
                )
                ring = rows[rows[time] == kept.get(training)]
                axes.plot(ring[time], ring[name], "o", markersize=4.5, markerfacecolor="white", color=colour)
        axes.set_title(_panel_title(names, loss_unit), loc="left", fontsize=SMALL, pad=3)
        axes.grid(axis="y")
        axes.locator_params(axis="y", nbins=4)
        axes.yaxis.set_major_formatter("{x:,.0f}" if names == [_RATE] else "{x:.3g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for column in range(min(_ACROSS, len(panels))):
        lowest = places[(len(panels) - 1 - column) // _ACROSS, column]
        lowest.set_xlabel(time)
        lowest.tick_params(labelbottom=True)
    found = [
        f"{count(len(histories), 'training')} of {count_range([len(table) for table in histories.values()], time)}."
    ]
    for name in [*losses, *metrics]:
        ends = history[[name, "training"]].dropna().groupby("training", sort=False)[name].agg(["first", "last"])
        if len(ends):
            found.append(f"{name}: {_range(ends['first'])} at first, {_range(ends['last'])} at the end.")
    if kept:
        found.append(f"Weights kept: {time} {_range(pd.Series(kept))}.")
    if _RATE in history.columns:
        found.append(f"Speed: {_speed(history)}.")
    say(figure, " ".join(found))
    keep(figure, history[["training", *history.columns.drop("training")]])
    return figure


def _range(values: pd.Series) -> str:
    """Write ``0.12``, or ``0.1 to 0.2`` where values differ."""
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


def _speed(history: pd.DataFrame) -> str:
    """Say how fast the training was, in means over its epochs."""
    means = history[[_RATE, "cells_per_second", "data_wait", "peak_share"]].mean()
    rate, cells = (float(f"{means[name]:.3g}") for name in (_RATE, "cells_per_second"))
    told = [f"{rate:,.10g} tokens ({cells:,.10g} cells) per second on average"]
    told.append(f"{100 * means['data_wait']:.1f} % of the time waiting for data")
    peak = means["peak_share"]
    told.append("share of the peak FLOP/s unknown" if np.isnan(peak) else f"{100 * peak:.0f} % of the peak FLOP/s")
    return "; ".join(told)


def _panel_title(names: list[str], loss_unit: str) -> str:
    if names[0] in ("learning_rate", _RATE):
        return names[0].replace("_", " ")
    if names[0] == "loss" or names[0].endswith("_loss"):
        return f"loss ({literal(loss_unit)})"
    title = "validation: " + metric_of(names[0].removeprefix("validation_")).label
    return lines_within(title, WIDTH / _ACROSS - 0.6, SMALL)


def vocabulary_coverage(vocabularies: Mapping[str, pd.DataFrame], expression: np.ndarray) -> pd.DataFrame:
    """Count the genes, and the share of the expression, that the vocabulary of each checkpoint knows.

    Parameters
    ----------
    vocabularies
        By checkpoint, its vocabulary table (``gene``, ``status``, ``matched_as``), one row a gene.
    expression
        [genes] mean expression in the order of the tables.

    Returns
    -------
    One row a checkpoint: ``checkpoint``, ``genes``, how many are ``in_vocabulary``, ``renamed`` and ``padded``, the
    ``percent_of_genes`` and ``percent_of_expression`` that are not padded, and names of ``padded_genes`` and
    ``renamed_genes``, those with the highest expression first.
    """
    rows = []
    for checkpoint, vocabulary in vocabularies.items():
        require(vocabulary, ["gene", "status", "matched_as"], "vocabulary table")
        unknown = sorted({*vocabulary["status"]} - {*_STATUS})
        if unknown:
            expected = f"one of {', '.join(_STATUS)}"
            raise InputError("vocabulary table", "status", ", ".join(map(repr, unknown)), expected)
        padded = (vocabulary["status"] == "padded").to_numpy()
        known = 1 - np.array([padded.mean(), expression[padded].sum() / max(expression.sum(), 1e-12)])
        by_expression = vocabulary.iloc[np.argsort(-expression, kind="stable")]
        of_status = {status: by_expression[by_expression["status"] == status] for status in _STATUS}
        rows.append(
            {
                "checkpoint": checkpoint,
                "genes": len(vocabulary),
                **{status: len(genes) for status, genes in of_status.items()},
                **dict(zip(("percent_of_genes", "percent_of_expression"), 100 * known, strict=True)),
                "padded_genes": listed([*of_status["padded"]["gene"]]),
                "renamed_genes": listed([*of_status["renamed"]["gene"] + " as " + of_status["renamed"]["matched_as"]]),
            }
        )
    return pd.DataFrame(rows)


@styled
def load_report(report: pd.DataFrame, title: str) -> Figure:
    """Which share of each model's parameters came from a checkpoint, and which is random.

    Parameters
    ----------
    report
        ``method``, ``status`` (``pretrained``, ``random``, ``unused``), ``n_parameters``; rows of one pair add up. What
        a model leaves unused of its checkpoint is written, not drawn.
    title
        Whose models.
    """
    require(report, ["method", "status", "n_parameters"], "load report")
    unknown = sorted(set(report["status"]) - set(_LOADED))
    if unknown:
        raise InputError("load report", "status", ", ".join(map(repr, unknown)), f"one of {', '.join(_LOADED)}")
    table = report.pivot_table(index="method", columns="status", values="n_parameters", aggfunc="sum", fill_value=0)
    table = table.reindex(columns=list(_LOADED), fill_value=0).reindex(pd.unique(report["method"]))
    figure = new_figure(
        WIDTH,
        1.3 + rows_height(table.index, 0.3),
        f"{title}: {count(len(table), 'model')}",
        "Share of the model's parameters. Right: how many it has. Random: not loaded from a checkpoint; fine-tuning "
        "trains such parts. Unused: in the checkpoint, not in the model.",
    )
    axes = figure.add_subplot()
    size = (table["pretrained"] + table["random"]).to_numpy(float)
    start = np.zeros(len(table))
    for status in ("pretrained", "random"):
        words, colour = _LOADED[status]
        share = 100 * table[status].to_numpy(float) / np.maximum(size, 1)
        bars = axes.barh(range(len(table)), share, left=start, height=0.62, color=colour, label=words)
        for bar, method, number, part in zip(bars, table.index, table[status], share, strict=True):
            hover(bar, f"{method}, {words}: {number:,} parameters, {part:.1f} %")
        start += share
    for row, (model, (pretrained, _, unused)) in enumerate(zip(size, table.to_numpy(), strict=True)):
        left = f", {_quantity(unused)} unused" if unused else ""
        beside_row(axes, row, f"{_quantity(model)}, {100 * pretrained / max(model, 1):.1f} % pretrained{left}")
    label_rows(axes, list(table.index))
    axes.set(xlim=(0, 100), xlabel="share of parameters (%)")
    legend_above(axes, 2)
    shares = 100 * table["pretrained"] / (table["pretrained"] + table["random"]).clip(lower=1)
    say(figure, "Pretrained: " + "; ".join(f"{method} {share:.1f} %" for method, share in shares.items()) + ".")
    keep(figure, table.reset_index())
    return figure


def _quantity(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
