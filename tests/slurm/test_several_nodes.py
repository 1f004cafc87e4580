"""A training on two nodes with two GPUs each: processes on each, which compute together what one process computes."""

import json

import pytest
import yaml

import tiny
from one_machine_slurm import wait_for

METHOD = next(name for name, options in tiny.STUDY["methods"].items() if "epochs" in options)
REPORT = f"results/nodes/planted/fold0/{METHOD}/0/model/report.json"


@pytest.fixture
def second_node(site):
    site.cluster.serve("slurmd", "-D", "-N", "second")
    wait_for(lambda: site.cluster.run("sinfo", "-h", "-n", "second", "-o", "%t").stdout.strip() == "idle", "a node")
    yield
    site.cluster.crash("slurmd")
    site.cluster.run("scontrol", "update", "NodeName=second", "State=DOWN", "Reason=stopped", check=True)


def test_a_training_runs_on_two_nodes(site, second_node):
    hardware = {**tiny.STUDY["hardware"], "gpu": 2, "nodes": 2}
    site.checkout.write("nodes.yaml", yaml.safe_dump({**tiny.STUDY, "study": "nodes", "hardware": hardware}))
    others = len(site.cluster.jobs())
    site.snakemake(REPORT, "--configfile", "nodes.yaml")
    report = json.loads((site.checkout.path / REPORT).read_text())
    assert report["processes"] == 2  # of CPUs: CUDA finds no GPU here
    trainings = [job for job in site.cluster.jobs()[others:] if job["Comment"].startswith("rule_finetune")]
    assert [job["AllocNodes"] for job in trainings] == ["2"]
