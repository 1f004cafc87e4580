"""Cells that are read many times: rows of a matrix in files that a process maps into its memory.

What is mapped counts once for all processes of a machine. The system may drop it and read it again, so a training needs
memory for its model and a batch, not for its cells.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from scgpt_bench.data.on_disk import number_type, row_chunks
from scgpt_bench.files import disk_errors

LARGEST = np.iinfo(np.int32).max  # values whose positions 32 bits can count
AT_ONCE = 2**24  # values


def write_rows(X: Any, wanted: Sequence[int], folder: Path) -> None:
    """Write rows of ``X`` [cells x genes], on disk or in memory, as the arrays of a CSR matrix, chunk by chunk.

    Parameters
    ----------
    wanted
        Ascending, each once.
    folder
        Gets the files; what is there is replaced.
    """
    wanted = np.asarray(wanted, dtype=np.int64)
    mask = np.zeros(X.shape[0], dtype=bool)
    mask[wanted] = True
    dtype, lengths = np.result_type(number_type(X.dtype), np.float32), [np.zeros(1, np.int64)]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
            for start, chunk in row_chunks(X, read=mask):
                part = sparse.csr_matrix(chunk[mask[start : start + chunk.shape[0]]])
                data.write(np.ascontiguousarray(part.data, dtype))  # `tofile` does not say why it fails
                indices.write(np.ascontiguousarray(part.indices, np.int32))
                lengths.append(np.diff(part.indptr).astype(np.int64))
        indptr = np.cumsum(np.concatenate(lengths))
        if indptr[-1] > LARGEST:
            _widen(folder / "indices")
        np.savez(folder / "about.npz", indptr=indptr, n_genes=X.shape[1], dtype=np.empty(0, dtype))


def map_rows(folder: Path) -> sparse.csr_matrix:
    """Map what :func:`write_rows` has written: a matrix that cannot be written to.

    The files may be removed then. Their content stays until no process maps it.
    """
    about = np.load(folder / "about.npz")
    indptr = about["indptr"]
    index_type = np.int64 if indptr[-1] > LARGEST else np.int32  # one for both arrays, or SciPy would copy them
    matrix = sparse.csr_matrix((len(indptr) - 1, int(about["n_genes"])), dtype=about["dtype"].dtype)
    matrix.data, matrix.indices = _map(folder / "data", matrix.dtype), _map(folder / "indices", index_type)
    matrix.indptr = indptr.astype(index_type)
    return matrix


def mapped_rows(X: Any, wanted: Sequence[int], folder: Path) -> sparse.csr_matrix:
    """Write rows of ``X`` to ``folder`` (:func:`write_rows`), map them, and remove the folder, also if that fails."""
    try:
        write_rows(X, wanted, folder)
        return map_rows(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _map(path: Path, dtype: Any) -> np.ndarray:
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.empty(0, dtype)


def _widen(path: Path) -> None:
    """Rewrite a file of 32-bit integers with 64 bits."""
    wide = path.with_suffix(".wide")
    with path.open("rb") as narrow, wide.open("wb") as file:
        while len(part := np.fromfile(narrow, np.int32, AT_ONCE)):
            file.write(part.astype(np.int64))
    os.replace(wide, path)
