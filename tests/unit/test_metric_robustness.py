"""Metric robustness of predictions whose reaction to each trick is known."""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, table_of
from scgpt_bench.evaluation.metric_robustness import UNTOUCHED, metric_robustness, transformed
from scgpt_bench.evaluation.metrics import metric_of, score
from scgpt_bench.evaluation.pseudobulk import pseudobulk
from scgpt_bench.figures.style import save
from scgpt_bench.figures.trust import robustness_heatmap

GENES = 60


def truth_of(n=6):
    """Measured changes from a control between 2 and 4, so that no value falls below 0."""
    random = np.random.default_rng(1)
    names = [f"G{i}" for i in range(n)]
    control = np.broadcast_to(random.uniform(2, 4, GENES), (n, GENES)).copy()
    layers = {"reference_input": control, "reference_truth": control, "centroid": control + 0.01}
    truth = control + random.normal(0, 0.2, (n, GENES))
    truth[np.arange(n), np.arange(n)] = 0.2  # the targets go down
    var = pd.DataFrame(index=[f"G{i}" for i in range(GENES)])
    return measured_without_noise(
        anndata.AnnData(truth, obs=table_of([*map(Condition, names)]), var=var, layers=layers)
    )


def predicted_cells(truth, delta, cells=4):
    """Cells of spread 0.1 whose mean is the control plus ``delta``."""
    spread = np.random.default_rng(2).normal(0, 0.1, (cells, truth.n_vars))
    X = (truth.layers["reference_input"] + delta)[:, None, :] + spread - spread.mean(axis=0)
    obs = pd.DataFrame({"perturbation": np.repeat(truth.obs_names, cells), "weight": 1.0})
    obs.index = obs.index.astype(str)
    X = X.reshape(-1, truth.n_vars).astype(np.float32)
    return anndata.AnnData(X, obs=obs, var=truth.var)


def half_of(truth):
    return predicted_cells(truth, 0.5 * (truth.X - truth.layers["reference_input"]))


def made(versions, predictions, truth):
    """Cells of every transformation, of the last one where there are several of a name."""
    row = codes_of(predictions.obs, conditions_of(truth.obs))
    return {name: X for (name, _), X in versions(predictions.X, row)}


def cell(panel, transformation, metric, column="share_of_gap"):
    rows = panel[(panel["transformation"] == transformation) & (panel["metric"] == metric)]
    return rows[column].item()


def test_scaling_moves_errors_and_not_correlations():
    panel = metric_robustness(half_of(truth_of()), truth_of())
    assert cell(panel, "delta x 2", "mse") == pytest.approx(1, abs=1e-6), "half of the truth, doubled, is the truth"
    assert cell(panel, "delta x 0.5", "mse") == pytest.approx(1 - (0.75 / 0.5) ** 2, abs=1e-5)
    assert cell(panel, "delta x 4", "mse", "change") < 0
    assert cell(panel, "delta x 4", "pearson_delta", "change") == pytest.approx(0, abs=1e-6)


def test_an_untouched_prediction_changes_nothing_and_has_its_own_scores():
    truth = truth_of()
    predictions = half_of(truth)
    panel = metric_robustness(predictions, truth)
    untouched = panel[panel["transformation"] == UNTOUCHED]
    assert (untouched["change"] == 0).all()
    direct = score(pseudobulk(predictions), truth).groupby("metric")["value"].mean()
    direct = direct[[not metric_of(name).best_at for name in direct.index]]  # what has no right direction has no gain
    assert untouched.set_index("metric")["value"].to_dict() == pytest.approx(direct.to_dict())


def test_spiking_the_target_lifts_a_useless_prediction_where_targets_are_counted():
    truth = truth_of()
    useless = predicted_cells(truth, np.random.default_rng(3).normal(0, 0.1, truth.shape))
    panel = metric_robustness(useless, truth)
    assert cell(panel, "target spiked", "pearson_delta") > 0.3
    assert cell(panel, "target spiked", "pearson_delta_no_target") == 0
    raised = metric_robustness(useless, truth, activated=True)
    assert cell(raised, "target spiked", "pearson_delta") < 0, "the targets of these data go down"


def test_an_activated_target_is_spiked_upwards():
    truth = truth_of()
    X = made(transformed(half_of(truth), truth, activated=True), half_of(truth), truth)["target spiked"]
    np.testing.assert_allclose(X[0, 0], truth.layers["reference_input"][0, 0] + 1, rtol=1e-6)


def test_tricks_that_destroy_a_good_prediction_are_seen_as_such():
    truth = truth_of()
    noise = np.random.default_rng(4).normal(0, 0.1, truth.shape)
    panel = metric_robustness(predicted_cells(truth, truth.X - truth.layers["reference_input"] + noise), truth)
    for trick in ("genes shuffled", "constant", "another truth"):
        for metric in ("pearson_delta", "mse", "discrimination_l1"):
            assert cell(panel, trick, metric, "change") < 0, (trick, metric)


def test_a_metric_without_a_gap_to_the_truth_has_no_share():
    truth = truth_of()
    panel = metric_robustness(predicted_cells(truth, truth.X - truth.layers["reference_input"]), truth)
    assert np.isnan(cell(panel, "another truth", "discrimination_l1"))
    assert cell(panel, "another truth", "discrimination_l1", "change") < 0


def test_each_transformation_does_what_its_name_says():
    truth = truth_of()
    predictions = half_of(truth)
    control, delta = truth.layers["reference_input"], 0.5 * (truth.X - truth.layers["reference_input"])
    cells = made(transformed(predictions, truth), predictions, truth)
    means = {name: X.reshape(truth.n_obs, -1, GENES).mean(axis=1, dtype=np.float64) for name, X in cells.items()}
    np.testing.assert_allclose(means["delta x 0.25"] - control, 0.25 * delta, atol=1e-6)
    np.testing.assert_allclose(means["constant"] - control, np.tile(delta.mean(axis=0), (6, 1)), atol=1e-6)
    np.testing.assert_allclose(np.sort(means["genes shuffled"] - control), np.sort(delta), atol=1e-6)
    np.testing.assert_allclose(cells["log again"], np.log1p(predictions.X), atol=1e-6)
    np.testing.assert_allclose(means["spread x 2"], means[UNTOUCHED], atol=1e-6)
    spread = {name: cells[name].reshape(6, 4, GENES).std(axis=1) for name in (UNTOUCHED, "spread x 2")}
    np.testing.assert_allclose(spread["spread x 2"], 2 * spread[UNTOUCHED], atol=1e-5)
    distance = np.abs(means["another truth"][:, None] - truth.X).max(axis=-1)
    assert sorted(distance.argmin(axis=1)) == list(range(6)), "each truth is used once"
    assert (distance.argmin(axis=1) != np.arange(6)).all(), "by another perturbation"
    assert distance.min(axis=1).max() < 1e-6


def test_a_single_perturbation_has_no_other_truth():
    truth = truth_of(1)
    assert "another truth" not in set(metric_robustness(half_of(truth), truth)["transformation"])


def test_the_figure_names_every_metric_and_writes_what_is_rewarded(tmp_path):
    truth = truth_of()
    panel = metric_robustness(half_of(truth), truth)
    figure = robustness_heatmap(panel, "planted, fold0: half of the truth")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(panel["metric"].unique())
    assert len(axes.get_xticklabels()) == panel["transformation"].nunique() - 1
    column = [label.get_text() for label in axes.get_xticklabels()].index("delta x 2")
    row = list(panel["metric"].unique()).index("mse")
    assert [text.get_text() for text in axes.texts if text.get_position() == (column + 0.5, row + 0.5)] == ["+100"]
    for path in (tmp_path / "a.svg", tmp_path / "b.svg"):
        save(robustness_heatmap(panel, "planted"), path)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
