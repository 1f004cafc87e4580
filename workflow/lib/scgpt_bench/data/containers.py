"""What kind of file a drop is, by its first bytes: before it is recorded, and before a reader stumbles over it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scgpt_bench.data import tenx_files
from scgpt_bench.data.catalogue import FORMATS, GENE_INFO, GENERATED
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line

EXPECTED = {
    "h5ad": "an AnnData file (h5ad)",
    "h5mu": "a MuData file (h5mu)",
    "zip_h5ad": "a zip that holds an h5ad",
    "gz_h5ad": "an h5ad compressed by gzip",
    "10x_h5": "an HDF5 matrix of 10x",
    "10x_mtx": "a folder, or a zip of one, with matrix.mtx, features.tsv and barcodes.tsv",
    "sceptre_rda": "an R data file (.rda)",
    GENERATED: "an AnnData file (h5ad)",
    "torch": "a checkpoint of PyTorch",
    "json": "JSON",
    "csv": "a comma-separated table",
    "text": "a text file",
    "parquet": "a Parquet table",
}
# By suffix.
FORMATS_OF_VECTORS = {".tsv": "text", ".txt": "text", ".csv": "csv", ".parquet": "parquet", ".h5ad": "h5ad"}
FORMATS_OF_CHECKPOINT = {"best_model.pt": "torch", "args.json": "json", "vocab.json": "json", GENE_INFO: "csv"}
SAFETENSORS = "a safetensors file"
_HEAD = 4096
_LISTED = 5  # names shown of a container


@dataclass(frozen=True)
class _Kind:
    """What a file is in words, the format of the data-set table that reads it, and what else could be done."""

    words: str
    form: str | None = None
    advice: str = ""


def check(path: str | Path, form: str, source: str | Path | None = None) -> None:
    """Refuse a file that is not of the format ``form``, saying what it is instead.

    Parameters
    ----------
    form
        One of the data-set table, or one of those of checkpoints and gene vectors.
    source
        What the error calls the file; ``path`` unless given.

    Raises
    ------
    InputError
        Naming what was found and, where there is one, the format that reads it or the way to convert it.
    """
    source, path = source or path, Path(path)
    try:
        kind = _folder(path) if path.is_dir() else kind_of_file(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(source, "file", first_line(error), EXPECTED[form]) from None
    if kind.form != ("h5ad" if form == GENERATED else form):
        advice = f"format {kind.form!r} in the data-set table reads this" if kind.form in FORMATS else kind.advice
        advice = advice if form in FORMATS else ""
        raise InputError(source, "file", kind.words, EXPECTED[form] + (f"; {advice}" if advice else ""))


def _folder(path: Path) -> _Kind:
    if any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json")):
        return _zarr("a zarr store")
    if any(re.search(r"\.mtx(\.gz)?$", name) for name in tenx_files.names_below(path)):
        return _Kind("a folder with a matrix", "10x_mtx")
    return _Kind("a folder of " + _some(sorted(entry.name for entry in path.iterdir())))


def _zarr(words: str) -> _Kind:
    return _Kind(words, advice="import anndata; anndata.read_zarr(path).write_h5ad('drop.h5ad') makes one")


def kind_of_file(path: Path) -> _Kind:
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


def _compressed(path: Path, opened, name: str) -> _Kind:
    try:
        with opened(path) as file:
            inside = file.read(_HEAD)
    except (OSError, EOFError, lzma.LZMAError) as error:
        return _Kind(f"a broken {name} file ({first_line(error)})")
    if inside.startswith(b"\x89HDF"):
        form = "gz_h5ad" if name == "gzip" else None
        return _Kind(f"an HDF5 file compressed by {name}", form, advice="decompress it")
    kind = _content(inside)
    return kind if kind.form == "sceptre_rda" else _Kind(f"{kind.words}, compressed by {name}", advice=kind.advice)


def _content(head: bytes) -> _Kind:
    """Recognize a file that is neither HDF5 nor compressed by its first bytes."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return _Kind("an empty file")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in text[:1000]:
        return _Kind("a web page (HTML)", advice="the address may ask for a login or a click")
    if text.startswith((b"<?xml", b"<error")):
        return _Kind("an XML document", advice="the address may refuse the download")
    if head.startswith(b"version https://git-lfs"):
        return _Kind("a pointer of Git LFS", advice="git lfs pull brings the file itself")
    if head.startswith((b"RDX", b"RDA")):
        return _Kind("an R data file (.rda)", "sceptre_rda")
    if re.match(rb"[XAB]\n", head) and (head[0:1] == b"A" or head[2:5] == b"\0\0\0"):
        return _Kind("an R object (.rds)", advice="save it in R as h5ad, with zellkonverter or anndataR")
    if head[257:262] == b"ustar":
        return _Kind("a tar archive", advice="unpack it, and use one of its files or folders")
    for magic, words in {b"PAR1": "a Parquet table", b"\x93NUMPY": "a NumPy array", b"ARROW1": "an Arrow file"}.items():
        if head.startswith(magic):
            form = "parquet" if magic == b"PAR1" else None
            return _Kind(words, form, advice="convert it to AnnData in Python and write h5ad")
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _Kind("a Python pickle", "torch")
    if head.lower().startswith(b"%%matrixmarket"):
        return _Kind("a Matrix Market file", advice="format '10x_mtx' reads its folder")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:  # the length of a header, and the header
        return _Kind(SAFETENSORS, "torch")
    if text.startswith((b"{", b"[")):
        return _Kind("JSON", "json")
    return _text(head)


def _text(head: bytes) -> _Kind:
    try:
        first = head.decode("utf-8", "strict" if len(head) < _HEAD else "ignore").splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        return _Kind(f"bytes of no known kind, beginning with {head[:8].hex(' ')}")
    for separator, words in {"\t": "tab-separated", ",": "comma-separated", ";": "semicolon-separated"}.items():
        if separator in first:
            return _Kind(
                f"a {words} table",
                "csv" if separator == "," else "text",
                advice="convert it to AnnData in Python and write h5ad",
            )
    return _Kind(f"text that begins with {first[:40]!r}", "text")


def _hdf5(path: Path) -> _Kind:
    import h5py

    with h5py.File(path) as file:
        entries = {name: set(group) if isinstance(group := _entry(file, name), h5py.Group) else set() for name in file}
    if "mod" in entries:
        return _Kind("a MuData file", "h5mu")
    if {"obs", "var"} <= entries.keys():
        return _Kind("an AnnData file", "h5ad")
    if {"row_attrs", "col_attrs"} <= entries.keys():
        return _Kind("a loom file", advice="import scanpy; scanpy.read_loom(path).write_h5ad('drop.h5ad') makes one")
    if any({"barcodes", "indptr"} <= below for below in entries.values()):
        return _Kind("an HDF5 matrix of 10x", "10x_h5")
    if "barcode_idx" in entries:
        return _Kind("molecule_info.h5 of Cell Ranger", advice="take filtered_feature_bc_matrix.h5, format '10x_h5'")
    if "cell.names" in entries:
        return _Kind("an h5Seurat file", advice="SeuratDisk's Convert(path, dest = 'h5ad') makes one")
    missing = "".join(f" without {name!r}" for name in ("obs", "var") if name not in entries)
    return _Kind(f"an HDF5 file of {_some(sorted(entries))}{missing}")


def _entry(file, name: str):
    """Open an entry of an HDF5 file; None where it cannot be opened or leads elsewhere."""
    import h5py

    try:
        return file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    except (KeyError, OSError, RuntimeError):
        return None


def _zip(path: Path) -> _Kind:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    if any(name.lower().endswith(".h5ad") for name in names):
        return _Kind("a zip that holds an h5ad", "zip_h5ad")
    if any(re.search(r"\.mtx(\.gz)?$", name, re.IGNORECASE) for name in names):
        return _Kind("a zip with a matrix", "10x_mtx")
    if any(name.endswith((".zgroup", "zarr.json")) for name in names):
        return _zarr("a zipped zarr store")
    if any(name.endswith("/data.pkl") for name in names):
        return _Kind("a checkpoint of PyTorch", "torch")
    return _Kind(f"a zip of {_some(names)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")
    return shown or "nothing"
