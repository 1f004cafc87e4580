"""A model that learns on a GPU predicts there what it predicts on the CPU, and learns the same when it learns again.

All of it runs on the CPU too.
"""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scgpt_bench.options import Hardware
from scgpt_bench.scgpt import (
    attention,
    checkpoint,
    devices,
    finetuned_model,
    finetuning,
    generation,
    inference,
    masked_model,
    pretraining,
    recipe,
    training,
)
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.encoding import Encoding
from scgpt_bench.scgpt.vocabulary import align

GENES = [f"GENE{i}" for i in range(24)]
MEASURED = GENES[:22]
PERTURBATIONS = {"GENE1": "train", "GENE2+GENE3": "train", "GENE23": "train", "GENE5": "validation"}  # 23: unmeasured
SPLIT = pd.DataFrame({"perturbation": list(PERTURBATIONS), "role": list(PERTURBATIONS.values())})
# Padded cells and the second pass from the first step on: every part of the loss.
PRETRAINING = pretraining.PretrainingOptions(
    embsize=16, nheads=2, d_hid=16, nlayers=2, dropout=0.0, learning_rate=1e-2, warm_up=5, epochs=3, batch_size=32,
    second_pass_after=0, held_out=0.2,
)  # fmt: skip
FINETUNING = recipe.Recipe(learning_rate=3e-3, batch_size=8, epochs=3, validation_cells=8)
# What torch.use_deterministic_algorithms says that it refuses on a GPU (torch 2.13), by names of operators.
REFUSED = re.compile(
    r"_*(adaptive_|avg_pool3d|fractional_|max_unpool|upsample|reflection_pad|nll_loss|ctc_loss|embedding_bag|put_?$|histc"
    "|bincount|kthvalue|median|nanmedian|grid_sampler|cumsum|scatter_reduce)"
)
HALF_TOLERANCE = 2e-2  # bf16 keeps 8 bits, and a GPU without it takes fp16; bf16 on a CPU moved predictions by 1e-3


def expression(n_cells, seed):
    """[cells x genes] counts; a gene has its own level, and those of each of 4 modules rise and fall together."""
    generator = np.random.default_rng(seed)
    activity = np.repeat(generator.normal(size=(n_cells, 4)), 6, axis=1)
    return generator.poisson(np.exp(np.tile(np.linspace(-1, 3, 6), 4) + activity / 2)).astype(np.float32)


def pretrain(folder, device):
    cells = pretraining.MatrixSource(sp.csr_matrix(expression(400, seed=0)))
    pretraining.pretrain(cells, GENES, folder, PRETRAINING, 1, training.Machine(accelerator=device.type))
    return folder


def finetune(folder, device, pretrained, alignment):
    machine = training.Machine(accelerator=device.type)
    finetuning.finetune(experiment(), SPLIT, alignment, pretrained, FINETUNING, 0, folder, machine)
    return folder


@pytest.fixture(scope="module")
def pretrained(device, tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pretrained"), device)


def experiment():
    """Control cells and cells whose last genes rise; measured targets are lost."""
    names = np.repeat(["control", *PERTURBATIONS], [40, 12, 12, 12, 12])
    values = np.log1p(expression(len(names), seed=1)[:, : len(MEASURED)])
    values[names != "control", 18:] += 1
    for row, name in enumerate(names):
        values[row, np.isin(MEASURED, name.split("+"))] = 0
    labels = {"perturbation": names, "direction": "down", "batch": "1", "cell_type": "T", "half": "input"}
    obs = pd.DataFrame(labels, index=[f"cell{i}" for i in range(len(names))])
    return anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=MEASURED))


@pytest.fixture(scope="module")
def alignment(pretrained):
    return align(MEASURED, checkpoint.read(pretrained).vocabulary)


@pytest.fixture(scope="module")
def finetuned(device, pretrained, alignment, tmp_path_factory):
    return finetune(tmp_path_factory.mktemp("finetuned"), device, pretrained, alignment)


class Operators(TorchDispatchMode):
    """Collects the names of the operators that are called within; on a GPU, without those of backward passes."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*arguments, **(options or {}))


@pytest.fixture(scope="module")
def again(device, pretrained, alignment, tmp_path_factory):
    """The folders of both trainings, run once more, and the operators that they called."""
    folder = tmp_path_factory.mktemp("again")
    with Operators() as operators:
        folders = pretrain(folder / "one", device), finetune(folder / "other", device, pretrained, alignment)
    return folders, operators.names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: tests/parity ran on the CPU alone")
def test_a_job_with_a_gpu_computes_on_it_in_half_precision():
    assert training.machine(Hardware(gpu=1).model_dump()).fabric().device.type == "cuda"
    assert devices.device_of(1).type == "cuda"
    assert devices.number_type(devices.device_of(1)) in attention.HALF


def assert_trained(folder, weights, falling):
    """The error fell, no loss was NaN, and the weights can be read where there is no GPU."""
    history = pd.read_table(folder / training.HISTORY)
    assert np.isfinite(history.drop(columns="peak_share")).all(axis=None)  # which is not known of a CPU
    assert history[falling].iloc[-1] < 0.9 * history[falling].iloc[0]
    # Without map_location tensors are put where they were saved from.
    assert {tensor.device.type for tensor in torch.load(folder / weights, weights_only=True).values()} == {"cpu"}


def assert_same_on_the_cpu(predicted, device, tolerance):
    """``predicted`` (device -> array) agrees within a share of its largest value, and not by being a constant."""
    expected, found = predicted(torch.device("cpu")), predicted(device)
    assert expected.std() > 2 * tolerance * np.abs(expected).max()
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_a_pretrained_model_generates_what_it_generates_on_the_cpu(device, tolerance, pretrained):
    assert_trained(pretrained, checkpoint.WEIGHTS, "held_out_loss")
    network, weights = masked_model.load(pretrained)
    bins, _ = bin_cells(expression(20, seed=2), PRETRAINING.n_bins)
    known = np.tile(np.arange(len(GENES)) % 2 == 0, (20, 1))

    def generated(device):
        prompter = generation.Prompter.of(network.to(device), weights, np.arange(len(GENES)))
        return prompter.generate(bins, known)[~known]

    assert_same_on_the_cpu(generated, device, tolerance)  # in fp32 everywhere: its attention is masked


def test_a_fine_tuned_model_predicts_what_it_predicts_on_the_cpu(device, pretrained, alignment, finetuned):
    assert_trained(finetuned, finetuned_model.MODEL, "loss")
    weights = checkpoint.read(pretrained)
    generator = finetuned_model.load(finetuned, weights)
    encoding = Encoding.of(PERTURBATIONS, alignment, weights.vocabulary)
    controls = experiment()[: 4 * 8].X
    names = np.repeat(list(PERTURBATIONS), 8)

    def predicted(device):
        arguments = generator.to(device), controls, pd.DataFrame({"perturbation": names}), encoding
        return np.concatenate([values for _, values in inference.predict(*arguments, progress=False)])

    assert_same_on_the_cpu(predicted, device, HALF_TOLERANCE)


def test_a_training_that_is_run_again_ends_with_the_same_weights(pretrained, finetuned, again):
    names = checkpoint.WEIGHTS, finetuned_model.MODEL
    for name, *folders in zip(names, (pretrained, finetuned), again[0], strict=True):
        weights, repeated = (torch.load(folder / name, weights_only=True) for folder in folders)
        assert all(torch.equal(tensor, repeated[key]) for key, tensor in weights.items())


def test_no_operator_of_a_training_is_one_that_pytorch_refuses_on_a_gpu(again):
    _, names = again
    assert "embedding" in names
    assert not [name for name in names if REFUSED.match(name)]
