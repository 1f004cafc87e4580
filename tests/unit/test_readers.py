"""Readers give what the file holds, on the real files where they are at hand."""

import gzip
import zipfile
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scipy import sparse

from scgpt_bench.data.catalogue import FORMATS, read_datasets
from scgpt_bench.data.download import fetch
from scgpt_bench.data.on_disk import row_chunks
from scgpt_bench.data.readers import READER_NOTES, READERS, read
from scgpt_bench.errors import InputError

DATASETS = read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")
PAPALEXI = DATASETS["papalexi_2021"]


def test_every_format_of_the_catalogue_has_a_reader():
    assert set(READERS) == set(FORMATS)


def test_papalexi_has_the_published_cells_controls_and_targets(papalexi_file):
    adata = read(papalexi_file, PAPALEXI)
    cells = adata.obs["perturbation"].value_counts()
    assert adata.shape == (16192, 299)
    assert cells["non-targeting"] == 1923
    assert len(cells) == 26
    assert cells["SPI1"] == cells.min() == 33
    assert cells.drop("non-targeting").idxmax() == "IFNGR1"
    assert cells["IFNGR1"] == 1064
    assert adata.obs["bio_rep"].nunique() == 3
    assert adata.uns[READER_NOTES]["n_cells_in_file"] == 20729
    assert (adata.X.data == np.rint(adata.X.data)).all()


def test_a_guide_and_its_target_agree(papalexi_file):
    pairs = read(papalexi_file, PAPALEXI).obs[["guide", "perturbation"]].drop_duplicates()
    target = dict(zip(pairs["guide"], pairs["perturbation"], strict=True))
    assert target["STAT1g2"] == "STAT1"
    assert target["NTg10"] == "non-targeting"


def test_stricter_guide_calls_keep_a_part_of_the_same_cells(papalexi_file):
    called, strict = (read(papalexi_file, PAPALEXI, minimum_guide_umis=n) for n in (5, 50))
    assert 0 < strict.n_obs < called.n_obs
    same = called[strict.obs_names]
    assert (same.X != strict.X).nnz == 0
    assert (same.obs["guide"] == strict.obs["guide"]).all()


@pytest.mark.parametrize("option", [{"minimum_guide_share": 0.5}, {"minimum_guide_umis": 0}, {"minimum_umis": 5}])
def test_options_that_call_no_single_guide_or_do_not_exist_are_refused(option):
    with pytest.raises(InputError, match="option"):
        read("absent.rda", PAPALEXI, **option)


def test_an_h5ad_is_read_as_it_is(perturbench_file):
    adata = read(perturbench_file, DATASETS["perturbench_devel"])
    assert adata.shape == (5961, 500)
    assert (adata.obs["condition"] == "control").sum() == 400


def test_an_option_concerns_only_the_formats_that_have_it(tmp_path):
    anndata.AnnData(np.eye(3)).write_h5ad(tmp_path / "cells.h5ad")
    assert read(tmp_path / "cells.h5ad", DATASETS["planted"], minimum_guide_umis=5).shape == (3, 3)


def test_generated_data_are_an_h5ad(tmp_path):
    anndata.AnnData(np.eye(3)).write_h5ad(tmp_path / "cells.h5ad")
    assert read(tmp_path / "cells.h5ad", DATASETS["planted"]).shape == (3, 3)


@pytest.mark.parametrize("name", ["papalexi_2021", "perturbench_devel"])
def test_a_file_of_another_format_is_refused(tmp_path, name):
    path = tmp_path / "drop"
    path.write_text("<html>are you a robot?</html>")
    with pytest.raises(InputError, match=str(path)):
        read(path, DATASETS[name])


def row(kind, **columns):
    """A row of the data-set table for a file of this format."""
    return replace(DATASETS["perturbench_devel"], name="drop", address="drop", format=kind, values="counts", **columns)


def cells_of_genes(n=12, genes=("FOS", "JUN", "STAT1")):
    counts = np.arange(n * len(genes), dtype=np.float32).reshape(n, -1) % 7
    obs = pd.DataFrame({"label": ["ctrl", "FOS", "JUN"] * (n // 3)}, index=[f"cell{i}-1" for i in range(n)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(genes)))


def values(adata):
    return sparse.vstack([chunk for _, chunk in row_chunks(adata.X)]).toarray()


def test_an_h5ad_stays_on_disk_and_its_layers_are_not_read(tmp_path):
    adata = cells_of_genes()
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    opened = read(tmp_path / "cells.h5ad", row("h5ad"))
    assert not isinstance(opened.X, np.ndarray | sparse.spmatrix)
    assert not opened.layers
    np.testing.assert_array_equal(values(opened), adata.X.toarray())


def test_the_rna_of_an_h5mu_has_the_annotations_of_the_whole_file(tmp_path):
    """The layout of MuData 0.3: ``mod/<modality>`` beside ``obs`` and ``var`` of the union."""
    adata = cells_of_genes()
    with h5py.File(tmp_path / "drop.h5mu", "w") as file:
        for name, modality in {"rna": adata, "protein": adata[:, :1].copy()}.items():
            anndata.io.write_elem(file, f"mod/{name}", modality)
        shared = pd.DataFrame({"lane": ["l1", "l2"] * 6}, index=adata.obs_names)[::-1]
        anndata.io.write_elem(file, "obs", shared)
    opened = read(tmp_path / "drop.h5mu", row("h5mu"))
    np.testing.assert_array_equal(values(opened), adata.X.toarray())
    assert list(opened.obs["label"]) == list(adata.obs["label"])
    assert list(opened.obs["lane"]) == ["l1", "l2"] * 6
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"found an AnnData file; expected a MuData file .*; format 'h5ad'"):
        read(tmp_path / "cells.h5ad", row("h5mu"))


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_gives_its_one_h5ad_and_no_name_in_it_is_a_path(tmp_path):
    adata = cells_of_genes()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    content = (tmp_path / "cells.h5ad").read_bytes()
    inside = tmp_path / "inside"
    inside.mkdir()
    path = zipped(inside / "drop.zip", **{"../../escaped.h5ad": content, "norman/readme.txt": b"", "../escaped": b""})
    opened = read(path, row("zip_h5ad"))
    np.testing.assert_array_equal(values(opened), adata.X.toarray())
    assert [entry.name for entry in inside.iterdir()] == ["drop.zip"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cells.h5ad", "inside"]
    for members, found in [({"a.h5ad": content, "b.h5ad": content}, "'a.h5ad', 'b.h5ad'"), ({"a": b""}, "zip of 'a'")]:
        with pytest.raises(InputError, match=found):
            read(zipped(tmp_path / "other.zip", **members), row("zip_h5ad"))


def test_a_zip_that_broke_off_is_refused(tmp_path):
    cells_of_genes().write_h5ad(tmp_path / "cells.h5ad")
    path = zipped(tmp_path / "drop.zip", **{"cells.h5ad": (tmp_path / "cells.h5ad").read_bytes()})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"drop\.zip"):
        read(path, row("zip_h5ad"))
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"drop\.zip"):
        read(path, row("zip_h5ad"))


FEATURES = [("ENSG1", "FOS"), ("ENSG2", "JUN"), ("ENSG3", "FOS"), ("FOS_1", "FOS_1"), ("NT_1", "NT_1")]
KINDS = ["Gene Expression"] * 3 + ["CRISPR Guide Capture"] * 2
BARCODES = [f"AAAC{i}-1" for i in range(4)]
COUNTS = np.array([[3, 0, 1, 9, 0], [2, 2, 0, 0, 7], [1, 1, 1, 5, 5], [0, 4, 2, 0, 0]], dtype=np.int32)
CALLS = "cell_barcode,num_features,feature_call,num_umis\nAAAC0-1,1,FOS_1,9\nAAAC2-1,2,FOS_1|NT_1,5|5\n"


def tenx_h5(path):
    """As Cell Ranger 3 and later write it: features x cells in compressed columns."""
    matrix = sparse.csc_matrix(COUNTS.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = matrix.shape
        group["barcodes"] = np.array(BARCODES, dtype="S")
        features = group.create_group("features")
        features["id"] = np.array([identifier for identifier, _ in FEATURES], dtype="S")
        features["name"] = np.array([name for _, name in FEATURES], dtype="S")
        features["feature_type"] = np.array(KINDS, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 3 + [""] * 2, dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")
    return path


def tenx_folder(folder, calls=None):
    """As Cell Ranger 3 and later write it."""
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, sparse.coo_matrix(COUNTS.T))
    lines = {
        "features.tsv.gz": [
            f"{identifier}\t{name}\t{kind}" for (identifier, name), kind in zip(FEATURES, KINDS, strict=True)
        ],
        "barcodes.tsv.gz": BARCODES,
    }
    for name, content in lines.items():
        with gzip.open(folder / name, "wt") as file:
            file.write("\n".join(content) + "\n")
    if calls:
        (folder / "protospacer_calls_per_cell.csv").write_text(calls)
    fetch(str(folder), None, folder.with_suffix(".zip"), form="10x_mtx")
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("kind", ["10x_h5", "10x_mtx"])
def test_10x_calls_guides_from_their_counts(tmp_path, kind):
    path = tenx_h5(tmp_path / "drop.h5") if kind == "10x_h5" else tenx_folder(tmp_path / "drop")
    adata = read(path, row(kind))
    assert list(adata.obs_names) == BARCODES[:2]  # the third has two guides, the fourth none
    assert list(adata.obs["guide"]) == ["FOS_1", "NT_1"]
    assert list(adata.var_names) == [name for _, name in FEATURES]
    assert list(adata.var["gene_ids"]) == [identifier for identifier, _ in FEATURES]
    assert list(adata.var["feature_types"]) == KINDS
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS[:2])
    assert adata.uns[READER_NOTES]["n_cells_without_guide"] == 2


@pytest.mark.parametrize(
    ("name", "position", "value", "found"),
    [
        ("indices", -1, 10**6, "indices must be < 5"),
        ("indices", -1, -5, "indices must be >= 0"),
        ("indices", -1, 2 * 10**9, "indices must be < 5"),
        ("indptr", 1, 10**6, "indptr must be a non-decreasing sequence"),
        ("indptr", -1, 10**6, "the size of index and data arrays"),
        ("indptr", -1, -5, "indptr must be a non-decreasing sequence"),
    ],
)
def test_10x_indices_that_lead_elsewhere_are_refused(tmp_path, name, position, value, found):
    path = tenx_h5(tmp_path / "drop.h5")
    with h5py.File(path, "r+") as file:
        file["matrix"][name][position] = value
    with pytest.raises(InputError, match=rf"drop\.h5.*{found}"):
        read(path, row("10x_h5"))


def test_10x_values_from_another_file_are_refused(tmp_path):
    path, other = tenx_h5(tmp_path / "drop.h5"), tenx_h5(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        del file["matrix/data"]
        file["matrix/data"] = h5py.ExternalLink(other, "matrix/data")
    with pytest.raises(InputError, match="/matrix/data: found a ExternalLink"):
        read(path, row("10x_h5"))


@pytest.mark.parametrize("kind", ["10x_h5", "10x_mtx"])
def test_10x_takes_guides_from_a_call_table(tmp_path, kind):
    (tmp_path / "calls.csv").write_text(CALLS)
    if kind == "10x_h5":
        adata = read(tenx_h5(tmp_path / "drop.h5"), row(kind, guide_table=str(tmp_path / "calls.csv")))
    else:
        adata = read(tenx_folder(tmp_path / "drop", CALLS), row(kind))
    assert dict(zip(adata.obs_names, adata.obs["guide"], strict=True)) == {"AAAC0-1": "FOS_1", "AAAC2-1": "FOS_1|NT_1"}
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS[[0, 2]])


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ("barcode,guide\nAAAC0-1,FOS_1\n", "cell_barcode and feature_call"),
        (CALLS.replace("-1,", "-9,"), "'AAAC0-9'"),
        (CALLS + "AAAC0-1,1,NT_1,3\n", "a second time"),
    ],
)
def test_a_call_table_that_does_not_fit_is_refused(tmp_path, calls, found):
    (tmp_path / "calls.csv").write_text(calls)
    with pytest.raises(InputError, match=found):
        read(tenx_h5(tmp_path / "drop.h5"), row("10x_h5", guide_table=str(tmp_path / "calls.csv")))


def test_a_folder_of_10x_without_a_matrix_is_refused(tmp_path):
    path = zipped(tmp_path / "drop.zip", **{"a/features.tsv.gz": b"", "a/barcodes.tsv.gz": b""})
    with pytest.raises(InputError, match=r"a zip of 'a/features\.tsv\.gz', .*matrix\.mtx"):
        read(path, row("10x_mtx"))
