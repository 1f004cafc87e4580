"""Control cells alone: from an h5ad and a list of genes to the report, which says that nothing was measured."""

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

import tiny
from scgpt_bench.files import read_table
from scgpt_bench.scgpt.vocabulary import human_vocabulary
from snakemake_checkout import copy_of_checkout

pytestmark = pytest.mark.long

STUDY = {
    "study": "own",
    "datasets": ["my_cells"],
    "splits": {"run": []},
    "hardware": {"gpu": 0, "threads": 1},
    "checkpoints": {"untrained": {"source": "random", **tiny.MODEL}},
    "methods": {"control-mean": {}, "train-mean": {}, "scgpt-zero-shot": {"checkpoint": "untrained"}},
    "predict": {"next": {"dataset": "my_cells", "perturbations": "my_genes.txt", "cells_per_perturbation": 10}},
}


@pytest.fixture(scope="module")
def genes():
    return [gene for gene in sorted(human_vocabulary()) if gene.isalnum() and gene.isupper()][1000:1040]


@pytest.fixture(scope="module")
def results(tmp_path_factory, genes):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("own"))
    counts = np.random.default_rng(0).poisson(2, (120, len(genes))).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(counts))])
    cells = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))
    cells.write_h5ad(checkout.path / "my_cells.h5ad")
    checkout.write("study.yaml", yaml.safe_dump(STUDY))
    lines = [genes[0], genes[1].lower(), genes[0], "ENSG00000000001", "NOGENE1", f"{genes[3]}+{genes[2]}"]
    checkout.write("my_genes.txt", "\n".join(lines))
    checkout.snakemake("--configfile", "study.yaml")
    return checkout.path / "results" / "own"


def test_every_line_of_the_list_is_predicted_or_says_why_not(results, genes):
    asked = read_table(results / "my_cells" / "predicted-next" / "asked.tsv")
    assert asked["predicted"].tolist() == ["yes", "yes", "no", "no", "yes", "yes"]
    assert asked["perturbation"].iloc[-1] == "+".join(sorted(genes[2:4]))
    ranking = read_table(results / "predicted" / "next" / "ranking.tsv")
    not_asked = ranking[ranking["asked"] == "no"].groupby("method")["perturbation"].apply(list)
    assert not_asked["scgpt-zero-shot"] == ["NOGENE1"]
    assert len(not_asked["train-mean"]) == 4, "there is nothing to learn from"
    assert (ranking.loc[ranking["method"] != "scgpt-zero-shot", "effect"] == 0).all()


def test_nothing_has_a_score_and_the_report_says_so_first(results):
    for name in ("scores", "verdicts"):
        assert read_table(results / f"{name}.tsv").empty
    trust = read_table(results / "predicted" / "next" / "trust.tsv")
    assert set(trust["verdict"]) == {"not measured"}
    start = (results / "summary.html").read_text()
    assert "<strong>Nothing was measured here.</strong>" in start
    page = (results / "predicted" / "next" / "page.html").read_text()
    first = " ".join(page[: page.index("</p>")].split())
    assert "Read this first.</strong> Nothing was measured here" in first
    assert page in (results / "report.html").read_text()
    assert "Verdict</h1>" not in (results / "report.html").read_text()
