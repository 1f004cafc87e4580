"""Bring the cells of any data drop to one form: what every later stage reads as cells.h5ad.

Nothing is guessed. What contradicts the row of the data-set table is an error; what is repaired is recorded in
``uns["harmonized"]``, and so is what is odd but may be meant. Cells are read by chunks, twice: to check and count them,
and to write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.annotations import annotate
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, contexts_of, rows_of
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.genes import choose_genes
from scgpt_bench.data.halves import deal_halves, few_controls
from scgpt_bench.data.names import CONTROL, JOINED_BY, first_names, genes_of
from scgpt_bench.data.on_disk import CellWriter, text_array
from scgpt_bench.data.tenx import READER_NOTES
from scgpt_bench.data.values import harmonized_chunks, read_values

SELECTION = "measured targets and the {} with the highest dispersion in control cells"


def harmonize(adata: anndata.AnnData, dataset: Dataset, **options: Any) -> anndata.AnnData:
    """Return the cells of a drop in the form of cells.h5ad, in memory; the arguments are those of :func:`prepare`.

    Returns
    -------
    cells x genes. X: CSR float32, log1p of counts scaled to ``dataset.target_sum`` per cell over all genes of the
    file. layers["counts"]: CSR float32, where the file has counts. var_names: unique gene symbols; var["gene_id"]:
    their Ensembl identifiers, where the file has them. obs: categorical ``perturbation``, ``direction``, ``context``,
    ``batch``, ``cell_type``, ``half`` (:mod:`halves`) and, where known, ``guide``; ``n_counts``, the sum over all
    genes of the file, where it has counts. uns["harmonized"]: what was understood, kept, dropped and repaired.
    """
    prepared = prepare(adata, dataset, **options)
    X, counts = zip(*prepared.chunks, strict=True)
    layers = {"counts": sparse.vstack(counts, format="csr")} if dataset.values == "counts" else {}
    uns = {"harmonized": prepared.summary}
    return anndata.AnnData(sparse.vstack(X, format="csr"), prepared.obs, prepared.var, uns, layers=layers)


def write_harmonized(adata: anndata.AnnData, dataset: Dataset, path: str | Path, **options: Any) -> None:
    """Write what :func:`harmonize` returns to ``path``, holding one chunk of cells at a time."""
    prepared = prepare(adata, dataset, **options)
    with CellWriter(path, len(prepared.var)) as cells:
        for X, counts in prepared.chunks:
            cells.append(X, **({} if counts is None else {"counts": counts}))
        cells.obs, cells.var, cells.uns = prepared.obs, prepared.var, {"harmonized": prepared.summary}


@dataclass(frozen=True)
class Prepared:
    """A drop after the first pass over its cells: annotations, summary, and X and counts by chunks of a second pass."""

    obs: pd.DataFrame
    var: pd.DataFrame
    summary: dict[str, Any]
    chunks: Iterator[tuple[sparse.csr_matrix, sparse.csr_matrix | None]]


def prepare(
    adata: anndata.AnnData,
    dataset: Dataset,
    *,
    minimum_cells: int,
    maximum_genes: int | None = None,
    source: str | Path | None = None,
) -> Prepared:
    """Understand a drop and choose its cells and genes.

    Parameters
    ----------
    adata
        cells x genes as a reader gives it; X dense or sparse, holding what ``dataset.values`` says. Not changed.
    minimum_cells
        Conditions with fewer cells are dropped and listed.
    maximum_genes
        Keep the genes with the highest dispersion among control cells (nothing is chosen by how perturbed cells
        respond), and every measured target in addition.
    source
        The file, for errors; the address of the data set unless given.

    Raises
    ------
    InputError
        For a file that is empty, lacks a stated column or all control cells of a context, has a label, gene name or
        value that cannot be used, or values that are not what the row says.
    """
    findings = Findings(source or dataset.address)
    annotations = annotate(adata, dataset, findings)
    values = read_values(adata, dataset, annotations, findings, dispersions=maximum_genes is not None)

    empty = annotations.kept & ~values.filled
    if empty.any():
        findings.repairs.append(f"{empty.sum()} cells without any count dropped")
    number = {
        condition: int(values.filled[annotations.kept][rows].sum())
        for condition, rows in rows_of(annotations.obs[annotations.kept]).items()
    }
    few = list_too_few(number, minimum_cells)
    cells = annotations.kept & values.filled & (codes_of(annotations.obs, few) < 0)
    obs = annotations.obs[cells]
    check_groups(obs, number, minimum_cells, dataset, findings)
    findings.problems.extend([*batches_without_controls(obs), *few_controls(obs)])
    obs = obs.assign(half=deal_halves(obs))

    symbols = annotations.genes.symbols
    perturbations = sorted({condition.perturbation for condition in conditions_of(obs)})
    targets = sorted({gene for name in perturbations for gene in genes_of(name)})
    genes, selection = np.ones(len(symbols), dtype=bool), "all"
    if maximum_genes is not None and maximum_genes < len(symbols):
        genes = choose_genes(symbols, targets, values.control_moments, maximum_genes, findings)
        selection = SELECTION.format(maximum_genes)
    var = annotations.genes.var[genes]

    summary = {
        "dataset": dataset.name,
        "version": dataset.version or "",
        "values": dataset.values,
        "target_sum": dataset.target_sum,
        "perturbation_kind": dataset.perturbation_kind,
        "control_labels": text_array(dataset.control_labels),
        "values_evidence": values.evidence,
        "n_cells_read": adata.n_obs,
        "n_genes_read": len(symbols),
        "n_controls": int((obs["perturbation"] == CONTROL).sum()),
        "contexts": text_array(contexts_of(obs)),
        "n_perturbations": len(perturbations),
        "n_combinations": sum(JOINED_BY in name for name in perturbations),
        "genes": selection,
        "gene_ids_from": text_array(annotations.genes.ids_from),
        "largest_shares_of_counts": values.largest_shares,
        "targets_measured": text_array(gene for gene in targets if gene in var.index),
        "targets_not_measured": text_array(gene for gene in targets if gene not in var.index),
        "minimum_cells": minimum_cells,
        "dropped_perturbations": text_array(condition.label for condition in few),
        "repairs": text_array(findings.repairs),
        "problems": text_array(findings.problems),
        "read": dict(adata.uns.get(READER_NOTES, {})),
    }
    obs = pd.DataFrame({name: pd.Categorical(obs[name]) for name in obs}, index=obs.index)
    if dataset.values == "counts":
        obs["n_counts"] = values.n_counts[cells]
    return Prepared(obs, var, summary, harmonized_chunks(adata, dataset, annotations.genes.is_gene, cells, genes))


def list_too_few(number: Mapping[Condition, int], minimum_cells: int) -> list[Condition]:
    """List the conditions with fewer cells than ``minimum_cells``, sorted; controls are always enough."""
    return sorted(c for c, n_cells in number.items() if n_cells < minimum_cells and c.perturbation != CONTROL)


def check_groups(
    obs: pd.DataFrame, number: Mapping[Condition, int], minimum_cells: int, dataset: Dataset, findings: Findings
) -> None:
    """Refuse a drop without a perturbation left (unless its row has none), with less than two control cells in one of
    its contexts, or with other contexts than its row declares.

    Parameters
    ----------
    obs
        ``perturbation`` and ``context`` of each cell that is left.
    number
        Cells of each condition in the file, controls included.

    Raises
    ------
    InputError
        Saying how many perturbations there are in the file, and the cells of the largest.
    """
    is_control = obs["perturbation"] == CONTROL
    if not is_control.any():
        raise findings.error("X", "no control cell with any count", "control cells")
    if is_control.all() and dataset.perturbation_column is not None:
        n_cells = [n_cells for condition, n_cells in number.items() if condition.perturbation != CONTROL]
        n_perturbations = len({condition.perturbation for condition in number} - {CONTROL})
        found = f"{n_perturbations} perturbations of at most {max(n_cells, default=0)} cells"
        expected = f"a perturbation with at least {minimum_cells} cells (minimum_cells)"
        if not n_cells:
            expected += "; or no perturbation_column and no control_label in the row, where all cells are control cells"
        raise findings.error(f"obs[{dataset.perturbation_column!r}]", found, expected)
    for context, n_controls in is_control.groupby(obs["context"].astype(str)).sum().items():
        if n_controls < 2:
            n_cells = (obs["context"] == context).sum()
            found = f"{n_cells} cells of {context!r}, but {['no', 'one'][n_controls]} control cell"
            where = f"obs[{dataset.context_column or dataset.perturbation_column!r}]"
            raise findings.error(where, found, "two control cells or more in every context: one for each half")
    declared, contexts = sorted(dataset.declared_contexts), contexts_of(obs)
    if declared and declared != contexts:
        expected = f"{', '.join(declared)} (column 'contexts' of the data-set table)"
        raise findings.error(f"obs[{dataset.context_column!r}]", ", ".join(contexts), expected)


def batches_without_controls(obs: pd.DataFrame) -> list[str]:
    """Name the batches without a control cell, in one sentence; none where there is no such batch."""
    counts = pd.crosstab(obs["batch"], obs["perturbation"] == CONTROL).reindex(columns=[False, True], fill_value=0)
    without = counts.index[counts[True] == 0]
    if not len(without):
        return []
    found = f"no control cell in {len(without)} of {len(counts)} batches"
    return [f"{found}, of {counts.loc[without, False].sum()} perturbed cells: {first_names(map(repr, without))}"]
