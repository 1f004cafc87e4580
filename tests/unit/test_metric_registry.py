"""A metric is one entry and its function: a made-up error and a made-up score are seen everywhere that asks."""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metric_definitions import metric_definitions
from scgpt_bench.evaluation.metric_robustness import metric_robustness
from scgpt_bench.evaluation.metrics import HALVED, HALVED_CORRECTED, METRICS, Metric, metric_of, score
from scgpt_bench.evaluation.official.answers import as_metrics
from scgpt_bench.evaluation.scores import scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.figures.scores import method_scores, paired_differences, perturbation_heatmap
from scgpt_bench.figures.style import metric_label
from scored import study

KINDS = {"ridge": "ridge", "near": "script", "technical-duplicate": "technical-duplicate"}
KEY = ["method", "metric"]


def wasserstein(means):
    """Of the sorted values: 0 for the same ones."""
    sides = (np.sort(side, axis=1) for side in (means.prediction, means.truth))
    return np.abs(next(sides) - next(sides)).mean(axis=1), np.full(len(means.truth), "")


def genes_within(means):
    """The share of genes predicted to within 0.5: 1 for a perfect prediction."""
    return (np.abs(means.prediction - means.truth) < 0.5).mean(axis=1), np.full(len(means.truth), "")


@pytest.fixture(autouse=True)
def two_metrics_more(monkeypatch):
    common = {"reference": "none", "source": "this test", "over_gene_sets": True}
    error = Metric(
        name="wasserstein",
        higher_is_better=False,
        denominator="genes",
        label="Wasserstein distance ($)",
        judges=True,
        function=wasserstein,
        at_full_depth=lambda values: values / 2,
        **common,
    )
    share = Metric(
        name="within_mae",  # a score, though its name contains that of an error
        higher_is_better=True,
        denominator="all genes",
        label="genes within 0.5 (fraction)",
        judges=True,
        tie_rule="0.5 is outside",
        function=genes_within,
        **common,
    )
    for metric in (error, share):
        monkeypatch.setitem(METRICS, metric.name, metric)


@pytest.fixture
def truth():
    """12 perturbations of 30 genes."""
    means = 2 + np.random.default_rng(1).random((12, 30))
    layers = dict.fromkeys(("reference_input", "reference_truth"), np.full_like(means, 2))
    layers |= {"centroid": np.full_like(means, 2.5), "half_b": means + 0.1}
    layers["de_rank"] = layers["de_rank_half_b"] = np.tile(np.arange(30), (12, 1))
    obs, var = table_of([Condition(f"P{i:02}") for i in range(12)]), pd.DataFrame(index=[f"G{i}" for i in range(30)])
    return measured_without_noise(anndata.AnnData(means, obs=obs, var=var, layers=layers))


def prediction(truth, shift):
    made = truth.copy()
    made.X = truth.X + shift
    return made


@pytest.fixture
def metrics(truth):
    """``near`` is off by 0.4 everywhere, ``ridge`` by 0.6 to 0.7; halves of the cells by 0.2."""
    off = 0.6 + 0.1 * np.arange(12)[:, None] / 11
    cells = {
        "ridge": prediction(truth, off),
        "near": prediction(truth, 0.4),
        "technical-duplicate": prediction(truth, 0.3),
    }
    halved = "technical-duplicate"
    tables = [score(made, truth, name == halved).assign(method=name) for name, made in cells.items()]
    return pd.concat(tables, ignore_index=True).assign(dataset="made up", split="fold0", seed=0)


def test_they_are_computed_over_every_gene_set_and_corrected_as_they_say(metrics):
    duplicate = metrics[metrics["method"] == "technical-duplicate"].groupby("metric")[["value", "reason"]].first()
    for suffix in ("", "_top20", "_no_target"):
        value, reason = duplicate.loc[f"wasserstein{suffix}"]
        assert (value, reason) == (pytest.approx(0.1), HALVED_CORRECTED)
        assert tuple(duplicate.loc[f"within_mae{suffix}"]) == (1, HALVED)


def test_scores_and_verdicts_know_which_way_is_better(metrics):
    table = scores(study(metrics, KINDS)).set_index(KEY)
    judged = verdicts(study(metrics, KINDS)).set_index(KEY)
    for suffix in ("", "_top20"):
        error, share = (judged.loc["near", name + suffix] for name in ("wasserstein", "within_mae"))
        assert (error["verdict"], share["verdict"]) == ("better", "inconclusive"), "the share differs by 1 throughout"
        assert (error["difference"], share["difference"]) == (pytest.approx(0.25), 1)
    assert table.loc[("near", "wasserstein"), "mean"] == pytest.approx(0.4)


def test_the_definitions_have_a_row_of_each():
    table = metric_definitions(["wasserstein", "wasserstein_no_target", "within_mae_top20"]).set_index("metric")
    assert table["denominator"].tolist() == ["genes", "genes", "all genes"]
    assert table["tie_rule"].tolist() == ["none arise", "none arise", "0.5 is outside"]
    assert table["targets"].tolist() == ["counted like any gene", "left out", "counted like any gene"]
    assert set(table["source"]) == {"this test"}


def test_figures_draw_them_with_their_labels_best_first(metrics):
    table, judged = scores(study(metrics, KINDS)), verdicts(study(metrics, KINDS))
    assert metric_label("within_mae_top20") == "genes within 0.5 (fraction), top 20 genes"
    expected = {
        "wasserstein": r"Wasserstein distance (\$); lower is better",
        "within_mae": "genes within 0.5 (fraction); higher is better",
    }
    for metric, label in expected.items():
        axes = method_scores(table, metric, KINDS).axes[0]
        order = [text.get_text() for text in axes.get_yticklabels()]
        assert axes.get_xlabel() == label
        assert order.index("near") < order.index("ridge")
        differences = " ".join(paired_differences(judged, metric, KINDS).axes[0].get_xlabel().split())
        assert ("sign flipped" in differences) == (metric == "wasserstein")
        strip = perturbation_heatmap(metrics[metrics["metric"] == metric], metric, None, KINDS)
        assert "worst: ridge" in strip.get_label()


def test_metric_robustness_turns_the_error_round(truth):
    cells = prediction(truth, 0.3)
    cells.obs = cells.obs.assign(perturbation=list(cells.obs_names), weight=1.0)
    panel = metric_robustness(cells, truth).set_index(["transformation", "metric"])["change"]
    assert panel["delta x 4", "wasserstein"] < 0
    assert panel["delta x 4", "within_mae"] < 0


def test_an_unknown_metric_is_refused_wherever_its_direction_or_meaning_is_asked(metrics, truth):
    renamed = metrics[metrics["metric"] == "wasserstein"].assign(metric="hausdorff")
    raw = pd.DataFrame({"perturbation": ["P0"], "context": "all", "metric": ["hausdorff"], "value": [0.5]})
    table = scores(study(metrics, KINDS)).assign(metric="hausdorff").drop_duplicates("method")
    asked = [
        lambda: metric_of("hausdorff"),
        lambda: metric_of("wasserstein_top30"),
        lambda: scores(study(renamed, KINDS)),
        lambda: verdicts(study(renamed, KINDS)),
        lambda: metric_definitions(["hausdorff"]),
        lambda: metric_label("hausdorff"),
        lambda: method_scores(table, "hausdorff", KINDS),
        lambda: as_metrics(raw, "cell_eval", "all", halved=False),
    ]
    for ask in asked:
        with pytest.raises(InputError, match=r"hausdorff|wasserstein_top30"):
            ask()
