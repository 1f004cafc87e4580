"""Versions of a drop: checked in seconds, compared with each other, and only what a change touches is planned again."""

import dataclasses
import re

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.files import read_table, sha256
from snakemake_checkout import copy_of_checkout

HEADER = [field.name for field in dataclasses.fields(Dataset)]
ROW = {
    "sha256": "unknown",
    "format": "h5ad",
    "values": "counts",
    "target_sum": "1000",
    "perturbation_column": "gene",
    "control_label": "NT",
    "batch_column": "lane",
    "perturbation_kind": "interference",
}
TARGETS = ["results/drops/second/drop_comparison.tsv", "results/drops/reliable_scores.tsv"]
OF_A_DROP = ["harmonize", "card", "split", "sample_controls", "truth", "predict_baseline", "predict_by_script"]
OF_A_DROP += ["import_predictions", "evaluate", "reference_scores", "identical_cells", "audit"]


def drop(cells, seed, silent=()):
    """Eight perturbations, each lowering its own gene and two others, unless silent; two lanes."""
    generator = np.random.default_rng(seed)
    genes = [f"GENE{i}" for i in range(30)]
    labels = np.repeat(["NT", *genes[:8]], [3 * cells, *[cells] * 8])
    mean = np.tile(np.linspace(1, 6, 30), (len(labels), 1))
    for number, gene in enumerate(genes[:8]):
        if gene not in silent:
            for hit in (number, 8 + number, 20 + number % 4):
                mean[labels == gene, hit] *= 0.2
    lanes = np.where(np.arange(len(labels)) % 2, "lane1", "lane2")
    obs = pd.DataFrame({"gene": labels, "lane": lanes}, index=[f"cell{i}" for i in range(len(labels))])
    return anndata.AnnData(
        sparse.csr_matrix(generator.poisson(mean).astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes)
    )


def write_study(checkout, datasets):
    rows = [
        {**ROW, "name": name, "address": f"{name}.h5ad", "series": "first"} for name in ("first", "second", "third")
    ]
    table = [HEADER, *[[row.get(column, "") for column in HEADER] for row in rows]]
    checkout.write("drops.tsv", "\n".join("\t".join(line) for line in table) + "\n")
    study = {
        "dataset_table": "drops.tsv",
        "study": "drops",
        "datasets": datasets,
        "splits": {"folds": 2, "minimum_cells": 20},
        "methods": {
            "train-mean": {},
            "shrunken": {"kind": "script", "script": "docs/examples/shrunken_mean.py", "options": {"share": 0.5}},
        },
    }
    checkout.write("study.yaml", yaml.safe_dump(study))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two versions of a drop, run to their comparison; the newer has more cells and a silent perturbation."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("drops"))
    drop(40, seed=1).write_h5ad(checkout.path / "first.h5ad")
    drop(60, seed=2, silent=["GENE0"]).write_h5ad(checkout.path / "second.h5ad")
    drop(60, seed=3).write_h5ad(checkout.path / "third.h5ad")
    write_study(checkout, ["first", "second"])
    checkout.snakemake(*TARGETS, "--configfile", "study.yaml")
    return checkout


def plan(checkout, *targets):
    """What a dry run would do, as (rule, data set), and its output."""
    text = checkout.snakemake(*(targets or TARGETS), "--dry-run", "--configfile", "study.yaml").stdout
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, re.MULTILINE)
    found = set()
    for rule, details in jobs:
        dataset = re.search(r"wildcards: .*?dataset=(\w+)", details)
        found.add((rule, dataset[1] if dataset else ""))
    return found, text


def summaries(of="second"):
    return {("scores", ""), ("reliable_scores", ""), ("drop_comparison", of)}


def everything_of(name):
    return {(rule, name) for rule in ["fetch_dataset", *OF_A_DROP]}


def test_versions_of_a_drop_are_dealt_alike_and_scored_apart(finished):
    results = finished.path / "results" / "drops"
    splits = [read_table(results / name / "fold0" / "split.tsv") for name in ("first", "second")]
    pd.testing.assert_frame_equal(*splits)
    scores = read_table(results / "scores.tsv")
    assert set(scores["dataset"]) == {"first", "second"}


def test_the_comparison_says_what_was_gained_and_what_moved(finished):
    table = read_table(finished.path / "results" / "drops" / "second" / "drop_comparison.tsv")
    shown = table[(table["metric"] == "pearson_delta") & (table["split"] == "fold0")].set_index("method")
    assert list(shown["n_shared"]) == [4, 4]
    np.testing.assert_allclose(shown["change_on_shared"], shown["mean"] - shown["mean_before"])
    assert {"yes", "no"} >= set(table["verdict_changed"].dropna())
    page = (finished.path / "results" / "drops" / "second" / "figures" / "drop_comparison.html").read_text()
    assert "440 before, 660 now (+220)" in page
    assert "no longer reliable</th><td>GENE0" in page


def test_scores_stand_with_and_without_the_perturbation_that_does_nothing(finished):
    table = read_table(finished.path / "results" / "drops" / "reliable_scores.tsv")
    counts = table[(table["metric"] == "mse") & (table["method"] == "train-mean")].set_index("dataset")
    split = read_table(finished.path / "results" / "drops" / "second" / "fold0" / "split.tsv").set_index("perturbation")
    silent = int(split.loc["GENE0", "role"] == "test")
    assert counts["n_conditions"].to_dict() == {"first": 4, "second": 4}
    assert counts["reliable_n_conditions"].to_dict() == {"first": 4, "second": 4 - silent}


def test_a_touch_or_a_fresh_clone_plans_nothing(finished):
    for path in [*(finished.path / "workflow").rglob("*.*"), *finished.path.glob("*.*")]:
        path.touch()
    assert plan(finished)[0] == set()


def test_an_edited_metric_plans_evaluation_and_nothing_before_it_and_says_why(finished):
    module = finished.path / "workflow" / "lib" / "scgpt_bench" / "evaluation" / "cell_metrics.py"
    text = module.read_text()
    module.write_text(text.replace("_energy_distance(predicted", "_energy_distance( predicted"))
    jobs, output = plan(finished)
    module.write_text(text)
    of_both = {(rule, name) for rule in ("truth", "reference_scores", "evaluate") for name in ("first", "second")}
    assert jobs == of_both | summaries()
    assert "evaluation/cell_metrics.py" in output
    assert "Params have changed since last execution" in output


def test_an_edited_drop_plans_its_own_jobs_and_the_summaries(finished):
    path = finished.path / "second.h5ad"
    before = path.read_bytes()
    drop(60, seed=4).write_h5ad(path)
    jobs, _ = plan(finished)
    path.write_bytes(before)
    assert jobs == everything_of("second") | summaries()


def test_a_new_row_plans_its_own_jobs_and_the_summaries(finished):
    write_study(finished, ["first", "second", "third"])
    jobs, _ = plan(finished, "results/drops/third/drop_comparison.tsv", "results/drops/reliable_scores.tsv")
    write_study(finished, ["first", "second"])
    assert jobs == everything_of("third") | summaries("third")


def test_a_row_that_is_left_out_plans_the_summaries_alone(finished):
    write_study(finished, ["first"])
    jobs, _ = plan(finished, "results/drops/reliable_scores.tsv")
    write_study(finished, ["first", "second"])
    assert jobs == {("scores", ""), ("reliable_scores", "")}


def test_a_checksum_written_down_later_plans_nothing(finished):
    table = finished.path / "drops.tsv"
    text = table.read_text()
    table.write_text(text.replace("unknown", sha256(finished.path / "first.h5ad"), 1))
    jobs, _ = plan(finished)
    table.write_text(text)
    assert jobs == set()


def test_a_cell_that_is_there_twice_ends_the_run_with_one_line_before_any_method(finished):
    cells = drop(60, seed=3)
    twice = cells[[int(np.flatnonzero(cells.obs["gene"] == f"GENE{i}")[0]) for i in range(8)]].copy()
    twice.obs_names, twice.obs["gene"] = [f"renamed{i}" for i in range(8)], "NT"
    anndata.concat([cells, twice]).write_h5ad(finished.path / "third.h5ad")
    write_study(finished, ["first", "second", "third"])
    target = "results/drops/third/fold0/train-mean/0/predictions.h5ad"
    done = finished.snakemake(target, "--configfile", "study.yaml", check=False)
    cells.write_h5ad(finished.path / "third.h5ad")
    write_study(finished, ["first", "second"])
    assert done.returncode
    (line,) = re.findall(r"^error: .*$", done.stdout, re.MULTILINE)
    assert re.match(
        r"error: data set third: cells of split fold0: found 'cell\d+' \(GENE\d, tested\) and 'renamed", line
    )
    assert not (finished.path / target).exists()
