"""The planted experiment has the answer that it claims, and a method can find it only where structure is planted."""

import importlib.util
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data.planted import generate, vocabulary_symbols
from scgpt_bench.errors import InputError

SMALL = {"cells_per_perturbation": 12, "control_cells": 40, "atlas_cells": 60, "truth_draws": 40}


@pytest.fixture(scope="module")
def experiment():
    return generate({})


@pytest.fixture(scope="module")
def without_structure():
    return generate({"structure": False})


@pytest.fixture(scope="module")
def vocabulary():
    folder = Path(importlib.util.find_spec("scgpt").submodule_search_locations[0])
    return json.loads((folder / "tokenizer" / "default_census_vocab.json").read_text())


def log_values(adata, target_sum=400):
    counts = adata.X.toarray().astype(np.float64)
    return pd.DataFrame(np.log1p(counts * target_sum / counts.sum(axis=1, keepdims=True)), columns=adata.var_names)


def shifts(experiment):
    """Measured change of the mean [perturbations x genes]."""
    means = log_values(experiment.cells).groupby(experiment.cells.obs["perturbation"].astype(str).to_numpy()).mean()
    return means.drop("control") - means.loc["control"]


def true_shifts(experiment):
    truth = experiment.truth.to_df()
    return truth.drop("control") - truth.loc["control"]


def mean_correlation(predicted, measured):
    return np.mean([np.corrcoef(predicted.loc[name], measured.loc[name])[0, 1] for name in measured.index])


def module_of(experiment, perturbations):
    """The module of each target by its place among the perturbations: six of each module, in order."""
    order = [name for name in experiment.truth.obs_names if name != "control"]
    return np.array([order.index(name) // 6 for name in perturbations])


def unseen_predictions(experiment):
    """Pearson delta of train-mean and of the mean of the target's module, two targets of each module unseen in turn."""
    measured = shifts(experiment).loc[experiment.truth.obs_names[1:]]
    modules, place = module_of(experiment, measured.index), np.arange(len(measured)) % 6
    figures = []
    for unseen in ([0, 1], [2, 3], [4, 5]):
        held_out = np.isin(place, unseen)
        training, test = measured[~held_out], measured[held_out]
        train_mean = pd.DataFrame([training.mean()] * len(test), index=test.index)
        module_means = training.groupby(modules[~held_out]).mean().loc[modules[held_out]].set_axis(test.index)
        figures.append((mean_correlation(train_mean, test), mean_correlation(module_means, test)))
    return np.mean(figures, axis=0)


def test_the_default_experiment_has_the_size_that_was_asked_for(experiment):
    cells, atlas, truth = experiment.cells, experiment.atlas, experiment.truth
    assert cells.shape == (1500 + 60 * 80, 198)  # two targets are not measured
    assert atlas.shape == (6000, 200)
    assert truth.shape == (61, 198)
    assert truth.obs_names[0] == "control"
    assert cells.var_names.equals(truth.var_names)
    assert cells.obs["perturbation"].value_counts().to_dict() == dict.fromkeys(truth.obs_names, 80) | {"control": 1500}
    assert atlas.obs["cell_type"].value_counts().unique().tolist() == [200]
    assert cells.obs_names.is_unique
    assert atlas.obs_names.is_unique


def test_values_are_raw_counts_that_vary_more_than_poisson(experiment):
    for adata in (experiment.cells, experiment.atlas):
        assert sparse.isspmatrix_csr(adata.X)
        assert adata.X.dtype == np.float32
        assert (adata.X.data >= 0).all()
        assert (adata.X.data % 1 == 0).all()
    controls = experiment.cells[experiment.cells.obs["perturbation"] == "control"].X.toarray()
    assert np.median(controls.sum(axis=1)) == pytest.approx(3000, rel=0.05)
    assert (controls.var(axis=0) > controls.mean(axis=0)).all()


def test_batches_are_balanced_over_perturbations_and_shift_genes_mildly(experiment):
    obs = experiment.cells.obs
    numbers = pd.crosstab(obs["perturbation"], obs["batch"])
    assert (numbers.max(axis=1) == numbers.min(axis=1)).all()
    controls = (obs["perturbation"] == "control").to_numpy()
    by_batch = log_values(experiment.cells)[controls].groupby(obs["batch"][controls].to_numpy()).mean()
    between = by_batch.std(axis=0).mean()
    assert 0.02 < between < log_values(experiment.cells)[controls].std(axis=0).mean() / 2


def test_genes_are_symbols_of_the_vocabulary_but_for_those_asked_for(experiment, vocabulary):
    outside = [name for name in experiment.cells.var_names if name not in vocabulary]
    assert sorted(outside) == ["PLANTED-1", "PLANTED-2", "PLANTED-3", "PLANTED-4"]
    assert experiment.cells.var_names.is_unique
    assert {"STAT1", "MYC"} <= set(vocabulary_symbols()) <= set(vocabulary)


def test_unmeasured_targets_are_in_the_vocabulary_and_change_their_module(experiment, vocabulary):
    unmeasured = [name for name in experiment.truth.obs_names[1:] if name not in experiment.cells.var_names]
    assert len(unmeasured) == 2
    for target in unmeasured:
        assert target in vocabulary
        assert target in experiment.atlas.var_names
        module = experiment.truth.var["module"] == experiment.truth.obs.loc[target, "module"]
        shift = true_shifts(experiment).loc[target]
        assert shift[module].std() > 4 * shift[~module].std()


def test_a_knock_down_lowers_its_target(experiment):
    for shift in (true_shifts(experiment), shifts(experiment)):
        assert all(shift.loc[target, target] < 0 for target in shift.index.intersection(shift.columns))


def test_a_knock_down_moves_the_genes_of_its_module_by_the_sign_of_their_loading(experiment):
    obs, var = experiment.truth.obs, experiment.truth.var
    for target, shift in true_shifts(experiment).iterrows():
        own = (var["module"] == obs.loc[target, "module"]) & (var["loading"].abs() > 0.6)
        agreement = np.sign(shift[own]) == np.sign(var["loading"][own] * obs.loc[target, "activity_change"])
        assert agreement.mean() > 0.9


def test_measured_means_scatter_around_the_truth_as_much_as_their_cells_say(experiment):
    values, labels = log_values(experiment.cells), experiment.cells.obs["perturbation"].astype(str).to_numpy()
    truth = experiment.truth
    grouped = values.groupby(labels)
    errors = np.sqrt(
        grouped.var().div(grouped.size(), axis=0).loc[truth.obs_names] + truth.obs["standard_error"].max() ** 2
    )
    z = (grouped.mean().loc[truth.obs_names] - truth.to_df()) / errors
    assert np.sqrt((z**2).to_numpy().mean()) == pytest.approx(1, abs=0.05)
    assert np.abs(z.to_numpy().mean()) < 0.05


def test_the_stated_standard_error_of_the_truth_is_that_of_another_simulation():
    small = {**SMALL, "modules": 3, "targets_per_module": 2, "cells_per_perturbation": 4000, "truth_draws": 1000}
    experiment = generate(small)
    targets = experiment.truth.obs_names[1:]
    assert (experiment.truth.obs["n_draws"] == 1000).all()
    means = log_values(experiment.cells).groupby(experiment.cells.obs["perturbation"].astype(str).to_numpy()).mean()
    difference = means.loc[targets] - experiment.truth.to_df().loc[targets]
    expected = experiment.truth.obs["standard_error"][targets] * np.sqrt(1 + 1000 / 4000)
    assert np.sqrt((difference**2).to_numpy().mean()) == pytest.approx(np.sqrt((expected**2).mean()), rel=0.2)


def test_structure_can_be_learned_from_other_perturbations(experiment):
    train_mean, module_mean = unseen_predictions(experiment)
    assert train_mean < 0.25
    assert module_mean > train_mean + 0.15
    assert mean_correlation(true_shifts(experiment), shifts(experiment)) > 0.9


def test_structure_can_be_learned_from_the_atlas(experiment):
    correlation = np.corrcoef(log_values(experiment.atlas).to_numpy().T)
    np.fill_diagonal(correlation, 0)
    module = np.repeat(np.arange(10), 20)
    assert (module[np.abs(correlation).argmax(axis=1)] == module).mean() > 0.9


def test_without_structure_nothing_predicts_an_unseen_perturbation(without_structure):
    train_mean, module_mean = unseen_predictions(without_structure)
    assert abs(train_mean) < 0.1
    assert abs(module_mean) < 0.1
    shift = shifts(without_structure)
    measured = shift.index.intersection(shift.columns)
    assert abs(np.mean([shift.loc[target, target] for target in measured])) < 0.1
    assert mean_correlation(true_shifts(without_structure), shift) > 0.9


def test_without_structure_effects_are_as_large_and_everything_else_is_the_same(experiment, without_structure):
    sizes = [np.sqrt((true_shifts(one) ** 2).to_numpy().mean()) for one in (experiment, without_structure)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.25)
    assert (experiment.atlas.X != without_structure.atlas.X).nnz == 0
    assert experiment.cells.obs.equals(without_structure.cells.obs)
    controls = (experiment.cells.obs["perturbation"] == "control").to_numpy()
    assert (experiment.cells.X[controls] != without_structure.cells.X[controls]).nnz == 0


def test_effects_of_a_combination_add_up_in_log_expected_expression():
    options = {**SMALL, "combinations": 5, "cells_per_perturbation": 2, "truth_draws": 8000, "unmeasured_targets": 0}
    truth = generate({**options, "library_size": 30000, "modules": 4, "targets_per_module": 2}).truth
    pairs = [name for name in truth.obs_names if "+" in name]
    assert len(pairs) == 5
    expression = np.log(np.expm1(truth.to_df()))  # near the log expected expression, up to a cell's constant
    change = expression.sub(expression.loc["control"])
    change = change.sub(change.median(axis=1), axis=0)
    for pair in pairs:
        first, second = pair.split("+")
        assert first < second
        added = change.loc[first] + change.loc[second]
        assert np.corrcoef(change.loc[pair], added)[0, 1] > 0.99
        assert np.polyfit(added, change.loc[pair], 1)[0] == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_experiment_and_another_seed_another():
    first, again, other = generate(SMALL), generate(SMALL), generate({**SMALL, "seed": 2})
    for part in ("cells", "atlas"):
        assert (getattr(first, part).X != getattr(again, part).X).nnz == 0
        assert getattr(first, part).obs.equals(getattr(again, part).obs)
    assert (first.truth.X == again.truth.X).all()
    assert not first.cells.var_names.equals(other.cells.var_names)


def test_more_perturbations_change_no_cell_of_the_others():
    few, more = (generate({**SMALL, "combinations": number}).cells for number in (0, 3))
    assert (more[few.obs_names].X != few.X).nnz == 0
    assert more.n_obs == few.n_obs + 3 * 12


def test_contexts_are_cell_lines_with_the_same_knock_downs_and_cells_of_their_own():
    experiment = generate({**SMALL, "contexts": 2})
    cells, truth = experiment.cells, experiment.truth
    assert set(cells.obs["context"]) == {"line1", "line2"}
    assert cells.n_obs == 2 * generate(SMALL).cells.n_obs
    assert cells.obs_names.is_unique
    assert list(truth.obs["perturbation"][truth.obs["context"] == "line1"]) == list(generate(SMALL).truth.obs_names)
    one, other = (truth[truth.obs["context"] == name] for name in ("line1", "line2"))
    assert np.abs(one["control@line1"].X - other["control@line2"].X).max() > 0.1
    assert np.corrcoef((one.X[1:] - one.X[0]).ravel(), (other.X[1:] - other.X[0]).ravel())[0, 1] > 0.5


def test_half_of_the_variance_of_a_change_carries_over_where_half_is_asked_for():
    whole, half = (generate({**SMALL, "contexts": 2, "carried_over": share}).truth for share in (1, 0.5))

    def changes(truth, line):
        own = truth[truth.obs["context"] == line]
        return own.X[1:] - own.X[0]

    def alike(one, other):
        return np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(one, other, strict=True)])

    shared = changes(whole, "line1")
    of_lines = [changes(half, line) for line in ("line1", "line2")]
    assert alike(*of_lines) == pytest.approx(0.5 * alike(shared, changes(whole, "line2")), abs=0.15)
    assert all(0.55 < alike(own, shared) < 0.85 for own in of_lines)
    assert np.square(of_lines).mean() == pytest.approx(np.square(shared).mean(), rel=0.3)


def test_the_experiment_survives_being_written(tmp_path):
    experiment = generate(SMALL)
    for part in ("cells", "atlas", "truth"):
        adata = getattr(experiment, part)
        adata.write_h5ad(tmp_path / f"{part}.h5ad")
        assert anndata.read_h5ad(tmp_path / f"{part}.h5ad").obs_names.equals(adata.obs_names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"module": 3}, "unknown key 'module'"),
        ({"modules": 1}, "modules: found 1; expected at least 2"),
        ({"modules": 2.5}, "modules: found 2.5; expected a valid integer"),
        ({"structure": 1}, "structure: found 1; expected a valid boolean"),
        ({"target_sum": float("nan")}, "target_sum: found nan; expected a finite number"),
        ({"target_sum": 0}, "target_sum: found 0; expected at least 1"),
        ({"library_size": True}, "library_size: found True; expected a valid integer"),
        ({"targets_per_module": 21}, "targets_per_module: found 21; expected at most 20"),
        ({"unmeasured_targets": 60}, "unmeasured_targets: found 60; expected at most 59"),
        ({"genes_outside_vocabulary": 141}, "genes_outside_vocabulary: found 141; expected at most 140"),
        ({"combinations": 1771}, "combinations: found 1771; expected at most 1770"),
        ({"cells_per_perturbation": 0}, "cells_per_perturbation: found 0; expected at least 1"),
        ({"modules": 5000}, "modules x genes_per_module: found 100000; expected at most"),
    ],
)
def test_options_that_make_no_experiment_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        generate(options)
