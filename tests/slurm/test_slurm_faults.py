"""The smallest run on a Slurm with a controller away, a dead node or a preempted job: the same metrics in the end."""

import os
import re
import signal
import time

import pytest

import tiny
from one_machine_slurm import wait_for, wait_for_answer
from snakemake_checkout import Checkout, copy_of_checkout

pytestmark = pytest.mark.long
AWAY = 120  # seconds
METHODS = ("train-mean", "scgpt-finetuned")
ARGUMENTS = [*(f"results/tiny/planted/fold0/{name}/0/metrics.tsv" for name in METHODS), "--configfile", "tiny.yaml"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("local"))
    tiny.write(checkout)
    checkout.snakemake(*ARGUMENTS)
    tables = tiny.tables(checkout.path)
    assert len(tables) == len(METHODS)
    return tables


@pytest.fixture
def begun(site, request):
    """The smallest run, with further options, until its first jobs have ended. Afterwards, the site as it was."""
    checkout = site.checkout
    tiny.write(Checkout(checkout.path))
    process = site.start(*ARGUMENTS, *getattr(request, "param", []))
    wait_for(
        lambda: any((checkout.path / "results" / "tiny").glob("planted/cells.h5ad")) or process.poll() is not None,
        "the first jobs",
        seconds=300,
    )
    assert process.poll() is None, said_by(site)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    site.cluster.run("scancel", "--user=root")
    wait_for(lambda: not site.cluster.run("squeue", "-h").stdout.strip(), "the end of all jobs", seconds=120)
    site.cluster.run("scontrol", "update", "NodeName=node", "State=RESUME")  # refused where nothing is wrong with it
    site.snakemake(*ARGUMENTS, "--unlock")  # of a run that was killed above
    site.cluster.run("rm", "-r", checkout.path / "results" / "tiny", check=True)


def said_by(site) -> str:
    return (site.checkout.path / "started.log").read_text()


def state_is_saved(cluster) -> bool:
    """Whether the controller has saved its state since it last logged that a job came, started or ended.

    Up to 5 s pass between the two (SAVE_MAX_WAIT in its source). A controller that is killed then starts a running job
    again, finds that the node has it already, holds the job and drains the node: an administrator must help.
    """
    saved, logged = cluster.folder / "slurmctld" / "job_state", cluster.folder / "slurmctld.log"
    return saved.stat().st_mtime > logged.stat().st_mtime


def ends_with_the_same_tables(site, process, expected):
    """Wait for the run; where it gave up, it names the jobs that failed, and the same command goes on."""
    status = process.wait(900)
    said = said_by(site)
    print(f"exit status {status} at first")  # profiles/README.md says what to expect
    assert "Traceback" not in said
    if status:
        assert re.search(r"^Error in rule \w+|Error submitting|sbatch", said, re.MULTILINE), said[-4000:]
        site.snakemake(*ARGUMENTS)
    found = tiny.tables(site.checkout.path)
    assert {name: checksum for name, checksum in found.items() if name.startswith("results/tiny/")} == expected


def test_a_controller_that_is_away_for_two_minutes_costs_no_result(site, begun, expected):
    wait_for(lambda: state_is_saved(site.cluster), "the controller's saved state", seconds=60)
    command = site.cluster.crash("slurmctld")
    time.sleep(AWAY)
    site.cluster.serve(*command)
    wait_for_answer(site.cluster, "scontrol", "ping")
    ends_with_the_same_tables(site, begun, expected)


def test_accounting_that_is_away_for_two_minutes_costs_no_result(site, begun, expected):
    """Snakemake asks it for the state of jobs."""
    command = site.cluster.crash("slurmdbd")
    refused = site.cluster.run("sacct", "--noheader")
    assert refused.returncode, refused.stdout
    time.sleep(AWAY)
    site.cluster.serve(*command)
    ends_with_the_same_tables(site, begun, expected)
    assert begun.returncode == 0, said_by(site)[-4000:]


def test_a_node_that_dies_costs_no_result(site, begun, expected):
    wait_for(lambda: "RUNNING" in {job["State"] for job in site.cluster.jobs()}, "a job", seconds=120)
    command = site.cluster.crash("slurmd")
    for job in site.cluster.jobs():
        if job["State"] == "RUNNING":
            kill_all_of(job["JobIDRaw"])
    site.cluster.run("scontrol", "update", "NodeName=node", "State=DOWN", "Reason=died", check=True)
    time.sleep(10)
    assert any(job["State"].startswith(("NODE_FAIL", "REQUEUED", "PENDING")) for job in site.cluster.jobs())
    site.cluster.serve(*command)
    site.cluster.run("scontrol", "update", "NodeName=node", "State=RESUME")
    wait_for(lambda: re.search("idle|mix|alloc", site.cluster.run("sinfo", "-h", "-o", "%t").stdout), "the node")
    ends_with_the_same_tables(site, begun, expected)


@pytest.mark.parametrize("begun", [["--slurm-requeue"]], indirect=True)
def test_a_job_that_is_preempted_costs_no_result(site, begun, expected):
    """As a preemption does, the job is ended and given back to the queue; Snakemake waits for it."""

    def running() -> list[str]:
        return [job["JobIDRaw"] for job in site.cluster.jobs() if job["State"] == "RUNNING"]

    wait_for(running, "a job", seconds=120)
    (preempted, *_) = running()
    site.cluster.run("scontrol", "requeue", preempted, check=True)
    ends_with_the_same_tables(site, begun, expected)
    assert begun.returncode == 0, said_by(site)[-4000:]
    states = [job["State"] for job in site.cluster.jobs() if job["JobIDRaw"] == preempted]
    assert states == ["REQUEUED", "COMPLETED"]


def kill_all_of(job_id: str) -> None:
    """Kill every process of a Slurm job, with the daemon that watches over it."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
            if f"SLURM_JOB_ID={job_id}".encode() in variables or f"slurmstepd: [{job_id}.".encode() in command:
                os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue
