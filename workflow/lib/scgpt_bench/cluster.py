"""What a run on Slurm needs of the cluster, checked before the first job is submitted.

Without these checks a run without accounting waits for ever, and one without a GPU partition waits in the queue.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scgpt_bench.errors import InputError

PROFILE = "profiles/slurm/config.yaml"
REMEMBERED = 240  # seconds: the executor asks every 180 s at most, and a question takes time


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
    elif (age := _seconds_remembered()) is not None and age < REMEMBERED:
        found = f"squeue, and Slurm forgets a job {age} s after its end (MinJobAge of slurm.conf)"
        expected = f"{REMEMBERED} s or more, since Snakemake asks every 180 s at last; or sacct"
        raise InputError(PROFILE, "slurm-status-command", found, expected)
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


def asks_for_gpus(resources: Mapping[str, Any]) -> bool:
    """Say whether a job asks for GPUs, by ``gpu`` or by ``gres``."""
    return bool(resources.get("gpu")) or "gpu" in str(resources.get("gres", ""))


def partition_of(job: Any, path: str | Path | None) -> str | None:
    """Choose the partition of a job of Snakemake as the executor will, by a file for ``slurm-partition-config``.

    The executor has read the file before, and refused what is wrong with it. None without a file.

    Raises
    ------
    InputError
        If no partition fits: the executor would warn and take the default one, which may have no GPU.
    """
    if path is None:
        return None
    from snakemake_executor_plugin_slurm import partitions

    quiet = logging.Logger("quiet", logging.CRITICAL)
    chosen = partitions.get_best_partition(partitions.read_partition_file(Path(path)), job, quiet)
    if chosen is None:
        asked = {key: job.resources.get(key) for key in ("gpu", "gres", "mem_mb", "runtime")}
        needs = ", ".join(f"{key} {value}" for key, value in [*asked.items(), ("threads", job.threads)] if value)
        expected = f"one for a job of {job.rule.name} with {needs}; set-resources in {PROFILE} changes what it asks for"
        raise InputError(str(path), "partitions", "none that fits", expected)
    return chosen


def _seconds_remembered() -> int | None:
    """Return ``MinJobAge`` of ``slurm.conf``; None where Slurm does not say."""
    answer, _ = _ask("scontrol", "show", "config")
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", answer, re.MULTILINE)
    return int(found[1]) if found else None


def gpus_of_partitions() -> dict[str, bool]:
    """Return whether each partition has a node with GPUs; the name of the default one ends in ``*``."""
    answer, problem = _ask("sinfo", "--all", "--noheader", "--format=%P %G")
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
