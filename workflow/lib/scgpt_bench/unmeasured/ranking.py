"""Which of the predicted perturbations to measure: rankings by size, by a signature, and where methods agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import COLUMNS, Condition, listed
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_table
from scgpt_bench.method_record import MethodRecord

RANKING_COLUMNS = [
    *("method", *COLUMNS, "asked", "effect", "rank_by_effect", "agreement", "signature", "rank_by_signature")
]
ROUNDING = 1e-6  # of changes, on the log1p scale: cells are in single precision
SIGNS = {"up": 1.0, "down": -1.0}


def read_signature(path: str | Path) -> pd.Series:
    """Read a signature: the columns ``gene`` and ``direction`` (``up``, ``down``) of a TSV or CSV.

    Returns
    -------
    1 or -1 of each gene.

    Raises
    ------
    InputError
        For a missing column, another direction, or a gene that is there twice.
    """
    table = read_table(path, "," if Path(path).suffix.lower() == ".csv" else "\t", dtype=str, na_values=[])
    if not {"gene", "direction"} <= {*table}:
        raise InputError(path, "columns", ", ".join(map(str, table)), "gene and direction")
    for line, direction in enumerate(table["direction"], start=2):
        if direction not in SIGNS:
            raise InputError(path, f"line {line}, direction", repr(direction), "up or down")
    twice = table["gene"][table["gene"].duplicated()]
    if len(twice):
        raise InputError(path, f"gene {twice.iloc[0]!r}", "two lines", "every gene once")
    return pd.Series(table["direction"].map(SIGNS).to_numpy(float), index=table["gene"])


def rank(
    changes: Mapping[str, pd.DataFrame], records: Mapping[str, MethodRecord], signature: pd.Series | None = None
) -> pd.DataFrame:
    """Rank the perturbations of a list for every method, in every context.

    Parameters
    ----------
    changes
        Of each method, as :func:`scgpt_bench.unmeasured.changes.changes` makes them.
    records
        The record of each method.
    signature
        Of :func:`read_signature`.

    Returns
    -------
    Columns ``RANKING_COLUMNS``, methods in the given order, conditions by ``rank_by_effect``.

    - ``asked``: ``no`` where the method could not be asked about the perturbation and predicts a stated fallback;
    - ``effect``: the root mean square of the predicted change over all genes but the targets; ranks start at 1 in every
      context, and perturbations that the method was not asked about come last;
    - ``agreement``: the mean correlation of the change with that of every other method that was asked; empty without
      another one;
    - ranks and ``agreement`` are empty for a method whose answers come from random weights
      (:attr:`MethodRecord.untrained`), and no other method's agreement counts it;
    - ``signature``: the cosine of the change and the signature, over its genes that were measured, without the targets.

    Raises
    ------
    InputError
        If no gene of the signature was measured.
    """
    tables = {method: _matrix(table) for method, table in changes.items()}
    asked = {method: _asked(records[method], table) for method, table in tables.items()}
    blocks = []
    for method, table in tables.items():
        conditions, values = listed(_conditions(table)), _without_targets(table)
        block = _conditions(table).assign(method=method, asked=np.where(asked[method], "yes", "no"))
        block["effect"] = np.sqrt(np.nanmean(values**2, axis=1))
        others = [
            np.where(asked[other], _correlations(values, _without_targets(tables[other])), np.nan)
            for other in tables
            if other != method and not (records[method].untrained or records[other].untrained)
        ]
        block["agreement"] = _mean_of_known(others, len(conditions))
        block["signature"] = np.nan if signature is None else _cosines(table, signature)
        for name, column in (("rank_by_effect", "effect"), ("rank_by_signature", "signature")):
            last = block[column].where(block["asked"] == "yes", -np.inf)
            ranks = last.groupby(block["context"]).rank(ascending=False, method="min")
            block[name] = ranks.where(block[column].notna() & (not records[method].untrained)).astype("Int64")
        blocks.append(block.sort_values(["context", "rank_by_effect", "perturbation"]))
    return pd.concat(blocks, ignore_index=True)[RANKING_COLUMNS]


def _matrix(changes: pd.DataFrame) -> pd.DataFrame:
    """Bring changes into the form [conditions x genes], by perturbation and context; what is rounding becomes 0."""
    genes = changes["gene"].unique()
    conditions = changes[COLUMNS].astype(str).drop_duplicates()
    values = changes["change"].to_numpy(dtype=np.float64).reshape(len(conditions), len(genes))
    values = np.where(np.abs(values) > ROUNDING, values, 0.0)
    return pd.DataFrame(values, index=pd.MultiIndex.from_frame(conditions), columns=map(str, genes))


def _conditions(table: pd.DataFrame) -> pd.DataFrame:
    return table.index.to_frame(index=False)


def _asked(record: MethodRecord, table: pd.DataFrame) -> np.ndarray:
    """Return which rows the method was asked about."""
    asked = {Condition(one.perturbation, one.context) for one in record.asked}
    return np.array([condition in asked for condition in listed(_conditions(table))])


def _without_targets(table: pd.DataFrame) -> np.ndarray:
    """Empty the targets of each condition: that a target changes is no prediction."""
    values = table.to_numpy(copy=True)
    for row, condition in enumerate(listed(_conditions(table))):
        columns = table.columns.get_indexer(list(condition.genes))
        values[row, columns[columns >= 0]] = np.nan
    return values


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlate rows over the genes that both have; not a number where one does not vary."""
    a, b = (values - np.nanmean(values, axis=1, keepdims=True) for values in (a, b))
    lengths = np.sqrt(np.nansum(a**2, axis=1) * np.nansum(b**2, axis=1))
    return np.divide(np.nansum(a * b, axis=1), lengths, out=np.full(len(a), np.nan), where=lengths > 0)


def _mean_of_known(values: list[np.ndarray], n: int) -> np.ndarray:
    known = np.array(values).reshape(-1, n)
    number = np.isfinite(known).sum(axis=0)
    return np.divide(np.nansum(known, axis=0), number, out=np.full(n, np.nan), where=number > 0)


def _cosines(table: pd.DataFrame, signature: pd.Series) -> np.ndarray:
    shared = table.columns.intersection(signature.index)
    if not len(shared):
        expected = "genes of the data set, by their symbols"
        raise InputError("signature", "gene", f"{len(signature)} genes, none of them measured", expected)
    values = _without_targets(table[shared])
    wanted = np.where(np.isnan(values), 0.0, signature[shared].to_numpy())
    values = np.nan_to_num(values)
    lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(wanted, axis=1)
    return np.divide((values * wanted).sum(axis=1), lengths, out=np.zeros(len(values)), where=lengths > 0)
