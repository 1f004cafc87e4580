"""Floor, ceiling and oracle on cells whose means are known."""

import itertools
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from jobs import Job
from made_up import halved, measure, measured_without_noise
from predicted import whole
from registered import CONTROLS, SIMPLE
from scgpt_bench import files
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.data.controls import control_cells, draw_controls
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import first_half
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.data.planted import generate
from scgpt_bench.data.references import references
from scgpt_bench.data.splits import fold
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation import floor, versions
from scgpt_bench.evaluation.floor import every_metric, mean_over_shuffles
from scgpt_bench.evaluation.metrics import metric_of, score
from scgpt_bench.evaluation.pseudobulk import pseudobulk, truth
from scgpt_bench.evaluation.scores import scores
from scgpt_bench.method_record import record_of
from scgpt_bench.methods import baselines, registry
from scgpt_bench.methods.benchmark_controls import Known, oracle, shuffled, shuffles, technical_duplicate
from scored import study

NAMES = [f"P{i}" for i in range(8)]
CONDITIONS = [*map(Condition, NAMES)]
SPLIT = pd.DataFrame({"perturbation": [*NAMES, "trained"], "role": ["test"] * 8 + ["train"]})


@pytest.fixture(scope="module")
def experiment():
    """Noisy cells around planted means, their truth, and 10 drawn controls for each perturbation."""
    random = np.random.default_rng(3)
    genes = pd.DataFrame(index=[f"G{i}" for i in range(60)])
    of_planted = table_of([Condition("control"), *CONDITIONS])
    planted = anndata.AnnData(np.vstack([np.ones(60), random.exponential(size=(8, 60))]), obs=of_planted, var=genes)
    labels = np.repeat(["control", *NAMES, "trained"], 40)
    means = np.vstack([planted.X, np.ones(60)])[np.repeat(np.arange(10), 40)]
    X = sparse.csr_matrix(np.maximum(means + random.normal(0, 0.5, means.shape), 0).astype(np.float32))
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(labels))])
    cells = anndata.AnnData(X, obs=obs, var=genes)
    columns = {"perturbation": np.repeat(NAMES, 10), "weight": np.tile(np.linspace(0.1, 1.9, 10), 8)}
    drawn = pd.DataFrame({**columns, "context": "all"}, index=[f"drawn{i}" for i in range(80)])
    controls = anndata.AnnData(cells.X[np.tile(np.arange(10), 8)], obs=drawn, var=genes)
    controls.varm["control_mean"] = references(halved(cells), CONDITIONS, INPUT).T
    controls.uns["control_mean_of"] = table_of(CONDITIONS)
    return cells, controls, truth(measure(cells), SPLIT), planted


def means_of(predicted, controls):
    predictions = anndata.AnnData(predicted, obs=controls.obs)
    return pseudobulk(predictions).X


def test_shuffled_gives_each_perturbation_the_change_of_another_one(experiment):
    cells, controls, measured, _ = experiment
    predicted, record = whole(shuffled, Known(cells, controls, measured), seed=1)
    assert record == {"shuffles": 4}
    sources = first_shuffle(NAMES, 1)
    assert all(name != source for name, source in sources.items())
    assert sorted(sources.values()) == NAMES
    expected = measured[[sources[name] for name in NAMES]].X
    np.testing.assert_allclose(means_of(predicted, controls), expected, atol=1e-6)


def shuffles_by_name(names, seed):
    """The shuffles of perturbations of one context, by name."""
    for partner in shuffles([*map(Condition, names)], seed):
        yield {condition.perturbation: other.perturbation for condition, other in partner.items()}


def first_shuffle(names, seed):
    return next(shuffles_by_name(names, seed))


def test_shuffling_depends_on_names_and_seed_only():
    assert first_shuffle(NAMES, 1) == {name: first_shuffle(NAMES[::-1], 1)[name] for name in NAMES}
    assert first_shuffle(NAMES, 1) != first_shuffle(NAMES, 2)
    with_one_more = first_shuffle([*NAMES, "new"], 1)
    assert sum(with_one_more[name] != first_shuffle(NAMES, 1)[name] for name in NAMES) == 1


@pytest.mark.parametrize("n", [2, 3, 8, 27, 41])
def test_shuffles_together_are_all_pairs(n):
    names = [f"P{number}" for number in range(n)]
    pairs = {frozenset(pair) for partner in shuffles_by_name(names, 1) for pair in partner.items()}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(names, 2)}


def test_many_perturbations_are_shuffled_in_twenty_ways():
    assert len(list(shuffles_by_name([f"P{number}" for number in range(900)], 1))) == 20


def test_the_floor_is_the_mean_over_all_pairs():
    """Half of the responses are the opposite of the other half: one shuffle scores what the circle happens to be."""
    random = np.random.default_rng(5)
    response, names = random.normal(size=80), [f"P{number}" for number in range(9)]
    sign = np.resize([1, -1], 9)[:, None]
    control = np.full((9, 80), 3.0)
    layers = {"reference_input": control, "centroid": control}
    measured = anndata.AnnData(control + sign * response, table_of([*map(Condition, names)]), layers=layers)
    measured_without_noise(measured)
    rows = pd.DataFrame({"perturbation": np.repeat(names, 4), "weight": 1.0}).rename(index=str)
    controls = anndata.AnnData(3 + random.normal(0, 0.1, (36, 80)), rows)
    X, _ = whole(shuffled, Known(None, controls, measured), seed=1)
    cells = anndata.AnnData(X, rows, measured.var)
    table = mean_over_shuffles(cells, measured, seed=1, of_cells=False)
    pairs = np.corrcoef(sign * response)[np.triu_indices(9, k=1)]
    assert table.query("metric == 'pearson_delta'")["value"].mean() == pytest.approx(pairs.mean(), abs=1e-5)
    (once,) = score(pseudobulk(cells), measured).query("metric == 'pearson_delta'").groupby("metric")["value"].mean()
    assert abs(once - pairs.mean()) > 0.05, "one shuffle is off, so that this test can fail"
    assert list(table.columns) == ["perturbation", "context", "metric", "value", "reason"]


@pytest.mark.parametrize(("entries", "times"), [({"shuffles": 4}, 4), ({"halved": True}, 1), ({}, 1)])
def test_only_the_floor_is_scored_more_than_once(experiment, monkeypatch, entries, times):
    cells, controls, measured, _ = experiment
    X, _ = whole(technical_duplicate, Known(cells, controls, measured), seed=1)
    predicted = anndata.AnnData(X, controls.obs, controls.var)
    halves = []

    def score_cells(*_, halved=False, **__):
        halves.append(halved)
        return table_of([Condition("P0")]).assign(metric="of cells", value=0.0, reason="")

    for module in (floor, versions):
        monkeypatch.setattr(module, "score_cells", score_cells)
    record = record_of([], kind="some", options={}, seed=1, n_genes=60, **entries)
    every_metric(predicted, measured, record)
    assert halves == [record.halved] * times


def test_one_perturbation_has_no_shuffle_and_is_refused(experiment):
    cells, controls, measured, _ = experiment
    assert not [*shuffles_by_name(["P0"], 1)]
    with pytest.raises(InputError, match="two or more"):
        whole(shuffled, Known(cells, controls[:1].copy(), measured), seed=1)


def test_technical_duplicate_predicts_one_half_and_is_scored_against_the_other(experiment):
    cells, controls, measured, _ = experiment
    predicted, method = whole(technical_duplicate, Known(cells, controls, measured), seed=1)
    assert method == {"halved": True}
    halves = (means_of(predicted, controls) + measured.layers["half_b"]) / 2
    np.testing.assert_allclose(halves, measured.X, atol=1e-6)
    assert np.abs(means_of(predicted, controls) - measured.layers["half_b"]).max() > 0.1


def test_cells_on_disk_are_duplicated_as_those_in_memory(experiment, tmp_path, monkeypatch):
    cells, controls, measured, _ = experiment
    expected, _ = whole(technical_duplicate, Known(cells, controls, measured), seed=1)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("scgpt_bench.data.on_disk.row_chunks.__defaults__", (60 * 50, None))  # fifty cells at once
    found, _ = whole(technical_duplicate, Known(open_h5ad(tmp_path / "cells.h5ad"), controls, measured), seed=1)
    assert (found == expected).all()


@pytest.mark.parametrize(
    ("script", "function"), [("predict_baseline", "knn"), ("predict_benchmark_control", "technical_duplicate")]
)
def test_no_job_reads_all_cells_or_controls_into_memory(experiment, tmp_path, monkeypatch, script, function):
    cells, controls, measured, _ = experiment
    controls = controls.copy()
    controls.obs["control_cell"], controls.obs["cell_type"] = "cell0", "T"
    names = {"cells": cells, "controls": controls, "truth": measured}
    for name, content in names.items():
        content.write_h5ad(tmp_path / f"{name}.h5ad")
    files.write_table(SPLIT, tmp_path / "split.tsv")
    read_h5ad = files.read_h5ad

    def read_all_but_cells(path, **options):
        assert path not in ("cells.h5ad", "controls.h5ad")
        return read_h5ad(path, **options)

    monkeypatch.setattr(files, "read_h5ad", read_all_but_cells)
    inputs = {name: f"{name}.h5ad" for name in names} | {"split": "split.tsv", "planted": [], "embeddings": []}
    params = {"function": function, "options": {"kind": function}, "context_vectors": None}
    outputs = {"predictions": "predictions.h5ad", "method": "method.json"}
    done = Job(f"{script}.py", inputs, outputs, params, {"seed": "1"}).run(tmp_path)
    assert done.status == 0, done.terminal + done.log


def test_halves_do_not_depend_on_the_order_of_cells(experiment):
    cells = experiment[0]
    order = np.random.default_rng(5).permutation(cells.n_obs)
    mask, mixed = first_half(cells.obs, CONDITIONS), first_half(cells.obs.iloc[order], CONDITIONS)
    assert (mask[order] == mixed).all()
    assert mask.sum() == 8 * 20


def test_oracle_predicts_the_planted_change(experiment):
    cells, controls, measured, planted = experiment
    predicted, _ = whole(oracle, Known(cells, controls, measured, planted[::-1, ::-1]), seed=1)
    expected = measured.layers["reference_input"] + planted.X[1:] - planted.X[0]
    np.testing.assert_allclose(means_of(predicted, controls), expected, atol=1e-6)


def test_oracle_needs_every_planted_mean(experiment):
    cells, controls, measured, planted = experiment
    with pytest.raises(InputError, match="P3"):
        whole(oracle, Known(cells, controls, measured, planted[planted.obs_names != "P3"]), seed=1)


CONSTANT = ("control-mean", "train-mean")  # predict the same change for every perturbation
LEARNED = ("ridge", "knn", "tuned-simple", "forest")


@pytest.fixture(scope="module")
def ladder():
    """Scores of all methods by metric, over three planted experiments of 20 test perturbations whose modules can be
    learned from the training perturbations."""
    dataset = read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")["planted"]
    dealing = {"dataset": "planted", "fold": 0, "folds": 3, "seed": 1, "validation_share": 0.15, "minimum_cells": 30}
    draw = {"per_perturbation": 20, "seed": 1, "dataset": "planted", "split_name": "fold0"}
    tables = []
    for seed in (1, 2, 3):
        made = generate({"seed": seed, "atlas_cells": 1, "atlas_states": 1, "truth_draws": 500})
        cells = harmonize(made.cells, dataset, minimum_cells=10)
        split = fold(cells.obs, **dealing)
        controls = control_cells(cells, draw_controls(halved(cells).obs, split, **draw))
        measured = truth(measure(cells), split)
        for kind in (*SIMPLE, *CONTROLS):
            if kind in SIMPLE:
                X, method = whole(baselines.predict, cells, split, controls, SIMPLE[kind])
            else:
                X, method = whole(CONTROLS[kind], Known(cells, controls, measured, made.truth), seed=1)
            predicted, of_half = anndata.AnnData(X, obs=controls.obs, var=controls.var), method.get("halved", False)
            if kind == registry.FLOOR:
                table = mean_over_shuffles(predicted, measured, seed=1, of_cells=False)
            else:
                table = score(pseudobulk(predicted), measured, of_half)
            tables.append(table.assign(dataset="planted", split=f"experiment{seed}", method=kind, seed=1))
    pooled = pd.concat(tables, ignore_index=True)
    means = scores(study(pooled, pooled={"all": [*pooled["split"].unique()]}))
    return {metric: table.set_index("method") for metric, table in means[means["split"] == "all"].groupby("metric")}


@pytest.mark.parametrize("metric", ["pearson_delta", "mse", "discrimination_l1"])
def test_oracle_and_technical_duplicate_are_at_the_top_and_what_can_be_learned_is_next(ladder, metric):
    means = ladder[metric]["mean"] if metric_of(metric).higher_is_better else -ladder[metric]["mean"]
    assert set(means.nlargest(2).index) == {"oracle", "technical-duplicate"}
    assert means.loc[list(LEARNED)].min() > means.drop(["oracle", "technical-duplicate", *LEARNED]).max()


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_shuffled_has_the_largest_error_of_all(ladder, metric):
    assert ladder[metric]["mean"].idxmax() == "shuffled"


@pytest.mark.parametrize(("metric", "chance"), [("pearson_delta", 0.0), ("discrimination_l1", 0.5)])
def test_shuffled_is_at_chance_where_chance_is_the_bottom(ladder, metric, chance):
    """No sensible method can do worse than chance with these two, so several share the bottom: ``control-mean`` has no
    direction, and one change predicted for all cannot tell any two perturbations apart."""
    at_bottom = ladder[metric].loc["shuffled"]
    assert at_bottom["ci_low"] < chance < at_bottom["ci_high"]
    assert at_bottom["mean"] <= ladder[metric]["mean"].min() + (at_bottom["ci_high"] - at_bottom["mean"])
    if metric == "discrimination_l1":
        assert ladder[metric].loc[list(CONSTANT), "mean"].between(0.5, 0.57).all()
