"""Submission files of the Virtual Cell Challenge keep to its published limits, or are refused with the reason."""

import dataclasses
import subprocess
import tarfile

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import vcc_cli
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.data.unmeasured import ASKED_COLUMNS
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.official.sides import NON_TARGETING, TARGET
from scgpt_bench.evaluation.submission import (
    Limits,
    check_2025,
    check_2026,
    check_vcc,
    columns_of,
    limits_of,
    names_in_list,
    read_genes,
    write_2025,
    write_2026,
)
from scgpt_bench.files import write_h5ad

GENES = ["A", "B", "C", "D"]
LIMITS_2025 = Limits(genes=4, cells=14)
LIMITS_2026 = Limits(genes=4, cells=12, cells_per_perturbation=3, counts_per_cell=100, stored_entries=48)
LINES = ("line1", "line2")


def measured_cells(contexts=("all",)):
    """10 control cells of each context, 8 of them of the half input; the genes not in the challenge's order."""
    number = 10 * len(contexts)
    counts = np.random.default_rng(1).poisson(3, (number, 4)).astype(np.float32) + 1
    X = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    obs = pd.DataFrame({"perturbation": "control", "context": np.repeat(contexts, 10)})
    obs["half"] = (["input"] * 8 + ["truth"] * 2) * len(contexts)
    layers = {"counts": sparse.csr_matrix(counts)}
    var = pd.DataFrame(index=["B", "A", "C", "D"])
    obs.index = [f"cell{i}" for i in range(number)]
    return anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs, var=var, layers=layers)


def prediction(cells):
    """No change of three control cells, for E and F in every context."""
    blocks = []
    for perturbation in ("E", "F"):
        for context in cells.obs["context"].unique():
            block = cells[cells.obs["context"] == context][:3]
            obs = pd.DataFrame({"perturbation": perturbation, "context": context, "weight": 1.0}, block.obs_names)
            obs = obs.assign(control_cell=block.obs_names)
            names = [f"{perturbation}@{context}:{cell}" for cell in block.obs_names]
            blocks.append(anndata.AnnData(block.X.toarray(), obs=obs.set_axis(names), var=cells.var.copy()))
    return anndata.concat(blocks)


def asked(cells, **changes):
    """The list: e and F."""
    rows = [
        (given, given.upper(), context, "down", "yes", "")
        for context in cells.obs["context"].unique()
        for given in ("e", "F")
    ]
    return pd.DataFrame(rows, columns=ASKED_COLUMNS).assign(**changes)


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    path = tmp_path_factory.mktemp("genes") / "gene_names.csv"
    path.write_text("\n".join(GENES) + "\n")
    return path


@pytest.fixture(scope="module")
def packed(genes, tmp_path_factory):
    """A submission of 2025."""
    cells, path = measured_cells(), tmp_path_factory.mktemp("packed") / "prediction.vcc"
    write_2025(cells, prediction(cells), asked(cells), genes, path, LIMITS_2025)
    return path


@pytest.fixture(scope="module")
def unpacked(packed):
    with tarfile.open(packed) as archive:
        archive.extractall(packed.parent, filter="data")
    subprocess.run(["zstd", "--quiet", "--decompress", str(packed.parent / "pred.h5ad.zst")], check=True)
    return anndata.read_h5ad(packed.parent / "pred.h5ad")


@pytest.fixture(scope="module")
def written_2026(genes, tmp_path_factory):
    """A submission of 2026: two contexts of six predicted cells, predicted and measured on disk."""
    cells, folder = measured_cells(LINES), tmp_path_factory.mktemp("upload")
    write_h5ad(prediction(cells), folder / "predictions.h5ad")
    write_h5ad(cells, folder / "cells.h5ad")
    stored = open_h5ad(folder / "cells.h5ad", layers=["counts"]), open_h5ad(folder / "predictions.h5ad")
    write_2026(*stored, asked(cells), genes, folder / "p.h5ad", LIMITS_2026, {"X": "line1", "Y": "line2"})
    return folder / "p.h5ad"


@pytest.fixture
def upload(written_2026):
    return anndata.read_h5ad(written_2026)


def test_a_study_changes_single_limits():
    assert limits_of(2025) == Limits(genes=18_080, cells=200_000)
    assert limits_of(2026, {"genes": 5}) == dataclasses.replace(limits_of(2026), genes=5)
    assert limits_of(2026).cells_per_perturbation == 400


def test_the_vcc_file_has_the_prediction_and_its_control_cells_in_the_order_of_the_list(packed, unpacked):
    check_vcc(packed, GENES, LIMITS_2025)
    with tarfile.open(packed) as archive:
        assert sorted(archive.getnames()) == ["pred.h5ad.zst", "watermark.txt"]
    with pytest.raises(InputError, match="at most 13"):
        check_vcc(packed, GENES, Limits(genes=4, cells=13))
    cells = measured_cells()
    assert list(unpacked.obs[TARGET]) == ["e"] * 3 + ["F"] * 3 + [NON_TARGETING] * 8
    expected = np.concatenate([np.tile(cells[:3, GENES].X.toarray(), (2, 1)), cells[:8, GENES].X.toarray()])
    np.testing.assert_array_equal(unpacked.X.toarray(), expected)


def test_a_refused_submission_leaves_no_file(genes, tmp_path):
    cells = measured_cells()
    with pytest.raises(InputError, match="found 14 cells; expected at most 13"):
        write_2025(cells, prediction(cells), asked(cells), genes, tmp_path / "prediction.vcc", Limits(4, 13))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda adata: adata[adata.obs[TARGET] != NON_TARGETING], "no control cell"),
        (lambda adata: adata[:, ["B", "A", "C", "D"]], r"var_names\[0\]: found 'B'; expected 'A'"),
        (lambda adata: adata[:, ["A", "B", "C"]], "found 3 genes; expected 4"),
        (lambda adata: anndata.concat([adata, adata], index_unique="-"), "found 28 cells; expected at most 14"),
        (lambda adata: anndata.AnnData(adata.X, var=adata.var), "the column 'target_gene'"),
        (lambda adata: anndata.AnnData(adata.X.rint(), adata.obs, adata.var), "takes for counts"),
        (lambda adata: anndata.AnnData(adata.X * -1, adata.obs, adata.var), "negative|whole numbers"),
        (lambda adata: anndata.AnnData(adata.X * 9, adata.obs, adata.var), "exceeds log1p threshold"),
    ],
    ids=["no controls", "order", "genes", "cells", "column", "counts", "negative", "scale"],
)
def test_what_the_challenge_of_2025_refuses_is_refused_here(unpacked, broken, message):
    check_2025(unpacked, GENES, "p", LIMITS_2025)
    with pytest.raises(InputError, match=message):
        check_2025(broken(unpacked).copy(), GENES, "p", LIMITS_2025)


def test_the_upload_of_2026_holds_whole_counts_of_all_contexts_and_no_control_cell(upload):
    assert (upload.X.data == np.rint(upload.X.data)).all()
    assert list(upload.var_names) == GENES
    assert upload.obs.groupby(["context", TARGET], observed=True).size().to_dict() == {
        (line, target): 3 for line in ("X", "Y") for target in ("e", "F")
    }
    # The prediction is the control cells as they are: their own counts come back.
    cells = measured_cells(LINES)
    counts = anndata.AnnData(cells.layers["counts"], var=cells.var)[:, GENES].X.toarray()
    np.testing.assert_array_equal(upload[upload.obs["context"] == "Y"].X.toarray(), np.tile(counts[10:13], (2, 1)))


def test_vcc_prep_takes_the_upload_of_2026_and_refuses_another_number_of_cells(written_2026, genes, tmp_path):
    (tmp_path / "pert_counts.csv").write_text("target_gene\ne\nF\n")
    official = vcc_cli.install(tmp_path / "vcc")
    given = [str(written_2026), "--genes", str(genes), "--perts", str(tmp_path / "pert_counts.csv")]
    given += ["--contexts", "X,Y", "--output", str(tmp_path / "p.vcc"), "--cells-per-pert"]
    packed = vcc_cli.prep(official, *given, "3")
    assert (packed["n_cells"], packed["normalization"]) == (12, "counts-preserved")
    assert packed["verified_targets"]
    with tarfile.open(tmp_path / "p.vcc") as archive:
        assert sorted(archive.getnames()) == ["meta.json", "pred.h5ad.zst"]
    assert "wrong number of cells" in str(vcc_cli.prep(official, *given, "4", "--force"))


def test_genes_that_a_joined_data_set_lacks_have_the_counts_of_the_control_cell(tmp_path, caplog):
    """Joined on B, A and C: D has the part's counts; an unchanged cell has all of its own counts again."""
    part = measured_cells()
    joined = part[:, ["B", "A", "C"]].copy()
    joined.obs_names = "part:" + joined.obs_names
    (tmp_path / "genes.csv").write_text("\n".join(GENES) + "\n")
    arguments = joined, prediction(joined), asked(joined), tmp_path / "genes.csv", tmp_path / "p.h5ad", LIMITS_2026
    with pytest.raises(InputError, match="1 genes missing, 'D' first"):
        write_2026(*arguments)
    write_2026(*arguments, parts={"part": part, "unused": part[:, ["A"]]})
    counts = anndata.AnnData(part.layers["counts"], var=part.var)[:3, GENES].X.toarray()
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "p.h5ad").X.toarray(), np.tile(counts, (2, 1)))
    assert "1 of 4 genes (D first) are not in the data set" in caplog.text
    with pytest.raises(InputError, match=r"parts/part/cells\.h5ad: var_names: found 1 genes missing, 'D' first"):
        write_2026(*arguments, parts={"part": part[:, ["A", "B", "C"]]})


def with_control(adata):
    adata.obs[TARGET] = [NON_TARGETING, *adata.obs[TARGET][1:]]
    return adata


@pytest.mark.parametrize(
    ("broken", "limits", "message"),
    [
        (with_control, {}, "1 control cells; expected predicted cells only"),
        (lambda adata: adata[:11], {}, "'F' in 'Y': found 2 cells; expected 3"),
        (lambda adata: adata, {"cells": 11}, "found 12 cells; expected at most 11"),
        (lambda adata: adata[:, ["B", "A", "C", "D"]], {}, r"var_names\[0\]"),
        (lambda adata: anndata.AnnData(adata.X, adata.obs[[TARGET]], adata.var), {}, "the column 'context'"),
        (lambda adata: anndata.AnnData(adata.X * 0.5, adata.obs, adata.var), {}, "not whole"),
        (lambda adata: anndata.AnnData(adata.X * -1, adata.obs, adata.var), {}, "below 0"),
        (lambda adata: adata, {"counts_per_cell": 5}, "at most 5 a cell"),
        (lambda adata: adata, {"stored_entries": 47}, "48 stored entries; expected at most 47"),
    ],
    ids=["controls", "cells of one", "cells", "order", "column", "whole", "negative", "depth", "entries"],
)
def test_what_the_challenge_of_2026_refuses_is_refused_here(upload, broken, limits, message):
    check_2026(upload, GENES, "p", LIMITS_2026)
    with pytest.raises(InputError, match=message):
        check_2026(broken(upload.copy()), GENES, "p", dataclasses.replace(LIMITS_2026, **limits))


def test_a_gene_that_was_not_predicted_is_not_invented():
    with pytest.raises(InputError, match="1 genes missing, 'E' first"):
        columns_of([*GENES, "E"], pd.Index(GENES), "predictions.h5ad")


@pytest.mark.parametrize(("rows", "message"), [("A\nB\nC\n", "3 genes"), ("A\nB\nA\nD\n", "'A' more than once")])
def test_a_wrong_list_of_genes_is_refused(tmp_path, rows, message):
    path = tmp_path / "gene_names.csv"
    path.write_text(rows)
    with pytest.raises(InputError, match=message):
        read_genes(path, 4)


def test_a_list_of_which_a_line_is_not_predicted_makes_no_submission():
    table = asked(measured_cells())
    table.loc[1, ["predicted", "reason"]] = ["no", "measured: its cells are in the data set"]
    with pytest.raises(InputError, match="'F' in 'all': found measured"):
        names_in_list(table, "asked.tsv")


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ({"X": "line1"}, "contexts: found line1; expected each predicted context once: line1, line2"),
        ({"X": "line1", "Y": "line1"}, "contexts: found line1, line1"),
    ],
)
def test_contexts_that_do_not_cover_the_prediction_are_refused(genes, tmp_path, contexts, message):
    cells = measured_cells(LINES)
    with pytest.raises(InputError, match=message):
        write_2026(cells, prediction(cells), asked(cells), genes, tmp_path / "p.h5ad", LIMITS_2026, contexts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": [1.0, 2.0, 1.0] * 4}, "E@line1: found weights from 1 to 2"),
        ({"perturbation": ["G"] * 12}, "a difference in 'E@line1'"),
    ],
    ids=["weights", "another list"],
)
def test_a_prediction_that_is_no_submission_is_refused_and_leaves_no_file(genes, tmp_path, changed, message):
    cells = measured_cells(LINES)
    predictions = prediction(cells)
    predictions.obs = predictions.obs.assign(**changed)
    with pytest.raises(InputError, match=message):
        write_2026(cells, predictions, asked(cells), genes, tmp_path / "p.h5ad", LIMITS_2026)
    assert not list(tmp_path.iterdir())
