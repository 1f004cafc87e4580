"""Real cells, from the mirror to the report."""

import anndata
import numpy as np
import pytest

from scgpt_bench.evaluation.pseudobulk import responses
from scgpt_bench.files import read_table
from snakemake_checkout import copy_of_checkout

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def results(tmp_path_factory, mirror):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("papalexi"))
    checkout.snakemake("--configfile", "config/papalexi.yaml", "--config", f'mirrors=["{mirror}"]')
    return checkout.path / "results"


def test_every_perturbation_is_tested_once(results):
    tables = [read_table(path) for path in sorted(results.glob("papalexi_2021/fold*/split.tsv"))]
    tested = [name for table in tables for name in table.loc[table["role"] == "test", "perturbation"]]
    assert len(tested) == len(set(tested)) == 25


def test_every_method_is_scored_on_all_of_them(results):
    scores = read_table(results / "scores.tsv")
    pooled = scores[(scores["split"] == "all") & (scores["metric"] == "pearson_delta")]
    assert (pooled["n_perturbations"] == 25).all()
    assert {"train-mean", "ridge", "scgpt-zero-shot", "scgpt-knockout", "scgpt-finetuned"} <= set(pooled["method"])


def test_the_interferon_pathway_shares_one_response(results):
    perturbations, deltas = responses(anndata.read_h5ad(results / "papalexi_2021" / "cells.h5ad"))
    correlation = np.corrcoef(deltas)
    rows = [perturbations.index(name) for name in ("IFNGR1", "IFNGR2", "JAK2", "STAT1")]
    others = [row for row in range(len(perturbations)) if row not in rows]
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
