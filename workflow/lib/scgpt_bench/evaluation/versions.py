"""Score several versions of the same predicted cells, which are made a few conditions at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeAlias

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import codes_of, conditions_of, rows_of
from scgpt_bench.data.on_disk import batches, dense_rows
from scgpt_bench.evaluation.cell_metrics import are_means, score_cells
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.evaluation.pseudobulk import pseudobulk, select_tested

AT_ONCE = 2**24  # values of predicted cells, 64 MiB; a version has as many
Name: TypeAlias = tuple[str, int]  # of a version, and which of several of that name
# Of cells [rows x genes] and the number of the tested condition of each [rows]: versions of the cells.
Versions: TypeAlias = Callable[[np.ndarray, np.ndarray], Iterable[tuple[Name, np.ndarray]]]


def score_versions(
    predictions: anndata.AnnData, truth: anndata.AnnData, versions: Versions, of_cells: bool
) -> dict[Name, pd.DataFrame]:
    """Compute the metrics of pseudo-bulks, and those of cells if ``of_cells``, for each version.

    Parameters
    ----------
    predictions
        ``predictions.h5ad``; X may be on disk.
    truth
        ``truth.h5ad``: all conditions.
    versions
        Makes the versions of the cells of whole conditions, float32. Conditions are numbered as in
        :func:`pseudobulk.select_tested`.

    Returns
    -------
    For each version, in their order, a table as :func:`metrics.score` gives it.
    """
    tested, rows = select_tested(truth), rows_of(predictions.obs)
    code, only_means = codes_of(predictions.obs, conditions_of(tested.obs)), are_means(predictions.obs)
    means, tables = defaultdict(list), defaultdict(list)
    for batch in batches([len(own) for own in rows.values()], predictions.n_vars, AT_ONCE):
        own = np.concatenate([*rows.values()][batch])
        obs, cells = predictions.obs.iloc[own], np.asarray(dense_rows(predictions.X, own), dtype=np.float32)
        for name, X in versions(cells, code[own]):
            version = anndata.AnnData(X, obs=obs, var=predictions.var)
            means[name].append(pseudobulk(version))
            if of_cells:
                tables[name].append(score_cells(version, tested, only_means=only_means))
    found = {}
    for name, parts in means.items():
        X, obs = np.concatenate([part.X for part in parts]), pd.concat([part.obs for part in parts])
        of_means = score(anndata.AnnData(X, obs=obs, var=parts[0].var), truth)
        found[name] = pd.concat([of_means, *_by_metric(tables[name])])
    return found


def _by_metric(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Bring the tables of the batches into the order of a single one: metric by metric."""
    if not tables:
        return []
    return [part for _, part in pd.concat(tables).groupby("metric", sort=False)]
