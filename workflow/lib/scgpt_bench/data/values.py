"""The values of a drop: checked in a first pass over its cells, and brought to log1p of scaled counts in a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.annotations import Annotations
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import Matrix, row_chunks, rows_from

LARGEST = 5  # genes with the largest shares of all counts, which are recorded


@dataclass(frozen=True)
class ReadValues:
    """What a pass over X shows.

    Attributes
    ----------
    evidence
        What X contains and what shows it, in words.
    filled
        Mask [cells]: False for cells without any count.
    n_counts
        Sum over all genes [cells]: counts, or scaled counts where the file has logarithms.
    largest_shares
        ``gene`` and ``share``: the genes with the largest shares of all counts (or scaled counts).
    control_moments
        Number of control cells; mean and variance of each gene's scaled counts over them.
    """

    evidence: str
    filled: np.ndarray
    n_counts: np.ndarray
    largest_shares: dict[str, np.ndarray]
    control_moments: tuple[int, np.ndarray, np.ndarray]


def read_values(
    adata: anndata.AnnData,
    dataset: Dataset,
    annotations: Annotations,
    findings: Findings,
    *,
    chunks: Iterable[tuple[int, Matrix]] | None = None,
    dispersions: bool = False,
) -> ReadValues:
    """Check every value of X, or of some ``chunks`` of it, and see what it contains.

    Moments of control cells are computed where ``dispersions`` are wanted: they take most of the time.

    Raises
    ------
    InputError
        At the first value that is no expression, or not what the row says.
    """
    kept, symbols = annotations.kept, annotations.genes.symbols
    is_control = kept & (annotations.obs["perturbation"] == CONTROL).to_numpy()
    filled, n_counts = np.zeros(adata.n_obs, dtype=bool), np.zeros(adata.n_obs)
    gene_totals, sums, squares = (np.zeros(len(symbols)) for _ in range(3))
    largest, integers, ratios, n_control = 0.0, True, np.zeros(2), 0
    for start, chunk in chunks or row_chunks(adata.X):
        matrix = _tidy(chunk, annotations.genes.is_gene)
        cells = slice(start, start + matrix.shape[0])
        filled[cells] = np.diff(matrix.indptr) > 0
        if matrix.nnz == 0:
            continue
        broken = matrix.data != np.rint(matrix.data)
        integers &= not broken.any()
        for wrong, expected in _rules(matrix, broken, dataset, integers):
            if wrong.any():
                position = wrong.argmax()
                cell = adata.obs_names[start + np.searchsorted(matrix.indptr, position, side="right") - 1]
                where = f"X, gene {symbols[matrix.indices[position]]!r}, cell {cell!r}"
                raise findings.error(where, str(matrix.data[position]), expected)
        largest = max(largest, float(matrix.data.max()))
        if dataset.values == "counts" or not integers:
            counts = matrix if dataset.values == "counts" else matrix.astype(np.float64).expm1()
            n_counts[cells] = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
            gene_totals += np.asarray(counts[kept[cells]].sum(axis=0, dtype=np.float64)).ravel()
            if dataset.values == "log1p":
                _check_sums(n_counts[cells], adata.obs_names[cells], dataset, findings)
                ratios += _whole_ratios(counts)
        if dispersions:
            scaled = _log_values(matrix[is_control[cells] & filled[cells]], dataset).astype(np.float64).expm1()
            n_control += scaled.shape[0]
            sums += np.asarray(scaled.sum(axis=0)).ravel()
            squares += np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel()
    if not filled.any():
        raise findings.error("X", "nothing but zeros", "the expression of genes")
    if dataset.values == "counts":
        evidence, total = f"counts: every value is an integer, largest {largest:g}", n_counts[kept].sum()
    elif integers:
        expected = "log values (values = 'log1p' in the data-set table), or values = 'counts'"
        raise findings.error("X", f"integers only, up to {largest:g}", expected)
    else:
        evidence = _evidence_of_logs(n_counts[n_counts > 0], ratios, dataset, findings)
        total = (kept & filled).sum() * dataset.target_sum
    top = np.argsort(-gene_totals, kind="stable")[:LARGEST]
    shares = {"gene": np.array([*symbols[top]], dtype=object), "share": gene_totals[top] / max(total, 1)}
    return ReadValues(evidence, filled, n_counts, shares, mean_and_variance(n_control, sums, squares))


def sample_values(
    adata: anndata.AnnData, dataset: Dataset, annotations: Annotations, findings: Findings, n_cells: int
) -> tuple[int, str]:
    """Look at the values of about ``n_cells`` cells, in runs spread over the file: how many, and what they show."""
    runs = 20
    length = max(1, n_cells // runs)
    starts = sorted({int(start) for start in np.linspace(0, max(0, adata.n_obs - length), runs)})
    chunks = ((start, rows_from(adata.X, start, length)) for start in starts)
    values = read_values(adata, dataset, annotations, findings, chunks=chunks)
    return min(adata.n_obs, length * len(starts)), values.evidence


def harmonized_chunks(
    adata: anndata.AnnData, dataset: Dataset, is_gene: np.ndarray, cells: np.ndarray, genes: np.ndarray
) -> Iterator[tuple[sparse.csr_matrix, sparse.csr_matrix | None]]:
    """Read X and, where the file has them, counts, in the order of the file, chunk by chunk.

    Cells are scaled over all features of the mask ``is_gene``; ``cells`` and ``genes`` are masks of what is kept.
    """
    for start, chunk in row_chunks(adata.X):
        matrix = _tidy(chunk, is_gene)[cells[start : start + chunk.shape[0]]]
        X = _log_values(matrix, dataset)
        counts = matrix.astype(np.float32) if dataset.values == "counts" else None
        if not genes.all():
            X, counts = X[:, genes], None if counts is None else counts[:, genes]
        yield X, counts


def _tidy(matrix: Matrix, is_gene: np.ndarray) -> sparse.csr_matrix:
    """Copy the columns that are genes to CSR, every entry once, without zeros."""
    matrix = sparse.csr_matrix(matrix, copy=True) if is_gene.all() else sparse.csr_matrix(matrix)[:, is_gene]
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _log_values(matrix: sparse.csr_matrix, dataset: Dataset) -> sparse.csr_matrix:
    """Bring a chunk to log1p of counts scaled to ``target_sum`` per cell, float32."""
    if dataset.values == "log1p":
        return matrix.astype(np.float32)
    scale = dataset.target_sum / np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    values = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    return sparse.csr_matrix((values.astype(np.float32), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)


def _rules(
    matrix: sparse.csr_matrix, broken: np.ndarray, dataset: Dataset, integers: bool
) -> Iterator[tuple[np.ndarray, str]]:
    """Yield masks of stored values that are wrong, with what would be right; later ones rely on earlier ones.

    ``broken`` is the mask of values that are no integers, ``integers`` whether the file had no such value so far.
    """
    yield ~np.isfinite(matrix.data) | (matrix.data < 0), "a finite value of 0 or more"
    if dataset.values == "counts":
        yield broken, "an integer (values = 'counts' in the data-set table), or values = 'log1p' for log values"
    elif not integers:  # integers only are counts, which is a clearer thing to say than that they are too large
        limit, largest = np.log1p(dataset.target_sum), matrix.data.max()
        wrong = (matrix.data == largest) & (largest > limit + 1e-3)
        yield wrong, f"at most {limit:.4g}, the largest value {_of_scale(dataset)}"


def _of_scale(dataset: Dataset) -> str:
    return f"of log1p with target_sum {dataset.target_sum:g} (data-set table)"


def _check_sums(sums: np.ndarray, cells: pd.Index, dataset: Dataset, findings: Findings) -> None:
    """Refuse cells whose counts, exponentiated back, exceed the stated scale; genes may be missing, so less is fine."""
    if sums.max() > 1.01 * dataset.target_sum:
        where, found = f"X, cell {cells[sums.argmax()]!r}", f"expm1 summing to {sums.max():.6g}"
        raise findings.error(where, found, f"at most {dataset.target_sum:g}: {_of_scale(dataset)}")


def _whole_ratios(counts: sparse.csr_matrix) -> np.ndarray:
    """Count the ratios of scaled counts to the smallest of their cell, and how many are whole: [2].

    Scaled counts are multiples of one count, whichever genes were left out since. Ratios near 1 are whole in any scale,
    and large ones are not known well enough where values are stored in few digits.
    """
    lengths = np.diff(counts.indptr)
    smallest = np.minimum.reduceat(counts.data, counts.indptr[:-1][lengths > 0])
    ratios = counts.data / np.repeat(smallest, lengths[lengths > 0])
    ratios = ratios[(ratios > 1.5) & (ratios < 10.5)]
    return np.array([len(ratios), (abs(ratios - np.rint(ratios)) < 0.02).sum()])


def _evidence_of_logs(sums: np.ndarray, ratios: np.ndarray, dataset: Dataset, findings: Findings) -> str:
    """Describe what shows that values are logarithms; refuse another scale than the stated one."""
    middle, target_sum = np.median(sums), dataset.target_sum
    if sums.max() < 1.01 * sums.min() and middle < 0.99 * target_sum:
        expected = f"{target_sum:g}, or target_sum {middle:.6g} in the data-set table"
        raise findings.error("X", f"expm1 of every cell summing to {middle:.6g}", expected)
    if middle < target_sum / 2 and ratios[1] < ratios[0] / 2:
        findings.problems.append(
            f"values may be no log1p: expm1 of a cell sums to {middle:.4g} (median), far below target_sum "
            f"{target_sum:g}, and is not made of multiples of one count"
        )
    return f"log1p: not integers, expm1 of a cell sums to {middle:.4g} (median), at most {sums.max():.4g}"


def mean_and_variance(n: int, sums: np.ndarray, squares: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Make :attr:`ReadValues.control_moments` of the number of cells, sums and sums of squares over them [genes]."""
    mean = sums / max(n, 1)
    excess = squares - n * mean**2
    excess[excess < 1e-9 * squares] = 0  # rounding
    return n, mean, excess / max(n - 1, 1)
