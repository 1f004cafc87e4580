"""Learning curves: smaller training sets are parts of larger ones, and the crossing is where it was planted."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from made_up import halved
from scgpt_bench.data import planted
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import conditions_of
from scgpt_bench.data.halves import INPUT, TRUTH
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import condition_means
from scgpt_bench.data.references import references
from scgpt_bench.data.splits import fold, subset
from scgpt_bench.evaluation.learning_curves import CROSSING_COLUMNS, crossings, last_crossing, learning_curves
from scgpt_bench.figures.learning_curves import learning_curves as draw
from scgpt_bench.methods import baselines
from scgpt_bench.methods.training_data import ToPredict, training_data
from scored import metrics_table, study
from snakemake_checkout import ROOT

SIZES = (8, 16, 32, 64)
FULL = 128


@pytest.fixture(scope="module")
def split():
    names = ["control"] * 50 + [f"G{i}" for i in range(40) for _ in range(30)]
    obs = pd.DataFrame({"perturbation": names}, index=[f"cell{i}" for i in range(len(names))])
    return fold(obs, dataset="data", fold=0, folds=4, seed=1, validation_share=0.2, minimum_cells=10)


def roles(table, *wanted):
    return set(table.loc[table["role"].isin(wanted), "perturbation"])


def test_a_smaller_subset_is_part_of_a_larger_one_and_tests_the_same(split):
    learned = set()
    for size in (2, 5, 10, 20, 30):
        part = subset(split, size, dataset="data")
        assert roles(part, "test") == roles(split, "test")
        assert len(roles(part, "train", "validation")) == size
        assert learned < roles(part, "train", "validation")
        learned = roles(part, "train", "validation")
        for role in ("train", "validation"):
            assert roles(part, role)
            assert roles(part, role) <= roles(split, role)


def test_validation_keeps_its_share(split):
    whole = len(roles(split, "validation")) / 30
    assert len(roles(subset(split, 20, dataset="data"), "validation")) == round(20 * whole)


def test_a_size_beyond_what_was_measured_is_the_whole_split(split):
    pd.testing.assert_frame_equal(subset(split, 1000, dataset="data"), split)


def test_another_data_set_has_another_order(split):
    first, second = (roles(subset(split, 10, dataset=name), "train") for name in ("data", "other"))
    assert first != second


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([-1, -1, 1, 1], 2 * np.sqrt(2)),
        ([-3, -2, -1, 1], 4 * np.sqrt(2)),
        ([-1, 1, -1, 1], 4 * np.sqrt(2)),  # ahead for good only from the last one on
        ([1, 2, 3, 4], -np.inf),
        ([-4, -3, -2, 0], np.inf),
        ([-1, np.nan, 1, 1], np.nan),
    ],
)
def test_the_last_crossing(values, found):
    assert last_crossing(np.array([1, 2, 4, 8]), np.array(values, float)) == pytest.approx(found, nan_ok=True)


def curves_with_crossing_at(crossing, slope=0.05, noise=0.2, conditions=40, seed=0, not_asked_at=()):
    """Differences ``slope log2(n / crossing)`` of scgpt from a flat simple method; conditions are alike at all n."""
    random = np.random.default_rng(seed)
    of_condition = random.normal(0, noise, conditions)
    tables, splits, subsets = [], [], {}
    for size in (*SIZES, FULL):
        name = "fold0" if size == FULL else f"fold0-train{size}"
        if size != FULL:
            subsets[name] = ("fold0", size)
        base = 0.4 + random.normal(0, noise / 4, conditions)
        ahead = slope * np.log2(size / crossing) + of_condition + random.normal(0, noise / 4, conditions)
        table = metrics_table({"train-mean": base, "scgpt-finetuned": base + ahead}, split=name)
        tables.append(table.assign(asked=(table["method"] == "train-mean") | (size not in not_asked_at)))
        learned = pd.DataFrame({"perturbation": [f"L{i}" for i in range(size)], "role": "train", "context": "all"})
        splits.append(learned.assign(dataset="planted", split=name))
    whole = study(pd.concat(tables, ignore_index=True), splits=pd.concat(splits, ignore_index=True))
    return learning_curves(whole, subsets)


def test_a_curve_has_a_row_for_each_number_and_method():
    curves = curves_with_crossing_at(32)
    assert curves["n_learned"].tolist() == [*SIZES, FULL] * 2
    assert curves["split"].unique().tolist() == ["fold0"]
    simple = curves["method"] == "train-mean"
    assert curves.loc[simple, "opponent"].isna().all()
    assert (curves.loc[~simple, "opponent"] == "train-mean").all()
    assert curves.loc[~simple, "difference"].is_monotonic_increasing
    assert (curves["ci_low"] < curves["mean"]).all()


def test_a_method_that_was_asked_nothing_at_a_number_has_no_point_there_and_its_crossing_stands():
    curves = curves_with_crossing_at(32, not_asked_at=SIZES[:1])
    own = curves[(curves["method"] == "scgpt-finetuned") & (curves["metric"] == "effect_pearson")]
    assert own["mean"].isna().tolist() == [True, *[False] * len(SIZES)]
    assert own["reason"].iloc[0] == "not asked about any of these conditions"
    whole = crossings(curves_with_crossing_at(32))
    assert crossings(curves)["n_learned"].tolist() == pytest.approx(whole["n_learned"].tolist())


def test_the_interval_of_the_crossing_holds_the_planted_one():
    """2,000 experiments (seed 1), 40 conditions, a crossing at 20 between two sizes: 95 % of the intervals hold it."""
    random = np.random.default_rng(1)
    numbers = np.array([*SIZES, FULL])
    draws = 0.05 * np.log2(numbers / 20) + random.normal(0, 0.2, (2000, 40, 1)) + random.normal(0, 0.05, (2000, 40, 5))
    mean, half = draws.mean(axis=1), stats.t.ppf(0.975, 39) * draws.std(axis=1, ddof=1) / np.sqrt(40)
    curves = pd.DataFrame(
        {
            **dict.fromkeys(("dataset", "split", "context", "metric", "opponent"), "any"),
            "method": np.repeat(np.arange(2000), 5),
            "n_learned": np.tile(numbers, 2000),
            "difference": mean.ravel(),
            "difference_low": (mean - half).ravel(),
            "difference_high": (mean + half).ravel(),
        }
    )
    found = crossings(curves)
    holds = (found["ci_low"].fillna(0) <= 20) & (found["ci_high"].fillna(np.inf) >= 20)
    assert 0.94 <= holds.mean() <= 0.98  # 0.965: its ends are interpolated between the numbers that were run
    assert found["n_learned"].median() == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize(
    ("crossing", "reason"),
    [
        (100_000, "not above the best simple method with 128 perturbations, where it is shown to be behind"),
        (0.001, "above the best simple method with 8 perturbations already"),
        (150, "not above the best simple method with 128 perturbations, where neither is shown to be ahead"),
    ],
)
def test_what_does_not_cross_in_the_measured_range_says_so(crossing, reason):
    table = crossings(curves_with_crossing_at(crossing))
    assert list(table.columns) == CROSSING_COLUMNS
    assert table["n_learned"].isna().all()
    assert table["reason"].tolist() == [reason]


def test_curves_that_lie_on_each_other_cross_nowhere():
    table = crossings(curves_with_crossing_at(32, slope=0.0005))
    assert table[["n_learned", "ci_low", "ci_high"]].isna().all(axis=None)
    assert "neither is shown to be ahead" in table["reason"].item()


def test_folds_are_pooled_at_each_number_and_repeated_numbers_count_once():
    values = {"train-mean": np.linspace(0, 1, 8), "scgpt-finetuned": np.linspace(0.1, 1.1, 8) ** 2}
    names = ["fold0", "fold1", "fold0-train9", "fold1-train9", "fold0-train50", "fold1-train50"]
    tables = [metrics_table(values, split=name) for name in names]
    for number, table in enumerate(tables):
        table["perturbation"] += f"of{number % 2}"
    rows = []
    for name in names:
        size = 9 if name.endswith("9") else 12
        rows += [("planted", name, "train", "all", f"L{i}") for i in range(size)]
    splits = pd.DataFrame(rows, columns=["dataset", "split", "role", "context", "perturbation"])
    whole = study(pd.concat(tables, ignore_index=True), splits=splits, pooled={"all": ("fold0", "fold1")})
    subsets = {name: (name.split("-")[0], int(name.split("train")[1])) for name in names[2:]}
    curves = learning_curves(whole, subsets)
    pooled = curves[curves["split"] == "all"]
    assert pooled["n_learned"].tolist() == [9, 12] * 2
    assert (pooled["n_conditions"] == 16).all()


def test_the_figure_marks_the_crossing():
    curves = curves_with_crossing_at(20)
    figure = draw(curves, crossings(curves), "effect_pearson")
    assert "scgpt-finetuned is above the best simple method from" in figure.get_label()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["8", "16", "32", "64", "128"]


def planted_curve(seed: int, modules: int) -> pd.DataFrame:
    """Curves of the nearest planted module and of the training mean, where all effects have a part in common.

    With its module in training, a perturbation is known almost wholly; without, the nearest is as good as any.
    """
    sizes = {"genes_per_module": 400 // modules, "targets_per_module": 120 // modules, "unmeasured_targets": 0}
    options = {"seed": seed, "modules": modules, "cells_per_perturbation": 40, "atlas_cells": 100, "truth_draws": 2}
    made = planted.generate({**options, **sizes})
    shared = np.where(np.arange(made.cells.n_vars) % 10 == 0, 3, 1)
    perturbed = (made.cells.obs["perturbation"] != "control").to_numpy()
    factors = np.where(perturbed[:, None], shared, 1).astype(np.float32)
    made.cells.X = made.cells.X.multiply(factors).tocsr()
    row = read_datasets(ROOT / "config" / "datasets.tsv")["planted"]
    cells = halved(harmonize(made.cells, row, minimum_cells=10))
    whole = fold(cells.obs, dataset="planted", fold=0, folds=3, seed=seed, validation_share=0.15, minimum_cells=20)
    tested = conditions_of(whole, "test")
    test = ToPredict([condition.perturbation for condition in tested], references(cells, tested, INPUT))
    measured = condition_means(cells, tested)[0] - references(cells, tested, TRUTH)
    vectors = pd.get_dummies(made.truth.var["module"]).mul(made.truth.var["loading"], axis=0)
    tables, splits, subsets = [], [], {f"fold0-train{size}": ("fold0", size) for size in (2, 4, 8, 16, 32, 64)}
    for name in ("fold0", *subsets):
        split = whole if name == "fold0" else subset(whole, subsets[name][1], dataset="planted")
        training = training_data(cells, split)
        shifts = {
            "scgpt-embedding-knn": baselines.knn(training, test, vectors, neighbours=1, scaled=False).values,
            "train-mean": baselines.train_mean(training, test, scaled=False).values,
        }
        scores = {method: [*map(correlation, values, measured)] for method, values in shifts.items()}
        tables.append(metrics_table(scores, split=name))
        splits.append(split.assign(dataset="planted", split=name))
    curves = learning_curves(study(pd.concat(tables, ignore_index=True), splits=pd.concat(splits)), subsets)
    return curves[curves["method"] == "scgpt-embedding-knn"]


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.long
def test_planted_modules_are_known_once_most_of_them_were_measured():
    """Six experiments (seeds 0-5) for each number of modules: the crossing is where about every module was met once."""
    found = {}
    for modules in (5, 10, 20):
        curves = [planted_curve(seed, modules) for seed in range(6)]
        together = np.mean([curve["difference"] for curve in curves], axis=0)
        found[modules] = last_crossing(curves[0]["n_learned"].to_numpy(float), together)
    print(found)
    for modules, number in found.items():
        assert modules / 2.5 < number < modules * 2.5
    assert found[5] < found[10] < found[20]
