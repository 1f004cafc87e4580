"""Submission files of the Virtual Cell Challenge keep to its published limits, or are refused with the reason."""

import tarfile

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.official.sides import NON_TARGETING, TARGET, log_sides
from scgpt_bench.evaluation.submission import (
    Limits2025,
    Limits2026,
    cells_2026,
    check_2025,
    check_2026,
    check_vcc,
    in_order,
    read_genes,
    write_2025,
    write_2026,
)

GENES = ["A", "B", "C", "D"]
LIMITS_2025 = Limits2025(genes=4, cells=12)
LIMITS_2026 = Limits2026(genes=4, cells=12, counts_per_cell=100, stored_entries=48)


def measured_cells():
    """10 control cells and 5 of the knock-downs of A and B; the genes not in the challenge's order."""
    counts = np.random.default_rng(1).poisson(3, (20, 4)).astype(np.float32) + 1
    X = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    obs = pd.DataFrame(
        {"perturbation": ["control"] * 10 + ["A"] * 5 + ["B"] * 5, "half": "input"},
        index=[f"cell{i}" for i in range(20)],
    )
    layers = {"counts": sparse.csr_matrix(counts)}
    var = pd.DataFrame(index=["B", "A", "C", "D"])
    return anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs, var=var, layers=layers)


def prediction(cells, perturbations=("A", "B"), number=1):
    rows = [row for _ in perturbations for row in range(number)]
    obs = pd.DataFrame(
        {"perturbation": np.repeat(perturbations, number), "control_cell": cells.obs_names[rows]},
        index=[f"{name}:cell{row}" for name, row in zip(np.repeat(perturbations, number), rows, strict=True)],
    )
    return anndata.AnnData(cells.X[rows].toarray(), obs=obs, var=cells.var.copy())


@pytest.fixture
def genes(tmp_path):
    path = tmp_path / "gene_names.csv"
    path.write_text("\n".join(GENES) + "\n")
    return path


@pytest.fixture
def predicted_2025():
    cells = measured_cells()
    split = pd.DataFrame({"perturbation": ["A", "B"], "role": "test"})
    return log_sides(cells, prediction(cells), split).predicted


@pytest.fixture
def contexts():
    """Two contexts of six predicted cells."""
    cells = measured_cells()
    return {line: (cells, prediction(cells, number=3)) for line in ("line1", "line2")}


@pytest.fixture
def upload_2026(contexts):
    return cells_2026(contexts, GENES)


def test_the_published_limits_are_the_defaults():
    assert (Limits2025().genes, Limits2025().cells) == (18_080, 200_000)
    assert (Limits2026().genes, Limits2026().cells) == (18_533, 360_000)
    assert (Limits2026().counts_per_cell, Limits2026().stored_entries) == (1_000_000, 4_750_000_000)


def test_the_vcc_file_holds_the_prediction_with_its_control_cells_in_the_order_of_the_list(
    predicted_2025, genes, tmp_path
):
    path = tmp_path / "prediction.vcc"
    write_2025(predicted_2025, genes, path, LIMITS_2025)
    check_vcc(path, GENES, LIMITS_2025)
    with tarfile.open(path) as archive:
        assert sorted(archive.getnames()) == ["pred.h5ad.zst", "watermark.txt"]
    with pytest.raises(InputError, match="at most 11"):
        check_vcc(path, GENES, Limits2025(genes=4, cells=11))


def test_cell_eval_prep_changes_no_value(predicted_2025, genes, tmp_path, monkeypatch):
    packed = {}
    monkeypatch.setattr(
        "scgpt_bench.evaluation.submission.check_2025", lambda adata, *_: packed.update(last=adata.copy())
    )
    write_2025(predicted_2025, genes, tmp_path / "prediction.vcc", LIMITS_2025)
    np.testing.assert_array_equal(packed["last"].X.toarray(), predicted_2025[:, GENES].X.toarray())
    assert list(packed["last"].obs[TARGET]) == list(predicted_2025.obs[TARGET])


def test_a_refused_submission_leaves_no_file(predicted_2025, genes, tmp_path):
    with pytest.raises(InputError):
        write_2025(predicted_2025, genes, tmp_path / "prediction.vcc", Limits2025(genes=4, cells=11))
    assert not list(tmp_path.glob("*vcc*"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda adata: adata[adata.obs[TARGET] != NON_TARGETING], "no control cell"),
        (lambda adata: adata[:, ["B", "A", "C", "D"]], r"var_names\[0\]: found 'B'; expected 'A'"),
        (lambda adata: adata[:, ["A", "B", "C"]], "found 3 genes; expected 4"),
        (lambda adata: anndata.concat([adata, adata], index_unique="-"), "found 24 cells; expected at most 12"),
        (lambda adata: anndata.AnnData(adata.X, var=adata.var), "the column 'target_gene'"),
        (lambda adata: anndata.AnnData(adata.X.rint(), adata.obs, adata.var), "takes for counts"),
    ],
    ids=["no controls", "order", "genes", "cells", "column", "counts"],
)
def test_what_the_challenge_of_2025_refuses_is_refused_here(predicted_2025, broken, message):
    adata = predicted_2025[:, GENES].copy()
    check_2025(adata, GENES, "p", LIMITS_2025)
    with pytest.raises(InputError, match=message):
        check_2025(broken(adata).copy(), GENES, "p", LIMITS_2025)


def test_the_upload_of_2026_holds_whole_counts_of_all_contexts_and_no_control_cell(contexts, genes, tmp_path):
    path = tmp_path / "prediction.h5ad"
    write_2026(contexts, genes, path, LIMITS_2026)
    written = anndata.read_h5ad(path)
    assert np.issubdtype(written.X.dtype, np.integer)
    assert list(written.var_names) == GENES
    assert written.obs.groupby(["context", TARGET], observed=True).size().to_dict() == {
        (line, target): 3 for line in ("line1", "line2") for target in ("A", "B")
    }
    # The prediction is the control cells as they are: their own counts come back.
    counts = anndata.AnnData(measured_cells().layers["counts"], var=measured_cells().var)[:3, GENES].X
    np.testing.assert_array_equal(written.X[:3].toarray(), counts.toarray())


def with_control(adata):
    adata.obs[TARGET] = [NON_TARGETING, *adata.obs[TARGET][1:]]
    return adata


@pytest.mark.parametrize(
    ("broken", "limits", "message"),
    [
        (with_control, {}, "1 control cells; expected predicted cells only"),
        (lambda adata: adata[:11], {}, "found 11 cells; expected 12"),
        (lambda adata: adata[:, ["B", "A", "C", "D"]], {}, r"var_names\[0\]"),
        (lambda adata: anndata.AnnData(adata.X, adata.obs[[TARGET]], adata.var), {}, "the column 'context'"),
        (lambda adata: anndata.AnnData(adata.X * 0.5, adata.obs, adata.var), {}, "not whole"),
        (lambda adata: anndata.AnnData(adata.X * -1, adata.obs, adata.var), {}, "below 0"),
        (lambda adata: adata, {"counts_per_cell": 5}, "at most 5 a cell"),
        (lambda adata: adata, {"stored_entries": 47}, "48 stored entries; expected at most 47"),
    ],
    ids=["controls", "cells", "order", "column", "whole", "negative", "depth", "entries"],
)
def test_what_the_challenge_of_2026_refuses_is_refused_here(upload_2026, broken, limits, message):
    check_2026(upload_2026, GENES, "p", LIMITS_2026)
    limits = Limits2026(**{"genes": 4, "cells": 12, "counts_per_cell": 100, "stored_entries": 48, **limits})
    with pytest.raises(InputError, match=message):
        check_2026(broken(upload_2026.copy()), GENES, "p", limits)


def test_a_gene_that_was_not_predicted_is_not_invented(predicted_2025):
    with pytest.raises(InputError, match="1 genes missing, 'E' first"):
        in_order(predicted_2025, [*GENES, "E"], "predictions.h5ad")


@pytest.mark.parametrize(("rows", "message"), [("A\nB\nC\n", "3 genes"), ("A\nB\nA\nD\n", "'A' more than once")])
def test_a_wrong_list_of_genes_is_refused(tmp_path, rows, message):
    path = tmp_path / "gene_names.csv"
    path.write_text(rows)
    with pytest.raises(InputError, match=message):
        read_genes(path, 4)


def test_contexts_may_hold_their_genes_in_different_orders():
    cells = measured_cells()
    other = cells[:, ["D", "C", "B", "A"]].copy()
    adata = cells_2026({"line1": (cells, prediction(cells)), "line2": (other, prediction(other))}, GENES)
    np.testing.assert_array_equal(adata.X[:2].toarray(), adata.X[2:].toarray())
