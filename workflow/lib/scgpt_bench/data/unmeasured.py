"""Perturbations that nobody measured: what a list asks for, and the split in which methods learn from all that was.

To a method, a prediction is a split like any other, whose tested conditions have no cells: it learns from all measured
conditions, and starts from control cells of the context.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scgpt_bench.data.conditions import Condition, conditions_of, contexts_of, directions_of
from scgpt_bench.data.names import CONTROL, JOINED_BY
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.data.splits import table_of_roles
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_table

ASKED_COLUMNS = ["given", "perturbation", "context", "direction", "predicted", "reason"]
ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{6,})(\.\d+)?")
WAYS = ("down", "up")
GENE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


def read_list(path: str | Path) -> pd.DataFrame:
    """Read the perturbations to predict.

    - ``.tsv``, ``.csv``: a column ``perturbation``, or ``target_gene`` as in files of the Virtual Cell Challenge and,
      if needed, ``direction`` (``down``, ``up``); other columns are not read;
    - any other name: text, one perturbation per line.

    Genes of a combination are joined by ``+``.

    Returns
    -------
    ``given`` and ``direction`` (empty where the file has none), a row for each line that is not empty.

    Raises
    ------
    InputError
        For a file without such a column or without a line, for a direction that is none, or a text that is no gene.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".tsv", ".csv"):
        table = read_table(path, "\t" if suffix == ".tsv" else ",", dtype=str, na_values=[])
        named = next((name for name in ("perturbation", "target_gene") if name in table), None)
        if named is None:
            expected = "perturbation (or target_gene) and, if needed, direction"
            raise InputError(path, "columns", ", ".join(map(str, table)), expected)
        names = table[named].str.strip()
        direction = table["direction"].str.strip() if "direction" in table else pd.Series("", index=table.index)
    else:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(path, "file", str(error), "one perturbation per line") from None
        names = pd.Series(lines, dtype=object).str.strip()
        direction = pd.Series("", index=names.index)
    wanted = pd.DataFrame({"given": names, "direction": direction})[names != ""]
    if wanted.empty:
        raise InputError(path, "lines", "none", "one perturbation per line")
    for line, given, way in wanted.itertuples():
        where = f"line {line + 1 + (suffix in ('.tsv', '.csv'))}"
        if way not in ("", *WAYS):
            raise InputError(path, f"{where}, direction", repr(way), "one of " + ", ".join(WAYS))
        if given == CONTROL or not all(GENE.fullmatch(part.strip()) for part in given.split(JOINED_BY)):
            raise InputError(path, where, repr(given), "a gene, or genes joined by '+'")
    return wanted.reset_index(drop=True)


def targets_of(path: str | Path) -> pd.DataFrame:
    """List the perturbations of another data set, from its ``cells.h5ad``, as :func:`read_list` does."""
    obs = open_h5ad(path).obs
    conditions = conditions_of(obs)
    table = pd.DataFrame({"given": [c.perturbation for c in conditions], "direction": directions_of(obs, conditions)})
    return table.drop_duplicates(ignore_index=True)


def asked(
    wanted: pd.DataFrame,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    contexts: Sequence[str],
    direction: str | None,
    source: str | Path,
) -> pd.DataFrame:
    """List, for every line in every context, whether it is predicted, under which name, or why not.

    A gene is found by its symbol, as it is written or in another case, or by its Ensembl identifier where ``var`` has
    these. One that is not measured keeps its name: a method may know it.

    Parameters
    ----------
    wanted
        Of :func:`read_list`.
    obs, var
        Of ``cells.h5ad``.
    contexts
        Those to predict; none for all that have control cells.
    direction
        Of perturbations whose line says none; None where the data set has both.
    source
        The list, for errors.

    Returns
    -------
    Columns ``ASKED_COLUMNS``. ``predicted`` is ``yes`` or ``no``; ``reason`` says how a gene was found, where it is not
    written as in the data set, or why nothing is predicted: what was measured, lines that are there twice, and
    identifiers that the data set does not have.

    Raises
    ------
    InputError
        For an unknown context, for a line without direction where both are possible, or if nothing is predicted.
    """
    known = contexts_of(obs[obs["perturbation"] == CONTROL])
    for context in contexts:
        if context not in known:
            raise InputError(source, "contexts", repr(context), "contexts with control cells: " + ", ".join(known))
    measured, genes = {*conditions_of(obs)}, _GeneNames(var)
    rows: list[tuple[str, str, str, str, str, str]] = []
    seen: set[Condition] = set()
    for given, own_direction in wanted[["given", "direction"]].itertuples(index=False):
        way = own_direction or direction
        if way is None:
            raise InputError(source, repr(given), "no direction", "a column direction: the data set has both")
        name, notes = genes.perturbation(given)
        for context in contexts or known:
            condition = Condition(name or given, context)
            refusal = ""
            if name is None:
                refusal = "identifier that the data set does not have"
            elif condition in measured:
                refusal = "measured: its cells are in the data set"
            elif condition in seen:
                refusal = "asked for twice"
            seen.add(condition)
            rows.append((given, *condition, way, "no" if refusal else "yes", refusal or "; ".join(notes)))
    table = pd.DataFrame(rows, columns=ASKED_COLUMNS)
    if not (table["predicted"] == "yes").any():
        found = f"{len(table)} lines, {table['reason'].iloc[0]}"
        raise InputError(source, "perturbations", found, "at least one that nobody measured")
    return table


class _GeneNames:
    """The names under which the genes of a data set are found."""

    def __init__(self, var: pd.DataFrame):
        self.symbols = {*map(str, var.index)}
        self.folded: dict[str, list[str]] = {}
        for symbol in sorted(self.symbols):
            self.folded.setdefault(symbol.casefold(), []).append(symbol)
        ids = var["gene_id"].astype(str) if "gene_id" in var else pd.Series(dtype=str)
        self.symbol_of = {identifier: str(symbol) for symbol, identifier in ids.items() if identifier}

    def perturbation(self, given: str) -> tuple[str | None, list[str]]:
        """Name a perturbation as the data set does; None if a gene has only an identifier, which is not known."""
        names, notes = [], []
        for part in given.split(JOINED_BY):
            name, note = self._gene(part.strip())
            if name is None:
                return None, []
            names.append(name)
            notes += [note] if note else []
        return JOINED_BY.join(sorted({*names})), notes

    def _gene(self, given: str) -> tuple[str | None, str]:
        if given in self.symbols:
            return given, ""
        if identifier := ENSEMBL.fullmatch(given):
            symbol = self.symbol_of.get(identifier[1])
            return symbol, f"{given} is {symbol}"
        alike = self.folded.get(given.casefold(), [])
        if len(alike) == 1:
            return alike[0], f"{given} is {alike[0]}"
        return given, f"{given} is not among the measured genes"


def split(obs: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Make the split of a prediction: all measured conditions are trained on, those of ``asked`` are tested.

    Returns
    -------
    As :func:`scgpt_bench.data.splits.fold`, without a role ``validation``.
    """
    roles = dict.fromkeys(conditions_of(obs), "train")
    return table_of_roles(roles | dict.fromkeys(conditions_of(asked[asked["predicted"] == "yes"]), "test"))


def usual_direction(obs: pd.DataFrame, of_kind: str | None) -> str | None:
    """Give the direction of all measured conditions or, without any, that of the data set's kind; None for both."""
    measured = {*directions_of(obs, conditions_of(obs))}
    if not measured:
        return of_kind
    return measured.pop() if len(measured) == 1 else None
