"""What other contexts teach about a context that is held out, or in which little was measured."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved
from predicted import whole
from registered import SIMPLE
from scgpt_bench.data import controls
from scgpt_bench.data.conditions import Condition, conditions_of, rows_of
from scgpt_bench.methods import baselines
from scgpt_bench.methods.training_data import of_contexts

GENES = [f"G{i}" for i in range(20)]
NAMES = [f"G{i}" for i in range(10)]
OTHERS = ["line2", "line3", "line4"]


def screens(shifts, directions=None):
    """Cells of {context: {perturbation: shift}}; perturbed cells are, without noise, the profile and the shift."""
    random, blocks, rows = np.random.default_rng(1), [], []
    for number, (context, of_context) in enumerate(shifts.items()):
        profile = np.linspace(2, 3, len(GENES)) + 0.1 * number
        blocks.append(profile + random.normal(0, 0.1, (24, len(GENES))))
        rows += [("control", context, "none")] * 24
        for name, shift in of_context.items():
            blocks.append(np.tile(profile + shift, (3, 1)))
            rows += [(name, context, (directions or {}).get((name, context), "down"))] * 3
    obs = pd.DataFrame(rows, columns=["perturbation", "context", "direction"]).rename(index="c{}".format)
    cells = halved(anndata.AnnData(np.concatenate(blocks), obs=obs, var=pd.DataFrame(index=GENES)))
    X = cells.X.copy()
    for number, context in enumerate(shifts):  # each half has the profile as its mean
        for half in ("input", "truth"):
            own = ((obs["context"] == context) & (cells.obs["half"] == half)).to_numpy()
            X[own] += np.linspace(2, 3, len(GENES)) + 0.1 * number - X[own].mean(axis=0)
    cells.X = sparse.csr_matrix(X.astype(np.float32))
    return cells


def split_of(shifts, held_out, trained=(), left_out=()):
    """Train on all but ``held_out``, where ``trained`` are; ``left_out`` are trained on nowhere."""
    roles = [
        (name, context, "test" if context == held_out and name not in trained else "train")
        for context, of_context in shifts.items()
        for name in of_context
        if context == held_out or name not in left_out
    ]
    return pd.DataFrame(roles, columns=["perturbation", "context", "role"])


def drawn_for(cells, split):
    draw = controls.draw_controls(cells.obs, split, per_perturbation=6, seed=1, dataset="lines", split_name="s")
    return controls.control_cells(cells, draw)


def predicted(kind, cells, split, drawn=None, **options):
    """The predicted change of each test condition, and the record."""
    drawn = drawn_for(cells, split) if drawn is None else drawn
    X, record = whole(baselines.predict, cells, split, drawn, SIMPLE[kind], **options)
    means = controls.control_means_of(drawn)
    return {c: X[rows].mean(axis=0) - means[c] for c, rows in rows_of(drawn.obs).items()}, record


def planted(contexts=4, common=0.5, own=0.0, specific=1.0, seed=2):
    """Changes of each perturbation that all contexts share, beside a mean of all and one of each context."""
    random = np.random.default_rng(seed)
    mean, of_names = common * random.normal(size=20), specific * random.normal(size=(len(NAMES), 20))
    found = {}
    for number in range(contexts):
        of_context = mean + own * random.normal(size=20)
        found[f"line{number + 1}"] = {name: of_context + shift for name, shift in zip(NAMES, of_names, strict=True)}
    return found


def test_the_same_perturbation_is_the_mean_of_its_changes_in_other_contexts_that_have_it():
    shifts = planted(own=1.0)
    del shifts["line3"]["G1"]
    found, record = predicted("same-perturbation", screens(shifts), split_of(shifts, "line1"), scaled=False)
    for name in NAMES:
        expected = np.mean([shifts[line][name] for line in OTHERS if name in shifts[line]], axis=0)
        np.testing.assert_allclose(found[Condition(name, "line1")], expected, atol=1e-5)
    assert record["fallbacks"] == {}


def test_the_same_perturbation_and_context_is_exact_where_context_and_perturbation_add_up():
    shifts = planted(own=1.0)
    split = split_of(shifts, "line1", trained=NAMES[:8])
    found, _ = predicted("same-perturbation-and-context", screens(shifts), split, scaled=False)
    # Every context has its own mean; that of the other contexts is one over ten perturbations, the own one over eight.
    of_names = np.array([shifts["line2"][name] for name in NAMES])
    for name in NAMES[8:]:
        row = NAMES.index(name)
        expected = np.mean([shifts["line1"][one] for one in NAMES[:8]], axis=0) + of_names[row] - of_names.mean(axis=0)
        np.testing.assert_allclose(found[Condition(name, "line1")], expected, atol=1e-5)


def test_context_mean_counts_contexts_alike_however_many_perturbations_they_have():
    shifts = planted(own=1.0)
    shifts["line2"] = {name: shifts["line2"][name] for name in NAMES[:2]}
    found, _ = predicted("context-mean", screens(shifts), split_of(shifts, "line1"), scaled=False)
    expected = np.mean([np.mean([*shifts[line].values()], axis=0) for line in OTHERS], axis=0)
    np.testing.assert_allclose(found[Condition("G0", "line1")], expected, atol=1e-5)


def test_a_perturbation_is_not_taken_from_a_context_that_perturbs_it_in_the_other_direction():
    shifts = planted(own=1.0)
    directions = {(name, line): "up" for line in ("line2", "line3") for name in NAMES}
    split = split_of(shifts, "line1")
    found, record = predicted("same-perturbation", screens(shifts, directions), split, scaled=False)
    np.testing.assert_allclose(found[Condition("G0", "line1")], shifts["line4"]["G0"], atol=1e-5)
    directions |= {(name, "line4"): "up" for name in NAMES}
    for kind in ("same-perturbation", "train-mean"):
        found, record = predicted(kind, screens(shifts, directions), split)
        assert all(np.abs(change).max() < 1e-5 for change in found.values())
        assert {why for _, why in record["fallbacks"].values()} == {"no change"}


@pytest.mark.parametrize(("asked", "lines"), [("down", ["line2"]), ("up", ["line3", "line4"]), ("none", [])], ids=str)
def test_what_a_list_asks_for_is_taken_from_contexts_that_have_it_in_the_same_direction(asked, lines):
    shifts = planted()
    del shifts["line1"]["G0"]
    cells = screens(shifts, {("G0", "line3"): "up", ("G0", "line4"): "up"})
    listed, dealt = Condition("G0", "line1"), {"per_perturbation": 6, "seed": 1, "dataset": "lines", "split_name": "s"}
    split = pd.concat([split_of(shifts, "line1", trained=NAMES), pd.DataFrame([{**listed._asdict(), "role": "test"}])])
    drawn = controls.control_cells(
        cells, controls.draw_controls(cells.obs, split, **dealt, direction_of={listed: asked})
    )
    found, record = predicted("same-perturbation", cells, split, drawn, scaled=False)
    expected = np.mean([shifts[line]["G0"] for line in lines] or [*shifts["line1"].values()], axis=0)
    np.testing.assert_allclose(found[listed], expected, atol=1e-5)
    assert [*record["fallbacks"]] == ([] if lines else [listed])


@pytest.fixture(scope="module")
def held_out():
    """Cells, split and control cells where three perturbations of the line that is held out are seen nowhere."""
    shifts = planted()
    cells, split = screens(shifts), split_of(shifts, "line1", left_out=NAMES[:3])
    return cells, split, drawn_for(cells, split)


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_context_that_is_held_out_is_never_predicted_as_no_change_where_another_has_training(kind, held_out):
    found, record = predicted(kind, *held_out)
    unchanged = {c.perturbation for c, change in found.items() if np.abs(change).max() < 1e-5}
    assert unchanged == (set(NAMES) if kind == "control-mean" else set())
    of_own = ("same-perturbation", "same-perturbation-and-context", "additive")
    assert {c.perturbation for c in record["fallbacks"]} == ({*NAMES[:3]} if kind in of_own else set())


def test_what_few_own_perturbations_show_is_averaged_with_the_other_contexts():
    shifts = planted(own=1.0)
    cells = screens(shifts)
    few = of_contexts(cells, split_of(shifts, "line1", trained=NAMES[:2]), ["line1"])["line1"]
    assert (few.is_own, few.perturbations) == (False, NAMES)
    for row, lines in ((0, [*shifts]), (5, OTHERS)):
        expected = np.mean([shifts[line][NAMES[row]] for line in lines], axis=0)
        np.testing.assert_allclose(few.shifts[row], expected, atol=1e-5)
    enough = of_contexts(cells, split_of(shifts, "line1", trained=NAMES[:3]), ["line1"])["line1"]
    assert (enough.is_own, enough.perturbations) == (True, NAMES[:3])


def test_the_scale_is_what_carries_over_from_one_left_out_context_to_another():
    random = np.random.default_rng(3)
    shared = {name: random.normal(size=20) for name in NAMES}
    shifts = {f"line{i}": {name: shared[name] + 2 * random.normal(size=20) for name in NAMES} for i in range(5)}
    _, record = predicted("same-perturbation", screens(shifts), split_of(shifts, "line0"))
    chosen = record["chosen"]["line0"]
    assert chosen.left_out == "contexts"
    # Of the mean of three contexts, 1 / (1 + 4 / 3) of the variance is shared.
    assert chosen.weights["same-perturbation"] == pytest.approx(3 / 7, abs=0.1)


def test_with_one_other_context_nothing_is_chosen_and_the_record_says_so():
    shifts = planted(contexts=2)
    for kind in ("same-perturbation", "tuned-simple"):
        _, record = predicted(kind, screens(shifts), split_of(shifts, "line1"))
        chosen = record["chosen"]["line1"]
        assert (chosen.left_out, chosen.candidates) == ("nothing", ()), kind
        assert max(chosen.weights.values()) == 1


def test_a_context_with_training_of_its_own_is_judged_by_its_own_perturbations_that_others_show():
    shifts = planted()
    del shifts["line2"]["G0"], shifts["line3"]["G0"], shifts["line4"]["G0"], shifts["line4"]["G9"]
    split = split_of(shifts, "line1", trained=NAMES[:6], left_out=["G8"])
    cells = screens(shifts)
    drawn = drawn_for(cells, split)
    _, record = predicted("tuned-simple", cells, split, drawn)
    left_out = {name: chosen.left_out for name, chosen in record["chosen"].items()}
    assert left_out == {"line1": "perturbations", "line1, seen in no context": "perturbations"}
    _, record = predicted("ridge", cells, split, drawn, penalty=1.0, components=5)
    assert [*record["chosen"]] == ["line1"], "what learns from the context alone is asked once"


def test_where_perturbations_carry_over_the_tuned_method_takes_them_over():
    random = np.random.default_rng(4)
    shared = {name: random.normal(size=20) for name in NAMES}
    shifts = {f"line{i}": {name: shared[name] + 0.3 * random.normal(size=20) for name in NAMES} for i in range(4)}
    found, record = predicted("tuned-simple", screens(shifts), split_of(shifts, "line0"))
    scores = [np.corrcoef(found[Condition(name, "line0")], shifts["line0"][name])[0, 1] for name in NAMES]
    assert np.mean(scores) > 0.85
    assert {"same-perturbation", "same-perturbation-and-context"} <= {*record["chosen"]["line0"].options}


def of_rank_two(contexts=4, seed=5):
    """Changes that are a linear function of two numbers for each perturbation; the function is the context's own."""
    random = np.random.default_rng(seed)
    of_names = dict(zip(NAMES, random.normal(size=(len(NAMES), 2)), strict=True))
    axes = random.normal(size=(contexts, 2, 20))
    return {
        f"line{number + 1}": {name: own @ axes[number] for name, own in of_names.items()} for number in range(contexts)
    }


def test_ridge_learns_from_few_own_perturbations_what_vectors_of_other_contexts_do_here():
    shifts = of_rank_two()
    split = split_of(shifts, "line1", trained=NAMES[:6])
    vectors = baselines.VectorsOfContexts(4)
    options = {"embeddings": vectors, "penalty": 0.01, "components": 5, "scaled": False}
    found, record = predicted("ridge", screens(shifts), split, **options)
    on_vectors = [np.corrcoef(found[Condition(n, "line1")], shifts["line1"][n])[0, 1] for n in NAMES[6:]]
    found, _ = predicted("same-perturbation", screens(shifts), split)
    carried_over = [np.corrcoef(found[Condition(n, "line1")], shifts["line1"][n])[0, 1] for n in NAMES[6:]]
    assert np.mean(on_vectors) > 0.8 > 0.4 > np.mean(carried_over)
    assert record["fallbacks"] == {}
    assert record["training"].cells == 3 * (6 + 3 * len(NAMES))


@pytest.mark.parametrize("kind", ["ridge", "tuned-simple"])
def test_vectors_of_other_contexts_know_no_perturbation_that_is_left_out_everywhere(kind, held_out):
    vectors = baselines.VectorsOfContexts(4)
    found, record = predicted(kind, *held_out, embeddings=vectors)
    without = {c.perturbation for c, (reason, _) in record["fallbacks"].items() if reason == "no vector"}
    assert without == (set() if kind == "tuned-simple" else {*NAMES[:3]})
    assert all(np.isfinite(change).all() for change in found.values())
    training = of_contexts(*held_out[:2], ["line1"])["line1"]
    assert [*vectors(training).index] == NAMES[3:]
    assert vectors(training.without("line2", hidden={"G3"})).index.tolist() == NAMES[4:]


@pytest.mark.parametrize("trained", [[], NAMES[:4]], ids=["held out", "few seen"])
def test_the_cells_that_are_tested_change_nothing_that_a_method_is_given_by_one_bit(trained):
    shifts = planted(own=0.5)
    cells, split = screens(shifts), split_of(shifts, "line1", trained=trained, left_out=["G9"])
    changed = cells.copy()
    X = changed.X.toarray()
    for condition in conditions_of(split, "test"):
        X[rows_of(cells.obs)[condition]] = 9.0
    changed.X = sparse.csr_matrix(X)
    before, after = (drawn_for(each, split) for each in (cells, changed))
    np.testing.assert_array_equal(before.X.toarray(), after.X.toarray())
    np.testing.assert_array_equal(before.varm["control_mean"], after.varm["control_mean"])
    before, after = (of_contexts(each, split, ["line1"])["line1"] for each in (cells, changed))
    for one, other in zip([before, *before.others.values()], [after, *after.others.values()], strict=True):
        assert (one.perturbations, one.is_own) == (other.perturbations, other.is_own)
        assert (one.controls.X != other.controls.X).nnz == 0
        for name in ("means", "shifts", "shifts_to_fit", "shifts_to_judge", "n_cells"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
