"""Which data sets, checkpoints and gene vectors are known: one row per version of a data set or file of the others.

The tables are tab-separated, without quotes; an empty cell or a missing column means that the thing does not exist.
Lines that are too short or too long are errors, which pandas would fill up or skip.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from scgpt_bench.data.names import CONTROL, JOINED_BY, UNSTATED, within
from scgpt_bench.errors import InputError

GENERATED = "generated"
JOINED = "joined"
WITH_LAYERS = ("h5ad", "h5mu", "zip_h5ad", "gz_h5ad")
UNKNOWN = "unknown"
UNVERIFIED = "unverified"
FORMATS = {  # and the suffix of their files
    "h5ad": "h5ad",
    "h5mu": "h5mu",
    "zip_h5ad": "zip",
    "gz_h5ad": "h5ad.gz",
    "10x_h5": "h5",
    "10x_mtx": "zip",
    "sceptre_rda": "rda",
    GENERATED: "h5ad",
}
CHECKED = "address checked"
STATUSES = ("tried", CHECKED, UNVERIFIED)
VALUES = ("counts", "log1p")
MIXED = "mixed"
DIRECTION_OF_KIND = {"knock-out": "down", "interference": "down", "activation": "up"}
PERTURBATION_KINDS = (*DIRECTION_OF_KIND, MIXED)
# What a direction_column may say, in any case and without hyphens, underscores and spaces.
DIRECTIONS = {
    **dict.fromkeys(("down", "interference", "knockdown", "knockout", "crispri", "crisprko"), "down"),
    **dict.fromkeys(("up", "activation", "overexpression", "crispra"), "up"),
}
CHECKPOINT_FILES = ("best_model.pt", "args.json", "vocab.json")
GENE_INFO = "gene_info.csv"  # the Ensembl identifiers of the symbols; a checkpoint may come without
FOLDER = "folder"
VECTOR_SUFFIXES = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".parquet", ".h5ad", ".txt")  # of files of gene vectors
GRAPH_SUFFIXES = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".tar.gz")  # of graphs of genes
_SUFFIXES = tuple(dict.fromkeys(VECTOR_SUFFIXES + GRAPH_SUFFIXES))
CHECKPOINTS = "resources/checkpoints"  # where runs keep downloaded ones, relative to their folder

_SHA256 = r"[0-9a-f]{64}"
_NAMES = r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAMES_IN_WORDS = "letters, digits, '_', '-' and single '.', beginning with a letter or digit"
_OF_JOINED = f"{JOINED}:"  # how the address of a joined data set begins; the names of its parts follow
# What a joined row may say of itself. All else is known of its parts, or of the form of cells.h5ad.
_COLUMNS_OF_JOINED = ("name", "version", "series", "address", "format", "target_sum", "status", "licence", "citation")
_NOT_OF_JOINED = ("values", "perturbation_column", "control_label", "perturbation_kind")  # needed in all other rows
_OF_PERTURBED = (  # what only a row of perturbed cells can say
    *("control_label", "excluded_label", "direction_column", "guide_column", "guide_table"),
    *("combination_separator", "guide_prefix", "guide_suffix"),
)
_NUMBERS_OF = ("cells", "genes", "perturbations")  # about how many a drop has
_PATTERNS = {  # what the cells of a column look like, where they are not empty; and the same in words
    "name": (_NAMES, _NAMES_IN_WORDS),
    "series": (_NAMES, _NAMES_IN_WORDS),
    "address": (
        r"(https?://|(?!.*://)).*",
        f"a URL that begins with https://, a local path, {GENERATED!r}, or {_OF_JOINED!r} and rows of this table",
    ),
    "md5": (r"[0-9a-f]{32}", "32 hexadecimal digits in lower case, or nothing"),
    **dict.fromkeys(("bytes", *_NUMBERS_OF), (r"[1-9][0-9]*", "a positive whole number")),
}
_CHOICES: dict[str, Collection[str]] = {
    "format": (*FORMATS, JOINED),
    "values": VALUES,
    "perturbation_kind": PERTURBATION_KINDS,
    "status": STATUSES,
    "file": (*CHECKPOINT_FILES, GENE_INFO, FOLDER),
}


@dataclass(frozen=True)
class Dataset:
    """One data drop: where it is and how to read it.

    Attributes
    ----------
    address
        A URL, a local path (relative to the folder in which the workflow runs), ``generated``, or ``joined:a,b``: the
        cells of other rows in one. Columns of a joined one are those of cells.h5ad.
    series
        The versions of one data set share it, the later row being the newer version; its own name unless given.
        Random draws depend on it: versions are divided and drawn alike.
    sha256
        64 hexadecimal digits; None for generated data, for a local path with ``unknown`` in its row, and for a URL
        with ``unverified``: its first download is recorded, and no later one may differ.
    md5
        The checksum that the source publishes, where it publishes no SHA-256.
    bytes
        Size of the file; lets a mirror be searched without hashing it.
    cells, genes, perturbations
        About how many the file has. Memory and time of jobs are planned by them, and nothing else depends on them.
    layer
        Layer that is read in place of X, of the formats :data:`WITH_LAYERS`.
    values
        What X, or the layer, contains: raw ``counts``, or ``log1p`` of counts scaled to ``target_sum`` per cell.
    target_sum
        Counts per cell to which cells.h5ad is scaled.
    perturbation_column
        Column of ``obs`` with each cell's perturbation; None where nothing is perturbed: all cells are control cells.
    control_label
        Labels of control cells, spelled as in the file, several joined by ``|``.
    excluded_label
        Labels of cells that are left out (doublets, no guide called), several joined by ``|``; ``nan`` is an empty one.
    guide_table
        Local file of guide calls, for formats without them: ``cell_barcode``, ``feature_call`` (as 10x writes it).
    combination_separator
        What joins the genes of a combination in the file's labels; None: there are no combinations.
    guide_prefix, guide_suffix
        Regular expressions of what a guide's name has before and after its gene, such as ``sg`` and ``_\\d+$``. They
        are cut from each part of a combination.
    context_column
        Column of ``obs`` with what are different experiments in one: cell line, donor, or data set of a joined one.
        Several are joined by ``|``, and so are their values, by ``.``: a cell line under a stimulus.
    contexts
        The names of all contexts, joined by ``|``: what a study has to know before there is a cell to hold out each.
    perturbation_kind
        ``knock-out``, ``interference``, ``activation``, or ``mixed`` where one file has several kinds.
    direction_column
        Column of ``obs`` with the direction of each cell's perturbation (:data:`DIRECTIONS`), where kinds are mixed.
    status
        ``tried``: a file with this content was run here. ``address checked``: not run, but its address gave what the
        row says (:mod:`check_addresses`). ``unverified``: the row was written from what others report.
    """

    name: str
    address: str
    format: str
    values: str
    target_sum: float
    perturbation_column: str | None
    control_label: str
    perturbation_kind: str
    version: str | None = None
    series: str = ""
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None
    cells: int | None = None
    genes: int | None = None
    perturbations: int | None = None
    layer: str | None = None
    excluded_label: str | None = None
    guide_table: str | None = None
    batch_column: str | None = None
    cell_type_column: str | None = None
    context_column: str | None = None
    contexts: str | None = None
    direction_column: str | None = None
    guide_column: str | None = None
    gene_symbol_column: str | None = None
    combination_separator: str | None = None
    guide_prefix: str | None = None
    guide_suffix: str | None = None
    status: str = UNVERIFIED
    licence: str | None = None
    citation: str | None = None

    def __post_init__(self) -> None:
        if not self.series:
            object.__setattr__(self, "series", self.name)

    @property
    def excluded_labels(self) -> tuple[str, ...]:
        """List the labels of cells that are left out."""
        return tuple(self.excluded_label.split("|")) if self.excluded_label else ()

    @property
    def control_labels(self) -> tuple[str, ...]:
        """List the labels of control cells."""
        return tuple(self.control_label.split("|"))

    @property
    def context_columns(self) -> tuple[str, ...]:
        """List the columns whose values make a context; none where all cells are one."""
        return tuple(self.context_column.split("|")) if self.context_column else ()

    @property
    def declared_contexts(self) -> tuple[str, ...]:
        """List the contexts; none where the row does not name them."""
        return tuple(self.contexts.split("|")) if self.contexts else ()

    @property
    def parts(self) -> tuple[str, ...]:
        """List the data sets that are joined in this one; none for a drop."""
        return tuple(self.address.removeprefix(_OF_JOINED).split(",")) if self.format == JOINED else ()

    @property
    def is_local(self) -> bool:
        """Return whether the address is a file of this machine."""
        return self.format not in (GENERATED, JOINED) and not is_remote(self.address)

    @property
    def suffix(self) -> str:
        """Return how the name of a file of this format ends, without the dot."""
        return FORMATS[self.format]

    def file(self, checksum: str) -> str:
        """Return where runs keep the download or copy with this checksum, relative to their folder.

        All studies share it: a row of the same name with another checksum is another file.
        """
        return f"resources/datasets/{self.name}/{checksum}/source.{self.suffix}"

    def name_of(self, path: str | Path) -> str:
        """Name the file at ``path`` as its user knows it: a local path, or where a download came from."""
        return self.address if self.is_local else f"{path} (from {self.address})"

    @property
    def row(self) -> dict[str, Any]:
        """Return plain values by column; ``Dataset(**row)`` is this data set again."""
        return asdict(self)

    @property
    def how_to_read(self) -> dict[str, Any]:
        """Return :attr:`row` without what changes no cell: where the file came from, and what is for people."""
        without = ("version", "series", "sha256", "md5", "bytes", *_NUMBERS_OF, "status", "licence", "citation")
        kept = {column: value for column, value in self.row.items() if column not in without}
        return {**kept, "address": self.address if self.parts else self.name}


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint folder: its address, SHA-256 and size in bytes.

    ``corpus`` says of weights, or of a folder, what they were pretrained on, as their source says; ``status`` is as in
    :class:`Dataset`.
    """

    name: str
    file: str
    address: str
    sha256: str
    bytes: int
    licence: str | None = None
    source: str | None = None
    corpus: str | None = None
    status: str = UNVERIFIED

    @property
    def row(self) -> dict[str, Any]:
        """Return plain values by column."""
        return asdict(self)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint.

    Attributes
    ----------
    files
        By name: ``best_model.pt``, ``args.json``, ``vocab.json`` and, where there is one, ``gene_info.csv``. Empty
        where only a folder is published, without fixed addresses and checksums of its files.
    folder
        The address of that folder, which a person has to download.
    corpus
        What it was pretrained on, as its source says; None where none says.
    status
        As in :class:`Dataset`, of the folder; each file has its own.
    """

    name: str
    files: dict[str, CheckpointFile]
    folder: str | None = None
    corpus: str | None = None
    status: str = UNVERIFIED

    def folder_of(self, file: str) -> str:
        """Return where runs keep this file, relative to their folder; all studies share it.

        The three files that are read as one checkpoint lie together, by the checksum of their checksums. The folder
        itself has the checkpoint's name, by which results call it.
        """
        checksum = self.files[file].sha256
        if file in CHECKPOINT_FILES:
            together = "".join(self.files[name].sha256 for name in CHECKPOINT_FILES)
            checksum = hashlib.sha256(together.encode()).hexdigest()
        return f"{CHECKPOINTS}/{checksum}/{self.name}"


@dataclass(frozen=True)
class VectorFile:
    """A public file of gene vectors, as :mod:`data.gene_vectors` reads it, or a graph of genes.

    Attributes
    ----------
    address
        A URL. Where it does not end in the name of the file, ``#`` and the name follow, which no server is sent.
    sha256
        64 hexadecimal digits; None for ``unverified``: the first download is recorded, and no later one may differ.
    md5
        The checksum that the source publishes, where it publishes no SHA-256.
    source
        What was learned from what, and where that is published.
    made_from
        Rows of the data-set table whose cells it was made from, joined by ``|``; None where nobody knows.
    status
        As in :class:`Dataset`.
    """

    name: str
    address: str
    sha256: str | None
    licence: str
    source: str
    md5: str | None = None
    bytes: int | None = None
    made_from: str | None = None
    status: str = UNVERIFIED

    @property
    def is_local(self) -> bool:
        """Return whether the address is a file of this machine; no row of the table has one."""
        return not is_remote(self.address)

    def file(self, checksum: str) -> str:
        """Return where runs keep the download with this checksum, relative to their folder; all studies share it."""
        return f"resources/vectors/{self.name}/{checksum}/{_name_of_file(self.address)}"


def read_datasets(path: str | Path) -> dict[str, Dataset]:
    """Read the data sets of a table, by name, in the order of its rows.

    Raises
    ------
    InputError
        At the first cell that is wrong, naming its line and column.
    """
    datasets: dict[str, Dataset] = {}
    rows = [*_rows(path, Dataset, may_be_empty=_NOT_OF_JOINED)]
    for row in rows:
        name = row.text("name")
        if name in datasets:
            raise row.error("name", repr(name) + " a second time", "every name once")
        if row.cells["format"] == JOINED:
            datasets[name] = _joined(row)
            continue
        unperturbed = row.cells["perturbation_column"] is None
        for column in _OF_PERTURBED if unperturbed else ():
            if row.cells[column] is not None:
                expected = "an empty cell, or the column of each cell's perturbation in perturbation_column"
                raise row.error(column, repr(row.cells[column]), expected)
        for column in _NOT_OF_JOINED:
            if not (unperturbed and column in ("perturbation_column", "control_label")):
                row.text(column)
        cells: dict[str, Any] = {
            **row.cells,
            "target_sum": _positive(row, "target_sum"),
            **{column: row.number(column) for column in ("bytes", *_NUMBERS_OF)},
            "sha256": _dataset_sha256(row),
            "status": row.cells["status"] or UNVERIFIED,
            "control_label": CONTROL if unperturbed else _labels(row, "control_label"),
            "excluded_label": _labels(row, "excluded_label"),
            "contexts": _labels(row, "contexts"),
            "guide_prefix": _regular_expression(row, "guide_prefix"),
            "guide_suffix": _regular_expression(row, "guide_suffix"),
        }
        dataset = Dataset(**cells)
        if unperturbed and dataset.perturbation_kind == MIXED:
            raise row.error("perturbation_kind", repr(MIXED), "one kind, for cells without perturbations")
        if (dataset.perturbation_kind == MIXED) != bool(dataset.direction_column):
            found = (
                f"{dataset.direction_column or 'an empty cell'!r} with perturbation_kind {dataset.perturbation_kind!r}"
            )
            expected = f"a column of obs with down and up where the kind is {MIXED!r}, and only there"
            raise row.error("direction_column", found, expected)
        if dataset.layer and dataset.format not in WITH_LAYERS:
            raise row.error("layer", repr(dataset.layer), f"an empty cell in format {dataset.format!r}")
        if dataset.contexts and not dataset.context_column:
            raise row.error("contexts", repr(dataset.contexts), "an empty cell where there is no context_column")
        if len({*dataset.declared_contexts}) < len(dataset.declared_contexts):
            raise row.error("contexts", repr(dataset.contexts), "every context once")
        both = sorted({*dataset.control_labels} & {*dataset.excluded_labels})
        if both:
            raise row.error("excluded_label", f"{both[0]!r}, which control_label has too", "labels of other cells")
        datasets[name] = dataset
    for row in rows:
        if datasets[row.text("name")].parts:
            _check_parts(row, datasets)
            datasets[row.text("name")] = _with_parts(datasets[row.text("name")], datasets)
    return datasets


def _joined(row: _Row) -> Dataset:
    """Make the data set of a joined row: what cells.h5ad has in which column; what depends on its parts is still open.

    Raises
    ------
    InputError
        For a cell that only a drop has.
    """
    for column, value in row.cells.items():
        if value is not None and column not in _COLUMNS_OF_JOINED:
            raise row.error(column, repr(value), f"an empty cell: a {JOINED} data set has what its parts have")
    if not row.text("address").startswith(_OF_JOINED):
        expected = f"{_OF_JOINED!r} and the names of rows with commas between, since the format is {JOINED!r}"
        raise row.error("address", repr(row.text("address")), expected)
    parts = ",".join(part.strip() for part in row.text("address").removeprefix(_OF_JOINED).split(","))
    cells: dict[str, Any] = {
        **{column: row.cells[column] for column in _COLUMNS_OF_JOINED},
        "address": _OF_JOINED + parts,
        "target_sum": _positive(row, "target_sum"),
        "status": row.cells["status"] or UNVERIFIED,
        **{f"{column}_column": column for column in ("perturbation", "context", "batch", "cell_type")},
        "combination_separator": JOINED_BY,
    }
    return Dataset(**cells, control_label=CONTROL, values="", perturbation_kind="")


def _check_parts(row: _Row, datasets: Mapping[str, Dataset]) -> None:
    parts = datasets[row.text("name")].parts
    for part in parts:
        if part not in datasets or datasets[part].parts:
            found = f"{part!r}, " + ("which is joined itself" if part in datasets else "which is no row of this table")
            raise row.error("address", found, f"{_OF_JOINED!r} and the names of drops with commas between")
        if parts.count(part) > 1:
            raise row.error("address", f"{part!r} twice", "every part once: its cells would count twice")
    if len(parts) < 2:
        raise row.error("address", f"{parts[0]!r} alone", "two parts or more, with commas between")


def _with_parts(joined: Dataset, datasets: Mapping[str, Dataset]) -> Dataset:
    """Fill in what a joined data set has of its parts: counts if all have them, contexts, the kind that all share."""
    parts = [datasets[part] for part in joined.parts]
    kinds = {part.perturbation_kind for part in parts}
    kind = MIXED if len(kinds) > 1 else kinds.pop()
    contexts = [
        within(part.name, context)
        for part in parts
        for context in (part.declared_contexts if part.context_column else (UNSTATED,))
    ]
    known = all(part.contexts or not part.context_column for part in parts)
    return replace(
        joined,
        values="counts" if all(part.values == "counts" for part in parts) else "log1p",
        perturbation_kind=kind,
        direction_column="direction" if kind == MIXED else None,
        contexts="|".join(contexts) if known else None,
    )


def read_checkpoints(path: str | Path) -> dict[str, PublishedCheckpoint]:
    """Read the checkpoints of a table, by name, in the order of its rows.

    Raises
    ------
    InputError
        At the first cell that is wrong, or for a checkpoint that has neither the three files nor a folder.
    """
    checkpoints: dict[str, PublishedCheckpoint] = {}
    for row in _rows(path, CheckpointFile, may_be_empty=("sha256", "bytes")):
        name, file = row.text("name"), row.text("file")
        if file == FOLDER:
            if name in checkpoints:
                raise row.error("file", f"{FOLDER!r} beside other rows of {name!r}", "files, or one folder")
            status = row.cells["status"] or UNVERIFIED
            checkpoints[name] = PublishedCheckpoint(name, {}, row.text("address"), row.cells["corpus"], status)
            continue
        files = checkpoints.setdefault(name, PublishedCheckpoint(name, {})).files
        if checkpoints[name].folder is not None:
            raise row.error("file", f"{file!r} beside {FOLDER!r} of {name!r}", "files, or one folder")
        if file in files:
            raise row.error("file", f"{file!r} of {name!r} a second time", "every file once")
        if not re.fullmatch(_SHA256, row.text("sha256")):
            raise row.error("sha256", repr(row.text("sha256")), "64 hexadecimal digits in lower case")
        row.text("bytes")
        entry: dict[str, Any] = {**row.cells, "bytes": row.number("bytes"), "status": row.cells["status"] or UNVERIFIED}
        files[file] = CheckpointFile(**entry)
        if row.cells["corpus"]:
            checkpoints[name] = replace(checkpoints[name], corpus=row.cells["corpus"])
    for name, checkpoint in checkpoints.items():
        missing = [file for file in CHECKPOINT_FILES if file not in checkpoint.files]
        if missing and checkpoint.folder is None:
            raise InputError(path, f"checkpoint {name!r}", "no row for " + ", ".join(missing), "a row per file")
    return checkpoints


def read_vector_files(path: str | Path) -> dict[str, VectorFile]:
    """Read the public gene vectors of a table, by name, in the order of its rows.

    Raises
    ------
    InputError
        At the first cell that is wrong, naming its line and column.
    """
    vectors: dict[str, VectorFile] = {}
    for row in _rows(path, VectorFile):
        name, address = row.text("name"), row.text("address")
        if name in vectors:
            raise row.error("name", repr(name) + " a second time", "every name once")
        file = _name_of_file(address)
        if not (is_remote(address) and file.endswith(_SUFFIXES) and re.fullmatch(_NAMES, file)):
            expected = "a URL of a file that ends in " + ", ".join(_SUFFIXES)
            raise row.error("address", repr(address), expected)
        entry: dict[str, Any] = {
            **row.cells,
            "bytes": row.number("bytes"),
            "sha256": _sha256_or(row, UNVERIFIED),
            "status": row.cells["status"] or UNVERIFIED,
        }
        vectors[name] = VectorFile(**entry)
    return vectors


def _name_of_file(address: str) -> str:
    parts = urlparse(address)
    return PurePosixPath(parts.fragment or parts.path).name


@dataclass(frozen=True)
class _Row:
    """A line of a table: its cells by column (None where empty) and how to complain about them."""

    source: str
    line: int
    cells: dict[str, str | None]

    def error(self, column: str, found: str, expected: str) -> InputError:
        name = self.cells.get("name")
        return InputError(self.source, f"line {self.line} ({name}), column {column!r}", found, expected)

    def text(self, column: str) -> str:
        value = self.cells[column]
        if value is None:
            raise self.error(column, "an empty cell", "a value")
        return value

    def number(self, column: str) -> int | None:
        value = self.cells[column]
        return None if value is None else int(value)

    def check(self) -> None:
        """Refuse the first cell that does not look as those of its column do."""
        for column, value in self.cells.items():
            if value is None:
                continue
            if column in _CHOICES and value not in _CHOICES[column]:
                raise self.error(column, repr(value), "one of " + ", ".join(_CHOICES[column]))
            if column in _PATTERNS and not re.fullmatch(_PATTERNS[column][0], value):
                raise self.error(column, repr(value), _PATTERNS[column][1])
            if column == "address":
                try:
                    urlparse(value)
                except ValueError as error:  # half a pair of brackets, say
                    raise self.error(column, f"{value!r}: {error}", "a path or an address") from None


def _rows(path: str | Path, form: type, may_be_empty: Collection[str] = ()) -> Iterator[_Row]:
    """Read a table whose columns are the fields of a dataclass: a row for each line that is not empty.

    The table needs a column for each field without a default, and no cell of it is empty, except in columns that
    ``may_be_empty``.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "table", str(error), "a readable tab-separated table") from None
    table = [*csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    header, columns = table[0] if table else [], [field.name for field in fields(form)]
    required = [field.name for field in fields(form) if field.default is MISSING]
    for problem, names in {
        "missing": [name for name in required if name not in header],
        "unknown": [name for name in header if name not in columns],
        "repeated": sorted({name for name in header if header.count(name) > 1}),
    }.items():
        if names:
            found = f"{problem} column " + ", ".join(map(repr, names))
            raise InputError(path, "line 1", found, "the columns " + " ".join(columns))
    for line, cells in enumerate(table[1:], start=2):
        if not cells:
            continue
        if len(cells) != len(header):
            expected = f"{len(header)}, one per column, tabs between"
            raise InputError(path, f"line {line}", f"{len(cells)} cells", expected)
        # A cell of spaces is empty, except for the separator: a space may join the genes of a combination.
        named = {
            column: " " if (column, cell) == ("combination_separator", " ") else cell.strip() or None
            for column, cell in zip(header, cells, strict=True)
        }
        row = _Row(str(path), line, dict.fromkeys(columns) | named)
        for column in required:
            if column not in may_be_empty:
                row.text(column)
        row.check()
        yield row


def is_remote(address: str) -> bool:
    """Return whether an address is fetched over HTTP; plain HTTP is safe, because the checksum decides."""
    return address.startswith(("https://", "http://"))


def _dataset_sha256(row: _Row) -> str | None:
    """Return the checksum of a data set's file, or None where the row says why there is none.

    Generated data have none (an empty cell). ``unknown`` is allowed for a local path, whose file is at hand, and
    ``unverified`` for a URL that nobody has downloaded here.
    """
    address, form, found = row.text("address"), row.text("format"), row.cells["sha256"]
    if address.startswith(_OF_JOINED):
        raise row.error("format", f"{form!r} with address {address!r}", f"{JOINED!r} in both or none")
    if (address == GENERATED) != (form == GENERATED):
        raise row.error("format", f"{form!r} with address {address!r}", f"{GENERATED!r} in both or none")
    if address == GENERATED:
        if found is not None:
            raise row.error("sha256", repr(found), "an empty cell: generated data have no fixed checksum")
        return None
    return _sha256_or(row, UNVERIFIED if is_remote(address) else UNKNOWN)


def _sha256_or(row: _Row, instead: str) -> str | None:
    """Return the checksum of a row; None where it says ``instead``."""
    found = row.cells["sha256"]
    if found == instead:
        return None
    if found is None or not re.fullmatch(_SHA256, found):
        raise row.error("sha256", repr(found), f"64 hexadecimal digits in lower case, or {instead!r}")
    return found


def _positive(row: _Row, column: str) -> float:
    try:
        number = float(row.text(column))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise row.error(column, repr(row.cells[column]), "a positive number")
    return number


def _labels(row: _Row, column: str) -> str | None:
    if row.cells[column] is None:
        return None
    labels = [label.strip() for label in row.text(column).split("|")]
    if not all(labels):
        raise row.error(column, repr(row.text(column)), "labels joined by '|', none empty")
    return "|".join(labels)


def _regular_expression(row: _Row, column: str) -> str | None:
    try:
        re.compile(rf"\A(?:{row.cells[column] or ''})")  # as it is used: flags inside would not be at its start
    except re.error as error:
        raise row.error(column, f"{row.cells[column]!r} ({error})", "a regular expression") from None
    return row.cells[column]
