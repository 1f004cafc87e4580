"""Verdicts on paired differences, where the answer is known by hand; ``test_calibration.py`` simulates others."""

import numpy as np
import pytest
from scipy import stats

from scgpt_bench.evaluation.paired_inference import DRAWS, compare, design


def names(n):
    """Perturbations of one gene each."""
    return tuple(f"G{number:03d}" for number in range(n))


def of(differences, perturbations=None, training=None):
    """A comparison with one opponent of scores [conditions], or with several seeds and opponents."""
    differences = np.asarray(differences, float)
    differences = differences.reshape(*differences.shape, *[1] * (3 - differences.ndim))
    return compare(differences, design(perturbations or names(len(differences))), training)


def verdict(comparison):
    if comparison.p_value > 0.05:
        return "inconclusive"
    return "better" if comparison.better() < comparison.worse() else "worse"


GOLDEN_GENES = ("a", "a+b", "b", "c+d", "d", "e", "f", "g+h", "i", "j", "k", "a+l")


def golden():
    i, s, k = np.arange(12)[:, None, None], np.arange(3)[None, :, None], np.arange(2)[None, None]
    condition = 0.06 + 0.05 * k + 0.1 * np.sin(1.7 * i + 0.9 * k)
    return condition + 0.03 * np.cos(2.3 * s) + 0.02 * np.sin(3.1 * i * (s + 1))


def test_the_golden_design():
    known = design(GOLDEN_GENES)
    assert (known.bias, known.df) == pytest.approx((0.779694, 6.191348), abs=1e-6)


def test_the_golden_comparisons_with_one_opponent():
    several, one = of(golden()[:, :, :1], GOLDEN_GENES), of(golden()[:, :1, :1], GOLDEN_GENES)
    found = [
        (c.difference[0], np.sqrt(c.covariance[0, 0]), c.df[0], c.skewness[0], c.p_value, c.smallest_detectable)
        for c in (several, one)
    ]
    assert found[0] == pytest.approx((0.059238, 0.026855, 3.848645, -0.019422, 0.098363, 0.112209), abs=1e-6)
    assert found[1] == pytest.approx((0.089821, 0.020634, 6.191348, -0.035717, 0.005775, 0.072980), abs=1e-6)
    assert several.interval() == pytest.approx((-0.018012, 0.134970), abs=1e-6)
    assert one.interval() == pytest.approx((0.038054, 0.139935), abs=1e-6)
    assert verdict(one) == "better"


@pytest.mark.parametrize(
    ("training", "se", "df", "p_value", "interval", "detectable", "equivalent"),
    [
        (None, (0.02686, 0.03051), (3.849, 4.732), 0.0984, (-0.0180, 0.149), 0.1122, 0.154),
        (9.6, (0.03550, 0.04161), (5.927, 7.112), 0.1487, (-0.0285, 0.161), 0.1270, 0.223),
    ],
)
def test_the_golden_comparisons_with_two_opponents(training, se, df, p_value, interval, detectable, equivalent):
    found = of(golden(), GOLDEN_GENES, training)
    assert found.difference == pytest.approx((0.05924, 0.11552), abs=1e-5)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(se, abs=1e-5)
    assert found.df == pytest.approx(df, abs=1e-3)
    assert found.p_value == pytest.approx(p_value, abs=1e-4)
    assert found.interval() == pytest.approx(interval, abs=3e-3)  # of other draws
    assert found.smallest_detectable == pytest.approx(detectable, abs=1e-4)
    assert max(found.better(-0.1), found.worse(0.1)) == pytest.approx(equivalent, abs=0.01)


def test_without_relatives_seeds_and_folds_it_is_the_paired_t_test():
    half = np.random.default_rng(1).normal(0.3, 1, 10)
    symmetric = np.concatenate([0.4 + half, 0.4 - half])
    expected = stats.ttest_1samp(symmetric, 0)
    assert of(symmetric).p_value == pytest.approx(expected.pvalue)
    assert of(symmetric).interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_skewed_differences_are_never_more_certain_than_by_t():
    random = np.random.default_rng(2)
    for values in random.lognormal(size=(200, 15)) - 1.2:
        assert of(values).p_value >= stats.ttest_1samp(values, 0).pvalue - 1e-12


def test_copies_in_several_contexts_count_as_one_perturbation():
    """As many in every context: the standard error is that of the means of perturbations."""
    random = np.random.default_rng(3)
    shared = random.normal(0.1, 0.1, (20, 1)) + random.normal(0, 0.02, (20, 3))
    found, means = of(shared.ravel(), tuple(np.repeat(names(20), 3))), shared.mean(1)
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(means.std(ddof=1) / np.sqrt(20), rel=1e-12)
    assert found.df[0] == pytest.approx(19)
    assert found.skewness[0] == pytest.approx(stats.skew(means, bias=False) / np.sqrt(20))


def test_the_same_values_under_more_context_names_are_no_more_evidence():
    values = np.array([0.31, 0.28, 0.35])
    for copies in (1, 2, 10):
        assert "conditions" in design(names(3) * copies).refusal
    few, many = of(np.tile(values, 2), names(3) * 2), of(np.tile(values, 10), names(3) * 10)
    assert many.p_value == pytest.approx(few.p_value)


@pytest.mark.parametrize("opponents", [1, 5])
def test_p_value_and_interval_never_contradict_one_another(opponents):
    random = np.random.default_rng(4)
    hits = 0
    for _ in range(1000 if opponents == 1 else 200):
        skewed = random.lognormal(0, random.uniform(0.1, 1), (14, 3, 1))
        values = skewed - skewed.mean() + random.normal(0, 0.5, (14, 3, opponents)) + random.normal(0, 0.25)
        found, margin = of(values, training=random.choice([None, 10])), random.uniform(0.1, 1)
        low, high = found.interval()
        assert (found.p_value <= 0.05) == (low > 0 or high < 0)
        low, high = found.interval(0.9)
        assert (max(found.better(-margin), found.worse(margin)) <= 0.05) == (-margin < low and high < margin)
        hits += found.p_value <= 0.05
    assert hits > 5, "some of either kind"


def test_order_and_scale_are_irrelevant_and_a_changed_sign_mirrors():
    values, random = golden(), np.random.default_rng(5)
    found = of(values, GOLDEN_GENES)
    order = random.permutation(12)
    mixed = of(values[order][:, ::-1, ::-1], tuple(GOLDEN_GENES[i] for i in order))
    assert mixed.p_value == pytest.approx(found.p_value, rel=0.1)  # of other draws
    assert mixed.better() == pytest.approx(found.better())
    scaled = of(1000 * values, GOLDEN_GENES)
    assert scaled.p_value == pytest.approx(found.p_value)
    assert np.array(scaled.interval()) / 1000 == pytest.approx(found.interval())
    one, mirrored = of(values[:, :, :1], GOLDEN_GENES), of(-values[:, :, :1], GOLDEN_GENES)
    assert mirrored.worse() == pytest.approx(one.better())
    assert mirrored.interval() == pytest.approx([-end for end in one.interval()[::-1]])


def test_identical_opponents_count_as_one():
    values = golden()[:, :, :1]
    one, four = of(values, GOLDEN_GENES), of(np.repeat(values, 4, axis=2), GOLDEN_GENES)
    assert four.p_value == pytest.approx(one.p_value, rel=0.1)
    width = one.interval()[1] - one.interval()[0]
    assert four.interval() == pytest.approx(one.interval(), abs=0.02 * width)


def test_one_gene_in_most_conditions_is_refused():
    hub = tuple(f"A+B{number}" for number in range(40))
    assert "share one gene" in design(hub).refusal
    assert "share one gene" in design((*hub[:32], *names(8))).refusal
    assert not design((*hub[:10], *names(30))).refusal


@pytest.mark.parametrize(("n", "refused"), [(1, True), (2, True), (5, True), (6, False)])
def test_fewer_than_six_independent_conditions_are_refused(n, refused):
    assert bool(design(names(n)).refusal) == refused


def test_differences_without_a_spread_give_no_p_value_unless_they_are_zero():
    assert not of([0.3] * 8).varies
    same = of([0.0] * 8)
    assert same.varies
    assert (same.p_value, same.interval()) == (1.0, (0.0, 0.0))


def test_a_seed_effect_does_not_average_out_over_conditions():
    """Three seeds that differ by more than conditions do: 500 conditions are no better than three seeds."""
    random = np.random.default_rng(6)
    values = random.normal(0, 0.01, (500, 3)) + np.array([0.0, 0.1, 0.2])
    found = of(values)
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert found.df[0] == pytest.approx(2, abs=0.05)
    assert found.p_value > 0.05 > of(values.mean(1)).p_value


def test_folds_widen_the_part_of_conditions_only():
    values = golden()[:, :, :1]
    single, pooled = of(values, GOLDEN_GENES), of(values, GOLDEN_GENES, training=9.6)
    of_seeds = values[:, :, 0].mean(0).var(ddof=1) / 3
    assert pooled.covariance[0, 0] - of_seeds == pytest.approx(2.25 * (single.covariance[0, 0] - of_seeds))


def test_draws_are_chosen_for_a_whole_number_of_extremes():
    assert (DRAWS + 1) * 0.025 % 1 == 0


def in_contexts(perturbations, contexts):
    """Each perturbation in each context."""
    return tuple(np.repeat(names(perturbations), contexts)), tuple("ABCDEFGH"[:contexts]) * perturbations


def test_contexts_are_a_second_way_of_clustering_from_four_on():
    perturbations, contexts = in_contexts(25, 3)
    assert design(perturbations, contexts).contexts is None
    perturbations, contexts = in_contexts(25, 4)
    known = design(perturbations, contexts)
    assert known.df == pytest.approx(3)
    skewed = np.repeat([[0.0, 0.1, 0.1, 0.9]], 25, axis=0).ravel()[:, None, None]
    low, high = compare(skewed, known).interval()
    assert low + high == pytest.approx(2 * skewed.mean())  # four means have no skewness worth correcting for
    assert known.bias == pytest.approx(0.75 * 0.96)
    assert not known.refusal


def test_sums_over_related_conditions_are_those_of_the_whole_matrix():
    perturbations = ("a", "a+b", "b", "c", "a", "c+d", "d", "e", "a", "b")
    contexts = ("A", "A", "A", "B", "B", "B", "C", "C", "D", "D")
    known, values = design(perturbations, contexts), np.arange(20.0).reshape(10, 2) ** 1.5
    genes = [set(name.split("+")) for name in perturbations]
    related = np.array([
        [bool(one & other) or here == there for other, there in zip(genes, contexts, strict=True)]
        for one, here in zip(genes, contexts, strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(known.over_related(values), related @ values)
    centred = related - related.mean(0) - related.mean(1)[:, None] + related.mean()
    same = np.equal.outer(np.array(contexts), np.array(contexts))
    assert known.bias <= np.trace(centred) / 10 + 1e-12
    assert known.bias <= (centred * same).sum() / same.sum() + 1e-12


def test_contexts_of_which_one_has_nearly_all_conditions_are_no_basis():
    names_of = tuple(f"G{number}" for number in range(100))
    known = design(names_of, ("A",) * 97 + ("B", "C", "D"))
    assert "in 4 contexts, most of them in one or two" in known.refusal
