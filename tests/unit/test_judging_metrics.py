"""The four metrics that give verdicts: nothing is had cheaply in them, and the truth beats everything else.

And two that are made like them, for plain words: how large a predicted change is, and whether it is found among twenty.
"""

from itertools import combinations

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.evaluation.metrics import METRICS, score

JUDGING = ["effect_pearson", "specific_pearson", "discrimination", "mse_unbiased"]


def truth_of(changes, names=None, tested=None, contexts=None, **layers):
    """Measured means around references of 1 for methods and 2 for the truth; layers as given."""
    changes = np.asarray(changes, dtype=np.float64)
    names = names or [f"P{number}" for number in range(len(changes))]
    contexts = contexts or ["all"] * len(changes)
    layers = {"reference_input": 1.0, "reference_truth": 2.0, "centroid": 1.0, **layers}
    layers = {name: np.broadcast_to(np.asarray(layer, float), changes.shape).copy() for name, layer in layers.items()}
    obs = table_of([Condition(*names_of) for names_of in zip(names, contexts, strict=True)])
    if tested is not None:
        obs["tested"] = tested
    var = pd.DataFrame(index=[f"G{number}" for number in range(changes.shape[1])])
    return measured_without_noise(anndata.AnnData(2 + changes, obs=obs, var=var, layers=layers))


def predicted(changes, truth):
    """Predicted means of the tested conditions: the reference of methods plus a change."""
    tested = truth[truth.obs["tested"].to_numpy()]
    return anndata.AnnData(tested.layers["reference_input"] + np.asarray(changes, float), obs=tested.obs, var=truth.var)


def values(changes, truth, metric, **options):
    table = score(predicted(changes, truth), truth, **options)
    return table[table["metric"] == metric].set_index("perturbation")[["value", "reason"]]


def test_they_come_first_and_effect_pearson_before_all():
    assert [name for name, metric in METRICS.items() if metric.judges] == JUDGING == list(METRICS)[:4]
    truth = truth_of([[1.0, 2, 4]])
    assert score(predicted(truth.X - 2, truth), truth)["metric"].tolist()[:4] == [
        *["effect_pearson", "specific_pearson", "mse_unbiased", "discrimination"]
    ]


def test_hand_computed_changes_each_from_its_own_control_cells():
    # predicted changes (1, 0, -1), measured (2, 0, 1): centred (1, -1, 0); the references do not matter
    truth = truth_of([[2.0, 0, 1]])
    assert values([[1, 0, -1]], truth, "effect_pearson").loc["P0"].tolist() == [pytest.approx(0.5), ""]
    # errors (1, 0, 2), and a noise of 0.1 + 0.2 is known to be in the truth
    truth = truth_of([[2.0, 0, 1]], variance_of_mean=0.1, variance_of_reference=0.2)
    assert values([[1, 0, -1]], truth, "mse_unbiased")["value"].item() == pytest.approx(5 / 3 - 0.3)


def test_the_own_targets_count_in_none_of_them():
    truth = truth_of([[2.0, 0, 1, -9], [1, 1, 0, 0]], names=["G3", "P1"], centroid=[[1, 1, 2, 5], [1, 1, 2, 5]])
    first, second = ([[1, 0, -1, target], [0, 1, 0, 0]] for target in (0, 50))
    for metric in JUDGING:
        one, other = values(first, truth, metric), values(second, truth, metric)
        np.testing.assert_allclose(one["value"].loc["G3"], other["value"].loc["G3"], rtol=1e-12, err_msg=metric)


def test_hand_computed_specific_change():
    # the common shift is (1, -1, 0, 0), the measured change that plus (0, 0, 1, -1), the predicted (0, 0, 2, 0)
    truth = truth_of([[1.0, -1, 1, -1]], centroid=[2.0, 0, 1, 1])
    # left of the prediction, centred: (-.5, -.5, 1.5, -.5), without the shift the same; r = 2 / sqrt(2 x 3)
    assert values([[0, 0, 2, 0]], truth, "specific_pearson")["value"].item() == pytest.approx(2 / np.sqrt(6))


def noise(seed, size=(20, 300)):
    return np.random.default_rng(seed).normal(size=size)


@pytest.mark.parametrize("factor", [0, 0.1, 1, -2, 30])
def test_no_change_and_multiples_of_the_mean_shift_are_no_specific_knowledge(factor):
    shift = noise(1, 300)
    truth = truth_of(shift + noise(2), centroid=1 + shift, names=[f"G{number}" for number in range(20)])
    as_float32 = (1 + factor * np.tile(shift, (20, 1))).astype(np.float32) - 1
    found = values(as_float32, truth, "specific_pearson")
    assert (found["value"] == 0).all()
    assert set(found["reason"]) == {"prediction has no specific change"}


def test_without_a_common_shift_the_specific_change_is_the_change():
    truth = truth_of(noise(3))
    for metric in ("effect_pearson", "specific_pearson"):
        found = values(noise(4) + noise(3), truth, metric)["value"]
        np.testing.assert_allclose(
            found, [np.corrcoef(*rows)[0, 1] for rows in zip(noise(4) + noise(3), noise(3), strict=True)]
        )


def test_no_change_says_so():
    truth = truth_of(noise(5))
    found = values(np.zeros((20, 300)), truth, "effect_pearson")
    assert set(map(tuple, found.to_numpy())) == {(0.0, "prediction has no variance")}


def experiment(seed, n_controls, effect=0.0, n_cells=100, genes=2000, trained=60, tested=40):
    """Changes of trained and tested perturbations as measured, and those that are true.

    The control cells are dealt into two halves; ``shared`` is what all of them would give on both sides.
    """
    random = np.random.default_rng([seed, n_controls])
    spread = np.exp(random.normal(-1, 0.5, genes))
    responds = random.random((trained + tested, genes)) < 0.05
    changes = effect * np.where(responds, random.normal(size=responds.shape), 0) * spread
    halves = random.normal(size=(2, genes)) * spread / np.sqrt(n_controls / 2)
    means = changes + random.normal(size=responds.shape) * spread / np.sqrt(n_cells)
    base = random.exponential(size=genes) + 1
    tests = means[trained:]

    def truth(given, other):
        centroid = base + means[:trained].mean(axis=0)
        references = {"reference_input": base + given, "reference_truth": base + other, "centroid": centroid}
        made = truth_of(np.zeros_like(tests), **references)
        made.X = base + tests
        return made, means[:trained].mean(axis=0) - given

    return truth(*halves), truth(*[halves.mean(axis=0)] * 2), changes[trained:]


@pytest.mark.parametrize("n_controls", [50, 200, 2000])
def test_a_blind_learner_knows_nothing_where_nothing_responds(n_controls):
    """12 experiments: the mean of training holds the error of the control mean, and so did the truth."""
    found = []
    for seed in range(12):
        disjoint, shared, _ = experiment(seed, n_controls)
        blind = [np.tile(mean, (40, 1)) for _, mean in (disjoint, shared)]
        found.append(
            [
                values(blind[0], disjoint[0], "effect_pearson")["value"].mean(),
                values(blind[1], shared[0], "pearson_delta")["value"].mean(),
            ]
        )
    headline, published = np.mean(found, axis=0)
    assert abs(headline) < 0.02
    assert published > 0.1, "the same mean on both sides is taken for a response"


@pytest.mark.parametrize("n_controls", [50, 200, 2000])
def test_the_true_effects_beat_the_training_mean_however_few_the_controls(n_controls):
    for seed in range(3):
        disjoint, shared, true = experiment(seed, n_controls, effect=0.4)
        blind = np.tile(disjoint[1], (40, 1))
        for metric in JUDGING:
            sign = 1 if METRICS[metric].higher_is_better else -1
            own, other = (sign * values(made, disjoint[0], metric)["value"].mean() for made in (true, blind))
            assert own > other, metric
        if n_controls == 50:
            own, other = (values(it, shared[0], "pearson_delta")["value"].mean() for it in (true, [shared[1]] * 40))
            assert own < other, "what published definitions say of the truth"


def test_the_unbiased_error_of_the_truth_is_zero_and_the_plain_one_is_its_noise():
    """400 conditions: standard error of the mean 0.0002."""
    random, true = np.random.default_rng(6), noise(7, (400, 500))
    truth = truth_of(true + random.normal(0, 0.3, true.shape), variance_of_mean=0.05, variance_of_reference=0.04)
    assert values(true, truth, "mse_unbiased")["value"].mean() == pytest.approx(0, abs=0.001)
    assert values(true, truth, "mse_unbiased")["value"].min() < 0, "a single one can be negative"
    half_way = values(true + 0.5, truth, "mse_unbiased")["value"].mean()
    assert half_way == pytest.approx(0.25, abs=0.002), "the squared distance from the true change"


def test_an_unknown_sampling_variance_is_not_subtracted_and_said():
    truth = truth_of([[2.0, 0, 1]], variance_of_mean=np.nan)
    value, reason = values([[1, 0, -1]], truth, "mse_unbiased").iloc[0]
    assert (value, reason) == (pytest.approx(5 / 3), "sampling variance of the truth not known, not subtracted")


def naive_discrimination(changes, measured, names, tested):
    """Every pair of conditions over the genes that are targets of neither."""
    found = []
    for row, own in enumerate(np.flatnonzero(tested)):
        points = 0.0
        for other in range(len(measured)):
            targets = {int(name[1:]) for name in (*names[own].split("+"), *names[other].split("+")) if name[0] == "G"}
            kept = [gene for gene in range(measured.shape[1]) if gene not in targets]
            near, far = (sum(abs(changes[row, gene] - measured[it, gene]) for gene in kept) for it in (own, other))
            points += 0 if other == own else 0.5 if abs(near - far) < 1e-9 else float(far > near)
        found.append(points / (len(measured) - 1))
    return found


def test_discrimination_equals_the_sum_over_pairs_written_out():
    random = np.random.default_rng(8)
    names = ["G0", "G0+G1", "G2", "P3", "G3+G4", "G5", "P6", "G6"]
    tested = np.array([True, True, False, True, True, False, False, True])
    measured = random.integers(-2, 3, (8, 9)).astype(float)  # small integers: many ties
    changes = measured[tested] + random.integers(-1, 2, (5, 9))
    truth = truth_of(measured, names=names, tested=tested)
    found = values(changes, truth, "discrimination")
    np.testing.assert_allclose(found["value"], naive_discrimination(changes, measured, names, tested), rtol=1e-12)
    assert (found["reason"] == "").all()


def test_a_predicted_change_is_sought_among_all_conditions_of_its_context():
    measured = [[0.0, 0], [4, 0], [1, 0], [1, 0]]
    truth = truth_of(measured, tested=[True, True, False, False], names=["A", "B", "C", "D"])
    # of A's others B is further off than A, C and D are nearer; the exact answer for B
    assert values([[0.9, 0], [4, 0]], truth, "discrimination")["value"].tolist() == [pytest.approx(1 / 3), 1.0]
    truth = truth_of(measured, names=["A", "B", "A", "B"], contexts=["k", "k", "r", "r"])
    table = score(predicted([[0.0, 0], [4, 0], [1, 0], [1, 0]], truth), truth).query("metric == 'discrimination'")
    assert table["value"].tolist() == [1, 1, 0.5, 0.5], "two of a context that measure the same are a tie"


def test_conditions_of_fewer_cells_than_the_tested_ones_are_no_candidates():
    """Their noise lies far from any prediction: no change would be found among them."""
    random = np.random.default_rng(6)
    measured = np.concatenate([random.normal(size=(20, 300)), 3 * random.normal(size=(60, 300))])
    truth = truth_of(measured, tested=np.arange(80) < 20)
    nothing = np.zeros((20, 300))
    assert values(nothing, truth, "discrimination")["value"].mean() > 0.8
    truth.obs["n_cells"] = np.where(np.arange(80) < 20, 100, 12)
    assert values(nothing, truth, "discrimination")["value"].mean() == pytest.approx(0.5)
    assert values(nothing, truth, "found_among_20")["value"].mean() == pytest.approx(0.05)


def test_one_prediction_for_all_conditions_discriminates_by_chance():
    """Exactly, whatever it is and whoever is a target: two conditions share the point between them."""
    names = [f"G{number}" for number in range(15)] + [f"G{number}+G{number + 1}" for number in range(15)]
    truth = truth_of(noise(9, (30, 40)), names=names)
    for change in (0.0, noise(10, 40)):
        found = values(np.tile(change, (30, 1)) * np.ones(40), truth, "discrimination")["value"]
        assert found.mean() == pytest.approx(0.5, abs=1e-12)
        assert found.std() > 0.1


def test_a_condition_alone_in_its_context_can_not_be_told_from_others():
    found = values([[1, 2, 3]], truth_of([[1.0, 2, 4]]), "discrimination")
    assert found.iloc[0].tolist() == [0.5, "a single condition in its context"]


def test_a_hand_computed_covariance_is_around_the_means_and_without_the_target():
    truth = truth_of([[2.0, 0, 1, -9]], names=["G3"])
    # predicted (1, 0, -1), measured (2, 0, 1): around their means (1, 0, -1) and (1, -1, 0)
    for target in (0, 50):
        found = values([[1, 0, -1, target]], truth, "effect_covariance").loc["G3"].tolist()
        assert found == [pytest.approx(1 / 3), ""]


def test_the_line_up_counts_the_draws_in_which_the_own_change_is_the_nearest():
    measured = np.arange(23.0)[:, None] * [1, 0, 0]  # of P0 the others are ever further off
    truth = truth_of(measured, tested=np.arange(23) < 3)
    changes = np.array([[0.0, 0, 0], [1.4, 0, 0], [3.4, 0, 0]])
    found = values(changes, truth, "found_among_20")
    for row, change in enumerate(changes):
        distances = np.abs(measured[:, 0] - change[0])
        others = np.delete(distances, row)
        wins = [others[list(drawn)].min() > distances[row] for drawn in combinations(range(22), 19)]
        assert found["value"].iloc[row] == pytest.approx(np.mean(wins)), row
    assert 0 < found["value"].iloc[2] < found["value"].iloc[1] == found["value"].iloc[0] == 1


def test_one_prediction_for_all_is_found_once_in_twenty():
    truth = truth_of(np.random.default_rng(1).normal(size=(30, 40)))
    found = values(np.ones((30, 40)), truth, "found_among_20")["value"]
    assert found.mean() == pytest.approx(1 / 20)


def test_fewer_than_twenty_conditions_are_said_to_be_fewer():
    truth = truth_of(np.eye(5))
    found = values(np.eye(5), truth, "found_among_20")
    assert (found["value"] == 1).all()
    assert set(found["reason"]) == {"among all 5 conditions of its context"}
    alone = values([[1, 2, 3]], truth_of([[1.0, 2, 4]]), "found_among_20")
    assert alone.iloc[0].tolist() == [1 / 20, "a single condition in its context"]


def test_a_technical_duplicate_has_control_cells_of_its_own():
    """Without effects, halves with the same few control cells would correlate; with one quarter each they do not."""
    random = np.random.default_rng(11)
    shape, found = (30, 2000), []
    for _ in range(10):
        controls = random.normal(0, 1 / np.sqrt(25), (2, 2000))
        halves = random.normal(0, 1 / np.sqrt(50), (2, *shape))
        references = {"reference_truth_a": controls[0], "reference_truth_b": controls[1]}
        truth = truth_of(
            halves.mean(axis=0) - 2,
            half_b=halves[1],
            reference_truth=controls.mean(axis=0),
            reference_input=0,
            **references,
        )
        duplicate = anndata.AnnData(halves[0], obs=truth.obs, var=truth.var)
        table = score(duplicate, truth, halved=True).groupby("metric")["value"].mean()
        found.append(table[["effect_pearson", "pearson_delta"]])
    assert abs(np.mean(found, axis=0)[0]) < 0.02


def test_a_technical_duplicate_scores_what_a_second_experiment_of_the_same_size_scores():
    random, true = np.random.default_rng(12), noise(13, (30, 6000))
    halves, controls = random.normal(0, 1, (4, 30, 6000)), random.normal(0, 0.5, (4, 6000))
    truth = truth_of(
        true - 2 + halves[:2].mean(axis=0),
        half_b=true + halves[1],
        reference_truth=controls[:2].mean(axis=0),
        reference_truth_a=controls[0],
        reference_truth_b=controls[1],
        reference_input=0,
        centroid=noise(14, 6000),
        variance_of_mean=1 / 2,
        variance_of_reference=0.25 / 2,
    )
    half = anndata.AnnData(true + halves[0], obs=truth.obs, var=truth.var)
    ours = score(half, truth, halved=True).groupby("metric")["value"].mean()
    theirs = values(true + halves[2:].mean(axis=0) - controls[2:].mean(axis=0), truth, "effect_pearson")["value"].mean()
    assert ours["effect_pearson"] == pytest.approx(theirs, abs=0.01)
    again = true + halves[2:].mean(axis=0) - controls[2:].mean(axis=0)
    for metric in ("specific_pearson", "mse_unbiased"):
        assert ours[metric] == pytest.approx(values(again, truth, metric)["value"].mean(), abs=0.02), metric
