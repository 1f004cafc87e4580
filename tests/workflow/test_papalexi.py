"""Real cells, from the download to the report."""

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml

from scgpt_bench.evaluation.pseudobulk import responses
from scgpt_bench.files import read_table
from snakemake_checkout import ROOT, copy_of_checkout

METHODS = ["train-mean", "ridge", "shuffled", "technical-duplicate"]
METHODS += ["scgpt-zero-shot", "scgpt-knockout", "scgpt-finetuned"]


@pytest.fixture(scope="module")
def papalexi(tmp_path_factory, papalexi_file):
    """The run of some folds; called again, of more."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("papalexi"))

    def run(*folds: int, change: Callable[[dict], None] = lambda study: None) -> Path:
        study = yaml.safe_load((ROOT / "config" / "papalexi.yaml").read_text())
        study |= {"mirrors": [str(papalexi_file.parent)]}
        study["splits"]["run"] = list(folds)
        change(study)
        checkout.write("here.yaml", yaml.safe_dump(study))
        checkout.snakemake("--configfile", "here.yaml")
        return checkout.path / "results" / "papalexi_2021"

    return run


@pytest.fixture(scope="module")
def results(papalexi):
    """One fold of five and some methods, trained shortly: the chain, not what it scores. The long tests run it all."""

    def shorten(study: dict) -> None:
        study["methods"] = {name: study["methods"][name] for name in METHODS}
        study["methods"]["scgpt-finetuned"] |= {"seeds": [0], "epochs": 1}
        study["checkpoints"]["pretrained"]["epochs"] = 2
        study["controls"] = {"cells_per_perturbation": 20}

    return papalexi(0, change=shorten)


@pytest.fixture(scope="module")
def first_fold(results, papalexi):
    papalexi(0)
    folder = results / "papalexi_2021" / "fold0"
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("*/*/metrics.tsv"))}


@pytest.fixture(scope="module")
def all_folds(first_fold, papalexi):
    return papalexi(0, 1, 2, 3, 4)


def test_every_method_is_scored_on_the_test_perturbations(results):
    scores = read_table(results / "scores.tsv")
    found = scores[scores["metric"] == "pearson_delta"]
    assert (found["n_conditions"] == 5).all()
    assert set(found["method"]) == set(METHODS)


def test_the_interferon_pathway_shares_one_response(results):
    deltas = responses(anndata.read_h5ad(results / "papalexi_2021" / "cells.h5ad"))
    correlation = np.corrcoef(deltas)
    rows = [deltas.index.get_loc(name) for name in ("IFNGR1", "IFNGR2", "JAK2", "STAT1")]
    others = [row for row in range(len(deltas)) if row not in rows]
    assert correlation[np.ix_(rows, rows)].min() > 0.9
    assert np.median(np.abs(correlation[np.ix_(rows, others)])) < 0.5
    down = deltas.iloc[rows].mean()
    assert (down[["PSMB9", "STAT1", "UBE2L6"]] < -0.2).all()


def test_the_vocabulary_pads_what_scgpt_does_not_know(results):
    table = read_table(results / "papalexi_2021" / "vocabulary" / "pretrained.tsv")
    assert len(table) == 299
    assert (table["status"] != "padded").sum() >= 274


def test_the_report_is_there(results):
    assert (results / "report.html").stat().st_size > 1_000_000


@pytest.mark.long
def test_every_perturbation_is_tested_once(all_folds):
    tables = [read_table(path) for path in sorted(all_folds.glob("papalexi_2021/fold*/split.tsv"))]
    tested = [name for table in tables for name in table.loc[table["role"] == "test", "perturbation"]]
    assert len(tested) == len(set(tested)) == 25
    scores = read_table(all_folds / "scores.tsv")
    pooled = scores[(scores["split"] == "all") & (scores["metric"] == "pearson_delta")]
    assert (pooled["n_conditions"] == 25).all()


@pytest.mark.long
def test_more_folds_leave_the_first_as_it_is(first_fold, all_folds):
    assert first_fold
    assert all(path.stat().st_mtime_ns == written for path, written in first_fold.items())
