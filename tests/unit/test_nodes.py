"""A script of a training runs once on each node, and its processes find each other; Slurm is a stand-in here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scgpt_bench import nodes
from scgpt_bench.errors import InputError

# Starts a command once for each task, beside each other, as srun does with one task per node.
SRUN = """#!/bin/sh
echo "$@" > "$(dirname "$0")/asked"
while [ "${1#--}" != "$1" ]; do case "$1" in --ntasks=*) tasks=${1#*=};; esac; shift; done
status=0; children=
for node in $(seq 0 $((tasks - 1))); do SLURM_NODEID=$node "$@" & children="$children $!"; done
for child in $children; do wait "$child" || status=$?; done
exit $status
"""
SUM_OF_RANKS = """
import sys
import torch
from scgpt_bench import nodes
from scgpt_bench.scgpt import training
nodes.run_on_each_node(2, 3)
fabric = training.Machine("cpu", nodes=2).fabric()
total = fabric.all_reduce(torch.tensor(fabric.global_rank + 1), reduce_op="sum")
print(fabric.node_rank, fabric.world_size, int(total), sys.argv[1:], flush=True)
sys.exit(5 if fabric.node_rank and "fail" in sys.argv else 0)
"""


@pytest.mark.parametrize(("argument", "status"), [("a b", 0), ("fail", 5)])
def test_a_script_runs_once_on_each_node_and_the_processes_find_each_other(tmp_path, argument, status):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "script.py").write_text(SUM_OF_RANKS)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2] / "workflow" / "lib"),
        "SLURM_JOB_ID": "7",
        "NODE_RANK": "0",  # of a cluster that sets it in every job
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(tmp_path / "script.py"), argument]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=600)
    assert done.returncode == status
    lines = [line for line in done.stdout.splitlines() if line.endswith(f"{[argument]}")]
    assert sorted(lines) == [f"{node} 2 3 {[argument]}" for node in (0, 1)]
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=3" in (tmp_path / "asked").read_text()


def test_several_nodes_outside_slurm_are_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    nodes.run_on_each_node(1, 1)
    with pytest.raises(InputError, match=r"hardware\.nodes: found 2, not in a job of Slurm; expected 1 on one machine"):
        nodes.run_on_each_node(2, 1)
