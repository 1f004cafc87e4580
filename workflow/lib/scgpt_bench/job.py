"""Log everything that a script of the workflow does, and end on bad input with one clear line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scgpt_bench import nodes
from scgpt_bench.errors import InputError


@contextmanager
def logged(log: str) -> Iterator[Callable[[str], None]]:
    """Send standard output and error to ``log``, those of compiled libraries and of failing imports too.

    Yields a function that writes a text to the terminal.

    A training on several devices starts this script again for each further one (Lightning Fabric, which numbers them in
    ``LOCAL_RANK``), and one on several nodes for each node (:func:`nodes.run_on_each_node`): all of them append to the
    log that the first one began.

    Heavy imports belong inside this context. An ``InputError``, or memory that runs out, is written to the log and to
    the terminal as one line, without a traceback, and ends the process with status 1.
    """
    terminal = os.dup(2)
    further = os.environ.get("LOCAL_RANK", "0") != "0" or nodes.STARTED in os.environ
    begin = 0 if further else os.O_TRUNC
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | begin, 0o644)
    except OSError as error:
        raise SystemExit(f"error: {log}: disk: found {error.strerror}; expected a log that can be written") from None
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")  # the library's progress lines

    def write(text: str) -> None:
        os.write(terminal, text.encode())

    try:
        yield write
    except (InputError, MemoryError) as error:
        if isinstance(error, MemoryError):
            expected = "more; run the same command again with more mem_mb for this rule (profiles/README.md)"
            error = InputError(log, "memory", f"too little ({error or 'no more to be had'})", expected)
        line = f"error: {error}\n"
        os.write(terminal, line.encode())
        with suppress(OSError):  # the log may be on the disk that is full
            os.write(2, line.encode())
        raise SystemExit(1) from None
