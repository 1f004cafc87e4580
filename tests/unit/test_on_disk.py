"""Cells on disk are read and summed by chunks as if they were in memory, to the bit."""

import tracemalloc
from functools import partial

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data import on_disk
from scgpt_bench.data.on_disk import CellWriter, add_rows, batches, dense_rows, open_h5ad, row_chunks, rows
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_h5ad

X = sparse.random(23, 7, 0.4, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))


@pytest.fixture(params=["csr", "csc", "dense"])
def stored(request, tmp_path):
    """The same cells in each form that an h5ad may have."""
    form = {"csr": X, "csc": X.tocsc(), "dense": X.toarray()}[request.param]
    anndata.AnnData(form, obs=pd.DataFrame(index=[f"c{i}" for i in range(23)])).write_h5ad(tmp_path / "cells.h5ad")
    return open_h5ad(tmp_path / "cells.h5ad").X


def test_chunks_are_the_rows_in_order(stored):
    parts = [*row_chunks(stored, at_once=5 * 7)]
    assert [start for start, _ in parts] == [0, 5, 10, 15, 20]
    np.testing.assert_array_equal(sparse.vstack([sparse.csr_matrix(part) for _, part in parts]).toarray(), X.toarray())


def test_values_in_half_precision_are_read(tmp_path):
    expected = X.toarray().astype(np.float16)
    anndata.AnnData(expected).write_h5ad(tmp_path / "cells.h5ad")
    stored = open_h5ad(tmp_path / "cells.h5ad").X
    assert stored.dtype == np.float16
    assert [part.dtype for _, part in row_chunks(stored)] == [np.float32]
    np.testing.assert_array_equal(rows(stored, range(23)).toarray(), expected)


def test_chunks_without_a_wanted_row_are_not_read(stored):
    wanted = np.zeros(23, dtype=bool)
    wanted[[6, 22]] = True
    assert [start for start, _ in row_chunks(stored, at_once=5 * 7, read=wanted)] == [5, 20]


def test_rows_come_in_the_order_asked_for_with_repeats(stored):
    wanted = [20, 3, 3, 0, 22]
    np.testing.assert_array_equal(rows(stored, wanted).toarray(), X[wanted].toarray())
    assert rows(stored, []).shape == (0, 7)


@pytest.mark.parametrize("wanted", [[], range(4, 11), [0, 1, 2, 9, 20, 21, 22], [5, 3, 3]])
def test_dense_rows_are_those_asked_for(stored, wanted):
    for matrix in (stored, X, X.toarray()):
        found = dense_rows(matrix, wanted)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, X.toarray()[[*wanted]])


def test_batches_are_whole_groups_of_at_most_so_many_values():
    found = [*batches([3, 2, 9, 1, 1, 1], 10, at_once=50)]
    assert found == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert [*batches([], 10)] == []


def test_rows_that_are_read_are_never_held_twice(monkeypatch, tmp_path):
    large = sparse.random(5000, 500, 0.5, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    anndata.AnnData(large).write_h5ad(tmp_path / "cells.h5ad")
    stored = open_h5ad(tmp_path / "cells.h5ad").X
    monkeypatch.setattr(on_disk, "row_chunks", partial(row_chunks, at_once=100 * 500))
    tracemalloc.start()
    held = rows(stored, range(5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(held.data, large.data)
    assert peak < 1.5 * (held.data.nbytes + held.indices.nbytes)


def test_sums_have_the_same_bits_for_every_size_of_chunk(stored):
    groups = np.random.default_rng(1).integers(-1, 3, 23)
    results = []
    for at_once in (7, 35, 1000):
        sums = np.zeros((3, 7))
        for start, chunk in row_chunks(stored, at_once=at_once):
            add_rows(sums, chunk, groups[start : start + chunk.shape[0]])
        results.append(sums)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()
    np.testing.assert_allclose(results[0][2], np.asarray(X[groups == 2].sum(axis=0)).ravel(), rtol=1e-6)


def test_layers_are_left_out_or_on_the_disk_and_other_files_refused(tmp_path):
    adata = anndata.AnnData(X, layers={"counts": X})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert not open_h5ad(tmp_path / "cells.h5ad").layers
    asked = open_h5ad(tmp_path / "cells.h5ad", layers=["counts", "spliced"]).layers
    assert list(asked) == ["counts"]
    np.testing.assert_array_equal(rows(asked["counts"], [3, 1]).toarray(), X[[3, 1]].toarray())
    (tmp_path / "page.h5ad").write_text("<html>")
    with pytest.raises(InputError, match=r"page\.h5ad"):
        open_h5ad(tmp_path / "page.h5ad")


def test_a_file_that_was_not_finished_is_not_there(tmp_path):
    def fail():
        with CellWriter(tmp_path / "cells.h5ad", 7) as cells:
            cells.append(X)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def write(path):
    counts = np.random.default_rng(0).uniform(1, 2, (40, 50)).astype(np.float32)
    counts[:, ::2] = 0
    cells = sparse.csr_matrix(counts)
    with CellWriter(path, 50) as writer:
        for start in range(0, 40, 8):
            writer.append(cells[start : start + 8], counts=cells[start : start + 8])
        writer.obs = pd.DataFrame({"depth": np.arange(40.0)}, [f"c{i}" for i in range(40)])
        writer.obs["perturbation"] = pd.Categorical(np.resize(["G1", "G2", "control"], 40))
        writer.var = pd.DataFrame(index=[f"G{i}" for i in range(50)])
        writer.uns = {"sizes": np.arange(5)}
    return path


NUMBERS = [
    *(f"{matrix}/{part}" for matrix in ("X", "layers/counts") for part in ("data", "indices", "indptr")),
    "obs/perturbation/codes",
    "obs/depth",
    "uns/sizes",
]


@pytest.mark.parametrize("dataset", NUMBERS)
def test_one_flipped_bit_of_written_cells_is_noticed(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(on_disk, "STORED_AT_ONCE", 100)  # so that chunks are full
    content = write(tmp_path / "cells.h5ad").read_bytes()
    with h5py.File(tmp_path / "cells.h5ad") as file:
        chunk = file[dataset].id.get_chunk_info(0)
    damaged = tmp_path / "damaged.h5ad"
    for bit in np.random.default_rng(1).integers(8 * chunk.size, size=8):
        at, changed = chunk.byte_offset + bit // 8, bytearray(content)
        changed[at] ^= 1 << bit % 8
        damaged.write_bytes(changed)
        with pytest.raises(InputError, match=r"damaged\.h5ad"):
            read_h5ad(damaged)


def test_written_cells_are_those_given_in_the_same_bytes_each_time(tmp_path):
    first, again = (write(tmp_path / name) for name in ("first.h5ad", "again.h5ad"))
    assert first.read_bytes() == again.read_bytes()
    cells = read_h5ad(first)
    assert (cells.shape, list(cells.obs["perturbation"][:3])) == ((40, 50), ["G1", "G2", "control"])
    assert (cells.layers["counts"] != cells.X).nnz == 0
    assert cells.X.nnz == 40 * 25


def test_rows_that_end_before_they_begin_are_refused_though_the_chunk_ends_at_no_value(tmp_path):
    path = write(tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indptr"][1:] = 0
        file["X/indptr"][5] = 30
    with pytest.raises(InputError, match="non-decreasing"):
        rows(open_h5ad(path).X, range(40))
