"""Cells that stay on disk: read and written in chunks of rows, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import anndata
import h5py
import numpy as np
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.errors import InputError

VALUES_AT_ONCE = 2**25  # of a chunk, if it were dense: 256 MiB in float64
STORED_AT_ONCE = 2**20  # values of a chunk inside an HDF5 file
Matrix: TypeAlias = sparse.csr_matrix | np.ndarray


def open_h5ad(path: str | Path, where: str = "/", layers: Sequence[str] = ()) -> anndata.AnnData:
    """The cells of an h5ad file, or of a group ``where`` of an HDF5 file that is laid out like one.

    ``X`` stays on disk when it is stored by rows (CSR or dense): read it with :func:`row_chunks` or :func:`rows`.
    Stored by genes (CSC) it is read as a whole, since every row would take a pass over all of it. The same is true of
    those of ``layers`` that the file has; other layers are left out. ``obs``, ``var`` and ``uns`` are read.

    Raises
    ------
    InputError
        For another kind of file, or one without X.
    """
    try:
        file = h5py.File(path)
        files.refuse_other_files(path, file, set())
        stored = file[where]
        wanted = ["obs", "var", *(["uns"] if "uns" in stored else [])]
        parts = {name: anndata.io.read_elem(stored[name]) for name in wanted}
        if "X" not in stored or stored["X"].attrs.get("encoding-type") == "null":
            raise InputError(path, "X", "nothing", "a matrix of cells x genes")
        parts["layers"] = {name: _matrix(path, stored["layers"], name) for name in layers if f"layers/{name}" in stored}
        return anndata.AnnData(_matrix(path, stored, "X"), **parts)
    except InputError:
        raise
    except Exception as error:  # h5py and anndata raise a dozen types for a broken file
        expected = "an AnnData file (h5ad) with X" if where == "/" else f"an AnnData with X in {where}"
        raise InputError(path, "file", files.first_line(error), expected) from None


def _matrix(path: str | Path, group: h5py.Group, name: str) -> Any:
    X = group[name]
    if isinstance(X, h5py.Group):
        X = anndata.io.sparse_dataset(X)
        X = X if X.format == "csr" else files.valid(X.to_memory()).tocsr()
    if X.dtype.kind not in "biuf":
        raise InputError(path, name, f"values of type {X.dtype}", "numbers")
    return X


def row_chunks(X: Any, at_once: int = VALUES_AT_ONCE, read: np.ndarray | None = None) -> Iterator[tuple[int, Matrix]]:
    """The rows of ``X``, on disk or in memory, in order: the number of a chunk's first row, and the chunk.

    Chunks without a row of the mask ``read`` are left out. A chunk of a matrix in memory is a view: do not write to it.
    """
    step = max(1, at_once // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        if read is None or read[start : start + step].any():
            if sparse.issparse(X) and X.format == "csr":
                chunk = _view(X, start, min(start + step, X.shape[0]))
            elif sparse.issparse(X) or isinstance(X, np.ndarray):
                chunk = X[start : start + step]
            else:
                chunk = _read(X, start, step)
            yield start, not_half(sparse.csr_matrix(chunk) if sparse.issparse(chunk) else np.asarray(chunk))


def not_half(chunk: Matrix) -> Matrix:
    """The same values in float32 where they are float16, of which SciPy makes no sparse matrix."""
    return chunk.astype(np.float32) if chunk.dtype == np.float16 else chunk


def _view(X: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Rows of ``X`` that share its memory: both slicing and the constructor would copy them."""
    first, last = X.indptr[start], X.indptr[stop]
    view = sparse.csr_matrix((stop - start, X.shape[1]), dtype=X.dtype)
    view.data, view.indices, view.indptr = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
    return view


def _read(X: Any, start: int, number: int) -> Matrix:
    """Rows of a matrix on disk, refused if they are broken."""
    try:
        chunk = X[start : start + number]
        return files.valid(chunk) if sparse.issparse(chunk) else chunk
    except OSError as error:
        raise InputError(_path(X), "file", files.first_line(error), "an undamaged AnnData file (h5ad)") from None
    except Exception as error:
        raise InputError(_path(X), "X", files.first_line(error), "a valid sparse matrix") from None


def _path(X: Any) -> str:
    return getattr(X, "group", X).file.filename


def rows(X: Any, wanted: Sequence[int]) -> sparse.csr_matrix:
    """The rows ``wanted`` of ``X``, in that order, repeats included; ``X`` is read once.

    Memory grows by the rows themselves, and by as much again where ``wanted`` does not ascend.
    """
    distinct, position = np.unique(np.asarray(wanted, dtype=np.int64), return_inverse=True)
    mask = np.zeros(X.shape[0], dtype=bool)
    mask[distinct] = True
    data, indices, lengths = np.empty(0, np.result_type(X.dtype, np.float32)), np.empty(0, np.int32), [np.zeros(1, int)]
    for start, chunk in row_chunks(X, read=mask):
        part = sparse.csr_matrix(chunk[mask[start : start + chunk.shape[0]]])
        for grown, values in ((data, part.data), (indices, part.indices)):
            grown.resize(len(grown) + len(values), refcheck=False)  # in place: a list of parts would be held twice
            grown[len(grown) - len(values) :] = values
        lengths.append(np.diff(part.indptr))
    indptr = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    result = sparse.csr_matrix((data, indices, indptr), shape=(len(distinct), X.shape[1]))
    return result if np.array_equal(position, np.arange(len(distinct))) else result[position]


def add_rows(sums: np.ndarray, chunk: Matrix, groups: np.ndarray) -> None:
    """Add each row of ``chunk`` to the row ``groups`` of ``sums`` [groups x genes, float64]; -1 is added nowhere.

    Row after row, so that a sum has the same bits however its rows are spread over chunks.
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


class CellWriter:
    """An h5ad file that is written by chunks of rows, whole or not at all, with the checksums of files.write_element.

    As a context manager: ``append`` chunks of ``X`` and of layers, then leave with ``obs``, ``var`` and ``uns`` set.
    """

    def __init__(self, path: str | Path, n_genes: int):
        self._whole, self._n_genes = files.whole(path), n_genes
        self.obs = self.var = None
        self.uns: Mapping[str, Any] = {}
        self._rows: dict[str, list[np.ndarray]] = {}

    def __enter__(self) -> CellWriter:
        self._file = h5py.File(self._whole.__enter__(), "w")
        return self

    def append(self, X: sparse.csr_matrix, **layers: sparse.csr_matrix) -> None:
        """Write the next rows: float32 CSR matrices of the same shape."""
        for name, matrix in {"X": X, **{f"layers/{key}": layer for key, layer in layers.items()}}.items():
            group = self._file.require_group(name)
            for part, dtype in (("data", np.float32), ("indices", np.int32)):
                values = getattr(matrix, part)
                if part not in group:
                    group.create_dataset(part, (0,), dtype, maxshape=(None,), chunks=(STORED_AT_ONCE,), **files.CHECKED)
                stored = group[part]
                stored.resize(len(stored) + len(values), axis=0)
                stored[len(stored) - len(values) :] = values
            self._rows.setdefault(name, []).append(np.diff(matrix.indptr))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            self._file.close()
            self._whole.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._file.close()
        return self._whole.__exit__(kind, error, trace)

    def _finish(self) -> None:
        for name, lengths in self._rows.items():
            group, indptr = self._file[name], np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
            small = indptr[-1] <= np.iinfo(np.int32).max
            group.create_dataset("indptr", data=indptr.astype(np.int32) if small else indptr, **files.CHECKED)
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
            group.attrs["shape"] = np.array([len(indptr) - 1, self._n_genes])
        # What the library itself writes around X: without X here, since it would read one that is given.
        for name, table in (("obs", self.obs), ("var", self.var), ("uns", dict(self.uns))):
            files.write_element(self._file, name, table)
        for name in ("layers", "obsm", "varm", "obsp", "varp"):
            self._file.require_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
