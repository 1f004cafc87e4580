"""What others' programs read: GitHub's workflows and forms, the citation, the catalogue of Snakemake workflows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scgpt_bench import __version__
from snakemake_checkout import ROOT

SCHEMAS = {
    **dict.fromkeys(sorted((ROOT / ".github" / "workflows").glob("*.yaml")), "github-workflows"),
    **dict.fromkeys(sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), "github-issue-forms"),
    ROOT / "CITATION.cff": "citation-file-format",
}
WORKFLOWS = [path for path, schema in SCHEMAS.items() if schema == "github-workflows"]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SCHEMAS, ids=named)
def test_a_file_has_the_form_that_its_reader_wants(path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[path]}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_a_workflow_calls_targets_and_files_that_exist_and_holds_no_secret(path):
    text = path.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"run: make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"(?:run: |--directory )(\.[\w/-]+)", text):
        assert (ROOT / name).exists(), name
    assert "secrets." not in text
    jobs = yaml.safe_load(text)["jobs"]
    assert all("uses" in step or "run" in step for job in jobs.values() for step in job["steps"])


def test_the_version_of_the_citation_is_that_of_the_package():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_snakemake_in_the_version_of_the_requirements_is_what_github_installs():
    found = re.findall(r"^snakemake\[.*$", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    assert len(found) == 1
    assert "grep '^snakemake\\[' requirements.in" in (ROOT / ".github" / "workflows" / "tests.yaml").read_text()
