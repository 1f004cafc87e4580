"""Planted cell lines, each held out in turn: what carries over is found, and nothing is where nothing does."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import halved
from predicted import whole
from registered import SIMPLE
from scgpt_bench.data import planted, splits
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import ALL_CONTEXTS, conditions_of, listed
from scgpt_bench.data.controls import control_cells, draw_controls
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.names import CONTROL
from scgpt_bench.evaluation.metrics import HEADLINE, METRICS, score
from scgpt_bench.evaluation.pseudobulk import add_untested, measured, pseudobulk, truth
from scgpt_bench.evaluation.reference_scores import reference_scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.methods import baselines
from scgpt_bench.methods.benchmark_controls import Known, oracle, planted_means
from scored import study
from snakemake_checkout import ROOT

pytestmark = pytest.mark.long

EXPERIMENTS = 20
SIZES = {"modules": 6, "genes_per_module": 20, "targets_per_module": 5, "cells_per_perturbation": 40, "contexts": 4}
SIZES |= {"control_cells": 300, "atlas_cells": 30, "truth_draws": 1000, "genes_outside_vocabulary": 0}
LINES = ["line1", "line2", "line3", "line4"]
DEALING = {"dataset": "lines", "seed": 1, "validation_share": 0.15, "minimum_cells": 30}
TRANSFER = ("same-perturbation", "same-perturbation-and-context", "ridge", "knn", "tuned-simple")
JUDGING = [metric.name for metric in METRICS.values() if metric.judges]


def experiment(seed, carried_over):
    """Predicted and measured conditions of every line that is held out, and the planted experiment."""
    made = planted.generate({**SIZES, "seed": seed, "carried_over": carried_over})
    row = read_datasets(ROOT / "config" / "datasets.tsv")["planted"]
    cells = halved(harmonize(made.cells, replace(row, context_column="context"), minimum_cells=10))
    of_all = measured(cells)
    for line in LINES:
        split = splits.context(cells.obs, context=line, **DEALING)
        draw = draw_controls(cells.obs, split, per_perturbation=50, seed=1, dataset="lines", split_name=line)
        drawn = control_cells(cells, draw)
        yield line, cells, split, drawn, add_untested(truth(of_all, split), of_all), made


def changed_as_planted(made, answer, known):
    """The planted changes of some conditions, and for each the mean change of its line, from their references."""
    conditions = listed(answer.obs)
    of_controls = [condition._replace(perturbation=CONTROL) for condition in conditions]
    changes = planted_means(made.truth, conditions, known.var_names)
    changes = changes - planted_means(made.truth, of_controls, known.var_names)
    return changes, np.tile(changes.mean(axis=0), (len(changes), 1))


def judged(seed, carried_over, simple, asked):
    """Verdicts over all lines on ``asked`` (and the oracle, and what knows the line alone) against ``simple``."""
    tables, scored, of_splits = [], [], []
    for line, cells, split, drawn, known, made in experiment(seed, carried_over):
        place = {"dataset": f"planted{seed}", "split": f"context-{line}"}
        predicted = {}
        for name in (*simple, *asked):
            X, _ = whole(baselines.predict, cells, split, drawn, SIMPLE[name])
            predicted[name] = pseudobulk(anndata.AnnData(X, obs=drawn.obs, var=cells.var[[]]))
        X, _ = whole(oracle, Known(cells, drawn, truth(measured(cells), split), made.truth), 0)
        predicted["oracle"] = pseudobulk(anndata.AnnData(X, obs=drawn.obs, var=cells.var[[]]))
        start = known.layers["reference_input"][known.obs["tested"].to_numpy()]
        _, of_line = changed_as_planted(made, predicted["oracle"], known)
        predicted["line alone"] = anndata.AnnData(start + of_line, obs=predicted["oracle"].obs, var=cells.var[[]])
        for method, means in predicted.items():
            table = score(means, known)
            tables.append(table[table["metric"].isin(JUDGING)].assign(method=method, seed=0, **place))
        scored.append(reference_scores(known).assign(**place))
        of_splits.append(split.assign(**place))
    kinds = {name: name if name in simple else "imported" for name in predicted}
    pooled = {"contexts": [f"context-{line}" for line in LINES]}
    table = verdicts(study(pd.concat(tables), kinds, pd.concat(scored), pd.concat(of_splits), pooled=pooled))
    means = pd.concat(tables).query("metric == @HEADLINE").groupby("method")["value"].mean()
    of_all = (table["split"] == "contexts") & (table["context"] == ALL_CONTEXTS) & (table["metric"] == HEADLINE)
    return table[of_all], means


def over_experiments(carried_over, simple, asked):
    made = [judged(seed, carried_over, simple, asked) for seed in range(101, 101 + EXPERIMENTS)]
    found = pd.concat([table for table, _ in made])
    print(pd.DataFrame([means for _, means in made]).describe().loc[["mean", "min", "max"]].round(3).to_string())
    print(found.groupby("method")["verdict"].value_counts().to_string())
    return found.groupby("method")["verdict"].apply(list), pd.DataFrame([means for _, means in made])


def test_the_oracle_is_on_top_and_what_knows_the_line_alone_is_never_better_where_half_carries_over():
    verdict, means = over_experiments(0.5, ("control-mean", "train-mean", "same-perturbation"), ())
    assert verdict["oracle"] == ["better"] * EXPERIMENTS
    assert "better" not in verdict["line alone"]
    assert (means.drop(columns="oracle").max(axis=1) < means["oracle"]).all()
    assert (means["same-perturbation"] > means["line alone"]).all()


def test_no_method_that_transfers_is_better_where_nothing_carries_over():
    verdict, _ = over_experiments(0.0, ("control-mean", "train-mean"), TRANSFER)
    for method in (*TRANSFER, "line alone"):
        assert "better" not in verdict[method], method
    assert verdict["oracle"] == ["better"] * EXPERIMENTS


def test_the_same_perturbation_finds_what_carries_over_and_nothing_else():
    """The correlation with the planted change that all lines share, and with what is left of that of the line."""
    found = []
    for seed in range(101, 101 + EXPERIMENTS):
        shared = planted.generate({**SIZES, "seed": seed}).truth
        for _line, cells, split, drawn, known, made in experiment(seed, 0.5):
            X, _ = whole(baselines.predict, cells, split, drawn, SIMPLE["same-perturbation"])
            means = pseudobulk(anndata.AnnData(X, obs=drawn.obs, var=cells.var[[]]))
            tested = known.obs["tested"].to_numpy()
            predicted = means.X - known.layers["reference_input"][tested]
            common, _ = changed_as_planted(replace(made, truth=shared), means, known)
            own = changed_as_planted(made, means, known)[0]
            own = own - common * ((own * common).sum(1) / (common**2).sum(1))[:, None]
            found.append([_correlation(predicted, common), _correlation(predicted, own)])
            assert len(conditions_of(split, "test")) == 30
    print(np.round(np.percentile(found, [0, 50, 100], axis=0), 3))
    with_common, with_own = np.mean(found, axis=0)
    assert with_common > 0.7
    assert abs(with_own) < 0.1


def _correlation(predicted, true):
    return np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(predicted, true, strict=True)])
