"""Bring the cells of any data drop to one form: what every later stage reads as cells.h5ad.

Nothing is guessed. What contradicts the row of the data-set table is an error; what is repaired is written down in
``uns["harmonized"]``, and so is what is odd but may be meant. Cells are read by chunks, twice: to check and count them,
and to write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data import symbols as names_of_genes
from scgpt_bench.data.catalogue import DIRECTION_OF_KIND, DIRECTIONS, Dataset
from scgpt_bench.data.conditions import CONTEXT, IN, Condition, codes_of, conditions_of, contexts_of, rows_of
from scgpt_bench.data.feature_types import gene_expression
from scgpt_bench.data.labels import MISSING, is_control_target, parts_of, perturbation_names, without_affixes
from scgpt_bench.data.means import FEWEST
from scgpt_bench.data.names import CONTROL, JOINED_BY, UNSTATED, genes_of
from scgpt_bench.data.on_disk import CellWriter, row_chunks, rows_from
from scgpt_bench.data.proposals import Proposal, propose
from scgpt_bench.data.tenx import READER_NOTES, TARGETS
from scgpt_bench.errors import InputError

LARGEST = 5  # genes whose shares of all counts are written down
GUIDE = "guide"  # the column in which readers of 10x files give a cell's guides


@dataclass
class Understood:
    """What the labels, genes and annotations of a drop mean, before a value of X is read.

    Attributes
    ----------
    obs
        ``perturbation``, ``direction`` (``down``, ``up``; ``none`` of controls), ``context``, ``batch``, ``cell_type``
        and, where known, ``guide``: strings, one row per cell of the file.
    symbols
        The name of each gene, every one once.
    gene_ids
        The Ensembl identifier of each gene, without its version; empty where the file has none.
    gene_ids_from
        Where in ``var`` they are: ``index`` or columns; empty where the file has none.
    genes
        Mask [features of the file]: False for features that are no genes.
    kept
        Mask [cells]: False for cells that the row or a missing guide leaves out.
    repairs, problems
        What was changed, and what is odd: sentences.
    """

    obs: pd.DataFrame
    symbols: pd.Index
    gene_ids: np.ndarray
    gene_ids_from: list[str]
    genes: np.ndarray
    kept: np.ndarray
    repairs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def harmonize(
    adata: anndata.AnnData,
    dataset: Dataset,
    *,
    minimum_cells: int,
    maximum_genes: int | None = None,
    source: str | Path | None = None,
) -> anndata.AnnData:
    """The cells of a drop in the form of cells.h5ad, in memory; :func:`write_harmonized` writes them by chunks.

    Parameters
    ----------
    adata
        cells x genes as a reader gives it; X dense or sparse, holding what ``dataset.values`` says. Not changed.
    minimum_cells
        Conditions with fewer cells are dropped and listed.
    maximum_genes
        Keep the genes with the highest dispersion among control cells (so that nothing is chosen by how perturbed
        cells respond), and every measured target in addition.
    source
        The file, for errors; the address of the data set unless given.

    Returns
    -------
    cells x genes. X: CSR float32, log1p of counts scaled to ``dataset.target_sum`` per cell over all genes of the
    file. layers["counts"]: CSR float32, where the file holds counts. var_names: unique gene symbols; var["gene_id"]:
    their Ensembl identifiers, where the file has them. obs: categorical ``perturbation``, ``direction``, ``context``,
    ``batch``, ``cell_type`` and, where known, ``guide``; ``n_counts``, the sum over all genes of the file, where it
    holds counts. uns["harmonized"]: what was understood, kept, dropped and repaired.

    Raises
    ------
    InputError
        For a file that is empty, lacks a stated column or all control cells of a context, has a label, gene name or
        value that cannot be used, or values that are not what the row says.
    """
    harmonized = _Harmonized(adata, dataset, minimum_cells, maximum_genes, source or dataset.address)
    parts = [*harmonized.chunks()]
    result = anndata.AnnData(sparse.vstack([X for X, _ in parts], format="csr"), harmonized.obs, harmonized.var)
    if dataset.values == "counts":
        result.layers["counts"] = sparse.vstack([counts for _, counts in parts], format="csr")
    result.uns["harmonized"] = harmonized.summary
    return result


def write_harmonized(
    adata: anndata.AnnData,
    dataset: Dataset,
    path: str | Path,
    *,
    minimum_cells: int,
    maximum_genes: int | None = None,
    source: str | Path | None = None,
) -> None:
    """Write what :func:`harmonize` returns to ``path``, holding one chunk of cells at a time."""
    harmonized = _Harmonized(adata, dataset, minimum_cells, maximum_genes, source or dataset.address)
    with CellWriter(path, len(harmonized.var)) as cells:
        for X, counts in harmonized.chunks():
            cells.append(X, **({} if counts is None else {"counts": counts}))
        cells.obs, cells.var, cells.uns = harmonized.obs, harmonized.var, {"harmonized": harmonized.summary}


class _Harmonized:
    """A drop after the first pass over its cells: annotations and summary, and the chunks of a second pass."""

    def __init__(
        self,
        adata: anndata.AnnData,
        dataset: Dataset,
        minimum_cells: int,
        maximum_genes: int | None,
        source: str | Path,
    ):
        self._adata, self._dataset = adata, dataset
        understood = understand(adata, dataset, source)
        self._is_gene = understood.genes
        values = _Values(adata, dataset, understood, source, dispersions=maximum_genes is not None)
        values.read()
        repairs, problems, obs = understood.repairs, understood.problems, understood.obs
        cells = _cell_names(adata, repairs)
        empty = understood.kept & ~values.filled
        if empty.any():
            repairs.append(f"{empty.sum()} cells without any count dropped")
        usable = understood.kept & values.filled
        number = {
            condition: int(usable[rows].sum())
            for condition, rows in rows_of(obs).items()
            if understood.kept[rows].any()
        }
        few = too_few(number, minimum_cells)
        self._kept = usable & (codes_of(obs, few) < 0)
        check_groups(obs[self._kept], number, minimum_cells, dataset, source)
        kept_names = sorted({condition.perturbation for condition in conditions_of(obs[self._kept])})

        self.obs = pd.DataFrame({name: pd.Categorical(obs[name][self._kept]) for name in obs}, index=cells[self._kept])
        if dataset.values == "counts":
            self.obs["n_counts"] = values.n_counts[self._kept]
        self.var = pd.DataFrame(index=understood.symbols)
        if understood.gene_ids_from:
            self.var["gene_id"] = understood.gene_ids
        targets = sorted({gene for name in kept_names for gene in genes_of(name)})
        self._genes, selection = None, "all"
        if maximum_genes is not None and maximum_genes < len(understood.symbols):
            _check_dispersion(values, source)
            chosen = most_variable(values.control_mean, values.control_variance, maximum_genes)
            self._genes = chosen | understood.symbols.isin(targets)
            self.var = self.var[self._genes]
            selection = f"measured targets and the {maximum_genes} with the highest dispersion in control cells"
        problems += batches_without_controls(self.obs)
        self.summary = {
            **_what_the_row_says(dataset),
            "values_evidence": values.evidence,
            "n_cells_read": adata.n_obs,
            "n_genes_read": len(understood.symbols),
            "n_controls": int((self.obs["perturbation"] == CONTROL).sum()),
            "contexts": _array(contexts_of(self.obs)),
            "n_perturbations": len(kept_names),
            "n_combinations": sum(JOINED_BY in name for name in kept_names),
            "genes": selection,
            "gene_ids_from": _array(understood.gene_ids_from),
            "largest_shares_of_counts": values.largest_shares(),
            "targets_measured": _array(gene for gene in targets if gene in self.var.index),
            "targets_not_measured": _array(gene for gene in targets if gene not in self.var.index),
            "minimum_cells": minimum_cells,
            "dropped_perturbations": _array(condition.label for condition in few),
            "repairs": _array(repairs),
            "problems": _array(problems),
            "read": dict(adata.uns.get(READER_NOTES, {})),
        }

    def chunks(self) -> Iterator[tuple[sparse.csr_matrix, sparse.csr_matrix | None]]:
        """X and, where the file holds them, counts of the cells that are kept, in the order of the file."""
        for start, matrix in row_chunks(self._adata.X):
            matrix = _tidy(matrix, self._is_gene)[self._kept[start : start + matrix.shape[0]]]
            X = _log_values(matrix, self._dataset)
            counts = matrix.astype(np.float32) if self._dataset.values == "counts" else None
            if self._genes is not None:
                X, counts = X[:, self._genes], None if counts is None else counts[:, self._genes]
            yield X, counts


def understand(adata: anndata.AnnData, dataset: Dataset, source: str | Path) -> Understood:
    """Read labels, genes and annotations of a drop as its row says.

    Raises
    ------
    InputError
        See :func:`harmonize`.
    """
    if adata.n_obs == 0 or adata.n_vars == 0 or adata.X is None:
        raise InputError(source, "X", f"{adata.n_obs} cells x {adata.n_vars} genes", "values of cells x genes")
    repairs: list[str] = []
    problems: list[str] = []
    labels = _column(adata.obs, dataset.perturbation_column, "perturbation of each cell", "obs", source)
    kept = _not_excluded(labels, dataset, repairs)
    genes = gene_expression(adata.var, source, repairs)
    if genes.sum() < FEWEST:
        raise InputError(source, "genes", f"{genes.sum()}", f"at least {FEWEST}: over fewer nothing correlates")
    var = adata.var[genes]
    targets_of = adata.uns.get(TARGETS, {}) if dataset.perturbation_column == GUIDE else {}
    _check_reference(targets_of, var, dataset, source)
    names = pd.Series(UNSTATED, index=labels.index, dtype=object)
    # The rules of the row have nothing to say on guides whose targets are listed.
    texts = [] if targets_of else [*map(str, labels[kept].dropna().unique())]
    proposal = propose(texts, _gene_names(var, dataset), dataset)
    try:
        names[kept] = perturbation_names(labels[kept], dataset, source, targets_of).to_numpy()
    except InputError as error:
        advice = f"; proposed: {proposal.text}" if proposal else ""
        raise InputError(error.source, error.where, error.found, error.expected + advice) from None
    where = f"obs[{dataset.perturbation_column!r}]"
    if not (names[kept] == CONTROL).any():
        raise _no_control(names[kept], texts, dataset, proposal, where, source)
    targets = sorted({gene for name in names[kept].unique() for gene in genes_of(name)})
    symbols = _symbols(var, dataset, targets, source, repairs, problems)
    gene_ids, gene_ids_from, n_contradictory = names_of_genes.ensembl_ids(var)
    if n_contradictory:
        places = " and ".join(map(repr, gene_ids_from))
        problems.append(f"{n_contradictory} genes have different Ensembl identifiers in {places} of var: none is used")
    _check_targets(targets, symbols, where, source, problems)
    _check_rules(texts, targets, symbols, dataset, proposal, where, source, problems)
    respelled = names_of_genes.measured_spelling(targets, symbols)
    if respelled:
        shown = ", ".join(f"{old} as {new}" for old, new in sorted(respelled.items())[:5])
        repairs.append(f"{len(respelled)} targets spelled as the measured gene: {shown}")
        new_name = {
            name: JOINED_BY.join(sorted({respelled.get(gene, gene) for gene in genes_of(name)})) or name
            for name in names.unique()
        }
        names = names.map(new_name)
    pairs = names_of_genes.same_but_for_case({respelled.get(gene, gene) for gene in targets})
    if pairs:
        found = f"the targets {pairs[0][0]!r} and {pairs[0][1]!r}"
        raise InputError(source, where, found, "one spelling if they are one gene, other names if they are two")
    problems += _targets_named_like_controls(targets, dataset)
    guides = _guides(adata, dataset, labels, names, kept, source, repairs)
    columns = {
        "perturbation": names.to_numpy(),
        "direction": _directions(adata, dataset, (names == CONTROL).to_numpy(), kept, source),
        "context": _contexts(adata, dataset, kept, source),
    }
    for name, column in {"batch": dataset.batch_column, "cell_type": dataset.cell_type_column}.items():
        columns[name] = (
            _complete(adata, column, kept, source) if column else np.full(adata.n_obs, UNSTATED, dtype=object)
        )
    if guides is not None:
        columns["guide"] = guides
    obs = pd.DataFrame(columns, dtype=object)
    if not (obs["perturbation"][kept] == CONTROL).any():
        raise InputError(source, where, "no control cell with a guide", "control cells with a non-targeting guide")
    _check_directions(obs[kept], dataset, source)
    unassigned = [label for label in dataset.control_labels if names_of_genes.is_unassigned(label)]
    if unassigned and labels.astype(str).str.strip().isin(unassigned).any():
        problems.append(f"cells labelled {unassigned[0]!r} count as controls: nobody knows which guide they carry")
    return Understood(obs, symbols, gene_ids.to_numpy(dtype=object), gene_ids_from, genes, kept, repairs, problems)


def evidence_of_values(
    adata: anndata.AnnData, dataset: Dataset, understood: Understood, source: str | Path, n_cells: int
) -> tuple[int, str]:
    """Look at the values of about ``n_cells`` cells, in runs spread over the file: how many, and what they show.

    Raises
    ------
    InputError
        See :func:`harmonize`.
    """
    runs = 20
    length = max(1, n_cells // runs)
    starts = sorted({int(start) for start in np.linspace(0, max(0, adata.n_obs - length), runs)})
    values = _Values(adata, dataset, understood, source, dispersions=False)
    values.read((start, rows_from(adata.X, start, length)) for start in starts)
    return min(adata.n_obs, length * len(starts)), values.evidence


def _not_excluded(labels: pd.Series, dataset: Dataset, repairs: list[str]) -> np.ndarray:
    text = labels.astype("object").where(labels.notna(), "nan").astype(str).str.strip()
    text = text.where(~text.isin(MISSING), "nan")
    excluded = text.isin(dataset.excluded_labels).to_numpy()
    for label, number in text[excluded].value_counts().items():
        repairs.append(f"{number} cells labelled {label!r} left out, as the row says")
    return ~excluded


def _gene_names(var: pd.DataFrame, dataset: Dataset) -> list[str]:
    """The names of genes as the file has them, before they are checked."""
    return [*map(str, var.get(dataset.gene_symbol_column, var.index))]


def _no_control(
    names: pd.Series, texts: list[str], dataset: Dataset, proposal: Proposal | None, where: str, source: str | Path
) -> InputError:
    """The error for a file without control cells: its labels as the row reads them, and what may be controls."""
    frequent = ", ".join(f"{name!r} ({n})" for name, n in names.astype(str).value_counts().head(8).items())
    row = proposal.row if proposal else dataset
    parts = {part for text in texts or names.unique() for part in parts_of(text, row)}
    expected = "control cells labelled " + " or ".join(map(repr, dataset.control_labels))
    alike = sorted(names_of_genes.named_like_controls(parts - {*dataset.control_labels}))
    if alike:
        expected += f", or control_label '{'|'.join(alike[:4])}{'|...' if len(alike) > 4 else ''}'"
    if proposal:
        expected += f"; proposed: {proposal.text}"
    return InputError(source, where, f"no control; most frequent: {frequent}", expected)


def _check_rules(
    texts: list[str],
    targets: list[str],
    symbols: pd.Index,
    dataset: Dataset,
    proposal: Proposal | None,
    where: str,
    source: str | Path,
    problems: list[str],
) -> None:
    """Refuse labels most of which are guides or combinations of measured genes; list what may be so."""
    if proposal:
        odd = [text for text in texts if parts_of(text, proposal.row) != parts_of(text, dataset)]
        shown = f"{len(odd):,} labels that look like guides or combinations, such as {', '.join(map(repr, odd[:3]))}"
        if proposal.seen and proposal.gained > max(1, len(texts) / 2):
            raise InputError(source, where, shown, f"genes, or {proposal.text}, or other labels if they are neither")
        problems.append(f"{shown}: one may be trained on and another tested, unless {proposal.text}")
        return
    groups = names_of_genes.labels_of_one_gene(targets, symbols)
    if groups:
        shown = "; ".join(" and ".join(group) for group in groups[:5]) + ("; ..." if len(groups) > 5 else "")
        problems.append(
            f"{sum(map(len, groups))} labels look like guides or promoters of one gene ({shown}): one may be "
            "trained on and another tested, unless guide_suffix in the data-set table makes them one perturbation"
        )


def _check_targets(targets: list[str], symbols: pd.Index, where: str, source: str | Path, problems: list[str]) -> None:
    """Refuse labels that do not name genes, where the file shows what they are."""
    unassigned = [target for target in targets if names_of_genes.is_unassigned(target)]
    if unassigned:
        expected = f"{unassigned[0]!r} in excluded_label of the data-set table (leave out), or in control_label"
        raise InputError(source, where, f"the label {unassigned[0]!r}, which names no gene", expected)
    ids = [re.split(r"[-_.]", target)[0] for target in targets]  # without a version or what tells guides apart
    if names_of_genes.are_ensembl_ids(ids) and not names_of_genes.are_ensembl_ids(symbols):
        expected = f"symbols such as {symbols[0]!r}, as the genes of this file are called"
        raise InputError(source, where, f"Ensembl identifiers such as {targets[0]!r}", expected)
    dates = names_of_genes.spreadsheet_dates(targets)
    if dates:
        expected = "the gene's name: a spreadsheet made a date of it (1-Mar of MARCHF1 or MTARC1, 2-Sep of SEPTIN2)"
        raise InputError(source, where, f"the label {dates[0]!r}", expected)
    if {target.upper() for target in targets}.isdisjoint(symbols.str.upper()):
        problems.append(f"none of the {len(targets)} targets is among the measured genes")


def _check_reference(targets_of: Mapping[str, str], var: pd.DataFrame, dataset: Dataset, source: str | Path) -> None:
    """Refuse guides whose names say another gene than the feature reference: nobody knows which of the two is right.

    A name says a gene where the row's rule strips something of it, or where it is a measured gene or a control label.
    """
    measured = {gene.casefold() for gene in _gene_names(var, dataset)}
    for guide, target in targets_of.items():
        said = without_affixes(guide, dataset)
        if said in dataset.control_labels:
            agree = is_control_target(target, dataset)
        else:
            silent = said == guide and said.casefold() not in measured
            agree = silent or said.casefold() == target.casefold()
        if not agree:
            expected = "one gene; perturbation_column 'target' takes the reference's, 'guide_name' that of the names"
            raise InputError(source, "guides", f"{guide!r}, which names {said!r}, with the target {target!r}", expected)


def _targets_named_like_controls(targets: list[str], dataset: Dataset) -> list[str]:
    return [
        f"the target {target!r} is called as controls often are; its cells count as perturbed, since control_label is "
        f"{dataset.control_label!r}"
        for target in names_of_genes.named_like_controls(targets)
    ]


def _guides(
    adata: anndata.AnnData,
    dataset: Dataset,
    labels: pd.Series,
    names: pd.Series,
    kept: np.ndarray,
    source: str | Path,
    repairs: list[str],
) -> np.ndarray | None:
    """The guide of each cell; a control cell without one is left out (``kept``), since nobody knows what it carries."""
    if not dataset.guide_column:
        by_reference = dataset.perturbation_column == GUIDE and TARGETS in adata.uns
        guides_are_labels = dataset.guide_prefix or dataset.guide_suffix or by_reference
        return labels.astype(str).to_numpy() if guides_are_labels else None
    guides = _column(adata.obs, dataset.guide_column, "column that the data-set table names", "obs", source)
    text = guides.astype("object").where(guides.notna(), "").astype(str)
    unassigned = text.map({label: names_of_genes.is_unassigned(label) for label in text.unique()}).to_numpy(dtype=bool)
    lost = kept & unassigned & (names == CONTROL).to_numpy()
    if lost.any():
        repairs.append(f"{lost.sum()} cells labelled as control without a guide left out: they are unassigned")
        kept &= ~lost
    return _complete(adata, dataset.guide_column, kept, source)


def _directions(
    adata: anndata.AnnData, dataset: Dataset, is_control: np.ndarray, kept: np.ndarray, source: str | Path
) -> np.ndarray:
    """The direction of each cell's perturbation: ``down``, ``up``, or ``none`` of a control cell."""
    if not dataset.direction_column:
        return np.where(is_control, "none", DIRECTION_OF_KIND[dataset.perturbation_kind])
    perturbed = kept & ~is_control
    stated = pd.Series(_complete(adata, dataset.direction_column, perturbed, source))
    words = {word: DIRECTIONS.get(re.sub(r"[-_ ]", "", word).casefold()) for word in stated.unique()}
    unknown = stated.map(words).isna().to_numpy() & perturbed
    if unknown.any():
        first = unknown.argmax()
        where = f"obs[{dataset.direction_column!r}] of cell {adata.obs_names[first]!r}"
        found = f"{stated[first]!r} ({unknown.sum()} such cells)"
        raise InputError(source, where, found, "a direction, such as down or CRISPRi, up or CRISPRa")
    return np.where(is_control, "none", stated.map(words).to_numpy())


def _check_directions(obs: pd.DataFrame, dataset: Dataset, source: str | Path) -> None:
    """Refuse a condition whose targets go down in some cells and up in others: its mean would be of neither."""
    if not dataset.direction_column:
        return
    for condition, rows in rows_of(obs).items():
        numbers = obs["direction"].iloc[rows].value_counts().sort_index()
        if len(numbers) > 1:
            found = f"{condition.label!r} down in {numbers['down']} cells and up in {numbers['up']}"
            expected = "one direction of each perturbation, or a context_column that sets them apart"
            raise InputError(source, f"obs[{dataset.direction_column!r}]", found, expected)


def _contexts(adata: anndata.AnnData, dataset: Dataset, kept: np.ndarray, source: str | Path) -> np.ndarray:
    """The context of each cell."""
    if not dataset.context_column:
        return np.full(adata.n_obs, CONTEXT, dtype=object)
    contexts = pd.Series(_complete(adata, dataset.context_column, kept, source)).str.strip().to_numpy(dtype=object)
    where, named = f"obs[{dataset.context_column!r}]", set(contexts[kept])
    for context in sorted(named):
        if context.casefold() == CONTEXT or IN in context or "/" in context:
            expected = f"a name of the context, not {CONTEXT!r}, without {IN!r} and '/'"
            raise InputError(source, where, f"the context {context!r}", expected)
    pairs = names_of_genes.same_but_for_case(named)
    if pairs:
        found = f"the contexts {pairs[0][0]!r} and {pairs[0][1]!r}"
        raise InputError(source, where, found, "one spelling if they are one context, other names if they are two")
    return contexts


def batches_without_controls(obs: pd.DataFrame) -> list[str]:
    """Name the batches without a control cell, in one sentence; none where there is no such batch."""
    counts = pd.crosstab(obs["batch"], obs["perturbation"] == CONTROL).reindex(columns=[False, True], fill_value=0)
    without = counts.index[counts[True] == 0]
    if not len(without):
        return []
    shown = ", ".join(map(repr, without[:5])) + (", ..." if len(without) > 5 else "")
    perturbed = counts.loc[without, False].sum()
    return [f"no control cell in {len(without)} of {len(counts)} batches, of {perturbed} perturbed cells: {shown}"]


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


def _column(table: pd.DataFrame, column: str, what: str, table_name: str, source: str | Path) -> pd.Series:
    if column not in table:
        existing = ", ".join(map(repr, table.columns)) or "none"
        raise InputError(source, table_name, f"no column {column!r} (columns: {existing})", f"the {what} there")
    return table[column]


def _complete(adata: anndata.AnnData, column: str, kept: np.ndarray, source: str | Path) -> np.ndarray:
    values = _column(adata.obs, column, "column that the data-set table names", "obs", source)
    missing = (values.isna() | (values.astype(str).str.strip() == "")).to_numpy() & kept
    if missing.any():
        where = f"obs[{column!r}] of cell {adata.obs_names[missing.argmax()]!r}"
        raise InputError(source, where, f"no value ({missing.sum()} such cells)", "a value for every cell")
    return values.astype(str).to_numpy(dtype=object)


def _symbols(
    var: pd.DataFrame,
    dataset: Dataset,
    targets: list[str],
    source: str | Path,
    repairs: list[str],
    problems: list[str],
) -> pd.Index:
    index = var.index.astype(str)
    if dataset.gene_symbol_column:
        column = _column(var, dataset.gene_symbol_column, "gene symbols", "var", source).astype("object")
        named = (column.notna() & ~column.astype(str).str.strip().isin(["", "nan"])).to_numpy()
        symbols = pd.Index(np.where(named, column.astype(str).str.strip(), index))
        if not named.all():
            repairs.append(f"{(~named).sum()} genes without a symbol are called by the file's index")
    else:
        symbols = index
        if names_of_genes.are_ensembl_ids(symbols):
            existing = ", ".join(map(repr, var.columns)) or "none"
            expected = f"gene symbols, or gene_symbol_column in the data-set table (columns of var: {existing})"
            raise InputError(source, "var index", f"Ensembl identifiers such as {symbols[0]!r}", expected)
    unique, duplicated = names_of_genes.made_unique(pd.Index(symbols.to_numpy(dtype=object)))
    shown = f"{len(duplicated)} duplicate gene names: " + ", ".join(map(repr, duplicated[:5]))
    if set(duplicated) & set(targets):
        raise InputError(
            source,
            f"var {dataset.gene_symbol_column or 'index'}",
            shown,
            "every gene name once, at least if it is perturbed",
        )
    if duplicated:
        repairs.append(f"{shown}: all but the first of each got a number at the end")
    dates = names_of_genes.spreadsheet_dates(symbols)
    if dates:
        shown = ", ".join(map(repr, dates[:5]))
        problems.append(f"{len(dates)} genes whose names a spreadsheet turned into dates ({shown}): nothing knows them")
    return unique


def _cell_names(adata: anndata.AnnData, repairs: list[str]) -> pd.Index:
    """Unique names, because random draws and predictions name their cells."""
    names = adata.obs_names.astype(str)
    if not names.is_unique:
        repairs.append("duplicate cell names made unique by a number at the end")
        names = anndata.utils.make_index_unique(names)
    return pd.Index(names.to_numpy(dtype=object))


class _Values:
    """The first pass over X: every value checked, and what the second pass needs."""

    def __init__(
        self,
        adata: anndata.AnnData,
        dataset: Dataset,
        understood: Understood,
        source: str | Path,
        dispersions: bool,
    ):
        self._adata, self._dataset, self._source = adata, dataset, source
        self._symbols, self._dispersions, self._problems = understood.symbols, dispersions, understood.problems
        self._genes = understood.genes
        self._control = understood.kept & (understood.obs["perturbation"] == CONTROL).to_numpy()
        self._kept = understood.kept
        self.filled = np.zeros(adata.n_obs, dtype=bool)
        self.n_counts = np.zeros(adata.n_obs)
        self._of_gene = np.zeros(len(self._symbols))  # counts or scaled counts of all cells that are kept
        self._largest, self._integers = 0.0, True
        self._sums: list[np.ndarray] = []
        self._n_ratios = self._n_whole_ratios = 0
        self.n_control = 0
        self._sum, self._squares = np.zeros(len(self._symbols)), np.zeros(len(self._symbols))

    def read(self, chunks: Iterator[tuple[int, sparse.csr_matrix | np.ndarray]] | None = None) -> None:
        """Read X, or some chunks of it, and decide what it holds.

        Raises
        ------
        InputError
            At the first value that is no expression, or not what the row says.
        """
        for start, matrix in chunks or row_chunks(self._adata.X):
            self._read(start, _tidy(matrix, self._genes))
        if not self.filled.any():
            raise InputError(self._source, "X", "nothing but zeros", "the expression of genes")
        self.evidence = self._counts() if self._dataset.values == "counts" else self._log_values()
        if self._dispersions and self.n_control > 1:
            self.control_mean = self._sum / self.n_control
            excess = self._squares - self.n_control * self.control_mean**2
            excess[excess < 1e-9 * self._squares] = 0  # rounding
            self.control_variance = excess / (self.n_control - 1)

    def largest_shares(self) -> dict[str, np.ndarray]:
        """The genes with the largest shares of all counts (of scaled counts, where the file holds log values)."""
        total = self.n_counts[self._kept].sum()
        if self._dataset.values == "log1p":
            total = (self._kept & self.filled).sum() * self._dataset.target_sum
        largest = np.argsort(-self._of_gene, kind="stable")[:LARGEST]
        return {"gene": _array(self._symbols[largest]), "share": self._of_gene[largest] / max(total, 1)}

    def _read(self, start: int, matrix: sparse.csr_matrix) -> None:
        self.filled[start : start + matrix.shape[0]] = np.diff(matrix.indptr) > 0
        if matrix.nnz == 0:
            return
        bad = ~np.isfinite(matrix.data) | (matrix.data < 0)
        if bad.any():
            raise self._complain(start, matrix, int(bad.argmax()), "a finite value of 0 or more")
        self._largest = max(self._largest, float(matrix.data.max()))
        broken = matrix.data != np.rint(matrix.data)
        self._integers &= not broken.any()
        if self._dataset.values == "counts":
            if broken.any():
                expected = "an integer, as values = 'counts' of the data-set table says (log values are 'log1p')"
                raise self._complain(start, matrix, int(broken.argmax()), expected)
            self.n_counts[start : start + matrix.shape[0]] = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
            self._add_to_genes(start, matrix)
        elif not self._integers:
            self._check_log_values(start, matrix)
        if self._dispersions:
            rows = self._control[start : start + matrix.shape[0]] & self.filled[start : start + matrix.shape[0]]
            scaled = _log_values(matrix[rows], self._dataset).astype(np.float64).expm1()
            self.n_control += scaled.shape[0]
            self._sum += np.asarray(scaled.sum(axis=0)).ravel()
            self._squares += np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel()

    def _add_to_genes(self, start: int, matrix: sparse.csr_matrix) -> None:
        kept = matrix[self._kept[start : start + matrix.shape[0]]]
        self._of_gene += np.asarray(kept.sum(axis=0, dtype=np.float64)).ravel()

    def _check_log_values(self, start: int, matrix: sparse.csr_matrix) -> None:
        """Refuse cells whose counts, exponentiated back, exceed the stated scale.

        Their sum may lie below it (genes were left out after scaling) but never above.
        """
        largest, target_sum = int(matrix.data.argmax()), self._dataset.target_sum
        limit = np.log1p(target_sum)
        advice = f"of log1p with target_sum {target_sum:g}, as the data-set table says"
        if matrix.data[largest] > limit + 1e-3:
            raise self._complain(start, matrix, largest, f"at most {limit:.4g}, the largest value {advice}")
        values = matrix.astype(np.float64).expm1()
        sums = np.asarray(values.sum(axis=1)).ravel()
        if sums.max() > 1.01 * target_sum:
            where = f"X, cell {self._adata.obs_names[start + sums.argmax()]!r}"
            found = f"expm1 summing to {sums.max():.6g}"
            raise InputError(self._source, where, found, f"at most {target_sum:g}: {advice}")
        self._add_to_genes(start, values)
        filled = np.diff(matrix.indptr) > 0
        self._sums.append(sums[filled])
        # Scaled counts are multiples of one count, whichever genes were left out since. Ratios near 1 are whole in any
        # scale, and large ones are not known well enough where values are stored in few digits.
        smallest = np.minimum.reduceat(values.data, matrix.indptr[:-1][filled])
        ratios = values.data / np.repeat(smallest, np.diff(matrix.indptr)[filled])
        ratios = ratios[(ratios > 1.5) & (ratios < 10.5)]
        self._n_ratios += len(ratios)
        self._n_whole_ratios += int((abs(ratios - np.rint(ratios)) < 0.02).sum())

    def _counts(self) -> str:
        return f"counts: every value is an integer, largest {self._largest:g}"

    def _log_values(self) -> str:
        if self._integers:
            found = f"integers only, up to {self._largest:g}"
            expected = "log values, as values = 'log1p' of the data-set table says, or 'counts'"
            raise InputError(self._source, "X", found, expected)
        sums, target_sum = np.concatenate(self._sums), self._dataset.target_sum
        middle = np.median(sums)
        if sums.max() < 1.01 * sums.min() and middle < 0.99 * target_sum:
            found = f"expm1 of every cell summing to {middle:.6g}"
            expected = f"{target_sum:g}, or target_sum {middle:.6g} in the data-set table"
            raise InputError(self._source, "X", found, expected)
        if middle < target_sum / 2 and self._n_whole_ratios < self._n_ratios / 2:
            self._problems.append(
                f"values may be no log1p: expm1 of a cell sums to {middle:.4g} (median), far below target_sum "
                f"{target_sum:g}, and is not made of multiples of one count"
            )
        return f"log1p: not integers, expm1 of a cell sums to {middle:.4g} (median), at most {sums.max():.4g}"

    def _complain(self, start: int, matrix: sparse.csr_matrix, position: int, expected: str) -> InputError:
        """The error for the stored value at ``position`` of a chunk, naming its gene and cell."""
        cell = self._adata.obs_names[start + np.searchsorted(matrix.indptr, position, side="right") - 1]
        where = f"X, gene {self._symbols[matrix.indices[position]]!r}, cell {cell!r}"
        return InputError(self._source, where, str(matrix.data[position]), expected)


def _tidy(matrix: sparse.csr_matrix | np.ndarray, genes: np.ndarray) -> sparse.csr_matrix:
    """A copy in CSR of the columns that are genes, every entry once, without zeros."""
    matrix = sparse.csr_matrix(matrix, copy=True) if genes.all() else sparse.csr_matrix(matrix)[:, genes]
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def too_few(number: Mapping[Condition, int], minimum_cells: int) -> list[Condition]:
    """List the conditions with fewer cells than ``minimum_cells``, sorted; controls are always enough."""
    return sorted(c for c, n_cells in number.items() if n_cells < minimum_cells and c.perturbation != CONTROL)


def check_groups(
    obs: pd.DataFrame, number: Mapping[Condition, int], minimum_cells: int, dataset: Dataset, source: str | Path
) -> None:
    """Refuse a drop of which no perturbation is left, or no control cell in one of its contexts.

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
        raise InputError(source, "X", "no control cell with any count", "control cells")
    if is_control.all():
        n_cells = [n_cells for condition, n_cells in number.items() if condition.perturbation != CONTROL]
        n_perturbations = len({condition.perturbation for condition in number} - {CONTROL})
        expected = f"a perturbation with at least {minimum_cells} cells (minimum_cells)"
        found = f"{n_perturbations} perturbations of at most {max(n_cells, default=0)} cells"
        raise InputError(source, f"obs[{dataset.perturbation_column!r}]", found, expected)
    without = sorted(set(obs["context"]) - set(obs["context"][is_control]))
    if without:
        found = f"{(obs['context'] == without[0]).sum()} cells of {without[0]!r}, but no control cell"
        raise InputError(source, f"obs[{dataset.context_column!r}]", found, "control cells in every context")


def _check_dispersion(values: _Values, source: str | Path) -> None:
    """Refuse to choose genes by control cells that show no spread."""
    advice = "to choose genes by dispersion, or maximum_genes: null"
    if values.n_control < FEWEST:
        raise InputError(source, "control cells", f"{values.n_control}", f"at least {FEWEST} {advice}")
    if not (values.control_variance > 0).any():
        raise InputError(
            source, "control cells", "no gene that varies among them", f"control cells that differ, {advice}"
        )


def _log_values(matrix: sparse.csr_matrix, dataset: Dataset) -> sparse.csr_matrix:
    if dataset.values == "log1p":
        return matrix.astype(np.float32)
    scale = dataset.target_sum / np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    values = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    return sparse.csr_matrix((values.astype(np.float32), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)


def most_variable(mean: np.ndarray, variance: np.ndarray, number: int) -> np.ndarray:
    """Which genes have the highest normalized dispersion: the ``seurat`` flavour of scanpy 1.11, from moments.

    Parameters
    ----------
    mean, variance
        Of each gene's scaled counts (not logarithms) over cells.
    number
        Genes to choose; ties with the last one join it.
    """
    dispersion = variance / np.where(mean == 0, 1e-12, mean)
    table = pd.DataFrame({"dispersion": np.log(np.where(dispersion == 0, np.nan, dispersion))})
    table["bin"] = pd.cut(np.log1p(np.where(mean == 0, 1e-12, mean)), bins=20)
    groups = table.groupby("bin", observed=True)["dispersion"]
    centre, spread = groups.transform("mean"), groups.transform("std")
    # A gene alone in its bin has no spread: its normalized dispersion is 1.
    alone = spread.isna()
    normalized = (table["dispersion"] - centre.where(~alone, 0)) / spread.where(~alone, centre)
    cutoff = np.sort(normalized.dropna())[::-1][:number][-1]
    return (normalized >= cutoff).to_numpy()
