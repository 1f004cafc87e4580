"""Files with any fault (hypothesis): read for good, or refused in one line that begins with the file's name."""

import json
import pickle
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgpt_bench.data import catalogue, gene_vectors, on_disk, splits, unmeasured
from scgpt_bench.errors import InputError

ROOT = Path(__file__).parents[2]
OBS = pd.DataFrame(
    {
        "perturbation": np.repeat(["control", "A", "B", "A+B"], 3),
        "context": ["one", "one", "two"] * 4,
    }
)
ROLES = {"train": ["A+ctrl", "ctrl"], "val": ["B+ctrl"], "test": ["A+B"]}
TABLE = "perturbation\tcontext\trole\nA\tone\ttrain\nA\ttwo\ttrain\nB\tone\tvalidation\nA+B\tone\ttest\n"
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# What people and programs leave in files: other line ends and separators, quotes, numbers in other forms, no text.
PIECES = [
    b"", b"\n", b"\r", b"\r\n", b"\t", b",", b";", b'"', b"'", b" ", b"\0", b"\xff", b"\xef\xbb\xbf", b"#", b"NA",
    b"nan", b"-1", b"1e999", b"1,5", b"[", b"{", b"null", b"None", b"\x1b[31m", b"../x", b"\xe9",
    "\u202e".encode(),
]  # fmt: skip


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """``content`` with pieces put in, in place of some of its bytes; or cut, or something else altogether."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 8)) | st.just(len(content)))
        content = content[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=8)) + content[stop:]
    return content


def read_or_refused(path: Path, read) -> None:
    try:
        read(path)
    except InputError as refusal:
        line = str(refusal)
        assert "\n" not in line
        assert line.startswith(f"{path}: ")


def split(path: Path):
    return splits.read_split_file(path, OBS)


def cells(path: Path):
    found = on_disk.open_h5ad(path)
    for _ in on_disk.row_chunks(found.X):
        pass


TEXTS = {
    "split.tsv": (TABLE.encode(), split),
    "split.csv": (TABLE.replace("\t", ",").encode(), split),
    "split.json": (json.dumps(ROLES).encode(), split),
    "split.pkl": (pickle.dumps(ROLES), split),
    "list.tsv": (b"perturbation\tdirection\nA\tdown\nB+C\tup\n", unmeasured.read_list),
    "list.txt": (b"A\nB+C\n\nD\n", unmeasured.read_list),
    "vectors.tsv": (b"gene\tx\ty\nA\t1\t2.5\nB\t-3e2\t0\n", gene_vectors.read_vectors),
    "vectors.csv": (b"gene,x,y\nA,1,2.5\nB,-3e2,0\n", gene_vectors.read_vectors),
    "datasets.tsv": ((ROOT / "config" / "datasets.tsv").read_bytes(), catalogue.read_datasets),
    "checkpoints.tsv": ((ROOT / "config" / "checkpoints.tsv").read_bytes(), catalogue.read_checkpoints),
    "vectors_table.tsv": ((ROOT / "config" / "vectors.tsv").read_bytes(), catalogue.read_vector_files),
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_undamaged_file_is_read(tmp_path, name):
    content, read = TEXTS[name]
    (tmp_path / name).write_bytes(content)
    read(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [
    ("list.tsv", b"perturbation\tdirection\nA\tB+C\tup\n"),  # pandas made names of the rows of A
    ("split.csv", b'"perturbation,context,role\n"\n'),  # a line end in a name of a column
    ("split.tsv", TABLE.replace("B\tone", "B\tone\ttwo").encode()),
    ("vectors_table.tsv", TEXTS["vectors_table.tsv"][0].replace(b"https://", b"https://[", 1)),
])  # fmt: skip
def test_found_before(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: [^\n]+\Z"):
        TEXTS[name][1](tmp_path / name)


@pytest.mark.parametrize("name", TEXTS)
@given(data=st.data())
@SETTINGS
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name, data):
    content, read = TEXTS[name]
    (tmp_path / name).write_bytes(data.draw(damaged(content)))
    read_or_refused(tmp_path / name, read)


@pytest.fixture(scope="module")
def good_cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "cells.h5ad"
    X = sparse.random(12, 5, density=0.5, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    obs = OBS.set_axis([f"cell{i}" for i in range(12)])
    anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(5)])).write_h5ad(path)
    return path


@given(data=st.data())
@SETTINGS
def test_damaged_cells_are_read_or_refused_in_one_line(good_cells, tmp_path, data):
    path = tmp_path / "cells.h5ad"
    shutil.copy(good_cells, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 8))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        content[place : place + len(piece)] = piece
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    path.write_bytes(bytes(content[:cut]))
    read_or_refused(path, cells)
