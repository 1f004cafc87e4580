"""What a benchmark needs to know about the machine and about itself."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = ("work", "size", "quantity", "unit", "ours", "peer", "peer_value", "ratio", "goal")


def row(
    work: str, size: str, quantity: str, unit: str, ours: float, peer: str, peer_value: float, ratio: float,
    goal: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One line of the table; a ratio above 1 means that ours is better."""
    return dict(zip(COLUMNS, (work, size, quantity, unit, ours, peer, peer_value, ratio, goal), strict=True))


def alternating(*functions: Callable[[], Any], repeats: int = 3) -> list[float]:
    """Median seconds of each function; they take turns, so that what else the machine does meets all of them."""
    seconds = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def square_matmul(size: int = 3072) -> tuple[Callable[[], Any], float]:
    """A product of two square fp32 matrices with torch, and its operations in GFLOP."""
    import torch

    a, b, out = (torch.rand(size, size) for _ in range(3))
    return lambda: torch.mm(a, b, out=out), 2 * size**3 / 1e9


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def in_fresh_process(script: str | Path, *arguments: object) -> Any:
    """What ``python script arguments`` prints last, read as JSON."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_step(description: str | None, steps: Mapping[str, Callable[..., None]], numbers: str) -> None:
    """Run the step that the command line names, in the folder and with the numbers that follow; print time and memory.

    :func:`in_fresh_process` reads what is printed: ``s`` and ``MB``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("what", choices=steps)
    parser.add_argument("folder")
    parser.add_argument("numbers", nargs="*", type=int, help=numbers)
    arguments = parser.parse_args()
    start = time.perf_counter()
    steps[arguments.what](arguments.folder, *arguments.numbers)
    print(json.dumps({"s": time.perf_counter() - start, "MB": peak_memory_mb()}))
