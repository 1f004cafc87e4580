"""What an h5ad may be: every type of value, old and new layouts, damage where it matters and where it does not."""

import dataclasses
import gzip
import io
import tarfile
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scipy import sparse

from scgpt_bench.configuration import defaults
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.readers import read
from scgpt_bench.description import describe
from scgpt_bench.errors import InputError

GENES = [f"G{number}" for number in range(8)]
LABELS = np.array(["NT", "G0", "G1"] * 30)
COUNTS = np.random.default_rng(0).poisson(2, (90, 8)) + np.eye(8, dtype=int)[np.arange(90) % 8]
NAMED = {"perturbation_column": "gene", "control_label": "NT", "batch_column": "lane"}
ROW = Dataset(
    name="drop",
    address="drop",
    format="h5ad",
    values="counts",
    target_sum=100.0,
    perturbation_kind="activation",
    **NAMED,
)


def screen(X=None):
    obs = pd.DataFrame({"gene": pd.Categorical(LABELS), "lane": ["1", "2", "1", "2"] * 22 + ["1", "2"]})
    obs.index = [f"cell{number}" for number in range(90)]
    X = sparse.csr_matrix(COUNTS.astype(np.float32)) if X is None else X
    return anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=GENES))


def written(path, adata=None, change=lambda file: None, **options):
    (adata or screen()).write_h5ad(path, **options)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def both(path):
    """The harmonized cells, and what checking says."""
    cells = harmonize(read(path, ROW), ROW, minimum_cells=5, source=path)
    return cells, describe(read(path, ROW), ROW, defaults(), source=path)


def assert_is_the_screen(path):
    cells, text = both(path)
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), COUNTS)
    assert list(cells.obs["perturbation"]) == ["control" if label == "NT" else label for label in LABELS]
    assert list(cells.var_names) == GENES
    assert "counts: every value is an integer" in text


def assert_refused(path, *parts):
    """By harmonizing and by checking, in the same line."""
    lines = []
    for job, options in ((harmonize, {"minimum_cells": 5}), (describe, {"config": defaults()})):
        with pytest.raises(InputError) as error:
            job(read(path, ROW), ROW, source=path, **options)
        lines.append(str(error.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]
    for part in (str(path), *parts):
        assert part in lines[0]


FORMS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}
KINDS = ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2", "g", "i1", "u1", ">i2", "<u2", "<i4", ">i4", "<u4", "<i8", ">u8"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_every_type_of_number_in_every_form(tmp_path, form, kind):
    def retype(file):
        group, name = (file, "X") if form == "dense" else (file["X"], "data")
        values, attributes = group[name][()], dict(group[name].attrs)
        del group[name]
        group.create_dataset(name, data=values.astype(kind)).attrs.update(attributes)

    path = written(tmp_path / "drop.h5ad", screen(FORMS[form](COUNTS.astype(np.float32))), retype)
    assert_is_the_screen(path)


@pytest.mark.parametrize("kind", [">i4", "<i8", "u2", ">u8"])
def test_indices_of_every_type_of_integer(tmp_path, kind):
    def retype(file):
        for name in ("indices", "indptr"):
            values = file["X"][name][:]
            del file["X"][name]
            file["X"][name] = values.astype(kind)

    assert_is_the_screen(written(tmp_path / "drop.h5ad", change=retype))


@pytest.mark.parametrize("form", FORMS)
def test_booleans_are_counts_of_one(tmp_path, form):
    path = written(tmp_path / "drop.h5ad", screen(FORMS[form](COUNTS > 1)))
    cells, _ = both(path)
    kept = (COUNTS > 1).any(axis=1)
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), (COUNTS > 1)[kept])


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_entries_that_are_unsorted_or_twice_are_summed_beyond_their_own_type(tmp_path, form):
    """Counts in halves, each stored in one byte: 2 x 100 does not fit into it."""
    counts = COUNTS.copy()
    counts[0, 0] = 200
    whole = FORMS[form](counts)
    halves = [whole.data // 2, whole.data - whole.data // 2]
    data, indices = np.stack(halves, axis=1).ravel(), np.repeat(whole.indices, 2)
    pointers = whole.indptr * 2

    def store(file):
        for name, values in {"data": data.astype("i1"), "indices": indices, "indptr": pointers}.items():
            del file["X"][name]
            file["X"][name] = values

    path = written(tmp_path / "drop.h5ad", screen(FORMS[form](COUNTS.astype(np.float32))), store)
    cells, _ = both(path)
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), counts)


# Values that are none, and matrices that are broken.


def replaced(name, values):
    def change(file):
        attributes, new = dict(file[name].attrs), values(file) if callable(values) else values
        del file[name]
        file[name] = new
        file[name].attrs.update(attributes)

    return change


COMPOUND = np.zeros((90, 8), dtype=[("value", "f4"), ("error", "f4")])


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (COUNTS * 1j, "values of type complex128"),
        (COMPOUND, "values of type [('value', '<f4'), ('error', '<f4')]"),
        (COUNTS.astype("S2"), "values of type |S2"),
        (COUNTS[:, :7], "a matrix of 90 x 7; expected 90 x 8"),
        (COUNTS[:80], "a matrix of 80 x 8; expected 90 x 8"),
        (COUNTS.ravel(), "a matrix of 720; expected 90 x 8"),
    ],
)
def test_a_dense_matrix_that_is_no_matrix_of_numbers(tmp_path, values, found):
    path = written(tmp_path / "drop.h5ad", screen(COUNTS.astype(np.float32)), replaced("X", values))
    assert_refused(path, "X: found", found)


def at(name, position, value):
    def change(file):
        file[name][position] = value

    return change


def shortened(name):
    return replaced(name, lambda file: file[name][:-1])


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (at("X/indices", 5, 10**6), "indices must be <"),
        (at("X/indices", 5, -1), "indices must be >= 0"),
        (at("X/indptr", 3, 10**6), "non-decreasing"),
        (at("X/indptr", 0, 2), "from 0"),
        (at("X/indptr", -1, 10**6), "ends at 1000000"),
        (shortened("X/indptr"), "index pointer size"),
        (shortened("X/data"), "values at"),
        (replaced("X/indices", lambda file: file["X/indices"][:].astype("f4")), "indices of type float32"),
        (replaced("X/data", lambda file: file["X/data"][:] * 1j), "values of type complex64"),
    ],
)
def test_a_sparse_matrix_that_is_broken(tmp_path, form, change, found):
    path = written(tmp_path / "drop.h5ad", screen(FORMS[form](COUNTS.astype(np.float32))), change)
    assert_refused(path, "X: found", found)


def test_a_group_that_is_no_matrix(tmp_path):
    path = written(tmp_path / "drop.h5ad", change=lambda file: file["X"].attrs.update({"encoding-type": "dict"}))
    assert_refused(path, "X: found a group of encoding 'dict'")


def spoil(path, name):
    """Flip a bit in the middle of the first chunk: compressed data no longer unpack."""
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    for offset in range(chunk.size // 2, min(chunk.size // 2 + 8, chunk.size)):
        content[chunk.byte_offset + offset] ^= 0xFF
    path.write_bytes(content)
    return path


def gzipped(path, adata=None, **stored):
    """With every data set that has room for it compressed and checked."""
    adata = adata or screen()

    def compress(file):
        for name, values in stored.items():
            replaced(name.replace("__", "/"), values)(file)

        def visit(name, entry):
            if isinstance(entry, h5py.Dataset) and entry.shape and entry.dtype.kind in "biuf":
                names.append(name)

        names = []
        file.visititems(visit)
        for name in names:
            values, attributes = file[name][()], dict(file[name].attrs)
            del file[name]
            made = file.create_dataset(name, data=values, chunks=True, compression="gzip", fletcher32=True)
            made.attrs.update(attributes)

    return written(path, adata, compress)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_chunk_of_values(tmp_path, form):
    path = gzipped(tmp_path / "drop.h5ad", screen(FORMS[form](COUNTS.astype(np.float32))))
    assert_is_the_screen(path)
    assert_refused(
        spoil(path, "X" if form == "dense" else "X/data"),
        "file: found OSError",
        "undamaged" if form != "csc" else "AnnData",
    )


@pytest.mark.parametrize("name", ["X/indices", "X/indptr", "obs/gene/codes"])
def test_a_damaged_chunk_elsewhere(tmp_path, name):
    path = spoil(gzipped(tmp_path / "drop.h5ad"), name)
    assert_refused(path, "OSError")


def test_codes_that_lead_to_no_category(tmp_path):
    path = written(tmp_path / "drop.h5ad", change=at("obs/gene/codes", 5, 100))
    assert_refused(path, "obs['gene']: found", "codes")


def unknown_filter(file, name, code=32015):
    """``name`` as hdf5plugin would write it, with chunks as they are: what matters is the answer to the filter."""
    values, attributes = file[name][:], dict(file[name].attrs)
    parent, _, own = name.rpartition("/")
    del file[name]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(values.shape)
    properties.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple(values.shape)
    made = h5py.h5d.create(file[parent or "/"].id, own.encode(), h5py.h5t.py_create(values.dtype), space, properties)
    made.write_direct_chunk((0,) * values.ndim, values.tobytes(), filter_mask=0)
    file[name].attrs.update(attributes)


@pytest.mark.parametrize(
    ("form", "name"),
    [("csr", "X/data"), ("csr", "X/indices"), ("csc", "X/data"), ("dense", "X"), ("csr", "obs/gene/codes")],
)
@pytest.mark.parametrize(
    ("code", "called"), [(32015, "zstd"), (32001, "blosc"), (32026, "blosc2"), (40000, "a filter")]
)
def test_a_compression_that_is_not_at_hand_is_named_with_the_way_out(tmp_path, form, name, code, called):
    adata = screen(FORMS[form](COUNTS.astype(np.float32)))
    path = written(tmp_path / "drop.h5ad", adata, lambda file: unknown_filter(file, name, code))
    assert_refused(
        path, f"compression by {called} (HDF5 filter {code})", "import hdf5plugin, anndata", "compression='gzip'"
    )


# What is not used.


def unknown(parent, name):
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": "of-the-future", "encoding-version": "9.9.9"})


def further(file):
    """Columns that nothing names: of a kind that nobody knows, too short, of two dimensions."""
    unknown(file["obs"], "future")
    file["obs/short"], file["obs/wide"] = np.zeros(3), np.zeros((90, 2))
    for name in ("future", "short", "wide"):
        file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], name]
    unknown(file["var"], "other")
    file["var"].attrs["column-order"] = np.array(["other"], dtype=object)


def raw(file):
    file.copy("X", "raw/X")
    file["raw/X/indices"][3] = 10**6


def null(file):
    made = file["uns"].create_dataset("empty", data=h5py.Empty("f4"))
    made.attrs.update({"encoding-type": "null", "encoding-version": "9"})


UNUSED = {
    "uns of the future": lambda file: unknown(file["uns"], "future"),
    "uns null": null,
    "uns missing": lambda file: file.pop("uns"),
    "uns with a link": lambda file: file["uns"].update(link=h5py.ExternalLink("absent.h5", "/X")),
    "obsm of the future": lambda file: unknown(file["obsm"], "X_pca"),
    "obsm too short": lambda file: file["obsm"].update(X_pca=np.zeros((3, 2))),
    "obsp, varm, varp missing": lambda file: [file.pop(name) for name in ("obsp", "varm", "varp", "layers")],
    "layers broken": lambda file: file["layers"].update(spliced=np.zeros((3, 3))),
    "raw broken": raw,
    "other groups": lambda file: file.update({"__DATA_TYPES__/enum": np.dtype("i4"), "mine": np.zeros(3)}),
    "columns of the future": further,
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSED)
def test_what_is_not_used_may_be_anything(tmp_path, what):
    assert_is_the_screen(written(tmp_path / "drop.h5ad", change=UNUSED[what]))


@pytest.mark.parametrize("name", ["uns/pca/variance", "obsm/X_pca", "layers/spliced/data", "obs/depth"])
def test_what_is_not_used_may_be_damaged_or_in_another_compression(tmp_path, name):
    adata = screen()
    adata.uns["pca"] = {"variance": np.random.default_rng(0).normal(size=500)}
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(90, 4))
    adata.layers["spliced"] = adata.X.copy()
    adata.obs["depth"] = np.random.default_rng(0).normal(size=90)
    assert_is_the_screen(spoil(gzipped(tmp_path / "drop.h5ad", adata), name))
    assert_is_the_screen(written(tmp_path / "other.h5ad", adata, lambda file: unknown_filter(file, name)))


def test_a_layer_is_read_in_place_of_x_which_may_be_damaged(tmp_path):
    adata = screen()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X * 0.5
    row = dataclasses.replace(ROW, layer="counts")
    path = spoil(gzipped(tmp_path / "drop.h5ad", adata), "X/data")
    np.testing.assert_array_equal(read(path, row).X[:].toarray(), adata.layers["counts"].toarray())
    packed = tmp_path / "drop.h5ad.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    unpacked = read(packed, dataclasses.replace(row, format="gz_h5ad"))
    np.testing.assert_array_equal(unpacked.X[:].toarray(), adata.layers["counts"].toarray())
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".unpacked")] == []
    with pytest.raises(InputError, match=r"layers\['spliced'\]: found nothing; expected a matrix"):
        read(path, dataclasses.replace(row, layer="spliced"))
    packed.write_bytes(packed.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"drop\.h5ad\.gz: file: .*; expected a whole file"):
        read(packed, dataclasses.replace(row, format="gz_h5ad"))


def test_a_column_that_is_used_and_unknown_is_named(tmp_path):
    def change(file):
        del file["obs/lane"]
        unknown(file["obs"], "lane")

    assert_refused(written(tmp_path / "drop.h5ad", change=change), "obs['lane']: found", "a column that anndata")


# Old and new layouts.


def as_of_0_7(file):
    """Categories beside the columns, in a group of their own."""
    codes, categories = file["obs/gene/codes"][:], file["obs/gene/categories"][()]
    del file["obs/gene"]
    file["obs"].attrs["encoding-version"] = file["var"].attrs["encoding-version"] = "0.1.0"
    file["obs/__categories/gene"] = categories
    file["obs/gene"] = codes
    file["obs/gene"].attrs["categories"] = file["obs/__categories/gene"].ref


def as_of_h5sparse(file):
    for name in ("encoding-type", "encoding-version"):
        del file["X"].attrs[name]
    file["X"].attrs["h5sparse_format"] = "csr"
    file["X"].attrs["h5sparse_shape"] = file["X"].attrs["shape"]
    del file["X"].attrs["shape"]
    for name in ("encoding-type", "encoding-version"):
        del file.attrs[name]


def in_bytes(file):
    """Text of fixed length, as R and others write it."""
    for name in ("obs/gene/categories", "obs/_index", "var/_index", "obs/lane/categories"):
        values = np.array([text.decode() for text in file[name][()]], dtype="S")
        del file[name]
        file[name] = values


def test_layouts_of_other_times_and_programs(tmp_path):
    for number, change in enumerate([as_of_0_7, as_of_h5sparse, in_bytes]):
        assert_is_the_screen(written(tmp_path / f"drop{number}.h5ad", change=change))


@pytest.mark.parametrize(
    "kind", ["string", "category of strings", "Int64 lane", "boolean lane", ">i4 lane", "float lane"]
)
def test_columns_of_newer_kinds(tmp_path, kind):
    adata, column = screen(), np.arange(90) % 2
    if kind == "string":
        adata.obs["gene"] = pd.array(LABELS, dtype="string")
    elif kind == "category of strings":
        adata.obs["gene"] = pd.Categorical(pd.array(LABELS, dtype="string"))
    else:
        dtype = {"Int64 lane": "Int64", "boolean lane": "boolean", ">i4 lane": "i4", "float lane": "f8"}[kind]
        adata.obs["lane"] = pd.array(column, dtype=dtype)
    with anndata.settings.override(allow_write_nullable_strings=True):
        path = written(tmp_path / "drop.h5ad", adata)
    if kind == ">i4 lane":
        with h5py.File(path, "r+") as file:
            replaced("obs/lane", column.astype(">i4"))(file)
    assert_is_the_screen(path)


def test_tables_from_before_0_7_are_named_with_the_way_to_rewrite_them(tmp_path):
    def change(file):
        del file["obs"]
        file["obs"] = np.array([(b"c", 0)] * 90, dtype=[("index", "S6"), ("gene", "i1")])

    path = written(tmp_path / "drop.h5ad", change=change)
    assert_refused(
        path, "obs: found a table as anndata before 0.7 wrote it", "anndata.read_h5ad('drop.h5ad').write_h5ad"
    )


# Containers that are not h5ad.


def loom(path):
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T
        for name in ("row_attrs", "col_attrs", "layers"):
            file.create_group(name)


def zarr(path):
    path.mkdir()
    (path / "zarr.json").write_text("{}")


def zipped_zarr(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("drop.zarr/.zgroup", "{}")


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("GSM1_matrix.mtx.gz"), io.BytesIO())


def gzipped_tar(path):
    tar(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def tenx(path):
    with h5py.File(path, "w") as file:
        file["matrix/barcodes"], file["matrix/indptr"] = np.array(["A"], dtype="S"), [0, 0]


def molecules(path):
    with h5py.File(path, "w") as file:
        file["barcode_idx"] = [0]


def folder_of_10x(path):
    path.mkdir()
    scipy.io.mmwrite(path / "matrix.mtx", sparse.coo_matrix(COUNTS))


def zipped_h5ad(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("norman/perturb_processed.h5ad", b"")


def content(data):
    return lambda path: path.write_bytes(data)


CONTAINERS = {
    "loom": (loom, "a loom file", "read_loom"),
    "rds": (content(gzip.compress(b"X\n\0\0\0\3")), "an R object (.rds), compressed by gzip", "h5ad"),
    "rds as it is": (content(b"X\n\0\0\0\3\0\4"), "an R object (.rds)", "h5ad"),
    "rda": (content(gzip.compress(b"RDX3\nX\n")), "an R data file (.rda)", "format 'sceptre_rda'"),
    "zarr": (zarr, "a zarr store", "read_zarr"),
    "zipped zarr": (zipped_zarr, "a zipped zarr store", "read_zarr"),
    "10x h5": (tenx, "an HDF5 matrix of 10x", "format '10x_h5'"),
    "molecule_info": (molecules, "molecule_info.h5", "format '10x_h5'"),
    "10x folder": (folder_of_10x, "a folder with a matrix", "format '10x_mtx'"),
    "another folder": (lambda path: path.mkdir(), "a folder of nothing", "AnnData"),
    "zipped h5ad": (zipped_h5ad, "a zip that holds an h5ad", "format 'zip_h5ad'"),
    "gzipped h5ad": (content(gzip.compress(b"\x89HDF\r\n\x1a\n")), "an HDF5 file compressed by gzip", "'gz_h5ad'"),
    "gzipped tar": (gzipped_tar, "a tar archive, compressed by gzip", "unpack"),
    "broken gzip": (content(gzip.compress(b"x" * 9999)[:20]), "a broken gzip file", "AnnData"),
    "csv": (content(b",G0,G1\ncell0,1,2\n"), "a comma-separated table", "h5ad"),
    "tsv in gzip": (content(gzip.compress(b"gene\tcell0\n")), "a tab-separated table, compressed by gzip", "h5ad"),
    "web page": (content(b"\n<!DOCTYPE html><html>"), "a web page (HTML)", "login"),
    "parquet": (content(b"PAR1\x15\x04"), "a Parquet table", "h5ad"),
    "nothing": (content(b""), "an empty file", "AnnData"),
    "LFS": (content(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS", "git lfs pull"),
    "tar": (tar, "a tar archive", "unpack"),
    "mtx": (content(b"%%MatrixMarket matrix coordinate"), "a Matrix Market file", "format '10x_mtx'"),
    "pickle": (content(b"\x80\x04\x95"), "a Python pickle", "AnnData"),
    "text": (content(b"Not found"), "text that begins with 'Not found'", "AnnData"),
    "noise": (content(b"\xff\xfe\x00\x81" * 9), "bytes of no known kind, beginning with ff fe", "AnnData"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_that_is_no_h5ad_is_named(tmp_path, kind):
    make, found, advice = CONTAINERS[kind]
    path = tmp_path / "drop.h5ad"
    make(path)
    assert_refused(path, f"file: found {found}", advice)


# Features that are no genes.

KINDS_OF_10X = ["Gene Expression"] * 8 + ["CRISPR Guide Capture", "Antibody Capture", "Antibody Capture"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("column", "kinds"),
    [
        ("feature_types", KINDS_OF_10X),
        ("feature_types", ["GEX"] * 8 + ["ADT", "ATAC", "ADT"]),
        ("feature_type", ["gene expression"] * 8 + ["Peaks", "Custom", "of the future"]),
        ("feature_biotype", ["gene"] * 8 + ["spike-in"] * 3),
        ("modality", pd.Categorical(["RNA"] * 8 + ["guide", "protein", "HTO"])),
    ],
)
def test_features_that_are_no_genes_are_left_out_and_counted(tmp_path, form, column, kinds):
    """Guides stand first and last, with counts above those of any gene."""
    order = np.r_[8, np.arange(8), 9, 10]
    X = np.hstack([COUNTS, np.full((90, 3), 1000)])[:, order].astype(np.float32)
    var = pd.DataFrame({column: np.asarray(kinds)[order]}, index=np.array([*GENES, "G0_g1", "CD3", "CD4"])[order])
    adata = anndata.AnnData(FORMS[form](X), obs=screen().obs, var=var)
    path = written(tmp_path / "drop.h5ad", adata)
    assert_is_the_screen(path)
    cells, text = both(path)
    np.testing.assert_allclose(np.expm1(cells.X.toarray()).sum(axis=1), 100, rtol=1e-5)
    [repair] = [text for text in cells.uns["harmonized"]["repairs"] if "no genes" in text]
    assert repair.startswith(f"3 features that are no genes left out ({column}): ")
    assert repair in text
    assert cells.uns["harmonized"]["n_genes_read"] == 8


def typed(column, kinds):
    adata = screen()
    adata.var[column] = kinds
    return adata


@pytest.mark.parametrize(("column", "kinds"), [
    ("feature_type", ["protein_coding"] * 6 + ["lncRNA"] * 2),
    ("feature_types", ["Gene Expression"] * 8),
    ("modality", ["x"] * 8),
    ("biotype", ["Antibody Capture"] * 8),
])  # fmt: skip
def test_columns_that_say_something_else_leave_nothing_out(tmp_path, column, kinds):
    path = written(tmp_path / "drop.h5ad", typed(column, kinds))
    assert_is_the_screen(path)
    assert "no genes" not in both(path)[1]


def test_features_of_which_none_is_a_gene_or_one_has_no_type_are_refused(tmp_path):
    path = written(tmp_path / "drop.h5ad", typed("feature_types", ["Antibody Capture"] * 6 + ["Peaks"] * 2))
    assert_refused(path, "var['feature_types']: found only Antibody Capture (6), Peaks (2)", "'Gene Expression'")
    path = written(tmp_path / "other.h5ad", typed("feature_types", ["Gene Expression"] * 7 + [None]))
    assert_refused(path, "var['feature_types'] of 'G7': found no value (1 such features)")
