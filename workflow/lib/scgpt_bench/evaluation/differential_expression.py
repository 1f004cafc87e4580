"""Which genes a perturbation changes most, by measured cells."""

from __future__ import annotations

import anndata
import numpy as np
from pdex import pdex

from scgpt_bench.data.names import CONTROL

PERTURBATIONS_AT_ONCE = 64  # bounds the size of pdex's table: one row per perturbation and gene


def de_ranks(cells: anndata.AnnData, truth: anndata.AnnData, threads: int = 1) -> np.ndarray:
    """Rank the genes of every test perturbation by differential expression.

    Wilcoxon rank-sum test (pdex) of a perturbation's cells against all control cells of the cell types in which it was
    measured; ranked by p-value, then by absolute change of the mean (p-values of 0), then by the order of the genes.

    Parameters
    ----------
    cells, truth
        ``cells.h5ad`` and ``truth.h5ad``.
    threads
        Threads of the test.

    Returns
    -------
    int32 [perturbations x genes], 0 for the gene that changes most; for ``truth.layers["de_rank"]``.
    """
    p_values = np.ones(truth.shape)
    obs = cells.obs[["perturbation", "cell_type"]].astype(str)
    types_of = obs.groupby("perturbation")["cell_type"].agg(lambda types: tuple(sorted(set(types))))
    types_of = types_of.loc[list(truth.obs_names)]
    for types, names in types_of.groupby(types_of).groups.items():
        of_these_types = obs["cell_type"].isin(types)
        for start in range(0, len(names), PERTURBATIONS_AT_ONCE):
            chosen = names[start : start + PERTURBATIONS_AT_ONCE]
            compared = cells[(of_these_types & obs["perturbation"].isin([CONTROL, *chosen])).to_numpy()].copy()
            table = pdex(compared, "perturbation", threads=threads, is_log1p=True, as_pandas=True, reference=CONTROL)
            rows, columns = truth.obs_names.get_indexer(table["target"]), truth.var_names.get_indexer(table["feature"])
            p_values[rows, columns] = table["p_value"]
    change = np.abs(truth.X - truth.layers["control"])
    order = np.lexsort((-change, p_values), axis=1)
    return np.argsort(order, axis=1).astype(np.int32)
