"""What every test may ask for."""

import os
from pathlib import Path

import pytest

import needs
from scgpt_bench.data.catalogue import read_checkpoints, read_datasets

# Tests run side by side, one per core: numerical libraries that each take every core would only wait for each other.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).parents[1]
MIRROR = ROOT.parent / "shared" / "data"
CONFIG = ROOT / "config"


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of small real data beside the checkout, for what has no public address; a test skips without."""
    if not MIRROR.is_dir():
        needs.missing(f"no mirror of real data at {MIRROR}")
    return MIRROR


def fetched_dataset(name: str, folder: Path) -> Path:
    dataset = read_datasets(CONFIG / "datasets.tsv")[name]
    checks = {"size": dataset.bytes, "form": dataset.format}
    return needs.fetched(dataset.address, dataset.sha256, folder / f"source.{dataset.suffix}", MIRROR, **checks)


@pytest.fixture(scope="session")
def papalexi_file(tmp_path_factory) -> Path:
    """The file of ``papalexi_2021``, alone in its folder, which can be a mirror of runs."""
    return fetched_dataset("papalexi_2021", tmp_path_factory.mktemp("papalexi_2021"))


@pytest.fixture(scope="session")
def perturbench_file(tmp_path_factory) -> Path:
    """The file of ``perturbench_devel``, alone in its folder, which can be a mirror of runs."""
    return fetched_dataset("perturbench_devel", tmp_path_factory.mktemp("perturbench_devel"))


@pytest.fixture(scope="session")
def human_arguments(tmp_path_factory) -> Path:
    """The folder of the published checkpoint ``scGPT_human``, with no file but its arguments."""
    file = read_checkpoints(CONFIG / "checkpoints.tsv")["scGPT_human"].files["args.json"]
    folder = tmp_path_factory.mktemp("scGPT_human")
    needs.fetched(file.address, file.sha256, folder / file.file, MIRROR, size=file.bytes, form="json")
    return folder
