"""What a perturbation is called: the genes targeted, sorted, joined by ``+``; ``control`` when there are none."""

from __future__ import annotations

CONTROL = "control"
ALL_SPLITS = "all"  # the folds of one dealing, pooled; no split has this name
ALL_CONTEXTS = "contexts"  # the splits that hold out each context in turn, pooled; no split has this name
UNSTATED = "all"  # the batch and the cell type of cells of a data set that names none
JOINED_BY = "+"


def within(part: str, group: str) -> str:
    """Name a context or batch of a part of a joined data set; the part itself where it names none."""
    return part if group == UNSTATED else f"{part}.{group}"


def genes_of(perturbation: str) -> tuple[str, ...]:
    """Return the genes of a perturbation's name, sorted; none for ``control``."""
    return () if perturbation == CONTROL else tuple(perturbation.split(JOINED_BY))
