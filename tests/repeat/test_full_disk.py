"""A disk that is full in every stage: each job fails and leaves nothing; with more space the run goes on."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import needs
import tiny
from snakemake_checkout import copy_of_checkout

pytestmark = pytest.mark.long
FIRST, GROWTH = 96, 1.3  # kB of the first disk; how much larger each next one is
# Of each part of the run, one of these rules at least must have met a full disk.
PARTS = [
    {"generate_dataset"},
    {"harmonize"},
    {"pretrain"},
    {"finetune", "predict_scgpt", "predict_baseline"},
    {"truth", "evaluate", "metric_robustness"},
    {"figure_scores", "figure_skill", "figure_pairs", "figure_differences", "figure_vocabulary"},
    {"report_of_run"},
]


class SmallDisk:
    """A file system in memory at ``results``, which only the processes started here see."""

    def __init__(self, folder: Path, holder: int):
        self.folder, self.holder = folder, holder

    def run(self, *command: str) -> subprocess.CompletedProcess:
        # Not --wd: that is the folder as the caller sees it, with another disk below it.
        enter = ["nsenter", f"--target={self.holder}", "--user", "--preserve-credentials", "--mount"]
        there = ["sh", "-c", 'cd "$0" && exec "$@"', str(self.folder)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.run(
            [*enter, *there, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip

    def grow(self, kilobytes: int) -> None:
        done = self.run("mount", "-o", f"remount,size={kilobytes}k", "results")
        assert done.returncode == 0, done.stdout


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[SmallDisk]:
    (folder / "results").mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs results && echo mounted && exec sleep infinity"
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as holder:
        try:
            said = holder.stdout.readline()
            if said != "mounted\n":
                needs.missing(f"this machine lets nobody mount: {said.strip()}")
            yield SmallDisk(folder, holder.pid)
        finally:
            holder.terminate()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("enough"))
    tiny.write(checkout)
    checkout.snakemake(*tiny.arguments("results/tiny/report.html"))
    return tiny.tables(checkout.path)


def test_a_run_that_meets_a_full_disk_in_every_stage_ends_with_the_same_tables(expected, tmp_path):
    checkout = copy_of_checkout(tmp_path)
    tiny.write(checkout)
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local"]
    command += tiny.arguments("results/tiny/report.html")
    met: set[str] = set()
    kilobytes = FIRST
    with small_disk(checkout.path, kilobytes) as disk:
        while (done := disk.run(*command)).returncode:
            assert kilobytes < 1e6, done.stdout[-5000:]
            failed = set(re.findall(r"^Error in rule (\w+)", done.stdout, re.MULTILINE))
            assert "no space left on device" in done.stdout.lower(), done.stdout[-5000:]
            errors = re.findall(r"^error: \S+: disk: found no space left on device; ", done.stdout, re.MULTILINE)
            by_snakemake = done.stdout.count("[Errno 28]")  # of its own files: logs, times
            assert len(errors) + by_snakemake >= len(failed), done.stdout[-5000:]
            assert not (left := disk.run("find", "results", "-name", "*.partial").stdout), left
            met |= failed
            kilobytes = int(kilobytes * GROWTH)
            disk.grow(kilobytes)
        finished = tmp_path / "finished"
        finished.mkdir()
        assert disk.run("cp", "-r", "results", str(finished)).returncode == 0
    assert tiny.tables(finished) == expected
    assert all(met & part for part in PARTS), met
