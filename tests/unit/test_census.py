"""Census as a source of cells: the cells that the filter names, read as they are stored, and never all at once."""

import sys
import types

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiledbsoma
import tiledbsoma.io
import torch

from scgpt_bench.data import planted
from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import census, pretraining, training

VERSION = "2023-05-15"
TISSUES = ["blood", "lung", "st. peter's organ"]
EVERY_CELL = {"disease": None, "primary_only": False}
TINY = pretraining.PretrainingOptions(
    embsize=16, nheads=2, d_hid=16, nlayers=1, dropout=0.0, learning_rate=1e-2, warm_up=2, epochs=2, batch_size=16,
    second_pass_after=None, held_out=0.2,
)  # fmt: skip


@pytest.fixture(scope="session")
def atlas():
    """The planted atlas as Census describes cells: some ill, some from other studies, from three tissues."""
    options = {"modules": 3, "genes_per_module": 8, "targets_per_module": 2, "cells_per_perturbation": 5}
    generated = planted.generate({**options, "control_cells": 20, "atlas_cells": 240, "truth_draws": 10}).atlas
    number = np.arange(generated.n_obs)
    obs = pd.DataFrame(
        {
            "tissue_general": pd.Categorical(np.array(TISSUES)[number % 3]),
            "disease": np.where(number % 5 == 0, "influenza", "normal"),
            "is_primary_data": number % 7 != 0,
            "suspension_type": np.where(number % 2, "cell", "nucleus"),
        },
        index=[f"cell{i}" for i in number],
    )
    names = generated.var_names.to_numpy()
    var = pd.DataFrame({"feature_name": names}, index=[f"ENSG{i:011d}" for i in range(len(names))])
    return anndata.AnnData(generated.X, obs=obs, var=var)


@pytest.fixture(scope="session")
def address(atlas, tmp_path_factory):
    return written(atlas, tmp_path_factory.mktemp("soma"))


def written(cells, folder, layer="raw"):
    path = str(folder / "homo_sapiens")
    tiledbsoma.io.from_anndata(path, cells.copy(), measurement_name="RNA", X_layer_name=layer)
    return path


def opened(address, symbols, **options):
    return census.open_source(census.CensusCells(census_version=VERSION, address=address, **options), symbols)


@pytest.fixture(scope="session")
def symbols(atlas):
    return list(atlas.var["feature_name"])


@pytest.fixture
def whole(address, symbols):
    return opened(address, symbols, **EVERY_CELL, shuffle_run=8, shuffle_buffer=48)


def test_rows_are_the_cells_of_the_anndata_in_the_order_asked_for(whole, atlas):
    index = np.array([200, 3, 3, 77, 0])
    assert whole.rows(index).dtype == np.float32
    assert (whole.rows(index).toarray() == atlas.X[index].toarray()).all()
    assert (whole.rows(np.arange(len(whole))) != atlas.X).nnz == 0


def test_the_default_selection_is_normal_primary_cells_of_all_tissues(address, symbols, atlas):
    source = opened(address, symbols)
    expected = (atlas.obs["disease"] == "normal") & atlas.obs["is_primary_data"]
    assert source.joinids.tolist() == np.flatnonzero(expected).tolist()
    assert (source.rows(np.arange(5)).toarray() == atlas.X[source.joinids[:5]].toarray()).all()


def test_tissues_and_a_further_filter_narrow_the_selection(address, symbols, atlas):
    source = opened(
        address, symbols, **EVERY_CELL, tissues=["st. peter's organ", "lung"],
        obs_filter="suspension_type == 'cell' or suspension_type == 'na'",
    )  # fmt: skip
    expected = atlas.obs["tissue_general"].isin(["st. peter's organ", "lung"]) & (
        atlas.obs["suspension_type"] == "cell"
    )
    assert source.joinids.tolist() == np.flatnonzero(expected).tolist()


def test_genes_are_the_measured_symbols_in_the_order_of_the_vocabulary(address, symbols, atlas):
    vocabulary = ["NOT-MEASURED", symbols[4], symbols[1]]
    source = opened(address, vocabulary, **EVERY_CELL)
    assert source.genes == [symbols[4], symbols[1]]
    assert (source.rows(np.arange(9)).toarray() == atlas.X[:9, [4, 1]].toarray()).all()


def test_features_with_the_same_symbol_are_summed(atlas, symbols, tmp_path):
    twice = atlas[:20].copy()
    twice.var["feature_name"] = [symbols[0], symbols[0], *symbols[2:]]
    source = opened(written(twice, tmp_path), symbols, **EVERY_CELL)
    assert source.genes == [symbols[0], *symbols[2:]]
    assert (source.rows(np.arange(20))[:, 0].toarray() == atlas.X[:20, :2].sum(axis=1)).all()


def test_the_description_tells_one_selection_from_another(address, symbols, whole):
    normal = opened(address, symbols).description()
    assert normal == opened(address, symbols).description()
    assert normal["cells"] < whole.description()["cells"] == 240
    assert normal["soma_joinids_sha256"] != whole.description()["soma_joinids_sha256"]
    assert normal["census_version"] == VERSION
    assert normal["obs_filter"] == "disease == 'normal' and is_primary_data == True"


class Watched:
    """A layer that remembers how many cells each read asked for."""

    def __init__(self, counts):
        self.counts, self.cells = counts, []

    def read(self, coordinates, **options):
        self.cells.append(len(coordinates[0]))
        return self.counts.read(coordinates, **options)


def test_an_epoch_reads_every_cell_once_and_never_more_than_a_buffer(whole):
    whole._counts = Watched(whole._counts)
    rows = np.arange(10, 234)  # 224 cells: 14 batches of 16, in buffers of 3 batches
    batches = whole.batches(rows, 16, 1)
    counts = [batches(0, number) for number in range(14)]
    assert whole._counts.cells == [48, 48, 48, 48, 32]
    assert sorted(batches.order(0).tolist()) == rows.tolist()
    for number, cells in enumerate(counts):
        asked = np.sort(batches.order(0)[number * 16 : (number + 1) * 16])
        assert (cells != whole.rows(asked)).nnz == 0


def test_the_next_buffer_is_read_while_the_batches_of_one_are_used(whole):
    batches = whole.batches(np.arange(224), 16, 1)  # five buffers of 3 batches, the last one of 2
    whole._counts = Watched(whole._counts)
    for number in range(14):
        batches(0, number)
        batches._thread.submit(int).result()  # what was begun before is finished
        assert len(whole._counts.cells) == min(number // 3 + 2, 5)
        assert len(batches._buffers) <= 2


def test_batches_mix_runs_and_differ_from_epoch_to_epoch(whole):
    batches = whole.batches(np.arange(240), 16, 1)
    first = batches.order(0)[:16]
    assert len(set(first // 8)) > 2
    assert len(set(batches.order(0)[:48] // 8)) == 6  # a buffer is 6 whole runs of 8 neighbours
    assert sorted(batches.order(0)) == sorted(batches.order(1))
    assert (batches.order(0) != batches.order(1)).any()
    assert (batches.order(0) != whole.batches(np.arange(240), 16, 2).order(0)).any()


def test_a_batch_depends_on_its_number_alone_so_that_a_restart_goes_on_with_the_same_cells(whole):
    one_after_another = whole.batches(np.arange(240), 16, 1)
    before = [one_after_another(epoch, number) for epoch in range(2) for number in range(15)]
    assert (whole.batches(np.arange(240)[::-1], 16, 1)(1, 7) != before[15 + 7]).nnz == 0


def test_a_selection_that_fits_the_buffer_is_shuffled_as_a_whole(address, symbols):
    source = opened(address, symbols, **EVERY_CELL, shuffle_run=8, shuffle_buffer=240)
    order = source.batches(np.arange(240), 16, 1).order(0)
    assert sorted(order) == list(range(240))
    neighbours_that_stay = (np.diff(order) == 1).mean()
    assert neighbours_that_stay < 0.05


def test_pretraining_on_census_equals_pretraining_on_the_matrix_bit_for_bit(address, symbols, atlas, tmp_path):
    sources = {
        "census": opened(address, symbols, **EVERY_CELL),
        "matrix": pretraining.MatrixSource(atlas.X.tocsr()),
    }
    # 192 cells to train on: 5 steps in each of 2 epochs
    options = TINY.model_copy(update={"batch_size": 38, "epochs": 2})
    tensors = {}
    for name, source in sources.items():
        pretraining.pretrain(source, symbols, tmp_path / name, options, 1, training.Machine("cpu"))
        tensors[name] = torch.load(tmp_path / name / "best_model.pt", weights_only=True)
        assert pd.read_table(tmp_path / name / "history.tsv")["step"].tolist() == [5, 10]
    assert all(torch.equal(tensor, tensors["matrix"][key]) for key, tensor in tensors["census"].items())


def test_a_filter_that_selects_no_cell_shows_itself_and_the_values_that_exist(address, symbols):
    with pytest.raises(InputError, match="no cell") as raised:
        opened(address, symbols, tissues=["spleen"])
    message = str(raised.value)
    assert "tissue_general in ['spleen'] and disease == 'normal' and is_primary_data == True" in message
    assert "tissue_general: blood, lung, st. peter's organ" in message
    assert "disease: influenza, normal" in message


@pytest.mark.parametrize("condition", ["organ == 'lung'", "disease ==", "disease"])
def test_a_filter_that_cannot_be_understood_is_refused_with_the_columns_that_exist(address, symbols, condition):
    with pytest.raises(InputError, match=r"expected a filter on .*tissue_general.*suspension_type") as raised:
        opened(address, symbols, obs_filter=condition)
    assert condition in str(raised.value)


def test_genes_without_overlap_are_refused_with_examples(address, symbols):
    with pytest.raises(InputError, match=f"var feature_name: found none .*{symbols[0]}"):
        opened(address, ["Actb", "Gapdh"])


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_values_that_are_not_counts_are_refused_with_the_cell(atlas, symbols, tmp_path, value):
    faulty = atlas[:30].copy()
    counts = faulty.X.toarray()
    counts[12, 3] = value
    faulty.X = sp.csr_matrix(counts)
    source = opened(written(faulty, tmp_path), symbols, **EVERY_CELL)
    assert source.rows(np.arange(12)).shape == (12, len(symbols))
    with pytest.raises(InputError, match=rf"X\['raw'\] of the cell with soma_joinid 12: found {value}; .*raw counts"):
        source.rows(np.arange(10, 20))


def test_a_missing_layer_column_or_experiment_is_refused(atlas, symbols, tmp_path):
    with pytest.raises(InputError, match=r"ms\['RNA'\].X: found normalized; expected 'raw'"):
        opened(written(atlas[:20], tmp_path / "layer", layer="normalized"), symbols)
    unnamed = atlas[:20].copy()
    del unnamed.var["feature_name"]
    with pytest.raises(InputError, match="expected a column feature_name"):
        opened(written(unnamed, tmp_path / "column"), symbols)
    with pytest.raises(InputError, match="expected a SOMA experiment"):
        opened(str(tmp_path / "nowhere"), symbols)


def test_the_public_census_needs_its_package(symbols, monkeypatch):
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(InputError, match=r"no such package; expected cellxgene-census \(envs/census.yaml\)"):
        opened(None, symbols)


def test_the_public_census_is_opened_at_the_pinned_release(atlas, symbols, tmp_path, monkeypatch):
    written(atlas, tmp_path)
    releases = []

    def open_soma(census_version):
        releases.append(census_version)
        if census_version != VERSION:
            raise ValueError(f'The "{census_version}" Census version is not valid.')
        census_root = tmp_path / "census"
        with tiledbsoma.Collection.create(str(census_root)) as root:
            data = root.add_new_collection("census_data")
            data.set("homo_sapiens", tiledbsoma.Experiment.open(str(tmp_path / "homo_sapiens")), use_relative_uri=False)
        return tiledbsoma.Collection.open(str(census_root))

    package = types.ModuleType("cellxgene_census")
    package.open_soma = open_soma
    package.get_default_soma_context = lambda tiledb_config: tiledbsoma.SOMATileDBContext(tiledb_config=tiledb_config)
    monkeypatch.setitem(sys.modules, "cellxgene_census", package)
    source = opened(None, symbols, **EVERY_CELL)
    assert releases == [VERSION]
    assert source.name == "CELLxGENE Census 2023-05-15"
    assert (source.rows(np.arange(240)) != atlas.X).nnz == 0
    with pytest.raises(InputError, match=r"census_version: found The \"1999-01-01\" Census version is not valid"):
        census.open_source(census.CensusCells(census_version="1999-01-01"), symbols)
