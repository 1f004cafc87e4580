"""What the model is and how it was trained: training history, vocabulary coverage, load report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scgpt_bench.errors import InputError
from scgpt_bench.figures.style import (
    INK,
    SMALL,
    WIDTH,
    beside_row,
    count,
    label_rows,
    legend_above,
    listed,
    literal,
    metric_label,
    new_figure,
    require,
    rows_height,
    say,
    styled,
)

_STATUS = {
    "in_vocabulary": ("in the vocabulary", "#0072b2"),
    "renamed": ("under another name", "#88bfe0"),
    "padded": ("padded: unknown to the model", "#d55e00"),
}
_LOADED = {
    "pretrained": ("pretrained", "#0072b2"),
    "random": ("random", "#d55e00"),
    "unused": ("in the checkpoint, unused", ""),
}
_RATE = "tokens_per_second"
_BOOKKEEPING = {"epoch", "step", "learning_rate", "gradient_norm", "seconds", "peak_memory_mb"}
_BOOKKEEPING |= {_RATE, "cells_per_second", "data_wait", "peak_share"}
_TRAINING, _VALIDATION = "#0072b2", "#d55e00"


@styled
def training_history(
    history: pd.DataFrame, title: str, best: float | None = None, loss_unit: str = "squared log1p expression"
) -> Figure:
    """Loss, validation metrics, learning rate and speed over the course of training.

    Parameters
    ----------
    history
        ``history.tsv`` of ``scgpt_bench.scgpt.training``, one row an epoch: ``epoch`` (or ``step``), ``loss`` and any
        ``<name>_loss`` measured on held-out cells (one panel), validation metrics by name (a panel each) and
        ``learning_rate``. Where it has them, ``tokens_per_second``, with ``data_wait`` and ``peak_share`` in words.
        Missing values are left out; gradient norm, time and memory are not drawn.
    title
        Which model on which data.
    best
        The epoch or step whose weights were kept.
    loss_unit
        The unit of the loss.
    """
    time = next((name for name in ("epoch", "step") if name in history.columns), "epoch")
    require(history, [time], "training history")
    losses = [name for name in history.columns if name == "loss" or name.endswith("_loss")]
    metrics = [name for name in history.columns if name not in {*losses, *_BOOKKEEPING}]
    panels = ([losses] if losses else []) + [[name] for name in metrics]
    if "learning_rate" in history.columns:
        panels.append(["learning_rate"])
    speed = _speed(history) if _RATE in history.columns else ""
    if speed:
        panels.append([_RATE])
    if not panels:
        found = ", ".join(map(str, history.columns))
        raise InputError("training history", "columns", found, "loss, a validation metric or learning_rate")
    kept = "" if best is None else f" Dashed: the {time} whose weights were kept ({best:g})."
    figure = new_figure(
        WIDTH,
        1.0 + 1.25 * len(panels),
        f"{title}: {count(len(history), time)}",
        f"Blue: training; vermilion: held-out cells.{kept}",
    )
    for axes, names in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for name in names:
            known = history[[time, name]].dropna()
            colour = {"loss": _TRAINING, "learning_rate": INK, _RATE: INK}.get(name, _VALIDATION)
            marker = "o" if len(known) <= 40 else ""
            axes.plot(known[time], known[name], marker=marker, markersize=3, color=colour)
        heading = f"tokens per second: {speed}" if names == [_RATE] else _panel_title(names, loss_unit)
        axes.set_title(heading, loc="left", fontsize=SMALL, pad=3)
        if best is not None:
            axes.axvline(best, color=INK, linestyle="--", linewidth=0.8)
        axes.grid(axis="y")
        axes.locator_params(axis="y", nbins=4)
        axes.yaxis.set_major_formatter("{x:,.0f}" if names == [_RATE] else "{x:.3g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(time)
    told = [f"{count(len(history), time)}."]
    for name in [*losses, *metrics]:
        known = history[[time, name]].dropna()
        if len(known):
            told.append(f"{name}: {known[name].iloc[0]:.3g} at first, {known[name].iloc[-1]:.3g} at the end.")
    if best is not None:
        told.append(f"Weights kept: {time} {best:g}.")
    if speed:
        told.append(f"Tokens per second: {speed}.")
    say(figure, " ".join(told))
    return figure


def _speed(history: pd.DataFrame) -> str:
    """Say how fast the training was, in means over its epochs."""
    means = history[[_RATE, "cells_per_second", "data_wait", "peak_share"]].mean()
    told = [f"mean {means[_RATE]:,.0f}, of {means['cells_per_second']:,.3g} cells"]
    told.append(f"{means['data_wait']:.1%} of the time waiting for data")
    peak = means["peak_share"]
    told.append("share of the peak FLOP/s not known" if np.isnan(peak) else f"{peak:.0%} of the peak FLOP/s")
    return "; ".join(told)


def _panel_title(names: list[str], loss_unit: str) -> str:
    if names == ["learning_rate"]:
        return "learning rate"
    if names[0] == "loss" or names[0].endswith("_loss"):
        return f"loss ({literal(loss_unit)})"
    return "validation: " + metric_label(names[0].removeprefix("validation_"))


@styled
def vocabulary_coverage(vocabulary: pd.DataFrame, expression: np.ndarray | None, title: str) -> Figure:
    """How many genes, and how much of the expression, a checkpoint's vocabulary knows.

    Parameters
    ----------
    vocabulary
        The vocabulary table (``gene``, ``status``, ``matched_as``), one row a gene.
    expression
        [genes] mean expression in the order of the table, to weight genes with; ``None`` draws genes only.
    title
        Which data against which checkpoint.
    """
    require(vocabulary, ["gene", "status", "matched_as"], "vocabulary table")
    unknown = sorted(set(vocabulary["status"]) - set(_STATUS))
    if unknown:
        raise InputError("vocabulary table", "status", ", ".join(map(repr, unknown)), f"one of {', '.join(_STATUS)}")
    weights = {"genes": np.ones(len(vocabulary))}
    if expression is not None:
        weights["expression"] = np.asarray(expression, dtype=float)
    padded = (vocabulary["status"] == "padded").to_numpy()
    figure = new_figure(
        WIDTH,
        1.75 + 0.32 * len(weights),
        f"{title}: {count(len(vocabulary), 'gene')}, {int(padded.sum()):,} padded",
        _vocabulary_note(vocabulary, weights.get("expression", weights["genes"])),
    )
    axes = figure.add_subplot()
    left = np.zeros(len(weights))
    for status, (words, colour) in _STATUS.items():
        chosen = (vocabulary["status"] == status).to_numpy()
        shares = [100 * weight[chosen].sum() / max(weight.sum(), 1e-12) for weight in weights.values()]
        label = f"{words}: {count(int(chosen.sum()), 'gene')} ({shares[0]:.1f} %)"
        if expression is not None:
            label += f", {shares[1]:.1f} % of expression"
        axes.barh(range(len(weights)), shares, left=left, height=0.6, color=colour, label=label)
        left += shares
    label_rows(axes, list(weights))
    axes.set(xlim=(0, 100), xlabel="share of the measured genes, and of their mean expression (%)")
    legend_above(axes, 1)
    covered = 100 * (1 - weights["genes"][padded].sum() / len(vocabulary))
    told = f"{covered:.1f} % of {count(len(vocabulary), 'gene')} are known to the model"
    if expression is not None:
        lost = weights["expression"][padded].sum() / max(weights["expression"].sum(), 1e-12)
        told += f", with {100 * (1 - lost):.1f} % of the mean expression"
    say(figure, told + ".")
    return figure


def _vocabulary_note(vocabulary: pd.DataFrame, weight: np.ndarray) -> str:
    by_weight = vocabulary.iloc[np.argsort(-weight, kind="stable")]
    padded, renamed = (by_weight[by_weight["status"] == status] for status in ("padded", "renamed"))
    parts = [f"Padded: {listed(padded['gene'])}." if len(padded) else "Every measured gene has a token of its own."]
    if len(renamed):
        parts.append(f"Under another name: {listed(renamed['gene'] + ' as ' + renamed['matched_as'])}.")
    return " ".join(parts) + (" Highest expression first." if len(padded) or len(renamed) else "")


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
        axes.barh(range(len(table)), share, left=start, height=0.62, color=colour, label=words)
        start += share
    for row, (model, (pretrained, _, unused)) in enumerate(zip(size, table.to_numpy(), strict=True)):
        left = f", {_quantity(unused)} unused" if unused else ""
        beside_row(axes, row, f"{_quantity(model)}, {100 * pretrained / max(model, 1):.1f} % pretrained{left}")
    label_rows(axes, list(table.index))
    axes.set(xlim=(0, 100), xlabel="share of parameters (%)")
    legend_above(axes, 2)
    shares = 100 * table["pretrained"] / (table["pretrained"] + table["random"]).clip(lower=1)
    say(figure, "Pretrained: " + "; ".join(f"{method} {share:.1f} %" for method, share in shares.items()) + ".")
    return figure


def _quantity(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
