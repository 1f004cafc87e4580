"""Which files of a 10x folder are read: Cell Ranger, STARsolo, GEO and people name and nest them in many ways.

Only the standard library is imported, because every parse of the workflow asks for the files of local folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scgpt_bench.errors import InputError

PARTS = {"matrix": ("matrix.mtx",), "features": ("features.tsv", "genes.tsv"), "barcodes": ("barcodes.tsv",)}
CALLS = "protospacer_calls_per_cell.csv"
REFERENCE = "feature_reference.csv"
_PART_OF = {name: part for part, names in PARTS.items() for name in names}
_NAME = re.compile(rf"(.*?)({'|'.join(map(re.escape, (*_PART_OF, CALLS, REFERENCE)))})(?:\.gz)?", re.IGNORECASE)
_FILTERED, _RAW = (re.compile(rf"(?:^|_){word}(?:_|$)", re.IGNORECASE) for word in ("filtered", "raw"))


@dataclass(frozen=True)
class TenxFiles:
    """The files of one matrix, by their names in the folder or zip.

    Attributes
    ----------
    calls, reference
        Cell Ranger's table of guide calls and its feature reference, where they lie in the folder.
    passed_over
        Unfiltered matrices beside this one.
    """

    matrix: str
    features: str
    barcodes: str
    calls: str | None
    reference: str | None
    passed_over: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """List every file that is read."""
        return [name for name in (self.matrix, self.features, self.barcodes, self.calls, self.reference) if name]


def choose(names: Iterable[str], path: str | Path) -> TenxFiles:
    """Find the files of the one matrix among ``names``, paths below ``path``: at any depth, with any prefix or ``.gz``.

    Where there are filtered matrices, unfiltered ones (``raw_feature_bc_matrix``) are passed over.

    Raises
    ------
    InputError
        For a part that is missing or there twice, and for two matrices.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    tables: dict[str, list[tuple[tuple[str, str], str]]] = {CALLS: [], REFERENCE: []}
    for name in sorted(names):
        place = PurePosixPath(name)
        match = _NAME.fullmatch(place.name)
        if not match or any(part.startswith((".", "__MACOSX")) for part in place.parts):
            continue
        where, kind = (str(place.parent), match[1]), match[2].lower()
        if kind in tables:
            tables[kind].append((where, name))
        else:
            found.setdefault(where, {}).setdefault(_PART_OF[kind], []).append(name)
    complete = {where: parts for where, parts in found.items() if len(parts) == len(PARTS)}
    if not complete:
        _complain_of_parts(found, path)
    filtered = {where: parts for where, parts in complete.items() if _is(_FILTERED, where)}
    kept = {where: complete[where] for where in complete if where in filtered or not (filtered and _is(_RAW, where))}
    if len(kept) > 1:
        shown = ", ".join(parts["matrix"][0] for parts in kept.values())
        raise InputError(path, "matrix.mtx", f"{len(kept)} matrices: {shown}", "one, or the folder of one as address")
    where, parts = next(iter(kept.items()))
    for part, several in parts.items():
        if len(several) > 1:
            raise InputError(path, PARTS[part][0], " and ".join(map(repr, several)), "one of them")
    return TenxFiles(
        **{part: several[0] for part, several in parts.items()},
        calls=_table_of(where, tables[CALLS], CALLS, path),
        reference=_table_of(where, tables[REFERENCE], REFERENCE, path),
        passed_over=tuple(parts["matrix"][0] for other, parts in complete.items() if other not in kept),
    )


def _is(kind: re.Pattern, where: tuple[str, str]) -> bool:
    return any(kind.search(part) for part in (*PurePosixPath(where[0]).parts, where[1]))


def _complain_of_parts(found: dict[tuple[str, str], dict[str, list[str]]], path: str | Path) -> None:
    most = max(found.values(), key=len, default={})
    missing = next(part for part in PARTS if part not in most)
    beside = ", ".join(repr(name) for names in most.values() for name in names)
    expected = f"a file that ends in {' or '.join(PARTS[missing])} (or .gz) beside the others of its folder"
    raise InputError(path, PARTS[missing][0], "none" + (f" beside {beside}" if beside else ""), expected)


def _table_of(
    where: tuple[str, str], tables: list[tuple[tuple[str, str], str]], what: str, path: str | Path
) -> str | None:
    """Find the table beside the matrix, with its prefix; or else the only one."""
    candidates = [name for place, name in tables if place == where] or [name for _, name in tables]
    if len(candidates) > 1:
        raise InputError(path, what, " and ".join(map(repr, candidates)), "one of them")
    return candidates[0] if candidates else None


def names_below(folder: str | Path) -> list[str]:
    """List the files below a folder, as paths relative to it."""
    return [
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(parent, name).is_file()
    ]


def read_of_folder(folder: str | Path) -> list[Path]:
    """List the files of a folder that are read; none unless it has exactly one matrix (reading it says why)."""
    try:
        return [Path(folder, name) for name in choose(names_below(folder), folder).all]
    except InputError:
        return []
