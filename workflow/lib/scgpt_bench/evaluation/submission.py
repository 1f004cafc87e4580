"""Files for the Virtual Cell Challenge, and whether they keep to its published limits.

- 2025: ``.vcc``, a tar of ``pred.h5ad.zst`` and ``watermark.txt``, made by ``cell-eval prep`` (cell-eval 0.8.2): log1p
  values, ``obs["target_gene"]``, control cells included.
- 2026: one h5ad of whole counts for all contexts (cell lines), ``obs["target_gene"]`` and ``obs["context"]``, no
  control cells. ``vcc prep`` (vcc-cli 0.3.0) packs it into a ``.vcc``.

Both are of the predictions for a list of perturbations (:mod:`scgpt_bench.data.unmeasured`) that is the challenge's.
Perturbations are called as the list calls them. Cells are read and written condition by condition: memory does not grow
with their number. Every limit is an argument, so that it can be tested small and changed when the organizers change it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import Condition, listed, rows_of
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import CellWriter, dense_rows, open_h5ad, row_chunks
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.official.cell_eval import refuse_another_scale
from scgpt_bench.evaluation.official.sides import (
    NON_TARGETING,
    TARGET,
    depth_factors_of,
    nonnegative,
    predicted_counts,
    raw_counts,
)
from scgpt_bench.files import atomic_write
from scgpt_bench.options import PUBLISHED_LIMITS

logger = logging.getLogger(__name__)

CONTEXT_COLUMN = "context"
VCC_MEMBERS = ["pred.h5ad.zst", "watermark.txt"]
PREDICTIONS = "predictions.h5ad"


@dataclass(frozen=True)
class Limits:
    """The limits of one year; None where it has no such limit."""

    genes: int
    cells: int  # at most; in 2025 control cells included
    cells_per_perturbation: int | None = None  # exactly, in every context
    counts_per_cell: int | None = None
    stored_entries: int | None = None


def limits_of(challenge: int, changed: Mapping[str, int] | None = None) -> Limits:
    """Give the published limits of a year, with those that a study changes."""
    return Limits(**PUBLISHED_LIMITS[challenge] | dict(changed or {}))


def read_genes(path: str | Path, number: int) -> list[str]:
    """Read the challenge's list of genes: one per line, no header."""
    genes = pd.read_csv(path, header=None, keep_default_na=False, dtype=str)[0].tolist()
    if len(genes) != number:
        raise InputError(path, "rows", f"{len(genes)} genes", f"{number}")
    if len(set(genes)) != number:
        twice = next(gene for gene in genes if genes.count(gene) > 1)
        raise InputError(path, "rows", f"{twice!r} more than once", "every gene once")
    return genes


def columns_of(genes: Sequence[str], var_names: pd.Index, source: str | Path) -> np.ndarray:
    """Find the challenge's genes among those of a prediction, in its order; others are left out.

    Raises
    ------
    InputError
        For a gene that was not predicted: a submission must not invent it.
    """
    columns = var_names.get_indexer(list(genes))
    if (missing := np.flatnonzero(columns < 0)).size:
        found = f"{len(missing)} genes missing, {genes[missing[0]]!r} first"
        raise InputError(source, "var_names", found, f"all {len(genes)} genes")
    return columns


def counts_of_missing(
    genes: Sequence[str], control_cells: Sequence[str], parts: Mapping[str, anndata.AnnData]
) -> sparse.csr_matrix:
    """Read the counts that control cells of a joined data set have of genes that it lacks.

    Parameters
    ----------
    control_cells
        Cells of the joined data set, ``<part>:<cell>``.
    parts
        ``cells.h5ad`` of each part, with all its genes and counts; X and counts may stay on disk.

    Returns
    -------
    CSR float32 [control cells x genes]

    Raises
    ------
    InputError
        For a gene that a part with such a cell has not measured either.
    """
    part_of, _, cells = zip(*(name.partition(":") for name in control_cells), strict=True)
    counts = np.zeros((len(cells), len(genes)), dtype=np.float32)
    for part, own in pd.Series(part_of).groupby([*part_of]).indices.items():
        columns = columns_of(genes, parts[part].var_names, f"parts/{part}/cells.h5ad")
        rows = parts[part].obs_names.get_indexer([cells[row] for row in own])
        counts[own] = rows_of_cells(raw_counts(parts[part]), rows)[:, columns].toarray()
    return sparse.csr_matrix(counts)


def names_in_list(asked: pd.DataFrame, source: str | Path) -> dict[Condition, str]:
    """Give the name that the challenge's list has for each predicted condition.

    Parameters
    ----------
    asked
        ``asked.tsv`` (:func:`scgpt_bench.data.unmeasured.asked`).

    Raises
    ------
    InputError
        Where a line is not predicted: a submission covers its list.
    """
    for given, context, reason in asked.loc[asked["predicted"] != "yes", ["given", "context", "reason"]].values:
        raise InputError(source, f"{given!r} in {context!r}", reason, "a list in which every line is predicted once")
    return dict(zip(listed(asked), asked["given"].astype(str), strict=True))


def _conditions(
    predictions: anndata.AnnData, names: Mapping[Condition, str]
) -> Iterator[tuple[Condition, anndata.AnnData]]:
    """Read the predicted cells of each condition, sorted; refuse what is no prediction of the list."""
    rows = rows_of(predictions.obs)
    if different := sorted(rows.keys() ^ names.keys()):
        found = f"a difference in {different[0].label!r}"
        raise InputError(PREDICTIONS, "obs['perturbation']", found, "the conditions of asked.tsv")
    for condition, own in rows.items():
        obs = predictions.obs.iloc[own]
        if (weights := obs["weight"]).min() < weights.max():
            found = f"weights from {weights.min():.3g} to {weights.max():.3g}"
            expected = "cells that all count alike: a context with enough control cells of each type"
            raise InputError(PREDICTIONS, condition.label, found, expected)
        yield condition, anndata.AnnData(dense_rows(predictions.X, own), obs=obs, var=predictions.var[[]])


# 2025


def write_2025(
    cells: anndata.AnnData,
    predictions: anndata.AnnData,
    asked: pd.DataFrame,
    genes: str | Path,
    path: str | Path,
    limits: Limits,
) -> None:
    """Write ``.vcc`` with ``cell-eval prep``, then read it back and check it.

    Predicted values lose what is below 0 (:func:`sides.nonnegative`). Control cells are those of the half ``input``, as
    for the scorers: what a prediction starts from is what it is compared with.

    Parameters
    ----------
    cells, predictions
        ``cells.h5ad`` and ``predictions.h5ad`` of the list; X may stay on disk.
    asked
        ``asked.tsv`` of the list.
    genes
        The challenge's ``gene_names.csv``.
    """
    wanted = read_genes(genes, limits.genes)
    columns = columns_of(wanted, predictions.var_names, PREDICTIONS)
    names = names_in_list(asked, "asked.tsv")
    contexts = sorted({condition.context for condition in names})
    if len(contexts) > 1:
        raise InputError("asked.tsv", CONTEXT_COLUMN, f"{len(contexts)} contexts ({contexts[0]}, ...)", "one in 2025")
    controls = rows_of(cells.obs)[Condition(CONTROL, contexts[0])]
    kept = np.zeros(cells.n_obs, dtype=bool)
    kept[controls] = is_control_of(cells.obs, INPUT)[controls]
    with TemporaryDirectory(dir=Path(path).parent) as folder, atomic_write(path) as partial:
        unpacked = Path(folder) / "cells.h5ad"
        with CellWriter(unpacked, len(wanted)) as file:
            tables = []
            for condition, block in _conditions(predictions, names):
                X = nonnegative(block.X, np.zeros(block.n_obs))
                file.append(sparse.csr_matrix(X[:, columns]))
                tables.append(pd.DataFrame({TARGET: names[condition]}, index=block.obs_names))
            for start, chunk in row_chunks(cells.X, read=kept):
                file.append(sparse.csr_matrix(chunk[kept[start : start + chunk.shape[0]]])[:, columns])
            tables.append(pd.DataFrame({TARGET: NON_TARGETING}, index=cells.obs_names[kept]))
            file.obs, file.var = pd.concat(tables), pd.DataFrame(index=pd.Index(wanted, dtype=object))
        check_2025(open_h5ad(unpacked), wanted, PREDICTIONS, limits)
        command = [sys.executable, "-m", "cell_eval", "prep", "--input", str(unpacked), "--genes", str(genes)]
        command += ["--pert-col", TARGET, "--ntc-name", NON_TARGETING, "--output", str(partial)]
        command += ["--expected-gene-dim", str(limits.genes), "--max-cell-dim", str(limits.cells)]
        subprocess.run(command, check=True, env={**os.environ, "TMPDIR": folder})
        check_vcc(partial, wanted, limits)


def check_2025(adata: anndata.AnnData, genes: Sequence[str], source: str, limits: Limits) -> None:
    """Refuse cells that the challenge of 2025 would refuse, or take for something else."""
    _check_genes(adata, genes, source)
    _check_column(adata, TARGET, source)
    _check_number(adata, source, limits)
    if not (adata.obs[TARGET] == NON_TARGETING).any():
        raise InputError(source, f"obs[{TARGET!r}]", "no control cell", f"cells of {NON_TARGETING!r}")
    refuse_another_scale(adata, source)


def check_vcc(path: str | Path, genes: Sequence[str], limits: Limits) -> None:
    """Unpack ``.vcc`` and check what it holds."""
    with TemporaryDirectory(dir=Path(path).parent) as folder:
        with tarfile.open(path) as archive:
            if sorted(archive.getnames()) != VCC_MEMBERS:
                raise InputError(path, "members", ", ".join(archive.getnames()) or "none", ", ".join(VCC_MEMBERS))
            archive.extractall(folder, filter="data")
        subprocess.run(["zstd", "--quiet", "--decompress", str(Path(folder) / VCC_MEMBERS[0])], check=True)
        check_2025(open_h5ad(Path(folder) / "pred.h5ad"), genes, str(path), limits)


# 2026


def write_2026(
    cells: anndata.AnnData,
    predictions: anndata.AnnData,
    asked: pd.DataFrame,
    genes: str | Path,
    path: str | Path,
    limits: Limits,
    contexts: Mapping[str, str] | None = None,
    parts: Mapping[str, anndata.AnnData] | None = None,
) -> None:
    """Write the upload of 2026, if it keeps to the limits: whole counts, at the depth of the control cells.

    Counts are those of :func:`sides.predicted_counts`. Float32 holds them exactly, and is what ``vcc prep`` packs.

    Parameters
    ----------
    cells
        ``cells.h5ad`` with its counts, from which the depth is taken.
    predictions, asked, genes
        As in :func:`write_2025`.
    contexts
        What the data set calls each context of the challenge; all of them, if any. Without: as the data set does.
    parts
        Of a joined data set, where genes that it lacks have the counts of control cells (:func:`counts_of_missing`);
        without, such genes are refused.
    """
    wanted = read_genes(genes, limits.genes)
    missing = [gene for gene in wanted if gene not in predictions.var_names] if parts else []
    columns = columns_of(wanted, predictions.var_names.append(pd.Index(missing, dtype=object)), PREDICTIONS)
    names = names_in_list(asked, "asked.tsv")
    called = _contexts_of_challenge(names, contexts or {})
    control_cells = predictions.obs["control_cell"].astype(str)
    factors = pd.Series(depth_factors_of(cells, control_cells), index=predictions.obs_names)
    unpredicted, drawn = None, pd.Index(control_cells.unique())
    if parts and missing:
        logger.warning(
            "%d of %d genes (%s first) are not in the data set: every cell has the counts of its control cell there",
            len(missing), len(wanted), missing[0],
        )  # fmt: skip
        unpredicted = counts_of_missing(missing, drawn, parts)
    with atomic_write(path) as partial:
        with CellWriter(partial, len(wanted)) as file:
            tables = []
            for condition, block in _conditions(predictions, names):
                counts = predicted_counts(block, factors[block.obs_names].to_numpy())
                if unpredicted is not None:
                    own = unpredicted[drawn.get_indexer(control_cells[block.obs_names])]
                    counts = sparse.hstack([counts, own], format="csr")
                file.append(counts[:, columns].sorted_indices())
                context = called[condition.context]
                index = context + ":" + block.obs_names
                tables.append(pd.DataFrame({TARGET: names[condition], CONTEXT_COLUMN: context}, index=index))
            file.obs, file.var = pd.concat(tables), pd.DataFrame(index=pd.Index(wanted, dtype=object))
        check_2026(open_h5ad(partial), wanted, PREDICTIONS, limits)


def _contexts_of_challenge(names: Mapping[Condition, str], contexts: Mapping[str, str]) -> dict[str, str]:
    """Give the challenge's name of each predicted context."""
    predicted = {condition.context for condition in names}
    called = {own: name for name, own in contexts.items()} or {context: context for context in predicted}
    if called.keys() != predicted or len(called) < len(contexts):
        expected = f"each predicted context once: {', '.join(sorted(predicted))}"
        raise InputError("submissions", "contexts", ", ".join(sorted(contexts.values())), expected)
    return called


def check_2026(adata: anndata.AnnData, genes: Sequence[str], source: str, limits: Limits) -> None:
    """Refuse cells that the challenge of 2026 would refuse."""
    _check_genes(adata, genes, source)
    for column in (TARGET, CONTEXT_COLUMN):
        _check_column(adata, column, source)
    _check_number(adata, source, limits)
    if controls := int((adata.obs[TARGET] == NON_TARGETING).sum()):
        raise InputError(source, f"obs[{TARGET!r}]", f"{controls} control cells", "predicted cells only")
    numbers = adata.obs.groupby([TARGET, CONTEXT_COLUMN], observed=True).size()
    for (target, context), number in numbers[numbers != limits.cells_per_perturbation].items():
        raise InputError(source, f"{target!r} in {context!r}", f"{number} cells", f"{limits.cells_per_perturbation}")
    stored = 0
    for start, chunk in row_chunks(adata.X):
        chunk = sparse.csr_matrix(chunk)
        values, stored = chunk.data, stored + chunk.nnz
        if not (np.isfinite(values).all() and (values >= 0).all() and (values == np.rint(values)).all()):
            raise InputError(source, "X", "values that are not whole, or below 0", "raw counts")
        depths = np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel()
        if limits.counts_per_cell is not None and (depths > limits.counts_per_cell).any():
            cell = int(np.argmax(depths))
            name, expected = adata.obs_names[start + cell], f"at most {limits.counts_per_cell} a cell"
            raise InputError(source, f"cell {name!r}", f"{depths[cell]:.0f} counts", expected)
    if limits.stored_entries is not None and stored > limits.stored_entries:
        raise InputError(source, "X", f"{stored} stored entries", f"at most {limits.stored_entries}")


# Both


def _check_genes(adata: anndata.AnnData, genes: Sequence[str], source: str) -> None:
    found = list(adata.var_names)
    if len(found) != len(genes):
        raise InputError(source, "var_names", f"{len(found)} genes", f"{len(genes)}")
    for number, (name, wanted) in enumerate(zip(found, genes, strict=True)):
        if name != wanted:
            raise InputError(source, f"var_names[{number}]", repr(name), f"{wanted!r}, the challenge's order")


def _check_column(adata: anndata.AnnData, column: str, source: str) -> None:
    if column not in adata.obs:
        found = ", ".join(map(str, adata.obs.columns)) or "no columns"
        raise InputError(source, "obs", found, f"the column {column!r}")


def _check_number(adata: anndata.AnnData, source: str, limits: Limits) -> None:
    if adata.n_obs > limits.cells:
        raise InputError(source, "obs", f"{adata.n_obs} cells", f"at most {limits.cells}")
