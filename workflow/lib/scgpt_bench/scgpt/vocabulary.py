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

from scgpt_bench.errors import InputError
from scgpt_bench.files import read_json

PAD = "<pad>"
SPECIAL_TOKENS = (PAD, "<cls>", "<eoc>")

_VERSION = re.compile(r"\.\d+$")


def human_vocabulary() -> dict[str, int]:
    """The vocabulary of scGPT_human: 60,697 tokens, read from the installed ``scgpt`` package without importing it."""
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


def align(genes: Iterable[str], vocabulary: Mapping[str, int]) -> pd.DataFrame:
    """Find every gene in a vocabulary.

    A gene has the token of its exact symbol. Failing that, of the one symbol that it becomes by these repairs, the
    first that leads to a symbol: a version suffix is cut (``ENSG00000187608.9``); dots become hyphens (``HLA.A``, as
    R writes ``HLA-A``); upper and lower case are ignored (``C1ORF112``, ``Stat1``). There are no aliases: they change
    with time, and an ambiguous one would give a gene another gene's identity.

    No two genes have the same token: a repair never takes the token of a gene with that exact symbol, and genes that
    are repaired to the same symbol are all padded. The result does not depend on the order of the genes.

    Parameters
    ----------
    genes
        Unique gene symbols.
    vocabulary
        Token ids by symbol, with ``<pad>``.

    Returns
    -------
    One row per gene, in order: ``gene``, ``token_id``, ``status`` (``in_vocabulary``, ``renamed``, ``padded``),
    ``matched_as`` (the symbol in the vocabulary; ``<pad>`` where padded).
    """
    genes = [str(gene) for gene in genes]
    symbols = {symbol: token for symbol, token in vocabulary.items() if symbol not in SPECIAL_TOKENS}
    exact = {gene for gene in genes if gene in symbols}
    by_upper_case: dict[str, set[str]] = {}
    for symbol in symbols:
        by_upper_case.setdefault(symbol.upper(), set()).add(symbol)
    repaired = {gene: _repaired(gene, symbols, by_upper_case) for gene in set(genes) - exact}
    claims = Counter(symbol for symbol in repaired.values() if symbol is not None)
    rows = []
    for gene in genes:
        repair = repaired.get(gene)
        if gene in exact:
            symbol, status = gene, "in_vocabulary"
        elif repair is not None and repair not in exact and claims[repair] == 1:
            symbol, status = repair, "renamed"
        else:
            symbol, status = PAD, "padded"
        rows.append((gene, vocabulary[symbol], status, symbol))
    return pd.DataFrame(rows, columns=["gene", "token_id", "status", "matched_as"])


def _repaired(gene: str, symbols: Mapping[str, int], by_upper_case: Mapping[str, set[str]]) -> str | None:
    """The symbol that ``gene`` means, or None where there is none or more than one."""
    without_version = _VERSION.sub("", gene)
    for candidate in (without_version, gene.replace(".", "-")):
        if candidate in symbols:
            return candidate
    for candidate in (gene, without_version, gene.replace(".", "-")):
        same_letters = by_upper_case.get(candidate.upper(), set())
        if len(same_letters) == 1:
            return next(iter(same_letters))
    return None
