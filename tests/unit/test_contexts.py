"""Two cell lines in one experiment: every stage up to the predictions works within a context."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from made_up import halved, measure
from predicted import whole, with_rows, write_whole
from registered import SIMPLE
from scgpt_bench.data import controls, planted, splits
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import Condition, conditions_of, listed, rows_of
from scgpt_bench.data.halves import INPUT, TRUTH, is_control_of
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import condition_means
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.references import references
from scgpt_bench.data.training_cells import write_without_test_cells
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.pseudobulk import truth
from scgpt_bench.methods import baselines, imported
from scgpt_bench.methods.benchmark_controls import Known, oracle, shuffled, shuffles, technical_duplicate
from scgpt_bench.predictions import mean_cell_obs, read_predictions
from scgpt_bench.scgpt import checkpoint, generation, inference, prediction, vocabulary
from scgpt_bench.scgpt.finetuning import finetune
from scgpt_bench.scgpt.pairs import Pairs
from scgpt_bench.scgpt.pretraining import unperturbed
from scgpt_bench.scgpt.recipe import Recipe
from scgpt_bench.scgpt.training import Machine, shared_rows
from scgpt_bench.scgpt.training_set import TrainingSet
from scgpt_bench.scgpt.validation import Validation
from scgpt_bench.scgpt.vocabulary import human_vocabulary

LINES = ["line1", "line2"]
SMALL = {"modules": 3, "genes_per_module": 8, "targets_per_module": 3, "cells_per_perturbation": 8}
SMALL |= {"control_cells": 40, "atlas_cells": 20, "truth_draws": 50, "genes_outside_vocabulary": 0, "contexts": 2}
SMALL |= {"unmeasured_targets": 0}
DEALING = {"dataset": "lines", "fold": 0, "folds": 3, "seed": 1, "validation_share": 0.2, "minimum_cells": 5}
DRAWING = {"per_perturbation": 6, "seed": 1, "dataset": "lines", "split_name": "fold0"}
ROW = replace(read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")["planted"], context_column="context")
OPTIONS = Recipe(batch_size=4, epochs=1, validation_cells=4)


@pytest.fixture(scope="module")
def made():
    return planted.generate(SMALL)


@pytest.fixture(scope="module")
def cells(made):
    return harmonize(made.cells, ROW, minimum_cells=5)


@pytest.fixture(scope="module")
def split(cells):
    return splits.fold(cells.obs, **DEALING)


@pytest.fixture(scope="module")
def drawn(cells, split):
    return controls.control_cells(cells, controls.draw_controls(halved(cells).obs, split, **DRAWING))


@pytest.fixture(scope="module")
def weights(cells, tmp_path_factory):
    """The folder of an untrained checkpoint, and the alignment of the genes with it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    symbols = {name: number for number, name in enumerate([*cells.var_names, "<pad>", "<cls>", "<eoc>"])}
    checkpoint.initialize(folder, {"embsize": 8, "nlayers": 1, "nheads": 2, "d_hid": 8}, symbols, seed=1)
    return folder, vocabulary.align(cells.var_names, symbols)


def only(cells, context):
    return cells[cells.obs["context"] == context].copy()


def test_a_perturbation_has_one_role_in_all_contexts_and_that_of_a_data_set_without_contexts(cells, split):
    assert len(split[["perturbation", "role"]].drop_duplicates()) == split["perturbation"].nunique()
    assert set(split["context"]) == set(LINES)
    assert not split.loc[split["role"] != "train", "seen"].any()
    assert split.loc[split["role"] == "train", "seen"].all()
    without = splits.fold(only(cells, "line1").obs.drop(columns="context"), **DEALING)
    here = split[split["context"] == "line1"].reset_index(drop=True)
    pd.testing.assert_series_equal(here["role"], without["role"])


def test_a_condition_with_few_cells_is_trained_on_or_left_out(cells, split):
    tested, trained = (split.loc[split["role"] == role, "perturbation"].iloc[0] for role in ("test", "train"))
    rows = rows_of(cells.obs)
    lost = [row for name in (tested, trained) for row in rows[Condition(name, "line2")][4:]]
    fewer = splits.fold(cells.obs.drop(index=cells.obs_names[lost]), **DEALING)
    found = set(zip(conditions_of(fewer), fewer["role"], strict=True))
    before = set(zip(conditions_of(split), split["role"], strict=True))
    assert before - found == {(Condition(tested, "line2"), "test")}
    assert (Condition(trained, "line2"), "train") in found


def test_a_fixed_split_may_hold_out_a_context(cells, tmp_path):
    names = sorted(set(cells.obs["perturbation"]) - {"control"})
    lines = [f"{name}\tline1\ttrain" for name in names]
    lines += [f"{names[0]}\tline2\tvalidation", f"{names[1]}\tline2\ttest"]
    path = tmp_path / "fixed.tsv"
    path.write_text("\n".join(["perturbation\tcontext\trole", *lines]))
    table = splits.read_split_file(path, cells.obs)
    held_out = table[table["context"] == "line2"]
    assert held_out["seen"].tolist() == [True, True]
    assert not table.loc[table["context"] == "line1", "seen"].any()
    path.write_text("perturbation\tcontext\trole\n" + f"{names[0]}\tline3\ttest")
    with pytest.raises(InputError, match=f"'{names[0]}' in context 'line3', which has no cells"):
        splits.read_split_file(path, cells.obs)


def test_controls_are_drawn_within_the_context_and_compared_within_it(cells, drawn):
    context_of_cell = cells.obs["context"].astype(str)
    assert (context_of_cell[drawn.obs["control_cell"]].to_numpy() == drawn.obs["context"]).all()
    means = controls.control_means_of(drawn)
    for line in LINES:
        here = only(cells, line)
        controls_here = here[is_control_of(here.obs, INPUT)]
        expected = np.asarray(controls_here.X.mean(axis=0)).ravel()
        for condition, mean in means.items():
            if condition.context == line:
                alone = references(here, [condition], INPUT)
                np.testing.assert_allclose(mean, alone[0], rtol=1e-12)
                np.testing.assert_allclose(mean, expected, atol=0.2)  # batches differ by little


def test_a_context_without_a_control_cell_of_a_type_is_refused(cells, split):
    kept = ~((cells.obs["perturbation"] == "control") & (cells.obs["context"] == "line2")).to_numpy()
    with pytest.raises(InputError, match=r"of '\w+@line2' of type '\w+', but no control"):
        controls.draw_controls(cells.obs[kept], split, **DRAWING)


@pytest.mark.parametrize("kind", sorted({*SIMPLE} - {"context-mean"}))
def test_a_simple_method_predicts_in_each_context_what_it_would_alone(kind, cells, split, drawn):
    together, _ = whole(baselines.predict, cells, split, drawn, SIMPLE[kind])
    for line in LINES:
        own = split[split["context"] == line]
        here = only(cells, line)
        alone = controls.control_cells(here, controls.draw_controls(halved(here).obs, own, **DRAWING))
        expected, _ = whole(baselines.predict, here, own, alone, SIMPLE[kind])
        np.testing.assert_allclose(together[(drawn.obs["context"] == line).to_numpy()], expected, atol=1e-6)


def test_floor_ceiling_and_oracle_know_the_condition(made, cells, split, drawn):
    known = Known(cells, drawn, truth(measure(cells), split), made.truth)
    assert whole(shuffled, known, 1)[0].shape == drawn.shape
    for partner in shuffles(known.conditions, 1):
        assert all(one.context == other.context and one != other for one, other in partner.items())
        assert sorted(partner.values()) == sorted(partner)
    X, _ = whole(oracle, known, 1)
    reference = known.truth.layers["reference_input"]
    row_of = {condition: row for row, condition in enumerate(listed(made.truth.obs))}
    weights = drawn.obs["weight"].to_numpy()
    for condition, rows in rows_of(drawn.obs).items():
        found = np.average(X[rows], axis=0, weights=weights[rows])
        planted = made.truth.X[row_of[condition]] - made.truth.X[row_of[Condition(CONTROL, condition.context)]]
        np.testing.assert_allclose(found, known.of_truth(reference, [condition])[0] + planted, atol=1e-5)
    assert whole(technical_duplicate, known, 1)[0].shape == drawn.shape
    with pytest.raises(InputError, match="alone in its context"):
        whole(shuffled, Known(cells, drawn[:1].copy(), known.truth), 1)
    assert not [*shuffles([Condition("A", "x"), Condition("A", "y")], 1)]
    assert Condition("A", "x") not in next(shuffles([Condition("A", "x"), Condition("A", "y"), Condition("B", "y")], 1))


def test_an_imported_file_says_the_context_where_there_are_several(cells, split, drawn, tmp_path):
    conditions = conditions_of(split, "test")
    means, _ = condition_means(cells, conditions)
    obs = pd.DataFrame(conditions, columns=["perturbation", "context"]).rename(index=str)
    labels = {"perturbation_column": "perturbation", "control_label": "control", "context_column": None}
    path, row = tmp_path / "file.h5ad", replace(ROW, **labels)
    anndata.AnnData(means, obs=obs, var=cells.var[[]]).write_h5ad(path)
    X, of_rows, _ = with_rows(imported.import_predictions, path, row, drawn)
    write_whole(tmp_path / "predictions.h5ad", X, of_rows, cells.var_names)
    written = read_predictions(tmp_path / "predictions.h5ad", cells.var_names, split)
    weights = written.obs["weight"].to_numpy()
    for condition, rows in rows_of(written.obs).items():
        found = np.average(written.X[rows], axis=0, weights=weights[rows])
        np.testing.assert_allclose(found, means[conditions.index(condition)], atol=1e-5)
    with pytest.raises(InputError, match=r"no cell of '.*@line2'; expected every test condition"):
        read_predictions(tmp_path / "predictions.h5ad", cells.var_names, split.assign(context="line2", role="test"))
    anndata.AnnData(means, obs=obs[["perturbation"]], var=cells.var[[]]).write_h5ad(path)
    with pytest.raises(InputError, match="expected the column 'context', with 'line1'"):
        with_rows(imported.import_predictions, path, row, drawn)


def test_an_imported_cell_starts_from_a_control_cell_of_its_own_context(cells, split, drawn, tmp_path):
    labels = {"perturbation_column": "perturbation", "control_label": "control", "context_column": None}
    obs = drawn.obs[["perturbation", "context", "control_cell"]].copy()
    elsewhere = obs.groupby("context", observed=True)["control_cell"].first().to_dict()
    obs["control_cell"] = [elsewhere["line2" if context == "line1" else "line1"] for context in obs["context"]]
    anndata.AnnData(drawn.X, obs=obs, var=cells.var[[]]).write_h5ad(tmp_path / "file.h5ad")
    _, rows, _ = with_rows(imported.import_predictions, tmp_path / "file.h5ad", replace(ROW, **labels), drawn)
    context_of_cell = cells.obs["context"].astype(str)
    assert (context_of_cell[rows["control_cell"]].to_numpy() == rows["context"].to_numpy()).all()


def test_the_record_counts_what_was_learned_from_in_the_contexts_that_were_used(cells, split, drawn):
    numbers = split[split["role"] != "test"].groupby("context").size()
    for kind, lines in (("train-mean", ["line1"]), ("same-perturbation", LINES)):
        own = split[(split["context"] == "line1") | (split["role"] != "test")]
        here = drawn[(drawn.obs["context"] == "line1").to_numpy()].copy()
        here.uns["control_mean_of"] = here.uns["control_mean_of"].query("context == 'line1'")
        here.varm["control_mean"] = here.varm["control_mean"][:, : len(here.uns["control_mean_of"])]
        _, record = whole(baselines.predict, cells, own, here, SIMPLE[kind])
        assert record["training"].cells == 8 * sum(numbers[line] for line in lines)


def test_a_condition_alone_in_its_context_has_no_floor_and_the_record_says_so(made, cells, split):
    tested = split[split["role"] == "test"]
    alone = tested[tested["context"] == "line2"].index[1:]
    split = split.drop(alone)
    drawn = controls.control_cells(cells, controls.draw_controls(halved(cells).obs, split, **DRAWING))
    X, record = whole(shuffled, Known(cells, drawn, truth(measure(cells), split)), 1)
    ((condition, why),) = record["fallbacks"].items()
    assert (condition.context, why) == ("line2", ("the only test condition of its context", "no change"))
    rows = rows_of(drawn.obs)[condition]
    mean = np.average(X[rows], axis=0, weights=drawn.obs["weight"].to_numpy()[rows])
    np.testing.assert_allclose(mean, controls.control_means_of(drawn)[condition], atol=1e-5)


def test_what_a_script_may_learn_from_is_chosen_by_condition(cells, split, tmp_path):
    split = split.copy()
    name = split.loc[split["role"] == "train", "perturbation"].iloc[0]
    split.loc[(split["perturbation"] == name) & (split["context"] == "line2"), "role"] = "test"
    write_without_test_cells(cells, split, tmp_path / "training.h5ad")
    seen = rows_of(anndata.read_h5ad(tmp_path / "training.h5ad").obs)
    assert (name, "line1") in seen
    assert (name, "line2") not in seen


def test_scgpt_predicts_whole_conditions_and_shards_of_them_alike(cells, drawn, weights):
    folder, alignment = weights
    together, _ = whole(prediction.zero_shot, drawn, alignment, folder, seed=0)
    means, _ = whole(prediction.zero_shot, drawn, alignment, folder, 0, prediction.PredictionOptions(keep_cells=False))
    names = mean_cell_obs(drawn.obs)
    for row, condition in enumerate(listed(names)):
        own = rows_of(drawn.obs)[condition]
        expected = np.average(together[own], axis=0, weights=drawn.obs["weight"].to_numpy()[own])
        np.testing.assert_allclose(means[row], expected, atol=1e-5)
    shards = []
    for index in range(3):
        chosen = inference.shard(drawn.obs, index, 3)
        part = drawn[[condition in chosen for condition in listed(drawn.obs)]].copy()
        X, _ = whole(prediction.zero_shot, part, alignment, folder, seed=0)
        shards.append(pd.DataFrame(X, index=part.obs_names))
    np.testing.assert_array_equal(pd.concat(shards).loc[drawn.obs_names].to_numpy(), together)


def test_prompts_follow_the_direction_of_the_condition(drawn, weights):
    folder, alignment = weights
    drawn = drawn.copy()
    drawn.obs["direction"] = np.where(drawn.obs["context"] == "line1", "up", "down")
    _, record = whole(prediction.prompted, drawn, alignment, folder, generation.PromptOptions(draws=2), 0)
    raised, silenced = record["prompts"].targets
    assert (raised[:6], silenced) == ("raised", "silenced")
    assert all(name.endswith("@line1") for name in record["prompts"].raised_without_expression)


def test_fine_tuning_pairs_and_validates_within_a_context(cells, split, weights):
    folder, alignment = weights
    training_set = TrainingSet.of(cells, split, alignment, checkpoint.read(folder))
    lines = training_set.cells.obs["context"].astype(str).to_numpy()
    pairs = Pairs(training_set, OPTIONS.model_copy(update={"pair_within": []}), seed=0)
    assert all((lines[pool] == lines[row]).all() for row, pool in pairs.pools.items())
    validation = Validation(training_set, OPTIONS, seed=0)
    assert {condition.context for condition in validation.conditions} == set(LINES)
    assert all((lines[rows] == condition.context).all() for condition, (rows, _) in validation.controls.items())


def held_out(cells):
    """The split that tests line2, of which training has no perturbed cell."""
    dealing = {"dataset": "lines", "context": "line2", "seed": 1, "validation_share": 0.2, "minimum_cells": 5}
    return splits.context(cells.obs, **dealing)


def with_other_hidden_cells(cells):
    """The same cells, but for those that no method may see: the perturbed ones of line2, and one half of controls."""
    obs, changed = cells.obs, cells.copy()
    hidden = is_control_of(obs, TRUTH) | ((obs["perturbation"] != CONTROL) & (obs["context"] == "line2")).to_numpy()
    values = changed.X.toarray()
    values[hidden] = np.random.default_rng(0).gamma(2, 1, values[hidden].shape)
    changed.X = sparse.csr_matrix(values)
    return changed


def test_what_is_measured_in_a_held_out_context_moves_no_bit_of_a_fine_tuned_model(cells, weights, tmp_path):
    folder, alignment = weights
    for name, own in (("as measured", cells), ("other cells", with_other_hidden_cells(cells))):
        finetune(own, held_out(cells), alignment, folder, OPTIONS, 0, tmp_path / name, Machine(accelerator="cpu"))
    models = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("as measured", "other cells")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_pairs_of_a_split_that_holds_out_a_context_are_within_the_others_and_their_batches(cells, weights):
    folder, alignment = weights
    training_set = TrainingSet.of(cells, held_out(cells), alignment, checkpoint.read(folder))
    pairs, obs = Pairs(training_set, OPTIONS, seed=0), training_set.cells.obs[["context", "batch"]].astype(str)
    assert {obs["context"].iloc[row] for row in pairs.rows} == {"line1"}
    assert pairs.paired_within["batch, cell_type"] == len(pairs.rows)
    assert all((obs.iloc[pool] == obs.iloc[row]).all(axis=None) for row, pool in pairs.pools.items())


def test_every_method_starts_from_control_cells_of_the_held_out_context(cells):
    drawn = controls.draw_controls(cells.obs, held_out(cells), **DRAWING)
    assert {*drawn["context"]} == {"line2"}
    assert {*cells.obs.loc[drawn["control_cell"], "context"]} == {"line2"}


def test_pretraining_reads_control_cells_of_the_half_that_methods_see_and_no_others(cells):
    named = cells[:, :10].copy()
    named.var_names = [*[*human_vocabulary()][:9], "unknown"]
    source, genes = unperturbed(named)
    assert genes == [*named.var_names[:9]]
    own = named.X[np.flatnonzero(is_control_of(cells.obs, INPUT))]
    everything = np.arange(len(source))
    assert np.array_equal(source.rows(everything).toarray(), own[:, :9].toarray())
    other, _ = unperturbed(with_other_hidden_cells(named))
    assert source.description() == other.description()


def test_pretraining_maps_cells_that_its_processes_share(cells, tmp_path):
    named = cells[:, :10].copy()
    named.var_names = [*[*human_vocabulary()][:9], "unknown"]
    read, (held, genes) = shared_rows(Machine("cpu").fabric(), tmp_path / "cells"), unperturbed(named)
    mapped, same = unperturbed(named, read)
    assert genes == same
    assert not mapped.matrix.data.flags.writeable  # as a file that is mapped
    assert held.description() == mapped.description()
    some = np.arange(0, len(held), 3)
    assert np.array_equal(held.rows(some).toarray(), mapped.rows(some).toarray())
    assert not [*tmp_path.iterdir()]
