"""Fine-tuning: flags that arrive, weights that start where they are said to, and a job that may be killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch.utils.flop_counter import FlopCounterMode

from made_up import method_record
from predicted import whole
from scgpt_bench.data.conditions import Condition, rows_of, table_of
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.scores import SCORE_COLUMNS
from scgpt_bench.evaluation.verdicts import VERDICT_COLUMNS
from scgpt_bench.files import read_json, read_table, write_h5ad
from scgpt_bench.report.run import RecordedPrediction, Run
from scgpt_bench.report.warnings import recipes
from scgpt_bench.scgpt import (
    checkpoint,
    finetuned_model,
    finetuning,
    model,
    prediction,
    recipe,
    recipe_version,
    training,
    validation,
)
from scgpt_bench.scgpt import pairs as pairs_module
from scgpt_bench.scgpt import vocabulary as vocabularies
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.pairs import Pairs
from scgpt_bench.scgpt.training_set import NothingToTrainOn, TrainingSet
from scgpt_bench.seeding import random_generator
from snakemake_checkout import ROOT

GENES = [f"GENE{i}" for i in range(32)]
MEASURED = GENES[:30]  # GENE30 and GENE31 have tokens, but are not measured
PERTURBATIONS = {"GENE1": "train", "GENE2": "train", "GENE3+GENE4": "train", "GENE30": "train", "GENE5": "validation"}
OPTIONS = recipe.Recipe(learning_rate=3e-3, batch_size=8, epochs=2, validation_cells=8)
MACHINE = training.Machine(accelerator="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    symbols = {gene: i for i, gene in enumerate([*GENES, *[f"UNUSED{i}" for i in range(20)], "<pad>", "<cls>"])}
    checkpoint.initialize(folder, {"embsize": 16, "nlayers": 2, "nheads": 2, "d_hid": 16}, symbols, seed=1)
    return folder


@pytest.fixture(scope="module")
def vocabulary(folder):
    return vocabularies.align(MEASURED, checkpoint.read(folder).vocabulary)


def experiment(n_cells=12, n_controls=40):
    """Every perturbation lowers its targets and raises the ten last genes, in two batches of another level."""
    generator = np.random.default_rng(0)
    names = ["control"] * n_controls + [name for name in PERTURBATIONS for _ in range(n_cells)]
    batch = np.arange(len(names)) % 2
    values = generator.gamma(4.0, 0.5, size=(len(names), 30)).astype(np.float32) + batch[:, None]
    for row, name in enumerate(names):
        if name != "control":
            values[row, 20:] += 1.5
            values[row, [GENES.index(gene) for gene in name.split("+") if gene in MEASURED]] = 0
    obs = pd.DataFrame(
        {"perturbation": names, "direction": "down", "batch": batch.astype(str), "cell_type": "any", "half": "input"},
        index=[f"cell{i}" for i in range(len(names))],
    )
    return anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=MEASURED))


@pytest.fixture(scope="module")
def cells():
    return experiment()


SPLIT = pd.DataFrame({"perturbation": list(PERTURBATIONS), "role": list(PERTURBATIONS.values())})


def training_set(cells, folder, vocabulary):
    return TrainingSet.of(cells, SPLIT, vocabulary, checkpoint.read(folder))


def pairs_of(cells, folder, vocabulary, options=OPTIONS, seed=0):
    return Pairs(training_set(cells, folder, vocabulary), options, seed)


def run(cells, folder, vocabulary, path, options=OPTIONS, seed=0, split=SPLIT, machine=MACHINE):
    return finetuning.finetune(cells, split, vocabulary, folder, options, seed, path, machine)


def weights_of(path):
    return torch.load(path / finetuned_model.MODEL, weights_only=True)


@pytest.fixture(scope="module")
def finetuned(cells, folder, vocabulary, tmp_path_factory):
    path = tmp_path_factory.mktemp("finetuned")
    return path, run(cells, folder, vocabulary, path)


def test_it_learns_what_the_perturbations_share(cells, folder, vocabulary, tmp_path):
    report = run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"learning_rate": 1e-2, "epochs": 12}))
    assert report["pearson_delta"] > 0.8


@pytest.mark.parametrize("max_seq_len", [12, 1536])
def test_every_flag_reaches_the_model_by_default(cells, folder, vocabulary, max_seq_len):
    pairs = pairs_of(cells, folder, vocabulary, OPTIONS.model_copy(update={"max_seq_len": max_seq_len}))
    assert pairs.flag_share(0) == 1.0
    for index in range(pairs.batches):
        batch = pairs.batch(0, index)
        n_targets = [len(name.split("+")) for name in pairs.perturbation[pairs._rows(0, index)]]
        assert batch["flags"].sum(dim=1).tolist() == n_targets
        assert batch["truth"].shape == (8, min(max_seq_len, 30))


@pytest.mark.parametrize("control_pairs", [False, True])  # which have no flag to lose
def test_without_keeping_targets_flags_are_dropped_as_often_as_published(folder, vocabulary, control_pairs):
    cells = experiment(n_cells=200)
    cells = cells[cells.obs["perturbation"].isin(["control", "GENE1", "GENE2"])].copy()
    options = OPTIONS.model_copy(update={"max_seq_len": 10, "keep_targets": False, "control_pairs": control_pairs})
    pairs = pairs_of(cells, folder, vocabulary, options)
    share = np.mean([pairs.flag_share(epoch) for epoch in range(40)])
    assert abs(share - 10 / 30) < 0.03


def test_combinations_carry_two_flags_and_unmeasured_targets_a_token_outside_the_loss(cells, folder, vocabulary):
    pairs = pairs_of(cells, folder, vocabulary)
    batch = pairs.batch(0, 0)
    names = pairs.perturbation[pairs._rows(0, 0)]
    assert {"GENE3+GENE4", "GENE30"} <= set(names)
    genes = torch.cat([batch["genes"], batch["added"]], dim=1)
    assert genes.shape[1] == 31
    assert batch["truth"].shape[1] == 30
    for row, name in enumerate(names):
        flagged = genes[row][batch["flags"][row] == model.PERTURBED]
        assert [GENES[token] for token in flagged] == name.split("+")
        assert batch["present"].mask[row, 30] == (name == "GENE30")
        assert batch["values"][row, 30] == 0


def directed(up):
    """The experiment, in which the perturbations ``up`` raise their targets and lower the ten last genes."""
    cells = experiment()
    cells.obs["direction"] = np.where(cells.obs["perturbation"].isin(up), "up", "down")
    X = cells.X.toarray()
    for row in np.flatnonzero(cells.obs["direction"] == "up"):
        targets = [GENES.index(gene) for gene in cells.obs["perturbation"].iloc[row].split("+") if gene in MEASURED]
        X[row, 20:] = np.maximum(X[row, 20:] - 3.0, 0)
        X[row, targets] = 4.0
    cells.X = sp.csr_matrix(X)
    return cells


@pytest.mark.parametrize("own_flag", [True, False])
def test_activated_genes_have_a_flag_of_their_own_unless_the_published_one_is_asked_for(folder, vocabulary, own_flag):
    raised = ["GENE2", "GENE30", "GENE3+GENE4"]
    pairs = pairs_of(directed(raised), folder, vocabulary, OPTIONS.model_copy(update={"flag_direction": own_flag}))
    seen = {}
    for index in range(pairs.batches):
        batch = pairs.batch(0, index)
        for name, flags in zip(pairs.perturbation[pairs._rows(0, index)], batch["flags"], strict=True):
            seen.setdefault(name, set()).update(flags.unique().tolist())
    of = {True: {0, model.RAISED}, False: {0, model.PERTURBED}}
    assert seen == {name: of[own_flag and name in raised] for name, role in PERTURBATIONS.items() if role == "train"}


def test_where_all_perturbations_lower_their_targets_the_flag_of_direction_changes_no_bit(
    cells, folder, vocabulary, finetuned, tmp_path
):
    run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"flag_direction": False}))
    assert_same_weights(tmp_path, finetuned[0])


def test_a_model_of_both_directions_learns_which_is_which_by_their_flags(folder, vocabulary, tmp_path):
    names = [f"GENE{number}" for number in range(1, 13)]
    raised = names[::2]
    split = pd.DataFrame({"perturbation": names, "role": ["train"] * 8 + ["validation"] * 4})
    generator = np.random.default_rng(0)
    labels = np.array(["control"] * 40 + [name for name in names for _ in range(12)])
    X = generator.gamma(4.0, 0.5, size=(len(labels), 30)).astype(np.float32) + 2
    X[np.isin(labels, raised), 20:] -= 1.5
    X[np.isin(labels, names) & ~np.isin(labels, raised), 20:] += 1.5
    obs = {"perturbation": labels, "direction": np.where(np.isin(labels, raised), "up", "down")}
    obs |= {"batch": "b", "cell_type": "T", "half": "input"}
    obs = pd.DataFrame(obs, index=[f"cell{row}" for row in range(len(labels))])
    cells = anndata.AnnData(sp.csr_matrix(np.maximum(X, 0)), obs=obs, var=pd.DataFrame(index=MEASURED))
    scores = {}
    for own_flag in (True, False):
        options = OPTIONS.model_copy(update={"learning_rate": 1e-2, "epochs": 12, "flag_direction": own_flag})
        report = run(cells, folder, vocabulary, tmp_path / str(own_flag), options, split=split)
        assert report["training_directions"] == {"down": 4, "up": 4}
        scores[own_flag] = report["pearson_delta"]
    assert scores[True] > 0.8
    assert scores[False] < 0.5


def test_binned_values_are_those_of_the_whole_cell_in_training_and_in_prediction(cells, folder, vocabulary, tmp_path):
    options = OPTIONS.model_copy(update={"max_seq_len": 12, "value_input": "bins"})
    made = TrainingSet.of(cells, SPLIT, vocabulary, checkpoint.read(folder), options.value_input)
    pairs = Pairs(made, options, 0)
    batch, columns = pairs.batch(0, 0), pairs._columns(0, 0, pairs._rows(0, 0))
    controls = [pairs._control(0, row) for row in pairs._rows(0, 0)]
    np.testing.assert_array_equal(batch["encoded"][:, :12], bin_cells(cells.X[controls], 51)[0][:, columns])
    np.testing.assert_allclose(batch["values"][:, :12], cells.X[controls].toarray()[:, columns], rtol=1e-6)
    report = run(cells, folder, vocabulary, tmp_path, options)
    assert report["options"]["value_input"] == "bins"
    drawn = cells[cells.obs["perturbation"] == "control"][:4].copy()
    drawn.obs["perturbation"], drawn.obs["weight"] = "GENE5", 1.0
    as_trained, _ = whole(prediction.finetuned, drawn, vocabulary, folder, tmp_path)
    stated = json.loads((tmp_path / "report.json").read_text())
    stated["options"]["value_input"] = "log1p"
    (tmp_path / "report.json").write_text(json.dumps(stated))
    assert np.abs(whole(prediction.finetuned, drawn, vocabulary, folder, tmp_path)[0] - as_trained).max() > 1e-3


def test_a_condition_of_a_direction_that_was_not_trained_is_listed(cells, folder, vocabulary, finetuned, tmp_path):
    drawn = cells[cells.obs["perturbation"] == "control"][:4].copy()
    drawn.obs["perturbation"], drawn.obs["weight"] = ["GENE5", "GENE5", "GENE6", "GENE6"], 1.0
    drawn.obs["direction"] = ["down", "down", "up", "up"]
    predicted, record = whole(prediction.finetuned, drawn, vocabulary, folder, finetuned[0])
    untrained = ("no training perturbation goes up", "a flag with random weights")
    assert record["fallbacks"] == {Condition("GENE6"): untrained}
    run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"flag_direction": False}))
    with_one, record = whole(prediction.finetuned, drawn, vocabulary, folder, tmp_path)
    assert record["fallbacks"] == {}
    assert (with_one[:2] == predicted[:2]).all()
    assert not np.allclose(with_one[2:], predicted[2:])


def test_the_token_of_an_unmeasured_target_does_not_reach_other_cells_of_the_batch(cells, folder, vocabulary):
    weights = checkpoint.read(folder)
    encoding = training_set(cells, folder, vocabulary).encoding
    generator, _ = finetuning.start(weights, encoding.tokens_in_use, OPTIONS, 0)
    generator.eval()
    values = cells.X[:2].toarray()

    def predict(rows, names):
        inputs = encoding.inputs(values[rows], names, np.arange(30))
        with torch.no_grad():
            return generator(inputs)[:, :30]

    together = predict([0, 1], ["GENE1", "GENE30"])
    assert (together[:1] - predict([0], ["GENE1"])).abs().max() < 1e-5
    assert (together[1:] - predict([1], ["GENE30"])).abs().max() < 1e-5


def test_the_control_of_a_pair_is_of_its_batch_and_depends_on_names_only(cells, folder, vocabulary):
    pairs = pairs_of(cells, folder, vocabulary)
    batch, names = cells.obs["batch"].to_numpy(), cells.obs["perturbation"].to_numpy()
    for row in pairs.rows:
        control = pairs._control(3, row)
        assert names[control] == "control"
        assert batch[control] == batch[row]
    fewer = cells[cells.obs["perturbation"] != "GENE2"].copy()
    again = pairs_of(fewer, folder, vocabulary)
    for row in again.rows:
        original = cells.obs_names.get_loc(fewer.obs_names[row])
        assert fewer.obs_names[again._control(3, row)] == cells.obs_names[pairs._control(3, original)]


def test_a_control_is_drawn_once_where_the_published_pairing_is_asked_for(cells, folder, vocabulary):
    redrawn, once = (
        pairs_of(cells, folder, vocabulary, OPTIONS.model_copy(update={"redraw_controls": redraw}))
        for redraw in (True, False)
    )
    assert any(redrawn._control(0, row) != redrawn._control(1, row) for row in redrawn.rows)
    assert all(once._control(0, row) == once._control(1, row) for row in once.rows)


def test_where_no_control_is_of_the_batch_one_of_the_cell_type_is_taken_and_then_any(cells, folder, vocabulary):
    cells = cells.copy()
    perturbation, number = cells.obs["perturbation"].to_numpy(), np.arange(cells.n_obs)
    cell_type = np.where(number % 4 < 2, "one", "other")
    cell_type[perturbation == "GENE2"] = "without controls"
    cells.obs["cell_type"] = cell_type
    cells.obs["batch"] = np.where(perturbation == "GENE1", "without controls", cells.obs["batch"])
    pairs = pairs_of(cells, folder, vocabulary)
    assert pairs.paired_within == {"batch, cell_type": 24, "cell_type": 12, "any": 12}
    for row in pairs.rows:
        chosen = pairs.pools[row]
        assert (perturbation[chosen] == "control").all()
        if perturbation[row] == "GENE2":
            assert len(chosen) == 40
        else:
            assert len(chosen) == (20 if perturbation[row] == "GENE1" else 10)
            assert set(cell_type[chosen]) == {cell_type[row]}
    anything = pairs_of(cells, folder, vocabulary, OPTIONS.model_copy(update={"pair_within": []}))
    assert anything.paired_within == {"any": 48}


def test_a_control_pair_is_a_control_cell_with_itself_and_without_a_flag(cells, folder, vocabulary):
    pairs = pairs_of(cells, folder, vocabulary, OPTIONS.model_copy(update={"control_pairs": True}))
    names = cells.obs["perturbation"].to_numpy()
    np.testing.assert_array_equal(pairs.rows, np.flatnonzero(names != "GENE5"))
    assert pairs.paired_within["itself"] == (names == "control").sum()
    batch = pairs.batch(0, 0)
    control = torch.from_numpy(names[pairs._rows(0, 0)] == "control")
    assert 0 < control.sum() < len(control)
    assert torch.equal(batch["values"][control, :30], batch["truth"][control].float())
    assert torch.equal(batch["flags"].sum(dim=1) > 0, ~control)


def test_an_epoch_is_put_in_order_once(cells, folder, vocabulary, monkeypatch):
    """Over a million cells that takes longer than the rest of a batch."""
    drawn = []

    def counted(seed, *names):
        drawn.append(names)
        return random_generator(seed, *names)

    monkeypatch.setattr(pairs_module, "random_generator", counted)
    pairs = pairs_of(cells, folder, vocabulary, OPTIONS.model_copy(update={"max_seq_len": 12}))
    for epoch in (0, 1, 0):
        order = random_generator(0, "fine-tuning", "order", epoch).permutation(pairs.rows)
        for index in range(pairs.batches):
            pairs.batch(epoch, index)
            np.testing.assert_array_equal(pairs._rows(epoch, index), order[8 * index : 8 * (index + 1)])
    assert sum(names[1] == "order" for names in drawn) == 3


class Shifted:
    """Stands in for the engine of prediction: adds a change to every cell."""

    def __init__(self, change):
        self.change = change.astype(np.float32)

    def cells_per_batch(self, n_tokens):
        return 7

    def predict(self, cells, targets, flag):
        assert len(cells) <= 7
        return cells + self.change


def assert_half_of_the_change_is_found(cells, folder, vocabulary, change):
    """A model that predicts half of GENE5's change, the matched one, has its direction and lacks its other half."""
    options = OPTIONS.model_copy(update={"validation_cells": 100})
    validate = validation.Validation(training_set(cells, folder, vocabulary), options, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "Engine", lambda *_: Shifted(change / 2))
        found = validate(None)
    assert found["pearson_delta"] == pytest.approx(1, abs=1e-4)
    assert found["validation_mse"] == pytest.approx(np.square(change / 2).mean(), rel=1e-3)


def test_validation_compares_a_perturbation_within_its_own_cell_types(cells, folder, vocabulary):
    cells = cells.copy()
    perturbation = cells.obs["perturbation"].to_numpy()
    in_other = (perturbation == "control") & (np.arange(cells.n_obs) % 4 < 2)
    values = cells.X.toarray()
    values[in_other] += np.linspace(0, 5, 30)
    cells.X, cells.obs["cell_type"] = sp.csr_matrix(values), np.where(in_other, "other", "own")
    change = values[perturbation == "GENE5"].mean(axis=0)
    change -= values[(perturbation == "control") & ~in_other].mean(axis=0)
    assert_half_of_the_change_is_found(cells, folder, vocabulary, change)


def test_validation_weighs_cell_types_as_the_perturbation_has_them_however_few_controls_there_are(
    cells, folder, vocabulary
):
    cells = cells.copy()
    perturbation, number = cells.obs["perturbation"].to_numpy(), np.arange(cells.n_obs)
    control, tested = perturbation == "control", perturbation == "GENE5"
    one = np.where(control, number < 2, number % 4 < 2)  # half of the tested cells, but 2 of 40 controls
    values = cells.X.toarray()
    values[one] += np.linspace(0, 5, 30)
    cells.X, cells.obs["cell_type"] = sp.csr_matrix(values), np.where(one, "one", "other")
    change = values[tested].mean(axis=0)
    change -= (values[control & one].mean(axis=0) + values[control & ~one].mean(axis=0)) / 2
    assert_half_of_the_change_is_found(cells, folder, vocabulary, change)


def matched_controls(obs, number):
    return validation._matched_controls(rows_of(obs), obs["cell_type"].to_numpy(), Condition("GENE5"), number, seed=0)


def test_validation_draws_controls_in_the_proportions_of_the_cell_types(cells):
    obs = cells.obs.assign(cell_type=np.where(np.arange(cells.n_obs) % 4 == 0, "few", "many"))
    obs.loc[obs.index[:2], "cell_type"] = "another"
    drawn, shares = matched_controls(obs, 8)
    assert (obs["perturbation"].iloc[drawn] == "control").all()
    assert obs["cell_type"].iloc[drawn].value_counts().to_dict() == {"many": 6, "few": 2}
    assert shares.to_dict() == {"many": 0.75, "few": 0.25}
    of_one_type = random_generator(0, "fine-tuning", "validation", "GENE5").permutation(40)[:8]
    np.testing.assert_array_equal(matched_controls(cells.obs, 8)[0], np.sort(of_one_type))


def test_validation_draws_a_control_of_every_cell_type(cells):
    rare = (np.arange(cells.n_obs) == 88) | (np.arange(cells.n_obs) < 20)  # one cell of GENE5, every second control
    obs = cells.obs.assign(cell_type=np.where(rare, "rare", "other"))
    assert obs["perturbation"].iloc[88] == "GENE5"
    assert obs["cell_type"].iloc[matched_controls(obs, 4)[0]].value_counts().to_dict() == {"other": 3, "rare": 1}
    assert len(matched_controls(obs, 1)[0]) == 2


def test_two_ranks_share_the_batch_and_their_mean_loss_is_its_loss(cells, folder, vocabulary):
    pairs = pairs_of(cells, folder, vocabulary, OPTIONS.model_copy(update={"batch_size": 7}))
    generator, _ = finetuning.start(checkpoint.read(folder), range(32), OPTIONS, 0)
    whole = finetuning.loss(generator, pairs.batch(0, 1))
    shares = [finetuning.loss(generator, pairs.batch(0, 1, rank, 2)) for rank in range(2)]
    assert torch.allclose(sum(shares) / 2, whole, rtol=1e-5)
    error = generator(pairs.batch(0, 1))[:, :30] - pairs.batch(0, 1)["truth"]
    assert torch.allclose(error.square().mean(), whole, rtol=1e-5)


def test_weights_start_where_the_load_report_says(folder):
    weights = checkpoint.read(folder)
    generator, report = finetuning.start(weights, range(32), OPTIONS, 0)
    assert report["n_pretrained"] > 0
    assert torch.equal(generator.encoder.embedding.weight[:32], weights.tensors["encoder.embedding.weight"][:32])
    assert any(name.startswith("pert_encoder") for name in report["random"])
    scratch, report = finetuning.start(weights, range(32), OPTIONS.model_copy(update={"pretrained": []}), 0)
    assert report["n_pretrained"] == 0
    assert not torch.equal(scratch.encoder.embedding.weight[:32], weights.tensors["encoder.embedding.weight"][:32])
    assert torch.equal(scratch.decoder.coeff_decoder.fc[0].weight, generator.decoder.coeff_decoder.fc[0].weight)


def test_frozen_modules_keep_the_checkpoint_and_the_others_move(cells, folder, vocabulary, tmp_path):
    run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"freeze": ["transformer_encoder"]}))
    weights = checkpoint.read(folder)
    trained = finetuned_model.load(tmp_path, weights)
    start, _ = finetuning.start(weights, weights_of(tmp_path)["token_ids"].tolist(), OPTIONS, 0)
    moved = {name for name, tensor in start.state_dict().items() if not torch.equal(tensor, trained.state_dict()[name])}
    assert {name.split(".")[0] for name in moved} == {"encoder", "value_encoder", "pert_encoder", "decoder"}


def test_a_candidate_whose_training_diverges_leaves_the_reason_and_no_model(cells, folder, vocabulary, tmp_path):
    diverging = OPTIONS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(training.TrainingFailed):
        run(cells, folder, vocabulary, tmp_path / "alone", diverging)
    others = {"cells": cells, "split": SPLIT, "vocabulary": vocabulary, "checkpoint_folder": folder, "machine": MACHINE}
    finetuning.finetune_unless(
        {training.TrainingFailed: "failed"}, options=diverging, seed=0, folder=tmp_path / "candidate", **others
    )
    assert "loss" in read_json(tmp_path / "candidate" / "report.json", "a report")["failed"]
    assert sorted(path.name for path in (tmp_path / "candidate").iterdir()) == [
        "history.tsv",
        "model.pt",
        "report.json",
    ]
    assert (tmp_path / "candidate" / "model.pt").stat().st_size == 0
    assert "seconds" in read_table(tmp_path / "candidate" / "history.tsv")


def test_of_the_processes_of_a_training_that_diverges_only_the_first_writes(tmp_path, monkeypatch):
    def diverge(**_):
        raise training.TrainingFailed("loss nan")

    monkeypatch.setattr(finetuning, "finetune", diverge)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank, written in ((1, set()), (0, {"history.tsv", "model.pt", "report.json"})):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        finetuning.finetune_unless({training.TrainingFailed: "failed"}, options=OPTIONS, folder=tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == written


def test_a_damaged_model_is_refused(cells, folder, vocabulary, finetuned, tmp_path):
    weights = checkpoint.read(folder)
    content = bytearray((finetuned[0] / finetuned_model.MODEL).read_bytes())
    content[content.index(weights_of(finetuned[0])["encoder.embedding.weight"].numpy().tobytes()) + 3] ^= 1
    for damaged in (content, content[: len(content) // 2], b""):
        (tmp_path / finetuned_model.MODEL).write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.pt"):
            finetuned_model.load(tmp_path, weights)
    (tmp_path / finetuned_model.REPORT).write_text("{")
    with pytest.raises(InputError, match=r"report\.json: file: .* expected JSON: a report"):
        prediction.finetuned(cells[:1], vocabulary, folder, tmp_path, write=lambda *_: None)


def test_training_only_the_rows_in_use_equals_training_all_rows(cells, folder, vocabulary, finetuned, tmp_path):
    run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"genes_in_use_only": False}))
    few, all_rows = weights_of(finetuned[0]), weights_of(tmp_path)
    used = few.pop("token_ids")
    embedding = all_rows["encoder.embedding.weight"]
    assert torch.equal(few.pop("encoder.embedding.weight"), embedding[used])
    unused = np.setdiff1d(np.arange(len(embedding)), used)
    assert torch.equal(embedding[unused], checkpoint.read(folder).tensors["encoder.embedding.weight"][unused])
    for name, tensor in few.items():
        assert torch.equal(tensor, all_rows[name]), name


def test_a_job_stopped_by_sigterm_goes_on_to_the_same_bytes(
    cells, folder, vocabulary, finetuned, tmp_path, monkeypatch
):
    batch = Pairs.batch

    def stopped(self, epoch, index, *rank):
        if (epoch, index) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, epoch, index, *rank)

    monkeypatch.setattr(Pairs, "batch", stopped)
    with pytest.raises(training.Interrupted):
        run(cells, folder, vocabulary, tmp_path)
    assert not (tmp_path / finetuned_model.MODEL).exists()
    monkeypatch.undo()
    run(cells, folder, vocabulary, tmp_path)
    assert_same_weights(tmp_path, finetuned[0])


class Asked(Exception):
    """A training was asked for, under this identity."""


@pytest.fixture
def identity(folder, vocabulary, tmp_path, monkeypatch):
    def train(task, fabric, folder, identity, **options):
        raise Asked(identity)

    def asked(cells, folder=folder, vocabulary=vocabulary, split=SPLIT):
        with pytest.raises(Asked) as found:
            run(cells, folder, vocabulary, tmp_path / "model", split=split)
        return str(found.value)

    monkeypatch.setattr(training, "train", train)
    return asked


def test_a_state_of_other_data_of_the_same_shape_is_of_another_run(cells, vocabulary, identity):
    other_values, other_labels, other_batches, other_names = (cells.copy() for _ in range(4))
    other_values.X.data[0] += 1
    other_labels.obs["perturbation"] = cells.obs["perturbation"].replace({"GENE1": "GENE2", "GENE2": "GENE1"})
    other_batches.obs["batch"] = cells.obs["batch"].to_numpy()[::-1]
    other_names.obs_names = cells.obs_names[::-1]
    exchanged = vocabulary.assign(token_id=vocabulary["token_id"].to_numpy()[::-1])
    assert identity(cells.copy()) == identity(cells)
    found = [identity(other) for other in (cells, other_values, other_labels, other_batches, other_names)]
    assert len({*found, identity(cells, vocabulary=exchanged)}) == 6


def test_a_state_belongs_to_the_weights_and_not_to_their_path(cells, folder, identity, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert identity(cells, moved) == identity(cells)
    weights = checkpoint.read(folder)
    tensors = {name: tensor + 1 for name, tensor in weights.tensors.items()}
    checkpoint.write(moved, tensors, weights.arguments, weights.vocabulary)
    assert identity(cells, moved) != identity(cells)


def test_a_state_belongs_to_the_rows_of_its_gene_embedding(cells, identity):
    """A perturbation that is only tested has a row of its own where it is not measured."""

    def tested(name):
        return identity(cells, split=pd.concat([SPLIT, pd.DataFrame({"perturbation": [name], "role": ["test"]})]))

    assert tested("GENE6") == identity(cells)
    assert tested("GENE31") != identity(cells)


def test_a_state_belongs_to_the_recipe_and_the_torch_that_wrote_it(cells, identity, monkeypatch):
    before = identity(cells)
    with monkeypatch.context() as updated:
        updated.setattr(torch, "__version__", f"{torch.__version__}.other")
        assert identity(cells) != before
    monkeypatch.setattr(recipe_version, "FINETUNING", recipe_version.FINETUNING + 1)
    assert identity(cells) != before


def assert_same_weights(path, reference):
    expected = weights_of(reference)
    assert set(weights_of(path)) == set(expected)
    for name, tensor in weights_of(path).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("value", [0.5, 9.0])
def test_cells_of_a_test_perturbation_change_no_weight_by_one_bit(
    cells, folder, vocabulary, finetuned, tmp_path, value
):
    tested = cells[:12].copy()
    tested.X = sp.csr_matrix(np.full(tested.shape, value, np.float32))
    tested.obs["perturbation"] = "GENE6"
    tested.obs_names = [f"tested{i}" for i in range(12)]
    split = pd.concat([SPLIT, pd.DataFrame({"perturbation": ["GENE6"], "role": ["test"]})])
    run(anndata.concat([tested, cells]), folder, vocabulary, tmp_path, split=split)
    assert_same_weights(tmp_path, finetuned[0])


def test_of_cells_on_disk_only_those_that_are_learned_from_are_read(
    cells, folder, vocabulary, finetuned, tmp_path, monkeypatch
):
    tested = cells[:12].copy()
    tested.obs["perturbation"] = "GENE6"
    tested.obs_names = [f"tested{i}" for i in range(12)]
    split = pd.concat([SPLIT, pd.DataFrame({"perturbation": ["GENE6"], "role": ["test"]})])
    write_h5ad(anndata.concat([tested, cells]), tmp_path / "cells.h5ad")
    held = []
    monkeypatch.setattr(finetuning, "Pairs", lambda read, *rest: held.append(read.cells) or Pairs(read, *rest))
    run(open_h5ad(tmp_path / "cells.h5ad"), folder, vocabulary, tmp_path, split=split)
    assert set(held[0].obs_names) <= set(cells.obs_names)
    assert_same_weights(tmp_path, finetuned[0])


def test_the_same_seed_gives_the_same_weights_and_another_one_others(cells, folder, vocabulary, finetuned, tmp_path):
    run(cells, folder, vocabulary, tmp_path / "again")
    assert_same_weights(tmp_path / "again", finetuned[0])
    run(cells, folder, vocabulary, tmp_path / "other", seed=1)
    other = weights_of(tmp_path / "other")["decoder.coeff_decoder.fc.0.weight"]
    assert not torch.equal(other, weights_of(finetuned[0])["decoder.coeff_decoder.fc.0.weight"])


def test_the_model_folder_holds_the_model_a_report_and_the_history(finetuned):
    path, report = finetuned
    assert {file.name for file in path.iterdir()} == {"model.pt", "report.json", "history.tsv"}
    assert json.loads((path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["flag_share"] == 1.0
    assert report["paired_within"] == {"batch, cell_type": 48, "cell_type": 0, "any": 0}
    assert [report[key] for key in ("precision", "device", "processes")] == ["fp32", "cpu", 1]
    assert report["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    history = pd.read_csv(path / "history.tsv", sep="\t")
    assert {"loss", "pearson_delta", "pearson", "validation_mse", "learning_rate"} <= set(history)


# Fine-tuning in one or two processes. Run as a script: folder of the inputs, folder of the model, processes.
JOB = """
import sys
import pandas as pd
from pathlib import Path
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.scgpt import finetuning, recipe, training

inputs, path, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
split, vocabulary = (pd.read_table(inputs / f"{name}.tsv") for name in ("split", "vocabulary"))
options = recipe.Recipe(learning_rate=3e-3, batch_size=8, epochs=2, validation_cells=8)
machine = training.Machine("cpu", processes, micro_batch=3)
finetuning.finetune(open_h5ad(inputs / "cells.h5ad"), split, vocabulary, sys.argv[4], options, 0, path, machine)
"""


@pytest.mark.long
def test_two_processes_that_share_their_cells_learn_what_one_does(cells, folder, vocabulary, finetuned, tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    write_h5ad(cells, tmp_path / "cells.h5ad")
    for name, table in (("split", SPLIT), ("vocabulary", vocabulary)):
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow" / "lib"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "job.py", ".", "two", "2", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "two" / "report.json", "a report")["processes"] == 2
    assert not (tmp_path / "two" / "cells").exists()
    history, expected = (pd.read_table(path / "history.tsv") for path in (tmp_path / "two", finetuned[0]))
    for column in ("loss", "gradient_norm", "validation_mse"):
        np.testing.assert_allclose(history[column], expected[column], rtol=1e-4)
    for name, tensor in weights_of(tmp_path / "two").items():
        # Adam makes a step of what rounds a gradient that is nearly 0: at most a third of one of 12 steps of 3e-3
        torch.testing.assert_close(tensor, weights_of(finetuned[0])[name], rtol=0, atol=1e-3)


def test_in_bf16_and_in_parts_it_learns_nearly_the_same(cells, folder, vocabulary, finetuned, tmp_path):
    machine = replace(MACHINE, precision="bf16", micro_batch=3)
    report = run(cells, folder, vocabulary, tmp_path, machine=machine)
    assert [report[key] for key in ("precision", "deterministic", "micro_batch")] == ["bf16", True, 3]
    assert report["attention"] == f"sdpa (torch {torch.__version__}, bfloat16)"
    losses, exact = (pd.read_table(path / "history.tsv")["loss"] for path in (tmp_path, finetuned[0]))
    assert (losses != exact).all()
    np.testing.assert_allclose(losses, exact, rtol=2e-2)


def test_the_operations_of_a_step_are_nearly_those_that_pytorch_counts(cells, folder, vocabulary, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # PyTorch does not count oneDNN's
    pairs = pairs_of(cells, folder, vocabulary)
    sizes = {"embsize": 128, "nlayers": 2, "nheads": 2, "d_hid": 128}
    weights = checkpoint.Checkpoint(folder, sizes, checkpoint.read(folder).vocabulary, {})
    generator, _ = finetuning.start(weights, range(32), OPTIONS.model_copy(update={"pretrained": []}), 0)
    batch = pairs.batch(0, 0)
    work = finetuning.work(generator, batch)
    assert (work.cells, work.tokens) == (8, sum(batch["present"].cells.lengths))
    with FlopCounterMode(display=False) as counter:
        finetuning.loss(generator, batch).backward()
    assert work.operations == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_the_report_lists_the_deviations_from_the_published_recipe_that_are_in_force(
    cells, folder, vocabulary, finetuned, tmp_path
):
    published = recipe.PUBLISHED
    assert recipe.published_options().items() >= published.items()
    always = {"precision", "perturbations without a token", "unmeasured targets"}
    assert set(finetuned[1]["deviations"]) == always | set(published)
    report = run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"epochs": 1, **published}))
    assert set(report["deviations"]) == always
    for name, value in published.items():
        assert name not in recipe.deviations(OPTIONS.model_copy(update={name: value}))
    assert {*recipe.deviations(OPTIONS.model_copy(update={"value_input": "bins"}))} == always | set(published) | {
        "ties"
    }


def test_every_deviation_with_an_option_has_a_way_back_that_the_configuration_states_and_the_others_claim_none():
    document = (ROOT / "config" / "README.md").read_text()
    assert [name for name in recipe.DEVIATIONS if name in OPTIONS.model_dump()] == [*recipe.PUBLISHED]
    for name in recipe.PUBLISHED:
        assert re.search(rf"\| `{name}` .* is the published recipe", document)
    used = {"options": OPTIONS.model_dump(), "deviations": recipe.deviations(OPTIONS)}
    record = method_record("scgpt-finetuned", finetuning=used)
    tables = (pd.DataFrame(columns=columns) for columns in (SCORE_COLUMNS, VERDICT_COLUMNS))
    predictions = [RecordedPrediction("drop", "fold0", "tuned", record)]
    made = Run(*tables, {"tuned": "scgpt-finetuned"}, {}, [], predictions, {})
    (recipe_in_full,) = recipes(made)
    without = [name for name, value, text in recipe_in_full.values["different"] if text and not value]
    assert without == ["precision", "perturbations without a token", "unmeasured targets"]


def test_training_without_a_perturbed_gene_in_the_vocabulary_is_refused(cells, folder, vocabulary, tmp_path):
    renamed = vocabulary.copy()
    renamed.loc[1:5, ["token_id", "status"]] = [checkpoint.read(folder).vocabulary["<pad>"], "padded"]
    split = SPLIT[SPLIT["perturbation"] != "GENE30"]
    with pytest.raises(InputError, match="role 'train': found 3 perturbations, none with all its genes"):
        run(cells, folder, renamed, tmp_path, split=split)


def test_a_point_of_a_learning_curve_without_a_token_is_predicted_as_no_change_and_listed(
    cells, folder, vocabulary, tmp_path
):
    split = SPLIT[SPLIT["role"] != "validation"]
    others = {"cells": cells, "split": split, "vocabulary": vocabulary, "checkpoint_folder": folder}
    forgiven = {NothingToTrainOn: "nothing_to_train_on"}
    finetuning.finetune_unless(forgiven, options=OPTIONS, seed=0, folder=tmp_path, machine=MACHINE, **others)
    drawn = cells[cells.obs["perturbation"] == "control"][:4].copy()
    drawn.obs["perturbation"], drawn.obs["weight"] = ["GENE5", "GENE5", "GENE6", "GENE6"], 1.0
    means = np.stack([drawn.X[[0, 1]].toarray().mean(axis=0), drawn.X[[2, 3]].toarray().mean(axis=0)])
    drawn.uns["control_mean_of"] = table_of([Condition("GENE5"), Condition("GENE6")])
    drawn.varm["control_mean"] = means.T
    predicted, record = whole(prediction.finetuned, drawn, vocabulary, folder, tmp_path)
    np.testing.assert_allclose(predicted, drawn.X.toarray(), atol=1e-6)
    assert [*record["fallbacks"]] == [Condition("GENE5"), Condition("GENE6")]
    reason, instead = record["fallbacks"][Condition("GENE5")]
    assert "role 'validation': found 0 perturbations" in reason
    assert instead == "no change"
    only_means, _ = whole(
        prediction.finetuned, drawn, vocabulary, folder, tmp_path, prediction.PredictionOptions(keep_cells=False)
    )
    np.testing.assert_allclose(only_means, means, atol=1e-6)


def test_perturbations_without_a_token_are_left_out_and_reported(cells, folder, vocabulary, tmp_path):
    renamed = vocabulary.copy()
    renamed.loc[1, ["token_id", "status"]] = [checkpoint.read(folder).vocabulary["<pad>"], "padded"]
    report = run(cells, folder, renamed, tmp_path, OPTIONS.model_copy(update={"epochs": 1}))
    assert report["perturbations_without_token"] == ["GENE1"]
    assert report["training_pairs"] == 36
    assert report["training_perturbations"] == {"used": 3, "of": 4}
    assert report["validation_perturbations"] == {"used": 1, "of": 1}


def test_an_empty_validation_fold_is_refused(cells, folder, vocabulary, tmp_path):
    with pytest.raises(InputError, match="role 'validation'"):
        run(cells, folder, vocabulary, tmp_path, split=SPLIT[SPLIT["role"] == "train"])


def test_where_all_that_was_measured_is_trained_on_the_last_epoch_is_kept(cells, folder, vocabulary, tmp_path):
    everything = SPLIT.assign(role="train")
    report = finetuning.finetune(cells, everything, vocabulary, folder, OPTIONS, 0, tmp_path, MACHINE, validates=False)
    assert report["selected_epoch"] == OPTIONS.epochs
    assert not {"pearson", "pearson_delta"} & set(report)
    assert report["validation_perturbations"] == {"used": 0, "of": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.tsv", "model.pt", "report.json"]


def test_a_batch_larger_than_the_data_is_refused(cells, folder, vocabulary, tmp_path):
    with pytest.raises(InputError, match="batch_size: found 64; expected at most 48"):
        run(cells, folder, vocabulary, tmp_path, OPTIONS.model_copy(update={"batch_size": 64}))


def test_a_batch_without_a_pair_for_each_device_is_refused(cells, folder, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(training.Machine, "fabric", lambda machine: SimpleNamespace(world_size=9))
    with pytest.raises(InputError, match="configuration: batch_size: found 8; expected at least 9, a pair for each"):
        run(cells, folder, vocabulary, tmp_path)


def test_cells_without_controls_are_refused(cells, folder, vocabulary, tmp_path):
    with pytest.raises(InputError, match="no control cell"):
        run(cells[cells.obs["perturbation"] != "control"].copy(), folder, vocabulary, tmp_path)
