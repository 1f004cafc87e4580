"""What kind of file a drop is, by its first bytes: before it is recorded, and before a reader stumbles over it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from scgpt_bench.data import tenx_files
from scgpt_bench.data.catalogue import FORMATS, GENE_INFO, GENERATED
from scgpt_bench.data.file_kinds import FileKind, kind_of_file, some, zarr
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


def _folder(path: Path) -> FileKind:
    if any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json")):
        return zarr("a zarr store")
    if any(re.search(r"\.mtx(\.gz)?$", name) for name in tenx_files.names_below(path)):
        return FileKind("a folder with a matrix", "10x_mtx")
    return FileKind("a folder of " + some(sorted(entry.name for entry in path.iterdir())))
