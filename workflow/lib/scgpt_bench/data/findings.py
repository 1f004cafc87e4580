"""What is found in a drop while it is understood."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from scgpt_bench.errors import InputError


@dataclass(frozen=True)
class Findings:
    """Collect what is repaired and what is odd in a drop, in sentences, and name its file in errors."""

    source: str | Path
    repairs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def error(self, where: str, found: str, expected: str) -> InputError:
        """Make the error for what cannot be used."""
        return InputError(self.source, where, found, expected)

    def column(self, table: pd.DataFrame, table_name: str, column: str, what: str) -> pd.Series:
        """Return a column that the data-set table names, or refuse a ``table`` (``obs`` or ``var``) without it."""
        if column not in table:
            existing = ", ".join(map(repr, table.columns)) or "none"
            raise self.error(table_name, f"no column {column!r} (columns: {existing})", f"the {what} there")
        return table[column]
