"""Cells that stay on disk: read and written in chunks of rows, so memory does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.errors import InputError

VALUES_AT_ONCE = 2**25  # of a chunk, if it were dense: 256 MiB in float64
STORED_AT_ONCE = 2**20  # values of a chunk inside an HDF5 file
CACHE = 2**24  # bytes: four such chunks, so that rows that follow one another are not unpacked again for each read
_STORED = {"data": np.float32, "indices": np.int32}  # of a CSR matrix that is written by chunks
Matrix: TypeAlias = sparse.csr_matrix | np.ndarray


def open_h5ad(
    path: str | Path,
    where: str = "/",
    layers: Sequence[str] = (),
    uns: Sequence[str] = (),
    columns: Collection[str] | None = None,
    in_place_of_x: str | None = None,
    varm: Sequence[str] = (),
) -> anndata.AnnData:
    """Open the cells of an h5ad file, or of a group ``where`` of an HDF5 file that is laid out like one.

    ``X`` stays on disk when it is stored by rows (CSR or dense): read it with :func:`row_chunks` or :func:`rows`.
    Stored by genes (CSC) it is read at once, since every row would take a pass over all of it. ``layers`` are treated
    alike; those that the file lacks are left out. Only the keys ``uns`` and ``varm`` are read, and nothing else: unused
    parts may be damaged, or of a kind that this anndata does not know.

    Parameters
    ----------
    columns
        Those of ``obs`` and ``var`` that have to be readable; others that are not are left out. None: all have to be.
    in_place_of_x
        Layer that is ``X`` of what is returned; X of the file is not read then.

    Raises
    ------
    InputError
        For another kind of file, or one without X or that layer.
    """
    try:
        file = h5py.File(path, rdcc_nbytes=CACHE)
        stored = file
        for step in where.strip("/").split("/") if where != "/" else ():
            _refuse_link(path, stored, step)
            stored = stored[step]
        _refuse_link(path, stored, "obs", "var", "X", "layers", "uns", *(["varm"] if varm else []))
        group, name = (stored.get("layers", {}), in_place_of_x) if in_place_of_x else (stored, "X")
        _refuse_link(path, group, name)
        if name not in group or group[name].attrs.get("encoding-type") == "null":
            where_x = f"layers[{name!r}]" if in_place_of_x else "X"
            raise InputError(path, where_x, "nothing", "a matrix of cells x genes")
        files.refuse_other_files(path, group, set(), [name])
        tables = {name: read_table(path, stored, name, columns) for name in ("obs", "var")}
        shape = (len(tables["obs"]), len(tables["var"]))
        kept = [name for name in layers if f"layers/{name}" in stored]
        parts = {
            "layers": {name: _matrix(path, stored["layers"], name, shape) for name in kept},
            "uns": {key: _element(path, stored["uns"], key) for key in uns if f"uns/{key}" in stored},
            "varm": {key: _element(path, stored["varm"], key) for key in varm if f"varm/{key}" in stored},
        }
        return anndata.AnnData(_matrix(path, group, name, shape), **tables, **parts)
    except InputError:
        raise
    except Exception as error:  # h5py and anndata raise a dozen types for a broken file
        expected = "an AnnData file (h5ad) with X" if where == "/" else f"an AnnData with X in {where}"
        raise InputError(path, "file", files.first_line(error), expected) from None


def _refuse_link(path: str | Path, group: h5py.Group, *names: str) -> None:
    """Refuse entries of a group that lead elsewhere."""
    for name in names:
        link = group.get(name, getlink=True) if name in group else None
        if link is not None and not isinstance(link, h5py.HardLink):
            raise InputError(path, f"{group.name}/{name}", f"a {type(link).__name__}", "data in the file itself")


def _element(path: str | Path, group: h5py.Group, name: str) -> Any:
    files.refuse_other_files(path, group, set(), [name])
    return anndata.io.read_elem(group[name])


def read_table(path: str | Path, group: h5py.Group, name: str, needed: Collection[str] | None) -> pd.DataFrame:
    """Read ``obs`` or ``var``, without the columns that cannot be read and are not ``needed`` (None: all are)."""
    _refuse_link(path, group, name)
    stored = group[name]
    rewrite = f"a newer file: import anndata; anndata.read_h5ad({Path(path).name!r}).write_h5ad('drop.h5ad') makes one"
    if isinstance(stored, h5py.Dataset):
        raise InputError(path, name, "a table as anndata before 0.7 wrote it", rewrite)
    index_name = stored.attrs.get("_index")
    if index_name is None:
        raise InputError(path, name, "a table without '_index'", "a table as anndata writes it")
    index = pd.Index(_column(path, stored, index_name, None), dtype=object)
    columns = {}
    for column in map(str, stored.attrs["column-order"]):
        try:
            columns[column] = _column(path, stored, column, len(index))
        except Exception as error:  # h5py and anndata raise a dozen types for what is broken or unknown
            if needed is None or column in needed:
                found, expected = (
                    files.first_line(error),
                    f"a column that anndata {anndata.__version__} reads, undamaged",
                )
                if isinstance(error, InputError):
                    found, expected = error.found, error.expected
                raise InputError(path, f"{name}[{column!r}]", found, expected) from None
    return pd.DataFrame(columns, index=index)


def _column(path: str | Path, table: h5py.Group, name: str, length: int | None) -> Any:
    """Read the values of a column: a categorical, or one native value per row; text as str."""
    if name not in table:
        raise InputError(path, name, "a name in 'column-order' without a column", "every column that it names")
    files.refuse_other_files(path, table, set(), [name])
    stored = table[name]
    if "categories" in stored.attrs:  # until anndata 0.8: codes that refer to __categories
        categories = _as_text(anndata.io.read_elem(table[stored.attrs["categories"]]))
        values = pd.Categorical.from_codes(stored[:], categories)
    else:
        values = _as_text(anndata.io.read_elem(stored))
    if values.ndim != 1 or (length is not None and len(values) != length):
        raise ValueError(f"values of shape {values.shape}, not one for each of {length} rows")
    return values


def _as_text(values: Any) -> Any:
    """Decode text that other programs than anndata write as bytes; bring numbers to this machine's byte order."""
    if isinstance(values, pd.Categorical):
        return values.rename_categories(_as_text(values.categories.to_numpy()))
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and any(isinstance(value, bytes) for value in values)):
        return np.array([value.decode() if isinstance(value, bytes) else value for value in values], dtype=object)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _matrix(path: str | Path, group: h5py.Group, name: str, shape: tuple[int, int]) -> Any:
    files.refuse_other_files(path, group, set(), [name])
    X = group[name]
    form = X.attrs.get("encoding-type") or X.attrs.get("h5sparse_format")
    if isinstance(X, h5py.Group):
        if form not in ("csr_matrix", "csc_matrix", "csr", "csc"):
            raise InputError(path, name, f"a group of encoding {form!r}", "a dense matrix, CSR or CSC")
        X = anndata.io.sparse_dataset(X)
    if X.dtype.kind not in "biuf":
        raise InputError(path, name, f"values of type {X.dtype}", "numbers")
    if tuple(X.shape) != shape:
        found, expected = f"a matrix of {_shape_in_words(X.shape)}", f"{_shape_in_words(shape)}, as obs and var have"
        raise InputError(path, name, found, expected)
    if isinstance(X, h5py.Dataset):
        return X
    _check_pointers(path, X.group, name, shape[X.format == "csc"])
    if X.format == "csc":
        stored = X.group
        parts = (numbers(stored["data"][:]), stored["indices"][:], stored["indptr"][:])
        try:
            return files.validate_sparse(sparse.csc_matrix(parts, shape)).tocsr()
        except ValueError as error:
            raise InputError(path, name, files.first_line(error), "a valid sparse matrix") from None
    return X


def _shape_in_words(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _check_pointers(path: str | Path, group: h5py.Group, name: str, n_lines: int) -> None:
    """Refuse a sparse matrix whose rows (of CSC, columns) do not follow one another."""
    data, indices, pointers = (group[part] for part in ("data", "indices", "indptr"))
    found = None
    if indices.dtype.kind not in "iu" or pointers.dtype.kind not in "iu":
        found = f"indices of type {indices.dtype} and {pointers.dtype}"
    elif pointers.shape != (n_lines + 1,):
        found = f"index pointer size {_shape_in_words(pointers.shape)} should be {n_lines + 1}"
    elif data.shape != indices.shape or data.ndim != 1:
        found = f"{_shape_in_words(data.shape)} values at {_shape_in_words(indices.shape)} indices"
    else:
        starts = pointers[:].astype(np.int64)
        if starts[0] != 0 or (np.diff(starts) < 0).any():
            found = "an index pointer that is no non-decreasing sequence from 0"
        elif starts[-1] > len(data):
            found = f"an index pointer that ends at {starts[-1]} of {len(data)} values"
    if found:
        raise InputError(path, name, found, "a valid sparse matrix")


def number_type(dtype: np.dtype) -> np.dtype:
    """Choose the type in which values of ``dtype`` are computed with: native, and one that SciPy has and sums well.

    Float32 for half precision, float64 for more than double, int32 for small integers and booleans: their sums would
    overflow.
    """
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    return np.dtype(np.int32) if dtype.itemsize < 4 else dtype.newbyteorder("=")


def numbers(values: Any) -> Any:
    """Convert an array or sparse matrix to its :func:`number_type`, without a copy where it has that already."""
    return values.astype(number_type(values.dtype), copy=False)


def row_chunks(X: Any, at_once: int = VALUES_AT_ONCE, read: np.ndarray | None = None) -> Iterator[tuple[int, Matrix]]:
    """Yield the rows of ``X``, on disk or in memory, in order: the number of a chunk's first row, and the chunk.

    Chunks without a row of the mask ``read`` are left out. A chunk of a matrix in memory is a view: do not write to it.
    """
    step = max(1, at_once // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        if read is None or read[start : start + step].any():
            yield start, rows_from(X, start, step)


def rows_from(X: Any, start: int, number: int) -> Matrix:
    """Read up to ``number`` rows of ``X`` from ``start`` on, as :func:`row_chunks` gives them.

    Raises
    ------
    InputError
        For rows on disk that are damaged or no valid matrix.
    """
    if sparse.issparse(X) and X.format == "csr":
        chunk = _view(X, start, min(start + number, X.shape[0]))
    elif sparse.issparse(X) or isinstance(X, np.ndarray):
        chunk = X[start : start + number]
    else:
        chunk = _read(X, start, number)
    return numbers(sparse.csr_matrix(chunk) if sparse.issparse(chunk) else np.asarray(chunk))


def _view(X: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """View rows of ``X`` without copying them, as both slicing and the constructor would."""
    first, last = X.indptr[start], X.indptr[stop]
    view = sparse.csr_matrix((stop - start, X.shape[1]), dtype=X.dtype)
    view.data, view.indices, view.indptr = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
    return view


def _read(X: Any, start: int, number: int) -> Matrix:
    """Read rows of a matrix on disk; refuse broken ones."""
    try:
        if isinstance(X, h5py.Dataset):
            return X[start : start + number]
        stored, stop = X.group, min(start + number, X.shape[0])
        pointers = stored["indptr"][start : stop + 1].astype(np.int64)
        part = slice(pointers[0], pointers[-1])
        content = (numbers(stored["data"][part]), stored["indices"][part], pointers - pointers[0])
        return files.validate_sparse(sparse.csr_matrix(content, shape=(stop - start, X.shape[1])))
    except OSError as error:
        raise InputError(_path(X), "file", files.first_line(error), "an undamaged AnnData file (h5ad)") from None
    except Exception as error:
        raise InputError(_path(X), "X", files.first_line(error), "a valid sparse matrix") from None


def _path(X: Any) -> str:
    return getattr(X, "group", X).file.filename


def rows(X: Any, wanted: Sequence[int]) -> sparse.csr_matrix:
    """Read the rows ``wanted`` of ``X``, in that order, repeats included; ``X`` is read once.

    Memory grows by the rows themselves, and by as much again where ``wanted`` does not ascend.
    """
    distinct, position = np.unique(np.asarray(wanted, dtype=np.int64), return_inverse=True)
    mask = np.zeros(X.shape[0], dtype=bool)
    mask[distinct] = True
    data = np.empty(0, np.result_type(number_type(X.dtype), np.float32))
    indices, lengths = np.empty(0, np.int32), [np.zeros(1, int)]
    for start, chunk in row_chunks(X, read=mask):
        part = sparse.csr_matrix(chunk[mask[start : start + chunk.shape[0]]])
        for grown, values in ((data, part.data), (indices, part.indices)):
            grown.resize(len(grown) + len(values), refcheck=False)  # in place: a list of parts would be held twice
            grown[len(grown) - len(values) :] = values
        lengths.append(np.diff(part.indptr))
    indptr = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    result = sparse.csr_matrix((data, indices, indptr), shape=(len(distinct), X.shape[1]))
    return result if np.array_equal(position, np.arange(len(distinct))) else result[position]


def dense_rows(X: Any, wanted: Sequence[int]) -> np.ndarray:
    """Read the rows ``wanted`` of ``X``, on disk or in memory, as a dense array, and no others.

    For rows that mostly follow one another, as those of a condition do in files of drawn or predicted cells: each run
    of them is read at once. For rows from all over a file :func:`rows` is faster.
    """
    wanted = np.asarray(wanted, dtype=np.int64)
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
    parts = [rows_from(X, run[0] if len(run) else 0, len(run)) for run in runs]
    parts = [part.toarray() if sparse.issparse(part) else part for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def batches(n_rows: Sequence[int], n_columns: int, at_once: int = 4 * VALUES_AT_ONCE) -> Iterator[slice]:
    """Split groups of so many rows into batches of whole groups: ``at_once`` values or, if larger, one group."""
    start, total = 0, 0
    for stop, number in enumerate(n_rows):
        if stop > start and (total + number) * n_columns > at_once:
            yield slice(start, stop)
            start, total = stop, 0
        total += number
    if start < len(n_rows):
        yield slice(start, len(n_rows))


def add_rows(sums: np.ndarray, chunk: Matrix, groups: np.ndarray) -> None:
    """Add each row of ``chunk`` to the row ``groups`` of ``sums`` [groups x genes, float64]; -1 is added nowhere.

    Row after row: a sum has the same bits however its rows are spread over chunks.
    """
    if (groups < 0).any() or (np.diff(groups) < 0).any():
        order = np.argsort(groups, kind="stable")
        order = order[groups[order] >= 0]
        chunk, groups = chunk[order], groups[order]
    bounds = [*np.flatnonzero(np.diff(groups, prepend=-1)), len(groups)]
    for start, stop in pairwise(bounds):
        if sparse.issparse(chunk):
            part = slice(chunk.indptr[start], chunk.indptr[stop])
            np.add.at(sums[groups[start]], chunk.indices[part], chunk.data[part].astype(np.float64))
        else:
            for row in chunk[start:stop]:
                sums[groups[start]] += row


def text_array(texts: Iterable[str]) -> np.ndarray:
    """Make the array of texts that an h5ad file can hold, none at all too."""
    return np.array([*texts], dtype=object)


def with_categories(table: pd.DataFrame) -> pd.DataFrame:
    """Make texts that repeat categories, as anndata does to ``obs`` when it writes a file."""
    adata = anndata.AnnData(obs=table)
    adata.strings_to_categoricals()
    return adata.obs


class CellWriter:
    """Writes an h5ad file by chunks of rows, atomically, with the checksums of :func:`files.write_element`.

    The chunks that rows come in change no byte of the file.

    As a context manager: ``append`` chunks of ``X`` and of layers, then leave with ``obs``, ``var``, ``uns`` and
    ``varm`` set.
    """

    def __init__(self, path: str | Path, n_genes: int):
        self._path, self._n_genes = path, n_genes
        self._open = ExitStack()
        self.obs = self.var = None
        self.uns: Mapping[str, Any] = {}
        self.varm: Mapping[str, Any] = {}
        self._rows: dict[str, list[np.ndarray]] = {}
        self._waiting: dict[str, np.ndarray] = {}  # for a whole chunk of the file

    def __enter__(self) -> CellWriter:
        self._file = self._open.enter_context(files.written_h5(self._path))
        return self

    def append(self, X: Matrix, **layers: Matrix) -> None:
        """Write the next rows: matrices of the same shape, CSR or dense (alike in every chunk); stored as float32."""
        for name, matrix in {"X": X, **{f"layers/{key}": layer for key, layer in layers.items()}}.items():
            if isinstance(matrix, np.ndarray):
                self._add(name, matrix.astype(np.float32, copy=False))
                continue
            for part, dtype in _STORED.items():
                self._add(f"{name}/{part}", getattr(matrix, part).astype(dtype, copy=False))
            self._rows.setdefault(name, []).append(np.diff(matrix.indptr))

    def _add(self, key: str, values: np.ndarray) -> None:
        """Store whole chunks of the file, and keep the rest until more comes."""
        waiting = np.concatenate([self._waiting.get(key, values[:0]), values])
        whole = len(waiting) - len(waiting) % _in_a_chunk(values)
        self._store(key, waiting[:whole])
        self._waiting[key] = waiting[whole:].copy()

    def _store(self, key: str, values: np.ndarray) -> None:
        if key not in self._file:
            width = values.shape[1:]
            options = {"maxshape": (None, *width), "chunks": (_in_a_chunk(values), *width), **files.CHECKED}
            self._file.create_dataset(key, (0, *width), values.dtype, **options)
        stored = self._file[key]
        stored.resize(len(stored) + len(values), axis=0)
        stored[len(stored) - len(values) :] = values
        stored.flush()  # a full disk is noticed here, and not when nobody listens

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, *__: object) -> None:
        with self._open:
            if error is not None:
                raise error
            self._finish()

    def _finish(self) -> None:
        for key, values in self._waiting.items():
            self._store(key, values)
            if values.ndim > 1:
                self._file[key].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for name, lengths in self._rows.items():
            group, indptr = self._file[name], np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
            small = indptr[-1] <= np.iinfo(np.int32).max
            group.create_dataset("indptr", data=indptr.astype(np.int32) if small else indptr, **files.CHECKED)
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
            group.attrs["shape"] = np.array([len(indptr) - 1, self._n_genes])
        # What the library itself writes around X: without X here, since it would read one that is given.
        parts = {"obs": self.obs, "var": self.var, "uns": dict(self.uns), "varm": dict(self.varm)}
        for name, part in parts.items():
            files.write_element(self._file, name, part)
        for name in ("layers", "obsm", "obsp", "varp"):
            self._file.require_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _in_a_chunk(values: np.ndarray) -> int:
    """Count the rows of a chunk of the file: ``STORED_AT_ONCE`` values, or one row."""
    return max(1, STORED_AT_ONCE // math.prod(values.shape[1:]))
