"""Whole configurations, run by Snakemake in a copy of the checkout, as a user would."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Checkout:
    """A copy of the files under version control (and new ones), without anything computed."""

    path: Path

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run Snakemake with the local profile; output is one text. A failure shows the failed jobs and their logs."""
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments]
        if check:
            command.append("--show-failed-logs")
        # As for a user: compiled modules appear in the checkout, and must not look like a change of its code.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        done = subprocess.run(
            command,
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            # The others go on beside a failed job, so that its error is far from the end.
            first = done.stdout.find("Error in rule")
            raise AssertionError(done.stdout[first : first + 10_000] if first >= 0 else done.stdout[-10_000:])
        return done

    def logs(self) -> str:
        """What the jobs said."""
        return "".join(path.read_text() for path in sorted((self.path / "results").glob("*/logs/**/*.log")))

    def write(self, name: str, text: str) -> str:
        (self.path / name).write_text(text)
        return name


def copy_of_checkout(target: Path) -> Checkout:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return Checkout(target)


def copy_with_demo(target: Path) -> Checkout:
    """A copy of the checkout in which the demo has run: by `make demo` in ``SCGPT_BENCH_DEMO``, as in CI, or here."""
    checkout = copy_of_checkout(target)
    if made := os.environ.get("SCGPT_BENCH_DEMO"):
        for name in ("resources", "results", ".snakemake"):
            shutil.copytree(Path(made) / name, target / name, dirs_exist_ok=True)
    else:
        checkout.snakemake()
    return checkout
