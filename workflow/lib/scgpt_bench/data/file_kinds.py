"""What a file is, by its first bytes, whoever made it.

Only the standard library and h5py are imported: what reads a checkpoint asks this too.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scgpt_bench.data.names import first_names
from scgpt_bench.files import first_line

SAFETENSORS = "a safetensors file"
_HEAD = 4096


@dataclass(frozen=True)
class FileKind:
    """What a file is in words, the format of the data-set table that reads it, and what else could be done."""

    words: str
    form: str | None = None
    advice: str = ""


def zarr(words: str) -> FileKind:
    """Say how a zarr store becomes a file that is read."""
    return FileKind(words, advice="import anndata; anndata.read_zarr(path).write_h5ad('drop.h5ad') makes one")


def kind_of_file(path: Path) -> FileKind:
    """Recognize a file by its content; ``form`` is ``torch`` for what PyTorch or safetensors may have written."""
    import h5py

    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head and h5py.is_hdf5(path):
        return _hdf5(path)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    packed = {b"\x1f\x8b": (gzip.open, "gzip"), b"BZh": (bz2.open, "bzip2"), b"\xfd7zXZ": (lzma.open, "xz")}
    for magic, (opened, name) in packed.items():
        if head.startswith(magic):
            return _compressed(path, opened, name)
    return _content(head)


def _compressed(path: Path, opened, name: str) -> FileKind:
    try:
        with opened(path) as file:
            inside = file.read(_HEAD)
    except (OSError, EOFError, lzma.LZMAError) as error:
        return FileKind(f"a broken {name} file ({first_line(error)})")
    if inside.startswith(b"\x89HDF"):
        form = "gz_h5ad" if name == "gzip" else None
        return FileKind(f"an HDF5 file compressed by {name}", form, advice="decompress it")
    kind = _content(inside)
    return kind if kind.form == "sceptre_rda" else FileKind(f"{kind.words}, compressed by {name}", advice=kind.advice)


def _content(head: bytes) -> FileKind:
    """Recognize a file that is neither HDF5 nor compressed by its first bytes."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return FileKind("an empty file")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in text[:1000]:
        return FileKind("a web page (HTML)", advice="the address may ask for a login or a click")
    if text.startswith((b"<?xml", b"<error")):
        return FileKind("an XML document", advice="the address may refuse the download")
    if head.startswith(b"version https://git-lfs"):
        return FileKind("a pointer of Git LFS", advice="git lfs pull brings the file itself")
    if head.startswith((b"RDX", b"RDA")):
        return FileKind("an R data file (.rda)", "sceptre_rda")
    if re.match(rb"[XAB]\n", head) and (head[0:1] == b"A" or head[2:5] == b"\0\0\0"):
        return FileKind("an R object (.rds)", advice="save it in R as h5ad, with zellkonverter or anndataR")
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", advice="unpack it, and use one of its files or folders")
    for magic, words in {b"PAR1": "a Parquet table", b"\x93NUMPY": "a NumPy array", b"ARROW1": "an Arrow file"}.items():
        if head.startswith(magic):
            form = "parquet" if magic == b"PAR1" else None
            return FileKind(words, form, advice="convert it to AnnData in Python and write h5ad")
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return FileKind("a Python pickle", "torch")
    if head.lower().startswith(b"%%matrixmarket"):
        return FileKind("a Matrix Market file", advice="format '10x_mtx' reads its folder")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:  # the length of a header, and the header
        return FileKind(SAFETENSORS, "torch")
    if text.startswith((b"{", b"[")):
        return FileKind("JSON", "json")
    return _text(head)


def _text(head: bytes) -> FileKind:
    try:
        first = head.decode("utf-8", "strict" if len(head) < _HEAD else "ignore").splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        return FileKind(f"bytes of no known kind, beginning with {head[:8].hex(' ')}")
    for separator, words in {"\t": "tab-separated", ",": "comma-separated", ";": "semicolon-separated"}.items():
        if separator in first:
            return FileKind(
                f"a {words} table",
                "csv" if separator == "," else "text",
                advice="convert it to AnnData in Python and write h5ad",
            )
    return FileKind(f"text that begins with {first[:40]!r}", "text")


def _hdf5(path: Path) -> FileKind:
    import h5py

    with h5py.File(path) as file:
        entries = {name: set(group) if isinstance(group := _entry(file, name), h5py.Group) else set() for name in file}
    if "mod" in entries:
        return FileKind("a MuData file", "h5mu")
    if {"obs", "var"} <= entries.keys():
        return FileKind("an AnnData file", "h5ad")
    if {"row_attrs", "col_attrs"} <= entries.keys():
        return FileKind("a loom file", advice="import scanpy; scanpy.read_loom(path).write_h5ad('drop.h5ad') makes one")
    if any({"barcodes", "indptr"} <= below for below in entries.values()):
        return FileKind("an HDF5 matrix of 10x", "10x_h5")
    if "barcode_idx" in entries:
        return FileKind("molecule_info.h5 of Cell Ranger", advice="take filtered_feature_bc_matrix.h5, format '10x_h5'")
    if "cell.names" in entries:
        return FileKind("an h5Seurat file", advice="SeuratDisk's Convert(path, dest = 'h5ad') makes one")
    missing = "".join(f" without {name!r}" for name in ("obs", "var") if name not in entries)
    return FileKind(f"an HDF5 file of {some(sorted(entries))}{missing}")


def _entry(file, name: str):
    """Open an entry of an HDF5 file; None where it cannot be opened or leads elsewhere."""
    import h5py

    try:
        return file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    except (KeyError, OSError, RuntimeError):
        return None


def _zip(path: Path) -> FileKind:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    if any(name.lower().endswith(".h5ad") for name in names):
        return FileKind("a zip that holds an h5ad", "zip_h5ad")
    if any(re.search(r"\.mtx(\.gz)?$", name, re.IGNORECASE) for name in names):
        return FileKind("a zip with a matrix", "10x_mtx")
    if any(name.endswith((".zgroup", "zarr.json")) for name in names):
        return zarr("a zipped zarr store")
    if any(name.endswith("/data.pkl") for name in names):
        return FileKind("a checkpoint of PyTorch", "torch")
    return FileKind(f"a zip of {some(names)}")


def some(names: Iterable[str]) -> str:
    """List the first names of a container."""
    return first_names(map(repr, names)) or "nothing"
