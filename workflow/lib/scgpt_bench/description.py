"""What is understood of a drop, and what it is enough for, in seconds and in words, before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data import splits
from scgpt_bench.data.annotations import Annotations, annotate
from scgpt_bench.data.blocks import BLOCKS
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, contexts_of, rows_of
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.harmonize import batches_without_controls, check_groups, list_too_few
from scgpt_bench.data.joining import match_genes
from scgpt_bench.data.names import CONTROL, JOINED_BY, UNSTATED, first_names, genes_of, within
from scgpt_bench.data.tenx import READER_NOTES
from scgpt_bench.data.values import sample_values
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.data_card import FEWEST_CONTROLS, RARE_TYPE
from scgpt_bench.evaluation.paired_inference import design
from scgpt_bench.scgpt.vocabulary import align, human_vocabulary, read_vocabulary

SAMPLE = 2000  # cells whose values are looked at; harmonize looks at all


def describe(
    adata: anndata.AnnData,
    dataset: Dataset,
    config: Mapping[str, Any],
    *,
    source: str | Path,
    options: str = "of the configuration",
    checkpoints: Mapping[str, str | Path] | None = None,
) -> str:
    """Describe the labels, genes, annotations and values of a drop, and what there is enough of.

    Parameters
    ----------
    adata
        As a reader gives it.
    config
        A configuration with every default; ``datasets`` and ``methods`` may be missing.
    source
        The file, as its user calls it.
    options
        Where ``config`` comes from, in words.
    checkpoints
        ``vocab.json`` of each checkpoint, by its name; a file that does not exist is said to be unknown.

    Raises
    ------
    InputError
        As harmonize would, for what can be seen without reading every value.
    """
    findings = Findings(source)
    annotations = annotate(adata, dataset, findings)
    obs, symbols = annotations.obs[annotations.kept], annotations.genes.symbols
    sampled, evidence = sample_values(adata, dataset, annotations, findings, SAMPLE)
    minimum_cells = config["harmonize"]["minimum_cells"]
    number = obs["perturbation"].value_counts()
    cells = number.drop(CONTROL)
    of_conditions = {condition: len(rows) for condition, rows in rows_of(obs).items()}
    few = list_too_few(of_conditions, minimum_cells)
    targets = sorted({gene for name in cells.index for gene in genes_of(name)})
    used = obs[codes_of(obs, few) < 0]
    check_groups(used, of_conditions, minimum_cells, dataset, findings)
    lines = {
        "file": str(source),
        "format": dataset.format,
        **_reader_notes(dict(adata.uns.get(READER_NOTES, {})), adata.n_obs),
        "cells": f"{adata.n_obs:,}, " + ("all" if len(used) == adata.n_obs else f"{len(used):,}") + " of them used",
        "values": f"{evidence}; seen in {sampled:,} cells; scaled to {dataset.target_sum:,g} per cell",
        "genes": f"{len(symbols):,}, such as {', '.join(symbols[:3])}",
        "controls": f"{_cells(number[CONTROL])} labelled " + " or ".join(map(repr, dataset.control_labels)),
        "perturbations": f"{len(cells):,} ({dataset.perturbation_kind}) of {_range(cells)}, such as "
        + ", ".join(cells.index[:5]),
        "combinations": f"{sum(JOINED_BY in name for name in cells.index):,}"
        + ("" if dataset.combination_separator else " (the row names no separator)"),
        "directions": _directions(obs, dataset),
        "too few cells": f"{len(few):,} perturbations of fewer than {minimum_cells} cells, left out: "
        + first_names(condition.label for condition in few)
        if len(few)
        else f"no perturbation has fewer than {minimum_cells}",
        "targets": f"{sum(gene in symbols for gene in targets):,} of {len(targets):,} are measured genes",
        "guides": _guides(obs, dataset),
        "contexts": _groups(obs, "context", dataset.context_column),
        "batches": _groups(obs, "batch", dataset.batch_column),
        "cell types": _groups(obs, "cell_type", dataset.cell_type_column),
        "known to scGPT": _published(symbols, targets),
    }
    for name, path in (checkpoints or {}).items():
        lines[f"known to {name}"] = _of_checkpoint(Path(path), symbols, targets)
    lines["options"] = options
    if dataset.perturbation_column is None:
        for name in ("perturbations", "combinations", "directions", "too few cells", "targets", "guides"):
            del lines[name]
        lines["controls"] = f"{_cells(number[CONTROL])}, all of them: the row names no column of perturbations"
        lines["predictions"] = f"lists of perturbations ({dataset.perturbation_kind}); nothing is learned or scored"
    else:
        kinds = {options["kind"] for options in config.get("methods", {}).values()}
        if obs["cell_type"].nunique() > obs["context"].nunique() and "type-mean" not in kinds:
            lines["cell types"] += "; add type-mean: {} to the methods, the simple method that knows them"
        lines |= _enough(used, dataset, config)
    lines["repairs"] = "\n".join(findings.repairs) or "none"
    problems = [*findings.problems, *batches_without_controls(used), *_types_without_controls(used)]
    lines["problems"] = "\n".join(problems) or "none"
    width = max(map(len, lines))
    indented = {name: text.replace("\n", "\n" + " " * (width + 2)) for name, text in lines.items()}
    return f"{dataset.name}\n" + "".join(f"{name:<{width}}  {text}\n" for name, text in indented.items())


def describe_joined(dataset: Dataset, parts: Mapping[str, Annotations]) -> str:
    """Describe what the parts of a joined data set have in common: ``parts`` are those whose files are here.

    Raises
    ------
    InputError
        As joining would, for what can be seen without reading a value.
    """
    absent = [part for part in dataset.parts if part not in parts]
    lines = {"parts": ", ".join(dataset.parts), "contexts": ", ".join(dataset.declared_contexts) or _contexts(parts)}
    if absent:
        commands = "; ".join(f"make check-data dataset={part}" for part in absent)
        lines["not here yet"] = f"{', '.join(absent)}: {commands}"
    if len(parts) > 1:
        names = {part: sorted(set(known.obs["perturbation"][known.kept]) - {CONTROL}) for part, known in parts.items()}
        targets = {part: {gene for name in own for gene in genes_of(name)} for part, own in names.items()}
        genes = {part: known.genes.var for part, known in parts.items()}
        matched = match_genes(genes, targets, Findings(dataset.address))
        renamed = [{matched.rename(part, name) for name in own} for part, own in names.items()]
        sizes = ", ".join(f"{part} {len(var):,}" for part, var in genes.items())
        lines["genes"] = f"{len(matched.var):,} in all that are here, of {sizes}"
        sizes = ", ".join(f"{part} {len(own):,}" for part, own in names.items())
        lines["perturbations"] = f"{len(set.intersection(*renamed)):,} in all that are here, of {sizes}"
    width = max(map(len, lines))
    return f"{dataset.name}\n" + "".join(f"{name:<{width}}  {text}\n" for name, text in lines.items())


def _contexts(parts: Mapping[str, Annotations]) -> str:
    found = [within(part, context) for part, known in parts.items() for context in contexts_of(known.obs[known.kept])]
    return ", ".join(found) or "not known before the parts are here"


def _range(cells: pd.Series) -> str:
    ends = sorted({cells.min(), cells.max()})
    return " to ".join(f"{end:,}" for end in ends) + (" cell" if ends == [1] else " cells")


def _cells(number: int) -> str:
    return f"{number:,} cell{'' if number == 1 else 's'}"


def _reader_notes(notes: dict[str, Any], n_read: int) -> dict[str, str]:
    """Describe what the reader decided about guides, with its other notes under their own keys."""
    lines = {}
    total, without = notes.pop("n_cells_in_file", None), notes.pop("n_cells_without_guide", None)
    umis, share = notes.pop("minimum_guide_umis", None), notes.pop("minimum_guide_share", None)
    table = notes.pop("guide_table", None)
    if total is not None and without is not None:
        by = f" by {table}" if table else ""
        if umis is not None and share is not None:
            by = f" ({umis} UMIs or more, and {share:.0%} or more of the cell's guide UMIs)"
        lines["guide calls"] = f"{n_read:,} of {total:,} cells have a guide{by}; {without:,} without one left out"
    return lines | {name.replace("_", " "): str(value) for name, value in notes.items()}


def _directions(obs: pd.DataFrame, dataset: Dataset) -> str:
    directions = obs["direction"][obs["perturbation"] != CONTROL].value_counts().sort_index()
    of = f"in {dataset.direction_column!r}" if dataset.direction_column else f"by {dataset.perturbation_kind}"
    return ", ".join(f"{_cells(number)} {direction}" for direction, number in directions.items()) + f", {of}"


def _guides(obs: pd.DataFrame, dataset: Dataset) -> str:
    """How many guides there are; a cell with two of them counts for both."""
    if "guide" not in obs:
        return "not known (the row names no column, prefix or suffix of guides)"

    def parts(labels: pd.Series) -> set[str]:
        separator = dataset.combination_separator
        found = [
            part.strip() for label in labels.unique() for part in (label.split(separator) if separator else [label])
        ]
        # Without a column of guides, the labels of cells tell them: that of a control is none.
        return set(found) if dataset.guide_column else set(found) - set(dataset.control_labels)

    is_control = (obs["perturbation"] == CONTROL).to_numpy()
    of_controls = parts(obs["guide"][is_control])
    of_targets = parts(obs["guide"][~is_control]) - of_controls
    return f"{len(of_targets):,} of targets" + (f", {len(of_controls):,} of controls" if of_controls else "")


def _groups(obs: pd.DataFrame, column: str, stated: str | None) -> str:
    if not stated:
        return "one (the row names no column)"
    counts = pd.crosstab(obs[column], obs["perturbation"] == CONTROL).reindex(columns=[True, False], fill_value=0)
    without = list(counts.index[(counts[True] == 0).to_numpy()])
    text = f"{len(counts):,} in {stated!r}: {first_names(counts.index)}"
    return text + (f"; without controls {len(without):,} of {len(counts):,}: {first_names(without)}" if without else "")


def _published(symbols: pd.Index, targets: Collection[str]) -> str:
    try:
        vocabulary = human_vocabulary()
    except InputError:
        return "not known: the package scgpt, which holds the published vocabulary, is not installed"
    return f"{_coverage(symbols, targets, vocabulary)}, in the published vocabulary of scGPT_human"


def _of_checkpoint(path: Path, symbols: pd.Index, targets: Collection[str]) -> str:
    if not path.is_file():
        return "not known before a run fetches or makes it"
    return _coverage(symbols, targets, read_vocabulary(path))


def _coverage(symbols: pd.Index, targets: Collection[str], vocabulary: Mapping[str, int]) -> str:
    found = [align(genes, vocabulary) for genes in (symbols, targets)]
    known = [int((table["status"] != "padded").sum()) for table in found]
    text = f"{known[0]:,} of {len(symbols):,} genes, {known[1]:,} of {len(targets):,} targets"
    missing = found[1]["gene"][found[1]["status"] == "padded"]
    return text + (f" (not {first_names(missing)})" if len(missing) else "")


def _enough(obs: pd.DataFrame, dataset: Dataset, config: Mapping[str, Any]) -> dict[str, str]:
    """Whether the cells that will be used are enough for folds, for a verdict and to judge reliability."""
    options = config["splits"]
    number = {condition: len(rows) for condition, rows in rows_of(obs).items()}
    cells = pd.Series({c.label: n_cells for c, n_cells in number.items() if c.perturbation != CONTROL})
    controls = sum(n_cells for condition, n_cells in number.items() if condition.perturbation == CONTROL)
    testable = int((cells >= options["minimum_cells"]).sum())
    unit = "conditions" if dataset.context_column else "perturbations"
    lines = {}
    tested: set[Condition] = set()
    dealing = {key: options[key] for key in ("folds", "seed", "validation_share", "minimum_cells")}
    of_folds = []
    try:
        for fold in range(options["folds"]):
            table = splits.fold(obs, dataset=dataset.series, fold=fold, **dealing)
            of_folds.append(set(conditions_of(table, "test")))
    except InputError as error:
        lines["folds"] = f"not enough for {options['folds']} folds: {error.found}; expected {error.expected} (splits)"
    else:
        size = sorted({len(names) for names in of_folds})
        lines["folds"] = (
            f"enough for {options['folds']}: {testable:,} of {len(cells):,} {unit} have "
            f"{options['minimum_cells']} cells or more, {' or '.join(map(str, size))} tested by each fold"
        )
        tested = set().union(*(names for fold, names in enumerate(of_folds) if fold in options["run"]))
        lines["verdicts"] = _verdicts(tested, set().union(*of_folds), options["run"])
    if options["contexts"]["hold_out"]:
        lines["held-out contexts"] = _held_out(obs, dataset, options)
    lines["reliability"] = _reliability(obs, cells, unit)
    lines["controls' noise"] = _control_noise(controls, cells, config)
    return lines


def _verdicts(tested: set[Condition], testable: set[Condition], run: Collection[int]) -> str:
    """Describe whether the folds that are run test enough perturbations for a p-value."""
    refusal, of_all = (design(tuple(c.perturbation for c in sorted(every))).refusal for every in (tested, testable))
    text = f"the folds that are run ({', '.join(map(str, run)) or 'none'}) test "
    if not refusal:
        return f"enough: {text}{len(tested):,}"
    return f"not enough: {text}{refusal}" + ("" if of_all else f"; all folds test {len(testable):,} (splits.run)")


def _held_out(obs: pd.DataFrame, dataset: Dataset, options: Mapping[str, Any]) -> str:
    """Describe how many conditions each context that is held out tests, or why it cannot be."""
    chosen = options["contexts"]["hold_out"]
    dealing = {key: options[key] for key in ("seed", "validation_share", "minimum_cells")}
    found = []
    for context in contexts_of(obs) if chosen == "all" else chosen:
        try:
            table = splits.context(obs, dataset=dataset.series, context=context, **dealing)
            found.append(f"{context} tests {len(conditions_of(table, 'test')):,} conditions")
        except InputError as error:
            found.append(f"{context}: found {error.found}; expected {error.expected}")
    return "; ".join(found)


def _reliability(obs: pd.DataFrame, cells: pd.Series, unit: str) -> str:
    """Describe what has a cell in every block that halves are made of, and which cell types have as many controls."""
    types = _controls_of_types(obs)
    text = f"{(cells >= BLOCKS).sum():,} of {len(cells):,} {unit} have the {BLOCKS} cells that it takes"
    short = types.index[types < BLOCKS]
    if len(short):
        text += f"; fewer controls than that: {_among(short, types)}"
    return text


def _controls_of_types(obs: pd.DataFrame) -> pd.Series:
    """Count the control cells of each cell type, of each context where there are several."""
    groups = obs["cell_type"].astype(str)
    if len(contexts_of(obs)) > 1:
        groups = groups + " in " + obs["context"].astype(str)
    return groups[obs["perturbation"] == CONTROL].value_counts().reindex(groups.unique(), fill_value=0)


def _among(chosen: pd.Index, controls: pd.Series) -> str:
    """Name some of the cell types, or the number of controls where the row names no column of types or contexts."""
    if list(controls.index) == [UNSTATED]:
        return f"{controls.iloc[0]:,}"
    return f"in {len(chosen):,} of {len(controls):,} cell types ({first_names(chosen)})"


def _types_without_controls(obs: pd.DataFrame) -> list[str]:
    """Describe, as a run would, cell types with too few controls."""
    controls = _controls_of_types(obs)
    none, few = controls.index[controls == 0], controls.index[(controls > 0) & (controls < FEWEST_CONTROLS)]
    problems = []
    if len(none):
        problems.append(f"no control cell {_among(none, controls)}: a run stops at their cells")
    if len(few):
        whose = "" if list(controls.index) == [UNSTATED] else f" of more than {RARE_TYPE:.0%} of such cells"
        problems.append(
            f"fewer than {FEWEST_CONTROLS} control cells: {_among(few, controls)}; "
            f"the response of perturbations{whose} is unknown"
        )
    return problems


def _control_noise(controls: int, cells: pd.Series, config: Mapping[str, Any]) -> str:
    """Describe the share of the controls in the noise of a measured change, which all perturbations have in common."""
    share = float(np.median(cells)) / (float(np.median(cells)) + controls)
    text = f"{share:.0%} of the noise of a change is that of the {controls:,} controls, shared by all perturbations"
    drawn = config["controls"]["cells_per_perturbation"]
    return text + (f"; few: {drawn} are drawn for each test perturbation" if controls < drawn else "")
