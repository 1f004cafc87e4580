"""Read a data drop into an AnnData as it is; what it means is harmonize's question.

A new format is one function in ``READERS``. What a reader decided (cells it left out, thresholds) it writes to
``uns[READER_NOTES]``.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.data.catalogue import GENERATED, Dataset
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.errors import InputError

READER_NOTES = "scgpt_bench_reader"


def read(path: str | Path, dataset: Dataset, **options) -> anndata.AnnData:
    """Read the file of ``dataset``: cells x genes, values, labels and genes untouched.

    ``X`` stays on disk where the format allows it (h5ad, h5mu, zip_h5ad): see :mod:`scgpt_bench.data.on_disk`.

    Parameters
    ----------
    options
        Of any reader (``minimum_guide_umis``, ``minimum_guide_share``); each format takes those that concern it.

    Raises
    ------
    InputError
        For a file that is not of this format, or an option that no format has.
    """
    known = {option for reader in READERS.values() for option in _options(reader)} - {"guide_table"}
    unknown = sorted(options.keys() - known)
    if unknown:
        expected = "options among " + ", ".join(sorted(known))
        raise InputError(path, f"options of data set {dataset.name!r}", ", ".join(map(repr, unknown)), expected)
    reader, options = READERS[dataset.format], {**options, "guide_table": dataset.guide_table}
    return reader(Path(path), **{option: options[option] for option in _options(reader) if option in options})


def _options(reader: Callable[..., anndata.AnnData]) -> list[str]:
    return [*inspect.signature(reader).parameters][1:]


def read_h5ad(path: Path) -> anndata.AnnData:
    """An AnnData file; ``X`` stays on disk."""
    return open_h5ad(path)


def read_h5mu(path: Path) -> anndata.AnnData:
    """The modality ``rna`` of a MuData file; annotations of its own, then those that only the whole file has."""
    adata = open_h5ad(path, "mod/rna")
    shared = anndata.io.read_elem(h5py.File(path)["obs"])
    for column in shared.columns.difference(adata.obs.columns):
        adata.obs[column] = shared[column].reindex(adata.obs_names).to_numpy()
    return adata


def read_zip_h5ad(path: Path) -> anndata.AnnData:
    """A zip that holds one h5ad, at any depth, as GEARS publishes its data.

    It is unpacked to a file without a name beside the zip; what a name inside the zip says is never used as a path.
    """
    with _opened_zip(path) as archive:
        members = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".h5ad")]
        members = [entry for entry in members if not entry.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            found = ", ".join(repr(entry.filename) for entry in members) or "no h5ad"
            raise InputError(path, "zip", found, "exactly one file that ends in .h5ad")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unpacked", suffix=".h5ad") as unpacked:
            _unpack(archive, members[0], path, unpacked)
            return open_h5ad(unpacked.name)  # stays open, so that the file lives on without its name


def read_10x_h5(
    path: Path, guide_table: str | None = None, minimum_guide_umis: int = 5, minimum_guide_share: float = 0.8
) -> anndata.AnnData:
    """A feature-barcode matrix of 10x Cell Ranger (HDF5), read as a whole.

    Guides come from ``guide_table`` (Cell Ranger's protospacer_calls_per_cell.csv) or, without one, from the counts of
    the features of type CRISPR Guide Capture, as in :func:`read_sceptre_rda`. Cells without a guide are left out.

    Returns
    -------
    cells x genes of raw UMI counts. obs: ``guide``, several joined by ``|``. var: ``gene_ids``.
    """
    import scanpy  # seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that symbols are not unique is harmonize's question
        try:
            with h5py.File(path) as file:
                files.refuse_other_files(path, file, set())
            adata = scanpy.read_10x_h5(path, gex_only=False)
        except InputError:
            raise
        except Exception as error:  # scanpy raises whatever it stumbles over
            raise InputError(path, "file", files.first_line(error), "an HDF5 matrix of 10x") from None
    return _with_guides(path, adata, guide_table, minimum_guide_umis, minimum_guide_share)


_MTX = {
    "matrix.mtx": ("matrix.mtx", "matrix.mtx.gz"),
    "features.tsv": ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz"),
    "barcodes.tsv": ("barcodes.tsv", "barcodes.tsv.gz"),
}
_CALLS = "protospacer_calls_per_cell.csv"


def read_10x_mtx(
    path: Path, guide_table: str | None = None, minimum_guide_umis: int = 5, minimum_guide_share: float = 0.8
) -> anndata.AnnData:
    """A folder of 10x Cell Ranger (matrix, features, barcodes) as a zip, read as a whole; guides as in read_10x_h5.

    The call table may lie in the folder, under the name that Cell Ranger gives it.
    """
    import scanpy  # seconds to import

    with _opened_zip(path) as archive, tempfile.TemporaryDirectory() as folder:
        for what, names in {**_MTX, _CALLS: (_CALLS,)}.items():
            members = [entry for entry in archive.infolist() if PurePosixPath(entry.filename).name in names]
            if len(members) > 1 or (not members and what != _CALLS):
                found = ", ".join(repr(entry.filename) for entry in members) or "none"
                raise InputError(path, what, found, "one file named " + " or ".join(names))
            for member in members:  # written under a name of the list above, never one of the archive
                with Path(folder, PurePosixPath(member.filename).name).open("wb") as unpacked:
                    _unpack(archive, member, path, unpacked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                adata = scanpy.read_10x_mtx(folder, gex_only=False, make_unique=False)
            except Exception as error:  # scanpy raises whatever it stumbles over
                found = files.first_line(error).replace(f"{folder}/", "")
                raise InputError(path, "matrix", found, "matrix, features and barcodes as Cell Ranger writes") from None
        calls = Path(folder, _CALLS)
        table = guide_table or (str(calls) if calls.exists() else None)
        return _with_guides(path, adata, table, minimum_guide_umis, minimum_guide_share)


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(path, "file", str(error), "a zip") from None


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, target: IO[bytes]) -> None:
    try:
        with archive.open(member) as source:
            shutil.copyfileobj(source, target)
        target.flush()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise InputError(path, member.filename, str(error), "a whole file, not encrypted") from None


def _with_guides(
    path: Path, adata: anndata.AnnData, guide_table: str | None, minimum_umis: int, minimum_share: float
) -> anndata.AnnData:
    """The genes of 10x features, and the cells that have a guide."""
    _check_guide_calling(path, minimum_umis, minimum_share)
    files.check_matrix(path, adata.X)  # before its first use: scanpy stores what the file says, unseen
    kinds = adata.var["feature_types"].astype(str) if "feature_types" in adata.var else pd.Series("Gene Expression")
    genes = (kinds == "Gene Expression").to_numpy() if len(kinds) == adata.n_vars else np.ones(adata.n_vars, dtype=bool)
    guides = (kinds == "CRISPR Guide Capture").to_numpy() if len(kinds) == adata.n_vars else ~genes
    if guide_table:
        guide = _called_in_table(guide_table, adata.obs_names)
        notes: dict[str, Any] = {"guide_table": Path(guide_table).name}
    elif guides.any():
        counts = sparse.csr_matrix(adata.X[:, guides])
        called, top = _top_guides(counts, minimum_umis, minimum_share)
        guide = pd.Series(None, index=adata.obs_names, dtype=object)
        guide[called] = adata.var_names[guides].to_numpy()[top[called]]
        notes = {"minimum_guide_umis": minimum_umis, "minimum_guide_share": minimum_share}
    else:
        found = "no feature of type 'CRISPR Guide Capture' and no table of guide calls"
        raise InputError(path, "features", found, f"guide_table in the data-set table, such as {_CALLS}")
    called = guide.notna().to_numpy()
    result = anndata.AnnData(
        sparse.csr_matrix(adata.X[called][:, genes]), obs=adata.obs[called].copy(), var=adata.var[genes].copy()
    )
    result.obs["guide"] = guide[called].to_numpy()
    result.uns[READER_NOTES] = {"n_cells_in_file": len(called), "n_cells_without_guide": int((~called).sum()), **notes}
    return result


def _called_in_table(table: str, cells: pd.Index) -> pd.Series:
    """``feature_call`` of each cell; missing for cells that the table does not name."""
    try:
        calls = pd.read_csv(table, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(table, "file", str(error), "a table of guide calls") from None
    for column in ("cell_barcode", "feature_call"):
        if column not in calls:
            raise InputError(table, "columns", ", ".join(calls.columns), "cell_barcode and feature_call")
    twice = calls["cell_barcode"][calls["cell_barcode"].duplicated()]
    if len(twice):
        raise InputError(table, "cell_barcode", f"{twice.iloc[0]!r} a second time", "every cell once")
    guide = calls.set_index("cell_barcode")["feature_call"].reindex(cells)
    if guide.isna().all():
        found = f"cells such as {calls['cell_barcode'].iloc[0]!r}" if len(calls) else "no row"
        raise InputError(table, "cell_barcode", found, f"cells of the matrix, such as {cells[0]!r}")
    return guide


def _top_guides(
    guide_counts: sparse.csr_matrix, minimum_umis: int, minimum_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which cells have a top guide with enough UMIs, and which it is."""
    total = np.asarray(guide_counts.sum(axis=1)).ravel()
    top_umis = guide_counts.max(axis=1).toarray().ravel()
    called = (top_umis >= minimum_umis) & (top_umis >= minimum_share * total)
    return called, np.asarray(guide_counts.argmax(axis=1)).ravel()


def _check_guide_calling(path: Path, minimum_umis: int, minimum_share: float) -> None:
    if minimum_umis < 1 or not 0.5 < minimum_share <= 1:
        found = f"{minimum_umis} and {minimum_share}"
        expected = "at least 1 UMI and a share above 0.5 up to 1: only then is the guide the only one"
        raise InputError(path, "options minimum_guide_umis and minimum_guide_share", found, expected)


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
    _check_guide_calling(path, minimum_guide_umis, minimum_guide_share)
    content = _r_list(path)
    counts, genes = _r_matrix(path, content, "response_matrix")
    guide_counts, guides = _r_matrix(path, content, "grna_matrix")
    target_table = content["grna_target_data_frame"]
    target = pd.Series(target_table["grna_target"].astype(str).to_numpy(), index=target_table["grna_id"].astype(str))
    without = sorted(set(guides) - set(target.index))
    if without:
        raise InputError(path, "grna_target_data_frame", "no target for " + ", ".join(without[:5]), "one per guide")

    called, top = _top_guides(guide_counts, minimum_guide_umis, minimum_guide_share)
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
    "h5mu": read_h5mu,
    "zip_h5ad": read_zip_h5ad,
    "10x_h5": read_10x_h5,
    "10x_mtx": read_10x_mtx,
    "sceptre_rda": read_sceptre_rda,
    GENERATED: read_h5ad,  # the generator writes an h5ad
}
