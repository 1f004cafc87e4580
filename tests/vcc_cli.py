"""``vcc prep``, which packs submissions for the Virtual Cell Challenge of 2026, as docs/predicting.md says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import needs

# What the command imports and .venv lacks. The package is in no environment of the project: organizers refuse old ones.
PACKAGES = ("vcc-cli==0.3.0", "zstandard==0.25.0")


def install(folder: Path) -> Path:
    """Install the packages into a folder of their own; missing where their index cannot be reached."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(folder), *PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode:
        needs.missing(f"{PACKAGES[0]}: {done.stderr.strip()[-300:]}")
    return folder


def prep(folder: Path, *arguments: str) -> dict:
    """Run ``vcc prep`` from ``folder``; what it says of the file that it packed, or its error."""
    done = subprocess.run(
        [sys.executable, "-m", "vcc", "prep", *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads((done.stdout or done.stderr).strip().splitlines()[-1])
