"""Whatever comes in, cells.h5ad has one form; what contradicts the data-set table is refused."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.data.catalogue import Dataset, read_datasets
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.readers import read
from scgpt_bench.errors import InputError

DATASETS = read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")
ROW = Dataset(
    name="drop",
    address="drop.h5ad",
    format="h5ad",
    values="counts",
    target_sum=100.0,
    perturbation_column="label",
    control_label="ctrl",
    perturbation_kind="interference",
    combination_separator="+",
)
GENES = ["FOS", "JUN", "STAT1", "ACTB", "GAPDH", "CD19"]
LABELS = ["ctrl"] * 8 + ["STAT1+ctrl"] * 4 + ["JUN+FOS"] * 4 + ["MYC"] * 4


@pytest.fixture
def drop():
    """20 cells x 6 genes of counts, every cell with counts; one combination, one target that is not measured."""
    counts = np.random.default_rng(1).poisson(2.0, (20, 6)).astype(float)
    counts[:, 3] += 1
    cells = pd.DataFrame(
        {"label": LABELS, "lane": ["l1", "l2"] * 10, "line": "K562"}, index=[f"c{i}" for i in range(20)]
    )
    return anndata.AnnData(counts, obs=cells, var=pd.DataFrame(index=GENES))


def run(adata, row=ROW, **options):
    return harmonize(adata, row, **{"minimum_cells": 2, **options})


def test_counts_become_what_scanpy_makes_of_them(drop):
    result = run(drop)
    scanpy.pp.normalize_total(drop, target_sum=100)
    scanpy.pp.log1p(drop)
    assert isinstance(result.X, sparse.csr_matrix)
    assert result.X.dtype == np.float32
    np.testing.assert_allclose(result.X.toarray(), drop.X, rtol=1e-6)
    np.testing.assert_allclose(np.expm1(result.X.toarray()).sum(axis=1), 100, rtol=1e-5)


@pytest.mark.parametrize(
    "form",
    [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.int64, np.uint16, np.float32],
    ids=lambda form: form.__name__,
)
def test_the_form_of_the_matrix_does_not_matter(drop, form):
    expected = run(drop)
    drop.X = drop.X.astype(form) if isinstance(form, type) and issubclass(form, np.generic) else form(drop.X)
    result = run(drop)
    for found, wanted in [(result.X, expected.X), (result.layers["counts"], expected.layers["counts"])]:
        assert isinstance(found, sparse.csr_matrix)
        np.testing.assert_array_equal(found.toarray(), wanted.toarray())


def test_the_input_is_left_as_it_was(drop):
    drop.X = sparse.csr_matrix(drop.X)
    drop.X.data[:5] = 0
    before = drop.copy()
    run(drop, maximum_genes=2)
    np.testing.assert_array_equal(drop.X.data, before.X.data)
    pd.testing.assert_frame_equal(drop.obs, before.obs)


def test_log_values_stay_and_have_no_counts(drop):
    counts = run(drop)
    drop.X = np.asarray(counts.X.toarray(), dtype=np.float64)
    result = run(drop, replace(ROW, values="log1p"))
    np.testing.assert_array_equal(result.X.toarray(), counts.X.toarray())
    assert "counts" not in result.layers


def test_annotations_have_the_contracts_names(drop):
    result = run(drop, replace(ROW, batch_column="lane", cell_type_column="line"))
    assert result.obs["perturbation"].value_counts().to_dict() == {"control": 8, "STAT1": 4, "FOS+JUN": 4, "MYC": 4}
    assert list(result.obs["batch"][:2]) == ["l1", "l2"]
    assert set(result.obs["cell_type"]) == {"K562"}
    assert list(result.obs) == ["perturbation", "batch", "cell_type"]


def test_a_label_with_a_guide_suffix_is_kept_as_the_guide(drop):
    drop.obs["label"] = ["ctrl"] * 10 + ["STAT1g1"] * 5 + ["STAT1g2"] * 5
    result = run(drop, replace(ROW, guide_suffix=r"g\d+$"))
    assert set(result.obs["perturbation"]) == {"control", "STAT1"}
    assert set(result.obs["guide"]) == {"ctrl", "STAT1g1", "STAT1g2"}


def test_symbols_come_from_their_column_and_identifiers_are_kept(drop):
    drop.var = pd.DataFrame({"symbol": [*GENES[:5], None]}, index=[f"ENSG{i:011d}" for i in range(6)])
    result = run(drop, replace(ROW, gene_symbol_column="symbol"))
    assert list(result.var_names) == [*GENES[:5], "ENSG00000000005"]
    assert result.var["gene_id"]["FOS"] == "ENSG00000000000"
    assert "1 genes without a symbol" in result.uns["harmonized"]["repairs"][0]


def test_rare_perturbations_and_empty_cells_are_dropped_and_listed(drop):
    drop.obs.loc["c19", "label"] = "CD19"
    drop.X[0] = 0
    understood = run(drop).uns["harmonized"]
    assert list(understood["dropped_perturbations"]) == ["CD19"]
    assert list(understood["repairs"]) == ["1 cells without any count dropped"]
    assert understood["n_controls"] == 7
    assert (understood["n_perturbations"], understood["n_combinations"]) == (3, 1)
    assert list(understood["targets_measured"]) == ["FOS", "JUN", "STAT1"]
    assert list(understood["targets_not_measured"]) == ["MYC"]


def test_controls_stay_however_few(drop):
    drop.obs["label"] = ["ctrl"] * 2 + ["STAT1"] * 18
    assert run(drop, minimum_cells=3).uns["harmonized"]["n_controls"] == 2


def test_duplicate_cell_names_are_made_unique(drop):
    drop.obs_names = ["same", "same", *drop.obs_names[2:]]
    result = run(drop)
    assert result.obs_names.is_unique
    assert len(result.uns["harmonized"]["repairs"]) == 1


def test_variable_genes_are_chosen_without_a_look_at_perturbed_cells(mirror):
    row = DATASETS["papalexi_2021"]
    adata = read(mirror / "papalexi_2021" / "lowmoi_example_data.rda", row)
    chosen = run(adata, row, maximum_genes=50)
    perturbed = (adata.obs["perturbation"] != "non-targeting").to_numpy()
    shuffled = adata.copy()
    shuffled.X = adata.X.toarray()
    shuffled.X[perturbed] = shuffled.X[perturbed][:, ::-1]
    assert list(run(shuffled, row, maximum_genes=50).var_names) == list(chosen.var_names)
    targets = set(chosen.uns["harmonized"]["targets_measured"])
    assert len(targets) == 9
    assert targets <= set(chosen.var_names)
    assert 50 <= chosen.n_vars <= 59
    # Scaled over all genes of the file, not over those kept.
    kept = run(adata, row)[:, chosen.var_names]
    assert (kept.X != chosen.X).nnz == 0


def test_the_real_papalexi_cells_share_the_interferon_response(mirror):
    row = DATASETS["papalexi_2021"]
    cells = run(read(mirror / "papalexi_2021" / "lowmoi_example_data.rda", row), row)
    assert cells.shape == (16192, 299)
    assert cells.uns["harmonized"]["read"]["n_cells_without_guide"] == 20729 - 16192
    names = cells.obs["perturbation"].astype(str)
    mean = {name: np.asarray(cells[(names == name).to_numpy()].X.mean(axis=0)).ravel() for name in set(names)}
    deltas = pd.DataFrame(
        {g: mean[g] - mean["control"] for g in ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]}, cells.var_names
    )
    assert deltas.corr().min().min() > 0.9
    assert (deltas.loc[["PSMB9", "STAT1", "UBE2L6"]] < -0.1).all().all()


def test_the_real_perturbench_file_keeps_its_log_values_and_sorts_its_pairs(mirror):
    row = DATASETS["perturbench_devel"]
    adata = read(mirror / "perturbench_devel" / "devel.h5ad", row)
    cells = run(adata, row)
    np.testing.assert_array_equal(cells.X.toarray(), adata.X.toarray().astype(np.float32))
    assert "KLF1+SET" in cells.obs["perturbation"].cat.categories
    assert cells.uns["harmonized"]["n_combinations"] == 15
    assert cells.obs["cell_type"].nunique() == 4


def test_the_result_survives_the_disk(drop, tmp_path):
    drop.obs.loc["c19", "label"] = "CD19"
    result = run(drop)
    files.write_h5ad(result, tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert (again.X != result.X).nnz == 0
    assert again.X.dtype == np.float32
    assert list(again.uns["harmonized"]["dropped_perturbations"]) == ["CD19"]
    assert list(again.uns["harmonized"]["repairs"]) == []
    assert list(again.obs["perturbation"]) == list(result.obs["perturbation"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_a_value_that_is_no_expression_is_named(drop, value, form):
    drop.X[4, 2] = value
    drop.X = form(drop.X)
    with pytest.raises(InputError, match=r"gene 'STAT1', cell 'c4'"):
        run(drop)


def test_values_that_are_not_what_the_row_says_are_refused(drop):
    logs = run(drop).X.toarray().astype(np.float64)
    log_row = replace(ROW, values="log1p")
    with pytest.raises(InputError, match=r"integers only.* 'counts'"):
        run(drop, log_row)
    drop.X = logs
    with pytest.raises(InputError, match=r"gene '\w+', cell 'c0'.*'log1p'"):
        run(drop)
    with pytest.raises(InputError, match="expm1 summing to 100"):
        run(drop, replace(log_row, target_sum=90.0))
    drop.X[3, 1] = 15.5
    with pytest.raises(InputError, match=r"gene 'JUN', cell 'c3': found 15.5"):
        run(drop, log_row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perturbation_column": "gene"}, r"no column 'gene' \(columns: 'label', 'lane', 'line'\)"),
        ({"batch_column": "gem"}, r"no column 'gem' \(columns: 'label', 'lane', 'line'\)"),
        ({"gene_symbol_column": "symbol"}, r"var: found no column 'symbol' \(columns: none\)"),
        ({"control_label": "NT"}, r"no control; most frequent: 'ctrl' \(8\), .*expected control cells labelled 'NT'"),
        ({"combination_separator": "_"}, r"the label 'STAT1\+ctrl', a combination or one gene"),
    ],
)
def test_a_row_that_does_not_fit_the_file_is_refused(drop, change, message):
    with pytest.raises(InputError, match=message) as error:
        run(drop, replace(ROW, **change))
    assert error.value.source == "drop.h5ad"


def test_genes_without_unique_symbols_are_refused(drop):
    drop.var_names = ["FOS", "FOS", *GENES[2:]]
    with pytest.raises(InputError, match="1 duplicate gene names: 'FOS'"):
        run(drop)
    drop.var = pd.DataFrame({"feature": GENES}, index=[f"ENSG{i:011d}.3" for i in range(6)])
    with pytest.raises(InputError, match=r"Ensembl identifiers.*columns of var: 'feature'"):
        run(drop)


def test_a_cell_without_a_batch_is_named(drop):
    drop.obs.loc["c7", "lane"] = None
    with pytest.raises(InputError, match=r"obs\['lane'\] of cell 'c7'"):
        run(drop, replace(ROW, batch_column="lane"))


def test_a_drop_with_nothing_to_learn_from_is_refused(drop):
    with pytest.raises(InputError, match="0 cells x 6 genes"):
        run(drop[:0])
    with pytest.raises(InputError, match="nothing but zeros"):
        run(anndata.AnnData(np.zeros(drop.shape), obs=drop.obs, var=drop.var))
    with pytest.raises(InputError, match=r"3 perturbations of at most 4 cells; expected .*at least 5 cells"):
        run(drop, minimum_cells=5)
    drop.X[:8] = 0
    with pytest.raises(InputError, match="no control cell with any count"):
        run(drop)
