"""Evaluation works within a context: what is computed of two together is what is computed of each alone."""

from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import measure
from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition, codes_of, conditions_of, labels_of, rows_of, table_of
from scgpt_bench.data.halves import INPUT, is_control_of
from scgpt_bench.data.mapped import mapped_rows
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import open_h5ad, rows
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import versions
from scgpt_bench.evaluation.cell_metrics import add_cell_space, add_significant_genes, score_cells
from scgpt_bench.evaluation.classes import scores_by_class
from scgpt_bench.evaluation.data_card import data_card
from scgpt_bench.evaluation.differential_expression import de_ranks
from scgpt_bench.evaluation.drops import compare_cards, compare_scores
from scgpt_bench.evaluation.floor import mean_over_shuffles
from scgpt_bench.evaluation.metric_robustness import metric_robustness, transformed
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.evaluation.official.answers import join
from scgpt_bench.evaluation.official.sides import NON_TARGETING, TARGET, contexts_apart, log_sides
from scgpt_bench.evaluation.pseudobulk import add_untested, pseudobulk, responses, select_tested, truth
from scgpt_bench.evaluation.scores import of_reliable, scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.figures.data_card import card_table, knock_down, reliability
from scgpt_bench.figures.scores import method_scores, paired_differences, perturbation_heatmap
from scored import study

CONTEXTS = ("K562", "RPE1")
NAMES = ("G0", "G1", "G2", "G3+G4", "G5")
OF_TESTS = {"G0": "test", "G1": "test", "G3+G4": "test", "G2": "train", "G5": "train"}
KINDS = {"mine": "imported", "train-mean": "train-mean"}


@pytest.fixture(scope="module")
def cells():
    """Two lines far apart; every knock-down lowers its targets and ten genes of its own, others in each line."""
    random = np.random.default_rng(1)
    blocks, rows = [], []
    for number, context in enumerate(CONTEXTS):
        level = random.uniform(1, 4, 60)
        for position, name in enumerate(("control", *NAMES)):
            n_cells = 120 if name == "control" else 40
            values = level + random.normal(0, 0.3, (n_cells, 60))
            if name != "control":
                shifted = (10 * (position + number) + np.arange(10)) % 60
                values[:, shifted] -= 0.5
                values[:, [int(gene[1:]) for gene in name.split("+")]] -= 0.8
            blocks.append(np.maximum(values, 0))
            rows += [(name, context, f"b{cell % 2}", "T") for cell in range(n_cells)]
    obs = pd.DataFrame(rows, columns=["perturbation", "context", "batch", "cell_type"])
    obs = obs.set_axis([f"c{i}" for i in range(len(obs))]).sample(frac=1, random_state=1)
    X = np.concatenate(blocks)[[int(name[1:]) for name in obs.index]].astype(np.float32)
    return anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(60)]))


@pytest.fixture(scope="module")
def split():
    rows = [(name, context, role) for name, role in OF_TESTS.items() for context in CONTEXTS]
    return pd.DataFrame(rows, columns=["perturbation", "context", "role"])


@pytest.fixture(scope="module")
def predictions(cells):
    """Ten control cells for each test condition, shifted at random."""
    random, rows, X = np.random.default_rng(2), [], []
    for context in CONTEXTS:
        controls = np.flatnonzero((cells.obs["perturbation"] == "control") & (cells.obs["context"] == context))
        for name in (name for name, role in OF_TESTS.items() if role == "test"):
            rows += [(name, context, cells.obs_names[cell], 1.0) for cell in controls[:10]]
            X.append(cells.X[controls[:10]].toarray() + random.normal(0, 0.3, 60))
    obs = pd.DataFrame(rows, columns=["perturbation", "context", "control_cell", "weight"]).rename(index=str)
    return anndata.AnnData(np.concatenate(X).astype(np.float32), obs=obs, var=cells.var)


def measured(cells, split, on_disk=lambda adata, name: adata, read=rows):
    answer = truth(measure(cells), split)
    tests, controls = conditions_of(split, "test"), rows_of(cells.obs)
    drawn = {name: controls[Condition(CONTROL, name.context)][:10] for name in tests}
    obs = table_of([name for name in tests for _ in range(10)]).assign(weight=1.0).reset_index(drop=True)
    drawn = anndata.AnnData(cells.X[np.concatenate([*drawn.values()])], obs=obs.rename(index=str), var=cells.var)
    cells, drawn = on_disk(cells, "cells"), on_disk(drawn, "drawn")
    cells = anndata.AnnData(read(cells.X, range(cells.n_obs)), obs=cells.obs, var=cells.var)
    answer.layers["de_rank"] = de_ranks(cells, answer)
    answer.layers["de_rank_half_b"] = de_ranks(cells, answer, halved=True)
    add_cell_space(answer, cells, drawn, read=read)
    add_significant_genes(answer, cells, drawn)
    return answer


def test_truth_of_cells_on_disk_has_the_bits_of_that_in_memory(cells, split, tmp_path):
    def on_disk(adata, name):
        adata.write_h5ad(tmp_path / name)
        return open_h5ad(tmp_path / name)

    answer = measured(cells, split)
    mapped = measured(cells, split, on_disk, partial(mapped_rows, folder=tmp_path / "mapped"))
    assert not (tmp_path / "mapped").exists()
    for part in ("layers", "varm", "uns"):
        found, expected = getattr(mapped, part), getattr(answer, part)
        assert found.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    np.testing.assert_array_equal(mapped.obs["cell_variance"], answer.obs["cell_variance"])


def within(table, context):
    return table[(table["context"] == context).to_numpy()]


def of(adata, context):
    return adata[(adata.obs["context"] == context).to_numpy()].copy()


def test_truth_has_the_controls_and_the_training_shift_of_each_context():
    rows = [("control", 2), ("control", 2), ("A", 5), ("B", 2), ("C", 6)]
    values = {"k": [value for _, value in rows], "r": [100 + 2 * value for _, value in rows]}
    obs = pd.DataFrame([(name, context) for context in values for name, _ in rows], columns=["perturbation", "context"])
    obs = obs.assign(cell_type="T").rename(index=str)
    X = np.array([*values["k"], *values["r"]], dtype=np.float32)[:, None]
    small = anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=["G"]))
    roles = pd.DataFrame({"perturbation": [*"ABC"] * 2, "context": [*"kkkrrr"], "role": ["test", "train", "train"] * 2})
    answer = truth(measure(small), roles)
    assert answer.obs_names.tolist() == ["A@k", "A@r"]
    assert answer.X.ravel().tolist() == [5, 110]
    assert answer.layers["reference_input"].ravel().tolist() == [2, 104]
    assert answer.layers["centroid"].ravel().tolist() == [2 + (0 + 4) / 2, 104 + (0 + 8) / 2]
    assert responses(small).loc["C@r"].tolist() == [8]


def test_the_file_of_truth_has_all_conditions_and_gives_back_the_tested_ones(cells, split):
    answer = measured(cells, split)
    whole = add_untested(answer, measure(cells))
    assert set(whole.obs_names) == {Condition(name, context).label for name in NAMES for context in CONTEXTS}
    untested = whole[~whole.obs["tested"].to_numpy()]
    assert set(untested.obs["perturbation"]) == {"G2", "G5"}
    np.testing.assert_allclose(
        untested.X - untested.layers["reference_truth"], responses(cells).loc[untested.obs_names]
    )
    assert np.isnan(untested.layers["centroid"]).all()
    again = select_tested(whole)
    pd.testing.assert_frame_equal(again.obs, answer.obs)
    for name, layer in answer.layers.items():
        np.testing.assert_array_equal(again.layers[name], layer)


@pytest.mark.parametrize("context", CONTEXTS)
def test_metrics_of_two_contexts_are_those_of_each_alone(cells, split, predictions, context):
    both, alone = measured(cells, split), measured(of(cells, context), within(split, context))
    assert (of(both, context).layers["de_rank"] == alone.layers["de_rank"]).all()
    for metric in (lambda made, answer: score(pseudobulk(made), answer), score_cells):
        pooled = within(metric(predictions, both), context).reset_index(drop=True)
        single = metric(of(predictions, context), alone)
        assert list(pooled.columns) == ["perturbation", "context", "metric", "value", "reason"]
        pd.testing.assert_frame_equal(pooled, single, rtol=1e-6)
    tricks = []
    for made, answer in ((predictions, both), (of(predictions, context), alone)):
        row = codes_of(made.obs, conditions_of(answer.obs))
        tricks.append({name: X for (name, _), X in transformed(made, answer)(made.X, row)})
    rows = (predictions.obs["context"] == context).to_numpy()
    for name in ("constant", "genes shuffled", "target spiked", "another truth"):
        np.testing.assert_allclose(tricks[0][name][rows], tricks[1][name], atol=1e-6)


def test_versions_of_predicted_cells_on_disk_are_scored_condition_by_condition_as_they_are_together(
    cells, split, predictions, tmp_path, monkeypatch
):
    answer = measured(cells, split)
    together = mean_over_shuffles(predictions, answer, 1), metric_robustness(predictions, answer)
    assert {"mse", "energy_distance"} <= set(together[0]["metric"]) & set(together[1]["metric"])
    predictions.write_h5ad(tmp_path / "predictions.h5ad")
    monkeypatch.setattr(versions, "AT_ONCE", 1)
    stored = open_h5ad(tmp_path / "predictions.h5ad")
    apart = mean_over_shuffles(stored, answer, 1), metric_robustness(stored, answer)
    for found, expected in zip(apart, together, strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_card_measures_each_context_as_if_it_were_alone(cells, context):
    options = {"dataset": "drop", "perturbation_kind": "interference", "minimum_reliability": 0.3}
    both, alone = data_card(cells, **options), data_card(of(cells, context), **options)
    assert (both["n_conditions"], both["n_contexts"], both["n_perturbations"]) == (10, 2, 5)
    own = [record for record in both["conditions"] if record["context"] == context]
    assert [record["perturbation"] for record in own] == sorted(NAMES)
    for record, expected in zip(own, alone["conditions"], strict=True):
        for name in ("reliability", "n_de_genes", "shared_response", "batch_distance", "target_log_fold_change"):
            assert record[name] == pytest.approx(expected[name]), name
    noise = [data_card(of(cells, name), **options)["shared_control_noise"]["same_controls"] for name in CONTEXTS]
    assert both["shared_control_noise"]["same_controls"] == pytest.approx(np.mean(noise))
    assert card_table(both)["context"].tolist() == [record["context"] for record in both["conditions"]]
    table = pd.DataFrame(both["conditions"])
    assert "10 conditions repeat" in reliability(table, 0.3, "drop").get_suptitle().replace("of ", "")
    knock_down(table, "interference", "drop")
    one_less = {**both, "conditions": both["conditions"][1:], "n_conditions": 9}
    assert compare_cards(both, one_less)["conditions lost"] == "G0@K562"


def metrics_of(better):
    """Ten perturbations in two contexts; ``mine`` is better than the baseline by ``better[context]``."""
    return pd.DataFrame(
        [
            ("drop", "fold0", method, 0, f"P{i}", context, "specific_pearson", 0.01 * i + advantage)
            for context, own in better.items()
            for i in range(10)
            for method, advantage in (("train-mean", 0.0), ("mine", own + 0.001 * i))
        ],
        columns=["dataset", "split", "method", "seed", "perturbation", "context", "metric", "value"],
    )


def test_opposite_verdicts_of_two_contexts_stand_beside_that_over_all_conditions():
    table = metrics_of({"K562": 0.3, "RPE1": -0.3})
    found = scores(study(table, KINDS)).set_index(["method", "context"])
    assert found.index.get_level_values("context").tolist() == [name for name in ("all", *CONTEXTS) for _ in KINDS]
    assert found["n_conditions"].loc["mine"].to_dict() == {"all": 20, "K562": 10, "RPE1": 10}
    expected = {"all": 0.045 + 0.0045, "K562": 0.345 + 0.0045, "RPE1": -0.255 + 0.0045}
    assert found["mean"].loc["mine"].to_dict() == pytest.approx(expected)
    judged = verdicts(study(table, KINDS)).set_index("context")["verdict"].to_dict()
    assert judged == {"all": "inconclusive", "K562": "better", "RPE1": "worse"}


def test_a_single_context_is_scored_under_the_name_all():
    table = metrics_of({"K562": 0.3})
    assert set(scores(study(table, KINDS))["context"]) == {ALL_CONTEXTS}


def test_a_perturbation_is_reliable_and_of_a_class_by_context():
    table = metrics_of({"K562": 0.3, "RPE1": -0.3})
    entries = [
        {"perturbation": f"P{i}", "context": context, "reliable": context == "K562"}
        for i in range(10)
        for context in CONTEXTS
    ]
    reliable = of_reliable(table, [{"dataset": "drop", "conditions": entries}])
    assert set(reliable["context"]) == {"K562"}
    # Its own row is there, though of two contexts only one is left.
    assert scores(study(reliable, KINDS), whole=table)["context"].unique().tolist() == [ALL_CONTEXTS, "K562"]
    assert verdicts(study(reliable, KINDS), whole=table)["context"].unique().tolist() == [ALL_CONTEXTS, "K562"]
    classes = table[["dataset", "split", "perturbation", "context"]].drop_duplicates().assign(n_genes=1)
    classes["role"], classes["seen"] = "test", False
    classes["n_genes_seen"] = (classes["context"] == "RPE1").astype(int)  # seen in training of the other line
    by_class = scores_by_class(study(table, KINDS, splits=classes)).query("method == 'mine'")
    assert by_class.set_index("n_genes_seen")["verdict"].to_dict() == {0: "better", 1: "worse"}


def test_drops_are_compared_over_all_conditions_and_by_context():
    both = pd.concat(
        [metrics_of({"K562": 0.3, "RPE1": -0.3}), metrics_of({"K562": 0.4, "RPE1": -0.3}).assign(dataset="now")]
    )
    table = compare_scores("drop", "now", scores(study(both, KINDS)), verdicts(study(both, KINDS)), both)
    changes = table[table["method"] == "mine"].set_index("context")
    assert changes["n_shared"].to_dict() == {"all": 20, "K562": 10, "RPE1": 10}
    assert changes["change_on_shared"].to_dict() == pytest.approx({"all": 0.05, "K562": 0.1, "RPE1": 0})


def test_figures_show_contexts_where_there_are_several():
    table = metrics_of({"K562": 0.3, "RPE1": -0.3})
    ladder = method_scores(scores(study(table, KINDS)), "specific_pearson", KINDS)
    assert [axes.get_title(loc="left") for axes in ladder.axes] == [
        "all contexts, 20 conditions", "K562, 10 conditions", "RPE1, 10 conditions"
    ]  # fmt: skip
    differences = paired_differences(verdicts(study(table, KINDS)), "specific_pearson", KINDS)
    assert [axes.get_title(loc="left") for axes in differences.axes] == [
        "drop, fold0", "drop, fold0, K562", "drop, fold0, RPE1"
    ]  # fmt: skip
    strip = perturbation_heatmap(table, "specific_pearson", None, KINDS)
    assert "20 conditions" in strip.get_suptitle()
    assert labels_of(table).iloc[0] == "P0@K562"


def test_official_scorers_are_given_one_context_with_its_own_controls(cells, split, predictions):
    apart = dict(contexts_apart(split))
    assert list(apart) == list(CONTEXTS)
    for context, own in apart.items():
        sides = log_sides(cells, predictions, own)
        assert sides.context == context
        controls = of(cells[is_control_of(cells.obs, INPUT)], context).obs_names
        for side in (sides.measured, sides.predicted):
            assert set(side.obs[TARGET]) == {NON_TARGETING, "G0", "G1", "G3+G4"}
            assert (side.obs[TARGET] == NON_TARGETING).sum() == len(controls)
        assert set(sides.measured.obs_names[sides.measured.obs[TARGET] == NON_TARGETING]) == set(controls)
        assert (sides.predicted.obs[TARGET] == "G0").sum() == 10
    with pytest.raises(InputError, match="2 contexts"):
        log_sides(cells, predictions, split)


def test_answers_of_all_contexts_are_one_table_and_a_summary_of_each():
    columns = ["perturbation", "context", "metric", "value", "reason"]
    scored = pd.DataFrame([("G0", "RPE1", "cell_eval.mae", 0.1, "")], columns=columns)
    table, summary = join({"K562": (scored.iloc[:0], {"note": "not scored"}), "RPE1": (scored, {"note": ""})})
    pd.testing.assert_frame_equal(table, scored)
    assert summary == {"K562": {"note": "not scored"}, "RPE1": {"note": ""}}
