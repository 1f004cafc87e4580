"""A script of one's own and a file made elsewhere join the ladder, on real combinations in two contexts."""

import anndata
import numpy as np
import pytest
import yaml

from made_up import halved
from scgpt_bench.data.conditions import contexts_of, listed, rows_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.references import references
from scgpt_bench.files import read_table
from scgpt_bench.method_record import read_record
from scgpt_bench.methods.training_data import training_data
from snakemake_checkout import copy_of_checkout

FOLDER = "results/others/perturbench_devel/gears1"
LADDER = ["control-mean", "train-mean", "additive", "ridge", "knn", "tuned-simple", "target-only"]
LADDER += ["shuffled", "technical-duplicate"]
TARGETS = ["results/others/scores.tsv", "results/others/scores_by_class.tsv"]
STUDY = {
    "study": "others",
    "datasets": ["perturbench_devel"],
    "splits": {"run": [], "gears_seeds": [1]},
    "hardware": {"gpu": 0, "threads": 1},
    "methods": {
        **{name: {} for name in LADDER},
        "additive": {"scaled": False},
        "shrunken-mean": {"kind": "script", "script": "docs/examples/shrunken_mean.py", "options": {"share": 0.5}},
    },
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, perturbench_file):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("others"))
    checkout.write("study.yaml", yaml.safe_dump({**STUDY, "mirrors": [str(perturbench_file.parent)]}))
    checkout.snakemake(*TARGETS, "--configfile", "study.yaml")
    return checkout


def of_all_contexts(table):
    """The rows of ``pearson_delta`` over both contexts together."""
    return table[(table["metric"] == "pearson_delta") & (table["context"] == "all")]


def test_the_whole_ladder_runs_on_combinations_in_several_cell_types(checkout):
    scores = read_table(checkout.path / "results" / "others" / "scores.tsv")
    assert {*LADDER, "shrunken-mean"} == set(scores["method"])
    found = of_all_contexts(scores).set_index("method")["mean"]
    assert found["technical-duplicate"] == found.max()


def test_additive_is_the_sum_of_seen_singles_and_says_where_it_falls_back(checkout):
    """The split tests pairs of which neither, one and both genes were perturbed alone in training."""
    split = read_table(checkout.path / FOLDER / "split.tsv")
    pairs = split[(split["role"] == "test") & (split["n_genes"] == 2)]
    assert set(pairs["n_genes_seen"]) == {0, 1, 2}
    predictions = anndata.read_h5ad(checkout.path / FOLDER / "additive" / "0" / "predictions.h5ad")
    record = read_record(checkout.path / FOLDER / "additive" / "0" / "method.json")
    fallbacks = {entry.condition for entry in record.fallbacks}
    cells = anndata.read_h5ad(checkout.path / "results" / "others" / "perturbench_devel" / "cells.h5ad")
    singles = {}
    for context in contexts_of(split):
        measured = training_data(halved(cells), split, context)
        singles |= {(name, context): shift for name, shift in zip(measured.perturbations, measured.shifts, strict=True)}
    exact, rows = 0, rows_of(predictions.obs)
    for condition, control_mean in zip(listed(pairs), references(halved(cells), listed(pairs), INPUT), strict=True):
        names = [(gene, condition.context) for gene in condition.genes]
        alone = [singles[name] for name in names if name in singles]
        assert (condition in fallbacks) == (len(alone) < 2)
        if len(alone) == 2:
            exact += 1
            predicted = predictions[rows[condition]].X
            np.testing.assert_allclose(predicted.mean(axis=0), control_mean + sum(alone), atol=1e-5)
    assert exact


def test_scores_stand_by_how_many_genes_were_seen(checkout):
    table = read_table(checkout.path / "results" / "others" / "scores_by_class.tsv")
    split = read_table(checkout.path / FOLDER / "split.tsv")
    of_additive = of_all_contexts(table).query("method == 'additive'")
    classes = ["n_genes", "n_genes_seen"]
    expected = split[split["role"] == "test"].groupby(classes).size().to_dict()
    assert of_additive.set_index(classes)["n_conditions"].to_dict() == expected


def test_a_script_of_ones_own_predicts_what_it_says(checkout):
    scores = read_table(checkout.path / "results" / "others" / "scores.tsv")
    found = of_all_contexts(scores).set_index("method")["mean"]
    # Half of the mean response has the direction of the whole.
    assert found["shrunken-mean"] == pytest.approx(found["train-mean"], abs=1e-4)


def test_its_prediction_joins_again_as_a_file(checkout):
    made = checkout.path / FOLDER / "shrunken-mean" / "0" / "predictions.h5ad"
    (checkout.path / "elsewhere.h5ad").write_bytes(made.read_bytes())
    study = yaml.safe_load((checkout.path / "study.yaml").read_text())
    files = {"perturbench_devel": {"gears1": "elsewhere.h5ad"}}
    study["methods"]["from-a-file"] = {"kind": "imported", "files": files}
    checkout.write("study.yaml", yaml.safe_dump(study))
    target = f"{FOLDER}/from-a-file/0/predictions.h5ad"
    checkout.snakemake(target, "--configfile", "study.yaml")
    imported = anndata.read_h5ad(checkout.path / target)
    assert read_record((checkout.path / target).with_name("method.json")).kind == "imported"
    assert imported.shape == anndata.read_h5ad(made).shape
