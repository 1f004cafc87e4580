"""Which genes a perturbation changes most, by measured cells."""

from __future__ import annotations

import anndata
import numpy as np
from pdex import pdex
from scipy import stats

from scgpt_bench.data.conditions import listed
from scgpt_bench.data.means import first_half
from scgpt_bench.data.names import CONTROL

PERTURBATIONS_AT_ONCE = 64  # bounds the size of pdex's table: one row per perturbation and gene
SMALLEST_P_VALUE = float(np.finfo(np.float64).tiny)  # 0 has no finite z-value


def de_ranks(cells: anndata.AnnData, truth: anndata.AnnData, threads: int = 1, halved: bool = False) -> np.ndarray:
    """Rank the genes of every test perturbation by differential expression.

    Wilcoxon rank-sum test (pdex) of a perturbation's cells against all control cells, within each cell type: pooled
    types would rank their markers, where a perturbation is spread over them unlike the controls. Several types are
    combined by signed z-values, each with the weight sqrt(n1 n2 / (n1 + n2)) of its numbers of cells (Stouffer's method
    as weighted by Lipták 1958). Ranked by p-value, then by absolute change of the mean (p-values of 0), then by the
    order of the genes.

    Parameters
    ----------
    cells, truth
        ``cells.h5ad`` and ``truth.h5ad``.
    threads
        Threads of the test.
    halved
        By the second half of each perturbation's cells alone (all but ``means.first_half``), for what is scored
        against that half.

    Returns
    -------
    int32 [perturbations x genes], 0 for the gene that changes most; for ``truth.layers["de_rank"]``, or
    ``truth.layers["de_rank_half_b"]`` where ``halved``.
    """
    if halved:
        cells = cells[~first_half(cells.obs, listed(truth.obs))]
    p_values, z_values, squared_weights = np.ones(truth.shape), np.zeros(truth.shape), np.zeros(truth.shape)
    n_types = np.zeros(truth.n_obs)
    obs = cells.obs[["perturbation", "cell_type"]].astype(str)
    tested = obs[obs["perturbation"].isin(truth.obs_names)]
    for cell_type, of_type in tested.groupby("cell_type")["perturbation"]:
        names = sorted(of_type.unique())
        n_types[truth.obs_names.get_indexer(names)] += 1
        for start in range(0, len(names), PERTURBATIONS_AT_ONCE):
            chosen = [CONTROL, *names[start : start + PERTURBATIONS_AT_ONCE]]
            compared = cells[((obs["cell_type"] == cell_type) & obs["perturbation"].isin(chosen)).to_numpy()].copy()
            table = pdex(compared, "perturbation", threads=threads, is_log1p=True, as_pandas=True, reference=CONTROL)
            place = truth.obs_names.get_indexer(table["target"]), truth.var_names.get_indexer(table["feature"])
            n_perturbed, n_control = (table[f"{side}_membership"].astype(np.float64) for side in ("target", "ref"))
            squared_weight = n_perturbed * n_control / (n_perturbed + n_control)
            direction = np.sign(table["statistic"] - n_perturbed * n_control / 2)
            z_value = stats.norm.isf(np.maximum(table["p_value"], SMALLEST_P_VALUE) / 2)
            p_values[place] = table["p_value"]
            z_values[place] += np.sqrt(squared_weight) * direction * z_value
            squared_weights[place] += squared_weight
    several = n_types > 1  # a single type keeps its p-values to the bit
    p_values[several] = 2 * stats.norm.sf(np.abs(z_values[several]) / np.sqrt(squared_weights[several]))
    change = np.abs((truth.layers["half_b"] if halved else truth.X) - truth.layers["control"])
    order = np.lexsort((-change, p_values), axis=1)
    return np.argsort(order, axis=1).astype(np.int32)
