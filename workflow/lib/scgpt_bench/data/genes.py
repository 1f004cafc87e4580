"""The genes of a drop: which features are genes, their names, and which of them vary most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scgpt_bench.data import symbols as gene_names
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.means import FEWEST

# Columns of var that say what a feature is; writers other than 10x spell them differently.
FEATURE_TYPE_COLUMNS = ("feature_types", "feature_type", "feature_biotype", "modality")
_GENES = {"gene expression", "gene", "genes", "gex", "rna", "mrna"}
_OTHERS = {"crispr guide capture", "antibody capture", "antigen capture", "multiplexing capture", "custom", "peaks"}
_OTHERS |= {"chromatin accessibility", "cut sites", "guide", "grna", "sgrna", "crispr", "adt", "hto", "protein"}
_OTHERS |= {"atac", "spike-in", "abseq", "antibody"}


@dataclass(frozen=True)
class Genes:
    """The genes of a drop.

    Attributes
    ----------
    is_gene
        Mask [features of the file]: False for guides, antibodies, peaks and the like.
    names
        The name of each gene in the file.
    symbols
        The same, made unique.
    ids
        The Ensembl identifier of each gene, without its version; empty where the file has none.
    ids_from
        The places in ``var`` with identifiers: ``index`` or columns.
    """

    is_gene: np.ndarray
    names: pd.Index
    symbols: pd.Index
    ids: np.ndarray
    ids_from: list[str]

    @property
    def duplicated(self) -> list[str]:
        """List the names that several genes have."""
        return [*self.names[self.names.duplicated()].unique()]

    @property
    def var(self) -> pd.DataFrame:
        """Make ``var`` of cells.h5ad: indexed by the symbols; ``gene_id`` where the file has identifiers."""
        return pd.DataFrame({"gene_id": self.ids} if self.ids_from else None, index=self.symbols)

    @property
    def duplicates_in_words(self) -> str:
        """Describe how many names several genes have, and the first five."""
        return f"{len(self.duplicated)} duplicate gene names: " + ", ".join(map(repr, self.duplicated[:5]))


def read_genes(var: pd.DataFrame, dataset: Dataset, findings: Findings) -> Genes:
    """Read which features are genes, their symbols and their Ensembl identifiers.

    Raises
    ------
    InputError
        For features without a type, too few genes, a missing column of symbols, and identifiers in place of symbols.
    """
    is_gene = _gene_features(var, findings)
    if is_gene.sum() < FEWEST:
        raise findings.error("genes", f"{is_gene.sum()}", f"at least {FEWEST}: over fewer nothing correlates")
    var = var[is_gene]
    names = _names(var, dataset, findings)
    ids, ids_from, n_contradictory = gene_names.ensembl_ids(var)
    genes = Genes(is_gene, names, gene_names.make_unique(names), ids.to_numpy(dtype=object), ids_from)
    if genes.duplicated:
        findings.repairs.append(f"{genes.duplicates_in_words}: all but the first of each got a number at the end")
    dates = gene_names.spreadsheet_dates(names)
    if dates:
        shown = ", ".join(map(repr, dates[:5]))
        findings.problems.append(
            f"{len(dates)} genes whose names a spreadsheet turned into dates ({shown}): nothing knows them"
        )
    if n_contradictory:
        places = " and ".join(map(repr, ids_from))
        findings.problems.append(
            f"{n_contradictory} genes have different Ensembl identifiers in {places} of var: none is used"
        )
    return genes


def _gene_features(var: pd.DataFrame, findings: Findings) -> np.ndarray:
    """Find the features that are genes: all of them where no column of ``var`` says what they are.

    A column counts if it has a word for genes, or only words for other features; one that has something else
    (biotypes, such as protein_coding) does not.
    """
    is_gene = np.ones(len(var), dtype=bool)
    for column in FEATURE_TYPE_COLUMNS:
        if column not in var:
            continue
        kinds = var[column].astype(object).where(var[column].notna(), "").astype(str).str.strip()
        words = kinds.str.casefold()
        if not words.isin(_GENES).any() and not (len(words) and words.isin(_OTHERS).all()):
            continue
        untyped = (words == "").to_numpy()
        if untyped.any():
            where = f"var[{column!r}] of {var.index[untyped.argmax()]!r}"
            raise findings.error(where, f"no value ({untyped.sum()} such features)", "the type of every feature")
        is_gene &= words.isin(_GENES).to_numpy()
        left_out = kinds[~words.isin(_GENES)].value_counts()
        if not is_gene.any():
            found = ", ".join(f"{kind} ({number})" for kind, number in left_out.items())
            raise findings.error(f"var[{column!r}]", f"only {found}", "features of type 'Gene Expression'")
        if len(left_out):
            shown = ", ".join(f"{number} {kind}" for kind, number in left_out.items())
            findings.repairs.append(f"{left_out.sum()} features that are no genes left out ({column}): {shown}")
    return is_gene


def _names(var: pd.DataFrame, dataset: Dataset, findings: Findings) -> pd.Index:
    """Read the symbols from the column that the row names, or the index of ``var``."""
    index = var.index.astype(str).to_numpy(dtype=object)
    if not dataset.gene_symbol_column:
        if gene_names.are_ensembl_ids(index):
            existing = ", ".join(map(repr, var.columns)) or "none"
            expected = f"gene symbols, or gene_symbol_column in the data-set table (columns of var: {existing})"
            raise findings.error("var index", f"Ensembl identifiers such as {index[0]!r}", expected)
        return pd.Index(index)
    column = findings.column(var, "var", dataset.gene_symbol_column, "gene symbols").astype("object")
    names = column.astype(str).str.strip()
    named = (column.notna() & ~names.isin(["", "nan"])).to_numpy()
    if not named.all():
        findings.repairs.append(f"{(~named).sum()} genes without a symbol are called by the file's index")
    return pd.Index(np.where(named, names, index))


def choose_genes(
    symbols: pd.Index, targets: list[str], moments: tuple[int, np.ndarray, np.ndarray], number: int, findings: Findings
) -> np.ndarray:
    """Choose the ``number`` of genes that vary most among control cells, and every measured target: a mask [genes].

    ``moments`` are the number of control cells, and mean and variance of each gene's scaled counts over them. Control
    cells that are too few or all alike are an ``InputError``.
    """
    n_cells, mean, variance = moments
    advice = "to choose genes by dispersion, or maximum_genes: null"
    if n_cells < FEWEST:
        raise findings.error("control cells", f"{n_cells}", f"at least {FEWEST} {advice}")
    if not (variance > 0).any():
        raise findings.error("control cells", "no gene that varies among them", f"control cells that differ, {advice}")
    return most_variable(mean, variance, number) | symbols.isin(targets)


def most_variable(mean: np.ndarray, variance: np.ndarray, number: int) -> np.ndarray:
    """Find the genes with the highest normalized dispersion: the ``seurat`` flavour of scanpy 1.11, a mask [genes].

    ``mean`` and ``variance`` are those of scaled counts, not of logarithms [genes]. Ties with the last gene join it.
    """
    dispersion = variance / np.where(mean == 0, 1e-12, mean)
    table = pd.DataFrame({"dispersion": np.log(np.where(dispersion == 0, np.nan, dispersion))})
    table["bin"] = pd.cut(np.log1p(np.where(mean == 0, 1e-12, mean)), bins=20)
    groups = table.groupby("bin", observed=True)["dispersion"]
    centre, spread = groups.transform("mean"), groups.transform("std")
    # A gene alone in its bin has no spread: its normalized dispersion is 1.
    alone = spread.isna()
    normalized = (table["dispersion"] - centre.where(~alone, 0)) / spread.where(~alone, centre)
    cutoff = np.sort(normalized.dropna())[::-1][:number][-1]
    return (normalized >= cutoff).to_numpy()
