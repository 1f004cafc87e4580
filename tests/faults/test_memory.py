"""Long runs do not grow: memory over a thousand batches of inference, and over fifty epochs of fine-tuning."""

import threading
import time

import anndata
import numpy as np
import pandas as pd
import psutil
import pytest
from scipy import sparse, stats

from scgpt_bench.files import read_table
from scgpt_bench.scgpt import checkpoint, finetuning, inference, model, recipe, training, vocabulary
from scgpt_bench.scgpt.encoding import Encoding

pytestmark = pytest.mark.long
MEBIBYTE = 2**20
GENES = [f"G{i}" for i in range(600)]
GROWTH = 5  # MiB over the whole run, at the upper end of the interval; one array of every batch, if kept, is 8 or more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of one narrow layer that knows all genes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokens = {name: number for number, name in enumerate([*GENES, "<pad>", "<cls>", "<eoc>"])}
    checkpoint.initialize(folder, {"embsize": 16, "nlayers": 1, "nheads": 2, "d_hid": 16}, tokens, seed=1)
    return folder


@pytest.fixture(scope="module")
def alignment(folder):
    return vocabulary.align(GENES, checkpoint.read(folder).vocabulary)


def resident() -> float:
    return psutil.Process().memory_info().rss / MEBIBYTE


def growth(samples: list[float]) -> tuple[float, float, float]:
    """Growth over the run (MiB), with the 95 % interval of the slope, from its samples without the first fifth."""
    settled = np.array(samples[len(samples) // 5 :])
    steps = np.arange(len(settled))
    slope = stats.linregress(steps, settled)
    half = stats.t.ppf(0.975, len(settled) - 2) * slope.stderr
    # plain numbers, since a property of a test travels from pytest's workers
    return tuple(float(len(settled) * value) for value in (slope.slope, slope.slope - half, slope.slope + half))


def test_a_thousand_batches_of_inference(folder, alignment, record_property):
    weights = checkpoint.read(folder)
    network = model.build(weights.arguments, weights.vocabulary)
    model.load(network, weights, seed=0)
    controls = np.random.default_rng(0).gamma(2.0, size=(16_000, len(GENES))).astype(np.float32)
    perturbations = np.repeat(["G0", "G1"], 8000)
    encoding = Encoding.of(perturbations, alignment, weights.vocabulary)
    samples = []
    for _ in inference.predict(
        network, controls, pd.DataFrame({"perturbation": perturbations}), encoding, batch_size=16, progress=False
    ):
        samples.append(resident())
    assert len(samples) == 1000
    most = growth(samples)
    record_property("growth in MiB, with its interval", most)
    assert most[2] < GROWTH, most


def test_fifty_epochs_of_fine_tuning(folder, alignment, tmp_path, record_property):
    names = ["control", "G0", "G1", "G2", "G3"]
    obs = {"perturbation": np.repeat(names, 40), "direction": "down", "batch": "batch", "cell_type": "cell"}
    obs = pd.DataFrame(obs, dtype=str)
    X = np.random.default_rng(0).gamma(2.0, size=(len(obs), len(GENES))).astype(np.float32)
    obs.index = [f"cell{i}" for i in range(len(obs))]
    cells = anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=GENES))
    split = pd.DataFrame({"perturbation": names[1:], "role": ["train", "train", "validation", "test"]})
    options = recipe.Recipe(batch_size=8, epochs=50, patience=None, validation_cells=8)
    samples, done = [], threading.Event()

    def sample():
        while not done.is_set():
            if (tmp_path / training.HISTORY).exists():  # from the first epoch on: imports take memory too
                samples.append(resident())
            time.sleep(0.05)

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        finetuning.finetune(
            cells,
            split,
            alignment,
            folder,
            options,
            0,
            tmp_path,
            training.Machine(accelerator="cpu"),
        )
    finally:
        done.set()
        watcher.join()
    assert len(read_table(tmp_path / "history.tsv")) >= 50
    most = growth(samples)
    record_property("growth in MiB, with its interval", most)
    assert most[2] < GROWTH, most


def test_a_leak_would_be_noticed():
    generator = np.random.default_rng(0)
    steady = 500 + generator.normal(0, 2, 1000)
    assert growth(list(steady))[2] < GROWTH
    assert growth(list(steady + np.arange(1000) * 0.1))[1] > GROWTH
