"""Every rule, by the literal `snakemake --profile slurm`: a real Slurm, no network, each rule in its own environment."""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow

GPU_RULES = {"pretrain", "finetune", "predict_scgpt", "predict_by_script"}
ON_THE_HEAD_NODE = {"all", "copy_checkpoint", "report_of_run"}
DOWNLOADS = {"fetch_dataset", "fetch_checkpoint", "pretrain_census", "prefetch"}  # see test_prefetch.py
GROUPED = {"baselines", "evaluation", "figures"}
TABLES = ("*/*/*/*/metrics.tsv", "*/*/*/*/official_*.tsv", "*/*/*/*/stress.tsv", "*.tsv")


def rule_of(job):
    """The rule of a job, or the group of several."""
    return re.match(r"rule_(.*?)(_wildcards_|$)", job["Comment"])[1]


def test_every_job_completes(on_slurm):
    assert {job["State"] for job in on_slurm.jobs} == {"COMPLETED"}


def test_every_rule_has_run(site, on_slurm):
    listed = site.snakemake("--list-rules").stdout
    rules = set(re.findall(r"^(\w+)$", listed, re.MULTILINE)) - DOWNLOADS - {"results", "vcc_submission"}
    ran = {path.name for path in (on_slurm.path / "results" / "benchmarks").iterdir()}
    ran |= {path.stem for path in (on_slurm.path / "results" / "benchmarks").glob("*.tsv")}
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
    assert not {"predict_baseline", "evaluate", "table_page", *ON_THE_HEAD_NODE} & set(rules)


def test_tables_are_those_of_the_run_on_this_machine(on_slurm, on_this_machine):
    compared = 0
    for pattern in TABLES:
        for path in sorted((on_this_machine.path / "results").glob(pattern)):
            relative = path.relative_to(on_this_machine.path)
            assert (on_slurm.path / relative).read_bytes() == path.read_bytes(), relative
            compared += 1
    assert compared > 12


def test_logs_of_rules_and_of_slurm_are_kept(on_slurm):
    assert (on_slurm.path / "logs" / "finetune" / "planted.fold0.scgpt-finetuned.0.log").is_file()
    kept = {path.stem for path in (on_slurm.path / "logs" / "slurm").rglob("*.log")}
    assert kept == {job["JobIDRaw"] for job in on_slurm.jobs}


def test_the_same_command_again_has_nothing_to_do(site, on_slurm):
    assert "Nothing to be done" in site.snakemake("--configfile", "tests/slurm/every_rule.yaml").stdout


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


def test_what_slurm_costs(on_slurm, on_this_machine, capsys):
    """Reported, not judged: the machine may be busy with other things."""
    ratio = on_slurm.seconds / on_this_machine.seconds
    with capsys.disabled():
        print(
            f"\n{on_slurm.seconds:.0f} s on Slurm, {on_this_machine.seconds:.0f} s without: {ratio:.2f} times as long"
        )
    assert ratio > 0
