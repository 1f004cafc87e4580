"""Which of a data set's genes a checkpoint knows, and under which name.

A gene that is not found becomes ``<pad>``: scGPT still attends to it, but all such genes share one identity.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from scgpt_bench.data.symbols import ENSEMBL_ID
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_json, read_table

PAD = "<pad>"
SPECIAL_TOKENS = (PAD, "<cls>", "<eoc>")

_VERSION = re.compile(r"\.\d+$")


def human_vocabulary() -> dict[str, int]:
    """Read the vocabulary of scGPT_human, 60,697 tokens, from the installed ``scgpt`` package without importing it."""
    package = find_spec("scgpt")
    if package is None or not package.submodule_search_locations:
        raise InputError("scgpt", "installed packages", "no such package", "scgpt 0.2.4")
    path = Path(package.submodule_search_locations[0], "tokenizer", "default_census_vocab.json")
    genes = json.loads(path.read_text())
    return genes | {token: len(genes) + i for i, token in enumerate(SPECIAL_TOKENS)}


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Read a checkpoint's ``vocab.json``.

    Returns
    -------
    Token ids 0 to n - 1 by gene symbol or special token.

    Raises
    ------
    InputError
        If it is not a JSON object of symbols and ids, a symbol or an id occurs twice, ids leave a gap, or ``<pad>`` is
        missing.
    """
    what = "token ids by gene symbol"
    pairs = read_json(path, what, object_pairs_hook=tuple)
    if not isinstance(pairs, tuple):
        raise InputError(path, "file", type(pairs).__name__, f"a JSON object: {what}")
    for symbol, token in pairs:
        if type(token) is not int:
            raise InputError(path, repr(symbol), repr(token), "a whole number, the token id")
    for position, what in ((0, "symbol"), (1, "token id")):
        value, times = Counter(pair[position] for pair in pairs).most_common(1)[0] if pairs else (None, 0)
        if times > 1:
            raise InputError(path, f"{what} {value!r}", f"{times} times", "once")
    vocabulary = dict(pairs)
    if PAD not in vocabulary:
        raise InputError(path, "symbols", f"{len(vocabulary)} without {PAD!r}", f"{PAD!r}, the token of unknown genes")
    if set(vocabulary.values()) != set(range(len(vocabulary))):
        found = f"{min(vocabulary.values())} to {max(vocabulary.values())}"
        raise InputError(path, "token ids", found, f"0 to {len(vocabulary) - 1} for {len(vocabulary)} symbols")
    return vocabulary


def read_gene_info(path: str | Path) -> dict[str, str]:
    """Read the Ensembl identifiers of a vocabulary: a CSV with ``feature_id`` and ``feature_name``, as Census has them.

    Returns
    -------
    Gene symbols by Ensembl identifier.

    Raises
    ------
    InputError
        If a column is missing, a value of ``feature_id`` is no Ensembl identifier, or one of either stands twice.
    """
    table = read_table(path, ",", dtype=str, na_values=[])
    columns = ("feature_id", "feature_name")
    missing = [column for column in columns if column not in table]
    if missing:
        found = f"no column {missing[0]!r} (columns: {', '.join(map(str, table.columns))})"
        raise InputError(path, "line 1", found, "the columns feature_id (Ensembl) and feature_name (symbol)")
    wrong = ~table["feature_id"].str.fullmatch(ENSEMBL_ID)
    if wrong.any():
        where = f"line {wrong.argmax() + 2}, feature_id"
        raise InputError(path, where, repr(table["feature_id"][wrong.argmax()]), "an Ensembl identifier of a gene")
    table["feature_id"] = table["feature_id"].str.replace(_VERSION, "", regex=True)
    for column in columns:
        twice = table[column].duplicated()
        if twice.any():
            raise InputError(path, column, f"{table[column][twice.argmax()]!r} a second time", "every one once")
    return dict(zip(table["feature_id"], table["feature_name"], strict=True))


def refuse_unrelated(path: str | Path, vocabulary: Mapping[str, int], alignment: pd.DataFrame) -> None:
    """Refuse a vocabulary of none of a data set's genes, such as one of other identifiers: all would be one gene."""
    if (alignment["status"] == "padded").all():
        genes, symbol = alignment["gene"], next(iter(vocabulary))
        found = f"none of the data set's {len(genes)} genes ({genes.iloc[0]}, ...), but {symbol}, ..."
        raise InputError(path, "symbols", found, "their names")


def align(
    genes: Iterable[str],
    vocabulary: Mapping[str, int],
    gene_ids: Iterable[str] | None = None,
    symbol_of_id: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Find every gene in a vocabulary.

    A gene has the token of its exact symbol. Failing that, the one that its Ensembl identifier has in the vocabulary
    (``C8orf59``, called ``RBIS`` since: symbols change, identifiers do not). Failing that, of the one symbol that it
    becomes by these repairs, the first that leads to a symbol: a version suffix is cut (``ENSG00000187608.9``); dots
    become hyphens (``HLA.A``, as R writes ``HLA-A``); upper and lower case are ignored (``C1ORF112``, ``Stat1``). There
    are no aliases: they change with time, and an ambiguous one would give a gene another gene's identity.

    No two genes have the same token. A symbol that one way finds is not given away by a later one, and genes that the
    same way leads to the same symbol are all padded. A gene whose identifier has a token is never repaired to another
    one. The result does not depend on the order of the genes.

    Parameters
    ----------
    genes
        Unique gene symbols.
    vocabulary
        Token ids by symbol, with ``<pad>``.
    gene_ids
        The Ensembl identifier of each gene, without its version; empty where it is not known.
    symbol_of_id
        The vocabulary's symbols by Ensembl identifier: :func:`read_gene_info`.

    Returns
    -------
    One row per gene, in order: ``gene``, ``token_id``, ``status`` (``in_vocabulary``, ``renamed``, ``padded``),
    ``matched_as`` (the symbol in the vocabulary; ``<pad>`` where padded).
    """
    genes = [str(gene) for gene in genes]
    symbols = {symbol: token for symbol, token in vocabulary.items() if symbol not in SPECIAL_TOKENS}
    matched = {gene: gene for gene in genes if gene in symbols}
    by_id = {}
    if gene_ids is not None and symbol_of_id is not None:
        found = ((gene, symbol_of_id.get(gene_id)) for gene, gene_id in zip(genes, gene_ids, strict=True))
        by_id = {gene: symbol for gene, symbol in found if symbol in symbols and gene not in matched}
    _give_away(by_id, matched)
    by_upper_case: dict[str, set[str]] = {}
    for symbol in symbols:
        by_upper_case.setdefault(symbol.upper(), set()).add(symbol)
    others = {gene for gene in genes if gene not in matched and gene not in by_id}
    _give_away({gene: _repaired(gene, symbols, by_upper_case) for gene in others}, matched)
    rows = []
    for gene in genes:
        symbol = matched.get(gene, PAD)
        status = "padded" if gene not in matched else "in_vocabulary" if symbol == gene else "renamed"
        rows.append((gene, vocabulary[symbol], status, symbol))
    return pd.DataFrame(rows, columns=["gene", "token_id", "status", "matched_as"])


def _give_away(wanted: Mapping[str, str | None], matched: dict[str, str]) -> None:
    """Add to ``matched`` the genes whose symbol nobody has and no other gene wants."""
    taken, claims = set(matched.values()), Counter(wanted.values())
    for gene, symbol in wanted.items():
        if symbol is not None and symbol not in taken and claims[symbol] == 1:
            matched[gene] = symbol


def _repaired(gene: str, symbols: Mapping[str, int], by_upper_case: Mapping[str, set[str]]) -> str | None:
    """Find the symbol that ``gene`` means; None where there is none or more than one."""
    without_version = _VERSION.sub("", gene)
    for candidate in (without_version, gene.replace(".", "-")):
        if candidate in symbols:
            return candidate
    for candidate in (gene, without_version, gene.replace(".", "-")):
        same_letters = by_upper_case.get(candidate.upper(), set())
        if len(same_letters) == 1:
            return next(iter(same_letters))
    return None
