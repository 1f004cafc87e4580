"""Long runs do not grow: memory over a thousand batches of inference, and over fifty epochs of fine-tuning."""

import threading
import time

import numpy as np
import psutil
import pytest
from scipy import stats

from bad_input import study
from scgpt_bench.files import read_h5ad, read_table
from scgpt_bench.scgpt import checkpoint, finetuning, inference, model, training

pytestmark = pytest.mark.long
MEBIBYTE = 2**20
GROWTH = 30  # MiB over the whole run, at the upper end of the interval; a lost batch or epoch of tensors would be more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    study.write(folder)
    return folder


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


def test_a_thousand_batches_of_inference(folder, record_property):
    weights = checkpoint.read(folder / "mine")
    network = model.build(weights.arguments, weights.vocabulary)
    model.load(network, weights, seed=0)
    alignment = read_table(folder / "vocabulary.tsv")
    cells = read_h5ad(folder / study.FOLD / "controls.h5ad").X.toarray()
    controls = np.tile(cells, (8000 // len(cells) + 1, 1))[:8000]
    perturbations = np.array(["G0"] * 4000 + ["G1"] * 4000)
    told = inference.conditions(perturbations, alignment, weights.vocabulary)
    samples = []
    for _ in inference.predict(
        network, controls, perturbations, told, alignment["token_id"].to_numpy(), batch_size=8, progress=False
    ):
        samples.append(resident())
    assert len(samples) == 1000
    most = growth(samples)
    record_property("growth in MiB, with its interval", most)
    assert most[2] < GROWTH, most


def test_fifty_epochs_of_fine_tuning(folder, tmp_path, record_property):
    options = finetuning.Options(
        **{"batch_size": 8, "epochs": 50, "patience": None, "validation_cells": 8},
        pretrained=checkpoint.PRETRAINED_PREFIXES,
    )
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
            read_h5ad(folder / "results" / "drop" / "cells.h5ad"),
            read_table(folder / study.FOLD / "split.tsv"),
            read_table(folder / "vocabulary.tsv"),
            folder / "mine",
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
