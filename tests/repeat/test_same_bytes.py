"""Whatever happens to a run, it ends with the same bytes: shards, kill -9 in every stage, damage, clocks; verified."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pytest
import yaml

import tiny
from scgpt_bench.files import read_table
from snakemake_checkout import Checkout, copy_of_checkout

pytestmark = pytest.mark.long
FOLD = "results/tiny/planted/fold0"
# What a job of each stage leaves when it is killed at its work: a file half written, or the state to resume from.
BEGUN = {
    "generate_dataset": "results/tiny/generated/planted/.*.partial",
    "harmonize": "results/tiny/planted/.*.partial",
    "pretrain": "results/tiny/checkpoints/pretrained/training_state.pt",
    "finetune": f"{FOLD}/scgpt-finetuned/0/model/training_state.pt",
    "predict_scgpt": f"{FOLD}/*/0/shards/.*.partial",
    "evaluate": f"{FOLD}/*/0/.metrics.tsv.partial",
    "report_of_run": "results/tiny/.report.html.partial",
}
PREDICTED = f"{FOLD}/scgpt-finetuned/0/predictions.h5ad"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """An uninterrupted run in one shard, on one core."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("first"))
    tiny.write(checkout, batch_size=8)
    checkout.snakemake(*tiny.arguments("results/tiny/provenance.json", "--cores", "1"))
    return checkout


def write_slowly(checkout: Checkout) -> None:
    """Every file of this checkout keeps its partial name for a moment, so that a kill can find a job at its writing."""
    library = checkout.path / "workflow" / "lib" / "scgpt_bench" / "files.py"
    text = library.read_text()
    renamed = "os.replace(partial, path)"
    assert text.count(renamed) == 1
    library.write_text(text.replace(renamed, f"__import__('time').sleep(0.3); {renamed}"))


def start(checkout: Checkout, *targets: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *tiny.arguments(*targets)]
    with open(checkout.path / "killed.log", "w") as log:
        return subprocess.Popen(command, cwd=checkout.path, stdout=log, stderr=log, start_new_session=True)


def wait_for(checkout: Checkout, pattern: str, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not any(checkout.path.glob(pattern)):
        assert run.poll() is None, (checkout.path / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(checkout: Checkout, run: subprocess.Popen) -> None:
    """End the run and its jobs with SIGKILL, and take the lock away that it leaves."""
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    checkout.snakemake(*tiny.arguments("--unlock"))


def kill_in(checkout: Checkout, stage: str, *targets: str) -> None:
    run = start(checkout, *targets)
    wait_for(checkout, BEGUN[stage], run)
    kill(checkout, run)
    assert any(checkout.path.glob(BEGUN[stage])), f"{stage} was done before it could be killed"


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A run in four shards, killed in every stage; and what a run at the same time said."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("second"))
    tiny.write(checkout, shards=4, batch_size=8)
    write_slowly(checkout)
    run = start(checkout)
    wait_for(checkout, BEGUN["generate_dataset"], run)
    os.killpg(run.pid, signal.SIGSTOP)  # or its first jobs were done before the other run has started
    said = checkout.snakemake(*tiny.arguments(), check=False)
    kill(checkout, run)
    for stage in BEGUN:
        if stage != "report_of_run":
            kill_in(checkout, stage)
    checkout.snakemake(*tiny.arguments())
    return checkout, said


def test_two_runs_one_in_shards_and_killed_in_every_stage_give_the_same_tables(first, second):
    expected = tiny.tables(first.path)
    assert len(expected) == 4 + len(tiny.STUDY["methods"])  # scores, by class too, verdicts, contrasts
    assert tiny.tables(second[0].path) == expected


def test_trainings_that_were_killed_went_on(second):
    for stage in ("pretrain", "finetune"):
        (log,) = (second[0].path / "results" / "tiny" / "logs" / stage).glob("*.log")
        assert "resumed at epoch" in log.read_text()


def test_a_kill_leaves_nothing_half_written_once_the_run_is_complete(second):
    assert not list(second[0].path.rglob("*.partial"))


def test_a_second_run_at_the_same_time_is_refused_with_what_to_do(second):
    assert second[1].returncode == 1
    assert "cannot be locked" in second[1].stdout
    assert "--unlock" in second[1].stdout


def test_a_report_that_was_killed_is_written_again(second):
    checkout, _ = second
    expected = tiny.tables(checkout.path)
    kill_in(checkout, "report_of_run", "results/tiny/report.html")
    assert not (checkout.path / "results" / "tiny" / "report.html").exists()
    checkout.snakemake(*tiny.arguments("results/tiny/report.html"))
    assert (checkout.path / "results" / "tiny" / "report.html").read_text().rstrip().endswith("</html>")
    assert not list((checkout.path / "results").rglob("*.partial"))
    assert {name: tiny.tables(checkout.path)[name] for name in expected} == expected


def test_other_clocks_rerun_nothing(first):
    """A clock that was set back, and files that were touched: what counts is content."""
    for path in (first.path / "results").rglob("*"):
        os.utime(path, (1e9, 1e9))
    for name in ("tiny.yaml", "workflow/scripts/finetune.py", "results/tiny/generated/planted/cells.h5ad"):
        os.utime(first.path / name)
    assert "Nothing to be done" in first.snakemake(*tiny.arguments("--dry-run")).stdout


def test_a_damaged_file_is_named_and_made_again(second):
    checkout, _ = second
    expected = tiny.tables(checkout.path)
    damaged = checkout.path / "results" / "tiny" / "planted" / "fold0" / "controls.h5ad"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    said = checkout.snakemake(*tiny.arguments(), check=False).stdout
    assert "error: results/tiny/planted/fold0/controls.h5ad: file: found OSError" in said
    damaged.unlink()
    checkout.snakemake(*tiny.arguments())
    assert tiny.tables(checkout.path) == expected


def test_another_batch_size_and_more_threads_move_a_prediction_by_rounding_only(first, tmp_path):
    other = Checkout(shutil.copytree(first.path, tmp_path / "other"))
    study = tiny.STUDY | {"inference": {"batch_size": 3}, "hardware": {"gpu": 0, "threads": 2}}
    other.write("other.yaml", yaml.safe_dump(study))  # as tiny.write does: the order of methods is that of the file
    targets = [PREDICTED, "results/tiny/verdicts.tsv", "--configfile", "other.yaml"]
    other.snakemake(*targets, "--forcerun", "predict_scgpt", "--rerun-triggers", "input")
    before, after = (anndata.read_h5ad(checkout.path / PREDICTED) for checkout in (first, other))
    assert list(after.obs_names) == list(before.obs_names)
    np.testing.assert_allclose(after.X, before.X, atol=1e-5)
    judged = ["dataset", "split", "method", "metric", "opponent", "verdict"]
    before, after = (read_table(checkout.path / "results" / "tiny" / "verdicts.tsv") for checkout in (first, other))
    assert len(after) > 0
    assert after[judged].equals(before[judged])
    # So small a study has too few conditions for any verdict: what they are made of says more.
    numbers = ["difference", "ci_low", "ci_high", "p_value"]
    np.testing.assert_allclose(after[numbers], before[numbers], atol=1e-4)


def verify(checkout: Checkout, study: str) -> subprocess.CompletedProcess:
    """What `make verify` does."""
    command = [sys.executable, "-m", "scgpt_bench.verification", f"results/{study}/provenance.json"]
    environment = {**os.environ, "PYTHONPATH": str(checkout.path / "workflow" / "lib")}
    return subprocess.run(command, cwd=checkout.path, env=environment, capture_output=True, text=True, check=False)


def test_verify_repeats_the_run_and_tells_a_table_that_was_edited(first):
    path = first.path / "results" / "tiny" / "provenance.json"
    document = json.loads(path.read_text())
    edited = next(entry for entry in document["results"] if entry["path"] == "results/tiny/scores.tsv")
    edited["sha256"] = "0" * 64
    document["versions"]["numpy"] = "0.1"
    path.write_text(json.dumps(document))
    done = verify(first, "tiny")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "other surroundings: numpy: 0.1 in the run" in done.stdout
    assert "differs: results/tiny/scores.tsv: differs (by how much is unknown" in done.stdout
    assert "5 of 6 tables of results are the same bytes" in done.stdout


def test_the_demo_twice_gives_the_same_tables(tmp_path):
    checkout = copy_of_checkout(tmp_path)
    checkout.snakemake()
    done = verify(checkout, "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    same, of = map(int, re.search(r"(\d+) of (\d+) tables of results are the same bytes", done.stdout).groups())
    assert same == of > 20
