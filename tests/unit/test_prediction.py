"""Every method predicts from what it may know, and records what that was."""

import json
import shutil

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

from jobs import Job
from made_up import halved
from predicted import whole
from scgpt_bench import predictions
from scgpt_bench.data import controls, planted, splits
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import mean_cell
from scgpt_bench.errors import InputError
from scgpt_bench.files import write_h5ad, write_table
from scgpt_bench.method_record import read_record
from scgpt_bench.scgpt import checkpoint, devices, engine, finetuning, generation, prediction, recipe, vocabulary
from scgpt_bench.scgpt.gene_embeddings import gene_embeddings
from scgpt_bench.scgpt.prediction import PredictionOptions
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
CELLS = PredictionOptions()
MEANS = PredictionOptions(batch_size=2, keep_cells=False)
TWO_DRAWS = generation.PromptOptions(draws=2)
SIZES = {"embsize": 16, "nlayers": 2, "nheads": 2, "d_hid": 16}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Cells, split, drawn controls, alignment and an untrained checkpoint of a very small experiment."""
    folder = tmp_path_factory.mktemp("checkpoint")
    dataset = read_datasets(ROOT / "config" / "datasets.tsv")["planted"]
    cells = harmonize(planted.generate(SMALL).cells, dataset, minimum_cells=5)
    dealing = {"dataset": "small", "fold": 0, "folds": 3, "seed": 1, "validation_share": 0.2, "minimum_cells": 5}
    split = splits.fold(cells.obs, **dealing)
    draw = controls.draw_controls(
        halved(cells).obs, split, per_perturbation=5, seed=1, dataset="small", split_name="fold0"
    )
    symbols = {gene: number for number, gene in enumerate(_symbols(cells))}
    checkpoint.initialize(folder, SIZES, symbols, seed=1)
    alignment = vocabulary.align(cells.var_names, symbols)
    return cells, split, controls.control_cells(cells, draw), alignment, folder


def _symbols(cells):
    targets = {gene for name in cells.obs["perturbation"].unique() if name != "control" for gene in name.split("+")}
    known = sorted({*cells.var_names, *targets} - {"PLANTED-1"})
    return [*known, "<pad>", "<cls>", "<eoc>"]


def test_a_zero_shot_prediction_says_what_is_random(experiment):
    _, _, drawn, alignment, folder = experiment
    predicted, method = whole(prediction.zero_shot, drawn, alignment, folder, seed=0)
    assert predicted.shape == drawn.shape
    assert np.isfinite(predicted).all()
    assert method["scgpt"].load_report.checkpoint_pretrained is False
    assert "pert_encoder.weight" in method["scgpt"].load_report.random
    assert (method["scgpt"].genes_padded, method["scgpt"].genes_renamed) == (1, 0)
    assert method["scgpt"].attention.startswith("sdpa")
    assert method["scgpt"].versions["scgpt"] == "0.2.4"


def test_another_seed_is_another_random_decoder(experiment):
    _, _, drawn, alignment, folder = experiment
    first, again, other = (whole(prediction.zero_shot, drawn, alignment, folder, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def unlike(drawn):
    """The same control cells, the five of a perturbation with weights as of a draw that is not balanced over types."""
    drawn = drawn.copy()
    drawn.obs["weight"] = np.resize([0.5, 0.5, 0.5, 1.75, 1.75], len(drawn))
    return drawn


def means_of(predicted, drawn, names):
    labels, weights = drawn.obs["perturbation"].astype(str).to_numpy(), drawn.obs["weight"].to_numpy()
    return np.stack([mean_cell(predicted[labels == name], weights[labels == name]) for name in names])


def test_mean_cells_are_the_means_of_the_cells(experiment):
    _, _, drawn, alignment, folder = experiment
    drawn = unlike(drawn)
    rows = predictions.mean_cell_obs(drawn.obs)
    assert rows["control_cell"].unique() == ["mean of 5 control cells"]
    assert (rows["weight"] == 1).all()
    for of_cells, of_means in (
        [whole(prediction.zero_shot, drawn, alignment, folder, 0, how) for how in (CELLS, MEANS)],
        [whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, 0, how) for how in (CELLS, MEANS)],
    ):
        expected = means_of(of_cells[0], drawn, rows["perturbation"])
        np.testing.assert_allclose(of_means[0], expected, atol=1e-6)


def test_only_expressed_genes_and_targets_are_predicted_where_only_they_are_fed(experiment):
    _, _, drawn, alignment, folder = experiment
    predicted, _ = whole(prediction.zero_shot, drawn, alignment, folder, 0, PredictionOptions(genes_fed="nonzero"))
    targets = np.array([[gene in name.split("+") for gene in drawn.var_names] for name in drawn.obs["perturbation"]])
    fed = (drawn.X.toarray() != 0) | targets
    assert (predicted[~fed] == 0).all()
    assert (predicted[fed] != 0).all()


def test_a_flagged_call_may_be_given_bins_and_prompts_may_leave_the_target_out(experiment):
    _, _, drawn, alignment, folder = experiment
    of_values, of_bins = (
        whole(prediction.zero_shot, drawn, alignment, folder, 0, PredictionOptions(value_input=value_input))[0]
        for value_input in ("log1p", "bins")
    )
    assert np.abs(of_bins - of_values).max() > 1e-2
    left_out = TWO_DRAWS.model_copy(update={"silenced_targets": "left_out"})
    _, record = whole(prediction.prompted, drawn, alignment, folder, left_out, 0)
    assert record["prompts"].targets == ("left out",)


def test_prompted_cells_are_anchored_at_the_control_mean(experiment, tmp_path):
    _, _, drawn, alignment, folder = experiment
    drawn = unlike(drawn)
    # Weights that were never trained predict bins around 0, all of them the same: a readable answer is made here.
    tensors = checkpoint.read_tensors(folder)
    tensors["decoder.fc.4.weight"] *= 100
    tensors["decoder.fc.4.bias"] += 25
    folder = tmp_path / "louder"
    symbols = vocabulary.read_vocabulary(experiment[4] / "vocab.json")
    checkpoint.write(folder, tensors, checkpoint.read_arguments(experiment[4]), symbols)
    predicted, method = whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, seed=0)
    names = sorted(drawn.obs["perturbation"].unique())
    change = means_of(predicted, drawn, names) - np.stack([*controls.control_means_of(drawn).values()])
    padded = (alignment["status"] == "padded").to_numpy()
    np.testing.assert_allclose(change[:, padded], 0, atol=1e-5)  # nothing can be asked about a gene without a token
    assert np.abs(change).max() > 1e-4
    assert method["fallbacks"] == {}
    assert method["prompts"].targets == ("silenced",)
    assert method["prompts"].zeros_in_pretraining is False
    assert method["prompts"].raised_without_expression == ()


@pytest.mark.parametrize("seen", [True, False, None])
def test_prompts_say_whether_pretraining_had_the_zeros_that_they_have(experiment, tmp_path, caplog, seen):
    _, _, drawn, alignment, folder = experiment
    folder = shutil.copytree(folder, tmp_path / "zeros")
    arguments = checkpoint.read_arguments(folder) | {"include_zero_genes": seen}
    (folder / "args.json").write_text(json.dumps(arguments))
    _, method = whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, 0)
    assert method["prompts"].zeros_in_pretraining is bool(seen)
    assert ("value 0, which this checkpoint has not seen" in caplog.text) is not seen or seen is None


def silenced(drawn, columns):
    """The same control cells, without a count of some genes."""
    values = drawn.X.toarray()
    values[:, columns] = 0
    drawn = drawn.copy()
    drawn.X = sparse.csr_matrix(values)
    return drawn


def test_a_prompt_of_activations_says_how_far_targets_are_raised_and_which_no_cell_expresses(experiment):
    _, _, drawn, alignment, folder = experiment
    silent, expressed, *_ = sorted(set(drawn.obs["perturbation"]) & set(drawn.var_names))
    drawn = silenced(drawn, drawn.var_names.get_loc(silent))
    drawn.obs["direction"] = "up"
    _, method = whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, 0)
    (raised,) = method["prompts"].targets
    assert raised.startswith("raised to quantile 0.95")
    assert silent in method["prompts"].raised_without_expression
    assert expressed not in method["prompts"].raised_without_expression


def test_a_knock_down_of_a_target_that_no_cell_expresses_is_listed(experiment):
    _, _, drawn, alignment, folder = experiment
    silent = min(set(drawn.obs["perturbation"]) & set(drawn.var_names))
    drawn = silenced(drawn, drawn.var_names.get_loc(silent))
    _, method = whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, 0)
    unmeasured = method["scgpt"].targets_not_measured  # random weights predict bins around 0 for them
    already = [condition.perturbation for condition in method["fallbacks"]]
    assert [name for name in already if name not in unmeasured] == [silent]


def test_the_job_of_a_prompted_method_takes_the_direction_of_each_condition(experiment, tmp_path):
    _, _, drawn, alignment, folder = experiment
    drawn = drawn.copy()
    first = drawn.obs["perturbation"] == drawn.obs["perturbation"].iloc[0]
    drawn.obs["direction"] = np.where(first, "up", "down")
    write_h5ad(drawn, tmp_path / "controls.h5ad")
    write_table(alignment, tmp_path / "vocabulary.tsv")
    files = {"controls": "controls.h5ad", "checkpoint": [str(folder / "best_model.pt")], "vocabulary": "vocabulary.tsv"}
    options = {"kind": "scgpt-knockout", "checkpoint": "tiny", "target_quantile": 0.8, "draws": 2}
    params = {"function": "prompted", "options": options, "batch_size": None, "keep_cells": True, "precision": None}
    outputs = {"predictions": "predictions.h5ad", "method": "method.json"}
    job = Job("predict_scgpt.py", {**files, "model": []}, outputs, params, {"seed": "0"})
    done = job.run(tmp_path)
    assert done.status == 0, done.terminal + done.log
    record = read_record(tmp_path / "method.json")
    raised, silenced_ones = record.prompts.targets
    assert (raised[:22], silenced_ones) == ("raised to quantile 0.8", "silenced")
    assert record.options == {"checkpoint": "tiny", "target_quantile": 0.8, "draws": 2}


@pytest.mark.parametrize(("gpu", "at_hand", "used"), [(0, 1, "cpu"), (1, 1, "cuda"), (2, 1, "cuda")])
def test_a_prediction_uses_one_gpu_where_any_was_asked_for(monkeypatch, gpu, at_hand, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: at_hand)
    assert devices.device_of(gpu) == torch.device(used)


def test_a_gpu_that_is_not_there_ends_the_job_unless_the_cpu_is_to_be_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(devices.ON_CPU, raising=False)
    with pytest.raises(InputError, match=r"hardware\.gpu: found 1, but CUDA finds 0 on \S+; expected as many"):
        devices.device_of(2)
    monkeypatch.setenv(devices.ON_CPU, "1")
    assert devices.device_of(2) == torch.device("cpu")


def test_every_method_runs_where_its_job_may_and_states_its_own_number_type(experiment, monkeypatch):
    _, _, drawn, alignment, folder = experiment
    asked = []
    monkeypatch.setattr(devices, "device_of", lambda gpu: asked.append(gpu) or torch.device("cpu"))
    monkeypatch.setattr(devices, "number_type", lambda device, precision: torch.bfloat16)
    _, of_call = whole(prediction.zero_shot, drawn, alignment, folder, 0, PredictionOptions(gpu=2))
    _, of_prompts = whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, 0, PredictionOptions(gpu=2))
    assert asked == [2, 2]
    assert of_call["scgpt"].attention.endswith("bfloat16)")
    assert of_prompts["scgpt"].attention.endswith("float32)")


def test_effects_in_bf16_on_a_cpu_are_those_in_fp32(experiment):
    _, _, drawn, alignment, folder = experiment
    effects = []
    for precision in ("fp32", "bf16"):
        options = PredictionOptions(precision=precision)
        predicted, record = whole(prediction.zero_shot, drawn, alignment, folder, 0, options)
        assert record["scgpt"].precision == precision
        effects.append(predicted - predicted.mean(axis=0))
    assert not np.array_equal(*effects)
    assert np.corrcoef(*(each.ravel() for each in effects))[0, 1] > 0.999


def test_expression_is_not_rounded_to_half_precision(experiment, monkeypatch):
    """Half precision as on a GPU, but on the CPU: an unexpressed gene is predicted by the decoder's bias alone."""
    _, _, drawn, alignment, folder = experiment
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(engine.Engine, "_autocast", lambda own: torch.autocast("cpu", torch.bfloat16))
    predicted, _ = whole(prediction.zero_shot, silenced(drawn, slice(0, 8)), alignment, folder, seed=0)
    unexpressed = torch.from_numpy(predicted[:, :8])
    assert (unexpressed == unexpressed.bfloat16().float()).float().mean() < 0.1


def test_cells_of_test_perturbations_change_no_bit_of_a_fine_tuned_prediction(experiment, tmp_path):
    cells, split, drawn, alignment, folder = experiment
    test = split.loc[split["role"] == "test", "perturbation"]
    altered = cells.copy()
    rows = altered.obs["perturbation"].isin(test).to_numpy()
    values = altered.X.toarray()
    values[rows] = values[rows][:, ::-1] + 1
    altered.X = type(altered.X)(values)
    assert rows.any()
    options = recipe.Recipe(epochs=2, batch_size=8, learning_rate=1e-3)
    predictions = []
    for name, source in (("as measured", cells), ("altered", altered)):
        model_folder = tmp_path / name
        finetuning.finetune(source, split, alignment, folder, options, 0, model_folder)
        predictions.append(whole(prediction.finetuned, drawn, alignment, folder, model_folder)[0])
    np.testing.assert_array_equal(*predictions)


def _predictions(experiment, folder, model_folder):
    """What every method makes of a checkpoint, by method."""
    cells, split, drawn, alignment, _ = experiment
    made = {
        "zero-shot": whole(prediction.zero_shot, drawn, alignment, folder, seed=0),
        "knockout": whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS, 0),
        "generate": whole(prediction.prompted, drawn, alignment, folder, TWO_DRAWS.model_copy(update={"rounds": 2}), 0),
    }
    for name, pretrained in (("finetuned", [*checkpoint.PRETRAINED_PREFIXES]), ("scratch", [])):
        options = recipe.Recipe(epochs=1, batch_size=32, pretrained=pretrained)
        finetuning.finetune(cells, split, alignment, folder, options, 0, model_folder / name)
        made[name] = whole(prediction.finetuned, drawn, alignment, folder, model_folder / name)
    return made | {"embeddings": (np.asarray(gene_embeddings(cells, folder, alignment).X), {})}


@pytest.mark.parametrize("number_type", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn], ids=str)
def test_every_method_takes_weights_of_any_floating_type_for_their_cast_to_fp32(experiment, tmp_path, number_type):
    tensors = {name: tensor.to(number_type) for name, tensor in checkpoint.read_tensors(experiment[4]).items()}
    made = []
    for name, stored in (("stored", tensors), ("cast", {name: tensor.float() for name, tensor in tensors.items()})):
        shutil.copytree(experiment[4], tmp_path / name)
        torch.save({f"module.{key}": tensor for key, tensor in stored.items()}, tmp_path / name / "best_model.pt")
        made.append(_predictions(experiment, tmp_path / name, tmp_path / name))
    for method in made[0]:
        np.testing.assert_array_equal(made[0][method][0], made[1][method][0], err_msg=method)
    reported = [made[0][method][1]["scgpt"].load_report.stored_as for method in ("zero-shot", "knockout", "finetuned")]
    assert reported == [(str(number_type).removeprefix("torch."),)] * 3


def test_gene_embeddings_of_parameters_with_gradients_are_read(experiment, tmp_path):
    folder = shutil.copytree(experiment[4], tmp_path / "parameters")
    tensors = checkpoint.read_tensors(folder)
    torch.save({name: torch.nn.Parameter(tensor.clone()) for name, tensor in tensors.items()}, folder / "best_model.pt")
    cells, _, _, alignment, _ = experiment
    of_tensors, of_parameters = (gene_embeddings(cells, path, alignment) for path in (experiment[4], folder))
    np.testing.assert_array_equal(of_tensors.X, of_parameters.X)


def test_gene_embeddings_need_no_target_that_was_not_measured(experiment):
    cells, _, _, alignment, folder = experiment
    measured = cells[cells.obs["perturbation"].isin(["control", *cells.var_names])]
    assert measured.n_obs < cells.n_obs
    embeddings = gene_embeddings(measured, folder, alignment)
    assert set(embeddings.obs_names) == set(alignment.loc[alignment["status"] != "padded", "gene"])


def test_gene_embeddings_are_those_of_the_checkpoint_without_pad(experiment):
    cells, _, _, alignment, folder = experiment
    embeddings = gene_embeddings(cells, folder, alignment)
    tensors, symbols = checkpoint.read_tensors(folder), vocabulary.read_vocabulary(folder / "vocab.json")
    gene = embeddings.obs_names[3]
    torch.testing.assert_close(
        torch.from_numpy(np.asarray(embeddings[gene].X))[0], tensors["encoder.embedding.weight"][symbols[gene]]
    )
    assert "PLANTED-1" not in embeddings.obs_names
    unmeasured = set(embeddings.obs_names) - set(cells.var_names)
    assert len(unmeasured) == 1
    assert isinstance(embeddings, anndata.AnnData)


def test_a_renamed_gene_has_the_vector_of_the_name_that_it_was_matched_as(experiment):
    cells, _, _, alignment, folder = experiment
    renamed = alignment.copy()
    renamed.loc[0, ["gene", "status"]] = ["C8orf59", "renamed"]
    embeddings = gene_embeddings(cells, folder, renamed)
    vector = checkpoint.read_tensors(folder)["encoder.embedding.weight"][alignment["token_id"][0]]
    np.testing.assert_array_equal(np.asarray(embeddings["C8orf59"].X)[0], vector.numpy())
