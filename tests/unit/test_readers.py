"""Readers give what the file holds, on the real files where they are at hand."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from scgpt_bench.data.catalogue import FORMATS, read_datasets
from scgpt_bench.data.readers import READER_NOTES, READERS, read
from scgpt_bench.errors import InputError

DATASETS = read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")
PAPALEXI = DATASETS["papalexi_2021"]


@pytest.fixture(scope="module")
def papalexi_file(mirror):
    return mirror / "papalexi_2021" / "lowmoi_example_data.rda"


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


def test_an_h5ad_is_read_as_it_is(mirror):
    adata = read(mirror / "perturbench_devel" / "devel.h5ad", DATASETS["perturbench_devel"])
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
