"""Predictions made elsewhere: reordered, matched, filled by a stated rule, or refused because of their scale."""

import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved, measure
from predicted import with_rows, write_whole
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import Condition, conditions_of
from scgpt_bench.data.controls import control_cells, control_means_of, draw_controls
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.data.planted import generate
from scgpt_bench.data.splits import fold
from scgpt_bench.data.training_cells import write_without_test_cells
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.official.sides import count_sides
from scgpt_bench.evaluation.pseudobulk import pseudobulk, truth
from scgpt_bench.files import read_h5ad, write_h5ad, write_table
from scgpt_bench.methods.imported import import_predictions
from scgpt_bench.methods.training_data import training_data
from scgpt_bench.predictions import read_predictions

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DATASET = Dataset("planted", "generated", "generated", "counts", 400.0, "perturbation", "control", "interference")
DATASET = replace(DATASET, batch_column="batch", cell_type_column="cell_type", combination_separator="+")
SIZE = {"modules": 4, "targets_per_module": 3, "cells_per_perturbation": 20, "control_cells": 200, "atlas_cells": 50}


@pytest.fixture(scope="module")
def experiment():
    """Cells, split, drawn controls and truth of a planted experiment with pairs."""
    drop = generate({**SIZE, "combinations": 3, "unmeasured_targets": 0, "truth_draws": 2}).cells
    cells = harmonize(drop, DATASET, minimum_cells=5)
    split = fold(cells.obs, dataset="planted", fold=0, folds=3, seed=1, validation_share=0.2, minimum_cells=5)
    draw = draw_controls(halved(cells).obs, split, per_perturbation=10, seed=1, dataset="planted", split_name="fold0")
    return cells, split, control_cells(cells, draw), truth(measure(cells), split)


def answer_as_file(experiment, path, perturbations=None, genes=None, transform=lambda X: X):
    """The measured means, as pseudo-bulks in a file."""
    answer = experiment[-1]
    answer = answer[perturbations or list(answer.obs_names), genes or list(answer.var_names)]
    obs = pd.DataFrame({"perturbation": answer.obs_names.to_numpy()})
    obs.index = obs.index.astype(str)
    anndata.AnnData(transform(np.asarray(answer.X)), obs=obs, var=answer.var[[]]).write_h5ad(path)
    return path


def imported_means(experiment, path, dataset=DATASET, **missing):
    """The pseudo-bulk of what is imported, through the file that every method writes, and what is said about it."""
    cells, split, controls, _ = experiment
    X, obs, method = with_rows(import_predictions, path, dataset, controls, **missing)
    written = path.with_name("predictions.h5ad")
    write_whole(written, X, obs, cells.var_names)
    return pseudobulk(read_predictions(written, cells.var_names, split)), method


def test_pseudobulks_in_any_order_of_genes_and_perturbations_are_imported_exactly(experiment, tmp_path):
    answer = experiment[-1]
    path = answer_as_file(
        experiment, tmp_path / "file.h5ad", list(answer.obs_names)[::-1], sorted(answer.var_names)[::-1]
    )
    means, method = imported_means(experiment, path)
    np.testing.assert_allclose(means.X, answer.X, atol=1e-6)
    assert (means.obs["n_cells"] == 10).all(), "the drawn control cells, moved"
    assert method["imported"].perturbations_given_as_pseudobulk == answer.n_obs
    assert len(method["imported"].sha256) == 64


def test_predicted_cells_stay_as_they_are_however_many(experiment, tmp_path):
    cells, _, controls, answer = experiment
    tested = cells[cells.obs["perturbation"].isin(answer.obs_names).to_numpy()]
    own = anndata.AnnData(tested.X, obs=tested.obs[["perturbation"]], var=tested.var[[]])
    own.write_h5ad(tmp_path / "cells.h5ad")
    X, obs, method = with_rows(import_predictions, tmp_path / "cells.h5ad", DATASET, controls)
    first = conditions_of(controls.obs)[0].perturbation
    np.testing.assert_array_equal(
        X[(obs["perturbation"] == first).to_numpy()],
        tested[(tested.obs["perturbation"] == first).to_numpy()].X.toarray(),
    )
    assert len(X) == tested.n_obs
    assert set(obs["control_cell"]) == set(controls.obs["control_cell"])
    assert method["imported"].perturbations_given_as_cells == answer.n_obs
    means, _ = imported_means(experiment, tmp_path / "cells.h5ad")
    np.testing.assert_allclose(means.X, answer.X, atol=1e-6)


def test_cells_of_drawn_controls_count_by_their_types_and_others_once(experiment, tmp_path):
    """The control cells of a draw with one cell of a type that half of the measured cells are of, each given twice."""
    _, _, controls, _ = experiment
    controls, n = controls.copy(), 10
    controls.obs["cell_type"] = np.resize(["rare", *["common"] * (n - 1)], len(controls))
    controls.obs["weight"] = np.resize([n / 2, *[n / 2 / (n - 1)] * (n - 1)], len(controls))
    obs = controls.obs[["perturbation", "control_cell"]]
    file = anndata.AnnData(controls.X, obs=obs.set_axis([f"row{i}" for i in range(len(obs))]), var=controls.var[[]])
    file = anndata.concat([file, file], index_unique="-")
    file.write_h5ad(tmp_path / "cells.h5ad")
    _, imported, _ = with_rows(import_predictions, tmp_path / "cells.h5ad", DATASET, controls)
    weights = imported.set_index("control_cell").groupby("perturbation")["weight"]
    for name, own in controls.obs.groupby("perturbation", observed=True):
        np.testing.assert_allclose(weights.get_group(name)[own["control_cell"]], np.repeat(own["weight"], 2))
    file.obs["control_cell"] = [*file.obs["control_cell"][:-1], "another cell"]
    file.write_h5ad(tmp_path / "cells.h5ad")
    _, imported, _ = with_rows(import_predictions, tmp_path / "cells.h5ad", DATASET, controls)
    is_one = (imported["weight"] == 1).groupby(imported["perturbation"]).all()
    assert is_one[is_one].index.tolist() == [file.obs["perturbation"].iloc[-1]]


def test_counts_are_made_of_cells_that_name_no_control_cell(experiment, tmp_path):
    """Of one mean cell, 25 times, beside 10 drawn control cells, so that some share a control cell and its depth."""
    cells, split, controls, answer = experiment
    path = answer_as_file(experiment, tmp_path / "file.h5ad", list(np.repeat(answer.obs_names, 25)))
    imported_means(experiment, path)
    predictions = read_predictions(path.with_name("predictions.h5ad"), cells.var_names, split)
    counts = count_sides(cells, predictions, split).predicted.X[:25].toarray()
    depth = cells[controls.obs["control_cell"][:10]].layers["counts"].sum(axis=1).mean()
    expected = np.expm1(answer.X[0]).sum() / DATASET.target_sum * depth
    assert counts.sum(axis=1).mean() == pytest.approx(expected, rel=0.1)
    assert len(np.unique(counts, axis=0)) == 25


def test_other_names_controls_and_perturbations_that_are_not_tested(experiment, tmp_path):
    _, split, _, answer = experiment
    pair = next(name for name in answer.obs_names if "+" in name)
    trained = split.loc[split["role"] == "train", "perturbation"].iloc[0]
    names = [*(name for name in answer.obs_names if name != pair), "_".join(pair.split("+")[::-1]), "non-targeting"]
    rows = [*(name for name in answer.obs_names if name != pair), pair, pair]
    obs = pd.DataFrame({"target": [*names, trained]}, index=[f"row{i}" for i in range(len(names) + 1)])
    X = answer[[*rows, rows[0]]].X
    var = pd.DataFrame({"symbol": answer.var_names}, index=[f"ENSG{i}" for i in range(answer.n_vars)])
    anndata.AnnData(np.asarray(X), obs=obs, var=var).write_h5ad(tmp_path / "named.h5ad")
    labels = {"perturbation_column": "target", "control_label": "non-targeting", "combination_separator": "_"}
    dataset = replace(DATASET, **labels, gene_symbol_column="symbol")
    means, method = imported_means(experiment, tmp_path / "named.h5ad", dataset)
    np.testing.assert_allclose(means.X, answer.X, atol=1e-6)
    assert method["imported"].control_rows_left_out == 1
    assert method["imported"].perturbations_left_out == (trained,)


def test_a_missing_perturbation_is_refused_or_taken_as_no_change(experiment, tmp_path):
    *_, controls, answer = experiment
    absent, *given = answer.obs_names
    path = answer_as_file(experiment, tmp_path / "file.h5ad", given)
    with pytest.raises(InputError, match=f"1 of {answer.n_obs} test conditions, such as {re.escape(repr(absent))}"):
        imported_means(experiment, path)
    means, method = imported_means(experiment, path, missing_perturbations="control-mean")
    np.testing.assert_allclose(means[absent].X[0], next(iter(control_means_of(controls).values())), atol=1e-6)
    np.testing.assert_allclose(means[given].X, answer[given].X, atol=1e-6)
    assert method["fallbacks"] == {Condition(absent): ("not predicted", "taken as no change")}


@pytest.mark.parametrize("rows", ["pseudo-bulk", "cells"])
def test_a_missing_gene_is_refused_or_taken_as_unchanged(experiment, tmp_path, rows):
    *_, controls, answer = experiment
    absent, *given = answer.var_names
    path = answer_as_file(experiment, tmp_path / "file.h5ad", genes=given)
    if rows == "cells":
        file = anndata.read_h5ad(path)
        file = anndata.concat([file, file], index_unique="-")
        file.X = sparse.csr_matrix(file.X)
        file.write_h5ad(path)
    with pytest.raises(InputError, match=f"1 of {answer.n_vars} genes missing, such as '{absent}'"):
        imported_means(experiment, path)
    means, method = imported_means(experiment, path, missing_genes="control-mean")
    np.testing.assert_allclose(means.X[:, 0], [mean[0] for mean in control_means_of(controls).values()], atol=1e-6)
    np.testing.assert_allclose(means.X[:, 1:], answer.X[:, 1:], atol=1e-6)
    assert method["imported"].genes_taken_as_unchanged == (absent,)


def test_what_no_rule_can_fill_is_refused(experiment, tmp_path):
    fill = {"missing_perturbations": "control-mean", "missing_genes": "control-mean"}
    path = answer_as_file(experiment, tmp_path / "file.h5ad")
    file = anndata.read_h5ad(path)
    for key, message in (("obs", "no row of"), ("var", "genes missing")):
        other = file.copy()
        if key == "obs":
            other.obs["perturbation"] = "control"
        else:
            other.var_names = [f"other{i}" for i in range(other.n_vars)]
        other.write_h5ad(path)
        with pytest.raises(InputError, match=message):
            imported_means(experiment, path, **fill)


COUNTS = "expected log1p of counts scaled to 400 per cell"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda X: np.rint(np.expm1(X)), f"found whole numbers up to .*{COUNTS}"),
        (lambda X: 25 * np.expm1(X), rf"above log1p\(400\).*{COUNTS}"),
        (lambda X: np.expm1(X) / 20, rf"times those of control cells.*{COUNTS}"),
        (lambda X: np.log1p(25 * np.expm1(X)), rf"above log1p\(400\).*{COUNTS}"),
        (lambda X: np.log1p(0.5 * np.expm1(X)), f"times those of control cells.*{COUNTS}"),
        (lambda X: X / np.log(2), rf"above log1p\(400\).*{COUNTS}"),
        (lambda X: X / np.log(10), f"times those of control cells.*{COUNTS}"),
        (np.log1p, f"times those of control cells.*{COUNTS}"),
        (lambda X: X - X.mean(axis=0), f"times those of control cells.*{COUNTS}"),
        (lambda X: (X - X.mean()) / X.std(), f"times those of control cells.*{COUNTS}"),
        (lambda X: np.where(X.max() > X, X, np.nan), "1 NaN or infinite values"),
    ],
    ids=[
        *("counts", "mean-counts", "small-counts", "target-sum-x25", "half-target-sum", "log2", "log10", "log-twice"),
        *("changes", "standardized", "nan"),
    ],
)
def test_another_scale_is_refused(experiment, tmp_path, transform, message):
    path = answer_as_file(experiment, tmp_path / "file.h5ad", transform=transform)
    with pytest.raises(InputError, match=message):
        imported_means(experiment, path)


def test_raw_counts_of_cells_are_refused_in_either_storage(experiment, tmp_path):
    cells, *_, answer = experiment
    tested = cells[cells.obs["perturbation"].isin(answer.obs_names).to_numpy()]
    for form in (sparse.csr_matrix, lambda X: X.toarray()):
        raw = anndata.AnnData(form(tested.layers["counts"]), obs=tested.obs[["perturbation"]], var=tested.var[[]])
        raw.write_h5ad(tmp_path / "raw.h5ad")
        with pytest.raises(InputError, match="whole numbers up to"):
            imported_means(experiment, tmp_path / "raw.h5ad")


def test_a_weak_or_a_strong_prediction_is_in_scale(experiment, tmp_path):
    answer = experiment[-1]
    control = answer.layers["reference_input"]
    for factor in (0, 0.25, 2):
        expected = control + factor * (answer.X - control)
        path = answer_as_file(experiment, tmp_path / "file.h5ad", transform=lambda X, expected=expected: expected)
        means, _ = imported_means(experiment, path)
        np.testing.assert_allclose(means.X, expected, atol=1e-6)


def test_a_gene_twice_or_a_missing_column_is_refused(experiment, tmp_path):
    path = answer_as_file(experiment, tmp_path / "file.h5ad")
    with pytest.raises(InputError, match="obs: found perturbation; expected the column 'target'"):
        imported_means(experiment, path, replace(DATASET, perturbation_column="target"))
    file = anndata.read_h5ad(path)
    twice = file.var_names[0]
    file.var["symbol"] = [twice, twice, *file.var_names[2:]]
    file.write_h5ad(path)
    with pytest.raises(InputError, match=f"the gene '{twice}' more than once"):
        imported_means(experiment, path, replace(DATASET, gene_symbol_column="symbol"))
    with pytest.raises(InputError, match="var: found symbol; expected the column 'gene_name'"):
        imported_means(experiment, path, replace(DATASET, gene_symbol_column="gene_name"))


def test_what_gears_and_other_models_return_becomes_a_file_to_import(experiment, tmp_path):
    answer = experiment[-1]
    export = runpy.run_path(str(EXAMPLES / "export_predictions.py"))
    path, genes = tmp_path / "gears.h5ad", list(answer.var_names)
    gears = {name.replace("+", "_"): row for name, row in zip(answer.obs_names, answer.X, strict=True)}
    export["export_gears"](gears, genes, path)
    means, _ = imported_means(experiment, path, replace(DATASET, combination_separator="_"))
    np.testing.assert_allclose(means.X, answer.X, atol=1e-6)
    export["export_cells"](np.repeat(answer.X, 3, axis=0), np.repeat(answer.obs_names, 3), genes, path)
    means, _ = imported_means(experiment, path)
    np.testing.assert_allclose(means.X, answer.X, atol=1e-6)
    assert (means.obs["n_cells"] == 3).all()


def test_a_script_learns_from_everything_but_test_cells(experiment, tmp_path):
    cells, split, *_ = experiment
    cells = cells.copy()
    cells.layers["counts"], cells.uns = cells.X * 2, {"harmonized": {"values": "counts"}}
    write_h5ad(cells, tmp_path / "cells.h5ad")
    write_without_test_cells(
        open_h5ad(tmp_path / "cells.h5ad", layers=["counts"], uns=["harmonized"]), split, tmp_path / "training.h5ad"
    )
    training = read_h5ad(tmp_path / "training.h5ad")
    visible = {"control", *split.loc[split["role"] != "test", "perturbation"]}
    seen = cells.obs["perturbation"].isin(visible) & (cells.obs["half"] != "truth")
    expected = cells[seen.to_numpy()].copy()
    assert set(training.obs["perturbation"].cat.categories) == visible
    np.testing.assert_array_equal(training.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(training.layers["counts"].toarray(), expected.layers["counts"].toarray())
    assert (list(training.obs_names), training.uns) == (list(expected.obs_names), expected.uns)


def test_the_worked_example_predicts_a_share_of_the_mean_shift(experiment, tmp_path):
    cells, split, controls, _ = experiment
    write_without_test_cells(cells, split, tmp_path / "training.h5ad")
    write_table(split, tmp_path / "split.tsv")
    controls.write_h5ad(tmp_path / "controls.h5ad")
    arguments = {name: tmp_path / f"{name}.h5ad" for name in ("training", "controls", "output")}
    arguments |= {"split": tmp_path / "split.tsv", "options": json.dumps({"share": 0.5}), "seed": 0}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, EXAMPLES / "shrunken_mean.py", *words], check=True)
    means, _ = imported_means(experiment, tmp_path / "output.h5ad")
    shift = training_data(halved(cells), split).shifts.mean(axis=0)
    np.testing.assert_allclose(means.X, [*control_means_of(controls).values()] + 0.5 * shift, atol=1e-6)
