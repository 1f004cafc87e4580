"""The workflow from another folder, and as a module of another workflow, to the report; the library as a package."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

import stand_in_conda
import tiny
from snakemake_checkout import ROOT, copy_of_checkout

STUDY = {key: value for key, value in tiny.STUDY.items() if key != "checkpoints"}
STUDY |= {"methods": {"train-mean": {}, "ridge": {}}}
CALLER = """
configfile: "config/config.yaml"


rule everything:
    input:
        "results/tiny/report.html",


rule search_path:
    output:
        "search_path.txt",
    shell:
        "printenv PYTHONPATH > {{output}}"


module scgpt_bench:
    snakefile:
        "{clone}/workflow/Snakefile"
    config:
        config["benchmark"]{more}


use rule * from scgpt_bench as scgpt_bench_*
"""
ROW = {"name": "mine", "address": "cells/drop.h5ad", "sha256": "unknown", "format": "h5ad", "values": "counts"}
ROW |= {"target_sum": "1000", "perturbation_column": "gene", "control_label": "NT", "perturbation_kind": "knock-out"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return copy_of_checkout(tmp_path_factory.mktemp("deployed") / "clone").path


def snakemake(folder, *arguments, status=0, **environment):
    """Call Snakemake in a folder, with the profile for one machine of nobody; output is one text."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--show-failed-logs", *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == status, done.stdout[-10_000:]
    return done.stdout


def caller(folder, clone, more=""):
    """A workflow that uses the clone as a module, and has settings of its own."""
    (folder / "workflow").mkdir()
    (folder / "config").mkdir()
    (folder / "workflow" / "Snakefile").write_text(CALLER.format(clone=clone, more=more))
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump({"benchmark": STUDY, "samples": "samples.tsv"}))


def write_drop(folder):
    """Seven knock-outs of their own effects, and their row in a table of data sets."""
    random = np.random.default_rng(1)
    genes = [f"GENE{number}" for number in range(30)]
    labels = np.repeat(["NT", *genes[:7]], [120, *[40] * 7])
    means = np.full((len(labels), len(genes)), 4.0)
    for number, gene in enumerate(genes[:7]):
        means[np.ix_(labels == gene, range(number, 30, 3))] *= 2
        means[labels == gene, number] = 0.2
    cells = anndata.AnnData(
        random.poisson(means).astype(np.float32),
        obs=pd.DataFrame({"gene": labels}, index=[f"cell{number}" for number in range(len(labels))]),
        var=pd.DataFrame(index=genes),
    )
    for name in ("cells", "config"):
        (folder / name).mkdir()
    cells.write_h5ad(folder / "cells" / "drop.h5ad")
    (folder / "config" / "datasets.tsv").write_text("\t".join(ROW) + "\n" + "\t".join(ROW.values()) + "\n")


def report_shows(folder, dataset):
    """The report of a run is whole: what each part of the chain made is in it."""
    text = (folder / "results" / "tiny" / "report.html").read_text()
    return all(name in text for name in (dataset, "scores.tsv", "verdicts.tsv", "published figures", "ridge"))


def test_a_module_runs_to_the_report_and_then_there_is_nothing_to_do(tmp_path, clone):
    caller(tmp_path, clone)
    said = snakemake(tmp_path)
    assert "rule scgpt_bench_report_of_run" in said
    assert report_shows(tmp_path, "planted")
    assert "localrules directive" not in said
    assert "Nothing to be done" in snakemake(tmp_path, "--dry-run")


def test_a_study_in_a_folder_of_its_own_runs_there(tmp_path, clone):
    write_drop(tmp_path)
    study = {**STUDY, "datasets": ["mine"], "generated": {}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    arguments = ("--snakefile", str(clone / "workflow" / "Snakefile"), "--directory", str(tmp_path))
    targets = ("results/tiny/scores.tsv", "results/tiny/provenance.json")  # the module above runs to the report
    snakemake(tmp_path.parent, *targets, *arguments, "--configfile", str(tmp_path / "study.yaml"))
    assert "mine" in (tmp_path / "results" / "tiny" / "scores.tsv").read_text()
    provenance = yaml.safe_load((tmp_path / "results" / "tiny" / "provenance.json").read_text())
    # The table of data sets and the drop are the user's, the other tables come with the workflow.
    shipped = [f"{clone}/config/{name}.tsv" for name in ("checkpoints", "published_results", "vectors")]
    assert [entry["path"] for entry in provenance["own_files"]] == [*shipped, "cells/drop.h5ad", "config/datasets.tsv"]
    assert provenance["configuration"]["published_results_table"] == "config/published_results.tsv"
    assert not (clone / ".snakemake").exists()
    assert [path.name for path in (clone / "results").iterdir()] == ["README.md"]


def test_the_demo_is_planned_in_an_empty_folder(tmp_path, clone):
    arguments = ("--snakefile", str(clone / "workflow" / "Snakefile"), "--dry-run")
    assert re.search(r"pretrain +1\n", snakemake(tmp_path, *arguments))
    # A configuration there is taken instead.
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(STUDY))
    assert not re.search(r"pretrain +1\n", snakemake(tmp_path, *arguments))


def test_a_study_is_planned_with_the_packages_of_a_login_node(tmp_path, clone):
    """profiles/README.md: Snakemake and pydantic are enough; None in sys.modules is a package that is absent."""
    absent = ["anndata", "h5py", "pooch", "scipy", "sklearn", "torch", "matplotlib"]
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); from snakemake.cli import main; main()"
    arguments = ["--snakefile", clone / "workflow" / "Snakefile", "--profile", clone / "profiles" / "local"]
    arguments += ["--directory", tmp_path, "--configfile", clone / "config" / "papalexi.yaml"]
    command = [sys.executable, "-c", code, "--dry-run", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"scgpt-finetuned +56 ", done.stdout)


def test_the_smallest_run_is_planned_as_its_readers_call_it(clone):
    """As GitHub and the catalogue of Snakemake workflows do: in the folder .test, without any other argument."""
    said = snakemake(clone, "--directory", ".test", "--dry-run")
    assert re.search(r"finetune +1\n", said)


@pytest.mark.long
def test_the_smallest_run_gives_a_report(clone):
    snakemake(clone, "--directory", ".test")
    assert "scgpt-finetuned" in (clone / ".test" / "results" / "tiny" / "report.html").read_text()


# What snakedeploy writes beside copies of config/ and profiles/; a test below compares.
DEPLOYED = """from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


# declare https://github.com/owner/scgpt-bench as a module
module scgpt_bench:
    snakefile: 
        github("owner/scgpt-bench", path="workflow/Snakefile", tag="v1.0.0")
    config:
        config


# use all rules from https://github.com/owner/scgpt-bench
use rule * from scgpt_bench
"""  # noqa: W291


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    """Environment variables with which Git takes what is on GitHub from a folder of this machine."""
    folder = tmp_path_factory.mktemp("hosted")
    source = copy_of_checkout(folder / "source").path
    by = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    commands = (
        ["init", "--quiet"],
        ["add", "--all"],
        [*by, "commit", "--quiet", "--message", "all"],
        ["tag", "v1.0.0"],
    )
    for command in commands:
        subprocess.run(["git", *command], cwd=source, check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", source, folder / "owner" / "scgpt-bench"], check=True)
    instead = {"GIT_CONFIG_KEY_0": f"url.file://{folder}/.insteadOf", "GIT_CONFIG_VALUE_0": "https://github.com/"}
    return {"GIT_CONFIG_COUNT": "1", **instead, "XDG_CACHE_HOME": str(folder / "cache")}


def test_what_snakedeploy_leaves_is_planned_from_github(tmp_path, hosted):
    for name in ("workflow", "config"):
        (tmp_path / name).mkdir()
    (tmp_path / "workflow" / "Snakefile").write_text(DEPLOYED)
    shutil.copy(ROOT / ".test" / "config" / "config.yaml", tmp_path / "config")
    said = snakemake(tmp_path, "--dry-run", **hosted)
    assert re.search(r"finetune +1\n", said)
    assert f"{hosted['XDG_CACHE_HOME']}/snakemake" in said  # the tables: there is none in the folder


@pytest.mark.long
def test_snakedeploy_leaves_a_folder_that_runs_to_a_report(tmp_path, hosted):
    """snakedeploy in an environment of its own, since it would bring newer packages into this one."""
    uv = [shutil.which("uv", path=str(Path(sys.executable).parent))]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", tmp_path / "venv" / "bin" / "python"]
    subprocess.run([*install, *stand_in_conda.pip_sources(), "snakedeploy==0.17.1"], check=True)
    deploy = [tmp_path / "venv" / "bin" / "snakedeploy", "deploy-workflow", "https://github.com/owner/scgpt-bench"]
    mine = tmp_path / "mine"
    subprocess.run([*deploy, mine, "--tag", "v1.0.0"], env={**os.environ, **hosted}, check=True)
    assert (mine / "workflow" / "Snakefile").read_text().strip() == DEPLOYED.strip()
    shutil.copy(ROOT / ".test" / "config" / "config.yaml", mine / "config")
    snakemake(mine, **hosted)
    assert "scgpt-finetuned" in (mine / "results" / "tiny" / "report.html").read_text()
    provenance = yaml.safe_load((mine / "results" / "tiny" / "provenance.json").read_text())
    assert provenance["revision"] == "v1.0.0"
    assert "Nothing to be done" in snakemake(mine, "--dry-run", **hosted)
    (mine / "workflow" / "Snakefile").write_text(DEPLOYED.replace("tag=", "branch="))
    said = snakemake(mine, "--dry-run", status=1, **hosted)
    assert "module: github: found branch='v1.0.0'; expected tag=... or commit=..." in said


def test_the_image_of_a_study_gets_every_environment_and_what_completes_it(tmp_path):
    """The text alone: no image was ever built. Conda is a stand-in, which Snakemake asks for its platform."""
    checkout = copy_of_checkout(tmp_path / "clone").path
    environment = {**os.environ, **stand_in_conda.install(tmp_path / "conda")}
    command = [sys.executable, "envs/write_dockerfile.py", "config/papalexi.yaml"]
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    text = (checkout / "Dockerfile").read_text()
    assert re.match(r"FROM \S+\nENV CONDA_OVERRIDE_CUDA=[\d.]+\n", text)
    copied = dict(re.findall(r"^COPY envs/(\S+) (/conda-envs/\S+)$", text, re.MULTILINE))
    assert {"data.yaml", "scgpt_cpu.yaml", "evaluation.yaml", "figures.yaml"} <= copied.keys()
    for name, target in copied.items():
        assert (checkout / "envs" / name).is_file()
        assert f"--prefix {Path(target).parent} --file {target}" in text or name.endswith(".post-deploy.sh")
        script = name.replace(".yaml", ".post-deploy.sh")
        assert (script in copied) == (checkout / "envs" / script).is_file()
    prefix = Path(copied["scgpt_cpu.yaml"]).parent
    assert text.index("conda env create") < text.index(f"RUN PATH={prefix}/bin:$PATH bash {prefix}/post-deploy.sh\n")


def test_a_table_that_a_study_names_is_not_replaced(tmp_path, clone):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**STUDY, "dataset_table": "config/papalexi.tsv"}))
    arguments = ("--snakefile", str(clone / "workflow" / "Snakefile"), "--configfile", "study.yaml", "--dry-run")
    assert "config/papalexi.tsv: table: found" in snakemake(tmp_path, *arguments, status=1)


@pytest.mark.parametrize("more", ['prefix:\n        "bench"', 'replace_prefix:\n        {"results/": "bench/"}'])
def test_a_module_with_other_paths_is_refused(tmp_path, clone, more):
    caller(tmp_path, clone, "\n    " + more)
    assert "module: prefix or replace_prefix: found one" in snakemake(tmp_path, "--dry-run", status=1)


def test_a_module_may_say_where_results_go(tmp_path, clone):
    caller(tmp_path, clone, '\n    pathvars:\n        results="bench"')
    said = snakemake(tmp_path, "--dry-run", "bench/report.html")
    assert "output: bench/planted/cells.h5ad" in said
    assert "results/" not in said


def test_the_users_search_path_is_kept_behind_the_library(tmp_path, clone):
    caller(tmp_path, clone)
    library = f"{clone}/workflow/lib"
    for given, expected in ((f"/mine:{library}:/theirs", f"{library}:/mine:/theirs\n"), ("", f"{library}\n")):
        snakemake(tmp_path, "--force", "search_path.txt", PYTHONPATH=given)
        assert (tmp_path / "search_path.txt").read_text() == expected


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which the package is unpacked, as pip installs it."""
    source = copy_of_checkout(tmp_path_factory.mktemp("source")).path
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_an_installed_library_has_every_module_and_reads_configurations(installed, tmp_path):
    def files(folder):
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and path.suffix in (".py", ".css", ".html", ".js")
        }

    assert files(installed) == files(ROOT / "workflow" / "lib")
    code = f"""if True:
        import scgpt_bench, scgpt_bench.report.summary
        from scgpt_bench import configuration
        assert scgpt_bench.__file__.startswith({str(installed)!r})
        study = {{"study": "mine", "datasets": ["papalexi_2021"], "methods": {{"train-mean": {{}}}}}}
        run = configuration.validate(study, "here")
        print(run.config["splits"]["folds"], run.datasets["papalexi_2021"].format, run.tables["dataset_table"])
    """
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"5 sceptre_rda {installed}/scgpt_bench/config/datasets.tsv\n", done.stderr


def test_the_package_depends_on_what_its_modules_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {"yaml": "pyyaml", "sklearn": "scikit-learn"}
    imported = set()
    for path in (ROOT / "workflow" / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    # What cannot be installed everywhere, or beside the rest.
    imported -= {"scgpt", "lightning", "flash_attn", "cell_eval", "cell_eval2", "polars"}
    imported -= {"cellxgene_census", "tiledbsoma", "gears", "torch_geometric", "snakemake_executor_plugin_slurm"}
    imported.add("itables")  # report/page.py finds its files without importing it
    assert {named.get(name, name) for name in imported - {"scgpt_bench"}} == set(project["dependencies"])
