"""A method is one entry and its function: a made-up simple method and a made-up model are seen everywhere that asks."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scgpt_bench import options
from scgpt_bench.configuration import validate
from scgpt_bench.evaluation.metrics import METRICS, Metric
from scgpt_bench.evaluation.scores import scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.figures.scores import method_scores, paired_differences
from scgpt_bench.figures.style import method_style
from scgpt_bench.methods import registry
from scored import study

ROOT = Path(__file__).parents[2]
COLOUR, MODEL_COLOUR = "#123456", "#654321"


@pytest.fixture(autouse=True)
def two_methods_and_a_metric_more(monkeypatch):
    median = registry.MethodKind(
        name="train-median",
        description="Every perturbation has the median shift of the training perturbations.",
        group=registry.SIMPLE,
        rules=("predict_baseline",),
        environment="evaluation",
        function="train_median",
        options=(options.Weighting,),
        colour=COLOUR,
        expected="any",
    )
    model = registry.MethodKind(
        name="graph-model",
        description="A network on a graph of genes.",
        group=registry.OTHER_MODEL,
        rules=("predict_graph_model",),
        environment="graph",
        options=(options.FromCheckpoint,),
        colour=MODEL_COLOUR,
    )
    for kind in (median, model):
        monkeypatch.setitem(registry.KINDS, kind.name, kind)
    agreement = Metric(
        name="agreement",
        higher_is_better=True,
        reference="none",
        denominator="all genes",
        source="this test",
        label="agreement (fraction)",
        judges=True,
    )
    monkeypatch.setitem(METRICS, agreement.name, agreement)


METHODS = {
    "train-median": {},
    "by-cell": {"kind": "train-median", "weighting": "cell"},
    "graph-model": {"checkpoint": "untrained"},
    "technical-duplicate": {},
    "shuffled": {},
}
LEVELS = {"train-median": 0.5, "by-cell": 0.4, "graph-model": 0.7, "technical-duplicate": 0.9, "shuffled": 0.0}


def configured(methods):
    given = {
        "study": "made_up",
        "datasets": ["papalexi_2021"],
        "checkpoints": {"untrained": {"source": "random"}},
        "methods": methods,
    }
    return validate(given, "study.yaml").config["methods"]


@pytest.fixture
def kinds():
    return {name: options["kind"] for name, options in configured(METHODS).items()}


@pytest.fixture
def metrics():
    noise = np.random.default_rng(1).normal(0, 0.05, 12)
    columns = {"perturbation": [f"P{number}" for number in range(12)], "context": "all"}
    columns |= {"dataset": "d", "split": "fold0", "seed": 0}
    tables = [
        pd.DataFrame({**columns, "method": name, "metric": "agreement", "value": level + noise * (1 + level)})
        for name, level in LEVELS.items()
    ]
    return pd.concat(tables, ignore_index=True)


def test_a_configuration_takes_its_options_and_fills_in_their_defaults(kinds):
    found = configured(METHODS)
    assert found["train-median"]["weighting"] == "perturbation"
    assert found["by-cell"]["weighting"] == "cell"
    assert kinds["by-cell"] == "train-median"


def test_a_simple_method_judges_a_model_is_judged_and_benchmark_controls_do_neither(metrics, kinds):
    judged = verdicts(study(metrics, kinds)).set_index("method")
    assert list(judged.index) == ["graph-model"]
    assert judged.loc["graph-model", "opponent"] == "train-median"
    assert judged.loc["graph-model", "verdict"] == "better"
    assert set(scores(study(metrics, kinds))["method"]) == set(METHODS)


def test_figures_draw_it_in_its_colour_and_a_variant_in_the_same_with_another_fill(metrics, kinds):
    assert method_style("train-median")[1:] == (COLOUR, "o", "-", "full")
    assert method_style("by-cell", "train-median")[1:] == (COLOUR, "o", "--", "left")
    several = dict.fromkeys(("a", "train-median", "b"), "train-median")
    assert method_style("b", "train-median", several)[1:] == (COLOUR, "o", ":", "bottom")
    table = scores(study(metrics, kinds))
    ladder = method_scores(table, "agreement", kinds)
    drawn = {line.get_color() for line in ladder.axes[0].lines}
    assert {COLOUR, MODEL_COLOUR} <= drawn
    legend = [text.get_text() for text in ladder.axes[0].get_legend().get_texts()]
    assert legend == ["simple method", "benchmark control", "other model", "half filled: variant, colour of its kind"]
    differences = paired_differences(verdicts(study(metrics, kinds)), "agreement", kinds)
    assert MODEL_COLOUR in {line.get_color() for line in differences.axes[0].lines}


def test_the_configuration_document_has_a_table_of_it():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "write_configuration.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = dict(tables.sections())["methods"]
    assert "### `train-median`\n\nEvery perturbation has the median shift" in text
    assert "`weighting`" in text[text.index("### `train-median`") : text.index("### `graph-model`")]


def test_every_registered_colour_is_one_methods_own():
    colours = [kind.colour for kind in registry.KINDS.values() if kind.colour]
    assert len(set(colours)) == len(colours)
