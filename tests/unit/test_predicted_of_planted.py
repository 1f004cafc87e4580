"""Lists of a planted screen: they score what cross-validation promised, and signatures find their module.

Of the ten experiments below, the mean score of the list lay in the 95 % prediction interval in 9 for ``train-mean`` and
in 9 for ``tuned-simple``, against measured cells and against planted truth alike. ``tuned-simple`` scored above the
middle of its interval in 8: it learned from all 45 measured perturbations, and from fewer in each fold. Of the
signatures of modules, ``tuned-simple`` found a target of the module among the first five of a hundred for 28 of 37, 29
of 32 and 32 of 33, and first of all for 15, 23 and 23.
"""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import halved, method_record
from predicted import whole
from registered import SIMPLE
from scgpt_bench.data import planted, splits, unmeasured
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import Condition, conditions_of
from scgpt_bench.data.controls import control_cells, draw_controls
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.names import CONTROL
from scgpt_bench.evaluation.metrics import HEADLINE, score
from scgpt_bench.evaluation.pseudobulk import add_untested, measured, pseudobulk, truth
from scgpt_bench.evaluation.reference_scores import reference_scores
from scgpt_bench.method_record import Asked
from scgpt_bench.methods import baselines
from scgpt_bench.seeding import random_generator
from scgpt_bench.unmeasured.changes import changes
from scgpt_bench.unmeasured.expected import prediction_interval
from scgpt_bench.unmeasured.ranking import rank
from snakemake_checkout import ROOT

pytestmark = pytest.mark.long

SEEDS = range(201, 211)
METHODS = ("train-mean", "tuned-simple")
FOLDS = 5
SIZES = {"modules": 10, "genes_per_module": 20, "targets_per_module": 6, "cells_per_perturbation": 60}
SIZES |= {"control_cells": 600, "atlas_cells": 30, "truth_draws": 1000, "genes_outside_vocabulary": 0}
SIZES |= {"unmeasured_targets": 0}
LIST = 15  # perturbations that are left out of the study
ROW = read_datasets(ROOT / "config" / "datasets.tsv")["planted"]


def screen(seed, n_listed, **sizes):
    """A planted screen, its cells, the names that are left out of the study, and the cells of the study."""
    made = planted.generate({**SIZES, **sizes, "seed": seed})
    names = [name for name in made.truth.obs_names if name != CONTROL]
    listed = sorted(random_generator(seed, "list").permutation(names)[:n_listed])
    kept = made.cells[~made.cells.obs["perturbation"].isin(listed)].copy()
    of_all, of_study = (halved(harmonize(cells, ROW, minimum_cells=10)) for cells in (made.cells, kept))
    return made, of_all, listed, of_study


def draw(cells, split, **options):
    names = {"seed": 1, "dataset": "planted", "split_name": "one"}
    return control_cells(cells, draw_controls(cells.obs, split, per_perturbation=50, **names, **options))


def predicted(cells, split, controls, method):
    X, _ = whole(baselines.predict, cells, split, controls, SIMPLE[method])
    return anndata.AnnData(X, obs=controls.obs, var=cells.var[[]])


def headline(cells, split, measurements, methods, **options):
    """What each method scores on every tested condition, and what the noise-free truth would, of measured cells."""
    controls = draw(cells, split, **options)
    answer = add_untested(truth(measurements, split), measurements)
    tables = {method: score(pseudobulk(predicted(cells, split, controls, method)), answer) for method in methods}
    ceiling = reference_scores(answer)
    tables["truth"] = ceiling.rename(columns={"noise_free": "value"})
    return pd.DataFrame(
        {name: table[table["metric"] == HEADLINE].set_index("perturbation")["value"] for name, table in tables.items()}
    )


def asked_about(cells, listed):
    """The split of a list, and the directions of its perturbations."""
    wanted = pd.DataFrame({"given": listed, "direction": "down"})
    table = unmeasured.asked(wanted, cells.obs, cells.var, contexts=[], direction=None, source="list")
    return unmeasured.split(cells.obs, table), {Condition(name): "down" for name in listed}


def with_planted_truth(made, cells, predictions, controls):
    """Correlate predicted with planted changes of each listed perturbation, without its target."""
    true = made.truth.to_df()[list(cells.var_names)]
    found = {}
    for name, table in ((one["perturbation"].iloc[0], one) for one in changes([predictions], controls)):
        others = table["gene"].astype(str).to_numpy() != name
        change = (true.loc[name] - true.loc[CONTROL]).to_numpy()
        found[name] = np.corrcoef(table["change"][others], change[others])[0, 1]
    return pd.Series(found)


def experiment(seed):
    """A row for each method: what cross-validation promises for a list, and what the list scores."""
    made, of_all, listed, cells = screen(seed, LIST)
    dealing = {"dataset": "planted", "folds": FOLDS, "seed": 1, "validation_share": 0.15, "minimum_cells": 10}
    of_study = measured(cells)
    folds = [splits.fold(cells.obs, fold=fold, **dealing) for fold in range(FOLDS)]
    scored = pd.concat([headline(cells, split, of_study, METHODS) for split in folds])
    assert len(scored) == len(conditions_of(cells.obs)) == 60 - LIST
    split, directions = asked_about(cells, listed)
    controls = draw(cells, split, direction_of=directions)
    of_everything = measured(of_all)
    answer = add_untested(truth(of_everything, split), of_everything)
    rows = []
    for method in METHODS:
        predictions = predicted(cells, split, controls, method)
        of_list = score(pseudobulk(predictions), answer).query("metric == @HEADLINE")["value"]
        low, high = prediction_interval(scored[method], LIST)
        without_noise = scored[method] / scored["truth"]
        row = {"low": low, "high": high, "measured": of_list.mean()}
        row["low of truth"], row["high of truth"] = prediction_interval(without_noise, LIST)
        row["planted"] = with_planted_truth(made, cells, predictions, controls).mean()
        rows.append({"seed": seed, "method": method, **row})
    return rows


@pytest.fixture(scope="module")
def experiments():
    table = pd.DataFrame([row for seed in SEEDS for row in experiment(seed)])
    print("\n", table.round(3).to_string())
    return table


def test_a_list_that_is_measured_later_scores_what_cross_validation_expected(experiments):
    inside = experiments["measured"].between(experiments["low"], experiments["high"])
    number = inside.groupby(experiments["method"]).sum()
    print(number.to_string())
    assert (number >= 8).all()


def test_the_planted_truth_is_met_as_expected_once_the_noise_of_measured_scores_is_divided_out(experiments):
    """A measured score is lower than one against the truth, as far as the truth itself scores below 1."""
    inside = experiments["planted"].between(experiments["low of truth"], experiments["high of truth"])
    number = inside.groupby(experiments["method"]).sum()
    print(number.to_string())
    assert (number >= 8).all()


def record_of(names):
    return method_record("knn").model_copy(
        update={"asked": tuple(Asked(perturbation=name, context="all") for name in names)}
    )


def ranks_of_modules(seed, method):
    """Of every module and way that a listed target moves it: the best rank, by its signature, of such a target."""
    made, _, listed, cells = screen(seed, 100, modules=20, targets_per_module=10, cells_per_perturbation=40)
    split, directions = asked_about(cells, listed)
    controls = draw(cells, split, direction_of=directions)
    table = pd.concat(changes([predicted(cells, split, controls, method)], controls), ignore_index=True)
    module, way = made.truth.obs["module"], np.sign(made.truth.obs["activity_change"])
    found = []
    for name, direction in sorted({(module[one], way[one]) for one in listed}):
        loading = made.truth.var.loc[made.truth.var["module"] == name, "loading"]
        ranking = rank({method: table}, {method: record_of(listed)}, direction * np.sign(loading))
        targets = ranking["perturbation"].map(module).eq(name) & ranking["perturbation"].map(way).eq(direction)
        found.append(int(ranking.loc[targets, "rank_by_signature"].min()))
    return found


def test_the_signature_of_a_module_finds_a_target_of_it_among_the_first_five_of_a_hundred():
    best = {seed: np.array(ranks_of_modules(seed, "tuned-simple")) for seed in (301, 302, 303)}
    for seed, ranks in best.items():
        print(seed, len(ranks), "signatures; first:", (ranks == 1).sum(), "among five:", (ranks <= 5).sum(), ranks)
    assert all((ranks <= 5).mean() > 0.5 for ranks in best.values())
