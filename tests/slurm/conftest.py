"""A Slurm, environments and a checkout that all tests of this folder share."""

import getpass
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import needs
import one_machine_slurm
import stand_in_conda
from snakemake_checkout import Checkout, copy_of_checkout, copy_with_demo

ONE_SEED = "tests/slurm/one_seed.yaml"
DEMO = ("--configfile", "config/config.yaml", ONE_SEED, "tests/slurm/gpu.yaml")
BESIDE = (
    "results/demo/planted/fold0/scgpt-embedding-ridge-copied/0/metrics.tsv",
    "results/demo/planted/fold0/shrunken-mean/0/metrics.tsv",
    "results/demo/planted/fold0/ridge-on-vectors/0/metrics.tsv",
    "results/demo/planted/fold0/scgpt-searched/0/metrics.tsv",
    "results/demo/planted/fold0-train10/train-mean/0/metrics.tsv",
    "results/demo/predicted/next/page.html",
    "results/demo/predicted/next/train-mean/0/predictions.h5ad",
    "results/demo/submissions/challenge/train-mean.0.vcc",
    *(f"results/demo/planted/fold0/train-mean/0/official_{name}.tsv" for name in ("cell_eval", "cell_eval2")),
    *(*DEMO, "tests/slurm/beside_the_demo.yaml"),
)


@pytest.fixture(scope="session")
def cluster():
    """A running Slurm; where it cannot be started, the tests say why."""
    if problem := one_machine_slurm.why_not():
        needs.missing(problem)
    # Database and daemons run as users of their own, who cannot enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="scgpt-bench-slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with one_machine_slurm.one_machine(folder) as cluster:
            yield cluster


@dataclass(frozen=True)
class Site:
    """A login node: the cluster, a checkout whose profile is filled in, and conda."""

    cluster: one_machine_slurm.Cluster
    checkout: Checkout
    variables: dict[str, str]
    demo: tuple[str, ...] = DEMO
    beside: tuple[str, ...] = BESIDE

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """The literal command of the README, on a cluster without network."""
        done = self.cluster.run(*command(*arguments), cwd=self.checkout.path, env=self.variables)
        if check:
            assert done.returncode == 0, done.stdout[-4000:] + self.checkout.logs()[-8000:]
        return done

    def start(self, *arguments: str) -> subprocess.Popen:
        """The same, and do not wait for it."""
        output = (self.checkout.path / "started.log").open("w")
        return self.cluster.start(*command(*arguments), cwd=self.checkout.path, env=self.variables, stdout=output)


def command(*arguments: str) -> list[str]:
    return ["snakemake", "--profile", "slurm", *arguments]


@pytest.fixture(scope="session")
def site(cluster, tmp_path_factory):
    """A login node with everything that a run needs from the network: here, the environments."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("site"))
    fill_in(checkout.path / "profiles" / "slurm" / "config.yaml")
    configuration = tmp_path_factory.mktemp("configuration")
    # A login sets USER; containers that run tests do not.
    variables = {
        "XDG_CONFIG_HOME": str(configuration),
        "OMP_NUM_THREADS": "1",
        "SCGPT_BENCH_CPU_FOR_GPU": "1",
        "USER": getpass.getuser(),
    }
    variables |= stand_in_conda.install(tmp_path_factory.mktemp("conda") / "base")
    # As in an activated environment: `snakemake` is the one of the Python that runs the tests.
    programs = [str(Path(sys.executable).parent), variables.get("PATH", os.environ["PATH"])]
    variables["PATH"] = os.pathsep.join(programs)
    environment = {**os.environ, **variables}
    subprocess.run(["make", "slurm-profile"], cwd=checkout.path, env=environment, check=True)
    prepared = subprocess.run(
        command("all", *BESIDE, "--conda-create-envs-only"),
        cwd=checkout.path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert prepared.returncode == 0, prepared.stdout[-4000:]
    return Site(cluster, checkout, variables)


def fill_in(profile: Path) -> None:
    """What a user of this small cluster writes into the profile, and a polling that suits jobs of seconds."""
    lines = profile.read_text().splitlines()
    start = lines.index("# set-resources:")
    for index in range(start, lines.index("", start)):
        lines[index] = lines[index].removeprefix("# ")
    text = "\n".join(lines) + "\n"
    # Most jobs of the demo end within 7 s. A check that finds none ended puts the next off by 10 s more.
    for old, new in (
        ("cores: 8", f"cores: {os.cpu_count()}"),
        ("status-checks: 20", "status-checks: 7"),
        ("checks-per-second: 0.1", "checks-per-second: 0.2"),
    ):
        assert old in text
        text = text.replace(old, new)
    profile.write_text(text)


@dataclass(frozen=True)
class Run:
    """A finished run of the demo."""

    path: Path
    jobs: list[dict[str, str]]


@pytest.fixture(scope="session")
def on_slurm(site):
    """The demo on Slurm, and then the rules that it has no use for."""
    site.snakemake(*site.demo)
    site.snakemake(*site.beside)
    return Run(site.checkout.path, site.cluster.jobs())


@pytest.fixture(scope="session")
def on_this_machine(tmp_path_factory):
    """The demo with the local profile, its tables once more with the one seed of the run on Slurm."""
    checkout = copy_with_demo(tmp_path_factory.mktemp("local"))
    tables = [str(path.relative_to(checkout.path)) for path in (checkout.path / "results" / "demo").glob("*.tsv")]
    checkout.snakemake(*sorted(tables), "--configfile", "config/config.yaml", ONE_SEED)
    return checkout.path
