"""The studies that this project cannot run are planned to the last job."""

import pytest


@pytest.mark.parametrize(
    ("study", "dataset", "split"),
    [
        ("norman", "norman_gears", "gears1"),
        ("adamson", "adamson_gears", "gears1"),
        ("replogle", "replogle_rpe1_gears", "gears1"),
        ("vcc2025", "vcc_2025_train", "fold4"),
    ],
)
def test_a_study_is_planned_from_the_download_to_the_report(checkout, study, dataset, split):
    planned = checkout.snakemake("--dry-run", "--configfile", f"config/{study}.yaml").stdout
    assert f"resources/datasets/{dataset}/source." in planned
    assert f"results/{dataset}/{split}/scgpt-finetuned/0/metrics.tsv" in planned
    assert "results/report.html" in planned
