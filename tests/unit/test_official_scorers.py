"""The official scorers get what was measured and predicted, in the scale they take it for, and say what they say."""

import json

import anndata
import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pytest
from cell_eval import MetricsEvaluator, build_base_mean_adata
from cell_eval2 import compute_metrics
from scipy import sparse

from made_up import halved, measure
from predicted import whole
from registered import CONTROLS
from scgpt_bench.data.conditions import listed
from scgpt_bench.data.controls import control_cells, draw_controls
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import scores
from scgpt_bench.evaluation.metrics import HALVED, HALVED_CORRECTED, METRICS, metric_of, score
from scgpt_bench.evaluation.official import cell_eval, cell_eval2
from scgpt_bench.evaluation.official.answers import COLUMNS
from scgpt_bench.evaluation.official.sides import (
    NON_TARGETING,
    TARGET,
    count_sides,
    log_sides,
    log_sides_of_counts,
    measured_side,
    nonnegative,
    sampled_counts,
)
from scgpt_bench.evaluation.pseudobulk import pseudobulk, truth
from scgpt_bench.files import matrix_sha256, write_h5ad, write_table
from scgpt_bench.methods import benchmark_controls, registry
from scgpt_bench.predictions import shifted_controls
from scored import study

GENES = [f"G{i}" for i in range(60)]
TARGETS = GENES[:12]


@pytest.fixture(scope="module")
def cells():
    """12 knock-downs with strong effects: 60 cells each, 200 control cells."""
    random = np.random.default_rng(1)
    labels = np.repeat([CONTROL, *TARGETS], [200] + [60] * 12)
    means = np.tile(random.exponential(3, len(GENES)) + 0.1, (len(labels), 1))
    for number, target in enumerate(TARGETS):
        effect = np.exp(random.normal(0, 0.6, len(GENES)) * (random.random(len(GENES)) < 0.4))
        effect[number] = 0.2
        means[labels == target] *= effect
    counts = random.poisson(means).astype(np.float32)
    X = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    obs = pd.DataFrame(
        {"perturbation": labels, "batch": "b", "cell_type": "T", "context": "all", "direction": "down"},
        index=[f"cell{i}" for i in range(len(labels))],
    )
    return anndata.AnnData(
        sparse.csr_matrix(X),
        obs=obs,
        var=pd.DataFrame(index=GENES),
        layers={"counts": sparse.csr_matrix(counts)},
    )


@pytest.fixture(scope="module")
def split():
    return pd.DataFrame({"perturbation": TARGETS, "role": ["test"] * 6 + ["train"] * 6})


@pytest.fixture(scope="module")
def controls(cells, split):
    return control_cells(
        cells, draw_controls(halved(cells).obs, split, per_perturbation=50, seed=1, dataset="d", split_name="s")
    )


@pytest.fixture(scope="module")
def measured(cells, split):
    return truth(measure(cells), split)


def prediction(X, controls):
    return anndata.AnnData(np.asarray(X, np.float32), obs=controls.obs.copy(), var=controls.var.copy())


@pytest.fixture(scope="module")
def predicted(cells, controls, measured):
    """Predictions of the benchmark controls, by kind."""
    return {
        kind: prediction(whole(CONTROLS[kind], benchmark_controls.Known(cells, controls, measured), 0)[0], controls)
        for kind in ("shuffled", "technical-duplicate")
    }


@pytest.fixture(scope="module")
def cell_eval_reference(cells, split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "cell_eval"
    cell_eval.write_reference(cells, split, 1, folder)
    return folder


@pytest.fixture(scope="module")
def cell_eval2_reference(cells, split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "cell_eval2"
    cell_eval2.write_reference(cells, split, 1, folder)
    return folder


def test_both_sides_have_the_control_cells_that_methods_see(cells, split, predicted):
    seen = is_control_of(cells.obs, INPUT)
    for sides, values in (
        (log_sides(cells, predicted["shuffled"], split), cells.X),
        (count_sides(cells, predicted["shuffled"], split), cells.layers["counts"]),
    ):
        for side in (sides.measured, sides.predicted):
            controls = side[(side.obs[TARGET] == NON_TARGETING).to_numpy()]
            np.testing.assert_array_equal(controls.X.toarray(), values[seen].toarray())
            assert set(side.obs[TARGET]) == {NON_TARGETING, *TARGETS[:6]}


@pytest.mark.parametrize("function", [log_sides, log_sides_of_counts, count_sides])
@pytest.mark.parametrize("kind", ["shuffled", "technical-duplicate"])
def test_cells_on_disk_give_the_sides_of_cells_in_memory(cells, split, predicted, function, kind, tmp_path):
    shuffled = cells[np.random.default_rng(1).permutation(cells.n_obs)].copy()
    write_h5ad(shuffled, tmp_path / "cells.h5ad")
    on_disk = open_h5ad(tmp_path / "cells.h5ad", layers=["counts"])
    assert not sparse.issparse(on_disk.X)
    expected, found = (
        function(given, predicted[kind], split, kind == registry.CEILING) for given in (shuffled, on_disk)
    )
    for one, other in ((expected.measured, found.measured), (expected.predicted, found.predicted)):
        assert matrix_sha256(one.X) == matrix_sha256(other.X)
        pd.testing.assert_frame_equal(one.obs, other.obs)


def test_a_technical_duplicate_meets_the_other_half_of_the_cells(cells, split, predicted, measured):
    sides = log_sides(cells, predicted["technical-duplicate"], split, halved=True)
    own = sides.measured[(sides.measured.obs[TARGET] == "G0").to_numpy()]
    assert own.n_obs == 30
    np.testing.assert_allclose(own.X.toarray().mean(axis=0), measured.layers["half_b"][0], rtol=1e-5)


def test_without_negative_values_the_mean_of_every_perturbation_stays():
    X = np.array([[-1.0, 2, -3], [3, 2, 1], [-2, 0, 5]])
    result = nonnegative(X, np.array(["a", "a", "b"]))
    np.testing.assert_allclose(result, [[0, 2, 0], [2, 2, 0], [0, 0, 5]])


def test_an_unchanged_control_cell_gets_its_own_counts_back(cells, split, controls):
    sides = count_sides(cells, prediction(controls.X.toarray(), controls), split)
    rows = cells.obs_names.get_indexer(controls.obs["control_cell"])
    np.testing.assert_array_equal(sides.predicted.X[: controls.n_obs].toarray(), cells.layers["counts"][rows].toarray())


def test_the_expected_count_is_the_predicted_one_even_below_half_a_count():
    X = np.full((4000, 3), np.log1p([0.1, 0.4, 2.75]))
    counts = sampled_counts(X, np.full(4000, 1.0), [f"cell{i}" for i in range(4000)]).toarray()
    assert (counts == np.rint(counts)).all()
    np.testing.assert_allclose(counts.mean(axis=0), [0.1, 0.4, 2.75], atol=0.03)
    assert set(np.unique(counts[:, 2])) == {2, 3}


def test_counts_of_a_cell_do_not_depend_on_the_other_cells():
    X = np.random.default_rng(1).random((3, 50))
    names = ["a", "b", "c"]
    together = sampled_counts(X, np.ones(3), names).toarray()
    alone = sampled_counts(X[2:], np.ones(1), names[2:]).toarray()
    np.testing.assert_array_equal(together[2:], alone)


def test_without_raw_counts_there_is_nothing_that_cell_eval2_could_compare(cells, split, predicted):
    without = cells.copy()
    del without.layers["counts"]
    with pytest.raises(InputError, match="counts"):
        count_sides(without, predicted["shuffled"], split)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2], [3, 0]], "takes for counts"),
        ([[0.5, 400], [3, 0]], "exceeds log1p"),
        ([[0.5, -1], [3, 0]], "negative"),
    ],
)
def test_values_that_cell_eval_would_take_for_another_scale_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        cell_eval.refuse_another_scale(anndata.AnnData(sparse.csr_matrix(values)), "predictions.h5ad")


def test_a_prediction_in_counts_is_refused(cells, split, controls, cell_eval_reference):
    in_counts = prediction(np.expm1(controls.X.toarray()), controls)
    with pytest.raises(InputError, match=r"predictions\.h5ad"):
        cell_eval.evaluate(log_sides(cells, in_counts, split), cell_eval_reference, 1)


def test_cell_eval_takes_the_values_as_they_are_declared(cells, split, predicted, tmp_path):
    sides = log_sides(cells, predicted["shuffled"], split)
    before = sides.measured.X.copy(), sides.predicted.X.copy()
    pair = MetricsEvaluator(
        sides.predicted,
        sides.measured,
        control_pert=NON_TARGETING,
        pert_col=TARGET,
        outdir=str(tmp_path),
        num_threads=1,
    ).anndata_pair
    np.testing.assert_array_equal(pair.real.X.toarray(), before[0].toarray())
    np.testing.assert_array_equal(pair.pred.X.toarray(), before[1].toarray())


def values_of(table, metric):
    return table[table["metric"] == metric].set_index("perturbation")["value"]


def test_cell_eval_agrees_with_the_metrics_of_this_package(cells, split, predicted, measured, cell_eval_reference):
    table, _ = cell_eval.evaluate(log_sides(cells, predicted["shuffled"], split), cell_eval_reference, 1)
    own = score(pseudobulk(predicted["shuffled"]), measured)
    np.testing.assert_allclose(values_of(table, "cell_eval.mae"), values_of(own, "mae"), atol=1e-5)
    np.testing.assert_allclose(
        values_of(table, "cell_eval.discrimination_score_l1"), values_of(own, "discrimination_l1"), rtol=1e-11
    )


def by_cell_eval_itself(predicted, measured, folder):
    """What cell-eval says of whole sides, dense where it makes them so: of perturbations, and in all."""
    evaluator = MetricsEvaluator(
        predicted, measured, control_pert=NON_TARGETING, pert_col=TARGET, outdir=str(folder), num_threads=1
    )
    results, aggregated = evaluator.compute(profile="vcc", write_csv=False)
    return results.to_pandas().set_index("perturbation"), aggregated


@pytest.mark.parametrize("kind", ["shuffled", "technical-duplicate"])
def test_cell_eval_says_of_groups_what_it_says_of_whole_matrices(
    cells, split, predicted, cell_eval_reference, kind, tmp_path
):
    """Of all measured cells, whose DE comes from the reference, and of half of them, whose DE does not."""
    sides = log_sides(cells, predicted[kind], split, halved=kind == registry.CEILING)
    table, summary = cell_eval.evaluate(sides, cell_eval_reference, 1)
    expected, _ = by_cell_eval_itself(sides.predicted, sides.measured, tmp_path)
    for metric in expected:
        values = values_of(table, f"cell_eval.{metric}")
        assert summary["mean"][metric] == pytest.approx(expected[metric].mean(), rel=1e-5)
        if not sides.halved or metric == "overlap_at_N":  # else corrected for depth
            assert values.to_dict() == pytest.approx(expected[metric].to_dict(), rel=1e-9)


def test_the_baseline_is_that_of_cell_eval(cells, split, cell_eval_reference, tmp_path):
    """Which averages in float32, in no fixed order."""
    measured = measured_side(cells, cells.X, split)
    training = measured_side(cells, cells.X, split.assign(role=split["role"].map({"train": "test", "test": "train"})))
    numbers = measured.obs[TARGET].value_counts()
    counts = pl.DataFrame({TARGET: list(numbers.index), "n_cells": list(numbers)})
    baseline = build_base_mean_adata(training, counts, pert_col=TARGET, control_pert=NON_TARGETING)
    _, expected = by_cell_eval_itself(baseline, measured, tmp_path)
    found = pl.read_csv(cell_eval_reference / "agg_results.csv").select(expected.columns)
    of_cell = np.unique(baseline[(baseline.obs[TARGET] != NON_TARGETING).to_numpy()].X.toarray(), axis=0)
    np.testing.assert_allclose(cell_eval.baseline_cell(cells, split), of_cell[0], rtol=1e-6)
    for metric in expected.columns[1:]:
        np.testing.assert_allclose(found[metric].to_numpy(), expected[metric].to_numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["control-mean", "technical-duplicate"])
def test_genes_are_differentially_expressed_by_their_counts(
    cells, split, controls, measured, predicted, cell_eval_reference, kind
):
    """Control cells moved to the mean of all of them have no zeros where that is upwards, and are not changed."""
    means = np.asarray(measured.layers["reference_input"])
    moved, _ = whole(shifted_controls, controls, listed(measured.obs), means, np.zeros_like(means))
    nothing = prediction(moved, controls)
    given = predicted.get(kind, nothing)
    sides, of_counts = (function(cells, given, split) for function in (log_sides, log_sides_of_counts))
    moved, counted = (cell_eval.evaluate(sides, cell_eval_reference, 1, other)[0] for other in (None, of_counts))
    before, after = (values_of(table, "cell_eval.overlap_at_N").mean() for table in (moved, counted))
    if kind == "control-mean":
        assert after == 0 < before
    else:
        assert after > 0.5
    is_mean = moved["metric"] != "cell_eval.overlap_at_N"
    pd.testing.assert_frame_equal(counted[is_mean], moved[is_mean])


def test_an_unchanged_control_cell_keeps_its_values_beside_its_counts(cells, split, controls):
    sides = log_sides_of_counts(cells, prediction(controls.X.toarray(), controls), split)
    np.testing.assert_allclose(sides.predicted.X[: controls.n_obs].toarray(), controls.X.toarray(), rtol=1e-5)


def test_the_error_of_half_of_the_cells_is_corrected_as_that_of_this_package(
    cells, split, predicted, measured, cell_eval_reference
):
    duplicate = predicted["technical-duplicate"]
    table, _ = cell_eval.evaluate(log_sides(cells, duplicate, split, halved=True), cell_eval_reference, 1)
    own = score(pseudobulk(duplicate), measured, halved=True)
    np.testing.assert_allclose(values_of(table, "cell_eval.mae"), values_of(own, "mae"), atol=1e-5)
    reasons = table.groupby("metric")["reason"].first()
    assert reasons["cell_eval.mae"] == HALVED_CORRECTED
    assert reasons["cell_eval.discrimination_score_l1"] == HALVED


def test_the_score_of_2025_is_0_at_the_baseline_and_follows_the_published_formula(
    cells, split, predicted, cell_eval_reference
):
    sides = log_sides(cells, predicted["technical-duplicate"], split, halved=True)
    _, summary = cell_eval.evaluate(sides, cell_eval_reference, 1)
    table = pl.read_csv(cell_eval_reference / "agg_results.csv")
    baseline = table.filter(table["statistic"] == "mean").row(0, named=True)
    mean = summary["mean"]
    wanted = {
        "mae": 1 - mean["mae"] / baseline["mae"],
        **{
            name: max(0, (mean[name] - baseline[name]) / (1 - baseline[name]))
            for name in ("discrimination_score_l1", "overlap_at_N")
        },
    }
    wanted["avg_score"] = np.mean(list(wanted.values()))
    assert summary["score"] == pytest.approx(wanted, rel=1e-4)
    assert summary["score"]["avg_score"] > 0


def test_a_perturbation_without_significant_gene_says_why_its_overlap_is_0(cells, split, controls, tmp_path):
    nothing = cells.copy()
    X = cells.X.toarray()
    rows = np.flatnonzero(cells.obs["perturbation"] == "G0")
    X[rows] = X[: len(rows)]  # control cells
    nothing.X = sparse.csr_matrix(X)
    cell_eval.write_reference(nothing, split, 1, tmp_path / "reference")
    sides = log_sides(nothing, prediction(controls.X.toarray(), controls), split)
    table, _ = cell_eval.evaluate(sides, tmp_path / "reference", 1)
    row = table[(table["metric"] == "cell_eval.overlap_at_N") & (table["perturbation"] == "G0")]
    assert row["value"].item() == 0
    assert row["reason"].item().startswith("no significant gene in the measured cells")


def test_cell_eval2_tells_the_ceiling_from_the_floor(cells, split, predicted, cell_eval2_reference):
    tables = {
        kind: cell_eval2.evaluate(
            count_sides(cells, predicted[kind], split, kind == registry.CEILING), cell_eval2_reference, 1
        )[0]
        for kind in predicted
    }
    floor, ceiling = (tables[kind].groupby("metric")["value"].mean() for kind in ("shuffled", "technical-duplicate"))
    names = [name for name in METRICS if name.startswith("cell_eval2.")]
    assert set(floor.index) == set(names)
    for name in names:
        assert (ceiling[name] > floor[name]) == metric_of(name).higher_is_better, name
    assert set(tables["technical-duplicate"]["reason"]) == {HALVED}


def test_cell_eval2_says_of_parts_what_it_says_of_whole_matrices(
    cells, split, predicted, cell_eval2_reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(cell_eval2, "CELLS_AT_ONCE", 100)
    sides = count_sides(cells, predicted["shuffled"], split)
    whole = compute_metrics(sides.predicted, sides.measured, config=cell_eval2.preset(cells.var_names, TARGETS[:6], 1))
    expected = whole.to_pandas().set_index(["metric", "perturbation"])["value"].dropna()
    table, _ = cell_eval2.evaluate(sides, cell_eval2_reference, 1)
    found = table.assign(metric=table["metric"].str.removeprefix("cell_eval2.")).set_index(["metric", "perturbation"])
    assert set(found.index) <= set(expected.index)
    np.testing.assert_allclose(found["value"], expected[found.index], rtol=1e-9)
    cell_eval2.write_reference(cells, split, 1, tmp_path / "reference")
    for name in ("baseline_agg.csv", "anchor_agg.parquet"):
        one, other = (
            pl.read_csv(folder / name) if name.endswith("csv") else pl.read_parquet(folder / name)
            for folder in (cell_eval2_reference, tmp_path / "reference")
        )
        pl.testing.assert_frame_equal(one, other, rel_tol=1e-9)


def test_the_scale_of_2026_is_that_of_the_competition(cells, split, predicted, cell_eval2_reference):
    manifest = json.loads((cell_eval2_reference / "manifest.json").read_text())
    assert manifest["rule_mismatches"] == []
    _, summary = cell_eval2.evaluate(count_sides(cells, predicted["shuffled"], split), cell_eval2_reference, 1)
    assert summary["score"]["avg_score"] < 0
    assert summary["note"] == ""


def test_a_scale_that_cannot_be_drawn_says_so_and_the_metrics_stay(cells, split, predicted, tmp_path):
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / cell_eval2.REFUSED).write_text("nothing is significant\n")
    sides = count_sides(cells, predicted["shuffled"], split)
    table, summary = cell_eval2.evaluate(sides, tmp_path / "reference", 1)
    assert len(table)
    assert (summary["score"], summary["note"]) == (None, "nothing is significant")


def test_where_nothing_responds_the_scorer_of_2026_has_its_words_in_place_of_values(cells, split, predicted, tmp_path):
    dead = cells.copy()
    random = np.random.default_rng(2)
    dead.layers["counts"] = sparse.csr_matrix(random.poisson(1.0, cells.shape).astype(np.float32))
    cell_eval2.write_reference(dead, split, 1, tmp_path / "reference")
    refusal = (tmp_path / "reference" / cell_eval2.REFUSED).read_text().strip()
    table, summary = cell_eval2.evaluate(count_sides(dead, predicted["shuffled"], split), tmp_path / "reference", 1)
    assert list(table.columns) == COLUMNS
    assert table.empty
    assert summary["note"] == f"not scored: {refusal}"


def test_any_other_error_of_the_scorer_of_2026_ends_the_job(cells, split, predicted, cell_eval2_reference, monkeypatch):
    def broken(*_, **__):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("cell_eval2.compute_metrics", broken)
    with pytest.raises(ValueError, match="could not be broadcast"):
        cell_eval2.evaluate(count_sides(cells, predicted["shuffled"], split), cell_eval2_reference, 1)


@pytest.mark.parametrize("scorer", [cell_eval, cell_eval2])
def test_cells_of_several_types_are_not_scored_and_say_why(
    cells, split, predicted, cell_eval_reference, scorer, tmp_path
):
    several = cells.copy()
    several.obs["cell_type"] = np.where(np.arange(cells.n_obs) % 2, "K562", "T")
    scorer.write_reference(several, split, 1, tmp_path / "reference")
    sides = log_sides(several, predicted["shuffled"], split)
    table, summary = scorer.evaluate(sides, tmp_path / "reference", 1)
    assert summary["note"].startswith("not scored: cells of 2 types (K562, T")
    path, other = (tmp_path / "d" / f"fold{fold}" / "shuffled" / "0" / "official.tsv" for fold in (0, 1))
    write_table(table, path)
    write_table(cell_eval.evaluate(sides, cell_eval_reference, 1)[0], other)
    result = scores.scores(study(scores.gather([path, other])))
    assert set(result["split"]) == {"fold1"}


def test_two_runs_write_the_same_bytes(cells, split, predicted, cell_eval_reference, cell_eval2_reference, tmp_path):
    for number in range(2):
        one, _ = cell_eval.evaluate(log_sides(cells, predicted["shuffled"], split), cell_eval_reference, 1)
        two, _ = cell_eval2.evaluate(count_sides(cells, predicted["shuffled"], split), cell_eval2_reference, 1)
        write_table(pd.concat([one, two]), tmp_path / f"{number}.tsv")
    assert (tmp_path / "0.tsv").read_bytes() == (tmp_path / "1.tsv").read_bytes()


def test_official_tables_join_the_scores(cells, split, predicted, cell_eval_reference, tmp_path):
    table, _ = cell_eval.evaluate(log_sides(cells, predicted["shuffled"], split), cell_eval_reference, 1)
    path = tmp_path / "d" / "fold0" / "shuffled" / "0" / "official_cell_eval.tsv"
    write_table(table, path)
    result = scores.scores(study(scores.gather([path])))
    assert set(result["metric"]) == {
        "cell_eval.overlap_at_N",
        "cell_eval.discrimination_score_l1",
        "cell_eval.mae",
    }
