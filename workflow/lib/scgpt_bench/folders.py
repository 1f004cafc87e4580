"""Which folders a run can be in: Snakemake gives some paths to a shell, unquoted.

``python -m scgpt_bench.folders`` refuses the current folder; ``make`` asks before it sets up anything.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from scgpt_bench.errors import InputError

# Tried one by one with Snakemake 9.27, whose jobs end with "No such file" or "unbound variable".
_UNUSABLE = re.compile(r"[\s'\"{}$&;()\\|<>`]")
EXPECTED = "a path without spaces, quotes, brackets and other characters of the shell: move or rename the folder"


def refuse_unusable(path: str | Path, what: str) -> None:
    """Raise ``InputError`` for a path that jobs cannot be run with; ``what`` says what the path is of."""
    found = sorted(set(_UNUSABLE.findall(str(path))))
    if found:
        raise InputError(repr(str(path)), what, "the characters " + " ".join(map(repr, found)), EXPECTED)


if __name__ == "__main__":
    try:
        refuse_unusable(Path.cwd(), "folder")
    except InputError as error:
        sys.exit(f"error: {error}")
