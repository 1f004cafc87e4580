"""Which conditions are trained on and which are tested.

A split is a table ``perturbation, context, role, n_genes, n_genes_seen, seen``, made in one of four ways: folds over
perturbations, GEARS' simulation of unseen genes, a context that is held out, or a fixed file. The first two give a
perturbation one role in all its contexts.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from scgpt_bench.data import split_names
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import Condition, conditions_of, listed, rows_of
from scgpt_bench.data.labels import perturbation_name
from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line, read_json, read_table
from scgpt_bench.seeding import stream_seed

ROLES = ("train", "validation", "test")
GEARS_ROLES = {"train": "train", "val": "validation", "test": "test"}
# How GEARS writes perturbations: ``ctrl``, ``A+ctrl``, ``ctrl+A``, ``A+B``.
GEARS_LABELS = Dataset(
    name="GEARS split",
    address="",
    format="h5ad",
    values="log1p",
    target_sum=1.0,
    perturbation_column="condition",
    control_label="ctrl",
    perturbation_kind="activation",
    combination_separator="+",
)


def fold(
    obs: pd.DataFrame,
    *,
    dataset: str,
    fold: int,
    folds: int,
    seed: int,
    validation_share: float,
    minimum_cells: int,
) -> pd.DataFrame:
    """Make the split that tests one fold of the perturbations: no test perturbation has a cell in training.

    Folds differ in size by at most one perturbation. Every perturbation prefers the folds in an order of its own,
    given by hashing its name, and gets the best one with room, so that a perturbation that joins the data set moves
    few others. Dealing in the order of the names would move half of them; giving everyone the first choice
    would move none, but leave folds of very unequal size.

    A perturbation with fewer than ``minimum_cells`` cells in every context is always trained on: its mean is too noisy
    to judge a prediction or to choose a model. One with enough cells in some contexts is left out in the others where
    it is tested or validated.

    Parameters
    ----------
    obs
        ``perturbation`` and ``context`` of each cell, control cells included.
    dataset
        Its name, which enters the random draws.
    fold
        The fold to test, from 0 to ``folds`` - 1.
    folds
        How many there are.
    seed
        Of the dealing and of the choice of validation perturbations.
    validation_share
        Share of the perturbations outside the test fold that choose a model; at least one.
    minimum_cells
        Cells that a test or validation condition has at least.

    Returns
    -------
    One row per condition, sorted: ``perturbation``, ``context``, ``role`` (``train``, ``validation`` or ``test``),
    ``n_genes``; ``n_genes_seen``, the number of its genes that some training perturbation targets as well, in any
    context; ``seen``, whether training has this perturbation in another context.

    Raises
    ------
    InputError
        If the perturbations with enough cells cannot fill every fold, or if validation or training would be empty.
    """
    of_conditions = _numbers_of_cells(obs)
    n_cells = _of_largest(of_conditions)
    testable = [name for name, number in n_cells.items() if number >= minimum_cells]
    test = _tested(of_conditions, dataset, fold, folds, seed, minimum_cells)
    rest = [name for name in testable if name not in test]
    n_train = len(n_cells) - len(test)
    n_validation = max(1, round(validation_share * n_train))
    if n_validation > len(rest) or n_validation >= n_train:
        found = f"{len(rest)} perturbations with at least {minimum_cells} cells outside fold {fold}"
        expected = f"at least {n_validation} to validate, and another one to train on"
        raise InputError(f"data set {dataset}", "split", found, expected)
    validation = set(_by_hash(rest, seed, "validation", dataset, fold)[:n_validation])
    roles = {
        name: "test" if name in test else "validation" if name in validation else "train" for name in n_cells.index
    }
    return table_of_roles(_with_enough_cells(roles, of_conditions, minimum_cells))


def context(
    obs: pd.DataFrame,
    *,
    dataset: str,
    context: str,
    seed: int,
    validation_share: float,
    minimum_cells: int,
    seen: float = 0,
    fold: int | None = None,
    folds: int | None = None,
) -> pd.DataFrame:
    """Make the split that tests one context: training has no perturbed cell of it, or few of them.

    Every condition of the context is tested. In the other contexts a share of the perturbations is validated, in all of
    them at once, and all else is trained on. Conditions with fewer than ``minimum_cells`` cells that would be tested or
    validated are left out.

    With ``seen``, that share of the context's testable conditions is trained on instead, drawn among perturbations that
    validate in no other context. A larger share includes a smaller one, and all have the same validation.

    With ``fold``, what is tested is that fold of perturbations only (as :func:`fold` deals them). It is left out of the
    other contexts, and the other perturbations are left out of this one: neither the context nor the perturbation is
    in training.

    Parameters
    ----------
    obs
        ``perturbation`` and ``context`` of each cell, control cells included.
    dataset
        Its name, which enters the random draws, as do those of perturbations.
    context
        The one that is held out.
    seed
        Of all draws.
    validation_share
        Share of the perturbations of the other contexts that choose a model; at least one.
    minimum_cells
        Cells that a test or validation condition has at least.
    seen
        Share of the testable conditions that training has nevertheless.
    fold, folds
        The fold of perturbations to test, and how many there are.

    Returns
    -------
    As :func:`fold`.

    Raises
    ------
    InputError
        If no cell is of this context, if no other context is there to learn from, or if a role would be empty.
    """
    n_cells = _numbers_of_cells(obs)
    contexts = sorted({condition.context for condition in n_cells})
    source = f"data set {dataset}"
    if context not in contexts or len(contexts) < 2:
        expected = f"perturbed cells of {context!r} (splits.contexts.hold_out), and of other contexts to learn from"
        raise InputError(source, "obs['context']", f"perturbed cells of {', '.join(map(repr, contexts))}", expected)
    here = {c.perturbation: number for c, number in n_cells.items() if c.context == context}
    elsewhere = {c: number for c, number in n_cells.items() if c.context != context}
    testable = [name for name, number in here.items() if number >= minimum_cells]
    if fold is not None and folds is not None:
        tested = _tested(n_cells, dataset, fold, folds, seed, minimum_cells)
        testable = [name for name in testable if name in tested]
        elsewhere = {c: number for c, number in elsewhere.items() if c.perturbation not in tested}
    n_elsewhere = _of_largest(elsewhere)
    able = [name for name, number in n_elsewhere.items() if number >= minimum_cells]
    n_validation = max(1, round(validation_share * len(n_elsewhere)))
    validation = {*_by_hash(able, seed, "validation", dataset)[:n_validation]}
    n_seen = max(1, round(seen * len(testable))) if seen else 0
    known = _by_hash([name for name in testable if name not in validation], seed, "seen", dataset, context)[:n_seen]
    if len(known) < n_seen:
        found = f"{len(known)} perturbations of {context!r} with at least {minimum_cells} cells that do not validate"
        raise InputError(source, "split", found, f"at least {n_seen}, a share of {seen:g} (splits.contexts.seen)")
    role_of = {name: "validation" if name in validation else "train" for name in n_elsewhere.index}
    roles = _with_enough_cells(role_of, elsewhere, minimum_cells)
    roles |= {Condition(name, context): "train" if name in known else "test" for name in testable}
    of_fold = "" if fold is None else f" and fold {fold}"
    _check_roles(roles, source, f"split by context {context!r}{of_fold}, with at least {minimum_cells} cells")
    return table_of_roles(dict(sorted(roles.items())))


def _tested(
    n_cells: Mapping[Condition, int], dataset: str, fold: int, folds: int, seed: int, minimum_cells: int
) -> set[str]:
    """Deal the perturbations with enough cells in some context into folds, and return those of one fold."""
    numbers = _of_largest(n_cells)
    testable = [name for name, number in numbers.items() if number >= minimum_cells]
    _check_number(numbers, testable, dataset, folds, minimum_cells)
    fold_of = _dealt(testable, dataset, folds, seed)
    return {name for name in testable if fold_of[name] == fold}


def _numbers_of_cells(obs: pd.DataFrame) -> dict[Condition, int]:
    """Count the cells of each condition, sorted, without controls."""
    rows = rows_of(obs)
    return {condition: len(rows[condition]) for condition in conditions_of(obs)}


def _of_largest(n_cells: Mapping[Condition, int]) -> pd.Series:
    """Count the cells of each perturbation in the context with most of them, sorted by name."""
    of_conditions = pd.Series([*n_cells.values()], index=[c.perturbation for c in n_cells], dtype=int)
    return of_conditions.groupby(level=0).max()


def _with_enough_cells(
    role_of: Mapping[str, str], n_cells: Mapping[Condition, int], minimum_cells: int
) -> dict[Condition, str]:
    """Give each condition the role of its perturbation; leave out those too small to be tested or validated."""
    roles = {condition: role_of[condition.perturbation] for condition in n_cells}
    return {c: role for c, role in roles.items() if role == "train" or n_cells[c] >= minimum_cells}


def _check_number(n_cells: pd.Series, testable: Sequence[str], dataset: str, folds: int, minimum_cells: int) -> None:
    if len(testable) >= folds:
        return
    where, source = "obs['perturbation']", f"data set {dataset}"
    if len(n_cells) < folds:
        raise InputError(source, where, f"{len(n_cells)} perturbations", f"at least {folds}, one for each fold")
    best = n_cells.idxmax()
    found = f"{len(testable)} of {len(n_cells)} perturbations with at least {minimum_cells} cells"
    found += f" (the most has {best}: {n_cells[best]})"
    raise InputError(source, where, found, f"at least {folds}, one for each fold, or a lower minimum_cells")


def _by_hash(names: Sequence[str], seed: int, *draw: str | int) -> list[str]:
    """Sort ``names`` in a random order in which the presence of one does not change the order of the others."""
    return sorted(names, key=lambda name: (stream_seed(seed, "split", *draw, name), name))


def _dealt(names: Sequence[str], dataset: str, folds: int, seed: int) -> dict[str, int]:
    """Choose the fold of each name: its favourite among those with room."""
    size, larger_folds = divmod(len(names), folds)
    members = [0] * folds
    fold_of = {}
    for name in _by_hash(names, seed, "order", dataset):
        room_for_larger = sum(number > size for number in members) < larger_folds
        open_folds = [k for k in range(folds) if members[k] < size or (members[k] == size and room_for_larger)]
        fold_of[name] = min(open_folds, key=lambda k: stream_seed(seed, "split", "fold", dataset, name, k))
        members[fold_of[name]] += 1
    return fold_of


def gears_simulation(
    obs: pd.DataFrame,
    *,
    dataset: str,
    seed: int,
    minimum_cells: int,
    seen_genes: float = 0.75,
    seen_pairs: float = 0.75,
    validation_seen: float = 0.9,
) -> pd.DataFrame:
    """Make GEARS' simulation split: some genes are never perturbed in training (Roohani, Huang and Leskovec 2024).

    A share ``seen_genes`` of all perturbed genes is drawn as seen. Training gets the single perturbations of seen genes
    and a share ``seen_pairs`` of the combinations whose genes are all seen (GEARS' class combo_seen2); everything else
    is tested: unseen singles, combinations with an unseen gene (combo_seen0, combo_seen1) and the other combinations of
    seen genes. Validation perturbations are taken out of training in the same way, with both shares
    ``validation_seen``. The shares are GEARS 0.1's defaults; its draws, which depend on the order of its lists, are not
    repeated: to run the very split of a GEARS run, read its file with :func:`read_split_file`.

    A condition with fewer than ``minimum_cells`` cells that would be tested or validated is left out of the split: its
    mean is too noisy to judge by, and in training it would show an unseen gene.

    ``n_genes_seen`` counts the genes that a training perturbation targets. GEARS counts a gene of a validation
    perturbation, or one that was drawn but only occurs with an unseen gene, as seen; here it is not.

    Parameters
    ----------
    obs
        ``perturbation`` and ``context`` of each cell, control cells included.
    dataset, seed
        What the draws depend on, beside the names of genes and perturbations.

    Returns
    -------
    As :func:`fold`.

    Raises
    ------
    InputError
        If a role would be empty.
    """
    n_cells = _numbers_of_cells(obs)
    names = sorted({condition.perturbation for condition in n_cells})
    train, test = _simulated(names, seen_genes, seen_pairs, seed, "simulation test", dataset)
    train, validation = _simulated(train, validation_seen, validation_seen, seed, "simulation validation", dataset)
    role_of = {
        **dict.fromkeys(test, "test"),
        **dict.fromkeys(validation, "validation"),
        **dict.fromkeys(train, "train"),
    }
    roles = _with_enough_cells(role_of, n_cells, minimum_cells)
    _check_roles(roles, f"data set {dataset}", f"split by GEARS' simulation of {len(names)} perturbations")
    return table_of_roles(roles)


def subset(split: pd.DataFrame, size: int, *, dataset: str) -> pd.DataFrame:
    """Keep ``size`` perturbations to learn from; the test conditions stay: one point of a learning curve.

    What a laboratory measures is trained on and validated on, so both count: validation keeps its share, at least one
    perturbation. The order in which perturbations come depends on their names: a smaller subset is part of a larger
    one.

    Parameters
    ----------
    split
        Of :func:`fold`, :func:`gears_simulation` or :func:`read_split_file`.
    size
        Perturbations in training and validation together, at least 2; all are kept where there are no more.
    dataset
        Its name, which enters the random draw.

    Returns
    -------
    As :func:`fold`.
    """
    roles = dict(zip(listed(split), split["role"], strict=True))
    names = {role: {c.perturbation for c, own in roles.items() if own == role} for role in ROLES}
    names["train"] -= names["validation"]  # of a file with roles by context
    validation, train = (_by_hash(sorted(names[role]), 0, "subset", dataset) for role in ("validation", "train"))
    measured = len(validation) + len(train)
    size = min(size, measured)
    n_validation = min(max(1, round(size * len(validation) / measured)), size - 1)
    kept = {*validation[:n_validation], *train[: size - n_validation]}
    return table_of_roles({c: role for c, role in roles.items() if role == "test" or c.perturbation in kept})


def _simulated(
    names: Sequence[str], seen_genes: float, seen_pairs: float, seed: int, *draw: str
) -> tuple[list[str], list[str]]:
    """Divide ``names`` into those kept for training and those held out."""
    genes = _by_hash(sorted({gene for name in names for gene in genes_of(name)}), seed, *draw, "genes")
    seen = set(genes[: int(seen_genes * len(genes))])
    all_seen = [name for name in names if seen.issuperset(genes_of(name))]
    pairs = _by_hash([name for name in all_seen if len(genes_of(name)) > 1], seed, *draw, "pairs")
    kept = {name for name in all_seen if len(genes_of(name)) == 1} | set(pairs[: int(seen_pairs * len(pairs))])
    return [name for name in names if name in kept], [name for name in names if name not in kept]


def read_split_file(path: str | Path, obs: pd.DataFrame) -> pd.DataFrame:
    """Read a split that is fixed in a file.

    - ``.tsv``, ``.csv``: columns ``perturbation`` (as in cells.h5ad), ``role`` (``train``, ``validation``, ``test``)
      and, if roles differ between contexts, ``context``;
    - ``.json``: an object with lists under ``train``, ``val``, ``test`` in GEARS' names (``A+ctrl``, ``A+B``);
    - ``.pkl``, ``.pickle``: what GEARS writes (``set2conditions``), the same object as a pickle. Only dictionaries,
      lists and strings are read from it; anything else is refused before it is executed.

    Without contexts in the file, a role is that of the perturbation in every context in which it was measured. Measured
    conditions that the file does not name are not used. Roles are taken as they are, however few cells a condition has,
    so that a published split stays what it is; the data card names what is judged by few cells.

    Parameters
    ----------
    obs
        ``perturbation`` and ``context`` of each cell, control cells included.

    Returns
    -------
    As :func:`fold`.

    Raises
    ------
    InputError
        For a condition that was not measured or has two roles, for an unknown role, or if a role is empty.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".tsv", ".csv"):
        rows = _roles_of_table(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".json", ".pkl", ".pickle"):
        rows = _roles_of_gears(path, _read_gears_json(path) if suffix == ".json" else _read_gears_pickle(path))
    else:
        raise InputError(path, "suffix", repr(suffix), ".tsv, .csv, .json, .pkl or .pickle")
    roles: dict[Condition, str] = {}
    contexts = {name: [*own] for name, own in groupby(conditions_of(obs), lambda c: c.perturbation)}
    for name, context, role in rows:
        named = [c for c in contexts.get(name, []) if context in (None, c.context)]
        if not named:
            found = repr(name) + (f" in context {context!r}" if context is not None else "")
            raise InputError(path, role, f"{found}, which has no cells", "measured conditions")
        for condition in named:
            if roles.setdefault(condition, role) != role:
                found = f"{condition.label!r}, which is in {roles[condition]} as well"
                raise InputError(path, role, found, "one role per perturbation")
    _check_roles(roles, path, "roles")
    return table_of_roles(dict(sorted(roles.items())))


def _roles_of_table(path: str | Path, separator: str) -> list[tuple[str, str | None, str]]:
    """Read perturbation, context (None: all) and role of each row."""
    table = read_table(path, separator, dtype=str, na_values=[], header=None)  # pandas renames a column that is twice
    header, table = table.iloc[0].astype(str).tolist(), table[1:]
    if header.count("perturbation") != 1 or header.count("role") != 1 or header.count("context") > 1:
        raise InputError(path, "columns", ", ".join(header), "perturbation and role, each once, and context if needed")
    table.columns = header
    unknown = table.loc[~table["role"].isin(ROLES)]
    if len(unknown):
        first = unknown.iloc[0]
        raise InputError(path, f"role of {first['perturbation']!r}", repr(first["role"]), "one of " + ", ".join(ROLES))
    contexts = table["context"] if "context" in header else [None] * len(table)
    rows = zip(table["perturbation"], contexts, table["role"], strict=True)
    return [row for row in rows if row[0] != CONTROL]


def _roles_of_gears(path: str | Path, conditions: Any) -> list[tuple[str, str | None, str]]:
    if not isinstance(conditions, Mapping) or not set(conditions) <= set(GEARS_ROLES):
        found = ", ".join(map(repr, conditions)) if isinstance(conditions, Mapping) else type(conditions).__name__
        raise InputError(path, "top level", found, "lists under " + ", ".join(GEARS_ROLES))
    rows: list[tuple[str, str | None, str]] = []
    for key, labels in conditions.items():
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise InputError(path, key, f"a {type(labels).__name__}", "a list of names")
        names = [perturbation_name(label, GEARS_LABELS, path, key) for label in labels]
        rows += [(name, None, GEARS_ROLES[key]) for name in names if name != CONTROL]
    return rows


def _read_gears_json(path: str | Path) -> Any:
    pairs = read_json(path, "lists of names", object_pairs_hook=tuple)
    if not isinstance(pairs, tuple):
        return pairs
    keys = [key for key, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise InputError(path, "top level", f"{twice[0]!r} {keys.count(twice[0])} times", "every key once")
    return dict(pairs)


def _read_gears_pickle(path: str | Path) -> Any:
    try:
        return _TextUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except Exception as error:  # a pickle is a program, and fails as programs do
        raise InputError(
            path, "pickle", first_line(error), "dictionaries, lists and strings only, as GEARS writes"
        ) from None


class _TextUnpickler(pickle.Unpickler):
    """Reads containers and text. A pickle is a program: every name that it asks for is refused, but for the two that
    NumPy strings are made of, which get stand-ins that run no code of NumPy.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _TextType
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return _numpy_text
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to an object outside the file")


class _TextType:
    """Stands for a NumPy type in a pickle: its code, such as ``U5``, and its byte order."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "<"

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1]


def _numpy_text(kind: _TextType, raw: bytes) -> str:
    if not kind.code.startswith("U"):
        raise pickle.UnpicklingError(f"a NumPy value of type {kind.code}")
    return raw.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")


def _check_roles(roles: Mapping[Condition, str], source: str | Path, where: str) -> None:
    for role in ROLES:
        if role not in roles.values():
            raise InputError(source, where, f"no {role} perturbation", f"at least one of each of {', '.join(ROLES)}")


def table_of_roles(roles: Mapping[Condition, str]) -> pd.DataFrame:
    """Make ``split.tsv`` of the role of each condition."""
    trained = {condition for condition, role in roles.items() if role == "train"}
    contexts = pd.Series([condition.perturbation for condition in trained], dtype=object).value_counts()
    genes = {gene for condition in trained for gene in condition.genes}
    rows = [
        {
            **condition._asdict(),
            "role": role,
            "n_genes": len(condition.genes),
            "n_genes_seen": len(genes.intersection(condition.genes)),
            "seen": contexts.get(condition.perturbation, 0) > (condition in trained),
        }
        for condition, role in roles.items()
    ]
    return pd.DataFrame(rows)


# What makes a split, by its name in :mod:`split_names`.
MAKERS: dict[str, Callable[..., pd.DataFrame]] = {
    split_names.FOLD: fold,
    split_names.GEARS: gears_simulation,
    split_names.HELD_OUT_CONTEXT: context,
}
