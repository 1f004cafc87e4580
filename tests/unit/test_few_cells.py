"""With one or two of anything every stage says what is unknown, or refuses it in one line; none gives NaN or fails."""

import json
import re
import warnings
from dataclasses import replace
from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved, measure
from predicted import whole, write_whole
from registered import CONTROLS, SIMPLE
from scgpt_bench.data import controls, splits
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import controls_of, listed
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import cells_of
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import cell_metrics, differential_expression, metrics, pseudobulk, scores, verdicts
from scgpt_bench.evaluation.data_card import COLUMNS, data_card, leakage_notes, reliability_of, split_notes
from scgpt_bench.evaluation.metric_robustness import metric_robustness
from scgpt_bench.figures import data_card as figures_of_card
from scgpt_bench.figures.responses import delta_heatmap
from scgpt_bench.figures.scores import method_scores, paired_differences, perturbation_heatmap
from scgpt_bench.figures.style import save
from scgpt_bench.figures.trust import robustness_heatmap
from scgpt_bench.methods import baselines, benchmark_controls
from scgpt_bench.predictions import read_predictions
from scgpt_bench.report import perturbations
from scored import study

GENES = ["STAT1", "JAK2", "IRF1", "GATA1", "SPI1", "CEBPA", "KLF1", "TP53", "CDKN1A", "MYC", "FOS", "JUN"]
ROW = Dataset("drop", "drop.h5ad", "h5ad", "counts", 200.0, "gene", "NT", "interference")
KINDS = {name: name for name in [*SIMPLE, "shuffled", "technical-duplicate", "judged"]}
OF_CARD = {"dataset": "drop", "perturbation_kind": "interference", "minimum_reliability": 0.3}
OF_SPLITS = {"dataset": "drop", "seed": 1, "minimum_cells": 1}


def drop(n_control=60, per=20, n_targets=4, genes=12, change=None):
    """Counts with some structure: a target is down to a third, and one other gene moves."""
    random = np.random.default_rng(0)
    names = [*GENES, *(f"GENE{i}" for i in range(genes))][: max(genes, 1)]
    labels = np.repeat(["NT", *GENES[:n_targets]], [n_control, *[per] * n_targets])
    mean = np.tile(random.gamma(2, 2, size=len(names)) + 1, (len(labels), 1))
    for number, name in enumerate(GENES[:n_targets]):
        rows = labels == name
        mean[rows, number % len(names)] *= 0.3
        mean[rows, (number * 3 + 7) % len(names)] *= 2
    obs = pd.DataFrame({"gene": labels, "batch": np.where(np.arange(len(labels)) % 2, "b1", "b2")})
    obs.index = [f"c{i}" for i in range(len(obs))]
    obs["cell_type"] = "K562"
    X = random.poisson(mean).astype(np.float32)
    X[:, -1] += 1
    adata = anndata.AnnData(X, obs=obs.astype(object), var=pd.DataFrame(index=names))
    if change:
        change(adata)
    adata.X = sparse.csr_matrix(adata.X)
    return adata


def put(column, rows, value):
    return lambda adata: adata.obs.__setitem__(column, adata.obs[column].mask(np.isin(range(adata.n_obs), rows), value))


def number_batches(adata):
    adata.obs["batch"] = np.arange(adata.n_obs) % 2 + 1.0


def alike(rows):
    return lambda adata: adata.X.__setitem__(rows, adata.X[rows][0])


TYPES, BATCHES = {"cell_type_column": "cell_type"}, {"batch_column": "batch"}
ONE_CONTROL = dict.fromkeys(("responses", "truth"), "two at least: one for each half")
OF_SPLIT = {"gears": "no train perturbation", "split": "expected at least"}
# The drop, more of its row, why the first perturbation cannot be compared with the controls (empty where it can), and
# which stages refuse it with what.
CASES = {
    "as it should be": (drop(), {}, "", {}),
    "one control": (drop(n_control=1), {}, "", {"harmonize": "but one control cell; expected two control cells"}),
    "two controls": (drop(n_control=2), {}, "2 control cells, of 10 at least", {}),
    "three controls": (drop(n_control=3), {}, "3 control cells, of 10 at least", {}),
    "one cell each": (drop(per=1), {}, "1 cell, of 3 at least", {"technical-duplicate": "found a single cell"}),
    "two cells each": (drop(per=2), {}, "2 cells, of 3 at least", {}),
    "three cells each": (drop(per=3), {}, "", {}),
    "one perturbation": (drop(n_targets=1), {}, "", OF_SPLIT),
    "two perturbations": (drop(n_targets=2), {}, "", OF_SPLIT),
    "three perturbations": (drop(n_targets=3), {}, "", {"split": OF_SPLIT["split"]}),
    "a batch of one cell": (drop(change=put("batch", [70], "b3")), BATCHES, "", {}),
    "a batch with one control": (drop(change=put("batch", [0, *range(60, 80)], "b3")), BATCHES, "", {}),
    "every cell a batch": (drop(change=lambda cells: cells.obs.update({"batch": cells.obs_names})), BATCHES, "", {}),
    "a type without controls": (
        *(
            drop(change=put("cell_type", range(60, 70), "RPE1")),
            TYPES,
            "0 control cells of type 'RPE1', of 10 at least",
        ),
        ONE_CONTROL,
    ),
    "a type with one control": (
        *(drop(change=put("cell_type", [0, *range(61, 140, 2)], "RPE1")), TYPES),
        *("1 control cell of type 'RPE1', of 10 at least", ONE_CONTROL),
    ),
    "a rare type with one control": (drop(per=40, change=put("cell_type", [0, 61], "RPE1")), TYPES, "", ONE_CONTROL),
    "a rare type with two controls": (drop(per=40, change=put("cell_type", [0, 2, 61], "RPE1")), TYPES, "", {}),
    "a target in no cell": (drop(change=lambda cells: cells.X.__setitem__((slice(None), 0), 0)), {}, "", {}),
    "perturbed cells alike": (drop(change=alike(slice(60, None))), {}, "all its cells are alike", {}),
    "controls alike": (drop(change=alike(slice(0, 60))), {}, "all control cells are alike", {}),
    "all cells alike": (drop(change=alike(slice(None))), {}, "all its cells are alike", {}),
    "a missing batch": (drop(change=put("batch", [5], np.nan)), BATCHES, "", {"harmonize": "no value (1 such cells)"}),
    "batches as numbers": (drop(change=number_batches), BATCHES, "", {}),
    "three genes": (drop(genes=3, n_targets=4), {}, "", {}),
    "two genes": (drop(genes=2), {}, "", {"harmonize": "found 2; expected at least 3"}),
    "one gene": (drop(genes=1), {}, "", {"harmonize": "found 1; expected at least 3"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_stage_says_what_is_unknown_or_refuses_it(name, tmp_path):
    adata, row, why, refused = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # NumPy's of empty means and of divisions by 0
        found, card, tables = run(adata, row, tmp_path)
    assert found.keys() == refused.keys(), found
    assert all(text in found[stage] for stage, text in refused.items()), found
    if card is None:
        return
    json.dumps(card, allow_nan=False)
    for record in card["conditions"]:
        assert list(record) == list(COLUMNS)
        assert {key for key in COLUMNS if record[key] is None} == set(record["unknown"])
        assert all(record["unknown"].values())
    first = next(record for record in card["conditions"] if record["perturbation"] == "STAT1")
    assert first["unknown"].get("n_de_genes", "") == why
    unknown = [problem for problem in card["problems"] if "of unknown response: " in problem]
    assert any(problem.endswith(why) for problem in unknown) if why else name == "three cells each" or not unknown
    assert bool(tables) == (not {"harmonize", "split", "truth"} & set(refused))


def test_what_is_unknown_of_three_controls_is_a_problem_and_no_number():
    """The same cells have a shared response of 0.72 by blocks of controls that halves share; with 120 -0.04."""
    card = data_card(harmonize(drop(n_control=3), ROW, minimum_cells=1), **OF_CARD)
    assert card["median_shared_response"] is None
    assert card["shared_control_noise"] == {"same_controls": None, "disjoint_controls": None}
    assert card["problems"] == [
        "3 control cells: measured changes and methods get half of them each, fewer than 25: their noise may "
        "hide the responses",
        "4 of 4 perturbations (GATA1, IRF1, JAK2, STAT1) of unknown response: 3 control cells, of 10 at least",
        "response that all share, and noise of the control mean, unknown: 0 perturbations to compare with one another, "
        "of 3 at least",
    ]


def test_what_is_known_of_three_cells_is_not_called_unknown():
    card = data_card(harmonize(drop(per=3), ROW, minimum_cells=1), **OF_CARD)
    assert all(record["n_de_genes"] is not None for record in card["conditions"])
    assert card["problems"] == [
        "4 of 4 perturbations (GATA1, IRF1, JAK2, STAT1) of unknown reliability: 3 cells, of 4 at least to halve them"
    ]


def test_counts_of_cells_that_are_all_alike_have_no_interval():
    card = data_card(harmonize(drop(change=alike(slice(60, None))), ROW, minimum_cells=1), **OF_CARD)
    for record in card["conditions"]:
        assert record["counts_ratio"] is None
        assert record["unknown"]["counts_ratio"] == "all its cells have the same counts"


def test_neighbours_by_one_control_are_nobody():
    cells = harmonize(drop(n_control=2), ROW, minimum_cells=1)
    split = dealt(cells)
    X, method = whole(baselines.predict, cells, split, sampled(cells, split), baselines.knn)
    expected, _ = whole(baselines.predict, cells, split, sampled(cells, split), baselines.train_mean)
    np.testing.assert_allclose(X, expected, atol=1e-6)
    fallback = ("no co-expression in 1 control cells", "mean of all training perturbations")
    assert set(method["fallbacks"].values()) == {fallback}


class Stages:
    """What the stages of a run give, and which of them refuse their input with what."""

    def __init__(self):
        self.refused = {}

    def run(self, name, stage, *inputs):
        """The stage's result; None where an input is missing, or where it is refused."""
        if any(value is None for value in inputs):
            return None
        try:
            return stage(*inputs)
        except InputError as error:
            self.refused[name] = str(error)
            return None


def run(adata, row, folder):
    stages = Stages()
    cells = stages.run("harmonize", lambda: harmonize(adata, replace(ROW, **row), minimum_cells=1))
    card = stages.run("card", lambda cells: data_card(cells, **OF_CARD), cells)
    stages.run("responses", partial(draw_responses, folder=folder), cells)
    stages.run("gears", lambda cells: splits.gears_simulation(cells.obs, **OF_SPLITS), cells)
    split = stages.run("split", dealt, cells)
    drawn = stages.run("controls", sampled, cells, split)
    truth = stages.run("truth", measured, cells, split, drawn)
    kinds = [*SIMPLE, "shuffled", "technical-duplicate"]
    tables = [
        stages.run(kind, partial(evaluated, kind=kind, folder=folder), cells, split, drawn, truth) for kind in kinds
    ]
    tables = [table for table in tables if table is not None]
    if tables:
        stages.run("scores", partial(scored, folder=folder), tables, card)
    if card is not None:
        stages.run("page", lambda card: draw_card(card, split, folder), card)
    assert not any("\n" in text for text in stages.refused.values())
    return stages.refused, card, tables


def dealt(cells):
    return splits.fold(cells.obs, fold=0, folds=2, validation_share=0.15, **OF_SPLITS)


def sampled(cells, split):
    table = controls.draw_controls(
        halved(cells).obs, split, per_perturbation=5, seed=1, dataset="drop", split_name="fold0"
    )
    return controls.control_cells(cells, table)


def measured(cells, split, drawn):
    truth = pseudobulk.truth(measure(cells), split)
    cells = cells_of(cells, [*controls_of(cells.obs), *listed(truth.obs)], "truth")
    truth.layers["de_rank"] = differential_expression.de_ranks(cells, truth)
    truth.layers["de_rank_half_b"] = differential_expression.de_ranks(cells, truth, halved=True)
    cell_metrics.add_cell_space(truth, cells, drawn)
    cell_metrics.add_significant_genes(truth, cells, drawn)
    return truth


def evaluated(cells, split, drawn, truth, kind, folder):
    if kind in SIMPLE:
        X, method = whole(baselines.predict, cells, split, drawn, SIMPLE[kind])
    else:
        X, method = whole(CONTROLS[kind], benchmark_controls.Known(cells, drawn, truth), 0)
    write_whole(folder / "p.h5ad", X, drawn.obs, cells.var_names)
    halved = method.get("halved", False)
    predicted = read_predictions(folder / "p.h5ad", cells.var_names, split)
    means = pseudobulk.pseudobulk(predicted)
    table = pd.concat([metrics.score(means, truth, halved), cell_metrics.score_cells(predicted, truth, halved)])
    assert np.isfinite(table["value"]).all(), table[~np.isfinite(table["value"])]
    whole_view = perturbations.Predicted(kind, halved, table, lambda: means)
    view = perturbations.view(truth, {kind: whole_view}, cells, drawn, pd.Series(dtype=float))
    perturbations.write(view, folder / "perturbations.json.gz")
    if kind == "train-mean":
        draw(robustness_heatmap(metric_robustness(predicted, truth), kind), folder)
    return table.assign(dataset="drop", split="fold0", method=kind, seed=0)


def scored(tables, card, folder):
    judged = tables[0].assign(method="judged")
    table = pd.concat([*tables, judged], ignore_index=True)
    means, answers = (function(study(table, KINDS)) for function in (scores.scores, verdicts.verdicts))
    draw(method_scores(means, "pearson_delta", KINDS), folder)
    draw(paired_differences(answers, "pearson_delta", KINDS), folder)
    strip = table[table["metric"] == "pearson_delta"]
    draw(perturbation_heatmap(strip, "pearson_delta", reliability_of(card), KINDS), folder)
    reliable = study(scores.of_reliable(table, [card]), KINDS)
    scores.with_and_without(means, answers, scores.scores(reliable), verdicts.verdicts(reliable))


def draw_responses(cells, folder):
    deltas = pseudobulk.responses(cells)
    draw(delta_heatmap(deltas.to_numpy(), deltas.index, deltas.columns, "drop"), folder)


def draw_card(card, split, folder):
    by_split = {} if split is None else {"fold0": split}
    text = figures_of_card.card_text(card, leakage_notes(by_split), split_notes(card, by_split, 30))
    table = figures_of_card.card_table(card)
    records = pd.DataFrame(card["conditions"])
    draw(figures_of_card.reliability(records, 0.3, "drop"), folder)
    draw(figures_of_card.knock_down(records, "interference", "drop"), folder)
    for page in (text, table.to_csv()):
        assert not re.search(r"\bnan\b", page, re.IGNORECASE), page


def draw(figure, folder):
    """Save it as the workflow does, and look for numbers that are none in its words and its shapes."""
    save(figure, folder / "figure.svg")
    svg = (folder / "figure.svg").read_text()
    assert not re.search(r"\bnan\b", re.sub(r"(?s)<style.*?</style>|data:image[^\"]*", "", svg), re.IGNORECASE), svg[
        :500
    ]
