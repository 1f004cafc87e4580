"""Files for the Virtual Cell Challenge, and whether they keep to its published limits.

- 2025: ``.vcc``, a tar of ``pred.h5ad.zst`` and ``watermark.txt``, made by ``cell-eval prep`` (cell-eval 0.8.2): log1p
  values, ``obs["target_gene"]``, control cells included.
- 2026: one h5ad of whole counts for all contexts (cell lines), ``obs["target_gene"]`` and ``obs["context"]``, no
  control cells.

Every limit is an argument, so that it can be tested small and changed when the organizers change it.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.conditions import contexts_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.official.cell_eval import refuse_another_scale
from scgpt_bench.evaluation.official.sides import NON_TARGETING, TARGET, predicted_counts
from scgpt_bench.files import atomic_write

CONTEXT = "context"
VCC_MEMBERS = ["pred.h5ad.zst", "watermark.txt"]


@dataclass(frozen=True)
class Limits2025:
    genes: int = 18_080
    cells: int = 200_000  # at most, control cells included


@dataclass(frozen=True)
class Limits2026:
    genes: int = 18_533
    cells: int = 360_000  # exactly
    counts_per_cell: int = 1_000_000
    stored_entries: int = 4_750_000_000


def read_genes(path: str | Path, number: int) -> list[str]:
    """Read the challenge's list of genes: one per line, no header."""
    genes = pd.read_csv(path, header=None, keep_default_na=False, dtype=str)[0].tolist()
    if len(genes) != number:
        raise InputError(path, "rows", f"{len(genes)} genes", f"{number}")
    if len(set(genes)) != number:
        twice = next(gene for gene in genes if genes.count(gene) > 1)
        raise InputError(path, "rows", f"{twice!r} more than once", "every gene once")
    return genes


def in_order(adata: anndata.AnnData, genes: Sequence[str], source: str) -> anndata.AnnData:
    """Select the challenge's genes in its order; others are left out.

    Raises
    ------
    InputError
        For a gene that was not predicted: a submission must not invent it.
    """
    missing = pd.Index(genes).difference(adata.var_names, sort=False)
    if len(missing):
        raise InputError(
            source, "var_names", f"{len(missing)} genes missing, {missing[0]!r} first", f"all {len(genes)} genes"
        )
    return adata[:, list(genes)].copy()


# 2025


def write_2025(
    predicted: anndata.AnnData, genes: str | Path, path: str | Path, limits: Limits2025 = Limits2025()
) -> None:
    """Write ``.vcc`` with ``cell-eval prep``, then read it back and check it.

    Parameters
    ----------
    predicted
        The predicted side of ``sides.log_sides``: predicted and control cells, log1p.
    genes
        The challenge's ``gene_names.csv``.
    """
    names = read_genes(genes, limits.genes)
    predicted = in_order(predicted, names, "predictions.h5ad")
    check_2025(predicted, names, "predictions.h5ad", limits)
    with TemporaryDirectory() as folder, atomic_write(path) as partial:
        cells = Path(folder) / "cells.h5ad"
        predicted.write_h5ad(cells)
        command = [sys.executable, "-m", "cell_eval", "prep", "--input", str(cells), "--genes", str(genes)]
        command += ["--pert-col", TARGET, "--ntc-name", NON_TARGETING, "--output", str(partial)]
        command += ["--expected-gene-dim", str(limits.genes), "--max-cell-dim", str(limits.cells)]
        subprocess.run(command, check=True)
        check_vcc(partial, names, limits)


def check_2025(adata: anndata.AnnData, genes: Sequence[str], source: str, limits: Limits2025 = Limits2025()) -> None:
    """Refuse cells that the challenge of 2025 would refuse, or take for something else."""
    _check_genes(adata, genes, source)
    _check_column(adata, TARGET, source)
    if adata.n_obs > limits.cells:
        raise InputError(source, "obs", f"{adata.n_obs} cells", f"at most {limits.cells}, control cells included")
    if not (adata.obs[TARGET] == NON_TARGETING).any():
        raise InputError(source, f"obs[{TARGET!r}]", "no control cell", f"cells of {NON_TARGETING!r}")
    refuse_another_scale(adata, source)


def check_vcc(path: str | Path, genes: Sequence[str], limits: Limits2025 = Limits2025()) -> None:
    """Unpack ``.vcc`` and check what it holds."""
    with TemporaryDirectory() as folder:
        with tarfile.open(path) as archive:
            if sorted(archive.getnames()) != VCC_MEMBERS:
                raise InputError(path, "members", ", ".join(archive.getnames()) or "none", ", ".join(VCC_MEMBERS))
            archive.extractall(folder, filter="data")
        subprocess.run(["zstd", "--quiet", "--decompress", str(Path(folder) / VCC_MEMBERS[0])], check=True)
        check_2025(anndata.read_h5ad(Path(folder) / "pred.h5ad"), genes, str(path), limits)


# 2026


def cells_2026(parts: Mapping[str, tuple[anndata.AnnData, anndata.AnnData]], genes: Sequence[str]) -> anndata.AnnData:
    """Whole counts of the predicted cells of all contexts, genes in the challenge's order.

    Parameters
    ----------
    parts
        For each context ``cells.h5ad`` (whose control cells give the depth) and ``predictions.h5ad``.

    Returns
    -------
    X: CSR int32; obs: ``target_gene``, ``context``.
    """
    blocks = []
    for context, (cells, predictions) in parts.items():
        if len(declared := contexts_of(predictions.obs)) > 1:
            found = f"{len(declared)} contexts ({declared[0]}, {declared[1]}, ...)"
            raise InputError(f"submission, context {context!r}", "data set", found, "a data set of one context")
        obs = pd.DataFrame(
            {TARGET: predictions.obs["perturbation"].astype(str).to_numpy(), CONTEXT: context},
            index=context + ":" + predictions.obs_names.astype(str),
        )
        X = predicted_counts(cells, predictions).astype(np.int32)
        block = anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=predictions.var_names))
        blocks.append(in_order(block, genes, f"predictions.h5ad of context {context!r}"))
    return anndata.concat(blocks)


def write_2026(
    parts: Mapping[str, tuple[anndata.AnnData, anndata.AnnData]],
    genes: str | Path,
    path: str | Path,
    limits: Limits2026 = Limits2026(),
) -> None:
    """Write the upload of 2026, if it keeps to the limits; ``parts`` as in :func:`cells_2026`."""
    names = read_genes(genes, limits.genes)
    adata = cells_2026(parts, names)
    check_2026(adata, names, "predictions.h5ad", limits)
    with atomic_write(path) as partial:
        adata.write_h5ad(partial, compression="gzip")


def check_2026(adata: anndata.AnnData, genes: Sequence[str], source: str, limits: Limits2026 = Limits2026()) -> None:
    """Refuse cells that the challenge of 2026 would refuse."""
    _check_genes(adata, genes, source)
    for column in (TARGET, CONTEXT):
        _check_column(adata, column, source)
    if adata.n_obs != limits.cells:
        raise InputError(source, "obs", f"{adata.n_obs} cells", f"{limits.cells}")
    controls = int((adata.obs[TARGET] == NON_TARGETING).sum())
    if controls:
        raise InputError(source, f"obs[{TARGET!r}]", f"{controls} control cells", "predicted cells only")
    values = adata.X.data if sparse.issparse(adata.X) else adata.X
    if not (np.isfinite(values).all() and (values >= 0).all() and (values == np.rint(values)).all()):
        raise InputError(source, "X", "values that are not whole, or below 0", "raw counts")
    stored = adata.X.nnz if sparse.issparse(adata.X) else adata.X.size
    if stored > limits.stored_entries:
        raise InputError(source, "X", f"{stored} stored entries", f"at most {limits.stored_entries}")
    depths = np.asarray(adata.X.sum(axis=1, dtype=np.float64)).ravel()
    if (depths > limits.counts_per_cell).any():
        cell = int(np.argmax(depths))
        found = f"{depths[cell]:.0f} counts"
        raise InputError(source, f"cell {adata.obs_names[cell]!r}", found, f"at most {limits.counts_per_cell} a cell")


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
