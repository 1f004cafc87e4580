"""The view of one perturbation: what was measured of it and what every method predicted, in one compact file.

``perturbations.json.gz`` holds, of one data set and split, what ``perturbations.js`` draws. Changes are integers,
thousandths of log1p expression; genes are positions in the list ``genes``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import ALL_CONTEXTS, codes_of, contexts_of, labels_of, listed, noun_of
from scgpt_bench.data.on_disk import row_chunks
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import DEFINED, HEADLINE
from scgpt_bench.figures.responses import changes, clustered, left_over
from scgpt_bench.figures.style import method_style
from scgpt_bench.files import atomic_write

MEASURED = 40  # genes with the largest measured change that a condition lists
LISTED = 60  # genes that it lists; beyond those, methods add the largest changes that they predict, in turn
STRONGEST = 20  # genes with the largest measured change, of which the quartiles of cells are kept
MAPPED = 25  # genes of the heat map
THOUSANDTHS = 1000
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Predicted:
    """What one method predicted of a split.

    Attributes
    ----------
    kind
        What it is (:mod:`scgpt_bench.methods.registry`).
    halved
        Whether it predicts one half of the cells and is scored against the other.
    metrics
        Its ``metrics.tsv``.
    pseudobulk
        Reads its ``pseudobulk.h5ad``, which is read twice, so that the means of one method are in memory at a time.
    """

    kind: str
    halved: bool
    metrics: pd.DataFrame
    pseudobulk: Callable[[], anndata.AnnData]


def index(truth: anndata.AnnData, values: pd.DataFrame, reliability: pd.Series) -> pd.DataFrame:
    """Put in a row what is known of each test condition, and what every method scores on it.

    Parameters
    ----------
    truth
        The test conditions of ``truth.h5ad``.
    values
        Values of one metric (``perturbation context method value``); several rows (seeds) are averaged.
    reliability
        By label of the condition.

    Returns
    -------
    ``perturbation``, ``context`` where there are several, ``measured_cells``, ``measured_change`` (the length of the
    change over all genes, log1p), ``reliability``, and a column a method.
    """
    names = ["perturbation", "context"] if contexts_of(truth.obs) != [ALL_CONTEXTS] else ["perturbation"]
    known = truth.obs[names].assign(
        measured_cells=truth.obs["n_cells"],
        measured_change=np.linalg.norm(_measured(truth, halved=False), axis=1),
        reliability=reliability,
    )
    scores = values.assign(condition=labels_of(values)).pivot_table(
        index="condition", columns="method", values="value", aggfunc="mean"
    )
    return known.join(scores[values["method"].unique()])


def view(
    truth: anndata.AnnData,
    methods: Mapping[str, Predicted],
    cells: anndata.AnnData,
    controls: anndata.AnnData,
    reliability: pd.Series,
) -> dict[str, Any]:
    """Gather what the view shows of every test condition.

    A condition lists the ``MEASURED`` genes with the largest absolute measured change. Then the methods add, in turn,
    the gene with the largest change that they predict and that is not yet listed, up to ``LISTED`` genes.

    Parameters
    ----------
    truth
        The test conditions of ``truth.h5ad``.
    methods
        By name, in the order in which they are shown.
    cells, controls
        ``cells.h5ad`` and ``controls.h5ad``, which may be on disk: each is read once, by chunks.
    reliability
        Split-half reliability of the conditions, by label.

    Returns
    -------
    ``conditions``: of each its ``name``, ``cells``, ``size`` (length of the measured change), ``reliability``, listed
    ``genes``, how many of them are among its ``targets``, ``measured`` and ``predicted`` changes (the latter by
    method), ``quartiles`` of the measured cells and of the drawn control cells, each minus the mean of the control
    cells that they are compared with, and by method ``r`` (``effect_pearson``) and ``slope`` (least squares, of the
    predicted on the measured change, over all genes that are no target). ``map``: order of rows, genes and changes of
    the heat map, clustered by what was measured. ``half_b`` is beside ``measured`` where a method is compared with that
    half of the cells.

    Raises
    ------
    InputError
        For a change that is not finite.
    """
    measured = {halved: _measured(truth, halved) for halved in {False, *(method.halved for method in methods.values())}}
    order = np.argsort(-np.abs(measured[False]), axis=1, kind="stable")
    targets = [truth.var_names.get_indexer([*condition.genes]) for condition in listed(truth.obs)]
    largest, slopes = [], []
    for name, method in methods.items():
        predicted = _predicted(name, method, truth)
        largest.append(np.argsort(-np.abs(predicted), axis=1, kind="stable")[:, :LISTED])
        slopes.append(_slopes(predicted, measured[method.halved], targets))
    shown = [_listed(own, [ranks[row] for ranks in largest]) for row, own in enumerate(order)]
    mapped_rows, mapped = clustered(measured[False], MAPPED)
    by_condition, by_map = [], []
    for name, method in methods.items():
        predicted = _predicted(name, method, truth)
        by_condition.append([_thousandths(predicted[row, genes]) for row, genes in enumerate(shown)])
        by_map.append(_thousandths(predicted[:, mapped]))
    strongest = order[:, :STRONGEST]
    quartiles = {
        "cells": _quartiles(cells, truth, strongest, "reference_truth"),
        "controls": _quartiles(controls, truth, strongest, "reference_input"),
    }
    used = np.unique(np.concatenate([*shown, mapped]))
    position = {gene: number for number, gene in enumerate(used)}
    correlations = [_correlations(method.metrics, truth.obs_names) for method in methods.values()]
    conditions = [
        {
            "name": name,
            "cells": int(truth.obs["n_cells"].iloc[row]),
            "size": round(float(np.linalg.norm(measured[False][row])), 3),
            "reliability": _number(reliability.get(name)),
            "genes": [position[gene] for gene in shown[row]],
            "targets": [position[gene] for gene in targets[row] if gene in position],
            "measured": _thousandths(measured[False][row, shown[row]]),
            "half_b": _thousandths(measured[True][row, shown[row]]) if True in measured else None,
            "predicted": [values[row] for values in by_condition],
            "quartiles": {part: values[row] for part, values in quartiles.items()},
            "r": [values[row] for values in correlations],
            "slope": [_number(values[row]) for values in slopes],
        }
        for row, name in enumerate(truth.obs_names)
    ]
    kinds = {name: method.kind for name, method in methods.items()}
    styles = {name: method_style(name, kind, kinds) for name, kind in kinds.items()}
    return {
        "noun": noun_of(truth.obs),
        "n_genes": truth.n_vars,
        "genes": [str(truth.var_names[gene]) for gene in used],
        "methods": [
            {
                "name": name,
                "group": style.group,
                "colour": style.colour,
                "fill": style.fill,
                "halved": methods[name].halved,
                "left_over": _number(left_over(methods[name].metrics, truth)),
            }
            for name, style in styles.items()
        ],
        "conditions": conditions,
        "map": {
            "rows": [int(row) for row in mapped_rows],
            "genes": [position[gene] for gene in mapped],
            "measured": _thousandths(measured[False][:, mapped]),
            "half_b": _thousandths(measured[True][:, mapped]) if True in measured else None,
            "predicted": by_map,
        },
    }


def write(content: Mapping[str, Any], path: str | Path) -> None:
    """Write the result of :func:`view` as compressed JSON, the same bytes for the same content."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as partial:
        partial.write_bytes(gzip.compress(text.encode(), mtime=0))


def _measured(truth: anndata.AnnData, halved: bool) -> np.ndarray:
    return changes(truth, truth, halved)[1]


def _predicted(name: str, method: Predicted, truth: anndata.AnnData) -> np.ndarray:
    predicted = changes(method.pseudobulk(), truth, method.halved)[0]
    if not np.isfinite(predicted).all():
        row, column = np.argwhere(~np.isfinite(predicted))[0]
        where = f"{truth.obs_names[row]}, {truth.var_names[column]}"
        raise InputError(f"pseudobulk.h5ad of {name}", where, str(predicted[row, column]), "finite changes")
    return predicted


def _listed(by_measured: np.ndarray, by_methods: Sequence[np.ndarray]) -> list[int]:
    """List genes, the largest measured changes first, then in turn what methods predict to change most."""
    chosen = dict.fromkeys(by_measured[:MEASURED].tolist())
    for gene in np.stack(by_methods, axis=1).ravel().tolist():
        if len(chosen) == LISTED:
            break
        chosen[gene] = None
    return [*chosen]


def _slopes(predicted: np.ndarray, measured: np.ndarray, targets: Sequence[np.ndarray]) -> np.ndarray:
    """Fit the predicted change on the measured one, by condition; NaN where nothing varies."""
    slopes = np.full(len(measured), np.nan)
    for row, own in enumerate(targets):
        kept = np.setdiff1d(np.arange(measured.shape[1]), own)
        centred = measured[row, kept] - measured[row, kept].mean() if len(kept) else measured[row, :0]
        if variance := float(centred @ centred):
            slopes[row] = centred @ predicted[row, kept] / variance
    return slopes


def _correlations(metrics: pd.DataFrame, names: pd.Index) -> list[float | None]:
    """Give the headline of every condition; None where it is a convention."""
    rows = metrics[metrics["metric"] == HEADLINE]
    values = rows["value"].where(rows["reason"].fillna("").isin(DEFINED))
    return [_number(value) for value in values.set_axis(labels_of(rows)).reindex(names)]


def _quartiles(
    cells: anndata.AnnData, truth: anndata.AnnData, genes: np.ndarray, reference: str
) -> list[list[list[int]]]:
    """Find the quartiles over the cells of each condition of its ``genes`` [conditions x genes], minus a reference.

    Cells count by their ``weight``, where they have one. A quartile is a value that a cell has.
    """
    codes = codes_of(cells.obs, listed(truth.obs))
    values = np.zeros((int((codes >= 0).sum()), genes.shape[1]), dtype=np.float32)
    place = np.cumsum(codes >= 0) - 1
    for start, chunk in row_chunks(cells.X, read=codes >= 0):
        here = codes[start : start + chunk.shape[0]]
        for code in np.unique(here[here >= 0]):
            rows = np.flatnonzero(here == code)
            part = chunk[rows][:, genes[code]]
            values[place[start + rows]] = part if isinstance(part, np.ndarray) else part.toarray()
    kept = codes[codes >= 0]
    weights = cells.obs["weight"].to_numpy(dtype=float) if "weight" in cells.obs else np.ones(len(codes))
    found = []
    for code in range(truth.n_obs):
        own = kept == code
        of_cells = np.quantile(values[own], QUARTILES, axis=0, weights=weights[codes == code], method="inverted_cdf")
        found.append(_thousandths((of_cells - truth.layers[reference][code, genes[code]]).T))
    return found


def _thousandths(values: np.ndarray) -> list:
    return np.rint(np.asarray(values) * THOUSANDTHS).astype(int).tolist()


def _number(value: float | None) -> float | None:
    """Round for the page; None for what is not known."""
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
