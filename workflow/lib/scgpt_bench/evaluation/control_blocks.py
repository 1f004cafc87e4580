"""What the noise of the measured control mean does to scores: it is common to all perturbations of a context.

Every measured change is counted from the same control cells of the half ``truth``. Their mean has an error, which a
mean over perturbations does not average out: it favours one of two predictions that differ alike for all of them, such
as two that hardly tell perturbations apart. The delete-a-group jackknife (Kott 2001) measures it: these cells are dealt
into ``BLOCKS`` blocks, every method is scored with each block left out, and a mean difference varies over the blocks as
``(BLOCKS - 1) / BLOCKS`` times its sum of squares.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.blocks import BLOCKS, blocks_of_cells
from scgpt_bench.data.conditions import COLUMNS, Condition, context_of, contexts_of, table_of
from scgpt_bench.data.halves import TRUTH, is_control_of
from scgpt_bench.data.on_disk import add_rows, row_chunks
from scgpt_bench.data.references import References
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.method_record import MethodRecord

WITHOUT = [f"without_{block}" for block in range(BLOCKS)]


def changes_of_reference(cells: anndata.AnnData, conditions: list[Condition], of_controls: References) -> np.ndarray:
    """Measure how the mean reference of each context's conditions changes without each block of its control cells.

    Within a context all conditions have the mean of their references: what they have in common counts here. Cells
    count about the mean of their own cell type and batch, so that unequal blocks add no difference between batches.

    Returns
    -------
    float64 [genes x contexts, sorted x ``BLOCKS``].
    """
    contexts = contexts_of(table_of(conditions))
    weight_of, strata = of_controls.weights_of_cells(conditions, TRUTH), of_controls.stratum_of_cells
    of_context = pd.Categorical(context_of(cells.obs), categories=contexts).codes.astype(np.int64)
    own = is_control_of(cells.obs, TRUTH) & (of_context >= 0)
    group = np.full(cells.n_obs, -1)
    for number, context in enumerate(contexts):
        rows = np.flatnonzero(own & (of_context == number))
        group[rows] = number * BLOCKS + blocks_of_cells(cells.obs_names[rows], "truth", context)
    n = np.bincount(strata[own], minlength=len(weight_of))
    unbiased = np.sqrt(n / np.maximum(n - 1, 1))  # cells are nearer to their own mean than to the true one
    sums = np.zeros((len(contexts) * BLOCKS, cells.n_vars))
    for start, chunk in row_chunks(cells.X, read=own):
        here = slice(start, start + chunk.shape[0])
        of_row = (weight_of * unbiased)[strata[here]][:, None]
        add_rows(sums, chunk.multiply(of_row).tocsr() if sparse.issparse(chunk) else chunk * of_row, group[here])
    weights = np.zeros((len(sums), len(weight_of)))  # of the blocks, by stratum
    np.add.at(weights, (group[own], strata[own]), weight_of[strata[own]])
    sums -= (weights * unbiased) @ of_controls.stratum_means(TRUTH)
    left = 1 - weights.sum(axis=1, keepdims=True)
    changes = np.divide(-sums, left, out=np.zeros_like(sums), where=left > 0.5 / BLOCKS)
    return np.moveaxis(changes.reshape(len(contexts), BLOCKS, -1), 2, 0)


def score_without_blocks(pseudobulk: anndata.AnnData, truth: anndata.AnnData) -> pd.DataFrame:
    """Compute the metrics that judge without each block of the control cells that measured changes are counted from.

    Parameters
    ----------
    pseudobulk, truth
        As :func:`metrics.score`.

    Returns
    -------
    Columns ``perturbation``, ``context``, ``metric`` and ``WITHOUT``.
    """
    changes = np.asarray(truth.varm["control_blocks"])
    context = pd.Categorical(context_of(truth.obs), categories=contexts_of(truth.obs)).codes
    tables = []
    for block in range(BLOCKS):
        reference = truth.layers["reference_truth"] + changes[:, context, block].T
        moved = anndata.AnnData(
            truth.X, obs=truth.obs, var=truth.var, layers={**truth.layers, "reference_truth": reference}
        )
        tables.append(score(pseudobulk, moved, only_judging=True))
    values = pd.DataFrame({name: table["value"] for name, table in zip(WITHOUT, tables, strict=True)})
    return pd.concat([tables[0][[*COLUMNS, "metric"]], values], axis=1)


def of_prediction(pseudobulk: anndata.AnnData, truth: anndata.AnnData, record: MethodRecord) -> pd.DataFrame:
    """Make the content of ``control_blocks.tsv``; without rows for floor and ceiling, which get no verdict."""
    if record.shuffles or record.halved:
        return pd.DataFrame(columns=[*COLUMNS, "metric", *WITHOUT])
    return score_without_blocks(pseudobulk, truth)
