"""One style for every figure: colours of methods, names from data, titles, and files with stable bytes."""

from __future__ import annotations

import functools
import itertools
import json
import re
import textwrap
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from scgpt_bench import files
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import metric_of
from scgpt_bench.methods.registry import GROUPS, KINDS, group_of

WIDTH = 7.2  # inches: the text width of a printed page
INK = "#222222"
FAINT = "#d9d9d9"
SMALL = 7.0  # points
LINE_CHARACTERS = 40

# Text stays text in the SVG (searchable, small). DejaVu Sans comes with matplotlib, so that the layout is computed
# from the same widths on every machine; Verdana, which a browser takes where DejaVu is absent, is about as wide.
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "scgpt-bench",
}
_HOVER, _CELLS, _BETWEEN = "hover: ", "cells: ", "\N{SYMBOL FOR UNIT SEPARATOR}"
_POINT = re.compile(r"(<use [^>]*?)/>")
_TABLES: weakref.WeakKeyDictionary[Figure, pd.DataFrame] = weakref.WeakKeyDictionary()
styled = mpl.rc_context(STYLE)  # as a decorator: the style holds inside the function, and nowhere else


class MethodStyle(NamedTuple):
    """How a method looks in every figure."""

    group: str
    colour: str
    marker: str
    line: str
    fill: str  # which part of the marker, as matplotlib has it


_FILLS, _LINES = ("left", "bottom", "right", "top"), ("--", ":", "-.")  # of variants


def method_style(method: str, kind: str | None = None, kinds: Mapping[str, str] | None = None) -> MethodStyle:
    """Give the style of a method: the colour of its kind in the registry.

    A method that is not called like its kind is a variant of it: half of its marker is filled, and its line is broken.
    A kind without a colour of its own, as predictions that another program made, takes one of its group's spare ones.

    Parameters
    ----------
    method
        Its name in the configuration.
    kind
        What it is; its name, unless given.
    kinds
        The kind of each method of the configuration: variants of one kind differ by their place in it.
    """
    kind = kind or method
    group = group_of(kind)
    known = kinds or {method: kind}
    if not (kind in KINDS and KINDS[kind].colour):
        foreign = [name for name, its in known.items() if not (its in KINDS and KINDS[its].colour)]
        place = foreign.index(method) if method in foreign else 0
        colour = group.spare_colours[place % len(group.spare_colours)]
        return MethodStyle(group.name, colour, group.marker, group.line, "full")
    if method == kind:
        return MethodStyle(group.name, KINDS[kind].colour, group.marker, group.line, "full")
    variants = [name for name, its in known.items() if its == kind and name != kind]
    place = variants.index(method) if method in variants else 0
    fill, line = _FILLS[place % len(_FILLS)], _LINES[place % len(_LINES)]
    return MethodStyle(group.name, KINDS[kind].colour, group.marker, line, fill)


def group_handles(methods: Iterable[str], kinds: Mapping[str, str], hollow: Collection[str] = ()) -> list[Line2D]:
    """Legend entries for what occurs among ``methods``: their groups, variants, and those without pretraining.

    Parameters
    ----------
    hollow
        The methods without pretraining, whose markers are empty.
    """
    methods = [*methods]
    styles = {method: method_style(method, kinds.get(method), kinds) for method in methods}
    present = {style.group for style in styles.values()}
    handles = [
        Line2D([], [], linestyle="", marker=group.marker, color=group.colour, markersize=5, label=group.name)
        for group in GROUPS
        if group.name in present
    ]
    of_any = {"linestyle": "", "marker": "o", "color": "#777777", "markersize": 5}
    if any(style.fill != "full" for method, style in styles.items() if method not in hollow):
        look = {"fillstyle": _FILLS[0], "markerfacecoloralt": "white"}
        handles.append(Line2D([], [], label="half filled: variant, colour of its kind", **of_any, **look))
    if {*methods} & {*hollow}:
        handles.append(Line2D([], [], label="hollow: without pretraining", markerfacecolor="white", **of_any))
    return handles


def metric_label(metric: str) -> str:
    """Write the metric in words, with its unit and its gene set; an official scorer's metric keeps its own name."""
    return literal(metric_of(metric).label)


def literal(name: object) -> str:
    """``name`` as text that matplotlib draws as it stands: no mathematics, nothing that XML cannot hold."""
    return _printable(str(name)).replace("$", r"\$")


def _printable(text: str, besides: str = "") -> str:
    """Replace what XML cannot hold, and all else that is no printed character, but for ``besides``."""
    return "".join(c if c.isprintable() or c in besides else "\N{REPLACEMENT CHARACTER}" for c in text)


def wrapped(name: object, characters: int = LINE_CHARACTERS) -> str:
    """``name`` in full, on lines of at most ``characters``; beyond three lines its middle is left out."""
    lines = textwrap.wrap(elided(name, 3 * characters - 8), characters) or [""]
    return "\n".join(literal(line) for line in lines)


def elided(name: object, characters: int = 24) -> str:
    """``name`` with its middle left out where it is longer than ``characters`` (not yet ``literal``)."""
    text = str(name)
    if len(text) <= characters:
        return text
    head = (characters - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (characters - 1 - head) :]}"


def names_that_fit(names: Sequence[str], points_each: float, size: float) -> list[str] | None:
    """Labels for consecutive ticks ``points_each`` apart: in full, else on one line, else ``None``."""
    line = 1.2 * size
    if line > points_each:
        return None
    full = [wrapped(name) for name in names]
    if max(_lines(label) for label in full) * line <= points_each:
        return full
    return [literal(elided(name)) for name in names]


def text_length(labels: Iterable[str], size: float) -> float:
    """Inches that the longest line of ``labels`` takes."""
    return max((_points(line, size) for label in labels for line in label.split("\n")), default=0.0) / 72


def lines_within(text: str, inches: float, size: float, weight: str = "normal", most: int = 200) -> str:
    """``text`` on as few lines as fit ``inches``, ``literal``."""
    whole = _points(text, size, weight)
    if whole > 72 * inches:  # no line can hold many more characters than its share of the text: spares trying them
        most = min(most, int(1.5 * len(text) * 72 * inches / whole) // 2 * 2 + 6)
    for characters in range(most, 4, -2):
        lines = textwrap.wrap(text, characters, break_on_hyphens=False) or [""]
        if max(_points(line, size, weight) for line in lines) <= 72 * inches:
            break
    return "\n".join(literal(line) for line in lines)


@functools.lru_cache(maxsize=10_000)  # the figures of a job share names and notes
def _points(line: str, size: float, weight: str = "normal") -> float:
    font = FontProperties(family=["DejaVu Sans"], size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]


def rows_height(names: Iterable[str], row: float = 0.24) -> float:
    """Inches for one row of ``row`` inches per name, higher where names take several lines."""
    names = [wrapped(name) for name in names]
    return len(names) * max(row, max(_lines(name) for name in names) * 1.25 * SMALL / 72)


def _lines(label: str) -> int:
    return label.count("\n") + 1


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """One named row per entry, the first on top."""
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def legend_above(axes: Axes, columns: int, handles: Sequence[Artist] | None = None) -> None:
    """Draw a legend between the title of the figure and the left end of the axes."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0.2, "handletextpad": 0.4}
    axes.legend(**({} if handles is None else {"handles": handles}), ncols=columns, **place)


def beside_row(axes: Axes, row: float, text: str, **properties: object) -> None:
    """Write ``text`` to the right of the axes, at the height of ``row``."""
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL, **properties)


def new_figure(width: float, height: float, title: str, note: str, constrained: bool = True) -> Figure:
    """Make a figure of ``width`` x ``height`` inches with its title above and, below, what one must know to read it."""
    figure = Figure(figsize=(width, height), layout="constrained" if constrained else None)
    if constrained:
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    heading = lines_within(title, width - 0.2, 9, "bold")
    heading = figure.suptitle(heading, x=0.01, ha="left", fontsize=9, fontweight="bold")
    below = lines_within(note, width - 0.2, SMALL)
    below = figure.supxlabel(below, x=0.01, ha="left", fontsize=SMALL, color="#555555")
    if not constrained:
        heading.set(y=1 - 0.08 / height, va="top")
        below.set(y=0.06 / height, va="bottom")
    return figure


def say(figure: Figure, findings: str) -> None:
    """Keep with ``figure`` what it shows in this run, in words: part of the caption and of the alternative text."""
    figure.set_label("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in findings))


def hover(artist: Artist, texts: str | Sequence[str]) -> None:
    """Have the SVG show ``texts`` where the mouse rests on ``artist``: one text, or one for each of its points.

    Points are markers of a line, or two or more of a scatter. An artist of which not all points are drawn shows no
    text, nor does one that is rasterized.
    """
    texts = [texts] if isinstance(texts, str) else texts
    artist.set_gid(_HOVER + _BETWEEN.join("".join(c if c.isprintable() else " " for c in text) for text in texts))


def hover_cells(
    axes: Axes, rows: Iterable[str], columns: Iterable[str], texts: Sequence[Sequence[str]], start: float = 0.0
) -> None:
    """Have the report show the text of a cell of a heat map where the mouse rests on it: one element for all of them.

    Parameters
    ----------
    axes
        Rows and columns of its heat map are 1 wide, the first row on top.
    rows, columns
        Names of the cells, which are part of what is shown.
    texts
        [rows][columns]; of an empty one the name alone is shown.
    start
        Where the first cell begins: 0 of a mesh, -0.5 of an image.
    """
    names = [[_printable(str(name)) for name in part] for part in (rows, columns)]
    cells = {"rows": names[0], "columns": names[1], "texts": [[_printable(text) for text in row] for row in texts]}
    # All but nothing to see, and a place for the mouse.
    place = Rectangle((start, start), len(names[1]), len(names[0]), alpha=0.004, linewidth=0, zorder=10)
    axes.add_patch(place).set_gid(_CELLS + json.dumps(cells, ensure_ascii=False))


def keep(figure: Figure, table: pd.DataFrame) -> None:
    """Have the SVG carry the numbers that ``figure`` shows, for the reader to save."""
    _TABLES[figure] = table


def listed(names: Sequence[str], most: int = 8) -> str:
    """Write ``a, b, c and 4 more``."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def count(number: int, noun: str) -> str:
    """``1 cell``, ``1,234 cells``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def count_range(numbers: Iterable[int], noun: str) -> str:
    """``25 perturbations``, or ``20 to 25 perturbations`` where rows differ."""
    low, high = min(numbers), max(numbers)
    return count(int(high), noun) if low == high else f"{int(low):,} to {count(int(high), noun)}"


def require(table: pd.DataFrame, columns: Sequence[str], name: str, or_empty: bool = False) -> None:
    """Refuse a table without one of ``columns``, or without rows (unless it may be empty)."""
    for column in columns:
        if column not in table.columns:
            found = ", ".join(map(str, table.columns)) or "no column"
            raise InputError(name, f"column {column!r}", found, f"the columns {', '.join(columns)}")
    if table.empty and not or_empty:
        raise InputError(name, "rows", "none", "at least one row to draw")


@styled
def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` to ``path`` (``.svg`` or ``.png``), whole or not at all, the same bytes for the same figure.

    The SVG carries the figure's title as its accessible name, what was said of it (:func:`say`) as description, the
    numbers that it shows (:func:`keep`) as source, and what its marks say (:func:`hover`) as their titles. What the
    cells of a heat map say (:func:`hover_cells`) is an attribute, which the report reads.

    Raises
    ------
    InputError
        For another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".svg":
        title = figure.get_suptitle().replace("\n", " ").replace(r"\$", "$")
        metadata = {"Date": None, "Creator": "scgpt-bench", "Title": title, "Description": figure.get_label()}
        if figure in _TABLES:
            metadata["Source"] = _printable(_TABLES[figure].to_csv(sep="\t", index=False, lineterminator="\n"), "\t\n")
    elif suffix == ".png":
        metadata = {"Software": None}
    else:
        raise InputError(path, "suffix", repr(suffix), ".svg or .png")
    if figure.get_layout_engine() is not None:
        # A constrained layout moves a little with every drawing; it is computed once for all files of a figure.
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")
    with files.atomic_write(path) as partial:
        figure.savefig(partial, format=suffix[1:], metadata=metadata)
        if suffix == ".svg":
            partial.write_text(_with_titles(partial.read_text(encoding="utf-8")), encoding="utf-8")


def _with_titles(svg: str) -> str:
    """Turn the names that :func:`hover` gave to groups of ``svg`` into titles of these, or of the points in them."""
    number = itertools.count()

    def titled(group: re.Match) -> str:
        texts, content = group[2].split(_BETWEEN), group[3]
        head = f'<g id="hover_{next(number)}">'
        if len(texts) == 1:
            return f"{head}<title>{texts[0]}</title>{content}"
        of_points = iter(texts)
        if len(re.findall(_POINT, content)) != len(texts):
            return head + content
        return head + re.sub(_POINT, lambda point: f"{point[1]}><title>{next(of_points)}</title></use>", content)

    def of_cells(group: re.Match) -> str:
        return f'<g id="hover_{next(number)}" data-cells={group[1]}{group[2]}{group[1]}>'

    svg = re.sub(rf"<g id=([\"']){_CELLS}(.*?)\1>", of_cells, svg, flags=re.DOTALL)
    return re.sub(rf"<g id=([\"']){_HOVER}(.*?)\1>(.*?)(?=<g id=|\Z)", titled, svg, flags=re.DOTALL)
