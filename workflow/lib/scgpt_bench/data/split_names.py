"""Which splits a study runs, known before there is a cell: what each is called, how it is made, and which are pooled.

Snakemake reads this module at every start: it imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scgpt_bench.data.names import ALL_SPLITS, POOLED_CONTEXTS

FOLD, GEARS, HELD_OUT_CONTEXT, FILE = "fold", "gears", "context", "file"  # what a split is made by
PREDICTION = "prediction"  # all measured conditions are trained on, and conditions without cells tested


def slug(context: str) -> str:
    """Name a context in the name of a split, which becomes a folder."""
    return re.sub(r"[^A-Za-z0-9._]", "_", context)


def planned(splits: Mapping[str, Any], held_out: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """List the splits of a study, in the order in which they are run; a name may come twice, which is a fault.

    Parameters
    ----------
    splits
        The key ``splits`` of the configuration.
    held_out
        The contexts to hold out.

    Returns
    -------
    The name of each split, and what makes it: ``made_by`` and, beside it, the options of the function of
    :mod:`scgpt_bench.data.splits` that this names. A split depends on nothing else but the cells (and its file).
    """

    def options(*keys: str) -> dict[str, Any]:
        return {key: splits[key] for key in keys}

    dealing = options("seed", "validation_share", "minimum_cells")
    folds = _folds(splits)
    found = [(name, {"made_by": FOLD, **fold, **dealing}) for name, fold in folds.items()]
    for seed in splits["gears_seeds"]:
        found.append((f"gears{seed}", {"made_by": GEARS, "seed": seed, **options("minimum_cells")}))
    for context in held_out:
        for suffix, of_group in _groups_of_contexts(splits, folds).items():
            how = {"made_by": HELD_OUT_CONTEXT, "context": context, **of_group, **dealing}
            found.append((f"context-{slug(context)}{suffix}", how))
    return [*found, *((name, {"made_by": FILE}) for name in splits["files"])]


def pooled(splits: Mapping[str, Any], held_out: Sequence[str]) -> dict[str, list[str]]:
    """Name the splits that answer one question together, and list those of each.

    The folds of one dealing are ``all`` of them; the splits that hold out each context in turn, alike in everything
    else, are ``contexts``, ``contexts-seen0.1``, ``contexts-fold0``.
    """
    folds = _folds(splits)
    of_contexts = {
        f"{POOLED_CONTEXTS}{suffix}": [f"context-{slug(context)}{suffix}" for context in held_out]
        for suffix in _groups_of_contexts(splits, folds)
    }
    return {ALL_SPLITS: [*folds], **(of_contexts if held_out else {})}


def _folds(splits: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"fold{fold}": {"fold": fold, "folds": splits["folds"]} for fold in splits["run"]}


def _groups_of_contexts(splits: Mapping[str, Any], folds: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How the names of splits that hold out a context end, and what these splits have in common."""
    chosen = splits["contexts"]
    groups: dict[str, dict[str, Any]] = {}
    if "context" in chosen["unseen"]:
        groups = {f"-seen{share:g}" if share else "": {"seen": share} for share in chosen["seen"]}
    if "both" in chosen["unseen"]:
        groups |= {f"-{name}": fold for name, fold in folds.items()}
    return groups
