"""Gene vectors for methods that learn from them: of a file, or of the measured changes of another data set."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import conditions_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import FEWEST, condition_means
from scgpt_bench.data.names import genes_of
from scgpt_bench.data.references import references
from scgpt_bench.data.symbols import are_ensembl_ids, measured_spelling, spreadsheet_dates
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line, read_h5ad, read_table

logger = logging.getLogger(__name__)


def perturbed_genes(obs: pd.DataFrame) -> list[str]:
    """List the genes that are perturbed in any cell, alone or with others, sorted."""
    return sorted({gene for condition in conditions_of(obs) for gene in condition.genes})


def gene_vectors(cells: anndata.AnnData, vectors: pd.DataFrame, file: str | Path, **origin: str) -> anndata.AnnData:
    """Find the vectors of the measured genes and of perturbed genes that were not measured.

    A gene has the vector of its exact symbol or, failing that, of the one that differs in upper and lower case only.
    Vectors named by Ensembl identifiers are found by those of ``cells.var["gene_id"]``.

    Parameters
    ----------
    cells
        ``cells.h5ad``; X is not read.
    vectors
        Of :func:`read_vectors` or :func:`changes_as_vectors`.
    file
        Where they are from, for errors.
    origin
        Entries of ``uns``, for the method record.

    Returns
    -------
    float32 [genes with a vector x dimensions].

    Raises
    ------
    InputError
        If no perturbed gene has a vector.
    """
    targets = perturbed_genes(cells.obs)
    known = set(vectors.index)
    wanted = [*cells.var_names, *sorted(set(targets) - set(cells.var_names))]
    dates = spreadsheet_dates(vectors.index)
    if dates:
        logger.warning("%s: %d names are dates, as spreadsheets make of genes, such as %s", file, len(dates), dates[0])
    if are_ensembl_ids(vectors.index):
        ids = cells.var["gene_id"] if "gene_id" in cells.var else pd.Series(dtype=str)
        found = {gene: gene_id for gene, gene_id in ids.items() if gene_id in known}
    else:
        found = {gene: gene for gene in wanted if gene in known} | measured_spelling(wanted, known)
    if not set(targets) & set(found):
        some, others = ", ".join(targets[:3]), ", ".join(vectors.index[:3])
        what = f"none of the {len(targets)} perturbed genes ({some}, ...), but {others}, ..."
        raise InputError(file, "genes", what, "gene symbols as in the data set, or Ensembl identifiers if it has them")
    genes = [gene for gene in wanted if gene in found]
    rows = vectors.loc[[found[gene] for gene in genes]].to_numpy(dtype=np.float32)
    return anndata.AnnData(rows, obs=pd.DataFrame(index=genes), uns=dict(origin))


def read_vectors(path: str | Path) -> pd.DataFrame:
    """Read a file of gene vectors, by the reader of its suffix (``READERS``).

    Returns
    -------
    float32 [genes x dimensions], index: names of genes as in the file, Ensembl identifiers without their version.

    Raises
    ------
    InputError
        For a file of another kind, without genes or dimensions, with a gene twice or without a name, or with a value
        that is no finite number.
    """
    suffix = Path(str(path).removesuffix(".gz")).suffix
    if suffix not in READERS:
        raise InputError(path, "file name", repr(Path(path).name), "a name that ends in " + ", ".join(READERS))
    table = READERS[suffix](path)
    if not all(table.shape):
        raise InputError(path, "table", f"{len(table)} genes, {table.shape[1]} dimensions", "a vector for every gene")
    names = pd.Index(["" if pd.isna(name) else str(name).strip() for name in table.index])
    if are_ensembl_ids(names):
        names = names.str.replace(r"\.\d+$", "", regex=True)  # the version
    for position in np.flatnonzero(names.duplicated() | (names == "")):
        found = f"{names[position]!r} a second time" if names[position] else "a gene without a name"
        raise InputError(path, f"row {position + 1}", found, "every gene once, in the first column or the index")
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]) or pd.api.types.is_bool_dtype(table[column]):
            wrong = pd.to_numeric(table[column].astype(str), errors="coerce").isna().argmax()
            where = f"gene {names[wrong]!r}, column {str(column)!r}"
            raise InputError(path, where, repr(table[column].iloc[wrong]), "a number")
    with np.errstate(over="ignore"):
        values = table.to_numpy(dtype=np.float32)
    wrong_row, wrong_column = np.unravel_index(np.argmin(np.isfinite(values)), values.shape)
    if not np.isfinite(values[wrong_row, wrong_column]):
        where = f"gene {names[wrong_row]!r}, column {str(table.columns[wrong_column])!r}"
        raise InputError(path, where, str(table.iloc[wrong_row, wrong_column]), "a finite number (float32)")
    return pd.DataFrame(values, index=names)


def _read_separated(path: str | Path) -> pd.DataFrame:
    """Read a table with a header, whose first column names genes."""
    separator = "\t" if ".tsv" in Path(path).suffixes else ","
    return read_table(path, separator, index_col=0)


def _read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a Parquet table whose index, or else whose first column, names genes."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # those of pyarrow are ValueErrors
        raise InputError(path, "file", first_line(error), "a Parquet table") from None
    return table.set_index(table.columns[0]) if isinstance(table.index, pd.RangeIndex) and table.shape[1] else table


def _read_word2vec(path: str | Path) -> pd.DataFrame:
    """Read word2vec's text format: numbers of genes and dimensions, then a line per gene, separated by spaces."""
    header = read_table(path, r"\s+", header=None, nrows=1).iloc[0].tolist()
    if len(header) != 2 or not all(isinstance(number, int) for number in header):
        found = " ".join(map(str, header[:3]))
        raise InputError(path, "line 1", found, "two numbers, genes and dimensions: word2vec's text format")
    table = read_table(path, r"\s+", header=None, skiprows=1, index_col=0, quoting=csv.QUOTE_NONE)
    if list(table.shape) != header:
        found = f"{table.shape[0]} genes x {table.shape[1]} dimensions"
        raise InputError(path, "table", found, f"{header[0]} x {header[1]} (line 1)")
    return table


def _read_h5ad(path: str | Path) -> pd.DataFrame:
    """Read an AnnData of genes (``obs``) x dimensions (``var``)."""
    return read_h5ad(path).to_df()


READERS: dict[str, Callable[[str | Path], pd.DataFrame]] = {
    ".tsv": _read_separated,
    ".csv": _read_separated,
    ".parquet": _read_parquet,
    ".h5ad": _read_h5ad,
    ".txt": _read_word2vec,
}


def changes_as_vectors(cells: anndata.AnnData, components: int, file: str | Path) -> pd.DataFrame:
    """Take the principal components of a data set's measured changes as vectors of its perturbed genes.

    These are the perturbation embeddings that Ahlmann-Eltze, Huber and Anders (2025, Nature Methods) take from another
    screen: scores of perturbations, genes being the variables. Perturbations of one gene count, with the mean of their
    changes over contexts.

    Parameters
    ----------
    cells
        ``cells.h5ad`` of the other data set; X may stay on disk.
    components
        Components; fewer where there are fewer perturbations.

    Returns
    -------
    float32 [genes perturbed alone x components].

    Raises
    ------
    InputError
        If fewer than ``FEWEST`` genes are perturbed alone.
    """
    conditions = [condition for condition in conditions_of(cells.obs) if len(condition.genes) == 1]
    genes = pd.Index([genes_of(condition.perturbation)[0] for condition in conditions])
    if genes.nunique() < FEWEST:
        found = f"{genes.nunique()} genes that are perturbed alone"
        raise InputError(file, "obs['perturbation']", found, f"{FEWEST} or more, to learn vectors from")
    means, _ = condition_means(cells, conditions)
    changes = pd.DataFrame(means - references(cells, conditions, INPUT), index=genes).groupby(level=0).mean()
    return principal_scores(changes, components)


def principal_scores(changes: pd.DataFrame, components: int) -> pd.DataFrame:
    """Compute the principal component scores of rows, columns being the variables: float32 [rows x components]."""
    centred = changes.to_numpy() - changes.to_numpy().mean(axis=0)
    variances, axes = np.linalg.eigh(centred @ centred.T)
    kept = np.argsort(-variances)[: min(components, len(changes) - 1)]
    scores = axes[:, kept] * np.sqrt(np.maximum(variances[kept], 0))
    return pd.DataFrame(scores.astype(np.float32), index=changes.index)
