"""kill -9 in what comes before a run: a download and the installation. Of the run itself, see tests/repeat."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from snakemake_checkout import ROOT, copy_of_checkout

CONTENT = bytes(range(256)) * 4000
FETCH = "import sys; from scgpt_bench.data.download import fetch; fetch(*sys.argv[1:])"


@pytest.fixture
def stalling_server():
    """A server that stops in the middle of its first answer: its address, and the event that lets it go on."""
    go_on, requests = threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            self.wfile.flush()
            if len(requests) == 1:
                go_on.wait()
                return
            self.wfile.write(CONTENT[len(CONTENT) // 2 :])

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/drop.h5ad"
    go_on.set()
    http.shutdown()
    http.server_close()


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_download_starts_again(stalling_server, tmp_path):
    destination = tmp_path / "drop.h5ad"
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT / "workflow" / "lib")}
    command = [sys.executable, "-c", FETCH, stalling_server, hashlib.sha256(CONTENT).hexdigest(), str(destination)]
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    wait_for(lambda: any(path.is_file() and path.stat().st_size for path in tmp_path.rglob("*")), first)
    kill(first)
    assert not destination.exists()
    subprocess.run(command, env=environment, check=True)
    assert destination.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [destination]


def write_package(path: Path) -> None:
    """The smallest package that pip installs without asking a registry."""
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("probe.py", "")
        wheel.writestr("probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
        wheel.writestr("probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("probe-1.0.dist-info/RECORD", "")


@pytest.mark.parametrize("reached", ["pyvenv.cfg", "lib/*/site-packages/pip/__init__.py", "bin/pip"])
def test_an_installation_starts_again(tmp_path, reached):
    checkout = copy_of_checkout(tmp_path)
    write_package(tmp_path / "probe-1.0-py3-none-any.whl")
    checkout.write("requirements.lock", "./probe-1.0-py3-none-any.whl\n")
    checkout.write("requirements-no-deps.lock", "")
    command = ["make", ".venv/installed", f"PYTHON={sys.executable}"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: any(tmp_path.glob(f".venv/{reached}")), first)
    kill(first)
    assert not (tmp_path / ".venv" / "installed").exists()
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run([tmp_path / ".venv" / "bin" / "python", "-c", "import probe"], check=True)
    assert subprocess.run(["make", "--question", *command[1:]], cwd=tmp_path, check=False).returncode == 0
