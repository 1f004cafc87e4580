"""Hostile input executes nothing, reads no other file and writes nothing outside resources/ and results/."""

import json
import shutil
import struct
import zipfile

import h5py
import numpy as np
import pytest

from bad_input import study
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_h5ad
from scgpt_bench.scgpt import checkpoint

SHELL = "$(touch EXECUTED)`touch EXECUTED`;touch EXECUTED;&|'\" "
HTML = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    study.write(folder)
    return folder


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "study")


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(8)


def header(shape: list[int], end: int = 8) -> bytes:
    return json.dumps({"encoder.embedding.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        safetensors(header([2]), 2**63),
        safetensors(header([2]), 2**40),
        safetensors(header([2**40, 2**40])),
        safetensors(header([2**62, 4])),
        safetensors(header([-1, -2])),
        safetensors(header([2], 2**62)),
        safetensors(b'{"a":' * 100_000),
    ],
    ids=["length of 2^63", "length of 2^40", "2^80 numbers", "overflow", "negative", "beyond the end", "deep"],
)
def test_safetensors_with_absurd_sizes_are_refused(folder, content):
    (folder / "mine" / "best_model.pt").unlink()
    (folder / "mine" / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: file: found"):
        checkpoint.read(folder / "mine")


def test_an_archive_entry_that_climbs_up_is_refused_and_written_nowhere(folder):
    before = set(folder.parent.rglob("*"))
    with zipfile.ZipFile(folder / "mine" / "best_model.pt", "a") as archive:
        for name in ("../../climbed", "/climbed", "best_model/../../../climbed"):
            archive.writestr(name, "x")
    with pytest.raises(InputError, match=r"file: found .*climbed"):
        checkpoint.read(folder / "mine")
    assert set(folder.parent.rglob("*")) == before


def external_link(group, name, secret):
    group[name] = h5py.ExternalLink(secret, "/X")


def soft_link(group, name, secret):
    group[name] = h5py.SoftLink("/X")


def external_storage(group, name, secret):
    group.create_dataset(name, shape=(6,), dtype="u1", external=[(secret, 0, 6)])


def virtual(group, name, secret):
    layout = h5py.VirtualLayout(shape=(2, 2), dtype="f8")
    layout[:] = h5py.VirtualSource(secret, "X", shape=(2, 2))
    group.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("trick", [external_link, soft_link, external_storage, virtual])
@pytest.mark.parametrize("place", ["obs/gene", "X", "obs", "var", "X/indices", "obs/_index"])
def test_an_h5ad_reads_no_other_file(folder, trick, place):
    secret = str(folder / "secret")
    with h5py.File(secret, "w") as file:
        file["X"] = np.ones((2, 2))

    def change(file):
        del file[place]
        parent, _, name = place.rpartition("/")
        trick(file[parent or "/"], name, secret)

    study.hdf5("drop.h5ad", change)(folder)
    with pytest.raises(InputError):
        read_h5ad(folder / "drop.h5ad")
    done = study.JOBS["harmonize"].run(folder)
    assert done.status == 1
    assert "; expected " in done.terminal


@pytest.mark.parametrize("trick", [external_link, soft_link, external_storage, virtual])
def test_another_file_where_nothing_is_read_is_not_read(folder, trick):
    study.hdf5("drop.h5ad", lambda file: trick(file["uns"], "link", str(folder / "secret")))(folder)
    with pytest.raises(InputError, match="expected data in the file itself"):
        read_h5ad(folder / "drop.h5ad")  # reads all of it
    assert study.JOBS["harmonize"].run(folder).status == 0


@pytest.mark.parametrize("hostile", ["..\\climbed", HTML, "$(touch EXECUTED)", "$x^{2$", "a\\b\nc"])
def test_a_name_in_the_cells_is_text_and_nothing_else(folder, hostile):
    """A perturbation, a gene and a cell of this name go through every job."""

    def change(cells):
        cells.obs["gene"] = cells.obs["gene"].astype(str).replace("G1", hostile)
        cells.var_names = [hostile if name == "G1" else name for name in cells.var_names]
        cells.obs_names = [hostile if name == "cell5" else name for name in cells.obs_names]

    study.h5ad("drop.h5ad", change)(folder)
    before = set(folder.parent.rglob("*"))
    for job in ("harmonize", "split", "sample_controls", "predict_baseline", "align_vocabulary", "predict_scgpt"):
        done = study.JOBS[job].run(folder)
        assert done.status == 0, done.terminal + done.log
    new = set(folder.parent.rglob("*")) - before
    assert all((folder / "results") in path.parents for path in new)
    assert hostile in set(read_h5ad(folder / "predictions.h5ad").var_names)


@pytest.mark.parametrize("hostile", ["/X", "../../../climbed", "G1/climbed"])
def test_a_perturbation_that_is_a_path_is_refused(folder, hostile):
    """It would be one inside HDF5 files, where columns are named after perturbations."""

    def change(cells):
        cells.obs["gene"] = cells.obs["gene"].astype(str).replace("G1", hostile)

    study.h5ad("drop.h5ad", change)(folder)
    done = study.JOBS["harmonize"].run(folder)
    assert done.status == 1
    assert f"found the label {hostile!r}, which is a path; expected a name without '/'" in done.terminal
