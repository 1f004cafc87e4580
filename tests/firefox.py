"""Headless Firefox for the tests of the report, driven over WebDriver BiDi: Debian has no geckodriver."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import websocket

import needs

SECONDS = 120  # that a slow machine may take for what takes one
OFFLINE = 'user_pref("network.proxy.type", 1);\nuser_pref("network.proxy.socks", "127.0.0.1");\n'
OFFLINE += 'user_pref("network.proxy.socks_port", 9);\nuser_pref("app.update.enabled", false);\n'


class Firefox:
    """One window; what its console says of errors and warnings is kept."""

    def __init__(self, address: str):
        self._socket = websocket.create_connection(f"{address}/session", suppress_origin=True, timeout=SECONDS)
        self._calls = 0
        self.complaints: list[str] = []
        self._call("session.new", capabilities={})
        self._window = {"context": self._call("browsingContext.getTree")["contexts"][0]["context"]}
        self._call("session.subscribe", events=["log.entryAdded"])

    def _call(self, method: str, **parameters: object) -> dict:
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer["type"] == "event":
                if answer["params"]["level"] in ("error", "warn"):
                    self.complaints.append(answer["params"]["text"])
            elif answer["id"] == self._calls:
                assert answer["type"] == "success", answer
                return answer["result"]

    def resize(self, width: int, height: int = 900) -> None:
        self._call("browsingContext.setViewport", viewport={"width": width, "height": height}, **self._window)

    def open(self, address: str) -> None:
        self._call("browsingContext.navigate", url=address, wait="complete", **self._window)

    def value(self, expression: str) -> object:
        """What the page makes of ``expression``: a number, a text or a truth value."""
        made = self._call("script.evaluate", expression=expression, target=self._window, awaitPromise=True)
        assert made["type"] == "success", made
        return made["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until ``expression`` is true."""
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def firefox(profile: Path) -> Iterator[Firefox]:
    """A Firefox with the network off and an empty profile; needs firefox-esr."""
    if not (program := shutil.which("firefox-esr")):
        needs.missing("no firefox-esr on this machine")
    profile.mkdir()
    (profile / "user.js").write_text(OFFLINE)
    command = [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    said = profile / "stderr"  # a file, since a pipe that nobody reads would stop it once full
    with open(said, "w") as stderr, subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + SECONDS
            while not (found := re.search(r"BiDi listening on (ws://\S+)\n", said.read_text())):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < end, said.read_text()
                time.sleep(0.05)
            driver = Firefox(found[1])
            yield driver
            driver.close()
        finally:
            process.terminate()
