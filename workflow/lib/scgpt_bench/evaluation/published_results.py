"""Published figures beside those of this run, where both mean the same.

Only GEARS' splits are compared (names beginning with ``gears``): the published figures were measured on those. A split
that this project draws has the rules of GEARS, not its draws; a table's tolerance has to cover that. Several sources
of a figure have a row each.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scgpt_bench.data.conditions import ALL_CONTEXTS
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_table

PUBLISHED_COLUMNS = ["dataset", "split", "method", "metric", "value", "tolerance", "source", "mark"]
COLUMNS = [*PUBLISHED_COLUMNS, "mean", "ci_low", "ci_high", "agrees"]
GEARS = "gears"
MARKS = {"read": "in the publication's text, tables or logs", "unverified": "reported by others"}
_KEY = ["dataset", "split", "method", "metric"]


def read_published(path: str | Path) -> pd.DataFrame:
    """Read the table of published figures, columns ``PUBLISHED_COLUMNS``.

    Raises
    ------
    InputError
        For another column, an empty cell, an unknown mark, a split that is not GEARS', or a figure twice of one source.
    """
    table = read_table(path)
    if list(table.columns) != PUBLISHED_COLUMNS:
        raise InputError(path, "columns", ", ".join(table.columns), ", ".join(PUBLISHED_COLUMNS))
    for position, row in enumerate(table.to_dict("records")):
        where = f"line {position + 2}"
        for column in PUBLISHED_COLUMNS:
            if pd.isna(row[column]):
                raise InputError(path, f"{where}, {column}", "nothing", "a value")
        if row["mark"] not in MARKS:
            raise InputError(path, f"{where}, mark", repr(row["mark"]), "one of " + ", ".join(MARKS))
        if not str(row["split"]).startswith(GEARS):
            raise InputError(path, f"{where}, split", repr(row["split"]), f"a split of GEARS, {GEARS}<seed>")
    twice = table[table.duplicated([*_KEY, "source"])]
    if len(twice):
        found = " ".join(map(str, twice.iloc[0][_KEY]))
        raise InputError(path, f"line {twice.index[0] + 2}", f"{found} a second time", "one figure of each source")
    return table


def beside_published(scores: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Set every published figure for a data set, split and metric that was run beside this run's.

    Parameters
    ----------
    scores
        ``scores.tsv``, of which the rows over all contexts are compared.
    published
        The table of :func:`read_published`.

    Returns
    -------
    Columns ``COLUMNS``. ``mean``, ``ci_low``, ``ci_high`` are this run's, missing where the method was not run;
    ``agrees`` is ``yes``, ``no`` or empty: whether ``mean`` is within ``tolerance`` of ``value``.
    """
    scores = scores[scores["context"] == ALL_CONTEXTS]
    run = scores[["dataset", "split", "metric"]].drop_duplicates()
    table = published.merge(run, on=["dataset", "split", "metric"])
    table = table.merge(scores[[*_KEY, "mean", "ci_low", "ci_high"]], on=_KEY, how="left")
    near = (table["mean"] - table["value"]).abs() <= table["tolerance"]
    table["agrees"] = near.map({True: "yes", False: "no"}).where(table["mean"].notna(), "")
    return table[COLUMNS]
