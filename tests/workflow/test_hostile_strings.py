"""Shell commands in every string of a configuration are taken as names."""

import shutil

import yaml

from bad_input import study
from snakemake_checkout import ROOT, copy_of_checkout

SHELL = "$(touch EXECUTED)`touch EXECUTED`;touch EXECUTED;&|'\" "
COMPUTED = {"resources", "results", ".snakemake"}


def test_shell_characters_in_every_string_of_a_configuration(tmp_path):
    """Paths and options of every kind that reach a job, with commands in them: files of these names are used."""
    template = tmp_path / "made"
    template.mkdir()
    study.write(template)
    checkout = copy_of_checkout(tmp_path / "checkout")
    for file in ("drop.h5ad", "elsewhere.h5ad", "split.tsv"):
        shutil.copy(template / file, checkout.path / f"{SHELL}{file}")
    shutil.copytree(template / "mine", checkout.path / f"{SHELL}mine")
    shutil.copy(ROOT / "docs" / "examples" / "shrunken_mean.py", checkout.path / f"{SHELL}method.py")
    study.write_table(
        checkout.path / f"{SHELL}drops.tsv",
        study.HEADER,
        [{**study.ROW, "address": f"{SHELL}drop.h5ad", "version": SHELL, "licence": SHELL, "citation": SHELL}],
    )
    config = {
        "dataset_table": f"{SHELL}drops.tsv",
        "study": "hostile",
        "datasets": ["drop"],
        "mirrors": [f"{SHELL}mirror"],
        "splits": {"run": [], "files": {"mine": {"drop": f"{SHELL}split.tsv"}}},
        "checkpoints": {"tiny": {"source": "folder", "path": f"{SHELL}mine"}},
        "methods": {
            "elsewhere": {
                **{"kind": "imported", "files": {"drop": {"mine": f"{SHELL}elsewhere.h5ad"}}},
                **{"control_label": f"control|{SHELL}", "gene_symbol_column": None},
            },
            "own": {"kind": "script", "script": f"{SHELL}method.py", "options": {"share": 0.5, SHELL: SHELL}},
            "scgpt-embedding-ridge": {"checkpoint": "tiny"},
        },
    }
    checkout.write("study.yaml", yaml.safe_dump(config))
    before = {path.name for path in checkout.path.iterdir()}
    targets = [f"results/hostile/drop/mine/{method}/0/predictions.h5ad" for method in config["methods"]]
    checkout.snakemake(*targets, "--configfile", "study.yaml")
    assert all((checkout.path / target).is_file() for target in targets)
    assert {path.name for path in checkout.path.iterdir()} - before <= COMPUTED
    assert not list(tmp_path.rglob("EXECUTED*"))
