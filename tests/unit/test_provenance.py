"""Provenance lists inputs by checksum, versions and hardware."""

import subprocess

import pytest

from made_up import method_record
from scgpt_bench import provenance, verification
from scgpt_bench.data.download import recorded_sha256
from scgpt_bench.errors import InputError
from scgpt_bench.files import remembered_sha256, sha256
from scgpt_bench.method_record import write_record


def test_inputs_are_listed_by_checksum(tmp_path):
    (tmp_path / "drop.h5ad").write_text("cells")
    document = provenance.describe({"datasets": ["x"]}, [], [tmp_path / "drop.h5ad"], [], [])
    assert document["inputs"] == [{"path": str(tmp_path / "drop.h5ad"), "sha256": sha256(tmp_path / "drop.h5ad")}]
    assert document["versions"]["python"].startswith("3.")
    assert document["hardware"]["cores"] >= 1


def test_gpus_are_those_that_the_driver_lists(tmp_path):
    assert provenance._gpus(tmp_path / "no driver") == []
    for number, model in enumerate(["NVIDIA A100-SXM4-80GB", "NVIDIA H200"]):
        folder = tmp_path / "gpus" / f"0000:{number}b:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 24{number}\n")
    assert provenance._gpus(tmp_path / "gpus") == ["NVIDIA A100-SXM4-80GB", "NVIDIA H200"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run from a folder of Cell Ranger's with calls of guides in it; repeating it calls no Snakemake."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    folder = tmp_path / "run" / "filtered"
    folder.mkdir(parents=True)
    for name in ("matrix.mtx", "calls.csv"):
        (folder / name).write_text(name)
    (tmp_path / "scratch").mkdir()
    return tmp_path


def document(**lists):
    return {"configuration": {"mirrors": []}, "own_files": [], "inputs": [], "results": [], **lists}


def test_device_and_versions_are_those_that_scgpts_predictions_state(tmp_path):
    told = {"device": "NVIDIA H200", "versions": {"torch": "2.12.0"}}
    trained = {"device": "NVIDIA A100-SXM4-80GB", "versions": {"torch": "2.11.0"}}
    paths = [tmp_path / f"{name}.json" for name in ("finetuned", "prompted")]
    for path, kind in zip(paths, ("scgpt-finetuned", "scgpt-knockout"), strict=True):
        made = method_record(kind)
        scgpt = made.scgpt.model_copy(update=told)
        finetuning = made.finetuning and made.finetuning.model_copy(update=trained)
        write_record(made.model_copy(update={"scgpt": scgpt, "finetuning": finetuning}), path)
    found = provenance.computed_on(reversed(paths))
    assert found == [
        {"path": str(paths[0]), "prediction": told, "finetuning": trained},
        {"path": str(paths[1]), "prediction": told},
    ]
    machine = {"revision": provenance.revision(), "hardware": provenance.hardware()}
    lines = verification.surroundings({**machine, "versions": provenance.installed_versions(), "scgpt": found})
    assert [line.split(" in the run")[0] for line in lines] == ["torch: 2.11.0", "torch: 2.12.0"]


def test_a_folder_of_the_users_has_the_checksum_that_its_fetching_follows(run):
    (listed,) = provenance.checksums(["run"])
    assert listed == {"path": "run", "sha256": remembered_sha256("run", "checksums")}
    own = document(own_files=provenance.checksums(["run", "run/filtered/calls.csv"]))
    verification.repeat(own, run, run / "scratch")
    assert (run / "scratch" / "run" / "filtered" / "calls.csv").read_text() == "calls.csv"
    (run / "run" / "filtered" / "matrix.mtx").write_text("another")
    with pytest.raises(InputError, match="as in the run"):
        verification.repeat(own, run, run / "scratch")


def test_a_repeated_run_accepts_no_other_bytes_than_those_that_were_downloaded(run):
    inputs = [{"path": "resources/datasets/drop/unverified/source.h5ad", "sha256": "a" * 64}]
    verification.repeat(document(inputs=inputs), run, run / "scratch")
    fetched = run / "scratch" / "resources" / "datasets" / "drop" / "unverified" / "source.h5ad"
    assert recorded_sha256(fetched) == "a" * 64
    with pytest.raises(InputError, match="below the folder of the run"):
        verification.repeat(document(inputs=[{**inputs[0], "path": "../source.h5ad"}]), run, run / "scratch")
