"""Read a data drop into an AnnData as it is; what it means is harmonize's question.

A new format is one function in ``READERS``. What a reader decided (cells it left out, thresholds) it writes to
``uns[READER_NOTES]``.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.data.catalogue import GENERATED, Dataset
from scgpt_bench.errors import InputError

READER_NOTES = "scgpt_bench_reader"


def read(path: str | Path, dataset: Dataset, **options) -> anndata.AnnData:
    """Read the file of ``dataset``: cells x genes, values, labels and genes untouched.

    Parameters
    ----------
    options
        Of any reader (``minimum_guide_umis``, ``minimum_guide_share``); each format takes those that concern it.

    Raises
    ------
    InputError
        For a file that is not of this format, or an option that no format has.
    """
    known = {option for reader in READERS.values() for option in _options(reader)}
    unknown = sorted(options.keys() - known)
    if unknown:
        expected = "options among " + ", ".join(sorted(known))
        raise InputError(path, f"options of data set {dataset.name!r}", ", ".join(map(repr, unknown)), expected)
    reader = READERS[dataset.format]
    return reader(Path(path), **{option: options[option] for option in _options(reader) if option in options})


def _options(reader: Callable[..., anndata.AnnData]) -> list[str]:
    return [*inspect.signature(reader).parameters][1:]


def read_h5ad(path: Path) -> anndata.AnnData:
    """An AnnData file."""
    return files.read_h5ad(path)


def read_sceptre_rda(path: Path, minimum_guide_umis: int = 5, minimum_guide_share: float = 0.8) -> anndata.AnnData:
    """A low-MOI screen of the R package sceptredata: one R list with response and guide counts.

    The guide of a cell is its top guide, if that has at least ``minimum_guide_umis`` UMIs and at least
    ``minimum_guide_share`` (more than one half) of the cell's guide UMIs. Cells without such a guide are left out.
    Cells are called by their position in the file (``cell_1``, ...), whatever the thresholds.

    Returns
    -------
    cells x genes of raw UMI counts (CSR, float64). obs: ``perturbation`` (the guide's target), ``guide`` and the
    columns of ``extra_covariates``.
    """
    if minimum_guide_umis < 1 or not 0.5 < minimum_guide_share <= 1:
        found = f"{minimum_guide_umis} and {minimum_guide_share}"
        expected = "at least 1 UMI and a share above 0.5 up to 1: only then is the guide the only one"
        raise InputError(path, "options minimum_guide_umis and minimum_guide_share", found, expected)
    content = _r_list(path)
    counts, genes = _r_matrix(path, content, "response_matrix")
    guide_counts, guides = _r_matrix(path, content, "grna_matrix")
    target_table = content["grna_target_data_frame"]
    target = pd.Series(target_table["grna_target"].astype(str).to_numpy(), index=target_table["grna_id"].astype(str))
    without = sorted(set(guides) - set(target.index))
    if without:
        raise InputError(path, "grna_target_data_frame", "no target for " + ", ".join(without[:5]), "one per guide")

    total = np.asarray(guide_counts.sum(axis=1)).ravel()
    top = np.asarray(guide_counts.argmax(axis=1)).ravel()
    top_umis = guide_counts.max(axis=1).toarray().ravel()
    called = (top_umis >= minimum_guide_umis) & (top_umis >= minimum_guide_share * total)

    guide = np.asarray(guides)[top[called]]
    obs = content["extra_covariates"].reset_index(drop=True)[called].copy()
    obs.index = [f"cell_{position + 1}" for position in np.flatnonzero(called)]
    obs["guide"] = guide
    obs["perturbation"] = target[guide].to_numpy()
    adata = anndata.AnnData(counts[called], obs=obs, var=pd.DataFrame(index=genes))
    adata.uns[READER_NOTES] = {
        "n_cells_in_file": len(called),
        "n_cells_without_guide": int((~called).sum()),
        "minimum_guide_umis": minimum_guide_umis,
        "minimum_guide_share": minimum_guide_share,
    }
    return adata


def _r_list(path: Path) -> dict:
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that R classes stay R objects is what is wanted here
        try:
            objects = rdata.read_rda(path)
        except Exception as error:  # rdata raises whatever its parser stumbles over
            raise InputError(path, "file", files.first_line(error), "an R data file (.rda)") from None
    content = next(iter(objects.values()), None)
    needed = ["response_matrix", "grna_matrix", "grna_target_data_frame", "extra_covariates"]
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing or content is None:
        raise InputError(path, "R list", "no " + ", ".join(missing), "the entries " + ", ".join(needed))
    return content


def _r_matrix(path: Path, content: dict, key: str) -> tuple[sparse.csr_matrix, list[str]]:
    """A dgTMatrix of features x cells as cells x features, and the features' names."""
    matrix = content[key]
    features = matrix.Dimnames[0]
    if features is None:
        raise InputError(path, key, "no row names", "the names of its rows")
    shape = (int(matrix.Dim[1]), int(matrix.Dim[0]))
    return sparse.coo_matrix((matrix.x, (matrix.j, matrix.i)), shape=shape).tocsr(), [*map(str, features)]


READERS: dict[str, Callable[..., anndata.AnnData]] = {
    "h5ad": read_h5ad,
    "sceptre_rda": read_sceptre_rda,
    GENERATED: read_h5ad,  # the generator writes an h5ad
}
