"""A search of the recipe that is killed in the middle: the same winner, nothing trained twice."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

import tiny
from scgpt_bench.files import read_json, read_table
from scgpt_bench.method_record import read_record
from snakemake_checkout import Checkout, copy_of_checkout

SEARCH = {"learning_rate": [0.001, 0.00001], "batch_size": [16, 32]}
METHOD = {"checkpoint": "untrained", "seeds": [0, 1], "epochs": 1, "validation_cells": 8, "search": SEARCH}
STUDY = {
    **tiny.STUDY,
    "checkpoints": {"untrained": {"source": "random", **tiny.MODEL}},
    "methods": {"train-mean": {}, "scgpt-finetuned": METHOD},
}
FOLDER = "results/tiny/planted/fold0/scgpt-finetuned"
SEARCHED = [f"{FOLDER}/search.tsv", "--configfile", "search.yaml"]


def new_checkout(folder) -> Checkout:
    checkout = copy_of_checkout(folder)
    checkout.write("search.yaml", yaml.safe_dump(STUDY))
    return checkout


def finished_candidates(log: str) -> set[str]:
    """The candidates whose trainings a run finished, as Snakemake says."""
    started = re.findall(r"^(?:local)?rule finetune_candidate:\n((?:    .*\n)+)", log, re.MULTILINE)
    candidate_of = {
        re.search(r"jobid: (\d+)", details)[1]: re.search(r"candidate=(.*)", details)[1] for details in started
    }
    finished = re.findall(r"Finished jobid: (\d+)", log)
    return {candidate_of[number] for number in finished if number in candidate_of}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    checkout = new_checkout(tmp_path_factory.mktemp("whole"))
    checkout.snakemake(*(f"{FOLDER}/{seed}/method.json" for seed in METHOD["seeds"]), *SEARCHED)
    return checkout.path / FOLDER


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed between the first and the last of its four candidates, and went on."""
    checkout = new_checkout(tmp_path_factory.mktemp("killed"))
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *SEARCHED]
    with open(checkout.path / "killed.log", "w") as log:
        run = subprocess.Popen(command, cwd=checkout.path, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 600
    while not finished_candidates((checkout.path / "killed.log").read_text()):
        assert run.poll() is None, (checkout.path / "killed.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    checkout.snakemake(*SEARCHED, "--unlock")
    done = checkout.snakemake(*SEARCHED).stdout
    return checkout.path / FOLDER, (checkout.path / "killed.log").read_text(), done


def test_the_candidate_that_scores_best_on_the_validation_conditions_is_taken(uninterrupted):
    table = read_table(uninterrupted / "search.tsv")
    assert len(table) == 4
    assert (table["seconds"] > 0).all()
    best = table.loc[table["pearson_delta"].idxmax()]
    assert best["chosen"] == "yes"
    assert (table["chosen"] == "yes").sum() == 1
    chosen = read_json(uninterrupted / "chosen_recipe.json", "a choice")["options"]
    assert chosen == {key: best[key] for key in SEARCH}


def test_the_winner_is_the_model_of_the_first_seed_and_its_recipe_that_of_the_others(uninterrupted):
    chosen = read_json(uninterrupted / "chosen_recipe.json", "a choice")
    candidate = uninterrupted / "0" / "search" / chosen["candidate"] / "model.pt"
    assert (uninterrupted / "0" / "model" / "model.pt").read_bytes() == candidate.read_bytes()
    for seed in ("0", "1"):
        record = read_record(uninterrupted / seed / "method.json")
        assert record.seed == int(seed)
        for options in (record.options, record.finetuning.options):
            assert chosen["options"] == {key: options[key] for key in SEARCH}


def test_after_a_kill_the_same_candidate_wins_and_no_finished_one_is_trained_again(uninterrupted, killed):
    folder, before, after = killed
    assert read_json(folder / "chosen_recipe.json", "") == read_json(uninterrupted / "chosen_recipe.json", "")
    scores = [read_table(place / "search.tsv").drop(columns="seconds") for place in (folder, uninterrupted)]
    assert scores[0].equals(scores[1])
    finished = finished_candidates(before)
    assert 0 < len(finished) < 4
    assert finished.isdisjoint(finished_candidates(after))
    for model in uninterrupted.glob("0/search/*/model.pt"):
        assert (folder / model.relative_to(uninterrupted)).read_bytes() == model.read_bytes()
