"""What holds for every configuration and for every metric, whatever the values (hypothesis)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scgpt_bench.configuration import TABLES, validate
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metrics import METRICS as REGISTRY
from scgpt_bench.evaluation.pseudobulk_metrics import Means, discrimination_l1
from scgpt_bench.methods.registry import KINDS
from scgpt_bench.options import Study

ROOT = Path(__file__).parents[2]
METRICS = {
    name: metric.function for name, metric in REGISTRY.items() if metric.over_gene_sets or metric.without_targets
}
KEYS = [
    *Study.model_fields,
    *KINDS,
    "planted",
    "kind",
    "checkpoint",
    "files",
    "run",
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KEYS)
YAML = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=3),
    max_leaves=12,
)
GOOD = {"study": "mine", "datasets": ["planted"], "generated": {"planted": {}}, "methods": {"train-mean": {}}}


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """The tables of the project are at the paths that the defaults name."""
    monkeypatch.chdir(ROOT)


@given(st.dictionaries(st.sampled_from(KEYS), YAML, max_size=3))
@example({"dataset_table": ""})
@example({"dataset_table": "none.tsv"})
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_configuration_is_filled_in_for_good_or_refused_in_one_line(changes):
    try:
        config = validate({**GOOD, **changes}, "study.yaml").config
    except InputError as refusal:
        line = str(refusal)
        assert "\n" not in line
        tables = [changes[key] for key in TABLES if isinstance(changes.get(key), str)]
        assert line.startswith(("study.yaml: ", "config", *(f"{table}: " for table in tables if table)))
    else:
        assert validate(config, "study.yaml").config == config


def matrices(n, low=0.0):
    return arrays(np.float64, n, elements=st.floats(low, 8, allow_subnormal=False).map(lambda value: round(value, 3)))


@st.composite
def means(draw):
    """Means of 1 to 4 perturbations over 3 to 12 genes, in the range of log1p values."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(3, 12)))
    prediction, truth, control, centroid, other_control, variance = (draw(matrices(shape)) for _ in range(6))
    return Means(
        prediction=prediction,
        truth=truth,
        control=control,
        centroid=centroid,
        predicted_from=control,
        measured_from=other_control,
        variance=variance,
        full_truth=truth,
    )


@given(means())
@settings(deadline=None)
def test_every_metric_is_finite_and_in_its_range(given_means):
    ranges = {"mse": (0, np.inf), "mae": (0, np.inf), "r2_delta": (-np.inf, 1), "sign_agreement": (0, 1)}
    ranges |= dict.fromkeys(("mse_unbiased", "effect_covariance"), (-np.inf, np.inf))
    for name, metric in METRICS.items():
        values, reasons = metric(given_means)
        assert len(values) == len(reasons) == len(given_means.truth)
        assert np.isfinite(values).all(), name
        low, high = ranges.get(name, (-1, 1))
        assert (values >= low - 1e-9).all(), name
        assert (values <= high + 1e-9).all(), name


@given(means(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_genes_changes_no_metric(given_means, random):
    rows, n = np.arange(len(given_means.truth)), given_means.truth.shape[1]
    columns = random.sample(range(n), n)
    permuted = given_means.of_genes(rows, np.tile(columns, (len(rows), 1)))
    for name, metric in METRICS.items():
        np.testing.assert_allclose(metric(permuted)[0], metric(given_means)[0], rtol=1e-6, atol=1e-6, err_msg=name)


@given(means())
@settings(deadline=None)
def test_nothing_is_better_than_the_truth_itself(given_means):
    copied = replace(given_means, prediction=given_means.truth, full_truth=given_means.truth)
    changed = replace(given_means, prediction=given_means.control + given_means.measured_change)
    for name, metric in METRICS.items():
        if name == "effect_covariance":  # right at the size of the truth, and higher beyond
            continue
        perfect = changed if REGISTRY[name].judges else copied
        best, given_values = metric(perfect)[0], metric(given_means)[0]
        worse = given_values <= best + 1e-9 if REGISTRY[name].higher_is_better else given_values >= best
        assert worse.all(), name


@given(means())
@settings(deadline=None)
def test_squared_error_is_at_least_the_square_of_the_absolute_error(given_means):
    assert (METRICS["mse"](given_means)[0] >= METRICS["mae"](given_means)[0] ** 2 - 1e-9).all()


@given(means(), st.floats(0.1, 10))
@settings(deadline=None)
def test_correlations_of_changes_do_not_depend_on_their_size(given_means, factor):
    """Where a change can be told from rounding, as a change of a thousandth can."""
    reference = given_means.control
    scaled = replace(given_means, prediction=reference + factor * (given_means.prediction - reference))
    for name in ("pearson_delta", "cosine_delta"):
        np.testing.assert_allclose(METRICS[name](scaled)[0], METRICS[name](given_means)[0], atol=1e-6, err_msg=name)


@given(means())
@settings(deadline=None)
def test_discrimination_is_a_rank(given_means):
    none = [np.array([], dtype=int)] * len(given_means.truth)
    values, _ = discrimination_l1(replace(given_means, targets=none))
    n = len(values)
    assert (values > 0).all()
    assert (values <= 1).all()
    np.testing.assert_allclose(2 * n * values, np.rint(2 * n * values), atol=1e-9)
