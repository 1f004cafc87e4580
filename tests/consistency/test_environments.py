"""Each environment declares what its rules import, and nothing that they do not need."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import parsed_workflow
from scgpt_bench.sources import modules_used

ROOT = Path(__file__).parents[2]
PACKAGE_OF = {"cell_eval": "cell-eval", "cell_eval2": "cell-eval2", "cellxgene_census": "cellxgene-census"}
PACKAGE_OF |= {"flash_attn": "flash-attn", "matplotlib": "matplotlib-base", "torch": "pytorch", "yaml": "pyyaml"}
PACKAGE_OF |= {"sklearn": "scikit-learn"}
BY_POST_DEPLOY = {"scgpt", "gears"}
GPU_ONLY = {"flash-attn"}  # imported where it is installed

# Declared though nothing here imports it.
UPSTREAM_SCGPT = {"ipython", "matplotlib-base"}  # which the module of its layers imports
UPSTREAM_GEARS = {"dcor", "networkx", "pytorch_geometric", "requests", "scanpy", "tqdm", "scikit-learn"}
NEEDED_BY_OTHERS = {
    "cell_eval": {"numba", "scanpy", "zstd"},  # cell-eval and pdex, from conda-forge rather than through pip
    "cell_eval2": {"numba", "scanpy", "pyarrow"},
    "census": UPSTREAM_SCGPT | {"tqdm"},
    "census_cpu": UPSTREAM_SCGPT | {"tqdm"},
    "data": {"tqdm"},  # the progress bar of pooch
    "gears": UPSTREAM_GEARS,
    "gears_cpu": UPSTREAM_GEARS,
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
    without = GPU_ONLY if environment.endswith("_cpu") else set()
    assert used - declared == used & without, "imported and not declared"
    assert declared - used == NEEDED_BY_OTHERS.get(environment, set()), "declared and not needed"
    unpinned = [text for text in entries if "=" not in text and text != "pip"]
    assert not unpinned


def test_the_environments_are_those_of_their_table(tmp_path):
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    write = [sys.executable, "envs/write_environments.py"]

    def check():
        return subprocess.run([*write, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert check().stdout == ""
    table = tmp_path / "envs" / "environments.toml"
    table.write_text(table.read_text().replace('psutil = "7.2"', 'psutil = "7.3"'))
    (tmp_path / "envs" / "old.yaml").touch()
    differing = re.findall(r"envs/(.*): differs", check().stdout)
    assert differing == ["scgpt.yaml", "scgpt_cpu.yaml", "old.yaml"]
    subprocess.run(write, cwd=tmp_path, check=True)
    assert check().returncode == 0
    assert not (tmp_path / "envs" / "old.yaml").exists()


@pytest.mark.parametrize("environment", ["scgpt", "census"])
def test_the_environment_without_a_gpu_is_the_other_without_what_needs_its_driver(environment):
    with_gpu = (ROOT / "envs" / f"{environment}.yaml").read_text().replace("- pytorch-gpu=", "- pytorch-cpu=")
    dependencies = yaml.safe_load(with_gpu)["dependencies"]
    expected = [entry for entry in dependencies if str(entry).partition("=")[0] not in GPU_ONLY]
    assert len(expected) == len(dependencies) - len(GPU_ONLY)
    assert yaml.safe_load((ROOT / "envs" / f"{environment}_cpu.yaml").read_text())["dependencies"] == expected
    scripts = [(ROOT / "envs" / f"{name}.post-deploy.sh").read_text() for name in (environment, f"{environment}_cpu")]
    assert scripts[0] == scripts[1]


def test_what_comes_without_its_dependencies_has_the_version_of_the_tests():
    for name, lock in (("scgpt", "requirements-no-deps.lock"), ("gears", "requirements-gears.lock")):
        (package,) = re.findall(r"--no-deps (.*)", (ROOT / "envs" / f"{name}.post-deploy.sh").read_text())
        assert package in (ROOT / lock).read_text().splitlines()


def test_gears_is_tested_with_the_versions_of_its_environment():
    entries = yaml.safe_load((ROOT / "envs" / "gears_cpu.yaml").read_text())["dependencies"]
    pinned = dict(entry.partition("=")[::2] for entry in entries)
    for line in (ROOT / "requirements-gears.lock").read_text().splitlines():
        name, _, version = line.partition("==")
        if not line.startswith("#") and name != "cell-gears":
            wanted = pinned[{"torch-geometric": "pytorch_geometric"}.get(name, name)]
            assert f"{version}.".startswith(f"{wanted}."), line


def test_no_environment_with_packages_of_pypi_has_a_pin_file():
    """Snakemake would make it of the pin file alone, without them. GitHub's workflow leaves these out."""
    with_pip = {path.stem for path in (ROOT / "envs").glob("*.yaml") if "\n  - pip:\n" in path.read_text()}
    assert not with_pip & {path.name.partition(".")[0] for path in (ROOT / "envs").glob("*.pin.txt")}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "environments.yaml").read_text())
    (chosen,) = [
        files[1]
        for step in workflow["jobs"]["pins"]["steps"]
        if (files := re.search(r"pin-conda-envs .*\$\((.*)\)", step.get("run", "")))
    ]
    found = subprocess.run(["sh", "-c", chosen], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {Path(name).stem for name in found} == {path.stem for path in (ROOT / "envs").glob("*.yaml")} - with_pip
