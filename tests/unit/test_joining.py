"""Joined data sets are what their parts were, on the genes that all of them measured; what is lost is said."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from scgpt_bench.data import joining, planted
from scgpt_bench.data.annotations import annotate
from scgpt_bench.data.catalogue import Dataset, read_datasets
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.joining import match_genes, write_joined
from scgpt_bench.data.on_disk import row_chunks
from scgpt_bench.data.readers import read
from scgpt_bench.description import describe_joined
from scgpt_bench.errors import InputError

ROW = Dataset("drop", "drop.h5ad", "h5ad", "counts", 400.0, "perturbation", "control", "interference", "1")
ROW = replace(ROW, batch_column="batch", combination_separator="+")
SMALL = {"modules": 4, "genes_per_module": 6, "targets_per_module": 3, "cells_per_perturbation": 12}
SMALL |= {"control_cells": 60, "atlas_cells": 20, "atlas_states": 2, "combinations": 2}


def ids_of(genes):
    """An Ensembl identifier for each gene, the same wherever the gene is."""
    return [f"ENSG{sum(map(ord, gene)) * 997 + len(gene):011d}" for gene in genes]


@pytest.fixture(scope="module")
def drop():
    """A generated screen: 24 genes but for the two that are not measured, combinations, batches."""
    return planted.generate(SMALL).cells


def part(cells, **row):
    return harmonize(cells, replace(ROW, **row), minimum_cells=5)


def joined_row(folder, **rows):
    """The data set ``joined`` as the table with these parts has it."""
    columns = [*Dataset.__dataclass_fields__]
    joined = {"name": "joined", "address": f"joined:{','.join(rows)}", "format": "joined", "target_sum": "1000"}
    drops = [{**ROW.row, "name": name, "sha256": "unknown", **row} for name, row in rows.items()]
    lines = [columns, *([str(row.get(c) or "") for c in columns] for row in [joined, *drops])]
    (folder / "drops.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    return read_datasets(folder / "drops.tsv")["joined"]


def join(folder, parts, rows=None, **options):
    write_joined(parts, joined_row(folder, **(rows or {name: {} for name in parts})), folder / "cells.h5ad", **options)
    return anndata.read_h5ad(folder / "cells.h5ad")


def sentences(cells, kind):
    return [*cells.uns["harmonized"][kind]]


@pytest.fixture(scope="module")
def two(drop, tmp_path_factory):
    """Two parts of one screen, one goes down, the other up, with log values only and other names; and their join.

    The first lacks the last three genes, the second the first two. The second calls the first part's third gene and
    a target by other names, and has one gene's symbol with another identifier.
    """
    perturbed = [gene for gene in drop.obs["perturbation"].unique() if gene in drop.var_names]
    kept = [*(gene for gene in drop.var_names if gene not in perturbed), *perturbed]
    drop = drop[:, kept].copy()
    drop.var["gene_ids"] = ids_of(drop.var_names)
    down = drop[:, :-3].copy()
    up = drop[:, 2:].copy()
    old = {kept[2]: "OLD1", perturbed[0]: "OLD2"}
    up.var_names = [old.get(gene, gene) for gene in up.var_names]
    up.obs["perturbation"] = ["+".join(old.get(g, g) for g in name.split("+")) for name in up.obs["perturbation"]]
    up.var.loc[kept[3], "gene_ids"] = "ENSG00000099999"
    scaled = up.X.multiply(300 / up.X.sum(axis=1)).tocsr()
    up.X = scaled.log1p()
    up.obs["line"] = np.where(np.arange(up.n_obs) % 2, "K562", "RPE1")
    up_row = {"values": "log1p", "target_sum": 300.0, "perturbation_kind": "activation", "context_column": "line"}
    parts = {"a": part(down), "b": part(up, **up_row, batch_column=None)}
    folder = tmp_path_factory.mktemp("two")
    return parts, join(folder, parts, {"a": {}, "b": up_row}), kept, perturbed


def test_genes_are_those_of_all_parts_named_as_in_the_first(two):
    parts, cells, kept, perturbed = two
    assert list(cells.var_names) == [kept[2], *kept[4:-3]]
    assert list(cells.var["gene_id"]) == ids_of(cells.var_names)
    assert perturbed[0] in cells.var_names
    assert list(cells.uns["harmonized"]["genes_left_out"]["a"]) == [kept[0], kept[1], kept[3]]
    assert list(cells.uns["harmonized"]["genes_left_out"]["b"]) == [kept[3], *kept[-3:]]
    [lost, renamed] = [text for text in sentences(cells, "repairs") if text.startswith("b: ")][:2]
    assert "b: 4 of 20 genes left out" in lost
    assert "1 of them in all by symbol, with other identifiers" in lost
    b = parts["b"][parts["b"].obs["perturbation"] == "control"]
    stays = ~b.var_names.isin(cells.uns["harmonized"]["genes_left_out"]["b"])
    share = np.expm1(b.X.toarray()[:, stays]).sum() / np.expm1(b.X.toarray()).sum()
    assert f"the others have {share:.0%} of the counts of its controls" in lost
    assert renamed == f"b: 2 genes called as in the first part that has them: OLD1 as {kept[2]}, OLD2 as {perturbed[0]}"
    missing = [gene for gene in kept[-3:] if gene in perturbed]
    [problem] = [text for text in sentences(cells, "problems") if "not in all parts" in text]
    assert problem == f"b: {len(missing)} targets were measured there, but not in all parts: {', '.join(missing)}"


def test_contexts_batches_directions_and_halves_are_those_of_the_parts(two):
    parts, cells, _, perturbed = two
    obs = cells.obs
    assert set(obs["context"]) == {"a", "b.K562", "b.RPE1"} == set(cells.uns["harmonized"]["contexts"])
    assert set(obs["batch"]) == {*(f"a.{batch}" for batch in parts["a"].obs["batch"].unique()), "b"}
    directions = set(zip(obs["context"], obs["direction"], strict=True))
    assert directions == {
        (c, d) for c, way in [("a", "down"), ("b.K562", "up"), ("b.RPE1", "up")] for d in (way, "none")
    }
    assert list(obs_names := obs.index) == [f"{name}:{cell}" for name, own in parts.items() for cell in own.obs_names]
    assert obs_names.is_unique
    for column in ("half", "cell_type"):
        assert list(obs[column]) == [value for own in parts.values() for value in own.obs[column]]
    of_b = obs["perturbation"][obs["context"] != "a"]
    assert perturbed[0] in set(of_b)
    assert not any("OLD" in name for name in of_b)
    assert all(list(name.split("+")) == sorted(name.split("+")) for name in of_b.unique())


def test_values_are_those_of_the_parts_brought_to_one_scale(two):
    parts, cells, *_ = two
    a, b = parts["a"][:, cells.var_names], parts["b"][:, ["OLD1", *parts["b"].var_names[2:-3]]]
    expected = [np.expm1(a.X.toarray()) * 1000 / 400, np.expm1(b.X.toarray()) * 1000 / 300]
    np.testing.assert_allclose(np.expm1(cells.X.toarray()), np.vstack(expected), rtol=1e-5, atol=1e-4)
    assert "counts" not in cells.layers  # the second has none
    assert "n_counts" not in cells.obs


def test_counts_stay_where_all_parts_have_them(drop, tmp_path):
    parts = {"a": part(drop), "b": part(drop[:, ::-1].copy(), target_sum=1000.0)}
    cells = join(tmp_path, parts)
    for name, own in parts.items():
        of_part = cells[[cell.startswith(f"{name}:") for cell in cells.obs_names]]
        np.testing.assert_array_equal(
            of_part.layers["counts"].toarray(), own[:, cells.var_names].layers["counts"].toarray()
        )
        np.testing.assert_array_equal(of_part.obs["n_counts"], own.obs["n_counts"])
    same = cells.X[parts["a"].n_obs :].toarray()
    np.testing.assert_array_equal(same, parts["b"][:, cells.var_names].X.toarray())  # on the scale already: to the bit
    assert cells.X.has_canonical_format or cells.X.has_sorted_indices


def test_variable_genes_are_those_of_one_drop_with_all_control_cells(drop, tmp_path):
    drop = drop.copy()
    drop.obs["line"] = np.where(np.arange(drop.n_obs) % 2, "x", "y")
    row = replace(ROW, target_sum=1000.0)
    whole = harmonize(drop, replace(row, context_column="line"), minimum_cells=5, maximum_genes=8)
    parts = {line: part(drop[drop.obs["line"] == line].copy(), target_sum=1000.0) for line in ("y", "x")}
    cells = join(tmp_path, parts, maximum_genes=8)
    assert list(cells.var_names) == list(whole.var_names)
    assert cells.n_vars < drop.n_vars
    assert cells.uns["harmonized"]["genes"].endswith("the 8 with the highest dispersion in control cells")


def test_the_size_of_chunks_changes_no_byte(drop, tmp_path, monkeypatch):
    paths = []
    for rows in (7, 1000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        monkeypatch.setattr(joining, "row_chunks", partial(row_chunks, at_once=rows * drop.n_vars))
        parts = {"a": part(drop), "b": part(drop[:, 3:].copy(), target_sum=77.0)}
        write_joined(parts, joined_row(folder, a={}, b={}), folder / "cells.h5ad", maximum_genes=8)
        paths.append(folder / "cells.h5ad")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_screens_that_share_next_to_no_gene_are_refused_in_one_line(papalexi_file, mirror, tmp_path):
    known = read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")
    hill = replace(
        ROW, perturbation_column="geneID", control_label="NonTargetingControlGuideForHuman", batch_column=None
    )
    hill = replace(hill, excluded_label="nan", combination_separator=None)
    tap = replace(ROW, format="10x_mtx", perturbation_column="guide", control_label="non-targeting", batch_column=None)
    tap = replace(tap, combination_separator=None, guide_suffix=r"(-[A-Z]|_[+-]_[\d.]+|_[+-]_[\d.]+-(P\d+)+|_\d+)$")
    rows = {
        "papalexi_2021": (known["papalexi_2021"], papalexi_file),
        "tapseq_chr8": (tap, mirror / "tapseq_chr8" / "named10x"),
        "hill_2018": (hill, mirror / "hill_2018" / "hill2018.h5ad"),
    }
    parts = {name: annotate(read(path, row), row, Findings(path)) for name, (row, path) in rows.items()}
    joined = Dataset("three", f"joined:{','.join(rows)}", "joined", "counts", 1000.0, "", "", "mixed")
    with pytest.raises(InputError) as error:
        describe_joined(joined, parts)
    line = str(error.value)
    assert "\n" not in line
    assert "found 0 that all parts have (of papalexi_2021 299, tapseq_chr8" in line
    assert "at least 3, 10% of the smallest part's (hill_2018)" in line


def var(**genes):
    return pd.DataFrame({"gene_id": [*genes.values()]}, index=[*genes])


def matched(**parts):
    return match_genes(parts, {name: table.index for name, table in parts.items()}, Findings("joined:..."))


SHARED = {f"S{i}": f"ENSG{i:011d}" for i in range(5)}


def test_a_gene_without_an_identifier_is_found_by_its_symbol():
    plain = pd.DataFrame(index=[*SHARED, "OLD", "X"])
    result = matched(a=var(**SHARED, OLD="ENSG00000000077"), b=plain, c=var(**SHARED, NEW="ENSG00000000077"))
    assert list(result.var.index) == [*SHARED, "OLD"]
    assert result.names == {"a": {}, "b": {}, "c": {"NEW": "OLD"}}
    assert [list(places) for places in result.positions.values()] == [[*range(6)]] * 3


def test_a_symbol_that_went_to_another_gene_is_not_taken_for_the_first():
    result = matched(a=var(**SHARED, P="ENSG00000000077"), b=var(**SHARED, P="ENSG00000000088", Q="ENSG00000000077"))
    assert list(result.var.index) == [*SHARED, "P"]
    assert list(result.positions["b"]) == [*range(5), 6]
    assert result.names["b"]["Q"] == "P"


def test_an_identifier_that_a_part_gives_to_two_genes_matches_neither():
    result = matched(a=var(**SHARED, P="ENSG00000000077"), b=var(**SHARED, P="ENSG00000000077", Q="ENSG00000000077"))
    assert list(result.var.index) == [*SHARED]


def test_an_unmeasured_target_has_the_name_of_its_gene_in_the_first_part_that_has_it():
    genes = {"a": var(**SHARED, NEW="ENSG00000000077"), "b": var(**SHARED), "c": var(**SHARED, OLD="ENSG00000000077")}
    result = match_genes(genes, {"a": ["NEW"], "b": ["OLD", "S1"], "c": ["OLD"]}, Findings("joined:..."))
    assert result.rename("b", "OLD+S1") == "NEW+S1"
    assert result.rename("c", "OLD") == "NEW"
    assert result.rename("b", "control") == "control"


def test_two_contexts_of_one_name_are_refused(drop, tmp_path):
    drop = drop.copy()
    drop.obs["line"] = np.where(np.arange(drop.n_obs) % 2, "x", "y")
    parts = {"a": part(drop, context_column="line"), "a.x": part(drop)}
    with pytest.raises(InputError, match=r"contexts: found 'a\.x' in a and in a\.x; expected other names"):
        join(tmp_path, parts)
    assert not (tmp_path / "cells.h5ad").exists()


def test_a_joined_row_is_what_its_parts_are(tmp_path):
    row = joined_row(tmp_path, a={}, b={})
    assert (row.parts, row.values, row.perturbation_kind) == (("a", "b"), "counts", "interference")
    assert (row.context_column, row.direction_column, row.is_local) == ("context", None, False)
    assert Dataset(**row.how_to_read).parts == ("a", "b")
    row = joined_row(tmp_path, a={"values": "log1p"}, b={"perturbation_kind": "activation"})
    assert (row.values, row.perturbation_kind, row.direction_column) == ("log1p", "mixed", "direction")


def test_the_contexts_of_a_joined_row_are_known_where_those_of_its_parts_are(tmp_path):
    lines = {"context_column": "line"}
    row = joined_row(tmp_path, a={}, b={**lines, "contexts": "K562|RPE1"})
    assert row.declared_contexts == ("a", "b.K562", "b.RPE1")
    assert joined_row(tmp_path, a={}, b=lines).declared_contexts == ()
