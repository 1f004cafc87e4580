"""The noise of the measured control mean, which all perturbations share, is in the standard error of every verdict."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data.blocks import BLOCKS, blocks_of_cells
from scgpt_bench.data.conditions import Condition, conditions_of
from scgpt_bench.data.halves import TRUTH, deal_halves, is_control_of
from scgpt_bench.data.references import References
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import control_blocks, pseudobulk
from scgpt_bench.evaluation.control_blocks import WITHOUT, changes_of_reference, score_without_blocks
from scgpt_bench.evaluation.metrics import METRICS, score
from scgpt_bench.evaluation.scores import ScoredStudy, blocks, gather, scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.files import write_table
from scgpt_bench.method_record import record_of

GENES = 40


def measured_cells(n_controls=200, batches="x", contexts=("all",), batch_sd=0.0, form=sparse.csr_matrix, seed=0):
    """Control cells and cells of the perturbations A to F in every context."""
    random, parts = np.random.default_rng(seed), []
    for context in contexts:
        names = ["control"] * n_controls + [*"ABCDEF"] * 10
        parts.append(pd.DataFrame({"perturbation": names, "context": context, "cell_type": "t"}))
    obs = pd.concat(parts, ignore_index=True)
    obs["batch"] = random.choice([*batches], len(obs))
    obs = obs.set_axis([f"cell{number}" for number in range(len(obs))]).assign(half=deal_halves)
    effects = {name: random.normal(0, batch_sd, GENES) for name in sorted(set(obs["batch"]))}
    X = np.abs(3 + np.array([effects[name] for name in obs["batch"]]) + random.normal(0, 1, (len(obs), GENES)))
    genes = pd.DataFrame(index=[f"G{number}" for number in range(GENES)])
    return anndata.AnnData(form(X.astype(np.float32)), obs=obs, var=genes)


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
def test_a_change_is_that_of_the_mean_without_the_block(form):
    cells = measured_cells(contexts=("k562", "rpe1"), form=form)
    changes = changes_of_reference(cells, conditions_of(cells.obs), References(cells, [TRUTH]))
    assert changes.shape == (GENES, 2, BLOCKS)
    X = cells.X.toarray() if sparse.issparse(cells.X) else cells.X
    for number, context in enumerate(("k562", "rpe1")):
        own = is_control_of(cells.obs, TRUTH) & (cells.obs["context"] == context).to_numpy()
        block = blocks_of_cells(cells.obs_names[own], "truth", context)
        for left_out in range(BLOCKS):
            expected = X[own][block != left_out].mean(axis=0) - X[own].mean(axis=0)
            expected *= np.sqrt(own.sum() / (own.sum() - 1))
            np.testing.assert_allclose(changes[:, number, left_out], expected, atol=1e-5)


def test_weights_of_control_cells_give_the_mean_reference_of_their_context():
    cells = measured_cells(batches="xyz", contexts=("k562", "rpe1"), batch_sd=1.0)
    of_controls, conditions = References(cells, [TRUTH]), conditions_of(cells.obs)
    weights = of_controls.weights_of_cells(conditions, TRUTH)[of_controls.stratum_of_cells]
    for context in ("k562", "rpe1"):
        own = is_control_of(cells.obs, TRUTH) & (cells.obs["context"] == context).to_numpy()
        here = [condition for condition in conditions if condition.context == context]
        assert weights[own].sum() == pytest.approx(1)
        np.testing.assert_allclose(
            weights[own] @ cells.X[own].toarray(), of_controls.mean(here, TRUTH).mean(axis=0), atol=1e-5
        )


def test_differences_between_batches_are_no_noise():
    spread = []
    for batch_sd in (0.0, 5.0):
        cells = measured_cells(n_controls=400, batches="xyz", batch_sd=batch_sd)
        spread.append(changes_of_reference(cells, conditions_of(cells.obs), References(cells, [TRUTH])).std())
    assert spread[1] == pytest.approx(spread[0], rel=0.1)


@pytest.mark.parametrize("n_controls", [2, 3, 8])
def test_few_control_cells_give_finite_changes(n_controls):
    cells = measured_cells(n_controls=n_controls)
    assert np.isfinite(changes_of_reference(cells, [Condition("A")], References(cells, [TRUTH]))).all()


@pytest.fixture(scope="module")
def truth():
    cells = measured_cells()
    split = pd.DataFrame({"perturbation": [*"ABCDEF"], "context": "all", "role": ["train"] * 2 + ["test"] * 4})
    measured = pseudobulk.measured(cells)
    return pseudobulk.add_untested(pseudobulk.truth(measured, split), measured)


def predicted(truth, change):
    tested = truth[truth.obs["tested"].to_numpy()]
    return anndata.AnnData(tested.layers["reference_input"] + change, obs=tested.obs, var=tested.var)


def test_scores_without_a_block_are_those_of_a_truth_without_it(truth):
    means = predicted(truth, np.random.default_rng(1).normal(size=GENES))
    found = score_without_blocks(means, truth)
    judging = [name for name, metric in METRICS.items() if metric.judges]
    assert {*found["metric"]} == {*judging}
    moved = truth.copy()
    moved.layers["reference_truth"] = truth.layers["reference_truth"] + truth.varm["control_blocks"][:, 0, 3]
    expected = score(means, moved).query("metric in @judging")
    keys = ["metric", "perturbation"]
    both = found.set_index(keys)["without_3"], expected.set_index(keys)["value"]
    pd.testing.assert_series_equal(*both, check_names=False, check_like=True, rtol=1e-12)
    assert found.loc[found["metric"] == "effect_pearson", WITHOUT].std(axis=1).min() > 0


def study_of(truth, folder, changes):
    """Methods that predict one change each, scored as the workflow does."""
    tables, files = [], []
    for method, change in changes.items():
        means = predicted(truth, change)
        place = folder / "drop" / "fold0" / method / "0"
        write_table(score_without_blocks(means, truth), place / "control_blocks.tsv")
        files.append(place / "control_blocks.tsv")
        tables.append(score(means, truth).assign(dataset="drop", split="fold0", method=method, seed=0))
    return ScoredStudy(
        metrics=pd.concat(tables, ignore_index=True),
        kinds={"train-mean": "train-mean", "mine": "imported"},
        control_blocks=gather(files, ["metric", *WITHOUT]),
        references=pd.DataFrame(columns=["dataset", "split", "perturbation", "context", "metric"]),
        splits=pd.DataFrame(columns=["dataset", "split", "perturbation", "context", "role"]),
    )


def test_they_reach_the_comparison_of_two_methods(truth, tmp_path):
    random = np.random.default_rng(2)
    study = study_of(truth, tmp_path, {"train-mean": random.normal(size=GENES), "mine": random.normal(size=GENES)})
    (block,) = (one for one in blocks(study) if one.metric.name == "effect_pearson")
    rows = block.rows_of("mine", "train-mean")
    own, other = (block.without_blocks[name].mean(axis=0) for name in ("mine", "train-mean"))
    np.testing.assert_allclose(block.without_control_blocks(rows, "mine", "train-mean")[:, 0], own - other)
    np.testing.assert_allclose(block.without_control_blocks(rows, "mine")[:, 0], own)
    assert block.without_control_blocks(rows, "mine", "another") is None
    assert len(scores(study)) == study.metrics[["method", "metric"]].drop_duplicates().shape[0]
    assert set(verdicts(study)["method"]) == {"mine"}


@pytest.mark.parametrize("lost", ["method == 'mine'", "method == 'mine' and perturbation == 'D'"])
def test_values_of_some_methods_or_conditions_only_are_an_error(truth, tmp_path, lost):
    random = np.random.default_rng(2)
    study = study_of(truth, tmp_path, {"train-mean": random.normal(size=GENES), "mine": random.normal(size=GENES)})
    part = study.control_blocks.query(f"not ({lost})")
    with pytest.raises(InputError, match=r"control_blocks.tsv: mine, effect_pearson, [CD]: found no value"):
        list(blocks(replace(study, control_blocks=part)))


def test_a_table_without_rows_is_that_of_a_benchmark_control(tmp_path):
    path = tmp_path / "drop" / "fold0" / "shuffled" / "0" / "control_blocks.tsv"
    for kind, entry in (("shuffled", {"shuffles": 20}), ("technical-duplicate", {"halved": True})):
        made = record_of([Condition("A")], kind=kind, options={}, seed=0, n_genes=GENES, **entry)
        write_table(control_blocks.of_prediction(None, None, made), path)
        assert gather([path], ["metric", *WITHOUT]).empty
