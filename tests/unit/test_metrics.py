"""Every metric on vectors of three genes whose answer can be computed by hand."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from made_up import measured_without_noise
from predicted import whole
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import METRICS, metric_of, score
from scgpt_bench.predictions import shifted_controls


def truth_of(means, control, names=None, **layers):
    names = names or [f"P{i}" for i in range(len(means))]
    means = np.asarray(means, dtype=np.float64)
    layers = {"reference_input": control, "centroid": np.zeros_like(means), **layers}
    layers = {
        key: np.broadcast_to(np.asarray(value, dtype=np.float64), means.shape).copy() for key, value in layers.items()
    }
    var = pd.DataFrame(index=[f"G{i}" for i in range(means.shape[1])])
    truth = anndata.AnnData(means, obs=table_of(list(map(Condition, names))), var=var, layers=layers)
    return measured_without_noise(truth)


def predicted(means, truth):
    return anndata.AnnData(np.asarray(means, dtype=np.float64), obs=truth.obs.copy(), var=truth.var.copy())


def value(table, metric, perturbation="P0"):
    row = table[(table["metric"] == metric) & (table["perturbation"] == perturbation)]
    return row["value"].item(), row["reason"].item()


def test_a_prediction_equal_to_the_truth_is_perfect():
    truth = truth_of(np.random.default_rng(1).random((4, 30)), np.random.default_rng(2).random(30))
    table = score(predicted(truth.X, truth), truth).set_index("metric")["value"]
    np.testing.assert_allclose(table["pearson_delta"], 1, rtol=1e-12)
    np.testing.assert_allclose(table["pearson"], 1, rtol=1e-12)
    assert (table["mse"] == 0).all()
    assert (table["discrimination_l1"] == 1).all()
    assert (table["mae"] == 0).all()


def test_control_mean_has_the_mean_squared_delta_as_its_error():
    truth = truth_of([[1.0, 2, 3]], [0.0, 2, 5])
    table = score(predicted([[0.0, 2, 5]], truth), truth)
    assert value(table, "mse") == (pytest.approx((1 + 0 + 4) / 3), "")
    assert value(table, "mae") == (1.0, "")


def test_hand_computed_three_genes():
    # deltas: prediction (1, 0, -1), truth (2, 0, 1): centred truth (1, -1, 0), r = 1 / sqrt(2 * 2)
    truth = truth_of([[3.0, 1, 2]], [1.0, 1, 1])
    table = score(predicted([[2.0, 1, 0]], truth), truth)
    assert value(table, "pearson_delta")[0] == pytest.approx(0.5)
    assert value(table, "pearson")[0] == pytest.approx(0.5)
    assert value(table, "mse")[0] == pytest.approx((1 + 0 + 4) / 3)
    assert value(table, "mae")[0] == pytest.approx(1)


def test_hand_computed_changes_of_three_genes():
    # predicted changes (1, 0, -1), true changes (2, 0, 1), their mean 1, so squares around it 1 + 1 + 0
    truth = truth_of([[3.0, 1, 2]], [1.0, 1, 1])
    table = score(predicted([[2.0, 1, 0]], truth), truth)
    assert value(table, "cosine_delta")[0] == pytest.approx((2 + 0 - 1) / np.sqrt(2 * 5))
    assert value(table, "r2_delta")[0] == pytest.approx(1 - (1 + 0 + 4) / 2)
    assert value(table, "sign_agreement")[0] == 0.5, "the second gene has no true change: one of two agrees"


def test_correlation_with_the_centroid_as_reference():
    # changes from the centroid: predicted (-1, 1, 0), true (-1, 2, 2), centred (-2, 1, 1): r = 3 / sqrt(2 * 6)
    truth = truth_of([[2.0, 2, 2]], [1.0, 1, 1], centroid=[3.0, 0, 0])
    table = score(predicted([[2.0, 1, 0]], truth), truth)
    assert value(table, "pearson_delta_centroid")[0] == pytest.approx(3 / np.sqrt(12))


def test_no_predicted_change_agrees_in_sign_like_a_coin():
    truth = truth_of([[3.0, 1, 0]], [1.0, 1, 1])
    assert value(score(predicted([[1.0, 1, 1]], truth), truth), "sign_agreement") == (0.5, "")


def test_gene_sets_leave_the_other_genes_out():
    # P is named G1, so gene 1 is its target. DE ranks put gene 2 first.
    truth = truth_of([[1.0, 5, 3]], [4.0, 2, 1], names=["G1"], de_rank=[2.0, 1, 0])
    table = score(predicted([[2.0, 9, 3]], truth), truth)
    assert value(table, "mse", "G1")[0] == pytest.approx((1 + 16 + 0) / 3)
    assert value(table, "mse_no_target", "G1")[0] == pytest.approx((1 + 0) / 2)
    assert not table["metric"].str.contains("top|high").any(), "fewer than 20 genes: all of them, so copies"


@pytest.mark.parametrize(
    ("suffix", "columns"), [("_top20", range(20)), ("_top50", range(50)), ("_high1000", range(500, 1500))]
)
def test_gene_sets_hold_the_stated_genes(suffix, columns):
    random = np.random.default_rng(9)
    control = np.where(np.arange(1500) >= 500, 2.0, 1.0)
    ranks = np.tile(np.arange(1500), (2, 1))
    truth = truth_of(random.random((2, 1500)), control, de_rank=ranks)
    prediction = random.random((2, 1500))
    columns = list(columns)
    expected = np.square(prediction[:, columns] - truth.X[:, columns]).mean(axis=1)
    table = score(predicted(prediction, truth), truth).query(f"metric == 'mse{suffix}'")
    np.testing.assert_allclose(table["value"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("n", "sets"),
    [(20, set()), (21, {"_top20"}), (198, {"_top20", "_top50", "_top100"}), (1000, {"_top20", "_top50", "_top100"}),
     (1001, {"_top20", "_top50", "_top100", "_high1000"})],
)  # fmt: skip
def test_a_gene_set_of_all_genes_is_not_scored_a_second_time(n, sets):
    truth = truth_of(np.random.default_rng(1).random((2, n)), np.ones(n), de_rank=np.tile(np.arange(n), (2, 1)))
    metrics = score(predicted(truth.X, truth), truth)["metric"]
    found = metrics[metrics.str.startswith("mae")].str.removeprefix("mae").unique()
    assert set(found) == {"", "_no_target", *sets}


def test_excluding_all_genes_gives_a_stated_value():
    truth = truth_of([[1.0]], [0.5], names=["G0"])
    assert value(score(predicted([[2.0]], truth), truth), "mse_no_target", "G0") == (0.0, "no gene left")


def test_discrimination_ranks_the_own_change_among_all():
    # Predicted change of P0 is nearest to that of P1, then to its own, then to that of P2: one of three is nearer.
    truth = truth_of([[1.0, 0, 0], [2, 0, 0], [9, 0, 0]], [0.0, 0, 0])
    table = score(predicted([[1.8, 0, 0], [2.0, 0, 0], [0, 0, 0]], truth), truth).query("metric == 'discrimination_l1'")
    assert table["value"].tolist() == pytest.approx([1 - 1 / 3, 1.0, 1 - 2 / 3])


def test_discrimination_leaves_out_the_targets_and_counts_ties_as_halves():
    truth = truth_of([[5.0, 1, 0], [0, 1, 0]], [0.0, 0, 0], names=["G0", "P1"])
    table = score(predicted([[0.0, 1, 0], [0, 1, 0]], truth), truth).query("metric == 'discrimination_l1'")
    assert table["value"].tolist() == [1 - 0.5 / 2, 1.0]


def test_a_technical_duplicate_scores_what_a_second_sample_of_the_same_size_scores():
    """Means of 400 perturbations with normal noise: halves, corrected, against a full duplicate."""
    random = np.random.default_rng(10)
    signal = random.normal(size=(400, 300))
    halves = [signal + random.normal(0, 1.0, signal.shape) for _ in range(4)]
    truth = truth_of((halves[0] + halves[1]) / 2, np.zeros(300), half_b=halves[1])
    duplicate = score(predicted(halves[0], truth), truth, halved=True)
    full = score(predicted((halves[2] + halves[3]) / 2, truth), truth)
    for metric in ("pearson_delta", "mse", "mae", "cosine_delta", "r2_delta"):
        ours, theirs = (table.groupby("metric")["value"].mean()[metric] for table in (duplicate, full))
        assert ours == pytest.approx(theirs, abs=0.02), metric
    assert set(duplicate["reason"]) == {
        "one half of the cells against the other, corrected for depth",
        "one half of the cells against the other, not corrected for depth",
    }
    signs = [table.query("metric == 'sign_agreement'")["value"].mean() for table in (duplicate, full)]
    assert signs[0] < signs[1], "not corrected: less than a full duplicate"


def test_a_technical_duplicate_of_noise_scores_nothing():
    """Without any response, halves correlate around 0, and so must the ceiling: else it stands above the floor."""
    random = np.random.default_rng(11)
    halves = [random.normal(size=(2000, 20)) for _ in range(2)]
    truth = truth_of((halves[0] + halves[1]) / 2, np.zeros(20), half_b=halves[1])
    table = score(predicted(halves[0], truth), truth, halved=True)
    for metric in ("pearson_delta", "cosine_delta"):
        values = table.loc[table["metric"] == metric, "value"]
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))


def test_a_technical_duplicate_of_noise_scores_nothing_on_differentially_expressed_genes():
    """Genes that all cells choose would have been chosen by the noise of both halves."""
    random = np.random.default_rng(12)
    halves = [random.normal(size=(200, 500)) for _ in range(4)]
    measured, second = (halves[0] + halves[1]) / 2, (halves[2] + halves[3]) / 2
    ranks = [np.argsort(np.argsort(-np.abs(means), axis=1), axis=1) for means in (measured, halves[1])]
    truth = truth_of(measured, np.zeros(500), half_b=halves[1], de_rank=ranks[0], de_rank_half_b=ranks[1])
    ours, theirs = (
        score(predicted(means, truth), truth, halved).groupby("metric")["value"].mean()
        for means, halved in ((halves[0], True), (second, False))
    )
    for suffix in ("_top20", "_top50", "_top100"):
        assert ours["pearson_delta" + suffix] == pytest.approx(0, abs=0.06)
        assert ours["sign_agreement" + suffix] == pytest.approx(0.5, abs=0.03)
        assert ours["r2_delta" + suffix] < 0
        for metric in (name for name, known in METRICS.items() if known.over_gene_sets):
            assert ours[metric + suffix] == pytest.approx(theirs[metric + suffix], rel=0.05, abs=0.06), metric + suffix


def test_correlations_equal_scipy_per_perturbation():
    random = np.random.default_rng(5)
    truth = truth_of(random.random((6, 50)), random.random(50))
    prediction = random.random((6, 50))
    table = score(predicted(prediction, truth), truth)
    control = truth.layers["reference_input"]
    for i, name in enumerate(truth.obs_names):
        expected = stats.pearsonr(prediction[i] - control[i], truth.X[i] - control[i]).statistic
        assert value(table, "pearson_delta", name)[0] == pytest.approx(expected, abs=1e-12)


def test_no_predicted_change_has_a_stated_correlation_in_spite_of_rounding():
    random = np.random.default_rng(7)
    controls = anndata.AnnData(
        np.log1p(random.poisson(1.0, (100, 200))).astype(np.float32),
        obs=pd.DataFrame({"perturbation": "P0", "weight": 1.0}, index=[str(i) for i in range(100)]),
    )
    control_mean = random.exponential(size=200)
    cells, _ = whole(shifted_controls, controls, [Condition("P0")], control_mean[None], np.zeros((1, 200)))
    means = cells.mean(axis=0, dtype=np.float64)
    assert np.abs(means - control_mean).max() > 0, "this test is about rounding"
    truth = truth_of([control_mean + random.normal(size=200)], control_mean)
    assert value(score(predicted([means], truth), truth), "pearson_delta") == (0.0, "prediction has no variance")


def test_a_small_real_change_is_not_taken_for_rounding():
    control = np.linspace(0, 3, 100)
    direction = np.sin(np.arange(100.0))
    truth = truth_of([control + direction], control)
    assert value(score(predicted([control + 1e-4 * direction], truth), truth), "pearson_delta")[0] == pytest.approx(1)


def test_undefined_correlations_say_why():
    truth = truth_of([[1.0, 2, 3], [1.0, 2, 4]], [1.0, 2, 3])
    table = score(predicted([[1.0, 2, 3], [2.0, 3, 4]], truth), truth)
    assert value(table, "pearson_delta", "P0") == (0.0, "prediction and truth have no variance")
    assert value(table, "pearson_delta", "P1") == (0.0, "prediction has no variance")
    assert not table["value"].isna().any()


def test_rows_are_matched_by_name_not_by_position():
    truth = truth_of([[1.0, 2, 3], [4.0, 1, 0]], [1.0, 1, 1], ["A", "B"])
    prediction = predicted(truth.X, truth)[["B", "A"]].copy()
    assert (score(prediction, truth).query("metric == 'mse'")["value"] == 0).all()


def test_other_genes_or_perturbations_are_refused():
    truth = truth_of([[1.0, 2, 3], [4.0, 1, 0]], [1.0, 1, 1], ["A", "B"])
    with pytest.raises(InputError, match="another order"):
        score(predicted(truth.X, truth)[:, ["G1", "G0", "G2"]].copy(), truth)
    with pytest.raises(InputError, match="'B'"):
        score(predicted(truth.X, truth)[["A"]].copy(), truth)


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("pearson_delta_top20", True), ("mse", False), ("mae_top50", False), ("energy_distance", False),
     ("cell_eval.overlap_at_N", True), ("cell_eval.mae", False), ("cell_eval2.de_wilcoxon_lfc_nmae", False)],
)  # fmt: skip
def test_direction_of_a_metric(metric, higher):
    assert metric_of(metric).higher_is_better is higher


@pytest.mark.parametrize(
    ("metric", "full"), [("r2_delta", True), ("r2_delta_high1000", True), ("r2_delta_top50", False),
                         ("pearson_delta_top50", True), ("sign_agreement_top20", False), ("cell_eval.mae", True)],
)  # fmt: skip
def test_what_a_technical_duplicate_is_corrected_for(metric, full):
    assert (metric_of(metric).at_full_depth is not None) is full
