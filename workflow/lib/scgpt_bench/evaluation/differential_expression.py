"""Which genes a perturbation changes most, by measured cells."""

from __future__ import annotations

import logging
from typing import Any

import anndata
import numpy as np
from pdex import pdex
from scipy import sparse, stats

from scgpt_bench.data.conditions import Condition, conditions_of, rows_of
from scgpt_bench.data.means import first_half
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import VALUES_AT_ONCE, row_chunks
from scgpt_bench.evaluation.sorted_controls import sorted_controls

logger = logging.getLogger(__name__)

AT_ONCE = 2 * VALUES_AT_ONCE  # of a block of genes, if it were dense: pdex holds it several times
TABLE_ROWS = 2**20  # bounds the size of pdex's table: one row per perturbation and gene
SMALLEST_P_VALUE = float(np.finfo(np.float64).tiny)  # 0 has no finite z-value


def de_ranks(cells: anndata.AnnData, truth: anndata.AnnData, threads: int = 1, halved: bool = False) -> np.ndarray:
    """Rank the genes of every test condition by differential expression.

    Wilcoxon rank-sum test (pdex) of a condition's cells against all control cells of its context, within each cell
    type: pooled types would rank their markers, where a condition is spread over them unlike the controls. Several
    types are combined by signed z-values, each with the weight sqrt(n1 n2 / (n1 + n2)) of its numbers of cells
    (Stouffer's method as weighted by Lipták 1958). Ranked by p-value, then by absolute change of the mean (p-values of
    0), then by the order of the genes.

    A gene is tested apart from all others: cells are read once for each block of ``AT_ONCE`` values.

    Parameters
    ----------
    cells, truth
        ``cells.h5ad`` and ``truth.h5ad``; X of cells may be on disk.
    threads
        Threads of the test.
    halved
        By the second half of each condition's cells alone (all but ``means.first_half``), for what is scored
        against that half.

    Returns
    -------
    int32 [conditions x genes], 0 for the gene that changes most; for ``truth.layers["de_rank"]``, or
    ``truth.layers["de_rank_half_b"]`` where ``halved``.
    """
    conditions = conditions_of(truth.obs)
    kept = ~first_half(cells.obs, conditions) if halved else np.ones(cells.n_obs, dtype=bool)
    obs = cells.obs[kept]
    p_values, z_values, squared_weights = np.ones(truth.shape), np.zeros(truth.shape), np.zeros(truth.shape)
    n_types, tests = np.zeros(truth.n_obs), []
    rows, types = rows_of(obs), obs["cell_type"].astype(str).to_numpy()
    for context, cell_type in sorted({(name.context, of) for name in conditions for of in types[rows[name]]}):
        of_type = {name: own[types[own] == cell_type] for name, own in rows.items() if name.context == context}
        row_of = {name.perturbation: row for row, name in enumerate(conditions) if len(of_type.get(name, ()))}
        n_types[list(row_of.values())] += 1
        tests.append((context, of_type, row_of))
    n_genes = max(1, AT_ONCE // len(obs))
    for start in range(0, cells.n_vars, n_genes):
        logger.info("differential expression of %d genes of %d", min(start + n_genes, cells.n_vars), cells.n_vars)
        block = _some_genes(cells.X, kept, slice(start, start + n_genes))
        block = anndata.AnnData(block, obs=obs, var=cells.var.iloc[start : start + n_genes])
        at_once = max(1, TABLE_ROWS // block.n_vars)
        for context, of_type, row_of in tests:
            for first in range(0, len(row_of), at_once):
                chosen = [CONTROL, *list(row_of)[first : first + at_once]]
                own = np.sort(np.concatenate([of_type[Condition(name, context)] for name in chosen]))
                with sorted_controls():
                    options = {"threads": threads, "is_log1p": True, "as_pandas": True, "reference": CONTROL}
                    table = pdex(block[own].copy(), "perturbation", **options)
                place = table["target"].map(row_of).to_numpy(), truth.var_names.get_indexer(table["feature"])
                n_perturbed, n_control = (table[f"{side}_membership"].astype(np.float64) for side in ("target", "ref"))
                squared_weight = n_perturbed * n_control / (n_perturbed + n_control)
                direction = np.sign(table["statistic"] - n_perturbed * n_control / 2)
                z_value = stats.norm.isf(np.maximum(table["p_value"], SMALLEST_P_VALUE) / 2)
                p_values[place] = table["p_value"]
                z_values[place] += np.sqrt(squared_weight) * direction * z_value
                squared_weights[place] += squared_weight
    several = n_types > 1  # a single type keeps its p-values to the bit
    p_values[several] = 2 * stats.norm.sf(np.abs(z_values[several]) / np.sqrt(squared_weights[several]))
    change = np.abs((truth.layers["half_b"] if halved else truth.X) - truth.layers["reference_truth"])
    order = np.lexsort((-change, p_values), axis=1)
    return np.argsort(order, axis=1).astype(np.int32)


def _some_genes(X: Any, kept: np.ndarray, genes: slice) -> sparse.csr_matrix:
    """Read a range of genes of the cells of the mask ``kept``."""
    parts = []
    for start, chunk in row_chunks(X, read=kept):
        parts.append(sparse.csr_matrix(chunk[:, genes])[kept[start : start + chunk.shape[0]]])
    return sparse.vstack(parts, format="csr")
