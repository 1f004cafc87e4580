"""Studies side by side; and those that this project cannot run are planned to the last job."""

import re

import pytest
import yaml

import tiny


@pytest.mark.parametrize(
    ("study", "dataset", "split"),
    [
        ("norman", "norman_gears", "gears1"),
        ("adamson", "adamson_gears", "gears1"),
        ("replogle", "replogle_rpe1_gears", "gears1"),
        ("vcc2025", "vcc_2025_train", "fold4"),
        ("my_screen", "my_screen", "fold4"),  # before the data file is there
    ],
)
def test_a_study_is_planned_from_the_download_to_the_report(checkout, study, dataset, split):
    # What the challenge's organizers give to those with an account.
    (checkout.path / "resources" / "vcc2025").mkdir(parents=True)
    for name in ("gene_names", "pert_counts_Validation", "pert_counts_Test"):
        checkout.write(f"resources/vcc2025/{name}.csv", "")
    planned = checkout.snakemake("--dry-run", "--configfile", f"config/{study}.yaml").stdout
    assert re.search(rf"resources/datasets/{dataset}/\w+/source\.", planned)
    assert f"/{dataset}/{split}/scgpt-finetuned/0/metrics.tsv" in planned
    assert "/report.html" in planned


def test_gears_without_conda_ends_before_the_first_job(checkout):
    checkout.write("graph.csv", "source,target,importance\nA,B,1\n")
    methods = {"train-mean": {}, "other-gears": {"kind": "gears", "graph": "own"}}
    vectors = {"own": {"source": "file", "path": "graph.csv"}}
    study = {key: value for key, value in tiny.STUDY.items() if key != "checkpoints"}
    checkout.write("gears.yaml", yaml.safe_dump({**study, "study": "gears", "methods": methods, "vectors": vectors}))
    done = checkout.snakemake("--configfile", "gears.yaml", check=False)
    assert done.returncode == 1
    assert "found other-gears without conda; expected --sdm conda" in done.stdout
    assert "rule generate_dataset:" not in done.stdout
    assert not (checkout.path / "results" / "gears" / "generated").exists()


def test_a_plan_needs_no_data_file_and_a_run_does(checkout):
    """The plan is that of every study above; the run ends before the first job."""
    done = checkout.snakemake("--configfile", "config/my_screen.yaml", check=False)
    assert done.returncode == 1
    assert "Missing input files" in done.stdout
    assert "my_screen.h5ad" in done.stdout
    assert not (checkout.path / "resources" / "checkpoints").exists()


def test_studies_live_side_by_side_and_returning_to_one_recomputes_nothing(checkout):
    """The same data set and method names, with other options: nothing of the first study changes."""
    options = {key: value for key, value in tiny.STUDY.items() if key != "checkpoints"} | {
        "methods": {"train-mean": {}}
    }
    other = {**options, "study": "other", "controls": {"cells_per_perturbation": 5}}
    for study in (options, other):
        name = checkout.write(f"{study['study']}.yaml", yaml.safe_dump(study))
        checkout.snakemake(f"results/{study['study']}/scores.tsv", "--configfile", name)
    planned = checkout.snakemake("results/tiny/scores.tsv", "--dry-run", "--configfile", "tiny.yaml").stdout
    assert "Nothing to be done" in planned
    folders = {path.name for path in (checkout.path / "results").iterdir() if path.is_dir()}
    assert folders == {"tiny", "other"}
    for folder in folders:
        assert list((checkout.path / "results" / folder / "logs").rglob("*.log"))
    assert not (checkout.path / "logs").exists()
