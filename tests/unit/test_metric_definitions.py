"""Every metric has its conventions written down, and claims no agreement that is not tested."""

import ast
import math
import re
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import pytest

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metric_definitions import COLUMNS, metric_definitions
from scgpt_bench.evaluation.metrics import METRICS, score

PARITY = ast.parse((Path(__file__).parents[1] / "parity" / "test_peer_metrics.py").read_text())

OF_CELLS = {"energy_distance", "energy_distance_of_means", "spread_ratio", "de_overlap"}


def all_pseudobulk_metrics():
    """Every identifier that score can produce: all gene sets are there, DE genes included."""
    truth = anndata.AnnData(np.random.default_rng(1).random((3, 1001)), table_of([Condition(name) for name in "ABC"]))
    truth.layers["reference_input"] = truth.layers["centroid"] = np.zeros((3, 1001))
    truth.layers["de_rank"] = np.tile(np.arange(1001), (3, 1))
    prediction = truth.copy()
    return list(score(prediction, measured_without_noise(truth))["metric"].unique())


def test_every_metric_has_a_row_in_which_nothing_is_left_open():
    metrics = [*all_pseudobulk_metrics(), *OF_CELLS, "cell_eval.overlap_at_N", "cell_eval2.pds_cosine"]
    table = metric_definitions(metrics)
    assert table["metric"].tolist() == metrics
    assert len(set(metrics)) == len(metrics) > 40
    assert (table[[column for column in COLUMNS if column != "agrees_with"]] != "").all(axis=None)


def test_every_registered_metric_is_computed():
    names = {re.sub(r"_(top\d+|high\d+|no_target)$", "", metric) for metric in all_pseudobulk_metrics()}
    assert {name for name, metric in METRICS.items() if not metric.official} == names | OF_CELLS


def test_an_unknown_metric_is_refused():
    for metric in (
        "spearman",
        "pearson_top30",
        "energy_distances",
        "energy_distance_top20",
        "other_tool.pds",
        "cell_eval2.pds",
    ):
        with pytest.raises(InputError, match=metric):
            metric_definitions([metric])


def function(name):
    return next(node for node in PARITY.body if isinstance(node, ast.FunctionDef) and node.name == name)


def tolerance_in(node, keyword):
    values = [
        k.value.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        for k in call.keywords
        if k.arg == keyword
    ]
    return -math.log10(max(values))


def agreements_in_parity_tests():
    """(metric, tool, digits) as tests/parity/test_peer_metrics.py states and tests them."""
    peers = next(node.value for node in PARITY.body if isinstance(node, ast.Assign) and node.targets[0].id == "PEERS")
    digits = tolerance_in(function("test_metrics_equal_cell_eval"), "atol")
    for key, peer in zip(peers.keys, peers.values, strict=True):
        yield key.value, f"cell-eval {version('cell-eval')} {peer.attr}", digits
    body = function("test_pearson_delta_equals_scgpt")
    digits = tolerance_in(body, "abs")
    loop = next(node for node in ast.walk(body) if isinstance(node, ast.For) and node.target.id == "metric")
    for metric in ast.literal_eval(loop.iter):
        yield metric, f"scgpt {version('scgpt')} compute_perturbation_metrics", digits


def test_the_agreements_claimed_are_those_that_the_parity_tests_test():
    claimed = {(metric, tool, digits) for metric, known in METRICS.items() for tool, digits in known.agrees_with}
    assert claimed == set(agreements_in_parity_tests())


def test_agreement_is_claimed_for_the_tested_gene_set_only():
    table = metric_definitions(["mse", "mse_top20"]).set_index("metric")["agrees_with"]
    assert table.tolist() == ["cell-eval 0.8.2 mse: 6 digits", ""]
