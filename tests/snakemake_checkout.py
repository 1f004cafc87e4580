"""Whole configurations, run by Snakemake in a copy of the checkout, as a user would."""

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
        """Run Snakemake with the local profile; output is one text."""
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments]
        done = subprocess.run(
            command, cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if check:
            logs = "".join(path.read_text() for path in (self.path / "logs").rglob("*.log")) if done.returncode else ""
            assert done.returncode == 0, done.stdout[-5000:] + logs[-5000:]
        return done

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
