"""Predictions that another program made: from any h5ad to what ``predictions.h5ad`` promises, or one clear refusal.

Two kinds of rows are understood. A condition with one row is a pseudo-bulk, the mean of log1p values: the control
cells drawn for it are moved so that their mean is that row, as for every method that predicts a shift. A condition
with more rows is a set of predicted cells, which stay as they are, however many: metrics average over cells. Their
``control_cell`` is the file's where that names a drawn control cell, and else one of those drawn for the condition,
in turn: counts are made of a predicted cell (for cell_eval2, or to submit them) at the depth of its control cell.

Where all rows of a condition name control cells that were drawn for it, cell types count in their mean as among its
measured cells. Otherwise nothing says which type a row is of: every row counts once, and the mix is the program's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import (
    ALL_CONTEXTS,
    Condition,
    codes_of,
    conditions_of,
    context_of,
    contexts_of,
    rows_of,
)
from scgpt_bench.data.controls import control_means_of, type_weights
from scgpt_bench.data.labels import perturbation_names
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import add_rows, batches, dense_rows, open_h5ad, row_chunks, rows
from scgpt_bench.errors import InputError
from scgpt_bench.files import sha256
from scgpt_bench.method_record import Imported
from scgpt_bench.predictions import Write, anchored_cells

# A perturbation moves a cell's total and its profile by a few percent; another logarithm, another target sum, counts
# or changes instead of expression move them further than this (log2: slope 1.44, log10: 0.43, twice the target sum: 2).
SLOPE = (0.8, 1.25)
TOTAL = (2 / 3, 3 / 2)
# Of one perturbation, whose cells may change much: between 0.86 and 1.28 for every perturbation measured in
# perturbench_devel and papalexi_2021, where log10 values would have 0.55 at most, and three times the measured change
# has 0.585 at least.
SLOPE_OF_ONE = (0.57, 2)

Missing = Literal["refuse", "control-mean"]


def import_predictions(
    path: str | Path,
    dataset: Dataset,
    controls: anndata.AnnData,
    missing_perturbations: Missing = "refuse",
    missing_genes: Missing = "refuse",
    *,
    write: Write,
) -> dict[str, Any]:
    """Read the predictions of another program, twice: to check all of them, then to write them condition by condition.

    Genes are put into the order of ``controls``; genes that only the file has are left out. Rows of control cells and
    of conditions that are not tested are left out too, and listed: predictions are always compared with the measured
    control. What is missing is refused, or taken to be unchanged: a missing condition gets its drawn control cells with
    the control mean as their mean, a missing gene its control mean in every cell. Both are listed.

    Parameters
    ----------
    path
        An h5ad: rows are cells or pseudo-bulks, ``X`` is log1p of counts scaled to ``dataset.target_sum``. Where
        several contexts are tested, ``obs["context"]`` has that of each row, as cells.h5ad calls it.
    dataset
        Its row in the data-set table, with the columns that say how this file names things (``perturbation_column``,
        ``control_label``, ``combination_separator``, ``guide_prefix``, ``guide_suffix``, ``gene_symbol_column``) set to
        the file's.
    controls
        ``controls.h5ad``, whose X may stay on disk.
    missing_perturbations, missing_genes
        What to do where the file lacks a test condition, or a gene of ``controls``.
    write
        Is given the predicted cells of each condition, sorted.

    Returns
    -------
    Entries of the method record, with the file's SHA-256 and everything that was filled or left out.

    Raises
    ------
    InputError
        For missing parts that may not be filled, no contexts where several are tested, a gene twice, values that are
        not finite, or another scale than that of the control cells: counts, another logarithm or target sum, changes
        instead of expression.
    """
    file = open_h5ad(path, uns=["method"])
    if dataset.perturbation_column not in file.obs:
        found = ", ".join(map(str, file.obs.columns)) or "no column"
        raise InputError(path, "obs", found, f"the column {dataset.perturbation_column!r}")
    control_means = control_means_of(controls)
    tested = [*control_means]
    labels = perturbation_names(file.obs[dataset.perturbation_column], dataset, path)
    of_file = pd.DataFrame({"perturbation": labels, "context": _contexts(path, file.obs, contexts_of(controls.obs))})
    rows_of_file = rows_of(of_file)
    own_rows = {condition: rows_of_file.get(condition, np.empty(0, dtype=int)) for condition in tested}
    without = [condition for condition, own in own_rows.items() if len(own) == 0]
    if without and (missing_perturbations == "refuse" or len(without) == len(tested)):
        found = f"no row of {len(without)} of {len(tested)} test conditions, such as {without[0].label!r}"
        raise InputError(path, f"obs[{dataset.perturbation_column!r}]", found, "every test condition")
    columns = _columns_of_genes(path, file, dataset.gene_symbol_column, controls.var_names)
    absent = columns < 0
    if absent.any() and (missing_genes == "refuse" or absent.all()):
        found = f"{absent.sum()} of {len(columns)} genes missing, such as {controls.var_names[absent.argmax()]!r}"
        raise InputError(path, "var", found, "every gene of cells.h5ad")
    predicted = [condition for condition in tested if condition not in without]
    n_rows = np.array([len(own_rows[condition]) for condition in predicted])
    means = _checked_means(path, file.X, codes_of(of_file, predicted), columns[~absent], dataset.target_sum)
    mean_of = dict(zip(predicted, means, strict=True))
    expected_near = np.stack([control_means[condition] for condition in predicted])[:, ~absent]
    _check_scale(path, means, expected_near, dataset.target_sum, predicted)

    drawn_of = rows_of(controls.obs)
    control_names, contexts = controls.obs["control_cell"].astype(str).to_numpy(), context_of(controls.obs).to_numpy()
    partners = file.obs.get("control_cell", pd.Series("", index=file.obs_names)).astype(str).to_numpy()
    written = 0
    for condition, given in _by_condition(file.X, {condition: own_rows[condition] for condition in tested}):
        n, drawn = len(own_rows[condition]), controls.obs.iloc[drawn_of[condition]]
        control_mean = control_means[condition]
        weights, own_names = drawn["weight"].to_numpy(), control_names[drawn_of[condition]]
        if n > 1:
            block = np.tile(control_mean.astype(np.float32), (n, 1))
            block[:, ~absent] = given.toarray()[:, columns[~absent]]
            named = partners[own_rows[condition]]
            here = control_names[contexts == condition.context]  # a cell of another context has the depth of that one
            partner = np.where(np.isin(named, here), named, np.resize(own_names, n))
            type_of = drawn.set_index(drawn["control_cell"].astype(str))["cell_type"].astype(str)
            weights = np.ones(n)
            if np.isin(named, type_of.index).all():
                shares = drawn["weight"].groupby(drawn["cell_type"].astype(str)).sum()
                weights = type_weights(type_of[named].to_numpy(), shares)
        else:
            shift = np.zeros(len(columns))
            if n == 1:
                shift[~absent] = mean_of[condition] - control_mean[~absent]
            block = anchored_cells(dense_rows(controls.X, drawn_of[condition]), weights, control_mean, shift)
            partner = own_names
        index = range(written, written := written + len(block))
        write(block, pd.DataFrame({**condition._asdict(), "control_cell": partner, "weight": weights}, index=index))
    imported = Imported(
        file=Path(path).name,
        sha256=sha256(path),
        made_by=str(file.uns["method"]) if "method" in file.uns else None,
        perturbations_given_as_cells=int((n_rows > 1).sum()),
        perturbations_given_as_pseudobulk=int((n_rows == 1).sum()),
        genes_taken_as_unchanged=tuple(sorted(controls.var_names[absent])),
        perturbations_left_out=tuple(c.label for c in conditions_of(of_file) if c not in control_means),
        control_rows_left_out=int((labels == CONTROL).sum()),
    )
    return {"imported": imported, "fallbacks": dict.fromkeys(without, ("not predicted", "taken as no change"))}


def _contexts(path: str | Path, obs: pd.DataFrame, tested: list[str]) -> np.ndarray:
    """Find the context of each row; that of the data set where it has one only and the file says nothing.

    Where the data set declares none, a column of this name means something else.
    """
    if "context" in obs and tested != [ALL_CONTEXTS]:
        return obs["context"].astype(str).to_numpy(dtype=object)
    if len(tested) > 1:
        found = ", ".join(map(str, obs.columns)) or "no column"
        raise InputError(path, "obs", found, f"the column 'context', with {tested[0]!r} and the like")
    return np.full(len(obs), tested[0], dtype=object)


def _columns_of_genes(path: str | Path, file: anndata.AnnData, column: str | None, genes: pd.Index) -> np.ndarray:
    """Where each of ``genes`` stands in the file; -1 where it does not."""
    if column is not None and column not in file.var:
        raise InputError(path, "var", ", ".join(map(str, file.var.columns)) or "no column", f"the column {column!r}")
    symbols = pd.Index((file.var_names if column is None else file.var[column]).astype(str))
    twice = symbols[symbols.duplicated() & symbols.isin(genes)]
    if len(twice):
        raise InputError(path, "var", f"the gene {twice[0]!r} more than once", "every gene once")
    if symbols.has_duplicates:
        symbols = symbols.where(symbols.isin(genes), [f"not a gene, column {i}" for i in range(len(symbols))])
    return symbols.get_indexer(genes)


def _checked_means(path: str | Path, X: Any, codes: np.ndarray, columns: np.ndarray, target_sum: float) -> np.ndarray:
    """Average the rows of each condition, float64 [conditions x columns]; refuse values that are no log1p values.

    ``codes`` is the condition of each row; -1 is not read.
    """
    sums, lowest, highest, wrong, whole = np.zeros((codes.max() + 1, len(columns))), 0.0, 0.0, 0, True
    for start, chunk in row_chunks(X, read=codes >= 0):
        own = codes[start : start + chunk.shape[0]]
        part = chunk[own >= 0][:, columns]
        values = part.data if sparse.issparse(part) else part
        wrong += int((~np.isfinite(values)).sum())
        if values.size and not wrong:
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            whole = whole and bool((values == np.rint(values)).all())
        add_rows(sums, part, own[own >= 0])
    if wrong:
        raise InputError(path, "X", f"{wrong} NaN or infinite values", "finite predictions")
    limit = np.log1p(target_sum)
    if lowest < -limit:  # models may predict a little less than zero
        found = f"{lowest:.3g}, below -log1p({target_sum:g}) = {-limit:.3g}"
        raise InputError(path, "X", found, _wanted(target_sum))
    if highest > 1 and whole:
        raise InputError(path, "X", f"whole numbers up to {highest:g}, as counts are", _wanted(target_sum))
    return sums / np.bincount(codes[codes >= 0], minlength=len(sums))[:, None]


def _by_condition(
    X: Any, rows_of_conditions: dict[Condition, np.ndarray]
) -> Iterator[tuple[Condition, sparse.csr_matrix]]:
    """Yield the rows of each condition; those of many conditions are read together, since they may lie anywhere."""
    own = [*rows_of_conditions.items()]
    for batch in batches([len(numbers) for _, numbers in own], X.shape[1]):
        given, start = rows(X, np.concatenate([numbers for _, numbers in own[batch]])), 0
        for condition, numbers in own[batch]:
            yield condition, given[start : start + len(numbers)]
            start += len(numbers)


def _check_scale(
    path: str | Path, means: np.ndarray, control: np.ndarray, target_sum: float, conditions: list[Condition]
) -> None:
    """Refuse pseudo-bulks [conditions x genes] that cannot be in the scale of ``control``."""
    highest = means.max()
    if highest > np.log1p(target_sum):
        found = f"a mean of {highest:.3g}, above log1p({target_sum:g}) = {np.log1p(target_sum):.3g}"
        raise InputError(path, "X", found, _wanted(target_sum))
    slopes = (means * control).sum(axis=1) / np.square(control).sum(axis=1)
    slope = np.median(slopes)
    with np.errstate(over="ignore"):
        total = np.median(np.expm1(means).sum(axis=1) / np.expm1(control).sum(axis=1))
    if not (SLOPE[0] <= slope <= SLOPE[1] and TOTAL[0] <= total <= TOTAL[1]):
        found = f"values {slope:.3g} times those of control cells (totals of counts {total:.3g} times)"
        raise InputError(path, "X", found, f"{_wanted(target_sum)} (both near 1)")
    for condition, slope in zip(conditions, slopes, strict=True):
        if not SLOPE_OF_ONE[0] <= slope <= SLOPE_OF_ONE[1]:
            found = f"values {slope:.3g} times those of control cells"
            raise InputError(path, f"X, perturbation {condition.label!r}", found, f"{_wanted(target_sum)} (near 1)")


def _wanted(target_sum: float) -> str:
    return f"log1p of counts scaled to {target_sum:g} per cell, as in cells.h5ad"
