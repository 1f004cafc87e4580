"""The condition, a perturbation in a context: the unit of every table and matrix from split.tsv on.

A table (the split, ``obs`` of cells, controls or predictions) names it in two columns, ``perturbation`` and
``context``. A table without the second has one context, ``all``. Nothing is read from a joined name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from scgpt_bench.data.names import CONTROL, UNSTATED, genes_of

ALL_CONTEXTS = UNSTATED  # of rows over all contexts, and the one where none is declared; no declared one has this name
COLUMNS = ["perturbation", "context"]
IN = "@"  # of labels; no declared context contains it


class Condition(NamedTuple):
    """A perturbation in a context, or ``control`` in a context: what its conditions are compared with."""

    perturbation: str
    context: str = ALL_CONTEXTS

    @property
    def label(self) -> str:
        """Name it for people, and as an index: ``STAT1``, or ``STAT1@K562`` where contexts are declared."""
        return self.perturbation if self.context == ALL_CONTEXTS else f"{self.perturbation}{IN}{self.context}"

    @property
    def genes(self) -> tuple[str, ...]:
        """List the genes targeted, sorted; none for ``control``."""
        return genes_of(self.perturbation)

    @property
    def drawn_for(self) -> tuple[str, ...]:
        """Name its random draws (:mod:`scgpt_bench.seeding`): with the context only where it is declared."""
        return (self.perturbation,) if self.context == ALL_CONTEXTS else tuple(self)


def conditions_of(table: pd.DataFrame, role: str | None = None) -> list[Condition]:
    """List the conditions of a table, sorted, without controls; with ``role``, those of a split that have it."""
    chosen = table if role is None else table[table["role"] == role]
    return [condition for condition in rows_of(chosen) if condition.perturbation != CONTROL]


def controls_of(table: pd.DataFrame) -> list[Condition]:
    """List the controls of the contexts of a table, sorted."""
    return [condition for condition in rows_of(table) if condition.perturbation == CONTROL]


def contexts_of(table: pd.DataFrame) -> list[str]:
    """List the contexts of a table, sorted."""
    return sorted(context_of(table).unique())


def listed(table: pd.DataFrame) -> list[Condition]:
    """List the condition of every row, in the order of rows."""
    return [Condition(*names) for names in zip(*(_column(table, name) for name in COLUMNS), strict=True)]


def rows_of(table: pd.DataFrame) -> dict[Condition, np.ndarray]:
    """Find the rows of each condition, controls included: positions in ascending order; conditions are sorted."""
    columns = pd.DataFrame({name: pd.Categorical(_column(table, name)) for name in COLUMNS})
    groups = columns.groupby(COLUMNS, observed=True).indices
    return {Condition(*map(str, names)): groups[names] for names in sorted(groups)}


def codes_of(table: pd.DataFrame, conditions: Sequence[Condition]) -> np.ndarray:
    """Find the position in ``conditions`` of each row's condition, int64 [rows]; -1 for any other."""
    codes, rows = np.full(len(table), -1), rows_of(table)
    for code, condition in enumerate(conditions):
        codes[rows.get(condition, [])] = code
    return codes


def directions_of(obs: pd.DataFrame, conditions: Sequence[Condition]) -> list[str]:
    """List the direction of each condition, that of its cells; nothing is said of any where ``obs`` has none."""
    if "direction" not in obs:
        return [""] * len(conditions)
    rows, directions = rows_of(obs), obs["direction"].astype(str).to_numpy()
    return [directions[rows[condition][0]] for condition in conditions]


def table_of(conditions: Sequence[Condition]) -> pd.DataFrame:
    """Make the columns ``perturbation`` and ``context`` of some conditions, indexed by their labels."""
    index = pd.Index([condition.label for condition in conditions], dtype=object)
    return pd.DataFrame([*conditions], columns=COLUMNS, index=index, dtype=object)


def context_of(table: pd.DataFrame) -> pd.Series:
    """Give the context of each row, as text."""
    return _column(table, "context")


def labels_of(table: pd.DataFrame) -> pd.Series:
    """Label the condition of each row, in the order of the rows."""
    return pd.Series([condition.label for condition in listed(table)], index=table.index, dtype=object)


def noun_of(table: pd.DataFrame) -> str:
    """Return the reader's word for a row: a perturbation, or a condition if contexts are declared."""
    return "perturbation" if contexts_of(table) == [ALL_CONTEXTS] else "condition"


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name == "context" and name not in table:
        return pd.Series(ALL_CONTEXTS, index=table.index, dtype=object)
    return table[name].astype(str)
