"""What a change of the configuration plans again: what it touches, and nothing else."""

import dataclasses
import re

import pytest
import yaml

from scgpt_bench.data.catalogue import CHECKPOINT_FILES, Dataset
from snakemake_checkout import copy_of_checkout

pytestmark = [pytest.mark.workflow, pytest.mark.extended]

HEADER = [field.name for field in dataclasses.fields(Dataset)]
ROW = {
    "name": "drop",
    "address": "https://example.org/drop.h5",
    "sha256": "unverified",
    "md5": "0" * 32,
    "format": "10x_h5",
    "values": "counts",
    "target_sum": "1000",
    "perturbation_column": "gene",
    "control_label": "NT",
    "guide_table": "calls.csv",
    "perturbation_kind": "interference",
}
SUM = {"best_model.pt": "1" * 64, "args.json": "2" * 64, "vocab.json": "3" * 64}
OPTIONS = {"checkpoint": "served", "epochs": 2, "learning_rate": 0.001}
STUDY = {
    "dataset_table": "drops.tsv",
    "checkpoint_table": "checkpoints.tsv",
    "datasets": ["drop"],
    "splits": {"run": [0], "gears_seeds": [1]},
    "checkpoints": {"served": {"source": "catalogue"}},
    "methods": {"train-mean": {}, "scgpt-finetuned": OPTIONS},
}
TARGET = "results/scores.tsv"
OF_A_SPLIT = {"split", "sample_controls", "truth", "predict_baseline", "finetune", "predict_scgpt", "evaluate"}


def write(checkout, row=ROW, study=STUDY, site="https://example.org"):
    lines = [HEADER, [row.get(column, "") for column in HEADER]]
    checkout.write("drops.tsv", "".join("\t".join(line) + "\n" for line in lines))
    lines = [["name", "file", "address", "sha256", "bytes", "licence", "source"]]
    lines += [["served", name, f"{site}/{name}", SUM[name], "7", "MIT", "a test"] for name in CHECKPOINT_FILES]
    checkout.write("checkpoints.tsv", "".join("\t".join(line) + "\n" for line in lines))
    checkout.write("study.yaml", yaml.safe_dump(study, sort_keys=False))


def plan(checkout, target=TARGET):
    """What a dry run would do: (rule, split) of each job, and its output."""
    text = checkout.snakemake(target, "--dry-run", "--configfile", "study.yaml").stdout
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, re.MULTILINE)
    splits = [re.search(r"wildcards: .*split=(\w+)", details) for _, details in jobs]
    return {(rule, split[1] if split else "") for (rule, _), split in zip(jobs, splits, strict=True)}, text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that Snakemake takes for finished: its files are there, though empty, with a record of each."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("plans"))
    checkout.write("calls.csv", "")
    write(checkout)
    for files in re.findall(r"^    output: (.*)$", plan(checkout)[1], re.MULTILINE):
        for name in files.split(", "):
            (checkout.path / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout.path / name).touch()
    checkout.snakemake(TARGET, "--touch", "--forceall", "--configfile", "study.yaml")
    return checkout


def test_what_changes_no_result_plans_nothing(finished):
    options = {"learning_rate": 0.001, "epochs": 2, "dropout": 0.0, "checkpoint": "served"}
    study = {
        "mirrors": ["mirror"],
        "hardware": {"save_minutes": 3},
        **STUDY,
        "splits": {"gears_seeds": [1], "folds": 5, "run": [0]},
        "methods": {"train-mean": {"seeds": [0]}, "scgpt-finetuned": options},
    }
    write(finished, {**ROW, "address": "https://example.com/moved.h5"}, study, site="https://example.com")
    assert plan(finished)[0] == set()


def test_another_fold_plans_itself_and_the_scores(finished):
    write(finished, study={**STUDY, "splits": {"run": [0, 1], "gears_seeds": [1]}})
    assert plan(finished)[0] == {*((rule, "fold1") for rule in OF_A_SPLIT), ("scores", "")}


def test_a_seed_of_the_folds_leaves_gears_splits_alone(finished):
    write(finished, study={**STUDY, "splits": {"run": [0], "gears_seeds": [1], "seed": 2}})
    jobs, _ = plan(finished)
    assert ("split", "fold0") in jobs
    assert "gears1" not in {split for _, split in jobs}


def test_another_checksum_of_an_unverified_drop_or_of_a_checkpoint_fetches_it_again(finished):
    write(finished, {**ROW, "md5": "1" * 32})
    path = finished.path / "checkpoints.tsv"
    path.write_text(path.read_text().replace(SUM["vocab.json"], "4" * 64))
    assert plan(finished)[0] >= {("fetch_dataset", ""), ("fetch_checkpoint", "")}


def test_the_provenance_lists_every_file_of_the_users(finished):
    write(finished)
    _, text = plan(finished, "results/provenance.json")
    (inputs,) = re.findall(r"^rule provenance:\n    input: (.*)$", text, re.MULTILINE)
    assert {"drops.tsv", "checkpoints.tsv", "calls.csv"} <= set(inputs.split(", "))
