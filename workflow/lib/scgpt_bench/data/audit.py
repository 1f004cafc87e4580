"""Look for leaks before any model runs: tested cells or conditions that a method would learn from.

What is found ends the run with one line. What was checked, and what cannot be, is a table for the report.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import gammaln, xlogy

from scgpt_bench.data.conditions import Condition, conditions_of, listed, rows_of
from scgpt_bench.data.halves import INPUT, TRUTH
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import Matrix, row_chunks
from scgpt_bench.data.split_names import GEARS, HELD_OUT_CONTEXT, PREDICTION
from scgpt_bench.errors import InputError

# Data sets without any cell twice in which the audit may still find one, at most.
FALSE_ALARMS = 1e-6
PASSED, DECLARED, UNVERIFIED = "passed", "declared", "unverified"
ROLE_IN_WORDS = {"train": "trained on", "validation": "validated on", "test": "tested"}
CONTROL_OF = {half: f"half {half}" for half in (TRUTH, INPUT)}
SEEN = (ROLE_IN_WORDS["train"], ROLE_IN_WORDS["validation"], CONTROL_OF[INPUT])  # by methods


def identical_cells(cells: anndata.AnnData) -> dict[str, Any]:
    """Find cells with the same counts of all genes, and say which of them chance cannot explain.

    Names are not looked at: barcodes recur by chance, and a copy may be renamed. Identical rows of few counts do occur
    by chance. If a cell's molecules are drawn independently, its counts x with sum N are multinomial given the state of
    the cell, whatever that is, and no state gives them a higher probability than x / N does. This largest probability
    bounds how often another cell of the same sum repeats x. A cell can be told apart where the bound, times the number
    of pairs of cells with equal sums, is at most ``FALSE_ALARMS``: the expected number of chance pairs among such cells
    is then no larger. Other cells are counted as undecided. The bound does not cover counts that vary less than that,
    such as 0 and 1 after thresholding.

    Where only log1p values are known, the smallest value of a cell is taken for one count. If all others are multiples
    of it, these are compared, so that a copy which was scaled otherwise is found as well. The counts themselves may be
    larger, and are then less probable: the bound remains one. All pairs are counted, whatever their sums.

    Parameters
    ----------
    cells
        ``cells.h5ad``; X and layers may stay on disk, and are read once, by chunks.

    Returns
    -------
    ``compared`` (``counts`` or ``values``), ``n_cells``, ``n_pairs`` (with equal sums), ``false_alarms``; ``groups``:
    lists of identical cells that chance does not explain, each cell with ``cell``, ``perturbation``, ``context`` and
    ``half``; ``n_by_chance``: other cells that equal another one; ``undecided``: ``perturbation``, ``context``,
    ``n_cells`` of conditions and controls with cells that cannot be told apart.
    """
    counted = "counts" in cells.layers
    n_cells = cells.n_obs
    hashes = np.empty((n_cells, 2), dtype=np.uint64)
    sums, largest = np.empty(n_cells), np.empty(n_cells)
    for start, chunk in row_chunks(cells.layers["counts"] if counted else cells.X):
        chunk = _without_zeros(chunk)
        own = slice(start, start + chunk.shape[0])
        counts = chunk if counted else _in_units_of_smallest(chunk)
        hashes[own] = _hashes(chunk if counted else _whole_numbers(counts, chunk))
        sums[own], largest[own] = _largest_log_probability(counts)
    equal = np.unique(sums, return_counts=True)[1] if counted else np.array([n_cells])
    n_pairs = int((equal.astype(np.int64) * (equal - 1) // 2).sum())
    can_tell = largest <= math.log(FALSE_ALARMS / max(1, n_pairs))
    twice = np.flatnonzero(pd.DataFrame(hashes).duplicated(keep=False))
    table = cells.obs.iloc[twice][["perturbation", "context", "half"]].astype(str)
    rows = table.assign(cell=table.index.astype(str))[["cell", *table]].to_dict("records")
    same = [*pd.DataFrame(hashes[twice]).groupby([0, 1], sort=False).indices.values()]
    return {
        "compared": "counts" if counted else "values",
        "n_cells": n_cells,
        "n_pairs": n_pairs,
        "false_alarms": FALSE_ALARMS,
        "groups": [[rows[i] for i in group] for group in same if can_tell[twice[group[0]]]],
        "n_by_chance": int((~can_tell[twice]).sum()),
        "undecided": [
            {**condition._asdict(), "n_cells": int((~can_tell[own]).sum())}
            for condition, own in rows_of(cells.obs).items()
            if not can_tell[own].all()
        ],
    }


def _without_zeros(chunk: Matrix) -> sparse.csr_matrix:
    """Bring rows to the one form in which equal rows have equal bytes."""
    rows = sparse.csr_matrix(chunk)
    if not rows.has_sorted_indices:
        rows = rows.sorted_indices()
    if not rows.data.all():
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def _hashes(rows: sparse.csr_matrix) -> np.ndarray:
    """Hash each row to 128 bits: uint64 [rows x 2]."""
    indices, values = rows.indices.astype(np.int32, copy=False), rows.data
    digests = [
        hashlib.blake2b(indices[start:stop].tobytes() + values[start:stop].tobytes(), digest_size=16).digest()
        for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


def _in_units_of_smallest(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Undo log1p and the scale of each cell, as far as that is possible without its counts."""
    values, lengths = np.expm1(rows.data.astype(np.float64)), np.diff(rows.indptr)
    filled = lengths > 0
    smallest = np.ones(len(lengths))
    smallest[filled] = np.minimum.reduceat(values, rows.indptr[:-1][filled]) if filled.any() else 1
    return sparse.csr_matrix((values / np.repeat(smallest, lengths), rows.indices, rows.indptr), rows.shape)


def _whole_numbers(multiples: sparse.csr_matrix, rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Take rows of multiples that are whole numbers, within the precision of float32, and the others as they are."""
    whole = np.rint(multiples.data)
    off = (abs(multiples.data - whole) > 1e-3 * whole).astype(np.float64)
    n_off = sparse.csr_matrix((off, rows.indices, rows.indptr), rows.shape) @ np.ones(rows.shape[1])
    kept = np.repeat(n_off > 0, np.diff(rows.indptr))
    return sparse.csr_matrix((np.where(kept, rows.data, whole), rows.indices, rows.indptr), rows.shape)


def _largest_log_probability(rows: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Sum each row, and compute the log of the largest multinomial probability that its counts can have."""
    counts = rows.data.astype(np.float64)
    of_genes = sparse.csr_matrix((xlogy(counts, counts) - gammaln(counts + 1), rows.indices, rows.indptr), rows.shape)
    ones = np.ones(rows.shape[1])
    sums = sparse.csr_matrix((counts, rows.indices, rows.indptr), rows.shape) @ ones
    return sums, of_genes @ ones - xlogy(sums, sums) + gammaln(sums + 1)


def audit(
    split: pd.DataFrame,
    obs: pd.DataFrame,
    identical: Mapping[str, Any],
    *,
    dataset: str,
    split_name: str,
    how: Mapping[str, Any],
) -> list[dict[str, str]]:
    """Refuse a split with a leak; say what was checked.

    Parameters
    ----------
    split
        ``split.tsv``.
    obs
        Of ``cells.h5ad``.
    identical
        Of :func:`identical_cells`.
    how
        How the split was made (:func:`split_names.planned`), which says what it promises.

    Returns
    -------
    ``check``, ``found`` and ``status`` of each check: ``passed``, or ``unverified``: nobody can tell from the files of
    the run.

    Raises
    ------
    InputError
        For a tested condition that is trained or validated on as well, under its own or an equivalent name; for a
        condition of a held-out context in training, beyond the share that the split promises; for a tested cell, or a
        control cell of the half ``truth`` that methods see too, that is in the data set twice.
    """
    unseen = how["made_by"] == GEARS or "fold" in how  # no perturbation is tested and trained on, in any context
    _refuse_tested_in_training(split, split_name, unseen)
    if how["made_by"] == HELD_OUT_CONTEXT:
        _refuse_held_out_in_training(split, split_name, how["context"], how.get("seen", 0))
    if how["made_by"] == PREDICTION:
        _refuse_measured(split, obs, split_name)
    else:
        _refuse_unmeasured(split, obs, split_name)
    _refuse_copies(split, identical, dataset, split_name)
    n_of_role = split["role"].value_counts()
    numbers = ", ".join(f"{n_of_role.get(role, 0)} {words}" for role, words in ROLE_IN_WORDS.items())
    of_tests = {*conditions_of(split, "test"), *(c for c in rows_of(obs) if c.perturbation == CONTROL)}
    undecided = sum(
        row["n_cells"] for row in identical["undecided"] if Condition(row["perturbation"], row["context"]) in of_tests
    )
    checks = []
    if how["made_by"] == HELD_OUT_CONTEXT:
        share = f", except for a share of {how['seen']:g} of its conditions" if how.get("seen") else ""
        checks.append((f"no perturbed cell of the held-out context is trained on{share}", how["context"], PASSED))
    checks.append(("no tested condition is trained or validated on", f"conditions: {numbers}", PASSED))
    if unseen:
        checks.append(("no tested perturbation is trained on in any context", "none is", PASSED))
    else:
        trained = set(split.loc[split["role"] == "train", "perturbation"])
        seen = sum(condition.perturbation in trained for condition in conditions_of(split, "test"))
        checks.append(("tested conditions whose perturbation is trained on in another context", str(seen), PASSED))
    found = f"{identical['n_cells']} cells compared by their {identical['compared']}"
    if identical["n_by_chance"]:
        found += f"; {identical['n_by_chance']} cells of few counts equal another one, which may be chance"
    checks.append(("no tested cell is in the data set twice, and no control cell in both halves", found, PASSED))
    if undecided:
        found = f"{undecided}: another cell may equal them by chance"
        checks.append(("tested cells and controls with too few counts to recognize a copy", found, UNVERIFIED))
    return _listed(checks)


def _listed(checks: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [dict(zip(("check", "found", "status"), check, strict=True)) for check in checks]


def declarations(
    vectors: Mapping[str, Mapping[str, Any]], checkpoints: Mapping[str, Mapping[str, Any]], foreign: Mapping[str, str]
) -> list[dict[str, str]]:
    """List the origins of weights, vectors and predictions from elsewhere: cells of the data set may be in them.

    What is declared as made from a data set of the run was refused with the configuration.

    Parameters
    ----------
    vectors
        Of each gene vectors or graph its ``source`` and ``made_from``: names of data sets, or None.
    checkpoints
        Of each checkpoint its ``source``, with the ``dataset``, ``census_version`` or ``corpus`` that it was pretrained
        on.
    foreign
        Of each method by other programs its kind, ``script`` or ``imported``.

    Returns
    -------
    As :func:`audit`; ``status`` may be ``declared`` as well, by the configuration or a table.
    """
    found = []
    for name, known in checkpoints.items():
        census = f"cells of CELLxGENE Census {known.get('census_version')}; not known whether these too"
        published = f"{known['corpus'] or 'not known'}; not known whether these cells too"
        statement = {
            "random": ("random weights, which saw no cells", PASSED),
            "pretrain": (f"unperturbed cells of {known.get('dataset')} only, none of the half truth", PASSED),
            "census": (census, UNVERIFIED),
            "catalogue": (published, UNVERIFIED),
            "folder": (f"of a folder of this name: {published}" if known["corpus"] else "not known", UNVERIFIED),
        }[known["source"]]
        found.append((f"what the checkpoint {name} learned from", *statement))
    for name, known in vectors.items():
        check, others = f"what the gene vectors or the graph {name} are made from", known["made_from"]
        if known["source"] == "dataset":
            found.append((check, f"changes measured in {', '.join(others)}", PASSED))
        elif others is None:
            found.append((check, "not known", UNVERIFIED))
        else:
            found.append((check, ", ".join(others) or "no cells of the data-set table", DECLARED))
    for name, kind in foreign.items():
        given = "training cells, and whatever else its script reads" if kind == "script" else "not known: a file"
        found.append((f"what the method {name} learned from", given, UNVERIFIED))
    return _listed(found)


def _refuse_tested_in_training(split: pd.DataFrame, split_name: str, unseen: bool) -> None:
    """Compare sets of genes, without case and order: two names of one perturbation are one perturbation."""

    def place(condition: Condition) -> tuple[tuple[str, ...], str]:
        genes = tuple(sorted({gene.casefold() for gene in condition.genes}))
        return genes, "" if unseen else condition.context

    tested = {place(condition): condition for condition in conditions_of(split, "test")}
    for role in ("train", "validation"):
        for condition in conditions_of(split, role):
            other = tested.get(place(condition))
            if other is not None:
                found = f"{other.label!r}, which is {ROLE_IN_WORDS[role]} as well"
                if other != condition:
                    found += f" ({condition.label!r})"
                expected = "no tested perturbation in training" + (", in any context" if unseen else "")
                raise InputError(f"split {split_name}", "role 'test'", found, expected)


def _refuse_held_out_in_training(split: pd.DataFrame, split_name: str, context: str, seen: float) -> None:
    here = split[split["context"].astype(str) == context]
    known, n_tested = conditions_of(here, "train"), len(conditions_of(here, "test"))
    wrong = [*conditions_of(here, "validation"), *([] if seen else known)]
    wrong += [condition for condition in conditions_of(split, "test") if condition.context != context]
    if wrong:
        found = f"{wrong[0].label!r}, which is {ROLE_IN_WORDS[_role_in(split, wrong[0])]}"
        raise InputError(f"split {split_name}", "role", found, f"{context!r} tested, and no other context")
    if len(known) > max(1, round(seen * (len(known) + n_tested))):
        found = f"{len(known)} conditions trained on, {n_tested} tested"
        raise InputError(f"split {split_name}", f"context {context!r}", found, f"a share of {seen:g} in training")


def _role_in(split: pd.DataFrame, condition: Condition) -> str:
    return split["role"].iloc[listed(split).index(condition)]


def _refuse_unmeasured(split: pd.DataFrame, obs: pd.DataFrame, split_name: str) -> None:
    unmeasured = set(listed(split)) - set(conditions_of(obs))
    if unmeasured:
        found = f"{min(unmeasured).label!r}, which has no cells"
        raise InputError(f"split {split_name}", "perturbation", found, "measured conditions")


def _refuse_measured(split: pd.DataFrame, obs: pd.DataFrame, split_name: str) -> None:
    measured = {*conditions_of(split, "test")} & {*conditions_of(obs)}
    if measured:
        found = f"{min(measured).label!r}, which has cells"
        raise InputError(f"split {split_name}", "role 'test'", found, "conditions that nobody measured")


def _refuse_copies(split: pd.DataFrame, identical: Mapping[str, Any], dataset: str, split_name: str) -> None:
    role_of = dict(zip(listed(split), split["role"].map(ROLE_IN_WORDS), strict=True))
    pairs = [pair for group in identical["groups"] if (pair := _leak([(_role(cell, role_of), cell) for cell in group]))]
    if not pairs:
        return
    one, other = (
        f"{cell['cell']!r} ({Condition(cell['perturbation'], cell['context']).label}, {role})"
        for role, cell in min(pairs, key=lambda pair: (pair[0][0] != ROLE_IN_WORDS["test"], pair[1][0] not in SEEN))
    )
    found = f"{one} and {other} with the same {identical['compared']} of all genes"
    if len(pairs) > 1:
        found += f", and {len(pairs) - 1} more such pairs"
    expected = f"every cell once (chance makes such a pair in one of {1 / identical['false_alarms']:,.0f} data sets)"
    raise InputError(f"data set {dataset}", f"cells of split {split_name}", found, expected)


def _role(cell: Mapping[str, str], role_of: Mapping[Condition, str]) -> str:
    """Return the role of a cell in this split."""
    if cell["perturbation"] == CONTROL:
        return CONTROL_OF[cell["half"]]
    return role_of.get(Condition(cell["perturbation"], cell["context"]), "not used")


def _leak(cells: list[tuple[str, Mapping[str, str]]]) -> list[tuple[str, Mapping[str, str]]] | None:
    """Of identical cells, choose one that no method may see and another one, which methods see if there is such a one.

    None where there is no tested cell, and no control cell of the half ``truth`` beside one that methods see.
    """
    tested = [cell for cell in cells if cell[0] == ROLE_IN_WORDS["test"]]
    hidden = tested or [cell for cell in cells if cell[0] == CONTROL_OF[TRUTH]]
    seen = [cell for cell in cells if cell[0] in SEEN]
    if tested:
        return [tested[0], *(seen or [cell for cell in cells if cell is not tested[0]])][:2]
    return [hidden[0], seen[0]] if hidden and seen else None
