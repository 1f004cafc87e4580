"""Read feature-barcode matrices of 10x, and which guide each cell has and which gene that targets."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.data import tenx_files
from scgpt_bench.data.labels import JOINED_LABELS_BY
from scgpt_bench.data.on_disk import numbers
from scgpt_bench.errors import InputError

READER_NOTES = "scgpt_bench_reader"
TARGETS = "scgpt_bench_targets"
GUIDES = "CRISPR Guide Capture"
GENES = "Gene Expression"
_NO_TARGET = {"", "none", "ignore", "nan", "na"}  # what Cell Ranger takes for no target


@dataclass
class Features:
    """The rows of a matrix; ``kinds`` are ``Gene Expression`` where the file has none, ``targets`` those of guides."""

    ids: list[str]
    names: list[str]
    kinds: list[str]
    targets: dict[str, str] = field(default_factory=dict)


def read_10x_h5(
    path: Path, guide_table: str | None = None, minimum_guide_umis: int = 5, minimum_guide_share: float = 0.8
) -> anndata.AnnData:
    """Read a feature-barcode matrix of 10x Cell Ranger (HDF5; version 2 as well) into memory.

    Guides come from ``guide_table`` (Cell Ranger's protospacer_calls_per_cell.csv) or, without one, from the counts of
    the features of type CRISPR Guide Capture, as in :func:`readers.read_sceptre_rda`. Their targets are the column
    ``target_gene_name`` of the features, where there is one. Cells without a guide are left out.

    Returns
    -------
    cells x features of raw UMI counts. obs: ``guide``, several joined by ``|``, and where targets are known ``target``
    and ``guide_name`` (the guide, whatever the reference says of it). var: ``gene_ids``, ``feature_types``.
    """
    check_guide_calling(path, minimum_guide_umis, minimum_guide_share)
    try:
        with h5py.File(path) as file:
            counts, features, barcodes = _h5_matrix(path, file)
    except InputError:
        raise
    except Exception as error:  # h5py raises a dozen types for a broken file
        raise InputError(path, "file", files.first_line(error), "an HDF5 matrix of 10x") from None
    calls = _calls_in_file(guide_table) if guide_table else None
    notes = {"guide_reference": "target_gene_name"} if features.targets else {}
    return _with_guides(path, counts, features, barcodes, calls, minimum_guide_umis, minimum_guide_share, notes)


def _h5_matrix(path: Path, file: h5py.File) -> tuple[sparse.csr_matrix, Features, list[str]]:
    genomes = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    genomes = [name for name in genomes if isinstance(file[name], h5py.Group) and "gene_names" in file[name]]
    if "matrix" not in file and len(genomes) > 1:
        raise InputError(path, "genomes", ", ".join(map(repr, genomes)), "the cells of one genome")
    where = "matrix" if "matrix" in file else genomes[0] if genomes else ""
    if not where:
        raise InputError(path, "file", "no group 'matrix'", "an HDF5 matrix of 10x")
    files.refuse_other_files(path, file, set(), [where])
    group = file[where]
    if "features" in group:
        table = group["features"]
        ids, names = _texts(table["id"]), _texts(table["name"])
        kinds = _texts(table["feature_type"]) if "feature_type" in table else [GENES] * len(ids)
        features = Features(ids, names, kinds)
        columns = {name: _texts(table[name]) for name in ("target_gene_name", "target_gene_id") if name in table}
        if columns:
            features.targets = _targets(
                path, pd.DataFrame({"id": ids, "name": names, "feature_type": kinds, **columns}), features
            )
    else:
        ids, names = _texts(group["genes"]), _texts(group["gene_names"])
        features = Features(ids, names, [GENES] * len(ids))
    barcodes = _texts(group["barcodes"])
    data = group["data"][:]
    if data.dtype.kind not in "biuf":
        raise InputError(path, f"{where}/data", f"values of type {data.dtype}", "numbers")
    shape = (len(barcodes), len(features.ids))
    try:
        # Columns of features x cells are rows of cells x features.
        counts = files.validate_sparse(
            sparse.csr_matrix((numbers(data), group["indices"][:], group["indptr"][:]), shape=shape)
        )
    except ValueError as error:
        raise InputError(path, where, files.first_line(error), "a valid sparse matrix") from None
    return counts, features, barcodes


def _texts(stored: h5py.Dataset) -> list[str]:
    return [*stored.asstr()[:]]


def read_10x_mtx(
    path: Path, guide_table: str | None = None, minimum_guide_umis: int = 5, minimum_guide_share: float = 0.8
) -> anndata.AnnData:
    """Read a folder with matrix.mtx, features.tsv and barcodes.tsv, or a zip of one, into memory.

    The files may be gzipped or not, have a prefix, lie at any depth and be of any version (genes.tsv): see
    :func:`tenx_files.choose`. Guides as in :func:`read_10x_h5`; the call table may lie in the folder, under the name
    that Cell Ranger gives it, and so may ``feature_reference.csv``, whose ``target_gene_name`` are the targets.
    """
    check_guide_calling(path, minimum_guide_umis, minimum_guide_share)
    with _folder(path) as (names, opened):
        chosen = tenx_files.choose(names, path)
        features = _features(path, chosen.features, _lines(path, opened, chosen.features))
        barcodes = [line.split("\t")[0].strip('"') for line in _lines(path, opened, chosen.barcodes)]
        counts = _mtx(path, chosen.matrix, opened, (len(features.ids), len(barcodes)))
        notes: dict[str, Any] = {"matrix": chosen.matrix}
        if chosen.passed_over:
            notes["passed_over"] = ", ".join(chosen.passed_over)
        if chosen.reference:
            notes["guide_reference"] = chosen.reference
            text = "\n".join(_lines(path, opened, chosen.reference))
            features.targets = _targets(path, _csv(path, chosen.reference, text), features)
        calls = _calls_in_file(guide_table) if guide_table else None
        if calls is None and chosen.calls:
            calls = _calls(path, chosen.calls, "\n".join(_lines(path, opened, chosen.calls)))
    return _with_guides(path, counts, features, barcodes, calls, minimum_guide_umis, minimum_guide_share, notes)


@contextmanager
def _folder(path: Path) -> Iterator[tuple[list[str], Callable[[str], IO[bytes]]]]:
    """Yield the names of the files of a folder or zip, and the function that opens one."""
    if path.is_dir():
        yield tenx_files.names_below(path), lambda name: (path / name).open("rb")
        return
    with open_zip(path) as archive:
        yield archive.namelist(), archive.open


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip for reading.

    Raises
    ------
    InputError
        For a file that is not a zip.
    """
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(path, "file", str(error), "a zip") from None


@contextmanager
def _open_uncompressed(path: Path, opened: Callable[[str], IO[bytes]], name: str) -> Iterator[IO[bytes]]:
    """Open a file that may be gzipped, whatever its name says."""
    try:
        with opened(name) as raw:
            buffered: Any = io.BufferedReader(raw)
            content: Any = gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == b"\x1f\x8b" else buffered
            yield content
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(path, name, files.first_line(error), "a whole file, not encrypted") from None


def _lines(path: Path, opened: Callable[[str], IO[bytes]], name: str) -> list[str]:
    """Read the lines of a text file that are not empty, in UTF-8 with or without a byte-order mark."""
    with _open_uncompressed(path, opened, name) as file:
        try:
            text = io.TextIOWrapper(file, encoding="utf-8-sig").read()
        except UnicodeDecodeError as error:
            raise InputError(path, name, files.first_line(error), "text in UTF-8") from None
    return [line for line in text.split("\n") if line.strip()]


def _features(path: Path, name: str, lines: Sequence[str]) -> Features:
    """Parse one column (names), two (identifiers and names) or more (kinds), possibly in quotes."""
    rows = [[cell.strip().strip('"') for cell in line.split("\t")] for line in lines]
    widths = {min(len(row), 3) for row in rows}
    if len(widths) > 1:
        odd = next(position for position, row in enumerate(rows) if min(len(row), 3) != len(rows[0]))
        raise InputError(path, f"{name}, line {odd + 1}", f"{len(rows[odd])} columns", f"{len(rows[0])}, as in line 1")
    width = widths.pop() if widths else 1
    ids = [row[0] for row in rows]
    return Features(
        ids,
        [row[1] for row in rows] if width > 1 else [*ids],
        [row[2] for row in rows] if width > 2 else [GENES] * len(ids),
    )


def _mtx(path: Path, name: str, opened: Callable[[str], IO[bytes]], shape: tuple[int, int]) -> sparse.csr_matrix:
    """Read the counts, cells x features."""
    with _open_uncompressed(path, opened, name) as file:
        try:
            matrix = scipy.io.mmread(file, spmatrix=False)
        except (OSError, EOFError, zlib.error):
            raise
        except Exception as error:  # the parser raises whatever it stumbles over
            raise InputError(path, name, files.first_line(error), "a Matrix Market file of numbers") from None
    if matrix.shape != shape:
        hint = ""
        if matrix.shape == shape[::-1]:
            hint = "; this one has a cell in each row: transpose it"
        elif matrix.shape in ((shape[0] - 1, shape[1]), (shape[0], shape[1] - 1), (shape[0] - 1, shape[1] - 1)):
            hint = "; features or barcodes may have a header: remove it"
        expected = f"{shape[0]} features x {shape[1]} barcodes, as the other two files say{hint}"
        raise InputError(path, name, f"{matrix.shape[0]} x {matrix.shape[1]}", expected)
    if matrix.dtype.kind not in "iuf":
        raise InputError(path, name, f"values of type {matrix.dtype}", "numbers")
    return sparse.csr_matrix(matrix.T)


def _csv(path: str | Path, name: str, text: str) -> pd.DataFrame:
    """Read a table whose columns are separated by the most frequent of comma, semicolon and tab in its header."""
    header = text.split("\n", 1)[0]
    try:
        separator = max(",;\t", key=header.count)
        return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except ValueError as error:
        raise InputError(path, name, files.first_line(error), "a table with a header") from None


def _targets(path: Path, reference: pd.DataFrame, features: Features) -> dict[str, str]:
    """Find the target gene of each guide of the matrix, by its name and identifier, as far as the reference has one."""
    if "feature_type" in reference:
        reference = reference[reference["feature_type"].str.strip() == GUIDES]
    symbol_of = dict(zip(features.ids, features.names, strict=True))
    guides = {
        name: identifier
        for identifier, name, kind in zip(features.ids, features.names, features.kinds, strict=True)
        if kind == GUIDES
    }
    known = {*guides, *guides.values()}
    targets: dict[str, str] = {}
    for row in reference.to_dict("records"):
        gene = str(row.get("target_gene_name", "")).strip()
        if gene.casefold() in _NO_TARGET:
            identifier = str(row.get("target_gene_id", "")).strip()
            gene = symbol_of.get(identifier, identifier)
        if gene.casefold() in _NO_TARGET:
            continue
        for key in {str(row[column]).strip() for column in ("id", "name") if column in row}:
            if targets.setdefault(key, gene) != gene and (key in known or not known):
                found = f"the targets {targets[key]!r} and {gene!r} of guide {key!r}"
                raise InputError(path, "target_gene_name", found, "one target of each guide")
    return targets


def check_guide_calling(path: Path, minimum_umis: int, minimum_share: float) -> None:
    """Refuse thresholds that call no single guide.

    Raises
    ------
    InputError
        For less than 1 UMI, and for a share that two guides of a cell may have.
    """
    if minimum_umis < 1 or not 0.5 < minimum_share <= 1:
        found = f"{minimum_umis} and {minimum_share}"
        expected = "at least 1 UMI and a share above 0.5 up to 1: only then is the guide the only one"
        raise InputError(path, "options minimum_guide_umis and minimum_guide_share", found, expected)


def top_guides(
    guide_counts: sparse.csr_matrix, minimum_umis: int, minimum_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the cells that have a top guide with enough UMIs, and that guide."""
    total = np.asarray(guide_counts.sum(axis=1)).ravel()
    top_umis = guide_counts.max(axis=1).toarray().ravel()
    called = (top_umis >= minimum_umis) & (top_umis >= minimum_share * total)
    return called, np.asarray(guide_counts.argmax(axis=1)).ravel()


def _with_guides(
    path: Path,
    counts: sparse.csr_matrix,
    features: Features,
    barcodes: list[str],
    calls: _Calls | None,
    minimum_umis: int,
    minimum_share: float,
    notes: dict[str, Any],
) -> anndata.AnnData:
    """Select the cells that have a guide."""
    cells = pd.Index(barcodes, dtype=object)
    guides = np.array(features.kinds) == GUIDES
    if calls is not None:
        guide, without_suffix = _called_in_table(calls, cells)
        notes = {**notes, "guide_table": calls.name}
        if without_suffix:
            notes["guide_table_without_suffix"] = "cells matched without the number at the end of barcodes"
    elif guides.any():
        called, top = top_guides(sparse.csr_matrix(counts[:, guides]), minimum_umis, minimum_share)
        guide = pd.Series(None, index=cells, dtype=object)
        guide[called] = np.array(features.names, dtype=object)[guides][top[called]]
        notes = {**notes, "minimum_guide_umis": minimum_umis, "minimum_guide_share": minimum_share}
    else:
        found = f"no feature of type {GUIDES!r} and no table of guide calls"
        raise InputError(path, "features", found, f"guide_table in the data-set table, such as {tenx_files.CALLS}")
    called = guide.notna().to_numpy()
    var = pd.DataFrame({"gene_ids": features.ids, "feature_types": features.kinds}, index=features.names)
    result = anndata.AnnData(counts[called], obs=pd.DataFrame(index=cells[called]), var=var)
    result.obs["guide"] = guide[called].to_numpy()
    if features.targets:
        result.uns[TARGETS] = features.targets
        result.obs["guide_name"] = result.obs["guide"]
        result.obs["target"] = [_target_of(label, features.targets) for label in result.obs["guide"]]
    result.uns[READER_NOTES] = {"n_cells_in_file": len(called), "n_cells_without_guide": int((~called).sum()), **notes}
    return result


def _target_of(label: str, targets: dict[str, str]) -> str:
    return JOINED_LABELS_BY.join(targets.get(guide, guide) for guide in label.split(JOINED_LABELS_BY))


@dataclass(frozen=True)
class _Calls:
    """Guide calls by cell, and the file of ``path`` that they come from (or ``path`` itself, of this name)."""

    path: str | Path
    name: str
    guide: pd.Series


def _calls_in_file(table: str) -> _Calls:
    path = Path(table)
    try:
        lines = _lines(path, lambda name: path.open("rb"), path.name)
    except InputError as error:
        raise InputError(table, "file", error.found, "a table of guide calls") from None
    return _calls(table, path.name, "\n".join(lines))


def _calls(path: str | Path, name: str, text: str) -> _Calls:
    """Read the calls of a table with ``feature_call`` by ``cell_barcode``."""
    table = _csv(path, name, text)
    for column in ("cell_barcode", "feature_call"):
        if column not in table:
            raise InputError(path, f"columns of {name}", ", ".join(table.columns), "cell_barcode and feature_call")
    twice = table["cell_barcode"][table["cell_barcode"].duplicated()]
    if len(twice):
        raise InputError(path, f"cell_barcode of {name}", f"{twice.iloc[0]!r} a second time", "every cell once")
    return _Calls(path, name, table.set_index("cell_barcode")["feature_call"].replace("", None))


def _called_in_table(calls: _Calls, cells: pd.Index) -> tuple[pd.Series, bool]:
    """Look up the call of each cell (missing where the table has none), and whether only barcodes without suffix fit.

    A suffix is the number of the lane that Cell Ranger puts behind a barcode (``-1``). It is ignored only where
    the table or the matrix has none.
    """
    guide = calls.guide.reindex(cells)
    if not guide.isna().all():
        return guide, False
    suffix = r"-\d+$"
    if not (cells.str.contains(suffix).any() and calls.guide.index.str.contains(suffix).any()):
        bare, of_bare = cells.str.replace(suffix, "", regex=True), calls.guide.copy()
        of_bare.index = of_bare.index.str.replace(suffix, "", regex=True)
        if bare.is_unique and of_bare.index.is_unique and bare.isin(of_bare.index).any():
            return pd.Series(of_bare.reindex(bare).to_numpy(), index=cells), True
    found = f"cells such as {calls.guide.index[0]!r}" if len(calls.guide) else "no row"
    raise InputError(calls.path, f"cell_barcode of {calls.name}", found, f"cells of the matrix, such as {cells[0]!r}")
