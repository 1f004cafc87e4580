"""What the workflow understands of a drop, in seconds and in words, before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.harmonize import evidence_of_values, understand
from scgpt_bench.data.names import CONTROL, JOINED_BY, genes_of
from scgpt_bench.data.tenx import READER_NOTES

SAMPLE = 2000  # cells whose values are looked at; harmonize looks at all


def check(
    adata: anndata.AnnData,
    dataset: Dataset,
    *,
    minimum_cells: int,
    vocabularies: Iterable[str | Path] = (),
    source: str | Path,
) -> str:
    """A text on the labels, genes, annotations and values of a drop.

    Parameters
    ----------
    adata
        As a reader gives it.
    minimum_cells
        Perturbations with fewer cells will be left out.
    vocabularies
        Files ``.../<checkpoint>/vocab.json``; those that do not exist are said to be unknown.

    Raises
    ------
    InputError
        As harmonize would, for what can be seen without reading every value.
    """
    understood = understand(adata, dataset, source)
    obs = understood.obs[understood.kept]
    sampled, evidence = evidence_of_values(adata, dataset, understood, source, SAMPLE)
    cells = obs["perturbation"].value_counts().drop(CONTROL)
    few = cells[cells < minimum_cells]
    targets = sorted({gene for name in cells.index for gene in genes_of(name)})
    measured = [gene for gene in targets if gene in understood.symbols]
    lines = {
        "file": f"{source} ({dataset.format})",
        "cells": f"{adata.n_obs:,}, {understood.kept.sum():,} of them used",
        "values": f"{evidence}; seen in {sampled:,} cells; scaled to {dataset.target_sum:g} per cell",
        "genes": f"{len(understood.symbols):,}, such as {', '.join(understood.symbols[:3])}",
        "controls": f"{(obs['perturbation'] == CONTROL).sum():,} cells labelled "
        + " or ".join(map(repr, dataset.control_labels)),
        "perturbations": f"{len(cells):,} ({dataset.perturbation_kind}) of {_range(cells)} cells, such as "
        + ", ".join(cells.index[:5]),
        "combinations": f"{sum(JOINED_BY in name for name in cells.index):,}"
        + ("" if dataset.combination_separator else " (the row names no separator)"),
        "too few cells": f"{len(few):,} perturbations of fewer than {minimum_cells}: {_some(few.index)}",
        "targets": f"{len(measured):,} of {len(targets):,} measured",
        "guides": f"{obs['guide'].nunique():,} merged by target" if "guide" in obs else "not known",
        "batches": _groups(obs, "batch", dataset.batch_column),
        "cell types": _groups(obs, "cell_type", dataset.cell_type_column),
    }
    for path in map(Path, vocabularies):
        lines[f"vocabulary {path.parent.name}"] = _vocabulary(path, understood.symbols)
    for name, value in dict(adata.uns.get(READER_NOTES, {})).items():
        lines[name] = str(value)
    for kind, texts in (("repair", understood.repairs), ("problem", understood.problems)):
        lines[f"{kind}s"] = "none" if not texts else "\n".join(texts)
    width = max(map(len, lines))
    indented = {name: text.replace("\n", "\n" + " " * (width + 2)) for name, text in lines.items()}
    return f"{dataset.name}\n" + "".join(f"{name:<{width}}  {text}\n" for name, text in indented.items())


def _range(cells: pd.Series) -> str:
    return f"{cells.min():,} to {cells.max():,}" if len(cells) else "0"


def _some(names: Iterable[str], shown: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "") or "none"


def _groups(obs: pd.DataFrame, column: str, stated: str | None) -> str:
    if not stated:
        return "one (the row names no column)"
    counts = pd.crosstab(obs[column], obs["perturbation"] == CONTROL).reindex(columns=[True, False], fill_value=0)
    without = counts.index[(counts[True] == 0).to_numpy()]
    text = f"{len(counts):,} in {stated!r}: {_some(counts.index)}"
    return text + (f"; without a control cell: {_some(without)}" if len(without) else "")


def _vocabulary(path: Path, symbols: pd.Index) -> str:
    if not path.is_file():
        return "not here yet"
    known = np.isin(symbols.str.upper(), [gene.upper() for gene in json.loads(path.read_text())])
    return f"{known.sum():,} of {len(symbols):,} genes by name"
