"""`make slurm-profile`: `snakemake --profile slurm` finds the profile, and nobody else's profile is lost."""

import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import parsed_workflow
from snakemake_checkout import copy_of_checkout

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles" / "slurm"


@pytest.fixture
def link(tmp_path, monkeypatch):
    """Where Snakemake looks for the profile."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "snakemake" / "slurm"


def make():
    command = ["make", "--no-print-directory", "slurm-profile"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_it_links_the_profile_and_says_how_to_undo_it(link):
    done = make()
    assert done.returncode == 0
    assert link.resolve() == PROFILE
    undo = done.stdout.strip().rpartition("To undo: ")[2]
    subprocess.run(undo, shell=True, check=True)
    assert not os.path.lexists(link)
    assert (PROFILE / "config.yaml").exists()


def test_a_second_call_changes_nothing(link):
    make()
    done = make()
    assert done.returncode == 0
    assert "already links" in done.stdout
    assert link.resolve() == PROFILE


@pytest.mark.parametrize("other", ["folder", "link", "dangling link"])
def test_it_refuses_to_replace_another_profile(link, tmp_path, other):
    link.parent.mkdir()
    if other == "folder":
        link.mkdir()
        (link / "config.yaml").write_text("jobs: 3\n")
    else:
        if other == "link":
            (tmp_path / "mine").mkdir()
        link.symlink_to(tmp_path / "mine")
    before = os.readlink(link) if link.is_symlink() else (link / "config.yaml").read_text()
    done = make()
    assert done.returncode != 0
    assert f"error: {link}: found another profile" in done.stdout
    assert before == (os.readlink(link) if link.is_symlink() else (link / "config.yaml").read_text())


def test_every_key_of_the_profiles_is_explained():
    for path in sorted((ROOT / "profiles").glob("*/config.yaml")):
        lines = path.read_text().splitlines()
        explained = False
        for line in lines:
            if line.startswith("#"):
                explained = True
            elif line and not line.startswith((" ", "-")):
                assert explained, f"{path}: {line}"
            elif not line:
                explained = False


def test_every_key_of_the_profiles_is_an_option_of_snakemake():
    command = [sys.executable, "-m", "snakemake", "--help"]
    described = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = {*re.findall(r"--([\w-]+)", described)}
    for path in sorted((ROOT / "profiles").glob("*/config.yaml")):
        # In comments, what has a hyphen is a key, and any other word with a colon may be a sentence.
        keys = {*re.findall(r"^([a-z-]+|# [a-z]+(?:-[a-z]+)+):(?: |$)", path.read_text(), re.MULTILINE)}
        keys = {key.removeprefix("# ") for key in keys}
        assert keys <= options, path


def test_rules_that_ask_for_a_gpu_are_those_of_the_profile():
    rules = {name for name, rule in parsed_workflow.rules().items() if "gpu" in rule.resources}
    text = (PROFILE / "config.yaml").read_text()
    block = text[text.index("# set-resources:") :].partition("\n\n")[0]
    keys = yaml.safe_load("\n".join(line[2:] for line in block.splitlines()))["set-resources"]
    assert rules == set(keys)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_of_checkout(tmp_path_factory.mktemp("groups"))


@pytest.mark.parametrize(
    ("configuration", "of_it"),
    [
        (["config/config.yaml", "tests/slurm/beside_the_demo.yaml"], {"subset_truth", "finetune_candidate"}),
        (["config/contexts.yaml"], {"transfer", "join"}),
    ],
)
def test_no_submission_waits_for_a_job_that_waits_for_it(checkout, configuration, of_it):
    groups = yaml.safe_load((PROFILE / "config.yaml").read_text())["groups"]
    drawn = checkout.snakemake("--rulegraph", "--configfile", *configuration).stdout
    rules = dict(re.findall(r'^\s*(\d+) ?\[ ?label = "(\w+)', drawn, re.MULTILINE))
    assert of_it <= {*rules.values()}
    before = {}
    for first, second in re.findall(r"^\s*(\d+) -> (\d+)", drawn, re.MULTILINE):
        one, other = (groups.get(rules[number], rules[number]) for number in (first, second))
        if one != other:
            before.setdefault(other, set()).add(one)
    graphlib.TopologicalSorter(before).prepare()  # it raises where there is a circle
