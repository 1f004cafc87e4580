"""A run on Slurm is refused before it waits for what the cluster does not have."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scgpt_bench import cluster
from scgpt_bench.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "profiles" / "slurm" / "partitions.yaml"
SINFO = "cpu* (null)\ncpu* (null)\ngpu gpu:a100:4(S:0-1)\nmixed (null)\nmixed craynetwork:4,gpu:2\n"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Write commands that answer as Slurm does; nothing else is on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name, answer="", problem=""):
        path = tmp_path / name
        lines = [f"echo '{line}'" for line in answer.splitlines()]
        path.write_text("\n".join(["#!/bin/sh", *lines, f"echo '{problem}' >&2; exit 1" if problem else ""]))
        path.chmod(0o755)

    return write


def refused(status_command="sacct", **gpu_rules):
    with pytest.raises(InputError) as error:
        cluster.check(status_command, gpu_rules)
    return str(error.value)


def test_a_complete_cluster_passes(commands):
    commands("sinfo", SINFO)
    commands("sacct")
    cluster.check("sacct", {"finetune": "gpu", "pretrain": "mixed", "predict_scgpt": "cpu,gpu"})


def test_no_slurm_on_this_machine(commands):
    line = refused()
    assert "profiles/slurm/config.yaml: executor: found no Slurm: no command sinfo" in line
    assert "--profile profiles/local" in line


def test_slurm_that_does_not_answer(commands):
    commands("sinfo", problem="slurm_load_partitions: Unable to contact slurm controller (connect failure)")
    assert "Unable to contact slurm controller" in refused()


def test_no_accounting(commands):
    commands("sinfo", SINFO)
    commands("sacct", problem="Slurm accounting storage is disabled")
    line = refused()
    assert "slurm-status-command: found sacct, which answers 'Slurm accounting storage is disabled'" in line
    assert "expected accounting, or slurm-status-command: squeue" in line
    cluster.check("squeue", {})


def test_gpu_jobs_in_a_default_partition_without_gpus(commands):
    commands("sinfo", SINFO)
    commands("sacct")
    line = refused(finetune=None)
    assert "set-resources.finetune.slurm_partition: found no partition" in line
    assert "'cpu*', which has no GPU" in line
    assert "(gpu, mixed)" in line


@pytest.mark.parametrize(
    ("partition", "named", "fault"),
    [("cpu", "cpu", "has no GPU"), ("a100", "a100", "does not exist"), ("gpu,a100", "a100", "does not exist")],
)
def test_gpu_jobs_in_a_partition_that_cannot_run_them(commands, partition, named, fault):
    commands("sinfo", SINFO)
    commands("sacct")
    assert f"found {named!r}, which {fault}; expected a partition with GPUs" in refused(finetune=partition)


def test_a_cluster_without_gpus(commands):
    commands("sinfo", "cpu* (null)\n")
    commands("sacct")
    line = refused(finetune=None)
    assert "expected a cluster with GPUs; or hardware.gpu: 0 in the configuration" in line


@pytest.mark.parametrize(("age", "problem"), [(60, True), (300, False), (None, False)])
def test_slurm_that_forgets_finished_jobs_too_soon_for_squeue(commands, age, problem):
    commands("sinfo", SINFO)
    commands("sacct", problem="Slurm accounting storage is disabled")
    commands("scontrol", "" if age is None else f"MaxStepCount = 40000\nMinJobAge               = {age} sec\n")
    if problem:
        assert "found squeue, and Slurm forgets a job 60 s after its end" in refused("squeue")
    else:
        cluster.check("squeue", {})


def job(**resources):
    return SimpleNamespace(
        name="finetune", rule=SimpleNamespace(name="finetune"), threads=8, resources={"mem_mb": 9000, **resources}
    )


@pytest.mark.parametrize("asked", [{"gpu": 4}, {"gres": "gpu:4"}, {"gpu": 0, "gres": "gpu:a100:2"}])
def test_the_partition_of_a_job_is_the_one_that_the_executor_takes(asked):
    """The example of the profile is read as the executor reads it."""
    assert cluster.asks_for_gpus(asked)
    assert cluster.partition_of(job(**asked, runtime=4320), EXAMPLE) == "gpu"
    assert cluster.partition_of(job(**asked), None) is None


@pytest.mark.parametrize("asked", [{"gpu": 5}, {"gpu": 1, "runtime": 9700}, {"gpu": 1, "mem_mb": 300_000}])
def test_a_gpu_job_that_fits_no_partition_is_refused(asked):
    with pytest.raises(InputError, match=r"partitions\.yaml: partitions: found none that fits; expected one for a job"):
        cluster.partition_of(job(**asked), EXAMPLE)


def test_jobs_without_a_gpu_are_not_checked():
    assert not cluster.asks_for_gpus({"gpu": 0, "mem_mb": 5})
