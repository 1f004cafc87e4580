"""A job writes everything to its log, and a bad input to the terminal too, as one line."""

import os
import subprocess
import sys
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / "workflow" / "lib"


def run(body, log):
    code = f"from scgpt_bench.job import logged\nwith logged({str(log)!r}):\n"
    code += "".join(f"    {line}\n" for line in body)
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_output_of_python_and_of_compiled_code_goes_to_the_log(tmp_path):
    done = run(["import os", "print('from python')", "os.system('echo from a child')"], tmp_path / "log")
    assert done.returncode == 0
    assert done.stdout + done.stderr == ""
    assert {"from python", "from a child"} <= set((tmp_path / "log").read_text().splitlines())


def test_progress_lines_of_the_library_are_in_the_log(tmp_path):
    done = run(["import logging", "logging.getLogger('scgpt_bench.scgpt.training').info('epoch 1')"], tmp_path / "log")
    assert done.returncode == 0
    assert (tmp_path / "log").read_text().endswith(" epoch 1\n")


def test_the_processes_of_one_job_write_one_log(tmp_path):
    log, further = tmp_path / "log", tmp_path / "further.py"
    log.write_text("of an earlier run, which was longer\n" * 9)
    further.write_text(f"from scgpt_bench.job import logged\nwith logged({str(log)!r}):\n    print('second')\n")
    body = [
        "import os, subprocess, sys",
        "print('first', flush=True)",
        f"subprocess.run([sys.executable, {str(further)!r}], env=os.environ | {{'LOCAL_RANK': '1'}}, check=True)",
        "print('first again')",
    ]
    assert run(body, log).returncode == 0
    assert log.read_text().splitlines() == ["first", "second", "first again"]


def test_a_failing_import_is_in_the_log_with_its_traceback(tmp_path):
    done = run(["import a_module_that_is_not_there"], tmp_path / "log")
    assert done.returncode == 1
    assert "a_module_that_is_not_there" in (tmp_path / "log").read_text()
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_bad_input_is_one_line_on_the_terminal_and_in_the_log(tmp_path):
    body = [
        "from scgpt_bench.errors import InputError",
        "raise InputError('cells.h5ad', 'obs', 'no column', 'a column')",
    ]
    done = run(body, tmp_path / "log")
    line = "error: cells.h5ad: obs: found no column; expected a column\n"
    assert done.returncode == 1
    assert done.stderr == line
    assert (tmp_path / "log").read_text() == line


def test_memory_that_runs_out_is_one_line_that_says_what_was_asked_for(tmp_path):
    body = [
        "import resource, numpy",
        "resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))",
        "numpy.ones((2**32, 8))",
    ]
    done = run(body, tmp_path / "log")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/log: memory: found too little (Unable to allocate 256. GiB for ")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "log").read_text() == done.stderr
