"""Bring the cells of any data drop to one form: what every later stage reads as cells.h5ad.

Nothing is guessed. What contradicts the row of the data-set table is an error; what is repaired is written down in
``uns["harmonized"]``.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.names import CONTROL, JOINED_BY, genes_of, perturbation_names
from scgpt_bench.data.readers import READER_NOTES
from scgpt_bench.errors import InputError

UNSTATED = "all"
ENSEMBL_ID = r"ENS[A-Z]*G\d{11}(?:\.\d+)?"


def harmonize(
    adata: anndata.AnnData,
    dataset: Dataset,
    *,
    minimum_cells: int,
    maximum_genes: int | None = None,
    source: str | Path | None = None,
) -> anndata.AnnData:
    """The cells of a drop in the form of cells.h5ad. ``adata`` is not changed.

    Parameters
    ----------
    adata
        cells x genes as a reader gives it; X dense or sparse, holding what ``dataset.values`` says.
    minimum_cells
        Perturbations with fewer cells are dropped and listed.
    maximum_genes
        Keep the genes with the highest dispersion among control cells (so that nothing is chosen by how perturbed
        cells respond), and every measured target in addition.
    source
        The file, for errors; the address of the data set unless given.

    Returns
    -------
    cells x genes. X: CSR float32, log1p of counts scaled to ``dataset.target_sum`` per cell over all genes of the
    file. layers["counts"]: CSR float32, where the file holds counts. var_names: unique gene symbols; var["gene_id"]:
    the file's own index, where symbols come from a column. obs: categorical ``perturbation``, ``batch``,
    ``cell_type`` and, where known, ``guide``. uns["harmonized"]: what was understood, kept, dropped and repaired.

    Raises
    ------
    InputError
        For a file that is empty, lacks a stated column or all control cells, has a label, gene name or value that
        cannot be used, or values that are not what the row says.
    """
    source = source or dataset.address
    repairs: list[str] = []
    _check_not_empty(adata, source)
    obs = _annotations(adata, dataset, source)
    symbols = _symbols(adata, dataset, source, repairs)
    cells = _cell_names(adata, repairs)
    matrix = sparse.csr_matrix(adata.X, copy=True)
    _check_numbers(matrix, symbols, cells, source)
    check = _check_counts if dataset.values == "counts" else _check_log_values
    evidence = check(matrix, symbols, cells, dataset, source)

    filled = np.diff(matrix.indptr) > 0
    if not filled.all():
        repairs.append(f"{(~filled).sum()} cells without any count dropped")
    number = pd.Series(filled, dtype=int).groupby(obs["perturbation"]).sum()
    kept_names = number.index[(number >= minimum_cells) | (number.index == CONTROL)]
    kept = filled & obs["perturbation"].isin(kept_names).to_numpy()
    _check_groups(obs["perturbation"][kept], number, minimum_cells, dataset, source)
    matrix = matrix[kept]

    result = anndata.AnnData(
        X=_log_values(matrix, dataset),
        obs=pd.DataFrame({name: pd.Categorical(obs[name][kept]) for name in obs}, index=cells[kept]),
        var=pd.DataFrame(index=symbols),
    )
    if dataset.values == "counts":
        result.layers["counts"] = matrix.astype(np.float32)
    if dataset.gene_symbol_column:
        result.var["gene_id"] = adata.var_names.to_numpy(dtype=str)
    targets = sorted({gene for name in kept_names for gene in genes_of(name)})
    selection = "all"
    if maximum_genes is not None and maximum_genes < result.n_vars:
        result = result[:, _most_variable(result, maximum_genes) | result.var_names.isin(targets)].copy()
        selection = f"measured targets and the {maximum_genes} with the highest dispersion in control cells"
    result.uns["harmonized"] = {
        **_what_the_row_says(dataset),
        "values_evidence": evidence,
        "n_cells_read": adata.n_obs,
        "n_genes_read": adata.n_vars,
        "n_controls": int((result.obs["perturbation"] == CONTROL).sum()),
        "n_perturbations": len(kept_names) - 1,
        "n_combinations": sum(JOINED_BY in name for name in kept_names),
        "genes": selection,
        "targets_measured": _array(gene for gene in targets if gene in result.var_names),
        "targets_not_measured": _array(gene for gene in targets if gene not in result.var_names),
        "minimum_cells": minimum_cells,
        "dropped_perturbations": _array(number.index.difference(kept_names)),
        "repairs": _array(repairs),
        "read": dict(adata.uns.get(READER_NOTES, {})),
    }
    return result


def _what_the_row_says(dataset: Dataset) -> dict:
    return {
        "dataset": dataset.name,
        "version": dataset.version or "",
        "values": dataset.values,
        "target_sum": dataset.target_sum,
        "perturbation_kind": dataset.perturbation_kind,
        "control_labels": _array(dataset.control_labels),
    }


def _array(texts) -> np.ndarray:
    return np.array([*texts], dtype=object)


def _check_not_empty(adata: anndata.AnnData, source: str | Path) -> None:
    if adata.n_obs == 0 or adata.n_vars == 0 or adata.X is None:
        raise InputError(source, "X", f"{adata.n_obs} cells x {adata.n_vars} genes", "values of cells x genes")


def _column(table: pd.DataFrame, column: str, what: str, table_name: str, source: str | Path) -> pd.Series:
    if column not in table:
        existing = ", ".join(map(repr, table.columns)) or "none"
        raise InputError(source, table_name, f"no column {column!r} (columns: {existing})", f"the {what} there")
    return table[column]


def _annotations(adata: anndata.AnnData, dataset: Dataset, source: str | Path) -> pd.DataFrame:
    """Columns ``perturbation``, ``batch``, ``cell_type`` and, where known, ``guide``: strings, one row per cell."""
    labels = _column(adata.obs, dataset.perturbation_column, "perturbation of each cell", "obs", source)
    names = perturbation_names(labels, dataset, source)
    if not (names == CONTROL).any():
        frequent = ", ".join(f"{label!r} ({n})" for label, n in labels.astype(str).value_counts().head(8).items())
        expected = "control cells labelled " + " or ".join(map(repr, dataset.control_labels))
        raise InputError(
            source, f"obs[{dataset.perturbation_column!r}]", f"no control; most frequent: {frequent}", expected
        )
    columns = {"perturbation": names.to_numpy()}
    for name, column in {"batch": dataset.batch_column, "cell_type": dataset.cell_type_column}.items():
        columns[name] = _complete(adata, column, source) if column else np.full(adata.n_obs, UNSTATED, dtype=object)
    if dataset.guide_column:
        columns["guide"] = _complete(adata, dataset.guide_column, source)
    elif dataset.guide_suffix:
        columns["guide"] = labels.astype(str).to_numpy()
    return pd.DataFrame(columns, dtype=object)


def _complete(adata: anndata.AnnData, column: str, source: str | Path) -> np.ndarray:
    values = _column(adata.obs, column, "column that the data-set table names", "obs", source)
    missing = values.isna().to_numpy()
    if missing.any():
        where = f"obs[{column!r}] of cell {adata.obs_names[missing.argmax()]!r}"
        raise InputError(source, where, f"no value ({missing.sum()} such cells)", "a value for every cell")
    return values.astype(str).to_numpy(dtype=object)


def _symbols(adata: anndata.AnnData, dataset: Dataset, source: str | Path, repairs: list[str]) -> pd.Index:
    index = adata.var_names.astype(str)
    if dataset.gene_symbol_column:
        column = _column(adata.var, dataset.gene_symbol_column, "gene symbols", "var", source).astype("object")
        named = (column.notna() & ~column.astype(str).str.strip().isin(["", "nan"])).to_numpy()
        symbols = pd.Index(np.where(named, column.astype(str).str.strip(), index))
        if not named.all():
            repairs.append(f"{(~named).sum()} genes without a symbol are called by the file's index")
    else:
        symbols = index
        if symbols.str.fullmatch(ENSEMBL_ID).mean() > 0.5:
            existing = ", ".join(map(repr, adata.var.columns)) or "none"
            expected = f"gene symbols, or gene_symbol_column in the data-set table (columns of var: {existing})"
            raise InputError(source, "var index", f"Ensembl identifiers such as {symbols[0]!r}", expected)
    duplicated = symbols[symbols.duplicated()].unique()
    if len(duplicated):
        found = f"{len(duplicated)} duplicate gene names: " + ", ".join(map(repr, duplicated[:5]))
        raise InputError(source, f"var {dataset.gene_symbol_column or 'index'}", found, "every gene name once")
    return pd.Index(symbols.to_numpy(dtype=object))


def _cell_names(adata: anndata.AnnData, repairs: list[str]) -> pd.Index:
    """Unique names, because random draws and predictions name their cells."""
    names = adata.obs_names.astype(str)
    if not names.is_unique:
        repairs.append("duplicate cell names made unique by a number at the end")
        names = anndata.utils.make_index_unique(names)
    return pd.Index(names.to_numpy(dtype=object))


def _complain(
    matrix: sparse.csr_matrix, position: int, symbols: pd.Index, cells: pd.Index, source: str | Path, expected: str
) -> InputError:
    """The error for the stored value at ``position``, naming its gene and cell."""
    cell = cells[np.searchsorted(matrix.indptr, position, side="right") - 1]
    where = f"X, gene {symbols[matrix.indices[position]]!r}, cell {cell!r}"
    return InputError(source, where, str(matrix.data[position]), expected)


def _check_numbers(matrix: sparse.csr_matrix, symbols: pd.Index, cells: pd.Index, source: str | Path) -> None:
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if matrix.nnz == 0:
        raise InputError(source, "X", "nothing but zeros", "the expression of genes")
    bad = ~np.isfinite(matrix.data) | (matrix.data < 0)
    if bad.any():
        raise _complain(matrix, int(bad.argmax()), symbols, cells, source, "a finite value of 0 or more")


def _check_counts(
    matrix: sparse.csr_matrix, symbols: pd.Index, cells: pd.Index, dataset: Dataset, source: str | Path
) -> str:
    broken = matrix.data != np.rint(matrix.data)
    if broken.any():
        expected = "an integer, as values = 'counts' of the data-set table says (log values are 'log1p')"
        raise _complain(matrix, int(broken.argmax()), symbols, cells, source, expected)
    return f"counts: every value is an integer, largest {matrix.data.max():g}"


def _check_log_values(
    matrix: sparse.csr_matrix, symbols: pd.Index, cells: pd.Index, dataset: Dataset, source: str | Path
) -> str:
    """Refuse integers, and cells whose counts, exponentiated back, exceed the stated scale.

    Their sum may lie below it (genes were left out after scaling) but never above.
    """
    largest = int(matrix.data.argmax())
    if (matrix.data == np.rint(matrix.data)).all():
        found = f"integers only, up to {matrix.data[largest]:g}"
        raise InputError(source, "X", found, "log values, as values = 'log1p' of the data-set table says, or 'counts'")
    limit = np.log1p(dataset.target_sum)
    advice = f"of log1p with target_sum {dataset.target_sum:g}, as the data-set table says"
    if matrix.data[largest] > limit + 1e-3:
        raise _complain(matrix, largest, symbols, cells, source, f"at most {limit:.4g}, the largest value {advice}")
    scaled = sparse.csr_matrix((np.expm1(matrix.data, dtype=np.float64), matrix.indices, matrix.indptr), matrix.shape)
    sums = np.asarray(scaled.sum(axis=1)).ravel()
    if sums.max() > 1.01 * dataset.target_sum:
        where = f"X, cell {cells[sums.argmax()]!r}"
        raise InputError(
            source, where, f"expm1 summing to {sums.max():.6g}", f"at most {dataset.target_sum:g}: {advice}"
        )
    return f"log1p: not integers, expm1 of a cell sums to {np.median(sums):.4g} (median) and at most {sums.max():.4g}"


def _check_groups(
    names: pd.Series, number: pd.Series, minimum_cells: int, dataset: Dataset, source: str | Path
) -> None:
    if not (names == CONTROL).any():
        raise InputError(source, "X", "no control cell with any count", "control cells")
    if (names == CONTROL).all():
        largest = number.drop(CONTROL).max() if len(number) > 1 else 0
        expected = f"a perturbation with at least {minimum_cells} cells (minimum_cells)"
        found = f"{len(number) - 1} perturbations of at most {largest} cells"
        raise InputError(source, f"obs[{dataset.perturbation_column!r}]", found, expected)


def _log_values(matrix: sparse.csr_matrix, dataset: Dataset) -> sparse.csr_matrix:
    if dataset.values == "log1p":
        return matrix.astype(np.float32)
    scale = dataset.target_sum / np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    values = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    return sparse.csr_matrix((values.astype(np.float32), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)


def _most_variable(adata: anndata.AnnData, number: int) -> np.ndarray:
    """Which genes have the highest normalized dispersion (Satija 2015, scanpy's ``seurat``) in control cells."""
    import scanpy  # seconds to import, and only needed here

    controls = anndata.AnnData(adata.X[(adata.obs["perturbation"] == CONTROL).to_numpy()])
    chosen = scanpy.pp.highly_variable_genes(controls, n_top_genes=number, flavor="seurat", inplace=False)
    return chosen["highly_variable"].to_numpy()
