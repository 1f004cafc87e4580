"""What a drop says about its cells: perturbation, direction, context, batch, cell type and guide."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data import symbols as gene_names
from scgpt_bench.data.catalogue import DIRECTION_OF_KIND, DIRECTIONS, Dataset
from scgpt_bench.data.conditions import ALL_CONTEXTS, IN, rows_of
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.genes import Genes, read_genes
from scgpt_bench.data.labels import MISSING, is_control_target, parts_of, perturbation_names, strip_affixes
from scgpt_bench.data.names import CONTROL, JOINED_BY, UNSTATED, genes_of
from scgpt_bench.data.proposals import Proposal, propose
from scgpt_bench.data.tenx import TARGETS
from scgpt_bench.errors import InputError

GUIDE = "guide"  # the column in which readers of 10x files give a cell's guides


@dataclass(frozen=True)
class Annotations:
    """What the labels, genes and annotations of a drop mean, before a value of X is read.

    Attributes
    ----------
    obs
        ``perturbation``, ``direction`` (``down``, ``up``; ``none`` of controls), ``context``, ``batch``, ``cell_type``
        and, where known, ``guide``: strings, one row per cell of the file, indexed by unique names.
    kept
        Mask [cells]: False for cells that the row or a missing guide leaves out.
    """

    genes: Genes
    obs: pd.DataFrame
    kept: np.ndarray


def annotate(adata: anndata.AnnData, dataset: Dataset, findings: Findings) -> Annotations:
    """Read labels, genes and annotations of a drop as its row says.

    Raises
    ------
    InputError
        See :func:`scgpt_bench.data.harmonize.harmonize`.
    """
    if adata.n_obs == 0 or adata.n_vars == 0 or adata.X is None:
        raise findings.error("X", f"{adata.n_obs} cells x {adata.n_vars} genes", "values of cells x genes")
    if dataset.perturbation_column is None:
        labels = pd.Series(CONTROL, index=adata.obs.index)
    else:
        labels = findings.column(adata.obs, "obs", dataset.perturbation_column, "perturbation of each cell")
    kept = _not_excluded(labels, dataset, findings)
    genes = read_genes(adata.var, dataset, findings)
    targets_of = adata.uns.get(TARGETS, {}) if dataset.perturbation_column == GUIDE else {}
    perturbations = np.full(adata.n_obs, UNSTATED, dtype=object)
    perturbations[kept] = _perturbations(labels[kept], targets_of, genes, dataset, findings)
    is_control = perturbations == CONTROL
    if dataset.guide_column:
        kept = kept & ~_controls_without_guide(adata.obs, is_control & kept, dataset, findings)
    obs = pd.DataFrame(
        {
            "perturbation": perturbations,
            "direction": _directions(adata.obs, is_control, kept, dataset, findings),
            "context": _contexts(adata.obs, kept, dataset, findings),
            "batch": _complete(adata.obs, dataset.batch_column, kept, findings),
            "cell_type": _complete(adata.obs, dataset.cell_type_column, kept, findings),
        },
        index=_cell_names(adata, findings),
        dtype=object,
    )
    if dataset.guide_column:
        obs["guide"] = _complete(adata.obs, dataset.guide_column, kept, findings)
    elif dataset.guide_prefix or dataset.guide_suffix or targets_of:
        obs["guide"] = labels.astype(str).to_numpy()
    if dataset.direction_column:
        _check_directions(obs[kept], dataset, findings)
    unassigned = [label for label in dataset.control_labels if gene_names.is_unassigned(label)]
    if unassigned and labels.astype(str).str.strip().isin(unassigned).any():
        findings.problems.append(f"cells labelled {unassigned[0]!r} count as controls, although their guide is unknown")
    return Annotations(genes, obs, kept)


def _not_excluded(labels: pd.Series, dataset: Dataset, findings: Findings) -> np.ndarray:
    """Find the cells that the row does not leave out."""
    text = labels.astype("object").where(labels.notna(), "nan").astype(str).str.strip()
    text = text.where(~text.isin(MISSING), "nan")
    excluded = text.isin(dataset.excluded_labels).to_numpy()
    for label, number in text[excluded].value_counts().items():
        findings.repairs.append(f"{number} cells labelled {label!r} left out (excluded_label of the row)")
    return ~excluded


def _perturbations(
    labels: pd.Series, targets_of: Mapping[str, str], genes: Genes, dataset: Dataset, findings: Findings
) -> np.ndarray:
    """Name the perturbation of each label, its targets spelled as the measured genes."""
    where = f"obs[{dataset.perturbation_column!r}]"
    _check_reference(targets_of, genes, dataset, findings)
    # Guides with listed targets need no rules of the row.
    texts = [] if targets_of else [*map(str, labels.dropna().unique())]
    proposal = propose(texts, genes.names, dataset)
    try:
        names = perturbation_names(labels, dataset, findings.source, targets_of)
    except InputError as error:
        advice = f"; proposed: {proposal.text}" if proposal else ""
        raise findings.error(error.where, error.found, error.expected + advice) from None
    if not (names == CONTROL).any():
        raise _no_control(names, texts, dataset, proposal, where, findings)
    targets = sorted({gene for name in names.unique() for gene in genes_of(name)})
    _check_targets(targets, genes, where, dataset, findings)
    _check_rules(texts, targets, genes, dataset, proposal, where, findings)
    respelled = gene_names.measured_spelling(targets, genes.symbols)
    if respelled:
        shown = ", ".join(f"{old} as {new}" for old, new in sorted(respelled.items())[:5])
        findings.repairs.append(f"{len(respelled)} targets spelled as the measured gene: {shown}")
    pairs = gene_names.pairs_differing_in_case({respelled.get(gene, gene) for gene in targets})
    if pairs:
        found = f"the targets {pairs[0][0]!r} and {pairs[0][1]!r}"
        raise findings.error(where, found, "one spelling if they are one gene, other names if they are two")
    findings.problems.extend(
        f"the target {target!r} is called as controls often are; its cells count as perturbed, since control_label is "
        f"{dataset.control_label!r}"
        for target in gene_names.named_like_controls(targets)
    )
    new_names = {
        name: JOINED_BY.join(sorted({respelled.get(gene, gene) for gene in genes_of(name)})) or name
        for name in names.unique()
    }
    return names.map(new_names).to_numpy()


def _check_reference(targets_of: Mapping[str, str], genes: Genes, dataset: Dataset, findings: Findings) -> None:
    """Refuse guides with a gene in their names that is not the target in the feature reference: either may be right.

    A name has a gene if the row's rule strips something of it, or if it is a measured gene or a control label.
    """
    measured = {gene.casefold() for gene in genes.names}
    for guide, target in targets_of.items():
        named = strip_affixes(guide, dataset)
        if named in dataset.control_labels:
            agree = is_control_target(target, dataset)
        else:
            names_no_gene = named == guide and named.casefold() not in measured
            agree = names_no_gene or named.casefold() == target.casefold()
        if not agree:
            expected = "one gene; perturbation_column 'target' takes the reference's, 'guide_name' that of the names"
            raise findings.error("guides", f"{guide!r}, which names {named!r}, with the target {target!r}", expected)


def _no_control(
    names: pd.Series, texts: list[str], dataset: Dataset, proposal: Proposal | None, where: str, findings: Findings
) -> InputError:
    """Make the error for a file without control cells: its labels as the row reads them, and what may be controls."""
    frequent = ", ".join(f"{name!r} ({n})" for name, n in names.astype(str).value_counts().head(8).items())
    row = proposal.row if proposal else dataset
    parts = {part for text in texts or names.unique() for part in parts_of(text, row)}
    expected = "control cells labelled " + " or ".join(map(repr, dataset.control_labels))
    alike = sorted(gene_names.named_like_controls(parts - {*dataset.control_labels}))
    if alike:
        expected += f", or control_label '{'|'.join(alike[:4])}{'|...' if len(alike) > 4 else ''}'"
    if proposal:
        expected += f"; proposed: {proposal.text}"
    return findings.error(where, f"no control; most frequent: {frequent}", expected)


def _check_targets(targets: list[str], genes: Genes, where: str, dataset: Dataset, findings: Findings) -> None:
    """Refuse labels that name no gene, or several, where the file shows it."""
    if set(genes.duplicated) & set(targets):
        place = f"var {dataset.gene_symbol_column or 'index'}"
        raise findings.error(place, genes.duplicates_in_words, "every gene name once, at least if it is perturbed")
    unassigned = [target for target in targets if gene_names.is_unassigned(target)]
    if unassigned:
        expected = f"{unassigned[0]!r} in excluded_label of the data-set table (leave out), or in control_label"
        raise findings.error(where, f"the label {unassigned[0]!r}, which names no gene", expected)
    ids = [re.split(r"[-_.]", target)[0] for target in targets]  # without a version or what tells guides apart
    if gene_names.are_ensembl_ids(ids) and not gene_names.are_ensembl_ids(genes.symbols):
        expected = f"symbols such as {genes.symbols[0]!r}, as the genes of this file are called"
        raise findings.error(where, f"Ensembl identifiers such as {targets[0]!r}", expected)
    dates = gene_names.spreadsheet_dates(targets)
    if dates:
        expected = "the gene's name, which a spreadsheet turned into a date (MARCHF1 or MTARC1: 1-Mar; SEPTIN2: 2-Sep)"
        raise findings.error(where, f"the label {dates[0]!r}", expected)
    if targets and {target.upper() for target in targets}.isdisjoint(genes.symbols.str.upper()):
        findings.problems.append(f"none of the {len(targets)} targets is among the measured genes")


def _check_rules(
    texts: list[str],
    targets: list[str],
    genes: Genes,
    dataset: Dataset,
    proposal: Proposal | None,
    where: str,
    findings: Findings,
) -> None:
    """Refuse labels if most are guides or combinations of measured genes; report those that may be."""
    if proposal:
        odd = [text for text in texts if parts_of(text, proposal.row) != parts_of(text, dataset)]
        shown = f"{len(odd):,} labels that look like guides or combinations, such as {', '.join(map(repr, odd[:3]))}"
        if proposal.seen and proposal.gained > max(1, len(texts) / 2):
            raise findings.error(where, shown, f"genes, or {proposal.text}, or other labels if they are neither")
        findings.problems.append(f"{shown}: one may be trained on and another tested, unless {proposal.text}")
        return
    groups = gene_names.labels_of_one_gene(targets, genes.symbols)
    if groups:
        shown = "; ".join(" and ".join(group) for group in groups[:5]) + ("; ..." if len(groups) > 5 else "")
        findings.problems.append(
            f"{sum(map(len, groups))} labels look like guides or promoters of one gene ({shown}): one may be "
            "trained on and another tested, unless guide_suffix in the data-set table makes them one perturbation"
        )


def _controls_without_guide(
    obs: pd.DataFrame, is_control: np.ndarray, dataset: Dataset, findings: Findings
) -> np.ndarray:
    """Find control cells without a guide, which are left out: nobody knows what they carry."""
    guides = _annotation(obs, str(dataset.guide_column), findings)
    text = guides.astype("object").where(guides.notna(), "").astype(str)
    unassigned = text.map({label: gene_names.is_unassigned(label) for label in text.unique()}).to_numpy(dtype=bool)
    lost = is_control & unassigned
    if lost.any():
        findings.repairs.append(f"{lost.sum()} cells labelled as control without a guide left out: they are unassigned")
    if (lost == is_control).all():
        where = f"obs[{dataset.perturbation_column!r}]"
        raise findings.error(where, "no control cell with a guide", "control cells with a non-targeting guide")
    return lost


def _directions(
    obs: pd.DataFrame, is_control: np.ndarray, kept: np.ndarray, dataset: Dataset, findings: Findings
) -> np.ndarray:
    """Read the direction of each cell's perturbation: ``down``, ``up``, or ``none`` of a control cell."""
    if not dataset.direction_column:
        return np.where(is_control, "none", DIRECTION_OF_KIND[dataset.perturbation_kind])
    perturbed = kept & ~is_control
    stated = pd.Series(_complete(obs, dataset.direction_column, perturbed, findings))
    words = {word: DIRECTIONS.get(re.sub(r"[-_ ]", "", word).casefold()) for word in stated.unique()}
    unknown = stated.map(words).isna().to_numpy() & perturbed
    if unknown.any():
        first = unknown.argmax()
        where = f"obs[{dataset.direction_column!r}] of cell {obs.index[first]!r}"
        found = f"{stated[first]!r} ({unknown.sum()} such cells)"
        raise findings.error(where, found, "a direction, such as down or CRISPRi, up or CRISPRa")
    return np.where(is_control, "none", stated.map(words).to_numpy())


def _check_directions(obs: pd.DataFrame, dataset: Dataset, findings: Findings) -> None:
    """Refuse a condition with targets down in some cells and up in others: its mean would be of neither."""
    for condition, rows in rows_of(obs).items():
        numbers = obs["direction"].iloc[rows].value_counts().sort_index()
        if len(numbers) > 1:
            found = f"{condition.label!r} down in {numbers['down']} cells and up in {numbers['up']}"
            expected = "one direction of each perturbation, or a context_column that sets them apart"
            raise findings.error(f"obs[{dataset.direction_column!r}]", found, expected)


def _contexts(obs: pd.DataFrame, kept: np.ndarray, dataset: Dataset, findings: Findings) -> np.ndarray:
    """Read the context of each cell; one, ``all``, where the row names no column."""
    if not dataset.context_columns:
        return _complete(obs, None, kept, findings)
    columns = [pd.Series(_complete(obs, name, kept, findings)).str.strip() for name in dataset.context_columns]
    contexts = functools.reduce(lambda left, right: left + "." + right, columns).to_numpy(dtype=object)
    where, named = f"obs[{dataset.context_column!r}]", set(contexts[kept])
    for context in sorted(named):
        if context.casefold() == ALL_CONTEXTS or IN in context or "/" in context:
            expected = f"a name of the context, not {ALL_CONTEXTS!r}, without {IN!r} and '/'"
            raise findings.error(where, f"the context {context!r}", expected)
    pairs = gene_names.pairs_differing_in_case(named)
    if pairs:
        found = f"the contexts {pairs[0][0]!r} and {pairs[0][1]!r}"
        raise findings.error(where, found, "one spelling if they are one context, other names if they are two")
    return contexts


def _annotation(obs: pd.DataFrame, column: str, findings: Findings) -> pd.Series:
    return findings.column(obs, "obs", column, "column that the data-set table names")


def _complete(obs: pd.DataFrame, column: str | None, kept: np.ndarray, findings: Findings) -> np.ndarray:
    """Read a column of text that every cell that is ``kept`` has to have; ``all`` where the row names none."""
    if not column:
        return np.full(len(obs), UNSTATED, dtype=object)
    values = _annotation(obs, column, findings)
    missing = (values.isna() | (values.astype(str).str.strip() == "")).to_numpy() & kept
    if missing.any():
        where = f"obs[{column!r}] of cell {obs.index[missing.argmax()]!r}"
        raise findings.error(where, f"no value ({missing.sum()} such cells)", "a value for every cell")
    return values.astype(str).to_numpy(dtype=object)


def _cell_names(adata: anndata.AnnData, findings: Findings) -> pd.Index:
    """Make the names of cells unique, because random draws and predictions name their cells."""
    names = adata.obs_names.astype(str)
    if not names.is_unique:
        findings.repairs.append("duplicate cell names made unique by a number at the end")
        names = gene_names.make_unique(names)
    return pd.Index(names.to_numpy(dtype=object))
