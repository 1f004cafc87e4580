"""A reader's walk: what the documents name is there, and what they say to run can be run."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from scgpt_bench.configuration import validate

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")])  # not those of .venv and of tools' caches
CAPTIONS = sorted((ROOT / "workflow" / "report").glob("*.rst"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SCHEMA = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
FOLDERS = "config|docs|envs|profiles|tests|benchmarks|workflow"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_that_a_document_names_is_there(document):
    text = document.read_text()
    linked = [target.split("#")[0] for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    missing = [target for target in linked if target and not (document.parent / target).exists()]
    # Paths in code, from the root of the checkout; those with a placeholder stand for many.
    paths = re.findall(rf"(?<![\w/<.-])((?:{FOLDERS})/[\w./-]*\w)", re.sub(r"\]\([^)]*\)", "", text))
    # profiles/default is named because it must not be there.
    missing += [
        path for path in paths if path != "profiles/default" and "results/" not in path and not (ROOT / path).exists()
    ]
    targets = re.findall(r"^ *make (?:PYTHON=\S+ )?([a-z-]+)|`make (?:PYTHON=\S+ )?([a-z-]+)`", text, re.MULTILINE)
    missing += [f"make {target}" for pair in targets for target in pair if target and target not in TARGETS]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_of_a_run_that_a_document_names_is_known_to_the_code(document):
    code = "".join(
        path.read_text()
        for folder in ("workflow", "config", "benchmarks", "docs/examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".smk", ".html", ".yaml", ".tsv")
    )
    spans = " ".join(re.findall(r"`([^`\n]+)`", document.read_text()))
    names = set(re.findall(r"(?<![\w>*}-])[\w-]+\.(?:json|tsv|h5ad|html)\b", spans))
    assert [name for name in sorted(names) if name not in code] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, *CAPTIONS], ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(document):
    """Tables, code and what is written from the options are not."""
    prose = re.sub(
        r"```.*?```|<!-- \w+: from the options -->.*?<!-- end -->", "", document.read_text(), flags=re.DOTALL
    )
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_no_document_repeats_another():
    """No 18 words in a row are in two documents; examples and what is written from the options do not count."""
    first: dict[tuple[str, ...], Path] = {}
    for document in DOCUMENTS:
        text = re.sub(
            r"```.*?```|<!-- \w+: from the options -->.*?<!-- end -->", "", document.read_text(), flags=re.DOTALL
        )
        words = re.findall(r"\w[\w.'-]*", text)
        for at in range(len(words) - 17):
            row = tuple(words[at : at + 18])
            assert first.setdefault(row, document) == document, " ".join(row)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_whole_configurations_are_valid_and_files_to_make_stand_before_them(document, monkeypatch):
    """`--configfile` takes several values: a file to make behind it would be read as a configuration."""
    monkeypatch.chdir(ROOT)
    text = document.read_text()
    for block in re.findall(r"```yaml\n(study:.*?)```", text, re.DOTALL):
        validate(yaml.safe_load(block), document.name)
    for command in re.findall(r"snakemake [^`\n#]*results/[^`\n#]*", text):
        assert re.search(r"results/\S+ --configfile \S+$", command.strip()), command


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_of_the_project_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    configuration = yaml.safe_load(path.read_text())
    validate(configuration, path.name)
    jsonschema.validate(configuration, SCHEMA)


@pytest.mark.parametrize(
    "place", [(), ("splits",), ("methods", "ridge"), ("checkpoints", "pretrained"), ("generated", "planted")]
)
def test_an_editor_marks_a_key_that_no_study_has(place):
    configuration = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    part = configuration
    for key in place:
        part = part.setdefault(key, {})
    part["learning_speed"] = 1
    with pytest.raises(jsonschema.ValidationError, match="learning_speed"):
        jsonschema.validate(configuration, SCHEMA)


def test_the_make_targets_are_explained_and_declared():
    text = (ROOT / "Makefile").read_text()
    declared = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    assert declared == TARGETS
    readers = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    tiers = ("test", "test-workflow", "test-all", "test-faults", "test-gears", "test-long", "test-slurm")
    for target in ("demo", *tiers, "lint", "bench", "verify", "coverage", "slurm-profile"):
        assert f"make {target}" in readers
