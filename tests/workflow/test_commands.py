"""Every command that the documents print does what they say, called as a shell calls it.

Each is in ``COMMANDS``: called in a copy of the checkout, made short where it must be, named as what CI or another test
calls, or with the reason why none can. A command that is printed and not in the table is a failure.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import stand_in_conda
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.download import stored_file
from snakemake_checkout import ROOT, copy_of_checkout

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")])
PROGRAMS = r"make|snakemake|snakedeploy|srun|conda|docker|apptainer|python3?|sh|export|\.venv/bin/\w+"
BEGINS = rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS})"


@dataclass(frozen=True)
class Called:
    """A command that is called here: what is put for its placeholders, what makes it short, what it must print."""

    prints: str
    put: dict[str, str] = field(default_factory=dict)
    append: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 0


@dataclass(frozen=True)
class Elsewhere:
    """A command that a file calls with these words: the script of CI, or another test."""

    file: str
    words: str


@dataclass(frozen=True)
class NotCalled:
    """A command that no test can call."""

    why: str


IN_CI = r"\nrun [a-z -]*(?<![a-z-]){0}(?![a-z-])"
LOCAL = ".venv/bin/snakemake --profile profiles/local"
ELSEWHERE = (
    "<clone>/.venv/bin/snakemake --snakefile <clone>/workflow/Snakefile --profile <clone>/profiles/local "
    "--directory <folder> --configfile <study>.yaml"
)
PAPALEXI, CENSUS = "config/papalexi.yaml", "config/pretrain_census.yaml"
PLAN = {"prints": r"\nPlan of what is not done yet(?s:.)*\nThis was a dry-run", "append": "-n"}
DOWNLOADS = {"prints": r"This was a dry-run|Nothing to be done", "append": "-n"}  # which are there: no job is planned
WEIGHTS = {"weights.yaml": "config/norman.yaml"}
SMALL = "<shared>/snakemake"  # an environment for a login node
OWN = {"config/<name>.yaml": PAPALEXI}
# The Makefile names folders, which a file here would only add to: -k chooses among their tests.
ONE_FILE = {"PYTEST_ADDOPTS": "-k test_seeding --ignore-glob=*/test_[!s]*", "PYTEST_XDIST_AUTO_NUM_WORKERS": "1"}
PARITY = {
    "prints": r"tests? collected",
    "put": {"tests/parity": "tests/parity/test_on_gpu.py"},
    "append": "--collect-only -q",
}
LONG_ONES = {"PYTEST_ADDOPTS": "--collect-only tests/unit/test_calibration.py"}
ENVIRONMENTS = Elsewhere("tests/slurm/conftest.py", '"--conda-create-envs-only"')
GPU = {"prints": r"python3? benchmarks/gpu_check\.py", "append": "-n"}  # tests/unit/test_gpu_check.py runs it on a CPU
WHEELS = "platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --dest wheels"
PACKAGES = (
    "scgpt==0.2.4 anndata==0.12.19 pandas==2.3.3 pytz zarr==3.1.6 numcodecs==0.16.6 donfig google-crc32c scverse-misc "
    "natsort legacy-api-wrap array-api-compat ipython traitlets"
)

COMMANDS = {
    # set-up and tests
    "make demo": Elsewhere(".ci/run", IN_CI.format("demo")),
    "PIP_EXTRA_INDEX_URL=<address> make demo": Called(
        r"snakemake --profile profiles/local", put={"<address>": "file:///none"}, append="-n"
    ),
    "make demo PYTHON=<path>": Called(r"snakemake --profile profiles/local", put={"<path>": "python3"}, append="-n"),
    "git clone <address of this repository> scgpt-bench": NotCalled("the repository has no public address yet"),
    "cd scgpt-bench": NotCalled("it enters that clone"),
    "make test": Elsewhere(".ci/run", IN_CI.format("test")),
    "make test-workflow": Elsewhere(".ci/run", IN_CI.format("test-workflow")),
    "make test-faults": Elsewhere(".ci/run", IN_CI.format("test-faults")),
    "make test-pythons": Elsewhere(".ci/run", r"further=test-pythons\n"),
    "make test-gears": Elsewhere(".ci/run", IN_CI.format("test-gears")),
    "make test-all": Elsewhere("Makefile", "test-all: lint test test-workflow test-faults test-gears test-slurm test-"),
    "make lint": Elsewhere(".ci/run", IN_CI.format("lint")),
    "make test-slurm": Elsewhere(".ci/run", IN_CI.format("test-slurm")),
    "make test-long": Called(r"<Function test_", environment=LONG_ONES),
    "make PYTHON=python3.13 test": Called(r" passed(?s:.)*Left out: ", environment=ONE_FILE),
    # Of what one file covers, make says that it is too little.
    "make coverage": Called(r"Coverage failure: total of", status=2, environment=ONE_FILE),
    "make clean": Elsewhere("tests/consistency/test_make_clean.py", r'\["make", "clean"\]'),
    "make bench": Called(r"python benchmarks/run\.py", append="-n"),
    "make site": Elsewhere("tests/consistency/test_site.py", r'SITE\["build"\]\('),
    "make .venv/installed": Elsewhere(".ci/run", r"make \.venv/installed"),
    "make pictures": Called(r"python docs/pictures\.py", append="-n"),  # tests/workflow/test_demo.py makes two of them
    "make help": Called(r"make check-data +dataset=NAME"),
    "make verify": Called(r"error: results/demo/provenance\.json: file: found No such file", status=2),
    "make verify study=<study>": Called(
        r"error: results/other/provenance\.json: file: found", status=2, put={"<study>": "other"}
    ),
    "make clean study=<study>": Elsewhere("tests/consistency/test_make_clean.py", r"f\"study=\{study\}\""),
    ".venv/bin/python -m pytest tests/parity": Called(**PARITY),
    "python3 -m pytest tests/parity": Called(**PARITY),
    "PYTHONPATH=workflow/lib .venv/bin/python benchmarks/run.py --only finetuning": Called(r"--only", append="--help"),
    # on a GPU
    "make rehearsal fraction=0.1": Called(r"python benchmarks/rehearsal\.py --fraction", append="-n"),
    "make gpu-check": Called(**GPU),
    "make gpu-check GPU_PYTHON=python3": Called(**GPU),
    "grep -l flash-attn .snakemake/conda/*.yaml": Called(r"No such file", status=2),
    "make gpu-check GPU_PYTHON=.snakemake/conda/<environment>/bin/python": Called(
        r"\.snakemake/conda/gpu/bin/python benchmarks/gpu_check\.py", append="-n", put={"<environment>": "gpu"}
    ),
    "PYTHONPATH=packages make gpu-check GPU_PYTHON=python3": Called(**GPU),
    "srun --partition=<gpu> --gres=gpu:1 --cpus-per-task=4 --mem=64G --time=15 make gpu-check": Called(
        **GPU, put={"<gpu>": "gpu"}
    ),
    "PYTHONPATH=workflow/lib python3 benchmarks/gpu_check.py --only gradients parity": Called(
        r"--only", append="--help"
    ),
    f"python3 -m pip download --no-deps --only-binary :all: --python-version 3.12 --{WHEELS} {PACKAGES}": NotCalled(
        "it takes packages of another Python from the network"
    ),
    "python3 -m pip install --no-index --no-deps --target packages wheels/*.whl": NotCalled("it takes those packages"),
    ".venv/bin/python docs/write_configuration.py": Called(r"\A\Z"),
    ".venv/bin/python docs/write_scaling.py": Called(r"\A\Z"),
    ".venv/bin/python envs/write_environments.py": Called(r"\A\Z"),
    # data
    "make check-addresses": Called(r"python -m scgpt_bench\.check_addresses", append="-n"),
    "make check-data dataset=<name>": Called(r"\nNext:\nsed 's\|my_screen\|", put={"<name>": "perturbench_devel"}),
    r"grep -E '^(name|my_screen)\b' config/datasets.tsv > my_datasets.tsv": Called(
        r"\Aname\t.*\nmy_screen\t.*\n\Z", append="&& cat my_datasets.tsv"
    ),
    "make check-data dataset=papalexi_2021": Called(r"known to scGPT +274 of 299 genes"),
    "make check-data dataset=papalexi_2021 configfile=config/papalexi.yaml": Called(r"verdicts +enough"),
    "make check-data dataset=<name> configfile=config/<name>.yaml": Called(
        r"put perturbench_devel under datasets in config/papalexi\.yaml", put={**OWN, "<name>": "perturbench_devel"}
    ),
    "make check-data dataset=<name> table=my_datasets.tsv": Called(
        r"s\|config/datasets\.tsv\|\./config/datasets\.tsv\|' config/my_screen",
        put={"<name>": "perturbench_devel", "my_datasets.tsv": "./config/datasets.tsv"},
    ),
    "make check-data dataset=my_cells configfile=config/unmeasured.yaml": Called(
        r"controls +60 cells, all of them(?s:.)*predictions +lists of perturbations \(knock-out\)"
    ),
    # on one machine
    "make plan": Called(r"Plan of what is not done yet(?s:.)*\n  planted +6,300 +200 +80 +its options"),
    "make plan configfile=config/<study>.yaml": Called(
        r"GPU hours +[\d,]+\n(?s:.)*replogle_k562_gears +162,751 +5,000",
        put={"config/<study>.yaml": "config/replogle.yaml"},
    ),
    "make plan configfile=config/<name>.yaml": Called(
        r"GPU hours +[\d,]+\n(?s:.)*my_screen", put={"config/<name>.yaml": "config/my_screen.yaml"}
    ),
    f"{LOCAL} --configfile config/<name>.yaml": Called(**PLAN, put=OWN),
    "snakemake --directory .test --cores 2": Called(**PLAN),
    f"{LOCAL} --configfile config/unmeasured.yaml": Called(**PLAN),
    "snakemake --profile profiles/local": Elsewhere("Makefile", r"snakemake --profile profiles/local\n"),
    f"{LOCAL} --configfile {PAPALEXI}": Called(**PLAN),
    f"{LOCAL} --configfile study.yaml": Called(**PLAN),
    "snakedeploy deploy-workflow https://github.com/<owner>/scgpt-bench <folder> --tag <version>": Elsewhere(
        "tests/workflow/test_deployment.py", '"deploy-workflow", "https://github.com/owner/scgpt-bench"'
    ),
    "cd <folder>": NotCalled("it enters that folder"),
    "snakemake --profile profiles/local --sdm conda": Called(**PLAN),
    ELSEWHERE: Called(**PLAN, put={"<clone>": ".", "<folder>": "elsewhere", "<study>.yaml": PAPALEXI}),
    f"{LOCAL} results/my_study/papalexi_2021/fold0/shrunken-mean/0/predictions.h5ad --configfile study.yaml": Called(
        **PLAN
    ),
    f"{LOCAL} results/my_study/papalexi_2021/fold0/controls.h5ad --configfile study.yaml": Called(**PLAN),
    f"{LOCAL} --configfile {PAPALEXI} --until fetch_dataset": Called(**DOWNLOADS),
    f"{LOCAL} prefetch --configfile weights.yaml": Called(**PLAN, put=WEIGHTS),
    f"{LOCAL} --sdm conda --conda-create-envs-only --configfile config/<study>.yaml": ENVIRONMENTS,
    f"{LOCAL} --report snakemake.html --configfile config/<study>.yaml": Elsewhere(
        "tests/workflow/test_demo.py", r'"--report"'
    ),
    "uvx --from vcc-cli==0.3.0 vcc prep results/<study>/submissions/phase1/train-mean.0.h5ad --genes gene_names.csv "
    "--perts pert_counts.csv --contexts A,B,C --output phase1.vcc": Elsewhere(
        "tests/workflow/test_challenge_submissions.py", r"vcc_cli\.prep\("
    ),
    # on Slurm
    "make slurm-profile": Called(r"Linked .*/snakemake/slurm to "),
    "export CONDA_OVERRIDE_CUDA=12.9": Called(r"\A\Z"),
    "export CONDA_OVERRIDE_CUDA=<version>": Called(r"\A\Z", put={"<version>": "12.9"}),
    "export PATH=$PWD/.venv/bin:$PATH": Called(r"\A\Z"),
    f"export PATH={SMALL}/bin:$PATH": Called(r"\A\Z", put={"<shared>": "shared"}),
    "conda create --prefix <shared>/python --channel conda-forge python=3.11": NotCalled("no channel of conda here"),
    f"<shared>/python/bin/python -m venv {SMALL}": Called(
        r"\A\Z", put={"<shared>/python/bin/python": sys.executable, "<shared>": "shared"}
    ),
    # tests/workflow/test_deployment.py plans a study with no other packages.
    f"{SMALL}/bin/pip install $(grep -E '^(snakemake|pydantic|pyyaml)' requirements.in)": Called(
        r"\Asnakemake\[reports\]==[\d.]+ snakemake-executor-plugin-slurm==[\d.]+ pydantic pyyaml\n\Z",
        put={f"{SMALL}/bin/pip install": "echo"},
    ),
    f"snakemake --profile slurm --configfile {PAPALEXI}": Called(**PLAN),
    f"snakemake --profile slurm --configfile {CENSUS}": Called(**PLAN),
    "snakemake --profile slurm": Called(**PLAN),
    "snakemake --profile profiles/slurm": Called(**PLAN),
    "snakemake prefetch --profile slurm --configfile config/<study>.yaml": Called(
        **DOWNLOADS, put={"config/<study>.yaml": PAPALEXI}
    ),
    "snakemake --conda-create-envs-only --profile slurm --configfile config/<study>.yaml": ENVIRONMENTS,
    "snakemake -n --profile slurm --configfile config/<name>.yaml": Called(PLAN["prints"], put=OWN),
    "snakemake --profile slurm --configfile config/<name>.yaml": Called(**PLAN, put=OWN),
    "docker build --tag scgpt-bench .": NotCalled("no Docker where this is tested"),
    "apptainer build scgpt-bench.sif docker-daemon://scgpt-bench:latest": NotCalled("nor Apptainer"),
    **dict.fromkeys(
        ("make containerfile", "make containerfile configfile=config/<study>.yaml"),
        Elsewhere("tests/workflow/test_deployment.py", '"envs/write_dockerfile.py", "config/papalexi.yaml"'),
    ),
}  # fmt: skip


def printed(text):
    """The commands of a document: lines of its blocks of shell, and code that begins as one does."""
    text = re.sub(r" *\\\n *", " ", text)
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines += [" ".join(code.split()) for code in inline if re.match(rf"{BEGINS} [\w./-]", code)]
    commands = [re.sub(r" +# .*", "", line).strip() for line in lines]
    return [command for command in commands if command and not command.startswith("#")]


PRINTED = {command for document in DOCUMENTS for command in printed(document.read_text())}


def test_every_printed_command_is_accounted_for_and_no_other():
    assert set(COMMANDS) == PRINTED


def test_commands_are_found_where_documents_print_them():
    text = "```sh\nmake x   # why\n\n```\nSay `make y\nz=1`, `snakemake --profile a` or `make` it: `makes no`.\n"
    assert printed(text) == ["make x", "make y z=1", "snakemake --profile a"]


@pytest.mark.parametrize("command", [name for name, how in COMMANDS.items() if isinstance(how, Elsewhere)])
def test_what_calls_a_command_elsewhere_does_call_it(command):
    assert re.search(COMMANDS[command].words, (ROOT / COMMANDS[command].file).read_text())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, papalexi_file, perturbench_file):
    """A copy with an environment that is set up, downloads that are there, and the profile of `make slurm-profile`."""
    copy = copy_of_checkout(tmp_path_factory.mktemp("printed") / "checkout").path
    (copy / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (copy / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (copy / ".venv" / "installed").touch()
    datasets = read_datasets(copy / "config" / "datasets.tsv")
    for name, file in (("papalexi_2021", papalexi_file), ("perturbench_devel", perturbench_file)):
        stored = copy / stored_file(datasets[name])
        stored.parent.mkdir(parents=True)
        shutil.copy(file, stored)
    counts = np.random.default_rng(0).poisson(2, (60, 5)).astype(np.float32)
    anndata.AnnData(counts, var=pd.DataFrame(index=["STAT1", "JAK1", "IRF1", "FOS", "JUN"])).write_h5ad(
        copy / "my_cells.h5ad"
    )
    (copy / "my_genes.txt").write_text("STAT1\nJAK1\n")
    stand_in_conda.install(copy.parent / "conda")
    srun = copy.parent / "conda" / "bin" / "srun"
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    profiles = copy.parent / "home" / ".config" / "snakemake"
    profiles.mkdir(parents=True)
    (profiles / "slurm").symlink_to(copy / "profiles" / "slurm")
    return copy


def example(command):
    """The study that is printed before a command, to be saved as study.yaml."""
    before = (ROOT / "docs" / "adding_a_method.md").read_text().partition(command)[0]
    return re.findall(r"```yaml\n(.*?)```", before, re.DOTALL)[-1]


def shell(checkout, command, home, environment):
    """Call a command in the copy, as a user with `.venv/bin` on the PATH does; output is one text."""
    surroundings = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COVERAGE", "MAKE", "PYTEST", "SNAKEMAKE"))
        },
        **{"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "PYTHONPATH": ""},
        **{"PATH": f"{checkout / '.venv' / 'bin'}:{checkout.parent / 'conda' / 'bin'}:{os.environ['PATH']}"},
        **{"STAND_IN_CONDA": str(checkout.parent / "conda"), **environment},
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=checkout, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [name for name, how in COMMANDS.items() if isinstance(how, Called)])
def test_a_command_as_printed(checkout, tmp_path, command):
    how = COMMANDS[command]
    if "study.yaml" in command:
        (checkout / "study.yaml").write_text(example(command))
    text = command
    for placeholder, value in how.put.items():
        assert placeholder in text
        text = text.replace(placeholder, value)
    home = tmp_path if command == "make slurm-profile" else checkout.parent / "home"
    done = shell(checkout, f"{text} {how.append}", home, how.environment)
    assert done.returncode == how.status, done.stdout
    assert re.search(how.prints, done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    assert how.append == "--help" or "usage:" not in done.stdout


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "make check-data",
            r"no name to look for; expected dataset=NAME with the name of a row: planted, papalexi_2021",
        ),
        ("make check-data dataset=papalexi", r"found 'papalexi'; expected .*: papalexi_2021, papalexi_2021_full\n"),
        ('make check-data dataset="it\'s a row"', r"found \"it's a row\"; expected"),
        ("make check-data dataset=planted configfile=none.yaml", r"none\.yaml: file: found .*No such file"),
    ],
)
def test_a_wrong_check_of_data_is_one_clear_line(checkout, tmp_path, command, expected):
    done = shell(checkout, command, tmp_path, {})
    assert done.returncode == 2  # of make
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout  # the second one is make's
    assert re.search(rf"^error: .*{expected}", done.stdout)


def test_a_run_in_a_folder_that_no_job_can_run_in_ends_at_the_start(checkout, tmp_path):
    (tmp_path / "my runs").mkdir()
    command = f"snakemake --profile profiles/local --directory '{tmp_path}/my runs' --configfile config/papalexi.yaml"
    done = shell(checkout, command, tmp_path, {})
    assert done.returncode == 1
    assert re.search(r"my runs': the run's folder: found the characters ' '; expected a path without", done.stdout)
    assert "Building DAG" not in done.stdout


def test_make_in_a_folder_that_no_job_can_run_in_sets_up_nothing(checkout, tmp_path):
    clone = tmp_path / "my clone"
    shutil.copytree(checkout, clone, ignore=lambda *_: [".venv", "resources", ".snakemake"])
    done = shell(clone, "make demo", tmp_path, {})
    assert done.returncode == 2
    assert re.search(r"error: '.*/my clone': folder: found the characters ' '; expected a path without", done.stdout)
    assert not (clone / ".venv").exists()


def test_make_alone_lists_every_target_and_builds_nothing(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^make ([a-z-]+) +\S", done.stdout, re.MULTILINE) == targets
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]
