"""Whatever comes in, cells.h5ad has one form; what contradicts the data-set table is refused."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from scipy import sparse

from scgpt_bench.data.catalogue import Dataset, read_datasets
from scgpt_bench.data.genes import most_variable
from scgpt_bench.data.harmonize import harmonize, write_harmonized
from scgpt_bench.data.on_disk import open_h5ad
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
    assert list(result.obs) == ["perturbation", "direction", "context", "batch", "cell_type", "half", "n_counts"]


@pytest.mark.parametrize("maximum_genes", [None, 2])
def test_counts_of_cells_and_shares_of_genes_are_those_of_the_whole_file(drop, maximum_genes):
    drop.X[:, 3] = 50
    result = run(drop, maximum_genes=maximum_genes)
    np.testing.assert_array_equal(result.obs["n_counts"], drop.X.sum(axis=1))
    largest = result.uns["harmonized"]["largest_shares_of_counts"]
    assert largest["gene"][0] == "ACTB"
    np.testing.assert_allclose(largest["share"], np.sort(drop.X.sum(axis=0) / drop.X.sum())[::-1][:5])


def test_log_values_have_shares_of_their_scale_and_no_counts_per_cell(drop):
    drop.X[:, 3] = 50
    scaled = 100 * drop.X / drop.X.sum(axis=1, keepdims=True)
    drop.X = np.log1p(scaled)
    result = run(drop[:, 1:].copy(), replace(ROW, values="log1p"))
    assert "n_counts" not in result.obs
    share = result.uns["harmonized"]["largest_shares_of_counts"]["share"]
    np.testing.assert_allclose(share[0], scaled[:, 3].mean() / 100)


def test_a_single_control_is_refused_since_there_are_two_halves(drop):
    with pytest.raises(InputError, match="one control cell; expected two control cells or more in every context"):
        run(drop[7:].copy())


def test_a_row_without_a_column_of_perturbations_has_control_cells_only(drop):
    cells = run(drop, replace(ROW, perturbation_column=None, control_label="control", combination_separator=None))
    assert set(cells.obs["perturbation"]) == {"control"}
    assert cells.uns["harmonized"]["n_controls"] == 20
    assert not any("target" in problem for problem in cells.uns["harmonized"]["problems"])
    with pytest.raises(InputError, match=r"0 perturbations of at most 0 cells; expected .* no perturbation_column"):
        run(drop[:8].copy())


def test_few_controls_are_a_problem_to_know_of(drop):
    (problem,) = run(drop).uns["harmonized"]["problems"]
    assert problem.startswith("8 control cells: measured changes and methods get half of them each")


def test_too_few_controls_to_choose_genes_are_named(drop):
    few = drop[6:].copy()
    with pytest.raises(InputError, match=r"control cells: found 2; expected at least 3 to choose genes"):
        run(few, maximum_genes=2)
    assert run(few).n_vars == 6


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_genes_are_named(drop, number):
    with pytest.raises(InputError, match=rf"genes: found {number}; expected at least 3"):
        run(drop[:, :number].copy())


def test_genes_are_not_chosen_by_controls_that_are_alike(drop):
    drop.X[:8] = drop.X[0]
    with pytest.raises(InputError, match="control cells: found no gene that varies among them"):
        run(drop, maximum_genes=2)


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
    assert list(result.uns["harmonized"]["gene_ids_from"]) == ["index"]
    assert "1 genes without a symbol" in result.uns["harmonized"]["repairs"][0]


ID = [f"ENSG{i:011d}" for i in range(6)]


@pytest.mark.parametrize(
    ("columns", "kept", "places"),
    [
        ({"gene_ids": ID}, ID, ["gene_ids"]),  # as scanpy reads 10x
        ({"ensemble_id": [f"{name}.3" for name in ID]}, ID, ["ensemble_id"]),
        ({"feature_id": pd.Categorical(ID), "n_cells": range(6)}, ID, ["feature_id"]),
        # In part, and the rest elsewhere; what only looks like one does not count.
        (
            {"a": [*ID[:2], None, "ENST00000000001", "x", ""], "b": ["FOS", *ID[1:3], "", "", ""]},
            [*ID[:3], "", "", ""],
            ["a", "b"],
        ),
        ({"symbol": GENES, "entrez": [str(i) for i in range(6)]}, None, []),
    ],
)
def test_ensembl_identifiers_are_kept_wherever_the_file_has_them(drop, columns, kept, places):
    drop.var = pd.DataFrame(columns, index=GENES)
    result = run(drop)
    assert result.var.get("gene_id", pd.Series(dtype=object)).tolist() == (kept or [])
    assert list(result.uns["harmonized"]["gene_ids_from"]) == places


def test_identifiers_that_contradict_each_other_are_not_used(drop):
    drop.var = pd.DataFrame({"old": ID, "new": [ID[1], *ID[1:]]}, index=GENES)
    result = run(drop)
    assert result.var["gene_id"].tolist() == ["", *ID[1:]]
    assert "1 genes have different Ensembl identifiers in 'old' and 'new'" in result.uns["harmonized"]["problems"][0]


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


def test_variable_genes_are_chosen_without_a_look_at_perturbed_cells(papalexi_file):
    row = DATASETS["papalexi_2021"]
    adata = read(papalexi_file, row)
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


def test_the_real_papalexi_cells_share_the_interferon_response(papalexi_file):
    row = DATASETS["papalexi_2021"]
    cells = run(read(papalexi_file, row), row)
    assert cells.shape == (16192, 299)
    assert cells.uns["harmonized"]["read"]["n_cells_without_guide"] == 20729 - 16192
    names = cells.obs["perturbation"].astype(str)
    mean = {name: np.asarray(cells[(names == name).to_numpy()].X.mean(axis=0)).ravel() for name in set(names)}
    deltas = pd.DataFrame(
        {g: mean[g] - mean["control"] for g in ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]}, cells.var_names
    )
    assert deltas.corr().min().min() > 0.9
    assert (deltas.loc[["PSMB9", "STAT1", "UBE2L6"]] < -0.1).all().all()


def test_the_real_perturbench_file_keeps_its_log_values_and_sorts_its_pairs(perturbench_file):
    row = DATASETS["perturbench_devel"]
    adata = read(perturbench_file, row)
    cells = run(adata, row)
    np.testing.assert_array_equal(cells.X.toarray(), adata.X.to_memory().toarray().astype(np.float32))
    assert "KLF1+SET" in cells.obs["perturbation"].cat.categories
    assert cells.uns["harmonized"]["n_combinations"] == 15
    assert cells.obs["cell_type"].nunique() == 4


@pytest.mark.parametrize("values", ["counts", "log1p"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_cells_written_by_chunks_from_disk_are_those_in_memory(drop, tmp_path, monkeypatch, form, values):
    if values == "log1p":
        drop.X = run(drop).X.toarray()
    drop.obs.loc["c19", "label"] = "CD19"
    options = {"minimum_cells": 2, "maximum_genes": 3}
    row = replace(ROW, values=values)
    expected = harmonize(drop, row, **options)
    drop.X = form(drop.X)
    drop.write_h5ad(tmp_path / "drop.h5ad")
    monkeypatch.setattr("scgpt_bench.data.on_disk.row_chunks.__defaults__", (7 * 6, None))  # seven cells at once
    write_harmonized(open_h5ad(tmp_path / "drop.h5ad"), row, tmp_path / "cells.h5ad", **options)
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert again.X.dtype == np.float32
    assert again.X.indices.dtype == again.X.indptr.dtype == np.int32
    np.testing.assert_array_equal(again.X.toarray(), expected.X.toarray())
    assert ("counts" in again.layers) == (values == "counts")
    if values == "counts":
        np.testing.assert_array_equal(again.layers["counts"].toarray(), expected.layers["counts"].toarray())
    pd.testing.assert_frame_equal(again.obs, expected.obs)
    assert list(again.var_names) == list(expected.var_names)
    assert list(again.uns["harmonized"]["dropped_perturbations"]) == ["CD19"]
    assert list(again.uns["harmonized"]["repairs"]) == []
    assert again.uns["harmonized"]["values_evidence"] == expected.uns["harmonized"]["values_evidence"]


def test_a_drop_that_is_refused_leaves_no_file(drop, tmp_path):
    drop.X[19, 0] = np.nan
    with pytest.raises(InputError):
        write_harmonized(drop, ROW, tmp_path / "cells.h5ad", minimum_cells=2)
    assert not list(tmp_path.iterdir())


def test_variable_genes_are_those_of_scanpy():
    counts = np.random.default_rng(0).negative_binomial(2, 0.3, (300, 400)) * np.random.default_rng(1).random(400)
    cells = anndata.AnnData(np.log1p(counts))
    theirs = scanpy.pp.highly_variable_genes(cells, n_top_genes=60, flavor="seurat", inplace=False)["highly_variable"]
    chosen = most_variable(counts.mean(axis=0), counts.var(axis=0, ddof=1), 60)
    np.testing.assert_array_equal(chosen, theirs.to_numpy())


def understood(drop, **change):
    """What is said of the drop, but for its few control cells."""
    said = run(drop, replace(ROW, **change)).uns["harmonized"]
    few = "control cells: measured changes and methods get half of them each, fewer than 25"
    return {**said, "problems": [problem for problem in said["problems"] if few not in problem]}


def test_targets_get_the_spelling_of_the_measured_genes(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["stat1"] * 4 + ["Stat1"] * 4 + ["jun+FOS"] * 4
    result = run(drop)
    assert result.obs["perturbation"].value_counts().to_dict() == {"control": 8, "STAT1": 8, "FOS+JUN": 4}
    assert "Stat1 as STAT1" in result.uns["harmonized"]["repairs"][0]
    drop.obs["label"] = ["ctrl"] * 8 + ["Myc"] * 6 + ["MYC"] * 6
    with pytest.raises(InputError, match=r"'MYC' and 'Myc'.*one spelling if they are one gene"):
        run(drop)


def test_genes_that_a_spreadsheet_made_dates_of_are_listed_and_such_targets_refused(drop):
    drop.var_names = [*GENES[:4], "1-Mar", "2001-09-02"]
    assert "'1-Mar', '2001-09-02'" in understood(drop)["problems"][0]
    drop.obs["label"] = ["ctrl"] * 8 + ["STAT1"] * 6 + ["1-Mar"] * 6
    with pytest.raises(InputError, match=r"the label '1-Mar'.*MARCHF1 or MTARC1"):
        run(drop)


def test_duplicate_symbols_get_a_number_unless_one_was_perturbed(drop):
    drop.var_names = [*GENES[:4], "CD19", "CD19"]
    result = run(drop)
    assert list(result.var_names) == [*GENES[:4], "CD19", "CD19-1"]
    assert "1 duplicate gene names: 'CD19'" in result.uns["harmonized"]["repairs"][0]


@pytest.mark.parametrize("endings", [("g1", "g2"), ("_1", "_2"), ("-sg1", "-sg2"), ("_ACGTACGTACGTACGTACGT", "_2")])
def test_guides_in_place_of_genes_are_refused_with_the_two_readings(drop, endings):
    one, two = endings
    drop.obs["label"] = ["ctrl"] * 8 + [f"STAT1{one}"] * 3 + [f"STAT1{two}"] * 3 + [f"CD19{one}"] * 6
    with pytest.raises(InputError, match=r"look like guides.*genes, or guide_suffix"):
        run(drop, replace(ROW, combination_separator=None))


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (("STAT1_P1", "STAT1_P2"), "2 labels that look like guides or combinations, such as 'STAT1_P1', 'STAT1_P2'"),
        (("STAT1", "STAT1-2"), "(STAT1 and STAT1-2)"),
        (("MYC_1", "MYC_P1P2"), "(MYC_1 and MYC_P1P2)"),
        (("MYC", "MYC.2"), "(MYC and MYC.2)"),
        (("NKX2-1", "NKX2-5"), None),
        (("ATG5", "ATG7"), None),
        (("STAT1", "stat1"), None),
    ],
)
def test_a_few_labels_of_one_gene_are_named(drop, labels, named):
    """JUN, FOS and CD19 are most of the labels; MYC, NKX2-1 and ATG5 were not measured."""
    drop.obs["label"] = ["ctrl"] * 6 + ["JUN", "FOS", "CD19", *labels] * 2 + ["ctrl"] * 4
    problems = [text for text in understood(drop)["problems"] if "guides" in text]
    assert len(problems) == (named is not None)
    assert all(named in text and "guide_suffix" in text for text in problems)
    merged = run(drop, replace(ROW, guide_suffix=r"[-_.](P?\d+)+$"))
    assert named is None or not [text for text in merged.uns["harmonized"]["problems"] if "guides" in text]


def test_most_labels_named_after_both_promoters_are_refused_with_a_suffix_for_them(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["STAT1_P1P2"] * 6 + ["CD19_P1P2"] * 6
    with pytest.raises(InputError, match=r"expected genes, or guide_suffix '_\(P\\d\+\)\+\$'"):
        run(drop)


def test_labels_of_most_targets_with_one_ending_are_refused_with_the_rule_for_them(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["STAT1_TSS"] * 4 + ["JUN_TSS"] * 4 + ["CD19_TSS"] * 4
    with pytest.raises(InputError, match=r"3 labels .* 'CD19_TSS'.*guide_suffix '_TSS\$' in the data-set table"):
        run(drop)
    assert run(drop, replace(ROW, guide_suffix="_TSS$")).uns["harmonized"]["n_perturbations"] == 3


def test_guides_joined_by_a_bar_are_refused_without_a_separator_for_them(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["JUN|FOS"] * 4 + ["CD19|FOS"] * 4 + ["STAT1|ctrl"] * 4
    with pytest.raises(InputError, match=r"combination_separator '\|' in the data-set table \(4 of 4 labels"):
        run(drop, replace(ROW, combination_separator=None))
    assert run(drop, replace(ROW, combination_separator="|")).uns["harmonized"]["n_combinations"] == 2


def test_a_few_combinations_without_a_separator_are_a_problem_to_know_of(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["JUN"] * 2 + ["FOS"] * 2 + ["STAT1"] * 2 + ["JUN|FOS"] * 3 + ["FOS|STAT1"] * 3
    (problem,) = understood(drop, combination_separator=None)["problems"]
    assert problem.startswith("2 labels that look like guides or combinations, such as 'JUN|FOS', 'FOS|STAT1'")
    assert "unless combination_separator '|' in the data-set table (6 of 6 labels" in problem


def test_strands_and_positions_in_labels_are_no_combinations(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["STAT1_+_1234.23-P1P2"] * 6 + ["CD19_-_5678-P1P2"] * 6
    with pytest.raises(InputError, match=r"a combination or one gene.*proposed: guide_suffix '_\[\+-\]_\[\\d\.\]\+-"):
        run(drop, replace(ROW, combination_separator=None))


def test_without_controls_the_labels_are_shown_as_they_are_read_and_so_is_what_may_be_controls(drop):
    drop.obs["label"] = ["sgNTC_1"] * 5 + ["sgNTC_2"] * 3 + ["sgSTAT1_1"] * 4 + ["sgCD19_1"] * 8
    cells = {"guide_prefix": "sg", "guide_suffix": r"_\d+$"}
    with pytest.raises(InputError, match=r"most frequent: 'NTC' \(8\), 'CD19' \(8\).*'ctrl', or control_label 'NTC'$"):
        run(drop, replace(ROW, **cells))
    with pytest.raises(
        InputError, match=r"'sgCD19_1' \(8\).*control_label 'NTC'; proposed: guide_prefix 'sg' and guide_su"
    ):
        run(drop)
    assert run(drop, replace(ROW, **cells, control_label="NTC")).uns["harmonized"]["n_controls"] == 8


def test_guides_of_targets_that_were_not_measured_are_a_problem_to_know_of(drop):
    labels = [f"{gene}_{n}" for gene in ("MYC", "BRD4", "EP300") for n in (1, 2)]
    drop.obs["label"] = ["ctrl"] * 8 + labels * 2
    told = understood(drop)["problems"]
    assert told[1].startswith("6 labels that look like guides or combinations")
    assert "unless guide_suffix '_\\d+$' in the data-set table (6 labels would then be 3 perturbations)" in told[1]
    assert understood(drop, guide_suffix=r"_\d+$")["n_perturbations"] == 3


def test_cells_without_a_label_are_refused_with_the_column_that_leaves_them_out(drop):
    drop.obs.loc["c10", "label"] = None
    with pytest.raises(InputError, match=r"the label ''.*or 'nan' in excluded_label of the data-set table"):
        run(drop)


def test_control_cells_without_a_guide_are_unassigned_and_left_out(drop):
    drop.obs["guide"] = ["NT1", None, "unassigned", *["NT2"] * 5, *["S1"] * 12]
    result = run(drop, replace(ROW, guide_column="guide"))
    assert result.uns["harmonized"]["n_controls"] == 6
    assert "2 cells labelled as control without a guide left out" in result.uns["harmonized"]["repairs"][0]
    drop.obs["guide"] = [None] * 8 + ["S1"] * 12
    with pytest.raises(InputError, match="no control cell with a guide"):
        run(drop, replace(ROW, guide_column="guide"))


def test_a_label_that_says_unassigned_needs_a_decision(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["STAT1"] * 8 + ["unassigned"] * 4
    with pytest.raises(InputError, match=r"'unassigned', which names no gene.*excluded_label"):
        run(drop)
    left = run(drop, replace(ROW, excluded_label="doublet|unassigned"))
    assert left.n_obs == 16
    repairs = list(left.uns["harmonized"]["repairs"])
    assert repairs == ["4 cells labelled 'unassigned' left out (excluded_label of the row)"]
    told = understood(drop, control_label="ctrl|unassigned")
    assert told["n_controls"] == 12
    assert "'unassigned' count as controls" in told["problems"][0]


def test_a_target_that_is_called_as_controls_are_is_a_problem_to_know_of(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["STAT1"] * 4 + ["non-targeting_1+STAT1"] * 4 + ["AAVS1"] * 4
    told = list(understood(drop)["problems"])
    assert len(told) == 2
    assert told[0].startswith("the target 'AAVS1' is called as controls often are")
    assert "'non-targeting_1'" in told[1]
    assert list(understood(drop, control_label="ctrl|non-targeting_1|AAVS1")["problems"]) == []


def test_a_missing_label_can_be_excluded(drop):
    drop.obs.loc[["c10", "c11"], "label"] = None
    assert run(drop, replace(ROW, excluded_label="nan")).n_obs == 18


def test_ensembl_identifiers_as_targets_are_refused(drop):
    drop.obs["label"] = ["ctrl"] * 8 + ["ENSG00000115415"] * 6 + ["ENSG00000170345"] * 6
    with pytest.raises(InputError, match=r"Ensembl identifiers such as 'ENSG00000115415'.*'FOS'"):
        run(drop)
    drop.obs["label"] = ["ctrl"] * 8 + ["ENSG00000115415_P1P2"] * 6 + ["ENSG00000170345_P1"] * 6
    with pytest.raises(InputError, match=r"Ensembl identifiers such as 'ENSG00000115415_P1P2'.*'FOS'"):
        run(drop)


def test_a_batch_without_control_cells_is_a_problem_to_know_of(drop):
    drop.obs["lane"] = ["l1"] * 16 + ["l2"] * 4
    problem = "no control cell in 1 of 2 batches, of 4 perturbed cells: 'l2'"
    assert list(understood(drop, batch_column="lane")["problems"]) == [problem]
    drop.obs["lane"] = [f"l{i}" for i in range(20)]  # one sentence, however many there are
    problem = "no control cell in 12 of 20 batches, of 12 perturbed cells: 'l10', 'l11', 'l12', 'l13', 'l14', ..."
    assert list(understood(drop, batch_column="lane")["problems"]) == [problem]


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("column", ["batch_column", "cell_type_column"])
def test_a_batch_or_type_of_nothing_is_missing(drop, blank, column):
    drop.obs["lane"] = ["l1"] * 18 + [blank] * 2
    with pytest.raises(InputError, match=r"obs\['lane'\] of cell 'c18': found no value \(2 such cells\)"):
        understood(drop, **{column: "lane"})


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


def test_log_values_of_another_target_sum_are_refused(drop):
    drop.X = run(drop).X.toarray()
    with pytest.raises(InputError, match="every cell summing to 100; expected 10000, or target_sum 100 in"):
        run(drop, replace(ROW, values="log1p", target_sum=1e4))
    drop.X[0] = 0  # an empty cell, which is dropped, does not hide it
    with pytest.raises(InputError, match="every cell summing to 100"):
        run(drop, replace(ROW, values="log1p", target_sum=1e4))


@pytest.mark.parametrize(
    "transform", [np.sqrt, lambda X: np.log1p(X) / np.log(10), lambda X: X / 20], ids=["roots", "log10", "scaled"]
)
def test_values_in_another_scale_are_a_problem_to_know_of(drop, transform):
    drop.X = transform(drop.X)
    told = understood(drop, values="log1p", target_sum=1e4)["problems"]
    assert "values may be no log1p" in told[0]


def test_log_values_without_some_genes_are_in_their_scale(drop):
    drop.X = run(drop).X.toarray()
    drop = drop[:, :3].copy()
    assert list(understood(drop, values="log1p", target_sum=1e3)["problems"]) == []


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


def in_contexts(drop):
    """The drop with a context and a direction for every other cell: a target that goes up here and down there."""
    drop.obs["line"] = ["K562", "RPE1"] * 10
    drop.obs["way"] = ["CRISPRa", "knock-down"] * 10
    return replace(ROW, context_column="line", perturbation_kind="mixed", direction_column="way")


def test_without_a_column_of_contexts_there_is_one_and_the_kind_says_the_direction(drop):
    obs = run(drop).obs
    assert set(obs["context"]) == {"all"}
    assert set(zip(obs["perturbation"], obs["direction"], strict=True)) == {
        ("control", "none"), ("STAT1", "down"), ("FOS+JUN", "down"), ("MYC", "down")
    }  # fmt: skip
    assert set(run(drop, replace(ROW, perturbation_kind="activation")).obs["direction"]) == {"none", "up"}


def test_the_direction_of_mixed_kinds_is_that_of_each_cell_whatever_controls_say(drop):
    row = in_contexts(drop)
    drop.obs.loc[drop.obs["label"] == "ctrl", "way"] = None
    obs = run(drop, row).obs
    perturbed = obs[obs["perturbation"] != "control"]
    assert set(zip(perturbed["context"], perturbed["direction"], strict=True)) == {("K562", "up"), ("RPE1", "down")}
    assert set(obs["direction"][obs["perturbation"] == "control"]) == {"none"}


def test_a_context_of_several_columns_is_their_values_together(drop):
    row = replace(in_contexts(drop), context_column="line|stimulus")
    drop.obs["stimulus"] = " IFNG"
    assert set(run(drop, row).obs["context"]) == {"K562.IFNG", "RPE1.IFNG"}
    drop.obs.loc["c3", "stimulus"] = None
    with pytest.raises(InputError, match=r"obs\['stimulus'\] of cell 'c3': found no value"):
        run(drop, row)


def test_too_few_cells_are_those_of_a_condition(drop):
    row = in_contexts(drop)
    drop.obs.loc["c8", "line"] = "RPE1"  # STAT1: one cell in K562, three in RPE1
    drop.obs.loc["c8", "way"] = "down"
    result = run(drop, row)
    assert list(result.uns["harmonized"]["dropped_perturbations"]) == ["STAT1@K562"]
    assert list(result.uns["harmonized"]["contexts"]) == ["K562", "RPE1"]
    assert result.uns["harmonized"]["n_perturbations"] == 3
    assert result.obs["perturbation"].value_counts()["STAT1"] == 3


def test_the_real_perturbench_file_has_a_context_for_each_of_its_data_sets(perturbench_file):
    row = DATASETS["perturbench_devel"]
    obs = harmonize(read(perturbench_file, row), row, minimum_cells=10).obs
    found = set(zip(obs["context"], obs["direction"], strict=True))
    assert found == {("norman19", "up"), ("norman19", "none"), ("mcfaline23", "down"), ("mcfaline23", "none")}
