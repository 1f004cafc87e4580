"""`make clean` removes results, and nothing by which Snakemake knows what the kept checkpoints were made from."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = [
    ".snakemake/metadata/record",
    ".venv/installed",
    "resources/checkpoints/scGPT_human/best_model.pt",
    "results/README.md",
    "results/demo/checkpoints/pretrained/best_model.pt",
    "results/demo/generated/planted/atlas.h5ad",
    "results/other/report.html",
]
REMOVED = [
    "results/demo/logs/pretrain/pretrained.log",
    "results/demo/benchmarks/pretrain/pretrained.tsv",
    "results/demo/planted/cells.h5ad",
    "results/demo/report.html",
]


@pytest.fixture
def folder(tmp_path):
    for name in KEPT + REMOVED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_make_clean_keeps_checkpoints_the_records_of_what_they_were_made_from_and_other_studies(folder):
    subprocess.run(["make", "clean"], cwd=folder, check=True)
    assert files(folder) == sorted([*KEPT, "Makefile"])


@pytest.mark.parametrize("study", ["", ".", "..", "../x", "a b", "$(touch x)"])
def test_make_clean_of_what_is_no_study_removes_nothing(folder, study):
    before = files(folder)
    done = subprocess.run(["make", "clean", f"study={study}"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected the name of a study" in done.stdout
    assert files(folder) == before


def test_make_clean_of_an_unknown_study_is_one_clear_line(folder):
    done = subprocess.run(["make", "clean", "study=other_one"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: study: found 'other_one'; expected a folder of results/\n" in done.stdout
