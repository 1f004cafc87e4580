"""The one way in which this package refuses an input."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """A file, table, configuration or checkpoint that cannot be used.

    Parameters
    ----------
    source
        The file (or configuration) with the fault.
    where
        The key, row, column or entry in it.
    found
        What is there.
    expected
        What would be right.
    """

    def __init__(self, source: str | Path, where: str, found: str, expected: str):
        self.source, self.where, self.found, self.expected = map(_on_one_line, (str(source), where, found, expected))
        super().__init__(f"{self.source}: {self.where}: found {self.found}; expected {self.expected}")

    def __reduce__(self):
        return type(self), (self.source, self.where, self.found, self.expected)


def _on_one_line(text: str) -> str:
    """Write line ends and other control characters, which a file may hold anywhere, as Python does."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


@contextmanager
def name_in_errors(path: str | Path, name: str) -> Iterator[None]:
    """Name the file ``path`` in every ``InputError`` about it as its user knows it."""
    try:
        yield
    except InputError as error:
        if error.source != str(path):
            raise
        raise InputError(name, error.where, error.found, error.expected) from None
