"""Leaks are found before any model runs, and chance is not taken for one."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved
from scgpt_bench.configuration import validate
from scgpt_bench.data.audit import FALSE_ALARMS, audit, declarations, identical_cells
from scgpt_bench.data.halves import INPUT, TRUTH
from scgpt_bench.data.split_names import FILE, FOLD, GEARS, HELD_OUT_CONTEXT, PREDICTION
from scgpt_bench.data.splits import context, fold
from scgpt_bench.errors import InputError

ROOT = Path(__file__).parents[2]
PERTURBATIONS = ["control", "A", "B", "C", "D"]
N_GENES = 60


def cells(depth=200, per_perturbation=40, seed=0, counted=True):
    """Cells of one state, the hardest case: nothing but their sampling noise tells them apart."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(PERTURBATIONS, per_perturbation)
    shares = generator.dirichlet(np.ones(N_GENES))
    depths = np.maximum(1, generator.poisson(depth, len(labels)))
    counts = sparse.csr_matrix(np.stack([generator.multinomial(n, shares) for n in depths]).astype(np.float32))
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    X = sparse.csr_matrix(np.log1p(counts.toarray() * (1000 / depths[:, None])).astype(np.float32))
    layers = {"counts": counts} if counted else {}
    return halved(anndata.AnnData(X, obs=obs, layers=layers))


def with_copy(made, of, into):
    """The same cells, the last of those of ``into`` (a perturbation, or a half of the controls) a copy of another."""

    def row(name):
        return np.flatnonzero((made.obs["perturbation"] == name) | (made.obs["half"] == name))[-1]

    for matrix in (made.X, *made.layers.values()):
        dense = matrix.toarray()
        dense[row(into)] = dense[row(of)]
        matrix.data, matrix.indices, matrix.indptr = (
            getattr(sparse.csr_matrix(dense), part) for part in ("data", "indices", "indptr")
        )
    return made


def split_of(made, **options):
    options = {"fold": 0, "folds": 4, "seed": 1, "validation_share": 0.2, "minimum_cells": 10, **options}
    return fold(made.obs, dataset="screen", **options)


def audited(made, split, **how):
    how = how or {"made_by": FOLD, "fold": 0}
    found = identical_cells(made)
    return audit(split, made.obs, found, dataset="screen", split_name="fold0", how=how)


def one_of(split, role):
    return split.loc[split["role"] == role, "perturbation"].iloc[0]


def test_a_clean_split_passes_every_check():
    made = cells()
    checks = audited(made, split_of(made))
    assert {check["status"] for check in checks} == {"passed"}
    assert "conditions: 2 trained on, 1 validated on, 1 tested" in checks[0]["found"]


@pytest.mark.parametrize("counted", [True, False], ids=["counts", "log1p values"])
@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_a_tested_cell_under_another_name_anywhere_else_is_a_leak(role, counted):
    made = cells(counted=counted)
    split = split_of(made)
    tested, other = one_of(split, "test"), one_of(split, role)
    if other == tested:  # a cell of the same condition again
        last = made[made.obs["perturbation"] == tested][-1:].copy()
        last.obs_names = ["renamed"]
        made = halved(anndata.concat([made, last]))
    else:
        made = with_copy(made, tested, other)
    with pytest.raises(InputError, match=rf"screen: cells of split fold0: .*\({tested}, tested\) and .*\({other}, "):
        audited(made, split)


@pytest.mark.parametrize(
    ("one", "other", "leaks"), [(TRUTH, INPUT, True), (TRUTH, "train", True), (INPUT, "train", False)]
)
def test_a_control_cell_that_methods_and_truth_share_is_a_leak(one, other, leaks):
    made = cells()
    split = split_of(made)
    made = with_copy(made, one, one_of(split, other) if other == "train" else other)
    if not leaks:  # odd, and none of a tested cell
        assert len(identical_cells(made)["groups"]) == 1
        audited(made, split)
        return
    with pytest.raises(InputError, match=r"\(control, half truth\)"):
        audited(made, split)


def test_a_copy_on_another_scale_is_found_where_only_log1p_values_are_known():
    made = with_copy(cells(counted=False), "A", "B")
    values = np.expm1(made.X.toarray())
    values[made.obs["perturbation"] == "B"] *= 3.7
    made.X = sparse.csr_matrix(np.log1p(values))
    (group,) = identical_cells(made)["groups"]
    assert {cell["perturbation"] for cell in group} == {"A", "B"}


def test_equal_cells_of_few_counts_are_chance_and_are_counted():
    made = cells(depth=2)
    found = identical_cells(made)
    assert found["groups"] == []
    assert found["n_by_chance"] > 20
    assert sum(row["n_cells"] for row in found["undecided"]) == made.n_obs
    assert "unverified" in {check["status"] for check in audited(made, split_of(made))}


def test_cells_of_one_state_equal_each_other_no_more_often_than_the_bound_says(monkeypatch):
    """At a rate at which alarms are seen, where cells come as close as they can: equal sums, 4 genes, 20 counts."""
    monkeypatch.setattr("scgpt_bench.data.audit.FALSE_ALARMS", 0.5)
    generator, pairs = np.random.default_rng(1), 0
    obs = pd.DataFrame(
        {"perturbation": "control", "context": "all", "half": TRUTH}, index=[f"cell{i}" for i in range(8)]
    )
    for _ in range(100):
        counts = sparse.csr_matrix(generator.multinomial(20, np.full(4, 0.25), size=8).astype(np.float32))
        groups = identical_cells(anndata.AnnData(counts, obs=obs, layers={"counts": counts}))["groups"]
        pairs += sum(len(group) * (len(group) - 1) // 2 for group in groups)
    assert 0 < pairs <= 0.5 * 100


def test_what_is_found_depends_on_no_chunk_and_no_order_of_cells(monkeypatch):
    made = with_copy(cells(), "A", "B")
    whole = identical_cells(made)
    monkeypatch.setattr("scgpt_bench.data.on_disk.VALUES_AT_ONCE", 7 * N_GENES)
    monkeypatch.setattr("scgpt_bench.data.on_disk.row_chunks.__defaults__", (7 * N_GENES, None))
    turned = identical_cells(made[::-1].copy())
    assert sorted(cell["cell"] for cell in whole["groups"][0]) == sorted(cell["cell"] for cell in turned["groups"][0])
    assert whole["undecided"] == turned["undecided"]
    assert whole["false_alarms"] == FALSE_ALARMS


@pytest.mark.parametrize("name", ["D+A", "a+D"])
def test_a_tested_condition_under_an_equivalent_name_in_training_is_a_leak(name):
    made = cells()
    names = made.obs["perturbation"].replace({"A": "A+D", "B": name})
    made.obs["perturbation"] = names
    split = pd.DataFrame({"perturbation": ["A+D", name, "C", "D"], "context": "all", "seen": False})
    split["role"] = ["test", "train", "train", "validation"]
    with pytest.raises(InputError, match=r"role 'test': found 'A\+D', which is trained on as well"):
        audited(made, split)


def test_a_tested_perturbation_in_another_context_is_a_leak_only_where_the_split_promises_none():
    made = cells()
    made.obs["context"] = ["K562", "RPE1"] * (made.n_obs // 2)
    made = halved(made)
    split = pd.DataFrame({"perturbation": ["A", "A", "B", "C"], "context": ["K562", "RPE1", "K562", "K562"]})
    split = split.assign(role=["test", "train", "train", "validation"], seen=[True, False, False, False])
    audited(made, split, made_by=FILE)
    with pytest.raises(InputError, match=r"'A@K562', which is trained on as well \('A@RPE1'\); .* in any context"):
        audited(made, split, made_by=GEARS)


def test_a_split_of_cells_that_are_not_there_is_refused():
    made = cells()
    split = split_of(made)
    split.loc[split["role"] == "train", "perturbation"] = ["X", "Y"]
    with pytest.raises(InputError, match="'X', which has no cells"):
        audited(made, split)


def test_a_prediction_is_of_what_nobody_measured():
    made = cells()
    split = split_of(made)
    asked = split.assign(role="train").iloc[:1].assign(perturbation="UNMEASURED", role="test")
    everything = pd.concat([split.assign(role="train"), asked], ignore_index=True)
    checks = audited(made, everything, made_by=PREDICTION)
    assert {check["status"] for check in checks} == {"passed"}
    with pytest.raises(InputError, match="which has cells; expected conditions that nobody measured"):
        audited(made, split, made_by=PREDICTION)


def in_contexts():
    made = cells(per_perturbation=80)
    made.obs["context"] = ["K562", "RPE1"] * (made.n_obs // 2)
    return halved(made)


@pytest.mark.parametrize("options", [{"seen": 0}, {"seen": 0.3}, {"fold": 0, "folds": 2}])
def test_a_split_that_holds_out_a_context_passes_and_says_what_is_in_training(options):
    made = in_contexts()
    dealing = {"context": "RPE1", "seed": 1, "validation_share": 0.2, "minimum_cells": 10, **options}
    checks = audited(made, context(made.obs, dataset="screen", **dealing), made_by=HELD_OUT_CONTEXT, **dealing)
    assert checks[0]["found"] == "RPE1"
    assert ("share of 0.3" in checks[0]["check"]) == ("seen" in options and options["seen"] > 0)
    assert {check["status"] for check in checks} == {"passed"}


@pytest.mark.parametrize(
    ("seen", "moved", "message"),
    [
        (0, 1, "trained on; expected 'RPE1' tested"),
        (0.3, 3, "3 conditions trained on, 1 tested; expected a share of 0.3"),
    ],
)
def test_more_of_a_held_out_context_in_training_than_the_split_promises_is_a_leak(seen, moved, message):
    made = in_contexts()
    dealing = {"context": "RPE1", "seed": 1, "validation_share": 0.2, "minimum_cells": 10, "seen": seen}
    split = context(made.obs, dataset="screen", **dealing)
    here = split.index[split["context"] == "RPE1"]
    split.loc[here, "role"] = ["train"] * moved + ["test"] * (len(here) - moved)
    with pytest.raises(InputError, match=message):
        audited(made, split, made_by=HELD_OUT_CONTEXT, **dealing)


def test_a_tested_cell_of_a_held_out_context_under_another_context_is_a_leak():
    made = in_contexts()
    dealing = {"context": "RPE1", "seed": 1, "validation_share": 0.2, "minimum_cells": 10}
    split = context(made.obs, dataset="screen", **dealing)
    trained = one_of(split, "train")
    rows = [
        np.flatnonzero((made.obs["perturbation"] == trained) & (made.obs["context"] == name))[0]
        for name in ("RPE1", "K562")
    ]
    counts = made.layers["counts"].toarray()
    counts[rows[1]] = counts[rows[0]]
    made.layers["counts"] = sparse.csr_matrix(counts)
    with pytest.raises(InputError, match=rf"\({trained}@RPE1, tested\) and .*\({trained}@K562, trained on\)"):
        audited(made, split, made_by=HELD_OUT_CONTEXT, **dealing)


def test_what_comes_from_elsewhere_is_listed_with_what_is_known_of_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = {
        "study": "audited",
        "datasets": ["papalexi_2021", "perturbench_devel"],
        "checkpoints": {
            "scGPT_human": {"source": "catalogue"},
            "scGPT_brain": {"source": "folder", "path": "brain"},
            "theirs": {"source": "folder", "path": "theirs"},
            "own": {"source": "pretrain", "dataset": "papalexi_2021"},
            "untrained": {"source": "random"},
        },
        "vectors": {
            "gene2vec": {"source": "catalogue"},
            "esm2": {"source": "file", "path": "esm2.tsv", "made_from": []},
            "norman": {"source": "file", "path": "norman.tsv", "made_from": ["norman_2019"]},
            "screen": {
                "source": "dataset",
                "datasets": {"papalexi_2021": "perturbench_devel", "perturbench_devel": "papalexi_2021"},
            },
        },
        "methods": {"mine": {"kind": "script", "script": "mine.py"}},
    }
    found = declarations(**validate(study, "study.yaml").origins("papalexi_2021"))
    status = {
        check.split(" learned")[0].split(" are made")[0].split()[-1]: (known, status)
        for check, known, status in map(dict.values, found)
    }
    assert {name for name, (_, own) in status.items() if own == "passed"} == {"own", "untrained", "screen"}
    assert {name for name, (_, own) in status.items() if own == "declared"} == {"esm2", "norman"}
    assert status["scGPT_human"][0].startswith("33 million cells without disease")
    assert status["scGPT_brain"][0].startswith("of a folder of this name: 13.2 million brain cells")
    assert status["mine"] == ("training cells, and whatever else its script reads", "unverified")
    assert status["screen"][0] == "changes measured in perturbench_devel"
