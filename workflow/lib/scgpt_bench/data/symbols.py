"""Common faults of gene names: identifiers, spreadsheet dates, duplicates, spelling, guides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import anndata
import pandas as pd

ENSEMBL_ID = r"ENS[A-Z]*G\d{11}(?:\.\d+)?"
_ENSEMBL_ID_ALONE = r"\A\s*(ENS[A-Z]*G\d{11})(?:\.\d+)?\s*\Z"
# What spreadsheets make of MARCH1, SEPT2 or DEC1: 1-Mar, Mar-01, 2001-03-01, 3/1/2001.
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
SPREADSHEET_DATE = re.compile(
    rf"\d{{1,2}}[-/ ]{_MONTH}(?:[-/ ]\d{{2,4}})?|{_MONTH}[-/ ]\d{{1,4}}"
    r"|\d{4}-\d\d-\d\d(?: 00:00:00)?|\d{1,2}/\d{1,2}/\d{2,4}",
    re.IGNORECASE,
)
# What distinguishes the guides or promoters of one gene: g1, _2, .3, -sg4, _g5, _P1, _P1P2, or the guide's sequence.
_GUIDE = re.compile(
    r"(.+?)((?:[-_.](?:sg|g|guide|grna)?|(?:sg|g|guide|grna)[-_.]?)\d+|[-_.](?:p\d+)+|[-_.][ACGT]{15,})", re.IGNORECASE
)
UNASSIGNED = {"", "*", "-", "?", "nan", "none", "na", "<na>", "unassigned", "unknown", "ambiguous", "undetermined"}
UNASSIGNED |= {"doublet", "multiplet", "no guide", "no_guide", "noguide", "no-guide"}
# Labels of cells that were not perturbed, or with a guide that targets no gene; letters only, in lower case.
_CONTROL_NAMES = {"nt", "ntc", "ntctrl", "ntcontrol", "nontarget", "nontargeting", "nontargetingcontrol"}
_CONTROL_NAMES |= {"nontargetingcontrolguideforhuman", "nontargetingcontrolguideformouse"}
_CONTROL_NAMES |= {"ctrl", "control", "ctr", "ctl", "negctrl", "negcontrol", "negativecontrol"}
_CONTROL_NAMES |= {"safetargeting", "safeharbor"}
_CONTROL_NAMES |= {"scramble", "scrambled", "intergenic", "unperturbed", "untreated", "wildtype", "mock"}
_CONTROL_NAMES |= {"nosite", "onenongenesite", "random", "aavs", "rosa"}


def are_ensembl_ids(names: Sequence[str]) -> bool:
    """Return whether most of the names are Ensembl identifiers of genes."""
    table = pd.Series(list(names), dtype=str)
    return len(table) > 0 and table.str.fullmatch(ENSEMBL_ID).mean() > 0.5


def ensembl_ids(var: pd.DataFrame) -> tuple[pd.Series, list[str], int]:
    """Find the Ensembl identifier of each gene, without its version, in the index and the columns of text of ``var``.

    Only what looks like one counts, whatever the name of its column.

    Returns
    -------
    Identifiers, one per gene, empty where the file has none or contradicts itself; the places that have any (``index``
    or a column); for how many genes they contradict each other.
    """
    places = {"index": pd.Series(var.index), **{str(name): var[name].reset_index(drop=True) for name in var}}
    texts = {name: column for name, column in places.items() if not pd.api.types.is_numeric_dtype(column.dtype)}
    found = {name: column.astype(str).str.extract(_ENSEMBL_ID_ALONE)[0] for name, column in texts.items()}
    table = pd.DataFrame(found).dropna(axis="columns", how="all")
    if table.empty:
        return pd.Series("", index=var.index), [], 0
    first = table.bfill(axis="columns").iloc[:, 0]
    differ = (table.notna() & table.ne(first, axis="index")).any(axis="columns")
    return pd.Series(first.where(~differ, "").fillna("").to_numpy(), index=var.index), list(table), int(differ.sum())


def spreadsheet_dates(names: Iterable[str]) -> list[str]:
    """List the names that a spreadsheet turned into dates."""
    return [name for name in names if SPREADSHEET_DATE.fullmatch(name)]


def is_unassigned(label: str) -> bool:
    """Return whether a label says that no guide was called."""
    return label.strip().lower() in UNASSIGNED


def named_like_controls(targets: Iterable[str]) -> list[str]:
    """List the targets that are named as control cells usually are: ``NT``, ``non-targeting_1``, ``AAVS1``."""
    return [target for target in targets if re.sub(r"[^a-z]", "", target.casefold()) in _CONTROL_NAMES]


def make_unique(names: pd.Index) -> pd.Index:
    """Make names unique by a number at the end of all but the first: ``A``, ``A-1``."""
    return names if names.is_unique else anndata.utils.make_index_unique(names)


def measured_spelling(genes: Iterable[str], measured: Iterable[str]) -> dict[str, str]:
    """Find the one measured gene that each of ``genes`` means where only upper and lower case differ.

    Genes that were measured as they are spelled, or not at all, are left out.
    """
    exact = set(measured)
    by_case: dict[str, list[str]] = {}
    for gene in exact:
        by_case.setdefault(gene.upper(), []).append(gene)
    candidates = {gene: by_case.get(gene.upper(), []) for gene in genes if gene not in exact}
    return {gene: found[0] for gene, found in candidates.items() if len(found) == 1}


def pairs_differing_in_case(genes: Iterable[str]) -> list[tuple[str, str]]:
    """List the pairs of names that differ in upper and lower case only."""
    seen: dict[str, str] = {}
    pairs = []
    for gene in sorted(genes):
        other = seen.setdefault(gene.upper(), gene)
        if other != gene:
            pairs.append((other, gene))
    return pairs


def labels_of_one_gene(targets: Sequence[str], measured: Iterable[str]) -> list[list[str]]:
    """Group the targets that differ in a guide's or promoter's ending only, or in having one.

    What was measured under its own name is a gene, and so may be what was not (NKX2-1 and NKX2-5, ATG5 and ATG7): what
    such names share has to be measured or a target itself, unless the ending begins with ``_``, which is in no symbol.
    """
    known = {gene.upper() for gene in measured}
    genes = known | {target.upper() for target in targets}
    groups: dict[str, list[str]] = {}
    for target in targets:
        match = None if target.upper() in known else _GUIDE.fullmatch(target)
        shared = match[1] if match and (match[2].startswith("_") or match[1].upper() in genes) else target
        groups.setdefault(shared, []).append(target)
    return [group for group in groups.values() if len(group) > 1]
