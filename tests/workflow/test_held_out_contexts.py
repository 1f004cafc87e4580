"""A study that holds out every context, from the configuration to the report."""

import dataclasses

import pytest
import yaml

import tiny
from scgpt_bench.data.catalogue import Dataset, read_datasets
from scgpt_bench.files import read_table
from snakemake_checkout import ROOT, copy_of_checkout

HEADER = [field.name for field in dataclasses.fields(Dataset)]
STUDY = {
    **tiny.STUDY,
    "study": "contexts",
    "dataset_table": "lines.tsv",
    "generated": {"planted": {**tiny.STUDY["generated"]["planted"], "contexts": 2}},
    "splits": {
        **{"folds": 2, "run": [0], "minimum_cells": 20},
        "contexts": {"hold_out": "all", "seen": [0, 0.3], "unseen": ["context", "both"]},
    },
    "checkpoints": {},
    "methods": {"control-mean": {}, "train-mean": {}, "same-perturbation": {}, "technical-duplicate": {}, "oracle": {}},
}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("contexts"))
    row = read_datasets(ROOT / "config" / "datasets.tsv")["planted"].row
    row |= {"context_column": "context", "contexts": "line1|line2", "target_sum": "400"}
    cells = ["" if row.get(column) is None else str(row[column]) for column in HEADER]
    checkout.write("lines.tsv", "\t".join(HEADER) + "\n" + "\t".join(cells) + "\n")
    checkout.write("study.yaml", yaml.safe_dump(STUDY))
    checkout.snakemake("--configfile", "study.yaml")
    return checkout.path / "results" / "contexts"


def test_every_context_is_judged_alone_and_together(results):
    scores = read_table(results / "scores.tsv")
    of_contexts = [
        f"{name}{suffix}"
        for name in ("context-line1", "context-line2", "contexts")
        for suffix in ("", "-seen0.3", "-fold0")
    ]
    assert set(scores["split"]) == {"fold0", *of_contexts}
    effect = scores[(scores["metric"] == "effect_pearson") & (scores["context"] == "all")]
    pooled = effect[effect["split"] == "contexts"].set_index("method")
    parts = effect[effect["split"].isin(["context-line1", "context-line2"])].groupby("method")
    assert (pooled["n_conditions"] == parts["n_conditions"].sum()).all()
    assert pooled.loc["oracle", "mean"] > pooled.loc["train-mean", "mean"] > pooled.loc["control-mean", "mean"]


def test_what_carries_over_is_measured_and_the_report_shows_it(results):
    transfer = read_table(results / "planted" / "transfer.tsv")
    assert set(transfer["what"]) == {"change", "specific change"}
    page = (results / "report.html").read_text()
    for text in ("how far measured changes carry over", "measured changes in two contexts", "score in each context"):
        assert text in page
