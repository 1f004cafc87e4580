"""What a change of the configuration or the code plans again: what it touches, and nothing else."""

import dataclasses
import os
import re
import subprocess

import pytest
import yaml

from scgpt_bench.data.catalogue import CHECKPOINT_FILES, Dataset
from snakemake_checkout import ROOT, copy_of_checkout

HEADER = [field.name for field in dataclasses.fields(Dataset)]
SUM_OF_DROP = "0123456789abcdef" * 2  # Snakemake refuses a wildcard that repeats itself
ROW = {
    "name": "drop",
    "address": "https://example.org/drop.h5",
    "sha256": "unverified",
    "md5": SUM_OF_DROP,
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
    "study": "plans",
    "datasets": ["drop"],
    "splits": {"run": [0], "gears_seeds": [1]},
    "checkpoints": {"served": {"source": "catalogue"}},
    "methods": {"train-mean": {}, "scgpt-finetuned": OPTIONS},
}
TARGET = "results/plans/scores.tsv"
REPORT = "results/plans/report.html"
OF_A_SPLIT = {"split", "audit", "sample_controls", "truth", "reference_scores", "evaluate"}
OF_A_SPLIT |= {"predict_baseline", "finetune", "predict_scgpt"}


# The user's own files and the rules that read them, those first of which no other depends on the results.
OF_THE_USER = [
    (["genes.txt", "published_results.tsv"], {"vcc_submission", "published_results", "provenance"}),
    (["list.txt"], {"unmeasured_split"}),
    (["elsewhere.h5ad"], {"import_predictions"}),
    (["method.py"], {"predict_by_script"}),
    (["graph.csv"], {"predict_gears"}),
    (["split.tsv"], {"split"}),
    (["vectors.tsv"], {"gene_vectors"}),
    (["calls.csv", *(f"mine/{name}" for name in CHECKPOINT_FILES)], {"harmonize", "copy_checkpoint"}),
]
STUDY_OF_FILES = {
    "dataset_table": "drops.tsv",
    "checkpoint_table": "checkpoints.tsv",
    "published_results_table": "published_results.tsv",
    "study": "plans",
    "datasets": ["drop"],
    "splits": {"run": [], "files": {"given": {"drop": "split.tsv"}}},
    "checkpoints": {"own": {"source": "folder", "path": "mine"}},
    "vectors": {
        "own": {"source": "file", "path": "vectors.tsv"},
        "graph": {"source": "file", "path": "graph.csv"},
    },
    "methods": {
        "gears": {"graph": "graph"},
        "knn": {"vectors": "own"},
        "scgpt-zero-shot": {"checkpoint": "own"},
        "elsewhere": {"kind": "imported", "files": {"drop": {"given": "elsewhere.h5ad"}}},
        "method": {"kind": "script", "script": "method.py"},
    },
    "predict": {"next": {"dataset": "drop", "perturbations": "list.txt", "methods": ["knn"]}},
    "submissions": {"challenge": {"challenge": 2025, "prediction": "next", "genes": "genes.txt", "methods": ["knn"]}},
}


def write(checkout, row=ROW, study=STUDY, site="https://example.org"):
    lines = [HEADER, [row.get(column, "") for column in HEADER]]
    checkout.write("drops.tsv", "".join("\t".join(line) + "\n" for line in lines))
    lines = [["name", "file", "address", "sha256", "bytes", "licence", "source"]]
    lines += [["served", name, f"{site}/{name}", SUM[name], "7", "MIT", "a test"] for name in CHECKPOINT_FILES]
    checkout.write("checkpoints.tsv", "".join("\t".join(line) + "\n" for line in lines))
    checkout.write("study.yaml", yaml.safe_dump(study, sort_keys=False))


def plan(checkout, target=TARGET, *options):
    """What a dry run would do: (rule, split) of each job, and its output."""
    text = checkout.snakemake(target, *options, "--dry-run", "--configfile", "study.yaml").stdout
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, re.MULTILINE)
    splits = [re.search(r"wildcards: .*split=([\w-]+)", details) for _, details in jobs]
    return {(rule, split[1] if split else "") for (rule, _), split in zip(jobs, splits, strict=True)}, text


def finish(checkout, target=TARGET):
    """Make Snakemake take the study for finished: its files are there, though empty, with a record of each."""
    for files in re.findall(r"^    (?:output|benchmark): (.*)$", plan(checkout, target)[1], re.MULTILINE):
        for name in files.split(", "):
            (checkout.path / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout.path / name).touch()
    checkout.snakemake(target, "--touch", "--forceall", "--configfile", "study.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that Snakemake takes for finished."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("plans"))
    checkout.write("calls.csv", "")
    write(checkout)
    finish(checkout)
    return checkout


def test_what_changes_no_result_plans_nothing(finished):
    options = {"learning_rate": 0.001, "epochs": 2, "dropout": 0.0, "checkpoint": "served"}
    study = {
        "mirrors": ["mirror"],
        "hardware": {"save_minutes": 3, "deterministic": False, "micro_batch": 4},
        **STUDY,
        "splits": {"gears_seeds": [1], "folds": 5, "run": [0]},
        "methods": {"train-mean": {"seeds": [0]}, "scgpt-finetuned": options},
    }
    write(finished, {**ROW, "address": "https://example.com/moved.h5"}, study, site="https://example.com")
    assert plan(finished)[0] == set()


def test_another_fold_plans_itself_and_the_scores(finished):
    write(finished, study={**STUDY, "splits": {"run": [0, 1], "gears_seeds": [1]}})
    assert plan(finished)[0] == {*((rule, "fold1") for rule in OF_A_SPLIT), ("scores", "")}


def test_learning_curves_plan_their_subsets_and_leave_scores_and_verdicts_alone(finished):
    write(finished, study={**STUDY, "splits": {**STUDY["splits"], "training_sizes": [5, "full"]}})
    assert plan(finished)[0] == set()
    subsets = {(rule, f"{split}-train5") for rule in OF_A_SPLIT - {"split", "truth"} for split in ("fold0", "gears1")}
    subsets |= {(f"subset_{of}", f"{split}-train5") for of in ("split", "truth") for split in ("fold0", "gears1")}
    assert plan(finished, "results/plans/crossings.tsv")[0] == {*subsets, ("learning_curves", "")}


def test_a_seed_of_the_folds_leaves_gears_splits_alone(finished):
    write(finished, study={**STUDY, "splits": {"run": [0], "gears_seeds": [1], "seed": 2}})
    jobs, _ = plan(finished)
    assert ("split", "fold0") in jobs
    assert "gears1" not in {split for _, split in jobs}


def test_another_checksum_of_an_unverified_drop_or_of_a_checkpoint_fetches_it_again(finished):
    write(finished, {**ROW, "md5": SUM_OF_DROP[::-1]})
    path = finished.path / "checkpoints.tsv"
    path.write_text(path.read_text().replace(SUM["vocab.json"], "4" * 64))
    assert plan(finished)[0] >= {("fetch_dataset", ""), ("fetch_checkpoint", "")}


def test_a_gpu_instead_of_the_cpu_and_another_precision_compute_again_what_uses_them_and_more_gpus_nothing(finished):
    write(finished, study={**STUDY, "hardware": {"gpu": 4}})
    assert plan(finished)[0] == set()
    jobs = {(rule, split) for rule in ("finetune", "predict_scgpt", "evaluate") for split in ("fold0", "gears1")}
    for changed in ({"gpu": 0}, {"precision": "tf32"}):
        write(finished, study={**STUDY, "hardware": changed})
        assert plan(finished)[0] == {*jobs, ("scores", "")}


def test_the_provenance_lists_every_file_of_the_users(finished):
    write(finished)
    _, text = plan(finished, "results/plans/provenance.json")
    (inputs,) = re.findall(r"^rule provenance:\n    input: (.*)$", text, re.MULTILINE)
    assert {"drops.tsv", "checkpoints.tsv", "calls.csv"} <= set(inputs.split(", "))


def test_results_stay_valid_where_the_cells_that_came_in_are_moved_away(checkout):
    checkout.write("drop.h5", "cells")
    checkout.write("calls.csv", "")
    row = {**ROW, "address": "drop.h5", "sha256": "unknown", "md5": ""}
    write(checkout, row, {**STUDY, "checkpoints": {}, "methods": {"train-mean": {}}})
    provenance = "results/plans/provenance.json"
    finish(checkout, provenance)
    for name in ("drop.h5", provenance):
        (checkout.path / name).unlink()
    checkout.snakemake(provenance, "--touch", "--configfile", "study.yaml")  # no dry run, and no job is run


def test_refused_predictions_of_a_script_are_read_in_another_way_without_running_it_again(checkout):
    for name in ("calls.csv", "method.py"):
        checkout.write(name, "")
    method, folder = {"kind": "script", "script": "method.py"}, "results/plans/drop/fold0/method/0"
    study = {**STUDY, "splits": {"run": [0]}, "checkpoints": {}}
    write(checkout, study={**study, "methods": {"method": method}})
    finish(checkout, f"{folder}/unchecked.h5ad")
    for options, planned in (({"missing_genes": "control-mean"}, set()), ({"options": {"epochs": 9}}, {"fold0"})):
        write(checkout, study={**study, "methods": {"method": {**method, **options}}})
        jobs, _ = plan(checkout, f"{folder}/predictions.h5ad")
        assert ("import_predictions", "fold0") in jobs
        assert {split for rule, split in jobs if rule == "predict_by_script"} == planned


def test_a_list_is_trained_as_long_as_the_split_whose_recipe_it_takes(checkout):
    for name in ("calls.csv", "list.txt"):
        checkout.write(name, "STAT1\n")
    searched = {**OPTIONS, "search": {"learning_rate": [0.001, 0.01]}}
    predict = {"next": {"dataset": "drop", "perturbations": "list.txt"}}
    study = {**STUDY, "methods": {"plain": {"kind": "scgpt-finetuned", **OPTIONS}, "scgpt-finetuned": searched}}
    write(checkout, study={**study, "predict": predict})
    for method, splits in (("scgpt-finetuned", {"fold0"}), ("plain", {"fold0", "gears1"})):
        _, text = plan(checkout, f"results/plans/drop/predicted-next/{method}/0/model/model.pt")
        inputs = next(
            files
            for files in re.findall(r"^rule finetune:\n    input: (.*)$", text, re.MULTILINE)
            if "predicted-next" in files
        )
        assert set(re.findall(r"drop/(\w+)/[\w-]+/0/model/report.json", inputs)) == splits


def test_a_file_of_the_users_that_takes_the_place_of_a_newer_one_is_read_again(checkout):
    (checkout.path / "mine").mkdir()
    for names, _ in OF_THE_USER:
        for name in names:
            checkout.write(name, "of this week")
    write(checkout, study=STUDY_OF_FILES)
    finish(checkout, REPORT)
    planned = set()
    for names, rules in OF_THE_USER:
        for name in names:
            checkout.write(name, "of last week")
            os.utime(checkout.path / name, (0, 0))
        before, planned = planned, {rule for rule, _ in plan(checkout, REPORT)[0]}
        assert rules <= planned - before


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, with a pretrained checkpoint and a report, which Snakemake takes for finished."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("demo"))
    checkout.write("study.yaml", (ROOT / "config" / "config.yaml").read_text().replace("study: demo", "study: plans"))
    finish(checkout, REPORT)
    return checkout


@pytest.mark.parametrize(
    ("lost", "planned"),
    [
        (["results/plans/benchmarks"], set()),
        (
            ["results/plans/benchmarks/pretrain/pretrained.tsv", "results/plans/provenance.json"],
            {"provenance", "report_of_run"},
        ),
        (["results/plans/benchmarks", "results/plans/cost.tsv"], {"figure_cost", "summary", "report_of_run"}),
    ],
)
def test_lost_costs_and_provenance_plan_themselves_and_the_report(demo, lost, planned):
    for name in lost:
        (demo.path / name).rename(demo.path / f"{name}.lost")
    try:
        assert {rule for rule, _ in plan(demo, "all")[0]} - {"all"} == planned
    finally:
        for name in lost:
            (demo.path / f"{name}.lost").rename(demo.path / name)


def test_costs_are_read_after_all_results_and_without_the_provenance(demo):
    _, text = plan(demo, REPORT, "--forceall")
    (costs,) = re.findall(r"rule figure_cost:\n    input: (.*)$", text, re.MULTILINE)
    (report,) = re.findall(r"rule report_of_run:\n    input: (.*)$", text, re.MULTILINE)
    shown_later = ["cost.tsv", "figures/cost_by_method.svg", "figures/rule_graph.svg", "rules.html", "provenance.json"]
    later = {f"results/plans/{name}" for name in [*shown_later, "configuration.yaml", "summary.html", "answers.json"]}
    assert set(report.split(", ")) - set(costs.split(", ")) == later


def test_two_versions_of_a_data_set_are_compared_where_something_is_scored(tmp_path):
    checkout = copy_of_checkout(tmp_path)
    checkout.write("calls.csv", "")
    checkout.write("list.txt", "STAT1\n")
    predict = {"next": {"dataset": "drop", "perturbations": "list.txt"}}
    study = {**STUDY, "datasets": ["drop", "later"], "methods": {"train-mean": {}}, "predict": predict}
    for splits, compared in (({"run": [0]}, True), ({"run": []}, False)):
        write(checkout, study={**study, "splits": splits})
        versions = [
            {**ROW, "series": "screen"},
            {**ROW, "series": "screen", "name": "later", "md5": "fedcba9876543210" * 2},
        ]
        lines = [HEADER, *([row.get(column, "") for column in HEADER] for row in versions)]
        checkout.write("drops.tsv", "".join("\t".join(line) + "\n" for line in lines))
        assert ("drop_comparison" in {rule for rule, _ in plan(checkout, REPORT)[0]}) == compared


def planned_after(demo, edits):
    """The rules that a dry run plans after text was appended to modules, which are then as before."""
    modules = {demo.path / "workflow" / "lib" / "scgpt_bench" / name: text for name, text in edits.items()}
    before = {path: path.read_text() for path in modules}
    try:
        for path, text in modules.items():
            path.write_text(before[path] + text)
        return {rule for rule, _ in plan(demo, REPORT)[0]}
    finally:
        for path, text in before.items():
            path.write_text(text)


COMPUTED_FIRST = {"generate_dataset", "harmonize", "split", "sample_controls", "align_vocabulary", "gene_embeddings"}
COMPUTED_FIRST |= {"identical_cells", "audit"}
# Benchmark controls are made of the truth that the evaluation computes: they may run again with it.
TRAINED_AND_PREDICTED = {"pretrain", "finetune", "predict_scgpt", "predict_baseline"}


def test_a_comment_reruns_nothing(demo):
    names = ("files.py", "data/names.py", "data/harmonize.py", "scgpt/training.py", "evaluation/metrics.py")
    assert planned_after(demo, dict.fromkeys(names, "\n# A comment.\n")) == set()


@pytest.mark.parametrize(
    ("edited", "reruns"),
    [
        (["files.py", "errors.py", "job.py", "data/names.py", "data/catalogue.py"], {"truth", "evaluate", "scores"}),
        (["evaluation/metrics.py"], {"evaluate", "scores", "summary"}),
        (["figures/style.py", "data/audit.py"], {"figure_scores", "audit_table"}),
    ],
)
def test_edited_plumbing_or_evaluation_trains_and_predicts_nothing(demo, edited, reruns):
    planned = planned_after(demo, dict.fromkeys(edited, "\nEDITED = True\n"))
    assert reruns <= planned
    assert planned & (COMPUTED_FIRST | TRAINED_AND_PREDICTED) == set()


def test_edited_code_of_a_prediction_or_of_data_reruns_what_uses_it(demo):
    assert {"predict_scgpt", "evaluate"} <= planned_after(demo, {"scgpt/inference.py": "\nEDITED = True\n"})
    assert {*COMPUTED_FIRST, "finetune"} - {"generate_dataset"} <= planned_after(
        demo, {"data/harmonize.py": "\nEDITED = True\n"}
    )


def test_edited_code_of_a_training_reruns_nothing_and_another_version_of_its_recipe_trains(demo):
    code = dict.fromkeys(["scgpt/finetuning.py", "scgpt/pretraining.py", "scgpt/training.py"], "\nEDITED = True\n")
    assert planned_after(demo, code) == set()
    planned = planned_after(demo, {"scgpt/recipe_version.py": "\nFINETUNING += 1\n"})
    assert {"finetune", "predict_scgpt", "evaluate"} <= planned
    assert not planned & {*COMPUTED_FIRST, "pretrain", "predict_baseline"}


def test_after_make_clean_a_checkpoint_is_not_pretrained_again(demo):
    subprocess.run(["make", "clean", "study=plans"], cwd=demo.path, check=True)
    planned = {rule for rule, _ in plan(demo, REPORT)[0]}
    assert {"finetune", "scores", "report_of_run"} <= planned
    assert "pretrain" not in planned
