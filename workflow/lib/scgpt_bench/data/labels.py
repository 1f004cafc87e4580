"""The labels of a file, read as perturbations.

Only what the file's row in the data-set table says is used: no separator, suffix or control label is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgpt_bench.data.names import CONTROL, JOINED_BY
from scgpt_bench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from scgpt_bench.data.catalogue import Dataset

JOINED_LABELS_BY = "|"  # the guides of a cell, as 10x joins them
MISSING = ("", "nan", "NaN", "None", "NA", "<NA>")


def perturbation_name(
    label: str, dataset: Dataset, source: str | Path, where: str, targets_of: Mapping[str, str] | None = None
) -> str:
    """Name the perturbation of a label: ``B_A``, ``A+ctrl``, ``sgSTAT1_2`` become ``A+B``, ``A``, ``STAT1``.

    Two guides against one gene (``A+A``) are one perturbation of that gene, ``A``.

    Parameters
    ----------
    label
        Spelled as in the file.
    dataset
        Says the control labels, the separator of combinations, and the prefix and suffix of guides.
    source, where
        The file and the place in it, for errors.
    targets_of
        The target of each guide, where a feature reference lists them.

    Raises
    ------
    InputError
        For a label, or a gene of a combination, that is missing or not distinct from another one.
    """
    label = label.strip()
    if label in dataset.control_labels:
        return CONTROL
    _check_case(label, label, dataset, source, where)
    genes = set()
    for gene in parts_of(label, dataset, targets_of):
        if gene not in dataset.control_labels:
            _check_gene(gene, label, dataset, source, where)
            genes.add(gene)
    return JOINED_BY.join(sorted(genes)) or CONTROL


def parts_of(label: str, dataset: Dataset, targets_of: Mapping[str, str] | None = None) -> list[str]:
    """Split a label into parts, each without the prefix and suffix of a guide; a control label is left as it is.

    Guides of ``targets_of`` become their targets, and a control label where they have none.
    Separators in a row count as one: ``A_B__A_B``, the guides of Norman et al. 2019, is ``A``, ``B``, ``A``, ``B``.
    """
    label = label.strip()
    if label in dataset.control_labels:
        return [label]
    separator = dataset.combination_separator or (JOINED_LABELS_BY if targets_of else None)
    parts = re.split(rf"(?:{re.escape(separator)})+", label) if separator else [label]
    return [_part(part.strip(), dataset, targets_of or {}) for part in parts]


def _part(part: str, dataset: Dataset, targets_of: Mapping[str, str]) -> str:
    named = strip_affixes(part, dataset)
    if named in dataset.control_labels or part not in targets_of:
        return named
    target = targets_of[part]
    return dataset.control_labels[0] if is_control_target(target, dataset) else target


def is_control_target(target: str, dataset: Dataset) -> bool:
    """Return whether a guide has no target: a control label, or 10x's word for that."""
    return target in dataset.control_labels or target.casefold() == "non-targeting"


def strip_affixes(part: str, dataset: Dataset) -> str:
    """Strip the prefix and suffix of a guide from a label, or a part of one; a control label is left as it is."""
    if part in dataset.control_labels:
        return part
    if dataset.guide_prefix:
        part = re.sub(rf"\A(?:{dataset.guide_prefix})", "", part, count=1).lstrip()
    if dataset.guide_suffix:
        part = re.sub(rf"(?:{dataset.guide_suffix})\Z", "", part, count=1).rstrip()
    return part


def _check_gene(gene: str, label: str, dataset: Dataset, source: str | Path, where: str) -> None:
    if gene in MISSING:
        expected = "a label that names a gene or a control"
        if not label or label in MISSING:
            expected += ", or 'nan' in excluded_label of the data-set table to leave cells without a label out"
        raise InputError(source, where, f"the label {label!r}", expected)
    _check_case(gene, label, dataset, source, where)
    if gene.casefold() == CONTROL:
        expected = (
            f"{CONTROL!r} among the control labels of data set {dataset.name!r}, or another label for these cells"
        )
        raise InputError(source, where, f"the label {label!r}, which is reserved for control cells", expected)
    if "/" in gene:  # who names a file or an entry of one after it, in a script of their own, would leave the folder
        raise InputError(source, where, f"the label {label!r}, which is a path", "a name without '/'")
    if JOINED_BY in gene:
        expected = f"no {JOINED_BY!r} in a gene's name, or combination_separator {JOINED_BY!r} in the data-set table"
        raise InputError(source, where, f"the label {label!r}, a combination or one gene", expected)


def _check_case(part: str, label: str, dataset: Dataset, source: str | Path, where: str) -> None:
    """Refuse what is a control label except for upper and lower case: its cells would become a perturbation."""
    for control in dataset.control_labels:
        if part != control and part.casefold() == control.casefold():
            which = "which" if part == label else f"in which {part!r}"
            found = f"the label {label!r}, {which} differs from the control label {control!r} in case only"
            expected = f"one spelling, or {part!r} among the control labels of data set {dataset.name!r} as well"
            raise InputError(source, where, found, expected)


def perturbation_names(
    labels: pd.Series, dataset: Dataset, source: str | Path, targets_of: Mapping[str, str] | None = None
) -> pd.Series:
    """Name the perturbations of a column of labels (one per cell, indexed by cell), as strings.

    Raises
    ------
    InputError
        Naming the first cell whose label is wrong and how many cells share it.
    """
    labels = labels.astype("object")
    labels = labels.where(labels.notna(), "").astype(str)
    names: dict[str, Any] = {}
    rows_of = labels.groupby(labels).indices
    for label in labels.unique():
        cells = labels.index[rows_of[label]]
        where = f"obs[{dataset.perturbation_column!r}] of cell {cells[0]!r} ({len(cells)} such cells)"
        names[label] = perturbation_name(label, dataset, source, where, targets_of)
    return labels.map(names)
