"""A full disk and a folder that cannot be written: the job fails, nothing half-written stays, the rerun completes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import needs
from bad_input import study

TESTS = Path(__file__).parents[1]
RUN = """
import json, sys
from pathlib import Path
from bad_input import study
done = study.JOBS["harmonize"].run(Path.cwd())
left = [str(path) for path in Path("results").rglob("*") if path.is_file()]
print(json.dumps({"status": done.status, "log": done.log, "left": left}))
"""
MOUNT = {
    "full": "mount -t tmpfs -o size=16k tmpfs results",
    "read-only": "mount -t tmpfs -o ro tmpfs results",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    study.write(folder)
    shutil.rmtree(folder / "results")
    (folder / "results").mkdir()
    return folder


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "study")


def in_own_mounts(folder: Path, mount: str) -> dict:
    """Harmonize in a process that sees another file system at ``results``."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'workflow' / 'lib'}"}
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        f'{mount} && exec "$0" -c "$1"',
        sys.executable,
        RUN,
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        needs.missing(f"this machine lets nobody mount: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("disk", "message"), [("full", "no space left on device"), ("read-only", "read-only file system")]
)
def test_a_disk_that_cannot_be_written(folder, disk, message):
    done = in_own_mounts(folder, MOUNT[disk])
    assert done["status"] == 1
    lines = [line for line in done["log"].splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done["log"]
    assert message in lines[0]
    assert done["left"] == []
    assert study.JOBS["harmonize"].run(folder).status == 0
    assert (folder / "results" / "bad" / "drop" / "cells.h5ad").is_file()
