"""What a perturbation is called: the genes targeted, sorted, joined by ``+``; ``control`` when there are none.

And how a sentence lists names.
"""

from __future__ import annotations

from collections.abc import Iterable

CONTROL = "control"
ALL_SPLITS = "all"  # the folds of one dealing, pooled; no split has this name
POOLED_CONTEXTS = "contexts"  # the splits that hold out each context in turn, pooled; no split has this name
UNSTATED = "all"  # the batch and the cell type of cells of a data set that names none
JOINED_BY = "+"


def within(part: str, group: str) -> str:
    """Name a context or batch of a part of a joined data set; the part itself where it names none."""
    return part if group == UNSTATED else f"{part}.{group}"


def genes_of(perturbation: str) -> tuple[str, ...]:
    """Return the genes of a perturbation's name, sorted; none for ``control``."""
    return () if perturbation == CONTROL else tuple(perturbation.split(JOINED_BY))


def first_names(names: Iterable[str], shown: int = 5) -> str:
    """List names as ``a, b``, those after the first ones as ``...``."""
    names = list(names)
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
