"""The demo by the literal `snakemake --profile slurm`: a real Slurm, no network, each rule in its own environment."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from one_machine_slurm import wait_for

GPU_RULES = {"pretrain", "finetune", "finetune_candidate", "predict_scgpt", "predict_by_script"}
ON_THE_HEAD_NODE = {"all", "copy_checkpoint", "figure_cost", "link_prediction", "report_of_run"}
DOWNLOADS = {
    "fetch_dataset",
    "fetch_checkpoint",
    "fetch_vectors",
    "pretrain_census",
    "prefetch",
}  # see test_prefetch.py
DROPS = {"drop_comparison"}  # see tests/workflow/test_drops.py
CURVES = {"learning_curves", "figure_learning_curves"}  # see tests/workflow/test_learning_curves.py
CONTEXTS = {"transfer", "figure_contexts"}  # see tests/workflow/test_held_out_contexts.py
JOINED = {"harmonize_part", "join"}  # see tests/workflow/test_joined.py
GEARS = {"predict_gears"}  # needs an environment of its own: see tests/unit/test_gears.py
GROUPED = {"samples", "baselines", "evaluation", "tables", "figures"}
LARGEST = 8000  # megabytes that any of their jobs asks for
LONG_TRAINING = "tests/slurm/long_training.yaml"
EPOCHS = 25  # of a fine-tuning that is still running when something happens to it
TABLES = ("*/*/*/*/*/metrics.tsv", "*/*/*/*/*/metric_robustness.tsv", "*/*.tsv")
TIMES = "cost.tsv"  # the one table that holds times
ONCE = ("scgpt-finetuned", "scgpt-scratch")  # as tests/slurm/one_seed.yaml says


def rule_of(job):
    """The rule of a job of Snakemake's, or the name of a group."""
    found = re.match(r"rule_(.*?)(_wildcards_|$)", job["Comment"])
    name = found[1] if found else ""
    return next((group for group in GROUPED if name.startswith(f"{group}_")), name)


def test_every_job_completes(on_slurm):
    assert {job["State"] for job in on_slurm.jobs} == {"COMPLETED"}


def test_every_rule_has_run(site, on_slurm):
    listed = site.snakemake("--list-rules", *site.beside).stdout
    rules = set(re.findall(r"^(\w+)$", listed, re.MULTILINE)) - DOWNLOADS - DROPS - CURVES - CONTEXTS - JOINED - GEARS
    ran = {path.name for path in (on_slurm.path / "results" / "demo" / "benchmarks").iterdir()}
    ran |= {path.stem for path in (on_slurm.path / "results" / "demo" / "benchmarks").glob("*.tsv")}
    assert rules - {"all"} == {path.removesuffix(".tsv") for path in ran} - GROUPED


def test_gpu_jobs_get_one_gpu_in_the_gpu_partition_and_others_none(on_slurm):
    with_gpu = {rule_of(job) for job in on_slurm.jobs if job["Partition"] == "gpu"}
    assert with_gpu == GPU_RULES
    for job in on_slurm.jobs:
        gpus = re.findall(r"gres/gpu=(\d+)", job["AllocTRES"])
        assert gpus == (["1"] if rule_of(job) in GPU_RULES else []), job


def test_small_jobs_go_together_and_downloads_stay_on_the_head_node(on_slurm):
    rules = [rule_of(job) for job in on_slurm.jobs]
    assert set(rules) >= GROUPED
    profile = yaml.safe_load((on_slurm.path / "profiles" / "slurm" / "config.yaml").read_text())
    assert not {*profile["groups"], *ON_THE_HEAD_NODE} & set(rules)
    for job in on_slurm.jobs:  # one after the other: with the cores and the memory of one
        if rule_of(job) in GROUPED:
            assert "cpu=1" in job["ReqTRES"].split(","), job
            assert int(re.search(r"mem=(\d+)M", job["ReqTRES"])[1]) <= LARGEST, job


def test_tables_are_those_of_the_run_on_this_machine(on_slurm, on_this_machine):
    trained_once = {f"{method}/{seed}" for method in ONCE for seed in (1, 2)}
    compared = 0
    for pattern in TABLES:
        for path in sorted((on_this_machine / "results").glob(pattern)):
            if path.name == TIMES or "/".join(path.parts[-3:-1]) in trained_once:
                continue
            relative = path.relative_to(on_this_machine)
            assert (on_slurm.path / relative).read_bytes() == path.read_bytes(), relative
            compared += 1
    assert compared > 25


def test_logs_of_rules_and_of_slurm_are_kept(on_slurm):
    assert (on_slurm.path / "results" / "demo" / "logs" / "finetune" / "planted.fold0.scgpt-finetuned.0.log").is_file()
    kept = {path.stem for path in (on_slurm.path / "logs" / "slurm").rglob("*.log")}
    assert kept == {job["JobIDRaw"] for job in on_slurm.jobs}


def test_the_same_command_again_has_nothing_to_do(site, on_slurm):
    assert "Nothing to be done" in site.snakemake(*site.demo).stdout


def test_jobs_have_no_network(site):
    connect = "import socket; socket.create_connection(('192.0.2.7', 443), timeout=5)"
    done = site.cluster.run("srun", sys.executable, "-c", connect)
    assert done.returncode != 0
    assert "Network is unreachable" in done.stdout


def test_an_environment_holds_what_it_declares_and_nothing_of_snakemakes_own(site):
    (python,) = (
        path.with_suffix("") / "bin" / "python"
        for path in (site.checkout.path / ".snakemake" / "conda").glob("*.yaml")
        if "pooch" in path.read_text() and "torch" not in path.read_text()
    )
    host = next(path for path in sys.path if path.endswith("site-packages"))

    def imports(line):
        code = f"import sys; sys.path.append({host!r}); {line}"
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)

    assert imports("import pooch, anndata, snakemake.iocontainers").returncode == 0
    for line in ("import torch", "import importlib; importlib.import_module('pytest')"):
        assert "ModuleNotFoundError" in imports(line).stderr


# What goes wrong on clusters. These tests stay in this file, so that they share its Slurm, environments and results.


def with_long_training(site, name):
    """The demo and one more method, with a fine-tuning that takes a while; its configuration and its folder."""
    study = yaml.safe_load((site.checkout.path / LONG_TRAINING).read_text())
    options = {"kind": "scgpt-finetuned", "checkpoint": "small", "seeds": [0], "max_seq_len": 60, "epochs": EPOCHS}
    options["patience"] = None
    study["methods"] = {name: options}
    text = yaml.safe_dump(study, sort_keys=False)
    return [*site.demo, site.checkout.write(f"{name}.yaml", text)], f"results/demo/planted/fold0/{name}/0"


def attempts(site, rule, name):
    """The Slurm jobs of a rule for a method."""
    return [job for job in site.cluster.jobs() if rule_of(job) == rule and f"_{name}_" in job["Comment"]]


def is_training(site, name, after=0):
    """Whether another attempt at a fine-tuning, after so many, is running and has a saved state of its own."""
    jobs = attempts(site, "finetune", name)
    if len(jobs) <= after or jobs[-1]["State"] != "RUNNING":
        return False
    state = site.checkout.path / f"results/demo/planted/fold0/{name}/0/model/training_state.pt"
    started = datetime.fromisoformat(jobs[-1]["Start"]).timestamp()
    return state.exists() and state.stat().st_mtime > started


def processes(job, script):
    """The processes of a Slurm job that run a script of the workflow."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            of_job = f"SLURM_JOB_ID={job['JobIDRaw']}".encode() in variables
            if of_job and f".{script}".encode() in (folder / "cmdline").read_bytes():
                yield int(folder.name)


def stop_training(site, name):
    """Stop the running attempt at a fine-tuning (SIGSTOP); return whether it stopped with a saved state and work to do.

    A look at the accounting is slow, and the training goes on meanwhile. What counts is therefore looked at afterwards,
    when nothing moves: the processes are those of this attempt and not of the one before, which has some seconds to end
    in, and the state has not been removed by a training that was done.
    """
    if not is_training(site, name):
        return False
    stopped = list(processes(attempts(site, "finetune", name)[-1], "finetune.py"))
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    model = site.checkout.path / f"results/demo/planted/fold0/{name}/0/model"
    history = model / "history.tsv"
    epochs = len(history.read_text().splitlines()) - 1 if history.exists() else 0
    # After the last step, the time that Slurm leaves to a job that it ends may be enough to be done.
    if stopped and (model / "training_state.pt").exists() and epochs < EPOCHS - 1:
        return True
    for process in stopped:
        os.kill(process, signal.SIGCONT)
    return False


def test_a_job_over_its_memory_or_its_time_is_tried_again_with_more(site, on_slurm):
    configuration, folder = with_long_training(site, "over-limits")
    limits = ["finetune:slurm_partition=gpu", "finetune:runtime=10 * attempt"]
    limits += ["predict_scgpt:slurm_partition=gpu", "predict_scgpt:mem_mb=250 * 8 ** (attempt - 1)"]
    process = site.start(f"{folder}/predictions.h5ad", *configuration, "--set-resources", *limits)
    wait_for(lambda: stop_training(site, "over-limits"), "fine-tuning to stop", seconds=600)
    # Its time is over now, however fast or slow the machine is.
    stopped = attempts(site, "finetune", "over-limits")[-1]["JobIDRaw"]
    site.cluster.run("scontrol", "update", f"JobId={stopped}", "TimeLimit=1", check=True)
    assert process.wait(900) == 0, (site.checkout.path / "started.log").read_text()[-4000:]
    trainings = attempts(site, "finetune", "over-limits")
    assert [job["State"] for job in trainings] == ["TIMEOUT", "COMPLETED"]
    assert trainings[-1]["Timelimit"] == "00:20:00"
    log = (site.checkout.path / "results/demo/logs/finetune/planted.fold0.over-limits.0.log").read_text()
    assert "resumed at epoch" in log, log
    predictions = attempts(site, "predict_scgpt", "over-limits")
    memory = [int(re.search(r"mem=(\d+)M", job["ReqTRES"])[1]) for job in predictions]
    assert sorted(memory) == [250, 250, 2000, 2000]
    for job, megabytes in zip(predictions, memory, strict=True):
        assert (job["State"] == "COMPLETED") == (megabytes == 2000), job


def test_after_a_cancelled_job_and_a_killed_snakemake_the_same_command_goes_on(site, on_slurm):
    configuration, folder = with_long_training(site, "killed")
    command = [f"{folder}/predictions.h5ad", *configuration]
    finished = {path: path.stat().st_mtime_ns for path in (site.checkout.path / "results").rglob("*.h5ad")}
    process = site.start(*command)
    wait_for(lambda: is_training(site, "killed"), "fine-tuning", seconds=300)
    site.cluster.run("scancel", attempts(site, "finetune", "killed")[0]["JobIDRaw"], check=True)
    wait_for(lambda: is_training(site, "killed", after=1), "fine-tuning after scancel", seconds=300)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # As profiles/README.md says: no job of the dead run may write beside those of the next.
    assert "--unlock" in site.snakemake(*command, check=False).stdout
    run = re.search(r"SLURM run ID: (\S+)", (site.checkout.path / "started.log").read_text())[1]
    site.cluster.run("scancel", f"--name={run}", check=True)
    site.snakemake(*command, "--unlock")
    site.snakemake(*command)
    states = [job["State"].partition(" ")[0] for job in attempts(site, "finetune", "killed")]
    assert states == ["CANCELLED", "CANCELLED", "COMPLETED"]
    assert (
        "resumed at epoch" in (site.checkout.path / "results/demo/logs/finetune/planted.fold0.killed.0.log").read_text()
    )
    assert finished == {path: path.stat().st_mtime_ns for path in finished}


@pytest.mark.parametrize("missing", ["Slurm", "accounting", "GPU partition"])
def test_what_the_cluster_lacks_is_said_before_a_job_is_submitted(site, on_slurm, missing):
    configuration, folder = with_long_training(site, "refused")
    arguments = [f"{folder}/predictions.h5ad", *configuration]
    slurm_conf = site.cluster.folder / "etc" / "slurm.conf"
    text = slurm_conf.read_text()
    before = len(site.cluster.jobs())
    if missing == "Slurm":
        environment = {**os.environ, **site.variables}
        command = ["snakemake", "--profile", "slurm", *arguments]
        done = subprocess.run(
            command, cwd=site.checkout.path, env=environment, capture_output=True, text=True, check=False
        )
        expected = "executor: found no Slurm: "
    elif missing == "accounting":
        slurm_conf.write_text(re.sub("^Accounting.*\n", "", text, flags=re.MULTILINE))
        done = site.snakemake(*arguments, check=False)
        slurm_conf.write_text(text)
        expected = "slurm-status-command: found sacct, which answers 'Slurm accounting storage is disabled'; expected"
    else:
        done = site.snakemake(*arguments, "--set-resources", "finetune:slurm_partition=gpus", check=False)
        expected = (
            "set-resources.finetune.slurm_partition: found 'gpus', which does not exist; expected a partition with"
        )
    assert done.returncode != 0
    assert f"profiles/slurm/config.yaml: {expected}" in done.stdout + (done.stderr or "")
    assert len(site.cluster.jobs()) == before


def test_a_partition_is_chosen_by_memory_and_the_efficiency_of_jobs_is_reported(site):
    """The partition that is Slurm's default is too small here, and the job needs no GPU."""
    partitions = {"cpu": {"max_mem_mb": 100, "max_runtime": 60}, "gpu": {"max_mem_mb": 9000, "max_gpu": 2}}
    path = site.checkout.write("partitions.yaml", yaml.safe_dump({"partitions": partitions}))
    options = [
        "--slurm-partition-config",
        path,
        "--slurm-efficiency-report",
        "--slurm-efficiency-report-path",
        "shares",
    ]
    generated = "results/tiny/generated/planted/cells.h5ad"
    site.snakemake(generated, "--configfile", ".test/config/config.yaml", *options)
    job = site.cluster.jobs()[-1]
    assert (rule_of(job), job["Partition"], job["State"]) == ("generate_dataset", "gpu", "COMPLETED")
    (report,) = (site.checkout.path / "shares").glob("efficiency_report_*.csv")
    assert "rule_generate_dataset" in report.read_text()
