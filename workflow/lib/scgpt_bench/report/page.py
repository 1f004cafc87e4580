"""One HTML file out of figures, tables and captions: opens offline, asks nothing of the network, runs no text as code.

Figures are SVG files, compressed, whose title and ``dc:description`` become the alternative text and the numbers of the
caption. Their ``dc:source`` is the table that they draw, if they carry it.
Tables are TSV files: the text itself is in the page, for sorting and searching (DataTables, from itables) and to be
saved unrounded. A content security policy in the page forbids every request, and every script but the page's own.
"""

from __future__ import annotations

import base64
import csv
import datetime
import gzip
import hashlib
import importlib.util
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import HEADLINE, metric_of
from scgpt_bench.figures.numbers import readable_time, small, written
from scgpt_bench.files import atomic_write
from scgpt_bench.methods.registry import KINDS, group_of

# One script, in this order: what is chosen in the address, what the choices leave, tables, figures, the view of one
# perturbation, and the page.
SCRIPTS = ("address.js", "choices.js", "tables.js", "figures.js", "drawings.js", "perturbations.js", "page.js")
# What a category is called in the menu, and over its page.
CATEGORIES = {
    "Verdict": "Is scGPT better than simple methods?",
    "Scores": "What does every method score?",
    "Pretraining": "Does pretraining help?",
    "Learning curves": "How many perturbations must be measured?",
    "Contexts": "Does it carry over to other contexts?",
    "Perturbations": "Which perturbations are predicted well?",
    "Predicted": "What is predicted that nobody measured?",
    "Data": "What was measured?",
    "Model": "What are the models, and how were they trained?",
    "Trust": "How far can scores and verdicts be trusted?",
    "Cost": "What did the run take?",
    "Provenance": "What does it take to repeat the run?",
}
CHOICES = ("dataset", "split", "context", "metric", "method")  # the columns by which a reader chooses rows
WITHOUT_BAR = ("ci_low", "ci_high", "p_value", "tolerance")
_SVG = "{http://www.w3.org/2000/svg}"
_DC = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Item:
    """One file of the report.

    Attributes
    ----------
    path
        An SVG figure, a TSV table, text (JSON, YAML), a piece of HTML (its headings from h4 down) whose writer escaped
        what had to be, or the view of a perturbation (:mod:`scgpt_bench.report.perturbations`).
    category, subcategory
        Where it stands; ``None`` for a subcategory that is no data set's.
    labels
        What tells it from its neighbours; ``figure`` or ``table`` is its heading.
    caption
        HTML (:func:`caption`).
    parts
        The files of each split, where tables of several splits are shown as one (:func:`joined`).
    """

    path: Path
    category: str
    subcategory: str | None
    labels: Mapping[str, str]
    caption: str
    parts: Mapping[str, Path] = field(default_factory=dict)


def in_order(items: Iterable[Item]) -> list[Item]:
    """Sort ``items`` by category (``CATEGORIES``); within one they keep their order."""

    def place(item: Item) -> int:
        if item.category not in CATEGORIES:
            raise InputError(
                item.path, "category of the report", repr(item.category), f"one of {', '.join(CATEGORIES)}"
            )
        return list(CATEGORIES).index(item.category)

    return sorted(items, key=place)


def joined(items: Iterable[Item]) -> list[Item]:
    """Make one item of tables that differ in their split alone, in the place of the first; it has a column ``split``.

    They must have the same columns.
    """
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for number, item in enumerate(items):
        if item.path.suffix == ".tsv" and "split" in item.labels:
            others = tuple(pair for pair in item.labels.items() if pair[0] != "split")
            with open(item.path, encoding="utf-8") as handle:
                key: tuple[Any, ...] = (item.category, item.subcategory, others, handle.readline())
        else:
            key = (number,)
        groups.setdefault(key, []).append(item)
    return [members[0] if len(members) == 1 else _of_splits(members) for members in groups.values()]


def _of_splits(members: Sequence[Item]) -> Item:
    first = members[0]
    labels = {name: text for name, text in first.labels.items() if name != "split"}
    return replace(first, labels=labels, parts={item.labels["split"]: item.path for item in members})


def caption(text: str, wildcards: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Return the HTML of a caption in reStructuredText, whose template Snakemake's own report fills in as well.

    Parameters
    ----------
    text
        May refer to ``snakemake.wildcards`` and ``snakemake.config``.
    wildcards
        Those of the rule that made the file.
    config
        The configuration of the run.
    """
    from docutils.core import publish_parts

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    filled = environment.from_string(text).render(snakemake={"wildcards": wildcards, "config": config})
    # Names in a caption are text: they include no file and no HTML.
    closed = {"file_insertion_enabled": False, "raw_enabled": False}
    return publish_parts(filled, writer="html", settings_overrides=closed)["body"]


def write(
    items: Sequence[Item],
    start: str,
    path: str | Path,
    made: datetime.datetime | None = None,
    kinds: Mapping[str, str] | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    pooled: Iterable[str] = (),
    without_pretraining: Iterable[str] = (),
) -> None:
    """Write the report.

    Parameters
    ----------
    items
        In the order in which they are shown. Tables without rows are left out, those of several splits joined.
    start
        HTML of the start page.
    path
        The file to write.
    made
        The time stamp, the only thing in which two reports of the same results differ; now, unless given.
    kinds
        The kind of each method by its name, for the selector of kinds of methods.
    answers
        HTML of the sentences with which a category opens, by its name.
    pooled
        Names under which splits are pooled: what is shown first where there are several splits.
    without_pretraining
        scGPT methods that are controls: another one is shown first.
    """
    categories: dict[str, dict[str | None, list[dict[str, object]]]] = {name: {} for name in CATEGORIES}
    for item in joined(items):
        shown = _shown(item)
        if shown.get("n_rows") != 0:  # a table without rows says nothing of this run
            categories[item.category].setdefault(item.subcategory, []).append(shown)
    script, style = data_tables()
    # In a block, names of the parts are known to each other and not to the window, which has a `valueOf` and others.
    parts = "\n".join((Path(__file__).parent / name).read_text() for name in SCRIPTS)
    own_script = f"'use strict';\n{{\n{parts}}}\n"
    stream = template("page.html").stream(
        start=Markup(start),
        categories={name: groups for name, groups in categories.items() if groups},
        titles=CATEGORIES,
        answers={name: list(map(Markup, sentences)) for name, sentences in (answers or {}).items()},
        made=(made or datetime.datetime.now().astimezone()).isoformat(sep=" ", timespec="seconds"),
        names=_names(
            kinds or {}, [shown for groups in categories.values() for items in groups.values() for shown in items]
        )
        | {"pooled": [*pooled], "without_pretraining": [*without_pretraining]},
        library=base64.b64encode(script).decode(),
        library_style=Markup(style),
        style=Markup((Path(__file__).parent / "page.css").read_text()),
        script=Markup(own_script),
        script_hash=base64.b64encode(hashlib.sha256(own_script.encode()).digest()).decode(),
    )
    stream.enable_buffering(64)
    with atomic_write(path) as partial, open(partial, "wb") as handle:
        stream.dump(handle, encoding="utf-8")


def _names(kinds: Mapping[str, str], items: Iterable[Mapping[str, Any]]) -> dict[str, object]:
    """Give the metric shown first, the group of every method, and what methods and metrics are, where it is known."""
    metrics = sorted({name for item in items for name in item.get("choices", {}).get("metric", [])})
    return {
        "headline": HEADLINE,
        "groups": {method: group_of(kind).name for method, kind in kinds.items()},
        "method": {method: _about_method(method, kind) for method, kind in kinds.items() if kind in KINDS},
        "metric": {name: about for name in metrics if (about := _about_metric(name))},
    }


def _about_method(method: str, kind: str) -> str:
    about = KINDS[kind]
    return f"{about.group.name}{'' if method == kind else f', a variant of {kind}'}: {about.description}"


def _about_metric(name: str) -> str:
    try:
        about = metric_of(name)
    except InputError:  # of a table of the user's
        return ""
    better = "Higher is better" if about.higher_is_better else "Lower is better"
    better = f"Best at {about.best_at}" if about.best_at else better
    return (
        f"{about.label}. {better}. Genes: {about.gene_set}. Compared with: {about.reference}. Source: {about.source}."
    )


def template(name: str) -> Template:
    """Load a template beside this module, which escapes everything that is put into it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(written=written, small=small, time=readable_time)
    return environment.get_template(name)


def data_tables() -> tuple[bytes, str]:
    """Script and style of DataTables, as itables ships them; itables itself, with its imports, is not needed."""
    package = importlib.util.find_spec("itables")
    if package is None or not package.origin:
        raise ModuleNotFoundError("itables: not installed")
    folder = Path(package.origin).parent / "html"
    return (folder / "dt_bundle.js").read_bytes(), (folder / "dt_bundle.css").read_text()


def _shown(item: Item) -> dict[str, object]:
    """Give what the template needs of an item."""
    kinds = {".svg": _figure, ".tsv": _table_of, ".gz": _view, ".json": _text, ".yaml": _text, ".html": _piece}
    if item.path.suffix not in kinds:
        raise InputError(item.path, "suffix", repr(item.path.suffix), f"one of {', '.join(kinds)}")
    labels = dict(item.labels)
    heading = labels.pop("figure", None) or labels.pop("table", None) or item.path.name
    return {
        "id": hashlib.sha256(str(item.path).encode()).hexdigest()[:12],
        "file": _file(item),
        "heading": heading,
        "labels": labels,
        "caption": Markup(item.caption),
        **(_table(_joined_text(item.parts)) if item.parts else kinds[item.path.suffix](item.path)),
    }


def _file(item: Item) -> str:
    """Name the file of an item; those of several splits by a pattern."""
    first = next(iter(item.parts), None)
    folders = ["*" if folder == first else folder for folder in item.path.parts]
    return str(Path(*folders))


def _joined_text(parts: Mapping[str, Path]) -> str:
    """Write the tables of splits as one, with ``split`` as the second column."""
    joined = io.StringIO(newline="")
    writer = csv.writer(joined, delimiter="\t", lineterminator="\n")
    for number, (split, path) in enumerate(parts.items()):
        with open(path, encoding="utf-8", newline="") as handle:
            header, *rows = csv.reader(handle, delimiter="\t")
        if not number:
            writer.writerow([header[0], "split", *header[1:]])
        writer.writerows([row[0], split, *row[1:]] for row in rows)
    return joined.getvalue()


def _figure(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    root = ElementTree.fromstring(content)
    size = [float(root.attrib[side].removesuffix("pt")) for side in ("width", "height")]
    title = root.findtext(f"{_SVG}title", "")
    findings = next((element.text or "" for element in root.iter(f"{_DC}description")), "")
    saved = {"svg": "Save as SVG", "png": "Save as PNG"}
    if root.find(f".//{_DC}source") is not None:
        saved["tsv"] = "Save its numbers"
    return {
        "kind": "figure",
        "saved": saved,
        "source": base64.b64encode(gzip.compress(content, mtime=0)).decode(),
        "width": size[0],
        "height": size[1],
        "findings": findings,
        "alternative": ". ".join(part.rstrip(".") for part in (title or path.name, findings) if part) + ".",
    }


def _table(text: str) -> dict[str, object]:
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    kinds = [_kind(name, [row[column] for row in rows if row[column]]) for column, name in enumerate(header)]
    choices = {name: list({row[i]: None for row in rows}) for i, name in enumerate(header) if name in CHOICES}
    shown = {"columns": header, "kinds": kinds, "choices": choices, "n_rows": len(rows)}
    return {"kind": "table", "saved": {"tsv": "Save the table"}, "text": text, **shown}


def _table_of(path: Path) -> dict[str, object]:
    return _table(path.read_text(encoding="utf-8"))


def _kind(name: str, cells: Sequence[str]) -> str:
    """``text``, ``number``, or ``bar``: a number that is worth a bar behind it."""
    if not all(map(_is_number, cells)):
        return "text"
    return "number" if name in WITHOUT_BAR or all(float(cell).is_integer() for cell in cells) else "bar"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _view(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    conditions = json.loads(gzip.decompress(content))["conditions"]
    return {
        "kind": "view",
        "largest": max((condition["size"] for condition in conditions), default=0),
        "saved": {"json": "Save its numbers"},
        "source": base64.b64encode(content).decode(),
    }


def _text(path: Path) -> dict[str, object]:
    return {"kind": "text", "saved": {path.suffix[1:]: "Save the file"}, "text": path.read_text(encoding="utf-8")}


def _piece(path: Path) -> dict[str, object]:
    return {"kind": "piece", "saved": {}, "text": Markup(path.read_text(encoding="utf-8"))}
