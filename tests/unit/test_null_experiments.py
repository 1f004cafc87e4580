"""Real cells without any effect: no verdict, even where every pseudo-perturbation leans to batches of its own.

Control cells of papalexi_2021: a third stay controls, the others are dealt into 25 pseudo-perturbations of 40 cells,
which take batches in shares of their own.
"""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import halved
from registered import SIMPLE
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import conditions_of, listed
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import first_half, group_means
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.readers import read
from scgpt_bench.data.references import references
from scgpt_bench.data.splits import fold
from scgpt_bench.evaluation.control_blocks import score_without_blocks
from scgpt_bench.evaluation.metrics import HEADLINE, METRICS, score
from scgpt_bench.evaluation.pseudobulk import add_untested, measured, truth
from scgpt_bench.evaluation.reference_scores import reference_scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.methods.benchmark_controls import shuffles
from scgpt_bench.methods.training_data import ToPredict, training_data
from scgpt_bench.seeding import random_generator
from scored import study
from snakemake_checkout import ROOT

FOLDS, PERTURBATIONS, CELLS = 5, 25, 40
LEARNED = ("control-mean", "train-mean", "ridge", "knn")
KINDS = {name: name for name in (*LEARNED, "shuffled", "technical-duplicate")} | {
    "made-up": "imported",
    "scaled mean": "imported",
}
JUDGING = [metric.name for metric in METRICS.values() if metric.judges]


@pytest.fixture(scope="module")
def real_controls(papalexi_file):
    dataset = read_datasets(ROOT / "config" / "datasets.tsv")["papalexi_2021"]
    cells = harmonize(read(papalexi_file, dataset), dataset, minimum_cells=10, source=papalexi_file)
    return cells[(cells.obs["perturbation"] == CONTROL).to_numpy()].copy()


def without_effect(controls, seed):
    """Deal control cells into controls and pseudo-perturbations that lean to batches."""
    random = random_generator(seed, "null experiment")
    batch = controls.obs["batch"].astype(str).to_numpy()
    names = np.unique(batch)
    order = random.permutation(controls.n_obs)
    kept, pool = np.split(order, [controls.n_obs // 3])
    chosen, labels = [kept], [CONTROL] * len(kept)
    for number in range(PERTURBATIONS):
        share = dict(zip(names, random.dirichlet([0.7] * len(names)), strict=True))
        weight = np.array([share[name] for name in batch[pool]]) + 1e-9
        own = random.choice(len(pool), CELLS, replace=False, p=weight / weight.sum())
        chosen.append(pool[own])
        labels += [f"P{number:02d}"] * CELLS
        pool = np.delete(pool, own)
    cells = controls[np.concatenate(chosen)].copy()
    cells.obs["perturbation"] = labels
    return halved(cells)


def predictions(cells, split, answer, seed):
    """Predicted means of every method, and whether they are those of half of the cells."""
    training = training_data(cells, split)
    tested = conditions_of(split, "test")
    test = ToPredict([c.perturbation for c in tested], references(cells, tested, INPUT))
    start = answer.layers["reference_input"]
    means = {name: start + SIMPLE[name](training, test).values for name in LEARNED}
    row_of = {condition: row for row, condition in enumerate(listed(answer.obs))}
    partner = next(shuffles(tested, seed))
    means["shuffled"] = start + (answer.X - start)[[row_of[partner[condition]] for condition in tested]]
    labels = np.where(first_half(cells.obs, tested), cells.obs["perturbation"].astype(str), "")
    means["technical-duplicate"] = group_means(cells.X, labels, [c.perturbation for c in tested])[0]
    means["made-up"] = start + random_generator(seed, "made up").normal(0, 0.01, start.shape)
    means["scaled mean"] = start + 3 * (means["train-mean"] - start)
    return {name: anndata.AnnData(X, obs=answer.obs, var=answer.var) for name, X in means.items()}


def judged(controls, seed):
    cells = without_effect(controls, seed)
    of_all, tables, without, scored, splits = measured(cells), [], [], [], []
    dealing = {"dataset": "null", "folds": FOLDS, "seed": 1, "validation_share": 0.15, "minimum_cells": 30}
    for number in range(FOLDS):
        split = fold(cells.obs, fold=number, **dealing)
        answer = truth(of_all, split)
        whole = add_untested(answer, of_all)
        place = {"dataset": f"null{seed}", "split": f"fold{number}"}
        for method, predicted in predictions(cells, split, answer, seed).items():
            table = score(predicted, whole, halved=method == "technical-duplicate")
            tables.append(table[table["metric"].isin(JUDGING)].assign(method=method, seed=0, **place))
            if method not in ("shuffled", "technical-duplicate"):
                without.append(score_without_blocks(predicted, whole).assign(method=method, seed=0, **place))
        scored.append(reference_scores(whole).assign(**place))
        splits.append(split.assign(**place))
    made = study(
        pd.concat(tables),
        KINDS,
        pd.concat(scored),
        pd.concat(splits),
        pooled={"all": [f"fold{n}" for n in range(FOLDS)]},
        control_blocks=pd.concat(without),
    )
    return verdicts(made)


def given(controls, experiments):
    """Verdicts that something is better or worse, over the pooled folds, by method and metric."""
    table = pd.concat([judged(controls, seed) for seed in experiments])
    table = table[table["split"] == "all"]
    counted = table.assign(given=table["verdict"].isin(["better", "worse"]))
    print(counted.groupby(["metric", "method"])["verdict"].value_counts().to_string())
    return counted.groupby(["metric", "method"])["given"].sum()


@pytest.mark.long
def test_no_more_than_two_of_twenty_experiments_without_effect_have_a_verdict(real_controls):
    found = given(real_controls, range(20))
    assert found[HEADLINE].max() <= 2
