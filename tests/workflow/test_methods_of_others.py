"""A script of one's own and a file made elsewhere join the ladder, on real combinations in several cell types."""

import anndata
import pytest
import yaml

from scgpt_bench.files import read_table
from scgpt_bench.methods.predictions import method_of
from snakemake_checkout import copy_of_checkout

pytestmark = pytest.mark.workflow

LADDER = ["control-mean", "train-mean", "additive", "ridge", "knn", "target-only", "shuffled", "technical-duplicate"]
STUDY = {
    "datasets": ["perturbench_devel"],
    "splits": {"folds": 3, "run": [0], "minimum_cells": 20},
    "hardware": {"gpu": 0, "threads": 1},
    "methods": {
        **{name: {} for name in LADDER},
        "shrunken-mean": {"kind": "script", "script": "docs/examples/shrunken_mean.py", "options": {"share": 0.5}},
    },
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, mirror):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("others"))
    checkout.write("study.yaml", yaml.safe_dump({**STUDY, "mirrors": [str(mirror)]}))
    checkout.snakemake("--configfile", "study.yaml")
    return checkout


def test_the_whole_ladder_runs_on_combinations_in_several_cell_types(checkout):
    scores = read_table(checkout.path / "results" / "scores.tsv")
    assert {*LADDER, "shrunken-mean"} == set(scores["method"])
    found = scores[scores["metric"] == "pearson_delta"].set_index("method")["mean"]
    assert found["technical-duplicate"] == found.max()
    split = read_table(checkout.path / "results" / "perturbench_devel" / "fold0" / "split.tsv")
    assert (split.loc[split["role"] == "test", "n_genes"] == 2).any()


def test_a_script_of_ones_own_predicts_what_it_says(checkout):
    scores = read_table(checkout.path / "results" / "scores.tsv")
    found = scores[scores["metric"] == "pearson_delta"].set_index("method")["mean"]
    # Half of the mean response has the direction of the whole.
    assert found["shrunken-mean"] == pytest.approx(found["train-mean"], abs=1e-4)


def test_its_prediction_joins_again_as_a_file(checkout):
    folder = checkout.path / "results" / "perturbench_devel" / "fold0"
    made = folder / "shrunken-mean" / "0" / "predictions.h5ad"
    (checkout.path / "elsewhere.h5ad").write_bytes(made.read_bytes())
    study = yaml.safe_load((checkout.path / "study.yaml").read_text())
    files = {"perturbench_devel": {"fold0": "elsewhere.h5ad"}}
    study["methods"]["from-a-file"] = {"kind": "imported", "files": files}
    checkout.write("study.yaml", yaml.safe_dump(study))
    target = "results/perturbench_devel/fold0/from-a-file/0/predictions.h5ad"
    checkout.snakemake(target, "--configfile", "study.yaml")
    imported = anndata.read_h5ad(checkout.path / target)
    assert method_of(imported)["kind"] == "imported"
    assert imported.shape == anndata.read_h5ad(made).shape
