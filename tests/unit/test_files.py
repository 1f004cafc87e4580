"""Output files are whole or absent."""

import multiprocessing

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from scgpt_bench.errors import InputError
from scgpt_bench.files import (
    atomic_write,
    read_h5ad,
    read_table,
    remembered_sha256,
    sha256,
    write_h5ad,
    write_json,
    write_table,
)


def test_a_failure_leaves_nothing_behind_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("before")

    def fail():
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.tsv"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "checkpoint"
    for name in ("old", "new"):
        with atomic_write(folder) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [entry.name for entry in folder.iterdir()] == ["new"]


def test_what_a_kill_left_is_replaced(tmp_path):
    (tmp_path / ".a.txt.partial").mkdir()
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_tables_keep_every_digit_and_genes_named_like_missing_values(tmp_path):
    table = pd.DataFrame({"gene": ["NA", "NAN", "STAT1"], "value": [1 / 3, np.nan, 1e-300]})
    write_table(table, tmp_path / "table.tsv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.tsv"), table)


def test_names_that_are_numbers_stay_text(tmp_path):
    table = pd.DataFrame({"perturbation": ["100", "0200"], "gene": ["1", "2"], "n_cells": [30, 30]})
    write_table(table, tmp_path / "table.tsv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.tsv"), table)


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json({"value": float("nan")}, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_remembered_checksum_follows_the_content_and_not_the_time(tmp_path):
    drop, memory = tmp_path / "drop.h5ad", tmp_path / "checksums"
    drop.write_text("cells")
    first = remembered_sha256(drop, memory)
    assert first == sha256(drop)
    drop.touch()
    assert remembered_sha256(drop, memory) == first
    drop.write_text("other cells")
    assert remembered_sha256(drop, memory) == sha256(drop) != first


def test_a_drop_that_is_gone_is_remembered_and_an_unknown_one_is_not(tmp_path):
    drop, memory = tmp_path / "drop.h5ad", tmp_path / "checksums"
    drop.write_text("cells")
    first = remembered_sha256(drop, memory)
    drop.unlink()
    assert remembered_sha256(drop, memory) == first
    assert remembered_sha256(tmp_path / "other", memory) is None


def test_many_processes_may_ask_for_checksums_at_once(tmp_path):
    """As jobs on a cluster do when they read the workflow: none fails, and nothing that one has read is forgotten."""
    memory, drops = tmp_path / "checksums", [tmp_path / f"drop{number}.h5ad" for number in range(8)]
    for drop in drops:
        drop.write_text(drop.name)
    asked = [(drop, memory) for drop in drops * 40]
    with multiprocessing.get_context("fork").Pool(8) as pool:
        sums = pool.starmap(remembered_sha256, asked, chunksize=1)
    assert sums == [sha256(drop) for drop in drops] * 40
    for drop in drops:
        drop.unlink()
    assert [remembered_sha256(drop, memory) for drop in drops] == sums[: len(drops)]


@pytest.mark.parametrize("group", ["uns", "uns/inner", "/"])
def test_a_second_link_to_a_group_is_refused(tmp_path, group):
    """Or a small file could be made that takes hours to read: each level doubles what AnnData reads."""
    path = tmp_path / "cells.h5ad"
    write_h5ad(anndata.AnnData(np.ones((2, 2)), uns={"inner": {"value": 1}}), path)
    with h5py.File(path, "r+") as file:
        file["uns/again"] = file[group]
    with pytest.raises(InputError, match="a second link to a group"):
        read_h5ad(path)
