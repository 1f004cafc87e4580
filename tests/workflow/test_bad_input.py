"""Bad input ends the run with one clear line on the terminal, and leaves no output behind."""

import dataclasses
import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from scgpt_bench.data.catalogue import Dataset

HEADER = [field.name for field in dataclasses.fields(Dataset)]
ROW = {
    "name": "drop",
    "address": "drop.h5ad",
    "sha256": "unknown",
    "format": "h5ad",
    "values": "counts",
    "target_sum": "10000",
    "perturbation_column": "gene",
    "control_label": "NT",
    "perturbation_kind": "interference",
}
STUDY = {
    "dataset_table": "drops.tsv",
    "datasets": ["drop"],
    "splits": {"folds": 2, "minimum_cells": 20},
    "methods": {"train-mean": {}},
}


def good_drop():
    """Six perturbations and a control of 30 cells each, 12 genes, raw counts."""
    generator = np.random.default_rng(0)
    labels = np.repeat(["NT", "G0", "G1", "G2", "G3", "G4", "G5"], 30)
    counts = generator.poisson(3, size=(len(labels), 12)).astype(np.float32)
    return anndata.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame({"gene": labels}, index=[f"cell{i}" for i in range(len(labels))]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(12)]),
    )


def write_study(checkout, drop=None, row=(), study=(), table_text=None):
    (good_drop() if drop is None else drop).write_h5ad(checkout.path / "drop.h5ad")
    cells = {**ROW, **dict(row)}
    lines = ["\t".join(HEADER), "\t".join(cells.get(column, "") for column in HEADER)]
    checkout.write("drops.tsv", "\n".join(lines) + "\n")
    return checkout.write("study.yaml", yaml.safe_dump({**STUDY, **dict(study)}))


def refused(checkout, *arguments):
    """Run, and return the error line; everything that was computed before the faulty stage may stay."""
    done = checkout.snakemake(*arguments, "--configfile", "study.yaml", check=False)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.search(r": found .*; expected ", line)]
    assert len(lines) == 1, done.stdout
    left = [path.name for path in checkout.path.rglob("*.partial")]
    assert not left
    return lines[0]


def test_the_study_itself_is_good(checkout):
    write_study(checkout)
    checkout.snakemake("results/scores.tsv", "--configfile", "study.yaml")
    assert (checkout.path / "results" / "scores.tsv").is_file()


def with_values(value):
    drop = good_drop()
    drop.X[5, 3] = value
    return drop


def renamed_gene():
    drop = good_drop()
    drop.var_names = ["G1" if gene == "G7" else gene for gene in drop.var_names]
    return drop


@pytest.mark.parametrize(
    ("drop", "row", "expected"),
    [
        (None, {"perturbation_column": "target"}, ["drop.h5ad", "'target'", "gene"]),
        (None, {"control_label": "ctrl"}, ["drop.h5ad", "ctrl", "NT"]),
        (with_values(np.nan), {}, ["drop.h5ad", "G3", "cell5", "nan"]),
        (with_values(-1), {}, ["drop.h5ad", "G3", "cell5", "-1"]),
        (with_values(0.5), {}, ["drop.h5ad", "G3", "cell5", "0.5"]),
        (renamed_gene(), {}, ["drop.h5ad", "'G1'"]),
    ],
    ids=["no perturbation column", "no control", "NaN", "negative", "not counts", "duplicate gene"],
)
def test_cells_that_cannot_be_used(checkout, drop, row, expected):
    write_study(checkout, drop, row)
    line = refused(checkout, "results/drop/cells.h5ad")
    for text in expected:
        assert text in line
    assert not (checkout.path / "results" / "drop" / "cells.h5ad").exists()


def test_a_wrong_checksum_never_enters_resources(checkout):
    write_study(checkout, row={"sha256": "0" * 64})
    line = refused(checkout, "results/drop/cells.h5ad")
    assert "drop.h5ad" in line
    assert "0" * 64 in line
    assert not list((checkout.path / "resources").rglob("source*"))


def test_no_test_perturbation_with_enough_cells(checkout):
    write_study(checkout, study={"splits": {"folds": 2, "minimum_cells": 31}})
    line = refused(checkout, "results/drop/fold0/split.tsv")
    assert "31" in line
    assert "30" in line
    assert not (checkout.path / "results" / "drop" / "fold0").exists()


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ({"split": {"folds": 2}}, ["study.yaml", "unknown key 'split'", "splits"]),
        ({"datasets": ["a/b"]}, ["study.yaml", "datasets", "'a/b'"]),
        ({"datasets": ["a..b"]}, ["study.yaml", "datasets", "'a..b'"]),
        ({"datasets": ["other"]}, ["study.yaml", "'other'", "drops.tsv: drop"]),
    ],
    ids=["unknown key", "slash", "dots", "no such row"],
)
def test_a_configuration_that_cannot_be_used(checkout, study, expected):
    write_study(checkout, study=study)
    line = refused(checkout)
    for text in expected:
        assert text in line
    assert not (checkout.path / "resources" / "datasets").exists()


def test_a_row_whose_name_leaves_the_results_folder(checkout):
    write_study(checkout, row={"name": "../drop"})
    line = refused(checkout)
    assert "drops.tsv" in line
    assert "'../drop'" in line


def test_a_vocabulary_without_pad(checkout):
    write_study(checkout, study={"checkpoints": {"mine": {"source": "random"}}})
    folder = checkout.path / "resources" / "checkpoints" / "mine"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({"G0": 0, "G1": 1}))
    for name in ("best_model.pt", "args.json"):
        (folder / name).touch()
    line = refused(
        checkout,
        "results/drop/vocabulary/mine.tsv",
        "--allowed-rules",
        "align_vocabulary",
        "harmonize",
        "fetch_dataset",
    )
    assert "vocab.json" in line
    assert "<pad>" in line
    assert not (checkout.path / "results" / "drop" / "vocabulary").exists()
