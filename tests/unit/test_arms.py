"""Every arm predicts from what it may know, and says what that was."""

import json

import anndata
import numpy as np
import pytest
import torch

from scgpt_bench.data import controls, planted, splits
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.evaluation.pseudobulk import group_means
from scgpt_bench.methods import predictions
from scgpt_bench.scgpt import arms, checkpoint, finetuning, generation, vocabulary
from snakemake_checkout import ROOT

SMALL = {
    "modules": 3,
    "genes_per_module": 6,
    "targets_per_module": 3,
    "cells_per_perturbation": 12,
    "control_cells": 40,
    "atlas_cells": 40,
    "atlas_states": 2,
    "truth_draws": 2,
    "genes_outside_vocabulary": 1,
    "unmeasured_targets": 1,
}
MEANS = arms.Calling(keep_cells=False)
SIZES = {"embsize": 16, "nlayers": 2, "nheads": 2, "d_hid": 16}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Cells, split, drawn controls, alignment and an untrained checkpoint of a very small experiment."""
    folder = tmp_path_factory.mktemp("checkpoint")
    dataset = read_datasets(ROOT / "config" / "datasets.tsv")["planted"]
    cells = harmonize(planted.generate(SMALL).cells, dataset, minimum_cells=5)
    dealing = {"dataset": "small", "fold": 0, "folds": 3, "seed": 1, "validation_share": 0.2, "minimum_cells": 5}
    split = splits.fold(cells.obs["perturbation"], **dealing)
    draw = controls.draw_controls(cells.obs, split, per_perturbation=5, seed=1, dataset="small", split_name="fold0")
    symbols = {gene: number for number, gene in enumerate(_symbols(cells))}
    checkpoint.initialize(folder, SIZES, symbols, seed=1)
    alignment = vocabulary.align(cells.var_names, symbols)
    return cells, split, controls.control_cells(cells, draw), alignment, folder


def _symbols(cells):
    targets = {gene for name in cells.obs["perturbation"].unique() if name != "control" for gene in name.split("+")}
    known = sorted({*cells.var_names, *targets} - {"PLANTED-1"})
    return [*known, "<pad>", "<cls>", "<eoc>"]


def test_the_flagged_call_says_what_is_random(experiment):
    _, _, drawn, alignment, folder = experiment
    predicted, method = arms.flagged(drawn, alignment, folder, seed=0)
    assert predicted.shape == drawn.shape
    assert np.isfinite(predicted).all()
    assert method["load_report"]["checkpoint_pretrained"] is False
    assert "pert_encoder.weight" in method["load_report"]["random"]
    assert method["genes_padded"] == 1
    assert method["attention"].startswith("sdpa")


def test_another_seed_is_another_random_decoder(experiment):
    _, _, drawn, alignment, folder = experiment
    first, again, other = (arms.flagged(drawn, alignment, folder, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_mean_cells_are_the_means_of_the_cells(experiment):
    _, _, drawn, alignment, folder = experiment
    labels = drawn.obs["perturbation"].astype(str)
    rows = predictions.mean_cell_obs(drawn.obs)
    assert rows["control_cell"].unique() == ["mean of 5 control cells"]
    for of_cells, of_means in (
        (arms.flagged(drawn, alignment, folder, 0), arms.flagged(drawn, alignment, folder, 0, MEANS)),
        [arms.prompted(drawn, alignment, folder, generation.Options(draws=2), 0, keep) for keep in (True, False)],
    ):
        expected, _ = group_means(of_cells[0], labels, rows["perturbation"])
        np.testing.assert_allclose(of_means[0], expected, atol=1e-6)


def test_only_expressed_genes_and_targets_are_predicted_where_only_they_are_fed(experiment):
    _, _, drawn, alignment, folder = experiment
    predicted, method = arms.flagged(drawn, alignment, folder, 0, arms.Calling(genes_fed="nonzero"))
    assert method["genes_fed"] == "nonzero"
    targets = np.array([[gene in name.split("+") for gene in drawn.var_names] for name in drawn.obs["perturbation"]])
    fed = (drawn.X.toarray() != 0) | targets
    assert (predicted[~fed] == 0).all()
    assert (predicted[fed] != 0).all()


def test_prompted_cells_are_anchored_at_the_control_mean(experiment, tmp_path):
    _, _, drawn, alignment, folder = experiment
    options = generation.Options(draws=2)
    # Weights that were never trained predict bins around 0, all of them the same: a readable answer is made here.
    tensors = checkpoint.read_tensors(folder)
    tensors["decoder.fc.4.weight"] *= 100
    tensors["decoder.fc.4.bias"] += 25
    folder = tmp_path / "louder"
    symbols = vocabulary.read_vocabulary(experiment[4] / "vocab.json")
    checkpoint.write(folder, tensors, checkpoint.read_arguments(experiment[4]), symbols)
    predicted, method = arms.prompted(drawn, alignment, folder, options, seed=0)
    names = sorted(drawn.obs["perturbation"].unique())
    means, _ = group_means(predicted, drawn.obs["perturbation"].astype(str), names)
    change = means - drawn.varm["control_mean"][names].to_numpy().T
    padded = (alignment["status"] == "padded").to_numpy()
    np.testing.assert_allclose(change[:, padded], 0, atol=1e-5)  # nothing can be asked about a gene without a token
    assert np.abs(change).max() > 1e-4
    assert method["predicted_as_no_change"] == []


def test_cells_of_test_perturbations_change_no_bit_of_a_fine_tuned_prediction(experiment, tmp_path):
    cells, split, drawn, alignment, folder = experiment
    test = split.loc[split["role"] == "test", "perturbation"]
    altered = cells.copy()
    rows = altered.obs["perturbation"].isin(test).to_numpy()
    values = altered.X.toarray()
    values[rows] = values[rows][:, ::-1] + 1
    altered.X = type(altered.X)(values)
    assert rows.any()
    options = finetuning.Options(epochs=2, batch_size=8, learning_rate=1e-3)
    predictions = []
    for name, source in (("as measured", cells), ("altered", altered)):
        model_folder = tmp_path / name
        finetuning.finetune(source, split, alignment, folder, options, 0, model_folder)
        report = json.loads((model_folder / "report.json").read_text())
        predictions.append(arms.finetuned(drawn, alignment, folder, model_folder, report)[0])
    np.testing.assert_array_equal(*predictions)


def test_gene_embeddings_are_those_of_the_checkpoint_without_pad(experiment):
    cells, _, _, _, folder = experiment
    embeddings = arms.gene_embeddings(cells, folder)
    tensors, symbols = checkpoint.read_tensors(folder), vocabulary.read_vocabulary(folder / "vocab.json")
    gene = embeddings.obs_names[3]
    torch.testing.assert_close(
        torch.from_numpy(np.asarray(embeddings[gene].X))[0], tensors["encoder.embedding.weight"][symbols[gene]]
    )
    assert "PLANTED-1" not in embeddings.obs_names
    unmeasured = set(embeddings.obs_names) - set(cells.var_names)
    assert len(unmeasured) == 1
    assert isinstance(embeddings, anndata.AnnData)
