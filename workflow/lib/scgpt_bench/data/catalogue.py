"""Which data sets and checkpoints are known: one row per data drop, one row per file of a checkpoint.

Both tables are tab-separated, without quotes; an empty cell means that the thing does not exist. A table is valid as a
whole before anything is downloaded. Only the standard library is imported, because every parse of the workflow reads
the tables.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scgpt_bench.errors import InputError

GENERATED = "generated"
UNKNOWN = "unknown"
FORMATS = {"h5ad": "h5ad", "sceptre_rda": "rda", GENERATED: "h5ad"}  # and the suffix of their files
VALUES = ("counts", "log1p")
PERTURBATION_KINDS = ("knock-out", "interference", "activation", "mixed")
CHECKPOINT_FILES = ("best_model.pt", "args.json", "vocab.json")
FOLDER = "folder"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REQUIRED = (
    "name",
    "address",
    "format",
    "values",
    "target_sum",
    "perturbation_column",
    "control_label",
    "perturbation_kind",
)


@dataclass(frozen=True)
class Dataset:
    """One data drop: where it is and how to read it.

    Attributes
    ----------
    address
        A URL, a local path (relative to the folder in which the workflow runs), or ``generated``.
    sha256
        64 hexadecimal digits; None for generated data and for a local path whose row says ``unknown``.
    bytes
        Size of the file; lets a mirror be searched without hashing it.
    values
        What X holds: raw ``counts``, or ``log1p`` of counts scaled to ``target_sum`` per cell.
    target_sum
        Counts per cell to which cells.h5ad is scaled.
    control_label
        Labels of control cells as they stand in the file, several joined by ``|``.
    combination_separator
        What joins the genes of a combination in the file's labels; None: there are no combinations.
    guide_suffix
        Regular expression of what distinguishes the guides of one gene at the end of a label, such as ``g\\d+$``.
    perturbation_kind
        ``knock-out``, ``interference``, ``activation``, or ``mixed`` where one file holds several kinds.
    """

    name: str
    address: str
    format: str
    values: str
    target_sum: float
    perturbation_column: str
    control_label: str
    perturbation_kind: str
    version: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    batch_column: str | None = None
    cell_type_column: str | None = None
    guide_column: str | None = None
    gene_symbol_column: str | None = None
    combination_separator: str | None = None
    guide_suffix: str | None = None
    licence: str | None = None
    citation: str | None = None

    @property
    def control_labels(self) -> tuple[str, ...]:
        """Every label that means: a control cell."""
        return tuple(self.control_label.split("|"))

    @property
    def is_local(self) -> bool:
        """Whether the address is a file of this machine."""
        return self.address != GENERATED and not is_remote(self.address)

    @property
    def suffix(self) -> str:
        """How the name of a file of this format ends, without the dot."""
        return FORMATS[self.format]

    @property
    def row(self) -> dict[str, Any]:
        """Plain values by column; ``Dataset(**row)`` is this data set again."""
        return asdict(self)


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint folder: its address, SHA-256 and size in bytes."""

    name: str
    file: str
    address: str
    sha256: str
    bytes: int
    licence: str | None = None
    source: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """Plain values by column."""
        return asdict(self)


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    Attributes
    ----------
    files
        By name: ``best_model.pt``, ``args.json``, ``vocab.json``. Empty where only a folder is published, whose files
        have neither fixed addresses nor checksums.
    folder
        The address of that folder, which a person has to download.
    """

    name: str
    files: dict[str, CheckpointFile]
    folder: str | None = None


def read_datasets(path: str | Path) -> dict[str, Dataset]:
    """The data sets of a table, by name, in the order of its rows.

    Raises
    ------
    InputError
        At the first cell that is wrong, naming its line and column.
    """
    datasets: dict[str, Dataset] = {}
    for row in _rows(path, [field.name for field in fields(Dataset)]):
        for column in _REQUIRED:
            row.text(column)
        name = _name(row)
        if name in datasets:
            raise row.error("name", repr(name) + " a second time", "every name once")
        cells: dict[str, Any] = {
            **row.cells,
            "format": row.one_of("format", FORMATS),
            "values": row.one_of("values", VALUES),
            "perturbation_kind": row.one_of("perturbation_kind", PERTURBATION_KINDS),
            "target_sum": _positive(row, "target_sum"),
            "bytes": _size(row),
            "sha256": _dataset_sha256(row),
            "control_label": _control_label(row),
            "guide_suffix": _regular_expression(row, "guide_suffix"),
        }
        datasets[name] = Dataset(**cells)
    return datasets


def read_checkpoints(path: str | Path) -> dict[str, Checkpoint]:
    """The checkpoints of a table, by name, in the order of its rows.

    Raises
    ------
    InputError
        At the first cell that is wrong, or for a checkpoint that has neither the three files nor a folder.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for row in _rows(path, [field.name for field in fields(CheckpointFile)]):
        name, file = _name(row), row.one_of("file", (*CHECKPOINT_FILES, FOLDER))
        if file == FOLDER:
            if name in checkpoints:
                raise row.error("file", f"{FOLDER!r} beside other rows of {name!r}", "files, or one folder")
            checkpoints[name] = Checkpoint(name, {}, _address(row))
            continue
        files = checkpoints.setdefault(name, Checkpoint(name, {})).files
        if file in files:
            raise row.error("file", f"{file!r} of {name!r} a second time", "every file once")
        address = _address(row)
        if not _SHA256.fullmatch(row.text("sha256")):
            raise row.error("sha256", repr(row.text("sha256")), "64 hexadecimal digits in lower case")
        row.text("bytes")
        entry: dict[str, Any] = {**row.cells, "address": address, "bytes": _size(row)}
        files[file] = CheckpointFile(**entry)
    for name, checkpoint in checkpoints.items():
        missing = [file for file in CHECKPOINT_FILES if file not in checkpoint.files]
        if missing and checkpoint.folder is None:
            raise InputError(path, f"checkpoint {name!r}", "no row for " + ", ".join(missing), "a row per file")
    return checkpoints


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

    def one_of(self, column: str, known: Iterable[str]) -> str:
        value = self.text(column)
        if value not in known:
            raise self.error(column, repr(value), "one of " + ", ".join(known))
        return value


def _rows(path: str | Path, columns: list[str]) -> list[_Row]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "table", str(error), "a readable tab-separated table") from None
    table = [*csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    header = table[0] if table else []
    for problem, names in {
        "missing": [name for name in columns if name not in header],
        "unknown": [name for name in header if name not in columns],
        "repeated": sorted({name for name in header if header.count(name) > 1}),
    }.items():
        if names:
            found = f"{problem} column " + ", ".join(map(repr, names))
            raise InputError(path, "line 1", found, "the columns " + " ".join(columns))
    rows = []
    for line, cells in enumerate(table[1:], start=2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise InputError(
                path, f"line {line}", f"{len(cells)} cells", f"{len(header)}, one per column, tabs between"
            )
        stripped = [cell.strip() or None for cell in cells]
        rows.append(_Row(str(path), line, dict(zip(header, stripped, strict=True))))
    return rows


def _name(row: _Row) -> str:
    name = row.text("name")
    if not _NAME.fullmatch(name) or ".." in name:
        raise row.error(
            "name", repr(name), "letters, digits, '_', '-' and single '.', beginning with a letter or digit"
        )
    return name


def _address(row: _Row) -> str:
    address = row.text("address")
    if "://" in address and not is_remote(address):
        raise row.error("address", repr(address), f"a URL that begins with https://, a local path, or {GENERATED!r}")
    return address


def is_remote(address: str) -> bool:
    """Whether an address is fetched over HTTP; plain HTTP is safe, because the checksum decides."""
    return address.startswith(("https://", "http://"))


def _dataset_sha256(row: _Row) -> str | None:
    """A checksum, except for generated data (empty) and for a local path, whose file is at hand (``unknown``)."""
    address, found = _address(row), row.cells["sha256"]
    if (address == GENERATED) != (row.cells["format"] == GENERATED):
        raise row.error("format", f"{row.cells['format']!r} with address {address!r}", f"{GENERATED!r} in both or none")
    if address == GENERATED:
        if found is not None:
            raise row.error("sha256", repr(found), "an empty cell: generated data have no fixed checksum")
        return None
    if found == UNKNOWN and not is_remote(address):
        return None
    if found is None or not _SHA256.fullmatch(found):
        instead = "" if is_remote(address) else f", or {UNKNOWN!r}"
        raise row.error("sha256", repr(found), f"64 hexadecimal digits in lower case{instead}")
    return found


def _positive(row: _Row, column: str) -> float:
    try:
        number = float(row.text(column))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise row.error(column, repr(row.cells[column]), "a positive number")
    return number


def _size(row: _Row) -> int | None:
    size = row.cells["bytes"]
    if size is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]*", size):
        raise row.error("bytes", repr(size), "a positive whole number")
    return int(size)


def _control_label(row: _Row) -> str:
    labels = [label.strip() for label in row.text("control_label").split("|")]
    if not all(labels):
        raise row.error("control_label", repr(row.text("control_label")), "labels joined by '|', none empty")
    return "|".join(labels)


def _regular_expression(row: _Row, column: str) -> str | None:
    pattern = row.cells[column]
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise row.error(column, f"{pattern!r} ({error})", "a regular expression") from None
    return pattern
