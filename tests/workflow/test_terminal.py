"""The same through Snakemake, as a user meets it: one clear line on the terminal, status 1, nothing left behind."""

import hashlib
import re

import pytest

from bad_input import study
from snakemake_checkout import Checkout, copy_of_checkout


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A checkout with the files of the study that a user has: nothing computed."""
    made = tmp_path_factory.mktemp("made")
    study.write(made)
    checkout = copy_of_checkout(tmp_path_factory.mktemp("template"))
    for name in ("drop.h5ad", "drops.tsv", "checkpoints.tsv", "study.yaml", "elsewhere.h5ad"):
        (made / name).rename(checkout.path / name)
    (made / "mine").rename(checkout.path / "mine")
    return checkout


@pytest.fixture
def checkout(template, tmp_path):
    """A copy that a test may damage; files are links, since faults replace them."""
    for path in template.path.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(template.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return Checkout(tmp_path)


def refused(checkout: Checkout, *arguments: str) -> str:
    """Run, and return the error line; what was computed before the faulty stage may stay."""
    done = checkout.snakemake(*arguments, "--configfile", "study.yaml", check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.search(r": found .*; expected ", line)]
    assert len(lines) == 1, done.stdout
    assert not list(checkout.path.rglob("*.partial"))
    return lines[0]


def test_a_fault_in_a_file(checkout):
    study.h5ad("drop.h5ad", lambda cells: cells.X.__setitem__((5, 3), -1))(checkout.path)
    line = refused(checkout, "results/bad/drop/cells.h5ad")
    assert "error: drop.h5ad: X, gene 'G3', cell 'cell5': found -1" in line
    assert not (checkout.path / "results" / "bad" / "drop").exists()


def test_a_wrong_checksum_never_enters_resources(checkout):
    # Of another file. Snakemake itself refuses a name in which digits repeat.
    other = hashlib.sha256(b"another file").hexdigest()
    study.write_table(checkout.path / "drops.tsv", study.HEADER, [{**study.ROW, "sha256": other}])
    line = refused(checkout, "results/bad/drop/cells.h5ad")
    assert "drop.h5ad: sha256: found" in line
    assert other in line
    assert not list((checkout.path / "resources").rglob("source*"))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (study.appended("study.yaml", "methods: {}\n"), "study.yaml: methods: found two of them (lines "),
        (study.configured(split={"folds": 2}), "study.yaml: top level: found unknown key 'split'; expected keys among"),
        (study.row(name="../drop"), "drops.tsv: line 3 (../drop), column 'name': found '../drop'; expected letters"),
    ],
    ids=["a key twice", "configuration", "table"],
)
def test_a_fault_before_any_job(checkout, fault, expected):
    fault(checkout.path)
    assert expected in refused(checkout)
    assert not (checkout.path / "resources" / "datasets").exists()


@pytest.mark.parametrize("text", ["datasets: [", "- datasets"])
def test_a_configuration_that_is_no_table(checkout, text):
    """Snakemake reads the file, before any code of this project."""
    checkout.write("study.yaml", text)
    done = checkout.snakemake("--configfile", "study.yaml", check=False)
    assert done.returncode == 1
    assert "Config file" in done.stdout
    assert "YAML" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (checkout.path / "resources" / "datasets").exists()
