"""Cells that several processes share: the same rows, counted once in all of them."""

import multiprocessing
import shutil

import anndata
import numpy as np
import pytest
from scipy import sparse

from scgpt_bench.data import mapped
from scgpt_bench.data.mapped import map_rows, mapped_rows, write_rows
from scgpt_bench.data.on_disk import open_h5ad, rows
from scgpt_bench.files import matrix_sha256

X = sparse.random(23, 7, 0.4, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
WANTED = np.array([0, 3, 4, 11, 22])


@pytest.fixture(params=["sparse", "dense", "sparse on disk", "dense on disk"])
def cells(request, tmp_path):
    values = X if "sparse" in request.param else X.toarray()
    if "disk" not in request.param:
        return values
    anndata.AnnData(values).write_h5ad(tmp_path / "cells.h5ad")
    return open_h5ad(tmp_path / "cells.h5ad").X


@pytest.mark.parametrize("largest", [mapped.LARGEST, 4])  # as if 4 were the largest number of 32 bits
def test_what_is_mapped_are_the_rows_that_would_be_read_also_when_the_files_are_gone(
    cells, tmp_path, monkeypatch, largest
):
    monkeypatch.setattr(mapped, "LARGEST", largest)
    monkeypatch.setattr(mapped, "AT_ONCE", 5)
    write_rows(cells, WANTED, tmp_path / "rows")
    found, expected = map_rows(tmp_path / "rows"), rows(cells, WANTED)
    shutil.rmtree(tmp_path / "rows")
    assert found.indices.dtype == found.indptr.dtype == (np.int32 if largest > 4 else np.int64)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    np.testing.assert_array_equal(found[[4, 0, 0]].toarray(), expected.toarray()[[4, 0, 0]])
    if largest > 4:
        assert matrix_sha256(found) == matrix_sha256(expected)
    with pytest.raises(ValueError, match="read-only"):
        found.data[0] = 1


def test_no_file_stays_of_rows_that_were_mapped_or_could_not_be(tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    np.testing.assert_array_equal(mapped_rows(X, WANTED, folder).toarray(), X[WANTED].toarray())
    assert not folder.exists()
    monkeypatch.setattr(mapped, "map_rows", lambda folder: (folder / "absent").read_bytes())
    with pytest.raises(FileNotFoundError):
        mapped_rows(X, WANTED, folder)
    assert not folder.exists()


def test_an_annotated_matrix_of_mapped_rows_copies_none_of_them(tmp_path):
    write_rows(X, WANTED, tmp_path)
    found = map_rows(tmp_path)
    held = anndata.AnnData(found).X
    assert np.shares_memory(held.data, found.data)
    assert np.shares_memory(held.indices, found.indices)


def test_cells_without_a_value_are_mapped(tmp_path):
    write_rows(sparse.csr_matrix((5, 3), dtype=np.float32), [1, 2], tmp_path)
    assert (map_rows(tmp_path).toarray() == np.zeros((2, 3))).all()


def proportional_set_size():
    """Bytes of this process; of what n processes share, each has a share of 1 / n."""
    with open("/proc/self/smaps_rollup") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def use(folder, together, grown):
    before = proportional_set_size()
    held = map_rows(folder)
    assert held.data.sum() + held.indices.sum() > 0  # every page is read
    together.wait(60)
    grown.put(proportional_set_size() - before)
    together.wait(60)


def test_what_two_processes_share_counts_once_in_both(tmp_path):
    many = sparse.csr_matrix(np.ones((4000, 1000), dtype=np.float32))
    write_rows(many, range(4000), tmp_path)
    forked, summed = multiprocessing.get_context("fork"), {}
    for number in (1, 2):
        together, grown = forked.Barrier(number), forked.Queue()
        processes = [forked.Process(target=use, args=(tmp_path, together, grown)) for _ in range(number)]
        for process in processes:
            process.start()
        summed[number] = sum(grown.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
    assert summed[1] > 0.9 * (many.data.nbytes + many.indices.nbytes), "the cells are not in memory"
    assert summed[2] < 1.3 * summed[1]
