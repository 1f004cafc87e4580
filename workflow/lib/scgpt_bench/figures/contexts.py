"""What carries over to a context: the methods' scores there, and the measured changes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scgpt_bench.data.conditions import ALL_CONTEXTS
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.evaluation.transfer import CHANGE, SPECIFIC, Changes
from scgpt_bench.figures.style import (
    FAINT,
    INK,
    SMALL,
    WIDTH,
    count,
    elided,
    hover,
    hover_cells,
    keep,
    lines_within,
    listed,
    literal,
    metric_label,
    new_figure,
    require,
    say,
    styled,
    text_length,
)
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, group_of

ALL = "all"
NAMED = 40  # genes of a scatter that say their names
MOST_INTERVALS = 6  # columns; more leave no room for two numbers
_UNIT = "log1p expression"


@styled
def scores_by_context(
    scores: pd.DataFrame, metric: str, held_out: Mapping[str, Mapping[str, str]], kinds: Mapping[str, str]
) -> Figure:
    """Draw methods x contexts that were held out, with the mean score and its interval as numbers.

    Parameters
    ----------
    scores
        The rows of ``scores.tsv`` of one data set.
    metric
        Identifier of the metric to draw.
    held_out
        The context that each split holds out, by the name under which these splits are pooled; a panel for each name.
        Where they are pooled, ``all`` is the first column.
    kinds
        The kind of each method.
    """
    require(scores, ["dataset", "split", "context", "method", "metric", "mean", "ci_low", "ci_high"], "scores")
    shown = scores[(scores["metric"] == metric) & (scores["context"] == ALL_CONTEXTS)]
    tables = {}
    for name, context_of in held_out.items():
        part = shown[shown["split"].isin([name, *context_of])]
        if len(part):
            tables[name] = part.assign(column=part["split"].map({name: ALL, **context_of}))
    require(pd.concat([*tables.values(), shown.head(0)]), ["split"], f"scores of {metric} in contexts")
    columns = [*dict.fromkeys(column for table in tables.values() for column in table["column"])]
    columns = [column for column in (ALL, *sorted({*columns} - {ALL})) if column in columns]
    better = 1 if metric_of(metric).higher_is_better else -1
    ends = (0.0, 1.0) if better > 0 else (0.0, float(max(table["mean"].max() for table in tables.values())))
    heights = [0.3 * table["method"].nunique() for table in tables.values()]
    figure = new_figure(
        WIDTH,
        1.5 + sum(heights) + 0.6 * len(tables),
        f"{shown['dataset'].iloc[0]}: {metric} in contexts that were held out",
        "Mean over the conditions of a context, best method on top; below, its 95 % interval. First column: over all "
        "contexts. Grey: not run, or no score. A panel for what training had of the context or of its perturbations.",
    )
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    best = []
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        wide = {
            key: table.pivot_table(index="method", columns="column", values=key, dropna=False).reindex(columns=columns)
            for key in ("mean", "ci_low", "ci_high")
        }
        order = (-better * wide["mean"].mean(axis=1)).sort_values(kind="stable").index
        mean, low, high = (wide[key].reindex(order).to_numpy(float) for key in ("mean", "ci_low", "ci_high"))
        cells, decimals = np.stack([mean, low, high], axis=2), _decimals(mean)
        texts = [[_with_interval(cell, decimals, len(columns)) for cell in row] for row in cells]
        _heatmap(axes, mean, texts, [literal(elided(name)) for name in order], columns, *ends[::better])
        full = [[_in_words(cell, decimals) for cell in row] for row in cells]
        hover_cells(axes, order, columns, full)
        axes.set_title(literal(name), loc="left", fontsize=SMALL, fontweight="bold")
        of_all = wide["mean"][columns[0]].reindex(
            [method for method in order if group_of(kinds[method]) != BENCHMARK_CONTROL]
        )
        if of_all.notna().any():
            first = of_all.idxmax() if better > 0 else of_all.idxmin()
            best.append(f"{first} {of_all[first]:.{decimals}f} ({name})")
    figure.supylabel("")
    axes.set_xlabel(f"{metric_label(metric)}; {'higher' if better > 0 else 'lower'} is better")
    say(figure, f"Best method over all contexts, benchmark controls aside: {'; '.join(best) or 'none'}.")
    keep(figure, pd.concat(tables.values(), ignore_index=True).drop(columns="column"))
    return figure


def _decimals(values: np.ndarray) -> int:
    """Count the decimals that show two digits of the largest value; two at least."""
    largest = np.nanmax(np.abs(values), initial=0.0)
    return max(2, 1 - int(np.floor(np.log10(largest)))) if largest > 0 else 2


def _in_words(score: np.ndarray, decimals: int) -> str:
    """Write a mean and its interval for the pointer, where there is always room."""
    mean, low, high = score
    if not np.isfinite(mean):
        return "no score"
    known = np.isfinite(low) and np.isfinite(high)
    return f"{mean:.{decimals}f}" + (f" (95 % interval {low:.{decimals}f} to {high:.{decimals}f})" if known else "")


def _with_interval(score: np.ndarray, decimals: int, columns: int) -> str:
    """Write a mean and, where there is room and they are known, the ends of its interval."""
    mean, low, high = np.round(score, decimals) + 0.0  # no -0.00
    if not np.isfinite(mean):
        return ""
    interval = np.isfinite(low) and np.isfinite(high) and columns <= MOST_INTERVALS
    return f"{mean:.{decimals}f}" + (f"\n{low:.{decimals}f} to {high:.{decimals}f}" if interval else "")


def _nothing_to_compare(transfer: pd.DataFrame, title: str) -> Figure:
    figure = new_figure(WIDTH, 0.8, title, "No perturbation was measured in two contexts.")
    say(figure, "No perturbation was measured in two contexts.")
    keep(figure, transfer)
    return figure


@styled
def transfer_heatmap(transfer: pd.DataFrame, title: str) -> Figure:
    """Draw contexts x contexts: how far measured changes carry over, noise taken out; the median over perturbations.

    Parameters
    ----------
    transfer
        The table of :func:`scgpt_bench.evaluation.transfer.transfer`.
    title
        Whose changes.
    """
    require(transfer, ["context", "other_context", "what", "corrected"], "transfer", or_empty=True)
    if transfer.empty:
        return _nothing_to_compare(transfer, title)
    contexts = sorted({*transfer["context"], *transfer["other_context"]})
    place = {context: number for number, context in enumerate(contexts)}
    names = [literal(elided(context, 16)) for context in contexts]
    figure = new_figure(
        WIDTH,
        1.7 + max(0.42 * len(contexts), 1.2) + 0.8 * text_length(names, SMALL),
        title,
        "Median over perturbations of the correlation between a perturbation's measured changes in two contexts, noise "
        "taken out; below, how many are reliable in both. 1: a change carries over whole. Grey: none is reliable. "
        "It is what the noise-free change of one context scores against that of another.",
    )
    found = []
    for axes, what in zip(figure.subplots(1, 2), (CHANGE, SPECIFIC), strict=True):
        values, texts = np.full((len(contexts),) * 2, np.nan), [["" for _ in contexts] for _ in contexts]
        for (one, other), part in transfer[transfer["what"] == what].groupby(["context", "other_context"]):
            known = part["corrected"].notna().sum()
            median = part["corrected"].median() if known else np.nan
            for row, column in ((place[one], place[other]), (place[other], place[one])):
                values[row, column] = median
                texts[row][column] = f"{median:.2f}\n{known}" if known else "0"
            if known:
                found.append(f"{what} {one} and {other}: {median:.2f} ({known} of {len(part)})")
        full = [[text.replace("\n", ", reliable in both: ") for text in row] for row in texts]
        hover_cells(axes, contexts, contexts, full)
        _heatmap(axes, values, texts, names if what == CHANGE else [""] * len(names), names, 0.0, 1.0)
        axes.set_title("whole change" if what == CHANGE else "what is specific of it", loc="left", fontsize=SMALL)
        if max(map(len, names)) * len(names) > 24:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
    say(
        figure,
        f"Correlation, noise taken out: {listed(found, 12)}."
        if found
        else "No perturbation has a reliable change in two contexts.",
    )
    keep(figure, transfer)
    return figure


@styled
def carried_over(measured: Changes, transfer: pd.DataFrame, genes: Sequence[str], title: str, number: int) -> Figure:
    """Draw the measured change of a perturbation in one context against that in another, one panel a perturbation.

    Those with the largest changes come first, each between the two contexts in which it is most reliable, if there are
    two in which it has the same direction.

    Parameters
    ----------
    measured, transfer
        Changes, and what :func:`scgpt_bench.evaluation.transfer.transfer` says of them.
    genes
        Names of the columns of the changes.
    title
        Whose changes.
    number
        Of panels, at most.
    """
    columns = ["perturbation", "context", "other_context", "what", "correlation", "corrected"]
    require(transfer, columns, "transfer", or_empty=True)
    if transfer.empty:
        return _nothing_to_compare(transfer, title)
    rows = {(c.perturbation, c.context): row for row, c in enumerate(measured.conditions)}
    pairs = transfer[transfer["what"] == CHANGE]
    reliable = pairs[["reliability", "other_reliability"]].min(axis=1).fillna(-1)
    ends = [zip(pairs["perturbation"], pairs[side], strict=True) for side in ("context", "other_context")]
    directions = [[measured.directions[rows[key]] for key in side] for side in ends]
    alike = np.equal(*map(np.array, directions))
    pairs = pairs.assign(alike=alike, least=reliable)
    pairs = pairs.sort_values(["alike", "least"], ascending=False, kind="stable")
    pairs = pairs.drop_duplicates("perturbation")
    lengths = np.linalg.norm(measured.whole, axis=1)
    sides = [zip(pairs["perturbation"], pairs[side], strict=True) for side in ("context", "other_context")]
    sizes = np.min([[lengths[rows[key]] for key in side] for side in sides], axis=0)
    pairs = pairs.assign(size=sizes).sort_values(["alike", "size"], ascending=False, kind="stable").head(number)
    across = min(3, len(pairs))
    down = -(-len(pairs) // across)
    figure = new_figure(
        WIDTH,
        0.9 + 2.45 * down,
        f"{title}: {count(len(pairs), 'perturbation')}",
        f"One dot a gene, targets left out; large: the {NAMED} that change most. Dotted: the same change in both "
        "contexts. r: Pearson correlation; in brackets, noise taken out, where both changes are reliable.",
    )
    panels, found, numbers = figure.subplots(down, across, squeeze=False).ravel(), [], []
    for axes, pair in zip(panels, pairs.itertuples(), strict=False):
        one, other = (rows[pair.perturbation, side] for side in (pair.context, pair.other_context))
        counted = measured.counted[one]
        corrected = f" ({pair.corrected:.2f})" if np.isfinite(pair.corrected) else ""
        text = f"r = {round(pair.correlation, 2) + 0.0:.2f}{corrected}"
        points = pd.DataFrame(
            {
                "perturbation": pair.perturbation,
                "gene": np.asarray(genes, dtype=object)[counted],
                "context": pair.context,
                "change": measured.whole[one][counted].round(4),
                "other_context": pair.other_context,
                "change_there": measured.whole[other][counted].round(4),
            }
        )
        _scatter(axes, points)
        numbers.append(points)
        axes.set_title(f"{lines_within(elided(pair.perturbation, 40), WIDTH / 3 - 0.5, SMALL)}\n{text}", fontsize=SMALL)
        axes.set_xlabel(lines_within(f"in {elided(pair.context, 20)}", WIDTH / 3 - 0.5, SMALL), fontsize=SMALL)
        axes.set_ylabel(lines_within(f"in {elided(pair.other_context, 20)}", 1.6, SMALL), fontsize=SMALL)
        found.append(f"{pair.perturbation} in {pair.context} and {pair.other_context}: {text}")
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    figure.supylabel(f"measured change ({_UNIT})", fontsize=8)
    say(figure, f"{'; '.join(found)}.")
    keep(figure, pd.concat(numbers, ignore_index=True))
    return figure


def _scatter(axes: Axes, points: pd.DataFrame) -> None:
    """Draw a dot a gene; those with the largest changes say their names."""
    one, other = points["change"].to_numpy(), points["change_there"].to_numpy()
    limit = 1.1 * max(np.abs(one).max(), np.abs(other).max(), 1e-6)
    axes.axline((0, 0), slope=1, color=INK, linewidth=0.6, linestyle=":")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.plot(one, other, ".", color="#0072b2", markersize=3, markeredgewidth=0, alpha=0.6, rasterized=True)
    strongest = points.iloc[np.argsort(-np.maximum(np.abs(one), np.abs(other)), kind="stable")[:NAMED]]
    (dots,) = axes.plot(
        strongest["change"], strongest["change_there"], "o", color="#0072b2", markersize=2.5, markeredgewidth=0
    )
    hover(dots, [f"{gene.gene}: {gene.change:+.3f} and {gene.change_there:+.3f}" for gene in strongest.itertuples()])
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.locator_params(nbins=4)


def _heatmap(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
) -> None:
    """Draw values from white (``low`` and beyond) to blue (``high`` and beyond), each with its text; grey: no value."""
    share = np.clip((values - low) / (high - low if high != low else 1.0), 0, 1)
    axes.set_facecolor("#ececec")
    axes.pcolormesh(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=1.25, edgecolors="white", linewidth=1)
    for row, own in enumerate(texts):
        for column, text in enumerate(own):
            colour = "white" if np.nan_to_num(share[row, column]) > 0.75 else INK
            place = {"ha": "center", "va": "center", "fontsize": SMALL - 1.0, "linespacing": 1.0}
            axes.text(column + 0.5, row + 0.5, text, color=colour, **place)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [literal(elided(name, 16)) for name in columns])
    axes.tick_params(axis="both", length=0)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
