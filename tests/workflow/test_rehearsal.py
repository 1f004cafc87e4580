"""The rehearsal of a large study in small: every rule of both studies has a row, and what it leaves out it says."""

import csv
import re
import subprocess
import sys

import pytest

from snakemake_checkout import ROOT

pytestmark = pytest.mark.long

CELLS, GENES = 7966, 600


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """What it prints, and its table."""
    folder = tmp_path_factory.mktemp("rehearsal")
    table = folder / "table.tsv"
    command = [sys.executable, str(ROOT / "benchmarks" / "rehearsal.py"), "--fraction", "0.036", "--genes", str(GENES)]
    command += ["--folder", str(folder / "studies"), "--output", str(table)]
    environment = {"PYTHONPATH": str(ROOT / "workflow" / "lib"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "studies").exists()
    with table.open(newline="") as file:
        return done.stdout, list(csv.DictReader(file, delimiter="\t"))


def test_it_names_the_disk_first(rehearsal):
    assert re.match(rf"{CELLS:,} cells x {GENES} genes need about \d+ GB of disk", rehearsal[0])


def test_every_rule_has_a_row_or_is_left_out(rehearsal):
    files, named = (ROOT / "workflow" / "rules").glob("*.smk"), re.compile(r"^ *(?:use rule \w+ as|rule) (\w+)\b", re.M)
    rules = {name for file in files for name in named.findall(file.read_text())}
    left_out = set(re.search(r"^Rules left out: (.*)$", rehearsal[0], re.MULTILINE)[1].split(", "))
    assert {row["rule"] for row in rehearsal[1]} == rules - left_out


def test_large_cells_are_measured_in_two_sizes_and_carried_to_a_million(rehearsal):
    table = {(row["rule"], int(row["cells"])): row for row in rehearsal[1] if row["study"] == "rehearsal"}
    eighth, whole = table["harmonize", CELLS // 8], table["harmonize", CELLS]
    assert 0 < float(eighth["disk_MB"]) < float(whole["disk_MB"]) < float(whole["disk_MB_at_1M"])
    assert all(float(row["peak_MB"]) > 0 and float(row["all_s"]) > 0 for row in table.values())
