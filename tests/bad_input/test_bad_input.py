"""Bad input ends a job with one clear line and status 1, and leaves no output behind."""

import re
import shutil

import pytest

from bad_input import study
from bad_input.cases import CASES
from scgpt_bench import configuration
from scgpt_bench.errors import InputError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The study, undamaged."""
    folder = tmp_path_factory.mktemp("good")
    study.write(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the study, to be damaged."""
    return shutil.copytree(good, tmp_path / "study")


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def complaint(job, folder, monkeypatch):
    """The line with which a job, or the check of the configuration that comes before any job, ends."""
    if job == "configuration":
        monkeypatch.chdir(folder)
        with pytest.raises(InputError) as error:
            configuration.validate(configuration.read("study.yaml"), "study.yaml")
        return f"error: {error.value}\n"
    done = study.JOBS[job].run(folder)
    assert done.status == 1
    assert "Traceback" not in done.log
    assert done.log.endswith(done.terminal)
    return done.terminal


# A table in a wrong format is there to be refused; GEARS has an environment of its own: see tests/unit/test_gears.py.
NOT_RUN = {"split from txt", "predict_gears"}


@pytest.mark.parametrize("job", [job for job in study.JOBS if job not in NOT_RUN])
def test_the_study_itself_is_good(good, folder, job):
    done = study.JOBS[job].run(folder)
    assert done.status == 0, done.terminal + done.log


@pytest.mark.parametrize(("job", "fault", "expected"), [
    pytest.param(job, fault, parts, id=f"{job}: {name}") for name, job, fault, *parts in CASES
])  # fmt: skip
def test_a_fault_is_one_line_and_leaves_nothing_behind(folder, monkeypatch, job, fault, expected):
    fault(folder)
    before = files_below(folder)
    line = complaint(job, folder, monkeypatch)
    assert line.count("\n") == 1
    parts = re.fullmatch(r"error: (.+?): (.+): found (.+?); expected (.+)\n", line)
    assert parts, line
    for found, part in zip(parts.groups(), expected, strict=True):
        assert part in found, line
    assert files_below(folder) == before


def test_there_are_as_many_cases_as_promised():
    assert len({(name, job) for name, job, *_ in CASES}) == len(CASES) >= 260
