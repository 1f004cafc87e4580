"""Faults through the workflow: late files, want of memory, clocks, an interrupted report, many parses at once."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from shutil import copytree

import pytest
import yaml

import tiny
from bad_input import study
from snakemake_checkout import ROOT, Checkout, copy_of_checkout

pytestmark = pytest.mark.long
REPORT = "results/tiny/report.html"
SCORED = "results/tiny/planted/fold0/train-mean/0/official_cell_eval.tsv"
GENERATED = "results/tiny/generated/planted/cells.h5ad"
PARSES, AT_ONCE = 200, 4
LATENCY = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())["latency-wait"]


@pytest.fixture
def faulty(monkeypatch):
    """Let one file of the next runs suffer a fault (tests/faults/injected)."""

    def set_fault(fault: str, file: str) -> None:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "injected"))
        monkeypatch.setenv("FAULT", fault)
        monkeypatch.setenv("FAULT_FILE", Path(file).name)

    return set_fault


def new_checkout(folder: Path) -> Checkout:
    checkout = copy_of_checkout(folder)
    tiny.write(checkout)
    return checkout


def only(target: str, *more: str) -> list[str]:
    return [target, *more, "--configfile", "tiny.yaml"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    checkout = new_checkout(tmp_path_factory.mktemp("scored"))
    checkout.snakemake(*only(SCORED))
    return checkout


@pytest.fixture
def unscored(scored, tmp_path):
    """A copy that has everything but the scores."""
    checkout = Checkout(copytree(scored.path, tmp_path / "unscored"))
    (checkout.path / SCORED).unlink()
    return checkout


def test_files_that_come_late_cost_nothing(tmp_path, faulty):
    """Later than Snakemake waits by itself (5 s), as profiles/slurm allows."""
    checkout = new_checkout(tmp_path)
    faulty("late 12", GENERATED)
    too_short = checkout.snakemake(*only(GENERATED), "--latency-wait", "1", check=False)
    assert too_short.returncode != 0
    time.sleep(15)  # the file has come, and the run does not know it
    checkout.snakemake(*only(GENERATED, "--latency-wait", str(LATENCY)))
    assert (checkout.path / GENERATED).is_file()
    assert "Nothing to be done" in checkout.snakemake(*only(GENERATED, "--dry-run")).stdout
    assert not list(checkout.path.rglob("*.partial"))


def test_a_file_that_never_comes_is_named_and_the_same_command_completes(tmp_path, faulty, monkeypatch):
    checkout = new_checkout(tmp_path)
    faulty("never", GENERATED)
    said = checkout.snakemake(*only(GENERATED, "--latency-wait", "2"), check=False)
    assert said.returncode != 0
    assert re.search(rf"Missing files after 2 seconds.*--latency-wait:\n{GENERATED} ", said.stdout)
    assert "Traceback" not in said.stdout
    monkeypatch.delenv("FAULT")
    checkout.snakemake(*only(GENERATED))
    assert not list(checkout.path.rglob("*.partial"))


def test_a_scorer_killed_for_memory_is_tried_again_with_twice_as_much(scored, unscored, faulty):
    faulty("killed", SCORED)
    said = unscored.snakemake(*only(SCORED, "--retries", "2")).stdout
    assert len(re.findall(r"^Error in rule cell_eval:", said, re.MULTILINE)) == 1
    assert "results/tiny/logs/cell_eval/planted.fold0.train-mean.0.log" in said
    assert "Traceback" not in said
    asked = re.findall(r"^(?:local)?rule cell_eval:\n(?:    .*\n)*?    resources: .*mem_mb=(\d+)", said, re.MULTILINE)
    first, second = map(int, asked)
    assert second == 2 * first
    assert (unscored.path / SCORED).read_bytes() == (scored.path / SCORED).read_bytes()
    assert not list(unscored.path.rglob("*.partial"))


def test_files_of_a_machine_whose_clock_was_behind_rerun_nothing(scored, unscored):
    set_times(unscored, days=-4000)
    said = unscored.snakemake(*only(SCORED)).stdout
    assert set(re.findall(r"^(?:local)?rule (\w+):", said, re.MULTILINE)) == {"cell_eval"}
    assert (unscored.path / SCORED).read_bytes() == (scored.path / SCORED).read_bytes()
    assert "Nothing to be done" in unscored.snakemake(*only(SCORED, "--dry-run")).stdout


def test_files_of_a_machine_whose_clock_was_ahead_are_refused(scored, unscored):
    """Snakemake takes an output that is older than its input for one that was not written."""
    set_times(unscored, days=4000)
    said = unscored.snakemake(*only(SCORED), check=False)
    assert said.returncode != 0
    assert "older modification time" in said.stdout
    assert "Traceback" not in said.stdout
    set_times(unscored, days=0)
    unscored.snakemake(*only(SCORED))
    assert (unscored.path / SCORED).read_bytes() == (scored.path / SCORED).read_bytes()


def set_times(checkout: Checkout, days: float) -> None:
    """Set the times of all results to so many days from now."""
    then = time.time() + timedelta(days=days).total_seconds()
    for path in (checkout.path / "results").rglob("*"):
        os.utime(path, (then, then))


def test_a_report_that_is_interrupted_is_written_again(scored, tmp_path):
    """Ctrl-C; of `kill -9`, see tests/repeat."""
    checkout = Checkout(copytree(scored.path, tmp_path / "interrupted"))
    partial = checkout.path / "results" / "tiny" / ".report.html.partial"
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *tiny.arguments(REPORT)]
    with open(checkout.path / "interrupted.log", "w") as log:
        run = subprocess.Popen(
            command,
            cwd=checkout.path,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a script runs with `&`
        )
    deadline = time.monotonic() + 900
    while not partial.exists():
        assert run.poll() is None, (checkout.path / "interrupted.log").read_text()[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) != 0
    assert not (checkout.path / REPORT).exists()
    assert not list((checkout.path / "results").rglob("*.partial"))
    checkout.snakemake(*tiny.arguments(REPORT))
    assert (checkout.path / REPORT).read_text().rstrip().endswith("</html>")


def test_many_jobs_that_parse_the_workflow_at_once_leave_one_record_of_each_file(tmp_path, monkeypatch):
    """As jobs on nodes do, they find no record of the user's files, plan without the lock, and agree."""
    checkout = copy_of_checkout(tmp_path / "checkout")
    assert not (checkout.path / "resources" / "checksums").exists()
    made = tmp_path / "made"
    made.mkdir()
    study.write(made)
    for name in ("drop.h5ad", "drops.tsv", "checkpoints.tsv", "study.yaml", "elsewhere.h5ad", "mine"):
        (made / name).rename(checkout.path / name)
    for name in ("TMPDIR", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    command = ["--target-jobs", "harmonize:dataset=drop", "--force", "--nolock", "--ignore-incomplete", "--dry-run"]
    command += ["--configfile", "study.yaml"]

    def plan(_) -> str:
        done = checkout.snakemake(*command, check=False)
        assert done.returncode == 0, done.stdout[-4000:]
        assert "Traceback" not in done.stdout
        return re.sub(r"^\[.*\]$", "", done.stdout[done.stdout.index("Job stats") :], flags=re.MULTILINE)  # times

    def files() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}

    records = checkout.path / "resources" / "checksums"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = set(pool.map(plan, range(AT_ONCE)))
        after_the_first = files()
        said |= set(pool.map(plan, range(PARSES - AT_ONCE)))
    (planned,) = said
    assert re.findall(r"^(?:local)?rule (\w+):", planned, re.MULTILINE) == ["fetch_dataset", "harmonize"]
    assert files() == after_the_first
    assert {path.suffix for path in records.iterdir()} == {".json"}
