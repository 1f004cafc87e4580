"""Read a data drop into an AnnData as it is; what it means is harmonize's question.

A new format is one function in ``READERS``. What a reader decided (cells it left out, thresholds) it writes to
``uns[READER_NOTES]``.
"""

from __future__ import annotations

import gzip
import inspect
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.data import containers
from scgpt_bench.data.catalogue import GENERATED, Dataset
from scgpt_bench.data.genes import FEATURE_TYPE_COLUMNS
from scgpt_bench.data.on_disk import open_h5ad, read_table
from scgpt_bench.data.tenx import READER_NOTES, check_guide_calling, open_zip, read_10x_h5, read_10x_mtx, top_guides
from scgpt_bench.errors import InputError


def read(path: str | Path, dataset: Dataset, **options) -> anndata.AnnData:
    """Read the file of ``dataset``: cells x genes, values, labels and genes untouched.

    ``X`` stays on disk where the format allows it (:data:`catalogue.WITH_LAYERS`): see :mod:`scgpt_bench.data.on_disk`.

    Parameters
    ----------
    options
        Of any reader (``minimum_guide_umis``, ``minimum_guide_share``); each format takes those that concern it.

    Raises
    ------
    InputError
        For a file that is not of this format, or an option that no format has.
    """
    known = {option for reader in READERS.values() for option in _options(reader)} - {"guide_table", "columns", "layer"}
    unknown = sorted(options.keys() - known)
    if unknown:
        expected = "options among " + ", ".join(sorted(known))
        raise InputError(path, f"options of data set {dataset.name!r}", ", ".join(map(repr, unknown)), expected)
    if Path(path).exists():
        containers.check(path, dataset.format)
    named = {value for field, value in dataset.row.items() if field.endswith("_column") and value}
    columns = named | {*dataset.context_columns} | {*FEATURE_TYPE_COLUMNS}
    reader = READERS[dataset.format]
    options = {**options, "guide_table": dataset.guide_table, "columns": columns, "layer": dataset.layer}
    return reader(Path(path), **{option: options[option] for option in _options(reader) if option in options})


def _options(reader: Callable[..., anndata.AnnData]) -> list[str]:
    return [*inspect.signature(reader).parameters][1:]


def read_h5ad(path: Path, columns: Collection[str] | None = None, layer: str | None = None) -> anndata.AnnData:
    """Read an AnnData file; ``X``, or the layer in its place, stays on disk.

    Of ``obs`` and ``var`` only ``columns`` have to be readable.
    """
    return open_h5ad(path, columns=columns, in_place_of_x=layer)


def read_h5mu(path: Path, columns: Collection[str] | None = None, layer: str | None = None) -> anndata.AnnData:
    """Read the modality ``rna`` of a MuData file: its own annotations, then those that only the whole file has."""
    adata = open_h5ad(path, "mod/rna", columns=columns, in_place_of_x=layer)
    try:
        with h5py.File(path) as file:
            shared = read_table(path, file, "obs", columns)
    except InputError:
        raise
    except Exception as error:  # h5py and anndata raise a dozen types for a broken file
        raise InputError(path, "obs", files.first_line(error), "the annotations of a MuData file") from None
    for column in shared.columns.difference(adata.obs.columns):
        adata.obs[column] = shared[column].reindex(adata.obs_names).to_numpy()
    return adata


def read_zip_h5ad(path: Path, columns: Collection[str] | None = None, layer: str | None = None) -> anndata.AnnData:
    """Read a zip that contains one h5ad, at any depth, as GEARS publishes its data.

    It is unpacked to a file without a name beside the zip; what a name inside the zip says is never used as a path.
    """
    with open_zip(path) as archive:
        members = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".h5ad")]
        members = [entry for entry in members if not entry.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            found = ", ".join(repr(entry.filename) for entry in members) or "no h5ad"
            raise InputError(path, "zip", found, "exactly one file that ends in .h5ad")
        return _unpacked(path, members[0].filename, lambda: archive.open(members[0]), columns, layer)


def read_gz_h5ad(path: Path, columns: Collection[str] | None = None, layer: str | None = None) -> anndata.AnnData:
    """Read an h5ad that was compressed by gzip, as PerturBench publishes; unpacked as that of a zip is."""
    return _unpacked(path, "file", lambda: gzip.open(path), columns, layer)


def _unpacked(
    path: Path,
    member: str,
    source: Callable[[], AbstractContextManager[IO[bytes] | gzip.GzipFile]],
    columns: Collection[str] | None,
    layer: str | None,
) -> anndata.AnnData:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unpacked", suffix=".h5ad") as unpacked:
        try:
            with source() as compressed:
                shutil.copyfileobj(compressed, unpacked)
            unpacked.flush()
        except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, RuntimeError, EOFError) as error:
            raise InputError(path, member, str(error), "a whole file, not encrypted") from None
        # It stays open: the file lives on without its name.
        return open_h5ad(unpacked.name, columns=columns, in_place_of_x=layer)


def read_sceptre_rda(path: Path, minimum_guide_umis: int = 5, minimum_guide_share: float = 0.8) -> anndata.AnnData:
    """Read a low-MOI screen of the R package sceptredata: one R list with response and guide counts.

    The guide of a cell is its top guide, if that has at least ``minimum_guide_umis`` UMIs and at least
    ``minimum_guide_share`` (more than one half) of the cell's guide UMIs. Cells without such a guide are left out.
    Cells are named by their position in the file (``cell_1``, ...), whatever the thresholds.

    Returns
    -------
    cells x genes of raw UMI counts (CSR, float64). obs: ``perturbation`` (the guide's target), ``guide`` and the
    columns of ``extra_covariates``.
    """
    check_guide_calling(path, minimum_guide_umis, minimum_guide_share)
    content = _r_list(path)
    counts, genes = _r_matrix(path, content, "response_matrix")
    guide_counts, guides = _r_matrix(path, content, "grna_matrix")
    target_table = content["grna_target_data_frame"]
    target = pd.Series(target_table["grna_target"].astype(str).to_numpy(), index=target_table["grna_id"].astype(str))
    without = sorted(set(guides) - set(target.index))
    if without:
        raise InputError(path, "grna_target_data_frame", "no target for " + ", ".join(without[:5]), "one per guide")

    called, top = top_guides(guide_counts, minimum_guide_umis, minimum_guide_share)
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
    """Read a dgTMatrix of features x cells as cells x features, and the features' names."""
    matrix = content[key]
    features = matrix.Dimnames[0]
    if features is None:
        raise InputError(path, key, "no row names", "the names of its rows")
    shape = (int(matrix.Dim[1]), int(matrix.Dim[0]))
    return sparse.coo_matrix((matrix.x, (matrix.j, matrix.i)), shape=shape).tocsr(), [*map(str, features)]


READERS: dict[str, Callable[..., anndata.AnnData]] = {
    "h5ad": read_h5ad,
    "h5mu": read_h5mu,
    "zip_h5ad": read_zip_h5ad,
    "gz_h5ad": read_gz_h5ad,
    "10x_h5": read_10x_h5,
    "10x_mtx": read_10x_mtx,
    "sceptre_rda": read_sceptre_rda,
    GENERATED: read_h5ad,  # the generator writes an h5ad
}
