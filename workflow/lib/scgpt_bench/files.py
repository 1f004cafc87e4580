"""Write files atomically, and read them with one clear error where that is impossible."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgpt_bench.errors import InputError

if TYPE_CHECKING:
    import anndata
    import h5py
    import pandas as pd
    from scipy import sparse

_LITTLE = 2**20  # bytes: a disk with less is full
CHECKED = {"compression": "lzf", "fletcher32": True}  # numbers in HDF5 get a checksum for every chunk


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to (a file or a folder); it takes the name ``path`` only on success.

    A failure removes what was written, and the folders made for it. A kill leaves a ``.partial`` that nothing reads and
    the next try replaces.

    Raises
    ------
    InputError
        If the disk took no more: it is full, a quota is used up, it cannot be written.
    """
    path = Path(path)
    new = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    partial = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            yield partial
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # it cannot be written
            _remove(partial)
        with suppress(OSError):  # another job has put something there
            for folder in new:
                folder.rmdir()
        raise


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Raise ``InputError`` where writing ``path`` fails because its disk takes no more (:func:`atomic_write`)."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        in_hdf5 = re.search(r"errno = (\d+)", str(error))  # h5py raises what HDF5 says as text
        number = int(in_hdf5[1]) if in_hdf5 else getattr(error, "errno", None)
        # PyTorch says only that a stream failed.
        if number is None and isinstance(error, RuntimeError) and shutil.disk_usage(Path(path).parent).free < _LITTLE:
            number = errno.ENOSPC
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        expected = "room to write this file; then run the same command again"
        raise InputError(path, "disk", os.strerror(number).lower(), expected) from None


def link_or_copy(source: str | Path, path: str | Path) -> None:
    """Give a file a second name, or copy it where the file system has no links; whole or not at all."""
    with atomic_write(path) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_h5ad(adata: anndata.AnnData, path: str | Path) -> None:
    """Write ``adata`` atomically, by :func:`write_element`."""
    adata.strings_to_categoricals()
    with written_h5(path) as file:
        write_element(file, "/", adata)


@contextmanager
def written_h5(path: str | Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to write, atomically (:func:`atomic_write`).

    When h5py closes a part of a file, HDF5 writes what it has kept of it. What fails then, h5py can only print: the
    file would have a hole. Here it is raised.
    """
    import h5py

    failures: list[str] = []
    before = sys.unraisablehook

    def keep(said: Any) -> None:
        if "h5py" in str(said.object):
            failures.append(str(said.exc_value))
        else:
            before(said)

    with atomic_write(path) as partial:
        sys.unraisablehook = keep
        try:
            with h5py.File(partial, "w") as file:
                yield file
        finally:
            sys.unraisablehook = before
        if failures:
            raise RuntimeError(failures[0])


def write_element(file: Any, key: str, element: Any) -> None:
    """Write a part of an AnnData to an open HDF5 file, numbers with checksums, by which damage is noticed."""
    from anndata.experimental import write_dispatched

    def write(function: Any, group: Any, key: str, element: Any, *, dataset_kwargs: dict, iospec: Any) -> None:
        numbers = iospec.encoding_type in ("array", "csr_matrix", "csc_matrix")  # text has no room for a checksum
        function(group, key, element, dataset_kwargs={**CHECKED, "fletcher32": numbers})

    write_dispatched(file, key, element, callback=write)


def read_h5ad(path: str | Path) -> anndata.AnnData:
    """Read an AnnData file, which may come from anywhere, into memory; :func:`data.on_disk.open_h5ad` does not.

    Raises
    ------
    InputError
        For a file that is broken, takes arrays from other files, or has an X that is not a matrix of numbers.
    """
    import anndata
    import h5py

    try:
        with h5py.File(path) as file:
            refuse_other_files(path, file, set())
        adata = anndata.read_h5ad(path)
        check_matrix(path, adata.X)
        return adata
    except InputError:
        raise
    except Exception as error:  # h5py and anndata raise a dozen types for a broken file
        raise InputError(path, "file", first_line(error), "an AnnData file (h5ad)") from None


def refuse_other_files(path: str | Path, group: Any, seen: set, names: Iterable[str] | None = None) -> None:
    """Refuse links, external storage and virtual data sets, which read other files of this machine.

    A group may not appear in two places either: thirty groups, each twice in the one before, would be read a thousand
    million times. ``seen`` collects the groups. Data in a compression that this machine lacks are refused too, with a
    way to rewrite them. ``names`` are the entries of ``group`` that are read; the rest may be anything.
    """
    import h5py

    for name in group if names is None else names:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise InputError(path, f"{group.name}/{name}", f"a {type(link).__name__}", "data in the file itself")
        entry = group[name]
        if isinstance(entry, h5py.Dataset):
            if entry.external or entry.is_virtual:
                raise InputError(path, entry.name, "data in another file", "data in the file itself")
            _refuse_missing_filter(path, entry)
        if isinstance(entry, h5py.Group):
            if entry.id in seen:
                raise InputError(path, entry.name, "a second link to a group", "every group in one place")
            seen.add(entry.id)
            refuse_other_files(path, entry, seen)


_FILTERS = {4: "szip", 307: "bzip2", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd", 32026: "blosc2"}


def _refuse_missing_filter(path: str | Path, dataset: Any) -> None:
    import h5py

    properties = dataset.id.get_create_plist()
    for position in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(position)
        if not h5py.h5z.filter_avail(code):
            known = _FILTERS.get(code) or name.decode(errors="replace") or "a filter"
            rewrite = "import hdf5plugin, anndata; anndata.read_h5ad(path).write_h5ad('drop.h5ad', compression='gzip')"
            if dataset.name.startswith("/matrix/"):
                rewrite = "h5repack -f GZIP=4, with that filter installed,"
            raise InputError(
                path,
                dataset.name,
                f"compression by {known} (HDF5 filter {code})",
                f"gzip or lzf: {rewrite} rewrites it",
            )


def check_matrix(path: str | Path, X: Any) -> None:
    """Refuse an ``X`` in memory that is not a matrix of numbers, or a sparse one that is broken."""
    from scipy import sparse

    if X is None:
        raise InputError(path, "X", "nothing", "a matrix of cells x genes")
    if X.dtype.kind not in "biuf":
        raise InputError(path, "X", f"values of type {X.dtype}", "numbers")
    if sparse.issparse(X):
        try:
            validate_sparse(X)
        except ValueError as error:
            raise InputError(path, "X", first_line(error), "a valid sparse matrix") from None


def validate_sparse(matrix: sparse.spmatrix) -> sparse.spmatrix:
    """Return a compressed sparse matrix; ValueError if it is broken, since compiled code trusts its indices."""
    matrix.check_format(full_check=True)
    if (matrix.indptr[1:] < matrix.indptr[:-1]).any():  # scipy does not look at a matrix that ends at 0 values
        raise ValueError("indptr must be a non-decreasing sequence")
    return matrix


def first_line(error: Exception) -> str:
    """Return the type and the first line of a message: what fits into an error of one line."""
    if isinstance(error, FileNotFoundError) and error.strerror:
        return error.strerror  # the error names the file already
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a tab-separated table without index, floats in full (they round-trip), missing values empty."""
    with atomic_write(path) as partial:
        table.to_csv(partial, sep="\t", index=False, lineterminator="\n")


# Columns of text, though names may be all digits.
_NAMES = ("dataset", "split", "context", "method", "perturbation", "gene")


def read_table(path: str | Path, separator: str = "\t", **options: Any) -> pd.DataFrame:
    """Read a table of :func:`write_table`, or one of a user's with another ``separator`` and ``options`` of pandas.

    Only an empty cell is a missing value: NA and NAN are gene symbols. Names of perturbations and genes are text, also
    where all of them are numbers (Entrez identifiers).

    Raises
    ------
    InputError
        For a file that is absent, empty or no table, or whose rows have more cells than its header.
    """
    import pandas as pd

    defaults = {"keep_default_na": False, "na_values": [""], "dtype": dict.fromkeys(_NAMES, str)}
    defaults["index_col"] = False  # pandas would take the first cells of rows that are too long as names of the rows
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells that it would leave out
            return pd.read_csv(path, sep=separator, **{**defaults, **options})
    except pd.errors.ParserWarning:
        raise InputError(path, "table", "rows with more cells than the header", "a cell for each column") from None
    except (OSError, ValueError) as error:  # those of pandas' parser and of the encoding are ValueErrors
        raise InputError(path, "table", first_line(error), "a table, one line per row, with a header") from None


def write_json(document: object, path: str | Path) -> None:
    """Write JSON, indented, keys in the order given, no NaN."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, expected: str, **options: Any) -> Any:
    """Read JSON; ``expected`` says what it should be, ``options`` are those of :func:`json.loads`.

    Raises
    ------
    InputError
        For a file that is absent or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), **options)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, "file", first_line(error), f"JSON: {expected}") from None


def sha256(path: str | Path) -> str:
    """Hash a file by SHA-256: 64 hexadecimal digits."""
    return digest(path, "sha256")


def digest(path: str | Path, algorithm: str) -> str:
    """Hash a file by an algorithm of :mod:`hashlib`: hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def content_sha256(path: str | Path) -> str:
    """Hash a file, or the checksums of a folder's files in the order of their names, by SHA-256."""
    return _sum_of(_files_of(path))


def _sum_of(files: list[Path]) -> str:
    sums = [sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _files_of(path: str | Path) -> list[Path]:
    path = Path(path)
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def matrix_sha256(matrix: sparse.csr_matrix) -> str:
    """Hash a matrix in memory by SHA-256."""
    digest = hashlib.sha256()
    for array in (matrix.indptr, matrix.indices, matrix.data):
        digest.update(array)
    return digest.hexdigest()


def remembered_sha256(
    path: str | Path, memory: str | Path, files_of: Callable[[str | Path], list[Path]] | None = None
) -> str | None:
    """Return :func:`content_sha256`, read again only if size or time changed since it was last asked.

    Safe when many processes ask at once, as the jobs of a cluster do: each path has a record of its own, which is
    replaced atomically.

    Parameters
    ----------
    memory
        The folder of the records. A path that is gone keeps its record: results made from it stay valid.
    files_of
        Which files of ``path`` count; all of them unless given.

    Returns
    -------
    None for a path that neither exists nor is remembered.
    """
    record = Path(memory, hashlib.sha256(str(path).encode()).hexdigest()[:16] + ".json")
    known = json.loads(record.read_text()) if record.is_file() else {}
    found = (files_of or _files_of)(path) if Path(path).exists() else []
    stamp = [[file.stat().st_size, file.stat().st_mtime_ns] for file in found]
    if found and known.get("stamp") != stamp:
        known = {"path": str(path), "stamp": stamp, "sha256": _sum_of(found)}
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = record.with_name(f"{record.name}.{uuid.uuid4().hex}")  # of this process alone
        partial.write_text(json.dumps(known, indent=2) + "\n")
        os.replace(partial, record)
    return known.get("sha256")
