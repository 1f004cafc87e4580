"""A training on several nodes of a Slurm cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from scgpt_bench.errors import InputError

STARTED = "SCGPT_BENCH_STARTED"  # a variable of its own: a cluster may set NODE_RANK in every job


def run_on_each_node(nodes: int, threads: int) -> None:
    """Run this script once on each node of its Slurm job, and end with the status of these runs.

    Returns at once with one node, and in the runs themselves, which find the variable ``STARTED``. They also find
    ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``, by which Lightning Fabric joins their processes. The job's own
    process is on the first node.

    Parameters
    ----------
    threads
        Cores of each node.

    Raises
    ------
    InputError
        For several nodes outside a job of Slurm.
    """
    if nodes == 1 or STARTED in os.environ:
        return
    if "SLURM_JOB_ID" not in os.environ:
        raise InputError("configuration", "hardware.nodes", f"{nodes}, not in a job of Slurm", "1 on one machine")
    with socket.socket() as free:
        free.bind(("", 0))
        own = {STARTED: "1", "MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(free.getsockname()[1])}
    each = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={threads}"]
    numbered = ["sh", "-c", 'NODE_RANK=$SLURM_NODEID exec "$@"', "sh", sys.executable, *sys.argv]
    done = subprocess.run(["srun", *each, "--kill-on-bad-exit=1", *numbered], env=os.environ | own, check=False)
    raise SystemExit(done.returncode)
