"""The gate ``unreliable data``: halves of the cells must predict each other better than those of others do."""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import halved, measured_without_noise
from scgpt_bench.data.conditions import Condition, conditions_of, table_of
from scgpt_bench.data.means import first_half, group_means
from scgpt_bench.data.names import CONTROL
from scgpt_bench.evaluation.metrics import HEADLINE, METRICS, score
from scgpt_bench.evaluation.pseudobulk import measured, truth
from scgpt_bench.evaluation.repeatability import repeatability
from scgpt_bench.evaluation.scores import blocks
from scgpt_bench.evaluation.verdicts import is_reliable
from scored import JUDGING, metrics_table, study

GENES = 200
# Cells of each perturbation, and control cells.
DESIGNS = {
    "25 perturbations, 2,000 control cells": ([100] * 25, 2000),
    "25 perturbations, 400 control cells": ([100] * 25, 400),
    "25 perturbations, 100 control cells": ([100] * 25, 100),
    "100 perturbations, 400 control cells": ([100] * 100, 400),
    "25 perturbations of 20 to 500 cells, 100 control cells": (np.geomspace(20, 500, 25).astype(int), 100),
}
# Measured changes of many cells are nearer to those of few control cells: ranks follow the numbers of cells, and so do
# halves of conditions with as many. It opened in 10 %.
UNEQUAL = {"25 perturbations of 20 to 500 cells, 100 control cells": ["discrimination"]}
EXPERIMENTS = 150


def experiment(seed, n_cells, n_controls, effect=0.0):
    """truth.h5ad of an experiment in which all perturbations are tested; ``effect`` is in spreads of a cell."""
    random = np.random.default_rng([seed, n_controls, len(n_cells)])
    base, spread = random.exponential(size=GENES), np.clip(np.exp(random.normal(-1, 0.6, GENES)), 0.02, 1)
    names = [f"P{number:03d}" for number in range(len(n_cells))]
    shifts = np.r_[np.zeros((1, GENES)), effect * random.normal(size=(len(names), GENES)) * spread]
    of_cell = np.repeat(np.arange(len(names) + 1), [n_controls, *n_cells])
    X = base + shifts[of_cell] + random.normal(size=(len(of_cell), GENES)) * spread
    obs = pd.DataFrame({"perturbation": np.array([CONTROL, *names])[of_cell]})
    obs.index = [f"cell{number}" for number in range(len(obs))]
    var = pd.DataFrame(index=[f"G{number}" for number in range(GENES)])
    cells = halved(anndata.AnnData(X.astype(np.float32), obs=obs, var=var))
    split = pd.DataFrame({"perturbation": names, "context": "all", "role": "test"})
    split = pd.concat([split, split.assign(role="train")])  # for a centroid, which no judging metric reads
    return truth(measured(cells), split), cells


def opens(seed, *design, **options):
    """Whether the gate opens, by metric."""
    answer, _ = experiment(seed, *design, **options)
    place = {"dataset": "planted", "split": "fold0"}
    references = repeatability(answer).assign(no_change=0.0, noise_free=1.0, reason="", **place)
    scored = [metrics_table({"train-mean": np.zeros(answer.n_obs)}, metric) for metric in JUDGING]
    table = pd.concat(scored, ignore_index=True)
    table["perturbation"] = [f"P{int(name[1:]):03d}" for name in table["perturbation"]]
    return {block.metric.name: is_reliable(block) for block in blocks(study(table, references=references))}


def rates(design, experiments, **options):
    return pd.DataFrame([opens(seed, *DESIGNS[design], **options) for seed in range(experiments)]).mean()


@pytest.mark.parametrize("design", ["25 perturbations, 100 control cells", "100 perturbations, 400 control cells"])
def test_the_gate_stays_closed_where_nothing_responds(design):
    assert rates(design, 20)[HEADLINE] <= 0.15


@pytest.mark.long
@pytest.mark.parametrize("design", DESIGNS)
def test_the_gate_opens_by_chance_in_five_percent_at_most(design):
    found = rates(design, EXPERIMENTS)
    print(f"\n{design}: {found.mul(100).round(1).to_dict()}")
    assert found.drop(UNEQUAL.get(design, [])).max() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / EXPERIMENTS)


@pytest.mark.parametrize("design", ["25 perturbations, 2,000 control cells", "25 perturbations, 100 control cells"])
def test_the_gate_opens_where_responses_repeat(design):
    """Two halves of 50 cells correlate by about 0.3 if an effect is a tenth of a cell's spread."""
    assert rates(design, 5, effect=0.1)[HEADLINE] == 1


def test_halves_are_scored_as_a_technical_duplicate_and_another_one_are():
    answer, cells = experiment(1, [30, 40, 50, 60], 200, effect=0.5)
    conditions = conditions_of(answer.obs)
    labels = np.where(first_half(cells.obs, conditions), cells.obs["perturbation"].astype(str), "")
    means = group_means(cells.X, labels, [condition.perturbation for condition in conditions])[0]
    found = repeatability(answer).set_index(["metric", "perturbation"])
    own = score(anndata.AnnData(means, obs=answer.obs, var=answer.var), answer, halved=True)
    own = own.set_index(["metric", "perturbation"])["value"]
    assert {*found.index.get_level_values("metric")} == {name for name, metric in METRICS.items() if metric.judges}
    pd.testing.assert_series_equal(found["own_half"], own.loc[found.index], check_names=False)
    start = answer.layers["reference_truth_a"]
    others = []
    for shift in (1, 2, 3):
        of_other = start + np.roll(means - start, shift, axis=0)
        others.append(score(anndata.AnnData(of_other, obs=answer.obs, var=answer.var), answer, halved=True))
    every = pd.concat(others).groupby(["metric", "perturbation"])["value"]
    between = found["other_halves"].between(every.min().loc[found.index], every.max().loc[found.index])
    assert between.all(), "a mean over other conditions"


def test_a_single_cell_and_a_condition_alone_have_no_score():
    random = np.random.default_rng(3)
    means = random.random((4, GENES))
    answer = anndata.AnnData(
        means,
        obs=table_of([*map(Condition, "ABC", "xxx"), Condition("A", "y")]).assign(n_cells=[9, 9, 1, 9]),
        var=pd.DataFrame(index=[f"G{number}" for number in range(GENES)]),
        layers={"reference_input": np.ones((4, GENES)), "centroid": np.ones((4, GENES))},
    )
    answer = measured_without_noise(answer)
    answer.layers["half_a"][2] = np.nan
    table = repeatability(answer).set_index(["perturbation", "context"])[["own_half", "other_halves"]]
    known = table.notna().all(axis=1).groupby(level=[0, 1]).all()
    assert known.to_dict() == {("A", "x"): True, ("A", "y"): False, ("B", "x"): True, ("C", "x"): False}
    answer.layers["half_a"][:] = np.nan
    assert repeatability(answer)[["own_half", "other_halves"]].isna().all(axis=None), "of single cells alone"
