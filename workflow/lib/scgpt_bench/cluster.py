"""What a run on Slurm needs of the cluster, checked before the first job is submitted.

Without these checks a run without accounting waits for ever, and one without a GPU partition waits in the queue.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from scgpt_bench.errors import InputError

PROFILE = "profiles/slurm/config.yaml"


def check(status_command: str | None, gpu_rules: Mapping[str, str | None]) -> None:
    """Check that Slurm answers, that the state of jobs can be asked for, and that GPU jobs can start.

    Parameters
    ----------
    status_command
        How the executor asks for the state of jobs: ``sacct`` or ``squeue``.
    gpu_rules
        The partition that the profile names for each rule of the run that asks for a GPU; several, joined by commas, of
        which Slurm takes one; None for the default one.

    Raises
    ------
    InputError
        Naming what is missing, and the key of the profile that says otherwise.
    """
    partitions = gpus_of_partitions()
    if status_command != "squeue":
        _, problem = _ask("sacct", "--noheader", "--allocations", "--starttime=now")
        if problem:
            expected = "accounting, or slurm-status-command: squeue"
            raise InputError(PROFILE, "slurm-status-command", f"sacct, which answers {problem!r}", expected)
    default = next((name for name in partitions if name.endswith("*")), None)
    has_gpus = {name.rstrip("*"): gpus for name, gpus in partitions.items()}
    with_gpus = sorted(name for name, gpus in has_gpus.items() if gpus)
    for rule, partition in gpu_rules.items():
        asked = (partition or default or "").rstrip("*").split(",")
        unknown = [name for name in asked if name not in has_gpus]
        if not unknown and any(has_gpus[name] for name in asked):
            continue
        found = repr(partition) if partition else f"no partition, and Slurm's default is {default!r}"
        if not unknown:
            found += ", which has no GPU"
        elif partition:
            found = f"{unknown[0]!r}, which does not exist"
        choice = f"a partition with GPUs ({', '.join(with_gpus)})" if with_gpus else "a cluster with GPUs"
        raise InputError(
            PROFILE,
            f"set-resources.{rule}.slurm_partition",
            found,
            f"{choice}; or hardware.gpu: 0 in the configuration",
        )


def partitions_with_gpus(path: str | Path | None, gpus: int) -> str | None:
    """List the partitions of a file for ``slurm-partition-config`` that have so many GPUs, joined by commas.

    The executor has read the file before, and refused what is wrong with it; None without a file, or without such a
    partition.
    """
    if path is None:
        return None
    partitions = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["partitions"]
    return ",".join(name for name, limits in partitions.items() if limits.get("max_gpu", 0) >= gpus) or None


def gpus_of_partitions() -> dict[str, bool]:
    """Return whether each partition has a node with GPUs; the name of the default one ends in ``*``."""
    answer, problem = _ask("sinfo", "--noheader", "--format=%P %G")
    if problem:
        expected = "a login node of a Slurm cluster; on one machine: --profile profiles/local"
        raise InputError(PROFILE, "executor", f"no Slurm: {problem}", expected)
    partitions: dict[str, bool] = {}
    for line in answer.splitlines():
        name, _, resources = line.partition(" ")
        partitions[name] = partitions.get(name, False) or resources.strip().startswith("gpu") or ",gpu" in resources
    return partitions


def _ask(*command: str) -> tuple[str, str]:
    """Output of a command, and in one line why there is none."""
    if shutil.which(command[0]) is None:
        return "", f"no command {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
    return done.stdout, said if done.returncode else ""
