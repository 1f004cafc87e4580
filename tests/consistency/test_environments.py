"""Each environment declares what its rules import, and nothing that they do not need."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

import parsed_workflow
from scgpt_bench.sources import modules_used

ROOT = Path(__file__).parents[2]
PACKAGE_OF = {"cell_eval": "cell-eval", "cell_eval2": "cell-eval2", "cellxgene_census": "cellxgene-census"}
PACKAGE_OF |= {"matplotlib": "matplotlib-base", "torch": "pytorch", "yaml": "pyyaml"}
PACKAGE_OF |= {"sklearn": "scikit-learn"}
BY_POST_DEPLOY = {"scgpt", "gears"}

# Declared though nothing here imports it.
UPSTREAM_SCGPT = {
    "datasets",
    "ipython",
    "networkx",
    "requests",
    "scikit-learn",
    "scanpy",
    "seaborn",
    "sentencepiece",
    "six",
    "numba",
}
NEEDED_BY_OTHERS = {
    "cell_eval": {"numba", "scanpy", "pdex", "zstd"},  # cell-eval and pdex, from conda-forge rather than through pip
    "cell_eval2": {"numba", "scanpy", "pdex", "pyarrow"},
    "census": UPSTREAM_SCGPT | {"tqdm"},
    "census_cpu": UPSTREAM_SCGPT | {"tqdm"},
    "data": {"tqdm"},  # the progress bar of pooch
    "gears": {"dcor", "networkx", "pytorch_geometric", "requests", "scanpy", "tqdm"},
    "figures": {"itables"},  # whose DataTables are in the report
    "scgpt": UPSTREAM_SCGPT,
    "scgpt_cpu": UPSTREAM_SCGPT,
}


def environments():
    """The scripts that run in each environment."""
    scripts: dict[str, set[Path]] = {}
    for gpus in (0, 1):
        for rule in parsed_workflow.rules(gpus).values():
            scripts.setdefault(Path(rule.conda_env).stem, set()).add(parsed_workflow.script(rule))
    return scripts


def imported(script):
    """The packages of others that a script imports, itself or through the library."""
    for path in (script, *modules_used(script)):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"scgpt_bench"}:
                yield PACKAGE_OF.get(name, name)


@pytest.mark.parametrize("environment", sorted(environments()))
def test_an_environment_declares_what_is_imported(environment):
    entries = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())["dependencies"]
    entries = [text for entry in entries for text in (entry["pip"] if isinstance(entry, dict) else [entry])]
    declared = {re.sub("-[cg]pu$", "", re.split("=+", text)[0]) for text in entries} - {"python", "pip"}
    used = {name for script in environments()[environment] for name in imported(script)} - BY_POST_DEPLOY
    assert not used - declared, "imported and not declared"
    assert declared - used == NEEDED_BY_OTHERS.get(environment, set()), "declared and not needed"
    unpinned = [text for text in entries if "=" not in text and text != "pip"]
    assert not unpinned


@pytest.mark.parametrize("environment", ["scgpt", "census"])
def test_the_environment_without_a_gpu_is_the_other_without_what_needs_its_driver(environment):
    with_gpu = (ROOT / "envs" / f"{environment}.yaml").read_text().replace("- pytorch-gpu=", "- pytorch-cpu=")
    expected = yaml.safe_load(with_gpu)["dependencies"]
    assert yaml.safe_load((ROOT / "envs" / f"{environment}_cpu.yaml").read_text())["dependencies"] == expected
    scripts = [(ROOT / "envs" / f"{name}.post-deploy.sh").read_text() for name in (environment, f"{environment}_cpu")]
    assert scripts[0] == scripts[1]


def test_gears_is_tested_with_the_versions_of_its_environment():
    entries = yaml.safe_load((ROOT / "envs" / "gears.yaml").read_text())["dependencies"]
    entries += (ROOT / "envs" / "gears.post-deploy.sh").read_text().split()
    pinned = {re.sub("=+", "=", text.replace("_", "-").replace("pytorch-geo", "torch-geo")) for text in entries}
    for line in (ROOT / "requirements-gears.lock").read_text().splitlines():
        assert line.startswith("#") or line.replace("==", "=") in pinned, line
