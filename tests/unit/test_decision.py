"""The rule of decision on measured cells: the true effects win, and what adds no knowledge never does."""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.evaluation.metrics import HEADLINE, score
from scgpt_bench.evaluation.reference_scores import reference_scores
from scgpt_bench.evaluation.scores import scores
from scgpt_bench.evaluation.verdicts import verdicts
from scored import study

TRAINED, TESTED, GENES, CELLS = 60, 40, 2000, 100
CONTROLS = [50, 200, 2000, *(pytest.param(number, marks=pytest.mark.long) for number in (100, 500, 1000))]
EXPERIMENTS = 3  # with each number of controls
STRESSES = ("weaker", "stronger", "spiked", "constant", "of another gene")
SIMPLE = ("control-mean", "train-mean")


def experiment(seed, n_controls, effect=0.6):
    """truth.h5ad, and predicted changes by method: sparse effects of each perturbation, and a part that all share."""
    random = np.random.default_rng([seed, n_controls])
    n = TRAINED + TESTED
    spread = np.exp(random.normal(-1, 0.5, GENES))
    common, own = (
        np.where(random.random(shape) < 0.05, random.normal(size=shape), 0) * spread for shape in (GENES, (n, GENES))
    )
    effects = effect * (0.5 * common + own)
    effects[np.arange(n), np.arange(n)] = -2 * spread[:n]  # of the targets
    base = random.exponential(size=GENES) + 2
    halves = random.normal(size=(2, GENES)) * spread / np.sqrt(n_controls / 2)
    means = effects + random.normal(size=(n, GENES)) * spread / np.sqrt(CELLS)
    learned = (means[TESTED:] - halves[0]).mean(axis=0)
    layers = {
        "reference_input": base + halves[0],
        "reference_truth": base + halves[1],
        "centroid": base + halves[0] + learned,
        "variance_of_mean": spread**2 / CELLS,
        "variance_of_reference": spread**2 / (n_controls / 2),
    }
    obs = table_of([Condition(f"G{number:03d}", "all") for number in range(n)]).assign(
        tested=np.arange(n) < TESTED, n_cells=50
    )
    truth = anndata.AnnData(
        base + means,
        obs=obs,
        var=pd.DataFrame(index=[f"G{number:03d}" for number in range(GENES)]),
        layers={name: np.tile(layer, (n, 1)) for name, layer in layers.items()},
    )
    mean, true = np.tile(learned, (TESTED, 1)), effects[:TESTED]
    spiked = mean.copy()
    spiked[np.arange(TESTED), np.arange(TESTED)] = true[np.arange(TESTED), np.arange(TESTED)]
    return measured_without_noise(truth), {
        **{"control-mean": 0 * mean, "train-mean": mean, "truth": true, "hint": 0.25 * mean + 0.3 * true},
        **{"weaker": 0.25 * mean, "stronger": 3 * mean, "spiked": spiked, "constant": 0 * mean + 0.1},
        "of another gene": mean[:, random.permutation(GENES)],
    }


def judged(seed, n_controls):
    truth, changes = experiment(seed, n_controls)
    tested = truth.obs["tested"].to_numpy(bool)
    tables = [
        score(
            anndata.AnnData(truth.layers["reference_input"][tested] + change, obs=truth.obs[tested], var=truth.var),
            truth,
        ).assign(method=method)
        for method, change in changes.items()
    ]
    place = {"dataset": "drop", "split": "fold0"}
    kinds = {method: method if method in SIMPLE else "imported" for method in changes}
    made = study(pd.concat(tables).assign(seed=0, **place), kinds, reference_scores(truth).assign(**place))
    return scores(made), verdicts(made)


@pytest.fixture(scope="module", params=CONTROLS)
def experiments(request):
    """Scores and verdicts of experiments with so many control cells."""
    made = [judged(seed, request.param) for seed in range(EXPERIMENTS)]
    return [pd.concat(tables, keys=range(EXPERIMENTS), names=["experiment"]) for tables in zip(*made, strict=True)]


def decisions(table, *methods):
    return table[(table["metric"] == HEADLINE) & table["method"].isin(methods)]


def test_the_true_effects_are_better_however_few_the_controls(experiments):
    assert decisions(experiments[1], "truth")["verdict"].tolist() == ["better"] * EXPERIMENTS


def test_part_of_the_truth_is_better(experiments):
    assert set(decisions(experiments[1], "hint")["verdict"]) == {"better"}


def test_what_adds_no_knowledge_is_never_better(experiments):
    found = decisions(experiments[1], *STRESSES)
    assert len(found) == EXPERIMENTS * len(STRESSES)
    assert "better" not in set(found["verdict"])


def test_the_truth_has_a_skill_of_one_and_no_change_of_zero(experiments):
    by_method = decisions(experiments[0], "truth", "control-mean").groupby("method")["skill"].mean()
    assert by_method["truth"] == pytest.approx(1, abs=0.1)
    assert by_method["control-mean"] == 0


def test_nothing_is_taken_for_a_leak(experiments):
    assert not experiments[0]["reason"].str.contains("leak").any()
