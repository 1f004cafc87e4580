"""What the view of a perturbation shows, against numbers that are computed otherwise."""

import gzip
import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import measured_without_noise
from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.errors import InputError
from scgpt_bench.report import perturbations
from scgpt_bench.report.perturbations import LISTED, MEASURED, Predicted, view, write

CONDITIONS = [Condition("G3"), Condition("<script>alert(1)</script>"), Condition("STAT1")]
NAMES = [condition.label for condition in CONDITIONS]
GENES = [f"G{i}" for i in range(200)]


@pytest.fixture(scope="module")
def truth():
    random = np.random.default_rng(7)
    obs = table_of(CONDITIONS).assign(n_cells=[5, 3, 1])
    layers = {f"reference_{part}": random.normal(size=(3, 200)) for part in ("input", "truth", "truth_a", "truth_b")}
    layers["half_b"] = random.normal(size=(3, 200))
    return measured_without_noise(
        anndata.AnnData(random.normal(size=(3, 200)), obs, pd.DataFrame(index=GENES), layers=layers)
    )


@pytest.fixture(scope="module")
def cells(truth):
    """Cells of all conditions in an order of their own, and of a control; some values are 0."""
    random = np.random.default_rng(8)
    rows = [2, 0, -1, 1, 0, 0, 1, 0, -1, 1, 0]
    obs = pd.DataFrame(
        [("control", "all") if row < 0 else CONDITIONS[row] for row in rows], columns=["perturbation", "context"]
    )
    X = random.normal(size=(len(rows), 200)) * (random.random((len(rows), 200)) < 0.7)
    return anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs.rename(index=str), truth.var)


@pytest.fixture(scope="module")
def means(truth):
    random = np.random.default_rng(9)
    made = {name: random.normal(size=(3, 200)) for name in ("ridge", "scgpt-zero-shot", "technical-duplicate")}
    made["ridge"][1, 150] = 50.0
    return {name: anndata.AnnData(X, truth.obs, truth.var)[::-1] for name, X in made.items()}


def methods_of(means, reason=""):
    metrics = pd.DataFrame({"perturbation": NAMES, "context": "all", "metric": "effect_pearson", "reason": ""})
    metrics = metrics.assign(value=[0.1, 0.2, 0.3])
    metrics.loc[2, "reason"] = reason
    metrics = pd.concat([metrics, metrics.assign(metric="mse", value=0.5)])
    return {
        name: Predicted(name, name == "technical-duplicate", metrics, lambda name=name: means[name]) for name in means
    }


@pytest.fixture(scope="module")
def shown(truth, cells, means):
    reliability = pd.Series([0.5, np.nan], index=NAMES[:2])
    return view(truth, methods_of(means, "prediction has no variance"), cells, cells, reliability)


def thousandths(values):
    return np.rint(1000 * np.asarray(values)).astype(int).tolist()


def test_changes_are_counted_from_the_reference_of_their_own_side(shown, truth, means):
    for row, condition in enumerate(shown["conditions"]):
        genes = [GENES.index(shown["genes"][gene]) for gene in condition["genes"]]
        measured = truth.X[row, genes] - truth.layers["reference_truth"][row, genes]
        half = truth.layers["half_b"][row, genes] - truth.layers["reference_truth_b"][row, genes]
        assert condition["measured"] == thousandths(measured)
        assert condition["half_b"] == thousandths(half)
        for number, name in enumerate(means):
            reference = "reference_truth_a" if name == "technical-duplicate" else "reference_input"
            predicted = means[name][NAMES[row]].X[0, genes] - truth.layers[reference][row, genes]
            assert condition["predicted"][number] == thousandths(predicted)


def test_the_genes_are_those_that_were_measured_or_predicted_to_change_most(shown, truth, means):
    for row, condition in enumerate(shown["conditions"]):
        size = np.abs(truth.X[row] - truth.layers["reference_truth"][row])
        names = [shown["genes"][gene] for gene in condition["genes"]]
        assert len(set(names)) == len(names) == LISTED
        assert names[:MEASURED] == [GENES[gene] for gene in sorted(range(200), key=lambda gene: -size[gene])[:MEASURED]]
    assert "G150" in [shown["genes"][gene] for gene in shown["conditions"][1]["genes"]], (
        "ridge predicts it, nobody saw it"
    )
    assert [shown["genes"][gene] for gene in shown["conditions"][0]["targets"]] == ["G3"]


def test_slope_and_correlation_leave_the_targets_out_and_say_what_is_undefined(shown, truth, means):
    first = shown["conditions"][0]
    own = np.arange(200) != 3
    measured = (truth.X - truth.layers["reference_truth"])[0, own]
    predicted = means["ridge"][NAMES[0]].X[0, own] - truth.layers["reference_input"][0, own]
    assert first["slope"][0] == pytest.approx(np.polyfit(measured, predicted, 1)[0], abs=0.00051)
    assert [condition["r"][0] for condition in shown["conditions"]] == [0.1, 0.2, None]
    assert [condition["reliability"] for condition in shown["conditions"]] == [0.5, None, None]


def test_quartiles_are_those_of_the_cells_of_the_condition(shown, truth, cells):
    X = cells.X.toarray()
    for row, condition in enumerate(shown["conditions"]):
        own = X[(cells.obs["perturbation"] == condition["name"]).to_numpy()]
        for gene, quartiles in zip(condition["genes"], condition["quartiles"]["cells"], strict=False):
            column = GENES.index(shown["genes"][gene])
            ordered = np.sort(own[:, column])
            of_cells = [ordered[int(np.ceil(share * len(ordered))) - 1] for share in (0.25, 0.5, 0.75)]
            reference = truth.layers["reference_truth"][row, column]
            np.testing.assert_allclose(quartiles, 1000 * (np.array(of_cells) - reference), atol=0.501)


def test_drawn_cells_count_by_their_weight(truth, cells, means):
    """One of five cells has all the weight: it is every quartile."""
    weights = np.where(cells.obs.index == "4", 1.0, 0.0) + 1e-9
    drawn = anndata.AnnData(cells.X, cells.obs.assign(weight=weights), cells.var)
    first = view(truth, methods_of(means), cells, drawn, pd.Series(dtype=float))["conditions"][0]
    assert all(low == median == high for low, median, high in first["quartiles"]["controls"])
    assert any(low < high for low, _, high in first["quartiles"]["cells"])


def test_the_map_has_the_strongest_genes_and_every_condition_once(shown, truth, means):
    drawn = shown["map"]
    changes = truth.X - truth.layers["reference_truth"]
    columns = [GENES.index(shown["genes"][gene]) for gene in drawn["genes"]]
    assert set(columns) == set(np.argsort(-np.abs(changes).max(axis=0))[:25])
    assert sorted(drawn["rows"]) == [0, 1, 2]
    assert drawn["measured"] == thousandths(changes[:, columns])
    predicted = means["ridge"][NAMES].X - truth.layers["reference_input"]
    assert drawn["predicted"][0] == thousandths(predicted[:, columns])


def test_cells_on_disk_are_read_by_chunks(truth, cells, means, monkeypatch):
    one = view(truth, methods_of(means), cells, cells, pd.Series(dtype=float))
    monkeypatch.setattr(perturbations, "row_chunks", lambda X, read: ((row, X[row]) for row in range(X.shape[0])))
    assert view(truth, methods_of(means), cells, cells, pd.Series(dtype=float)) == one


def test_the_file_has_the_same_bytes_and_names_as_they_are(shown, tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        write(shown, tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    read = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))
    assert read == json.loads(json.dumps(shown))
    assert read["conditions"][1]["name"] == NAMES[1]


def test_a_change_that_is_not_finite_is_refused(truth, cells, means):
    broken = means["ridge"].copy()
    broken.X[0, 4] = np.nan
    with pytest.raises(InputError, match=r"pseudobulk.h5ad of ridge: STAT1, G4: found nan; expected finite changes"):
        view(truth, methods_of({"ridge": broken}), cells, cells, pd.Series(dtype=float))


def test_the_index_has_a_row_a_condition_and_the_mean_of_the_seeds_of_every_method(truth):
    reliability = pd.Series([0.5, 0.7], index=NAMES[:2])
    rows = [
        (condition.perturbation, "all", method, value)
        for seed in (0, 1)
        for method, first in (("scgpt-finetuned", 0.1), ("knn", 0.3))
        for condition, value in zip(CONDITIONS, np.array([0.0, 0.2, 0.4]) + first + seed, strict=True)
    ]
    values = pd.DataFrame(rows, columns=["perturbation", "context", "method", "value"])
    found = perturbations.index(truth, values, reliability)
    lengths = [np.sqrt(np.square(changes).sum()) for changes in truth.X - truth.layers["reference_truth"]]
    assert list(found["perturbation"]) == [condition.perturbation for condition in CONDITIONS]
    assert list(found.columns[1:]) == ["measured_cells", "measured_change", "reliability", "scgpt-finetuned", "knn"]
    np.testing.assert_allclose(found["measured_change"], lengths)
    np.testing.assert_allclose(found["reliability"], [0.5, 0.7, np.nan])
    np.testing.assert_allclose(found["scgpt-finetuned"], [0.6, 0.8, 1.0])
    np.testing.assert_allclose(found["knn"], [0.8, 1.0, 1.2])
