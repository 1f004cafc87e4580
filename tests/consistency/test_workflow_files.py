"""Rules, scripts, environments, captions, schema and documents agree with each other."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.iocontainers import ResourceList
from snakemake_executor_plugin_slurm.submit_string import get_submit_command

import needs
from scgpt_bench.configuration import read_schema

ROOT = Path(__file__).parents[2]
RULES = {
    name: text
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
    for name, text in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), re.MULTILINE)
}


def test_a_test_is_skipped_for_want_of_a_gpu_alone_where_all_must_run():
    """All other skips go through ``needs.missing``, which fails where SCGPT_BENCH_MUST_RUN is set, as CI does."""
    assert "export SCGPT_BENCH_MUST_RUN=1" in (ROOT / ".ci" / "run").read_text()
    here = {Path(__file__).name, "needs.py"}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        marks = re.findall(r"(?:skipif|xfail|importorskip|pytest\.skip)\b.*\n?.*", path.read_text())
        if path.name not in here:
            assert all("torch.cuda.is_available()" in mark for mark in marks), (path, marks)


def test_a_test_that_must_run_fails_instead_of_being_skipped(monkeypatch):
    monkeypatch.delenv(needs.MUST_RUN, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        needs.missing("no browser")
    monkeypatch.setenv(needs.MUST_RUN, "1")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        needs.missing("no browser")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_states_what_it_needs(rule):
    for directive in ("output", "log", "benchmark", "conda", "threads", "resources"):
        assert f"    {directive}:" in RULES[rule], f"rule {rule} has no {directive}"
    for resource in ("mem_mb=memory(", "runtime="):
        assert resource in RULES[rule], f"rule {rule} has no {resource}"


def test_only_a_job_that_resumes_keeps_its_time_limit_when_it_is_tried_again():
    constant = {rule for rule in RULES if "runtime=minutes(" not in RULES[rule]}
    assert constant == {"finetune", "pretrain", "pretrain_census"}


@pytest.mark.parametrize("gpus", [0, 1, 4])
@pytest.mark.parametrize("rule", [rule for rule in RULES if " gpu=" in RULES[rule]])
def test_a_job_on_slurm_is_one_task_on_one_node_whatever_gpus_it_has(rule, gpus):
    written = re.findall(r"^ +(nodes|tasks_per_gpu)=(\d+),", RULES[rule], re.MULTILINE)
    resources = ResourceList(fromdict={"gpu": gpus, **{name: int(value) for name, value in written}})
    others = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    command = get_submit_command(SimpleNamespace(threads=4, resources=resources), dict.fromkeys(others, ""))
    assert " --nodes=1 " in command
    assert ("--ntasks=1" in command) == (gpus == 0)  # Slurm's own default is one task on each node
    assert "--ntasks-per-gpu" not in command


def test_what_reads_a_users_file_does_not_fail_with_others_on_slurm():
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    readers = {rule for rule in RULES if "content=content_of_" in RULES[rule]}
    assert readers & set(profile["groups"]) == {"split"}  # with its controls, which need it


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    """The rules that Snakemake knows of a run that uses them all."""
    folder = tmp_path_factory.mktemp("run")
    demo = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump(demo | {"inference": {"shards": 2}}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "workflow" / "Snakefile", "--list-rules"]
    command += ["--configfile", "study.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_rules_read_here_are_those_of_snakemake(rules):
    assert rules - {"all", "results", "prefetch"} == set(RULES)


def test_the_slurm_profile_groups_rules_that_exist_and_are_submitted(rules):
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    assert set(profile["groups"]) <= rules
    assert not [rule for rule in profile["groups"] if "    localrule: True" in RULES[rule]]
    components = dict(entry.split("=") for entry in profile["group-components"])
    assert set(components) <= set(profile["groups"].values())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs_one_script_whose_code_it_follows(rule):
    scripts = re.findall(r'"\.\./scripts/(\w+\.py)"', RULES[rule])
    if not scripts:
        assert "    shell:" in RULES[rule]
        return
    assert len(scripts) == 1
    assert f'code=code("{scripts[0]}")' in RULES[rule]


def test_every_script_environment_and_caption_is_used():
    text = "".join(path.read_text() for path in (ROOT / "workflow").rglob("*.smk"))
    text += (ROOT / "workflow" / "Snakefile").read_text()
    for folder, pattern in (("workflow/scripts", "*.py"), ("envs", "*.yaml"), ("workflow/report", "*.rst")):
        unused = [path.name for path in (ROOT / folder).glob(pattern) if path.name not in text]
        assert not unused, f"{folder}: {unused}"


def conda_and_pip(dependencies):
    for entry in dependencies:
        yield from entry["pip"] if isinstance(entry, dict) else [entry]


def test_environments_pin_what_the_lock_pins():
    lock = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "requirements.lock").read_text().lower(), re.MULTILINE))
    same = {"matplotlib-base": "matplotlib", "snakemake-minimal": "snakemake"}
    for path in sorted((ROOT / "envs").glob("*.yaml")):
        for entry in conda_and_pip(yaml.safe_load(path.read_text())["dependencies"]):
            name, _, version = entry.replace("==", "=").partition("=")
            # conda-forge has no GPU build of the newest pytorch with flash-attn: envs/scgpt.yaml says so.
            if version and name not in ("python", "pytorch", "pytorch-cpu", "flash-attn", "cellxgene-census", "zstd"):
                assert lock[same.get(name, name)] == version, f"{path.name}: {entry}"


def test_the_tables_of_the_configuration_document_are_those_of_the_schema():
    command = [sys.executable, "docs/write_configuration_tables.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("part", ["", "$defs"])
def test_every_schema_property_has_a_description(part):
    def undescribed(schema, path):
        for key, value in schema.items() if isinstance(schema, dict) else ():
            if key == "properties":
                for name, entry in value.items():
                    if "description" not in entry and "const" not in entry and "$ref" not in entry:
                        yield f"{path}.{name}"
            yield from undescribed(value, f"{path}.{key}")

    schema = read_schema()
    assert not list(undescribed(schema[part] if part else schema, part))
