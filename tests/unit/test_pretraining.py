"""Pretraining: what is masked, what is learned, and a result that is a checkpoint in scGPT's own layout."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch.utils.flop_counter import FlopCounterMode

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, masked_model, model, pretraining, recipe_version, training
from scgpt_bench.scgpt.attention import Cells
from scgpt_bench.seeding import random_generator

SMALL = pretraining.PretrainingOptions(
    embsize=32, nheads=2, d_hid=32, nlayers=2, dropout=0.0, include_zero_genes=True, learning_rate=3e-3, warm_up=5,
    epochs=10, batch_size=32, second_pass_after=None, held_out=0.2,
)  # fmt: skip
GENES = [f"GENE{i}" for i in range(24)]
VOCABULARY = {gene: i for i, gene in enumerate([*GENES, *pretraining.SPECIAL_TOKENS])}
MACHINE = training.Machine(accelerator="cpu")
LIBRARY = Path(__file__).parents[2] / "workflow" / "lib"

# Pretraining in two processes, each of which says what it does. Run as a script: folder.
JOB = """
import os, sys
import numpy as np
import scipy.sparse as sp
from scgpt_bench.scgpt import pretraining, training

score = pretraining.held_out_loss

def tell(what):
    with open(sys.argv[1] + ".told", "a") as told:  # two processes would mix their lines in one standard output
        told.write(f"process {os.environ['LOCAL_RANK']} {what}\\n")

def told(*arguments):
    tell("scores")
    return score(*arguments)

pretraining.held_out_loss = told
source = pretraining.MatrixSource(sp.csr_matrix(np.random.default_rng(0).poisson(5.0, (40, 24)).astype(np.float32)))
options = pretraining.PretrainingOptions(embsize=8, nheads=1, d_hid=8, nlayers=1, epochs=1, batch_size=8, held_out=0.2)
report = pretraining.pretrain(source, [f"GENE{i}" for i in range(24)], sys.argv[1], options, 0,
                              training.Machine("cpu", 2))
tell(f"reports {len(report) > 0}")
"""


def module_cells(n_cells=1600, seed=0):
    """Cells in which the genes of each of 4 modules rise and fall together."""
    generator = np.random.default_rng(seed)
    activity = np.repeat(generator.normal(size=(n_cells, 4)), 6, axis=1)
    return sp.csr_matrix(generator.poisson(np.exp(2.0 + 0.8 * activity)).astype(np.float32))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    report = pretraining.pretrain(pretraining.MatrixSource(module_cells()), GENES, folder, SMALL, 1, MACHINE)
    return folder, report


def test_the_held_out_loss_beats_gene_means_and_the_permuted_gene_control(pretrained):
    _, report = pretrained
    assert report["held_out_loss"] < 0.9 * report["gene_mean_loss"]
    assert report["held_out_loss"] < 0.9 * report["permuted_gene_loss"]


def test_the_result_is_a_checkpoint_that_loads_like_any_other(pretrained):
    folder, _ = pretrained
    weights = checkpoint.read(folder, masked_model.MODULES)
    assert weights.pretrained
    assert {name: tensor.shape for name, tensor in weights.tensors.items()} == checkpoint.shapes(weights.arguments, 27)
    generator = model.build(weights.arguments, weights.vocabulary)
    assert model.load(generator, weights)["n_pretrained"] > 0


def test_twelve_layers_have_the_163_tensors_of_the_published_checkpoint():
    with torch.device("meta"):
        full = pretraining.build(pretraining.PretrainingOptions(), 60_697, 60_694)
    tensors = full.state_dict()
    assert len(tensors) == 163
    assert sum(tensor.numel() for tensor in tensors.values()) == 51_330_049
    sizes = {"embsize": 512, "nlayers": 12, "d_hid": 512}
    assert {name: tensor.shape for name, tensor in tensors.items()} == checkpoint.shapes(sizes, 60_697)


def test_with_every_gene_known_it_is_the_encoder_that_fine_tuning_starts_from(pretrained):
    folder, _ = pretrained
    masked, weights = masked_model.load(folder)
    generator = model.build(weights.arguments, weights.vocabulary)
    model.load(generator, weights)
    genes = torch.arange(24).repeat(3, 1)
    values = torch.randint(0, 51, (3, 24), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        hidden, _ = masked.known(genes.flatten(), values.flatten(), Cells([24] * 3))
        x = generator.encoder(genes) + generator.value_encoder(values)
        expected = generator.transformer_encoder(x.flatten(0, 1), Cells([24] * 3))
    assert (hidden - expected).abs().max() < 1e-5


def batch_of(bins, ratio=0.5, options=SMALL, seed=0):
    batch = pretraining.masked_batch(
        bins, np.arange(24), ratio, random_generator(seed, "mask").random(bins.shape), VOCABULARY["<cls>"],
        VOCABULARY["<pad>"], options,
    )  # fmt: skip
    return pretraining._tensors(batch)


def bins_with_zeros(n_cells=5):
    generator = np.random.default_rng(3)
    return (generator.integers(1, 51, (n_cells, 24)) * (generator.random((n_cells, 24)) < 0.6)).astype(np.float32)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("include_zero_genes", [True, False])
def test_every_gene_of_a_cell_is_either_known_with_its_value_or_unknown(ratio, include_zero_genes):
    bins = bins_with_zeros()
    batch = batch_of(bins, ratio, SMALL.model_copy(update={"include_zero_genes": include_zero_genes}))
    assert (batch["known_genes"][:, 0] == 25).all()
    assert (batch["known_values"][:, 0] == SMALL.pad_value).all()
    for cell in range(len(bins)):
        present = np.arange(24) if include_zero_genes else np.flatnonzero(bins[cell])
        kept, asked = batch["known"].mask[cell, 1:], batch["unknown"].mask[cell]
        known, values = batch["known_genes"][cell, 1:][kept], batch["known_values"][cell, 1:][kept]
        unknown = batch["unknown_genes"][cell][asked]
        assert sorted([*known.tolist(), *unknown.tolist()]) == present.tolist()
        assert len(unknown) == int(len(present) * ratio)
        assert (values.numpy() == bins[cell, known]).all()
        assert (batch["unknown_values"][cell][asked].numpy() == bins[cell, unknown]).all()


def test_long_cells_are_sampled_down_and_genes_outside_the_vocabulary_left_out():
    batch = batch_of(np.ones((4, 24), dtype=np.float32), 0.5, SMALL.model_copy(update={"max_seq_len": 11}))
    assert batch["known_genes"].shape[1] + batch["unknown_genes"].shape[1] == 11
    token_ids = np.where(np.arange(24) < 20, np.arange(24), 24)
    masked = pretraining.masked_batch(
        np.ones((4, 24), dtype=np.float32), token_ids, 0.5, random_generator(0).random((4, 24)), 25, 24, SMALL
    )
    assert not (masked["unknown_genes"] == 24).any()
    assert not (masked["known_genes"] == 24).any()


def test_a_cell_is_predicted_as_it_would_be_alone(pretrained):
    masked, _ = masked_model.load(pretrained[0])
    batch = batch_of(bins_with_zeros(), 0.5, SMALL.model_copy(update={"include_zero_genes": False}))
    assert len(set(batch["known"].cells.lengths)) > 1
    together = masked(batch, second_pass=True)
    alone = [
        masked({name: each[cell : cell + 1] for name, each in batch.items()}, second_pass=True) for cell in range(5)
    ]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert (whole - torch.cat(parts)).abs().max() < 5e-4


def test_in_bf16_the_gradients_of_a_step_are_those_in_fp32_but_for_rounding():
    """Cells of different lengths, the second pass; number types of autocast as on a GPU, products in bf16."""
    torch.manual_seed(0)
    masked = pretraining.build(SMALL.model_copy(update={"dropout": 0.0}), 27, 24)
    batch = batch_of(bins_with_zeros(8), 0.5, SMALL.model_copy(update={"include_zero_genes": False}))
    truth = batch["unknown"].pack(batch["unknown_values"])
    found = []
    for half in (False, True):
        masked.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            predictions = masked(batch, second_pass=True)
        sum((each.float() - truth).square().mean() for each in predictions).backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in masked.parameters()]))
    exact, rounded = found
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 2e-2


def test_the_second_pass_predicts_from_the_cell_embedding_and_leaves_it_without_gradient(pretrained):
    masked, _ = masked_model.load(pretrained[0])
    known, passes = masked.known, []

    def watched(*arguments, **options):
        hidden, memory = known(*arguments, **options)
        hidden.retain_grad()
        passes.append(hidden)
        return hidden, memory

    masked.known = watched
    first, _, second = masked(batch_of(bins_with_zeros()), second_pass=True)
    assert (first - second).abs().max() > 1e-3
    second.sum().backward()
    assert masked.flag_encoder.weight.grad.any()
    assert len(passes) == 2
    assert passes[0].grad is None


def test_a_second_pass_that_sets_in_after_an_epoch_is_not_taken_for_a_loss_that_does_not_fall(tmp_path):
    options = SMALL.model_copy(update={"epochs": 5, "batch_size": 16, "learning_rate": 1e-4, "second_pass_after": 5})
    pretraining.pretrain(pretraining.MatrixSource(module_cells(100)), GENES, tmp_path, options, 1, MACHINE)
    history = pd.read_table(tmp_path / training.HISTORY)
    assert history["loss"][0] < history["loss"][1:].min()
    assert history["held_out_loss"].is_monotonic_decreasing


class Stopped(pretraining.MatrixSource):
    """Cells that come with SIGTERM."""

    def batches(self, rows, size, seed):
        batch = super().batches(rows, size, seed)

        def stopped(epoch, number):
            signal.raise_signal(signal.SIGTERM)
            return batch(epoch, number)

        return stopped


@pytest.mark.parametrize(
    ("seed", "message"), [(0, "resumed at epoch 1"), (1, "another run (another cells): starting anew")]
)
def test_a_state_is_resumed_with_the_same_values_alone(tmp_path, caplog, seed, message):
    options = SMALL.model_copy(update={"epochs": 1})
    with pytest.raises(training.Interrupted):
        pretraining.pretrain(Stopped(module_cells(200)), GENES, tmp_path, options, 1, MACHINE)
    with caplog.at_level("INFO"):
        cells = pretraining.MatrixSource(module_cells(200, seed))
        pretraining.pretrain(cells, GENES, tmp_path, options, 1, MACHINE)
    assert message in caplog.text


def test_a_state_of_another_recipe_is_not_resumed(tmp_path, caplog, monkeypatch):
    options = SMALL.model_copy(update={"epochs": 1})
    with pytest.raises(training.Interrupted):
        pretraining.pretrain(Stopped(module_cells(200)), GENES, tmp_path, options, 1, MACHINE)
    monkeypatch.setattr(recipe_version, "PRETRAINING", recipe_version.PRETRAINING + 1)
    pretraining.pretrain(pretraining.MatrixSource(module_cells(200)), GENES, tmp_path, options, 1, MACHINE)
    assert "another run (another recipe_version): starting anew" in caplog.text


@pytest.mark.parametrize("second_pass_after", [None, 0])
def test_the_operations_of_a_step_are_nearly_those_that_pytorch_counts(second_pass_after, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # PyTorch does not count oneDNN's
    options = SMALL.model_copy(update={"embsize": 128, "d_hid": 128, "second_pass_after": second_pass_after})
    source, rows = pretraining.MatrixSource(module_cells(60)), np.arange(60)
    model = pretraining.build(options, 27, 24)
    task = pretraining.training_task(model, source, rows[:50], rows[50:], VOCABULARY, options, 0, "cells")
    batch = task.batch(0, 0, 0, 1)
    work = task.work(batch)
    assert (work.cells, work.tokens) == (32, 32 * 25)
    with FlopCounterMode(display=False) as counter:
        task.loss(model, batch).backward()
    assert work.operations == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("include_zero_genes", [True, False])
def test_the_mean_loss_of_two_ranks_is_the_loss_of_the_whole_batch(tmp_path, include_zero_genes):
    options = SMALL.model_copy(update={"include_zero_genes": include_zero_genes, "batch_size": 33})
    source, rows = pretraining.MatrixSource(module_cells(100)), np.arange(100)
    masked = pretraining.build(options, 27, 24)
    task = pretraining.training_task(masked, source, rows[:80], rows[80:], VOCABULARY, options, 0, "cells")
    whole = task.loss(masked, task.batch(0, 1, 0, 1))
    shares = [task.loss(masked, task.batch(0, 1, rank, 2)) for rank in range(2)]
    assert torch.allclose(sum(shares) / 2, whole, rtol=1e-5)


def test_a_rank_bins_its_own_cells_alone_and_asks_what_one_process_would(monkeypatch):
    options = SMALL.model_copy(update={"include_zero_genes": False, "batch_size": 9})
    source, rows, binned = pretraining.MatrixSource(module_cells(60)), np.arange(60), []
    task = pretraining.training_task(
        pretraining.build(options, 27, 24), source, rows[:50], rows[50:], VOCABULARY, options, 0, "cells"
    )
    whole = task.batch(1, 2, 0, 1)
    bin_cells = pretraining.bin_cells
    monkeypatch.setattr(
        pretraining, "bin_cells", lambda own, *rest: binned.append(own.shape[0]) or bin_cells(own, *rest)
    )
    for rank, own in ((0, slice(0, 4)), (1, slice(4, 9))):
        share = task.batch(1, 2, rank, 2)
        for name in ("known_genes", "known_values", "unknown_genes", "unknown_values"):
            width = share[name].shape[1]
            assert torch.equal(share[name], whole[name][own, :width]), name
        for name in ("known", "unknown"):
            assert share[name].cells.lengths == whole[name][own].cells.lengths
        assert share["weight"] == 2 * whole["weight"]
    assert binned == [4, 5]


def test_held_out_cells_are_scored_in_passes_that_a_large_batch_does_not_enlarge():
    source, rows = pretraining.MatrixSource(module_cells(120)), np.arange(120)
    masked = pretraining.build(SMALL, 27, 24)
    sizes = []
    masked.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0]["unknown"])))
    scores = [
        pretraining.held_out_loss(
            masked, source, rows[:20], rows[20:], VOCABULARY, SMALL.model_copy(update={"batch_size": size}), 0
        )
        for size in (32, 512)
    ]
    assert scores[0] == scores[1]
    assert max(sizes) == 32


def test_validation_passes_are_no_larger_than_a_batch_and_score_what_one_pass_would():
    source, rows = pretraining.MatrixSource(module_cells(120)), np.arange(120)
    options = SMALL.model_copy(update={"include_zero_genes": False})
    masked = pretraining.build(options, 27, 24)
    scores, sizes = [], []
    masked.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0]["unknown"])))
    for batch_size in (16, 512):
        options = options.model_copy(update={"batch_size": batch_size})
        task = pretraining.training_task(masked, source, rows[:20], rows[20:], VOCABULARY, options, 0, "cells")
        scores.append(task.validate(masked)["held_out_loss"])
    assert sizes == [16] * 6 + [4] + [32] * 3 + [4]
    probe, _ = pretraining.bin_cells(source.rows(rows[20:]), options.n_bins)
    names = ("validation",)
    whole = pretraining._masked(probe, np.arange(24), 0.5, names, VOCABULARY, options, 0)
    expected = pretraining._squared_errors(masked, pretraining._tensors(whole)).mean()
    np.testing.assert_allclose(scores, float(expected), rtol=1e-6)


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    drawn, rows = [], np.arange(5, 45)
    generator = pretraining.random_generator
    monkeypatch.setattr(pretraining, "random_generator", lambda *names: drawn.append(names) or generator(*names))
    cells = pretraining.MatrixSource(sp.csr_matrix(np.arange(50.0)[:, None]))
    batch = cells.batches(rows, 8, seed=3)
    for epoch in (0, 1):
        order = generator(3, "pretraining", "order", epoch).permutation(rows)
        for number in range(5):
            expected = np.sort(order[number * 8 : (number + 1) * 8])
            assert batch(epoch, number).toarray().ravel().tolist() == expected.tolist()
    assert len(drawn) == 2


def test_of_two_processes_the_first_alone_scores_and_reports(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    environment = os.environ | {"PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = sorted(Path(f"{tmp_path}.told").read_text().splitlines())
    assert told == ["process 0 reports True", "process 0 scores", "process 1 reports False"]
    assert (tmp_path / "report.json").exists()
    assert not (tmp_path / training.STATE).exists()


def test_a_batch_with_fewer_cells_than_there_are_devices_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Machine, "fabric", lambda machine: SimpleNamespace(world_size=33))
    with pytest.raises(InputError, match=r"configuration: batch_size: found 32; expected at least 33"):
        pretraining.pretrain(pretraining.MatrixSource(module_cells(100)), GENES, tmp_path, SMALL, 0, MACHINE)


def test_a_source_that_is_too_small_or_no_expression_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"atlas.h5ad: cells: found 20"):
        pretraining.pretrain(
            pretraining.MatrixSource(module_cells(20)), GENES, tmp_path, SMALL, 0, MACHINE, "atlas.h5ad"
        )
    cells = module_cells(100)
    cells.data[:] = -1
    with pytest.raises(InputError, match=r"atlas.h5ad: X: found -1"):
        pretraining.pretrain(pretraining.MatrixSource(cells), GENES, tmp_path, SMALL, 0, MACHINE, "atlas.h5ad")
