"""GEARS learns from the cells of training perturbations and a graph of genes, and is asked about the genes in it.

Tests of the package itself run where it is installed, which needs an older SciPy than the rest: an environment with
pytest and the packages of envs/gears.yaml, and PYTHONPATH=workflow/lib:tests.
"""

import importlib.util
import tarfile

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from made_up import halved
from predicted import whole
from scgpt_bench.data.conditions import rows_of
from scgpt_bench.data.controls import control_cells, control_means_of, draw_controls
from scgpt_bench.errors import InputError
from scgpt_bench.methods import gears
from scgpt_bench.methods.training_data import training_data
from scgpt_bench.options import GearsTraining
from scgpt_bench.predictions import mean_cell

GROUPS = 4
GENES = [f"G{number:02d}" for number in range(40)]  # ten of each group, the first six of which are perturbed
PERTURBED = [GENES[10 * group + number] for number in range(6) for group in range(GROUPS)]
ROLES = dict.fromkeys(PERTURBED[:4], "test") | dict.fromkeys(PERTURBED[4:8], "validation")
OUTSIDE = PERTURBED[0]
CPU = torch.device("cpu")


def group_of(gene):
    return int(gene[1:]) // 10


def true_change(gene):
    """Genes of the group rise, and so do those of every perturbation."""
    change = np.full(len(GENES), 0.2)
    change[10 * group_of(gene) : 10 * group_of(gene) + 10] = 1.5
    return change


@pytest.fixture
def cells():
    generator = np.random.default_rng(1)
    names = np.array(["control"] * 160 + [name for name in PERTURBED for _ in range(20)])
    means = np.array([np.full(len(GENES), 2.0) + (0 if name == "control" else true_change(name)) for name in names])
    values = sparse.csr_matrix(np.maximum(generator.normal(means, 0.4), 0).astype(np.float32))
    obs = pd.DataFrame(
        {"perturbation": names, "direction": "down"}, index=[f"cell{number}" for number in range(len(names))]
    )
    return halved(anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=GENES)))


@pytest.fixture
def split():
    roles = [ROLES.get(name, "train") for name in PERTURBED]
    return pd.DataFrame({"perturbation": PERTURBED, "context": "all", "role": roles})


def drawn(cells, split):
    draw = draw_controls(cells.obs, split, per_perturbation=10, seed=1, dataset="made_up", split_name="fold0")
    return control_cells(cells, draw)


@pytest.fixture
def controls(cells, split):
    return drawn(cells, split)


@pytest.fixture
def graph(tmp_path):
    inside = [name for name in PERTURBED if name != OUTSIDE]
    edges = [(a, b, 1.0 if a == b else 0.5) for a in inside for b in inside if group_of(a) == group_of(b)]
    pd.DataFrame(edges, columns=gears.EDGES).to_csv(tmp_path / "graph.csv", index=False)
    return tmp_path / "graph.csv"


def predicted_changes(predicted, controls):
    """The change of each test perturbation's mean, float64 [genes]."""
    weights, means = controls.obs["weight"].to_numpy(), control_means_of(controls)
    rows = {condition: rows_of(controls.obs)[condition] for condition in means}
    return {c.perturbation: mean_cell(predicted[own], weights[own]) - means[c] for c, own in rows.items()}


@pytest.fixture
def calls(monkeypatch):
    """What GEARS is given; it answers 1 for every gene."""
    given = []

    def answer(cells, conditions, asked, *others):
        given.append((cells, conditions, asked, *others))
        return np.ones((len(asked), cells.n_vars))

    monkeypatch.setattr(gears, "_changes", answer)
    monkeypatch.setattr(gears, "version", lambda package: "1")
    return given


def test_gears_is_given_no_test_cell_and_no_control_cell_of_the_other_half(cells, split, controls, graph, calls):
    whole(gears.predict, cells, split, controls, "mine", graph, GearsTraining(), 0, CPU)
    ((known, conditions, asked, *_),) = calls
    assert set(known.obs["perturbation"]) == {"control", *PERTURBED[4:]}
    assert set(known.obs.loc[known.obs["perturbation"] == "control", "half"]) == {"input"}
    assert conditions == {"train": sorted(PERTURBED[8:]), "validation": sorted(PERTURBED[4:8])}
    assert asked == sorted(PERTURBED[1:4])


def test_a_gene_outside_the_graph_is_not_asked_about_and_has_the_mean_change(cells, split, controls, graph, calls):
    predicted, found = whole(gears.predict, cells, split, controls, "mine", graph, GearsTraining(), 0, CPU)
    ((condition, fallback),) = found["fallbacks"].items()
    assert condition.perturbation == OUTSIDE
    assert fallback == (f"{OUTSIDE} not in the graph", "mean shift of the training perturbations")
    changes = predicted_changes(predicted, controls)
    np.testing.assert_allclose(changes[OUTSIDE], training_data(cells, split).shifts.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(changes[PERTURBED[1]], 1, atol=1e-5)
    assert (found["gears"].graph, found["gears"].graph_genes) == ("mine", len(PERTURBED) - 1)


def test_perturbations_that_gears_cannot_learn_from_are_listed(cells, split, graph, calls):
    split.loc[split["perturbation"] == OUTSIDE, "role"] = "train"
    _, found = whole(gears.predict, cells, split, drawn(cells, split), "mine", graph, GearsTraining(), 0, CPU)
    assert found["gears"].perturbations_left_out == (OUTSIDE,)
    assert OUTSIDE not in calls[0][1]["train"]


def test_a_context_that_is_held_out_is_not_asked_about_and_has_the_mean_change_of_the_others(
    cells, split, graph, calls
):
    cells.obs["context"] = np.where(np.arange(len(cells)) % 2, "one", "two")
    held_out = pd.concat([split.assign(context="one", role="train"), split.assign(context="two", role="test")])
    controls = drawn(cells, held_out)
    predicted, found = whole(gears.predict, cells, held_out, controls, "mine", graph, GearsTraining(), 0, CPU)
    assert calls == []
    assert {condition.context for condition in found["fallbacks"]} == {"two"}
    reason = "fewer than 3 training perturbations in this context"
    assert {*found["fallbacks"].values()} == {(reason, "mean shift of the training perturbations of all contexts")}
    expected = training_data(cells, held_out, "one").shifts.mean(axis=0)
    for change in predicted_changes(predicted, controls).values():
        np.testing.assert_allclose(change, expected, atol=1e-5)
    assert found["gears"].perturbations_left_out == ()


def test_each_context_has_a_model_of_its_own(cells, split, graph, calls):
    cells.obs["context"] = np.where(np.arange(len(cells)) % 2, "one", "two")
    cells = halved(cells)
    split = pd.concat([split.assign(context=context) for context in ("one", "two")])
    whole(gears.predict, cells, split, drawn(cells, split), "mine", graph, GearsTraining(), 0, CPU)
    (first, *_, seed, _), (second, *_, other_seed, _) = calls
    assert [set(known.obs["context"]) for known in (first, second)] == [{"one"}, {"two"}]
    assert seed != other_seed


def test_without_a_validation_perturbation_in_the_graph_nothing_is_trained(cells, split, controls, graph, calls):
    split.loc[split["role"] == "validation", "role"] = "train"
    _, found = whole(gears.predict, cells, split, controls, "mine", graph, GearsTraining(), 0, CPU)
    assert not calls
    reasons = {condition.perturbation: reason for condition, (reason, _) in found["fallbacks"].items()}
    assert reasons == dict.fromkeys(PERTURBED[:4], "no perturbation with role 'validation' in the graph")


def test_a_graph_of_other_genes_is_refused(cells, split, controls, graph, calls):
    graph.write_text("source,target,importance\nSTAT1,IRF1,0.5\n")
    with pytest.raises(InputError, match=r"none of the 24 perturbed genes \(G00, G01, G02"):
        whole(gears.predict, cells, split, controls, "mine", graph, GearsTraining(), 0, CPU)


EDGES = pd.DataFrame({"source": ["NA", "B", "B"], "target": ["B", "NA", "B"], "importance": [0.5, 0.5, 1.0]})


def test_every_form_of_a_graph_reads_the_same(tmp_path):
    EDGES.to_csv(tmp_path / "graph.csv")  # with a column of numbers, as pandas writes it
    EDGES.to_csv(tmp_path / "graph.tsv.gz", sep="\t", index=False)
    with tarfile.open(tmp_path / "graph.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "graph.csv", "go/._graph.csv")  # as macOS adds
        archive.add(tmp_path / "graph.csv", "go/graph.csv")
    for name in ("graph.csv", "graph.tsv.gz", "graph.tar.gz"):
        pd.testing.assert_frame_equal(gears.read_graph(tmp_path / name), EDGES)


@pytest.mark.parametrize(("content", "where", "found"), [
    ("source,target\nA,B\n", "columns", "source, target"),
    ("source,target,importance\n", "table", "no row"),
    ("source,target,importance\nA,B,1\nA,,1\n", "row 2", "A, nan, 1"),
    ("source,target,importance\nA,B,0\n", "row 1", "A, B, 0"),
    ("source,target,importance\nA,B,inf\n", "row 1", "A, B, inf"),
    ("source,target,importance\nA,B,high\n", "row 1", "A, B, high"),
])  # fmt: skip
def test_a_fault_of_a_graph_is_named(content, where, found, tmp_path):
    (tmp_path / "graph.csv").write_text(content)
    with pytest.raises(InputError) as error:
        gears.read_graph(tmp_path / "graph.csv")
    assert (error.value.where, error.value.found) == (where, found)


def test_an_archive_without_a_table_is_refused(tmp_path):
    (tmp_path / "page.tar.gz").write_text("<html>log in</html>")
    with pytest.raises(InputError, match="file"):
        gears.read_graph(tmp_path / "page.tar.gz")
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"0 files that end in \.csv"):
        gears.read_graph(tmp_path / "empty.tar.gz")


def test_each_gene_keeps_its_strongest_edges_and_the_one_to_itself():
    names = ["C", "A", "B"]
    similarity = {("A", "B"): 0.9, ("A", "C"): 0.2, ("B", "C"): 0.3}
    edges = [(a, b, 1.0 if a == b else similarity[min(a, b), max(a, b)]) for a in names for b in names]
    kept, importance = gears.strongest(pd.DataFrame(edges, columns=gears.EDGES), 1)
    found = {("ABC"[a], "ABC"[b]): float(value) for (a, b), value in zip(kept.T, importance, strict=True)}
    assert found == pytest.approx({
        **{(name, name): 1.0 for name in names}, ("B", "A"): 0.9, ("A", "B"): 0.9, ("B", "C"): 0.3,
    })  # fmt: skip


with_gears = pytest.mark.skipif(not importlib.util.find_spec("gears"), reason="no cell-gears: make test-gears")


@pytest.fixture
def without_network(monkeypatch):
    import requests

    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr(requests, "get", refuse)


TRAINING = GearsTraining(epochs=6, learning_rate=0.01, batch_size=16)


@with_gears
@pytest.mark.usefixtures("without_network")
def test_gears_with_the_graph_beats_the_mean_of_training_and_learns_nothing_from_test_cells(
    cells, split, controls, graph
):
    predicted, found = whole(gears.predict, cells, split, controls, "mine", graph, TRAINING, 0, CPU)
    changes = predicted_changes(predicted, controls)
    mean = training_data(cells, split).shifts.mean(axis=0)
    for name in PERTURBED[1:4]:
        error, of_mean = (np.mean((change - true_change(name)) ** 2) for change in (changes[name], mean))
        assert error < 0.5 * of_mean, name
    assert found["gears"].versions["cell-gears"]
    tested = cells.obs["perturbation"].isin(PERTURBED[:4]).to_numpy()
    cells.X = sparse.csr_matrix(np.where(tested[:, None], 3.0, cells.X.toarray()).astype(np.float32))
    again, _ = whole(gears.predict, cells, split, controls, "mine", graph, TRAINING, 0, CPU)
    np.testing.assert_array_equal(again, predicted)


@with_gears
@pytest.mark.usefixtures("without_network")
def test_the_change_is_what_gears_predicts_beside_the_control_cells_that_it_draws(cells, graph, monkeypatch):
    models, ask = [], gears.changes

    def remember(model, perturbations):
        models.append((model, model.adata))
        return ask(model, perturbations)

    monkeypatch.setattr(gears, "changes", remember)
    known = cells[~cells.obs["perturbation"].isin(PERTURBED[:4])].copy()
    conditions = {"train": PERTURBED[8:], "validation": PERTURBED[4:8]}
    asked = [PERTURBED[1], "+".join(sorted(PERTURBED[1:3]))]
    changes = gears._changes(known, conditions, asked, gears.read_graph(graph), GearsTraining(epochs=1), 0, CPU)
    ((model, model.adata),) = models
    controls = model.adata[model.adata.obs["condition"] == "ctrl"].X.toarray()
    for name, change in zip(asked, changes, strict=True):
        model.saved_pred = {}
        np.random.seed(2)  # noqa: NPY002 (GEARS draws from it)
        (answer,) = model.predict([name.split("+")]).values()
        np.random.seed(2)  # noqa: NPY002
        drawn_cells = controls[np.random.randint(0, len(controls), 300)]  # noqa: NPY002
        np.testing.assert_allclose(answer - drawn_cells.mean(axis=0), change, atol=1e-5)
