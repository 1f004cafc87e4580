"""Splits: folds that are balanced, seeded and stable, genes that training never sees, and files that are only read."""

import inspect
import json
import os
import pickle

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.data.split_names import planned, pooled
from scgpt_bench.data.splits import MAKERS, fold, gears_simulation, read_split_file
from scgpt_bench.data.splits import context as split_by_context
from scgpt_bench.errors import InputError

OPTIONS = {"dataset": "planted", "folds": 5, "seed": 1, "validation_share": 0.15, "minimum_cells": 30}
GENES = [f"GENE{number}" for number in range(62)]


def cells(names, n_cells=30, more=()):
    """The perturbation of each cell, with some more."""
    names = ["control"] * 500 + [name for name in names for _ in range(n_cells)]
    return pd.DataFrame({"perturbation": [*names, *more]})


def roles(table):
    return table.set_index("perturbation")["role"]


def with_role(table, role):
    return set(table.loc[table["role"] == role, "perturbation"])


def folds_of(names, **options):
    return [with_role(fold(cells(names), fold=k, **{**OPTIONS, **options}), "test") for k in range(5)]


def test_every_perturbation_is_tested_in_exactly_one_fold_and_folds_differ_by_one_at_most():
    tests = folds_of(GENES)
    assert sorted(name for test in tests for name in test) == sorted(GENES)
    assert sorted(map(len, tests)) == [12, 12, 12, 13, 13]


def test_roles_cover_every_perturbation_once_and_never_the_control():
    table = fold(cells(GENES), fold=2, **OPTIONS)
    assert table["perturbation"].tolist() == sorted(GENES)
    assert len(with_role(table, "validation")) == round(0.15 * (62 - len(with_role(table, "test"))))
    assert table.columns.tolist() == ["perturbation", "context", "role", "n_genes", "n_genes_seen", "seen"]


def test_the_order_of_the_cells_changes_nothing():
    table = fold(cells(GENES), fold=0, **OPTIONS)
    pd.testing.assert_frame_equal(table, fold(cells(GENES)[::-1], fold=0, **OPTIONS))


def test_another_seed_deals_otherwise():
    assert folds_of(GENES) != folds_of(GENES, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_a_new_perturbation_moves_fewer_others_than_there_are_folds(seed):
    before, after = folds_of(GENES, seed=seed), folds_of([*GENES, "NEW"], seed=seed)
    fold_before = {name: k for k, names in enumerate(before) for name in names}
    moved = [name for k, names in enumerate(after) for name in names - {"NEW"} if fold_before[name] != k]
    assert len(moved) < 5


def test_a_perturbation_with_few_cells_is_always_trained_on():
    few = cells(GENES, more=["RARE"] * 29)
    assert all(roles(fold(few, fold=k, **OPTIONS))["RARE"] == "train" for k in range(5))
    enough = cells(GENES, more=["RARE"] * 30)
    assert sum(roles(fold(enough, fold=k, **OPTIONS))["RARE"] == "test" for k in range(5)) == 1


def test_seen_genes_are_those_of_training_perturbations_only():
    names = ["A", "B", "C", "D", "A+B", "C+D", "A+C"]
    unseen = 0
    for k in range(3):
        table = fold(cells(names), fold=k, **{**OPTIONS, "folds": 3})
        assert table.set_index("perturbation")["n_genes"].to_dict() == {name: len(name.split("+")) for name in names}
        trained = {gene for name in with_role(table, "train") for gene in name.split("+")}
        seen = {name: len(set(name.split("+")) & trained) for name in names}
        assert table.set_index("perturbation")["n_genes_seen"].to_dict() == seen
        unseen += (table["n_genes_seen"] < table["n_genes"]).sum()
    assert unseen > 0


def test_fewer_perturbations_than_folds_are_refused():
    with pytest.raises(InputError, match=r"data set planted: .*found 4 perturbations; expected at least 5"):
        fold(cells(GENES[:4]), fold=0, **OPTIONS)


def test_too_few_cells_are_refused_with_the_largest_number_found():
    with pytest.raises(InputError, match=r"0 of 62 perturbations with at least 30 cells \(the most has GENE7: 29\)"):
        fold(cells(GENES, n_cells=28, more=["GENE7"]), fold=0, **OPTIONS)


def test_a_split_without_a_validation_perturbation_is_refused():
    few = cells(GENES[:2], more=["RARE"] * 3)
    assert set(roles(fold(few, fold=0, **{**OPTIONS, "folds": 2}))) == {"train", "validation", "test"}
    with pytest.raises(InputError, match="outside fold 0; expected at least 1 to validate, and another one"):
        fold(cells(GENES[:2]), fold=0, **{**OPTIONS, "folds": 2})


PAIRS = [f"{a}+{b}" for i, a in enumerate(GENES[:30]) for b in GENES[i + 1 : 30 : 4]]
SINGLES_AND_PAIRS = sorted([*GENES, *("+".join(sorted(pair.split("+"))) for pair in PAIRS)])
SIMULATION = {"dataset": "planted", "seed": 1, "minimum_cells": 2}


def simulated(names=SINGLES_AND_PAIRS, n_cells=2, **options):
    return gears_simulation(cells(names, n_cells), **{**SIMULATION, **options})


def test_simulation_holds_genes_out_of_every_training_perturbation():
    table = simulated()
    fitted = with_role(table, "train") | with_role(table, "validation")
    unseen = set(GENES) - {gene for name in fitted for gene in name.split("+")}
    # 62 genes, of which int(0.75 * 62) are drawn as seen
    assert len(unseen) == 62 - 46
    assert all(role == "test" for name, role in roles(table).items() if unseen & set(name.split("+")))


def test_simulation_tests_pairs_with_no_one_and_two_seen_genes():
    table = simulated()
    pairs = table[(table["n_genes"] == 2) & (table["role"] == "test")]
    assert set(pairs["n_genes_seen"]) == {0, 1, 2}
    fitted = with_role(table, "train") | with_role(table, "validation")
    drawn = {gene for name in fitted for gene in name.split("+")}
    both = [name for name in SINGLES_AND_PAIRS if "+" in name and set(name.split("+")) <= drawn]
    assert sum(name in fitted for name in both) == int(0.75 * len(both))
    trained = {gene for name in with_role(table, "train") for gene in name.split("+")}
    assert all(row.n_genes_seen == len(trained & set(row.perturbation.split("+"))) for row in table.itertuples())


def test_simulation_validates_on_genes_that_training_has_not_seen():
    table = simulated(GENES)
    assert table["role"].value_counts().to_dict() == {"train": 41, "test": 16, "validation": 5}
    assert set(table.loc[table["role"] == "validation", "n_genes_seen"]) == {0}


def test_simulation_depends_on_names_and_seed_only():
    pd.testing.assert_frame_equal(simulated(), simulated(SINGLES_AND_PAIRS[::-1]))
    assert with_role(simulated(), "test") != with_role(simulated(seed=2), "test")


def test_simulation_leaves_out_what_it_could_only_judge_by_few_cells():
    table = simulated(GENES)
    name = sorted(with_role(table, "test"))[0]
    rarer = cells([other for other in GENES if other != name], 2, more=[name])
    fewer = gears_simulation(rarer, **SIMULATION)
    pd.testing.assert_frame_equal(fewer, table[table["perturbation"] != name].reset_index(drop=True))


def test_simulation_of_too_few_perturbations_is_refused():
    with pytest.raises(InputError, match="found no train perturbation"):
        simulated(["A"])


MEASURED = pd.DataFrame({"perturbation": ["control", "A", "B", "C", "A+B", "B+C"]})
GEARS_SPLIT = {"train": ["ctrl", "A+ctrl", "ctrl+B"], "val": ["C+ctrl"], "test": ["B+A", "B+C"]}
EXPECTED = {"A": "train", "A+B": "test", "B": "train", "B+C": "test", "C": "validation"}


def split_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_split_of_gears_is_read_from_its_pickle_and_from_json(tmp_path):
    as_numpy = {key: [np.str_(label) for label in labels] for key, labels in GEARS_SPLIT.items()}
    files = [
        split_file(tmp_path, "list.pkl", pickle.dumps(GEARS_SPLIT)),
        split_file(tmp_path, "old.pkl", pickle.dumps(GEARS_SPLIT, protocol=2)),
        split_file(tmp_path, "numpy.pkl", pickle.dumps(as_numpy)),
        split_file(tmp_path, "dump.json", json.dumps(GEARS_SPLIT)),
    ]
    for path in files:
        table = read_split_file(path, MEASURED)
        assert roles(table).to_dict() == EXPECTED
        assert table.set_index("perturbation")["n_genes_seen"].to_dict() == {"A": 1, "A+B": 2, "B": 1, "B+C": 1, "C": 0}


@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_split_table_is_read_as_it_stands(tmp_path, separator):
    lines = ["perturbation,role", "control,train", *(f"{name},{role}" for name, role in EXPECTED.items())]
    path = split_file(tmp_path, "split.tsv" if separator == "\t" else "split.csv", "\n".join(lines))
    path.write_text(path.read_text().replace(",", separator))
    assert roles(read_split_file(path, MEASURED)).to_dict() == EXPECTED


class Malicious:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_executes_nothing(tmp_path, protocol):
    trace = tmp_path / "executed"
    for call, arguments in ((os.mkdir, (str(trace),)), (eval, (f"__import__('os').mkdir({str(trace)!r})",))):
        evil = pickle.dumps({"train": [Malicious(call, *arguments)]}, protocol)
        pickle.loads(evil)  # the attack works where it is not refused
        trace.rmdir()
        with pytest.raises(
            InputError, match=r"found UnpicklingError: (posix|nt|builtins|__builtin__)\.\w+; expected dictionaries"
        ):
            read_split_file(split_file(tmp_path, "evil.pkl", evil), MEASURED)
        assert not trace.exists()


LINES = ("K562", "RPE1", "HepG2")
OF_CONTEXTS = {"dataset": "lines", "context": "RPE1", "seed": 1, "validation_share": 0.15, "minimum_cells": 30}


def cells_of_lines(names=GENES, n_cells=30):
    rows = [(name, line) for line in LINES for name in ["control"] * 40 + [n for n in names for _ in range(n_cells)]]
    return pd.DataFrame(rows, columns=["perturbation", "context"])


def named_in(table, role, context):
    return with_role(table[table["context"] == context], role)


def test_a_held_out_context_is_tested_as_a_whole_and_training_has_no_perturbed_cell_of_it():
    table = split_by_context(cells_of_lines(), **OF_CONTEXTS)
    assert set(table.loc[table["context"] == "RPE1", "role"]) == {"test"}
    assert named_in(table, "test", "RPE1") == set(GENES)
    assert not (table.loc[table["context"] != "RPE1", "role"] == "test").any()
    validated = [named_in(table, "validation", line) for line in ("K562", "HepG2")]
    assert validated[0] == validated[1]
    assert len(validated[0]) == round(0.15 * len(GENES))
    tested = table[table["role"] == "test"].set_index("perturbation")
    assert set(tested.index[~tested["seen"]]) == validated[0]


def test_a_larger_share_that_is_seen_includes_a_smaller_one_and_keeps_the_validation():
    tables = [split_by_context(cells_of_lines(), seen=seen, **OF_CONTEXTS) for seen in (0, 0.1, 0.3)]
    seen = [named_in(table, "train", "RPE1") for table in tables]
    assert seen[0] < seen[1] < seen[2]
    assert [len(names) for names in seen] == [0, 6, 19]
    validation = [with_role(table, "validation") for table in tables]
    assert validation[0] == validation[1] == validation[2]
    assert not seen[2] & validation[2]


def test_what_is_seen_does_not_depend_on_the_other_perturbations():
    obs = cells_of_lines()
    fewer = cells_of_lines(GENES[:-1])
    before, after = (
        named_in(split_by_context(table, seen=0.3, **OF_CONTEXTS), "train", "RPE1") for table in (obs, fewer)
    )
    assert len(before ^ after - {GENES[-1]}) <= 3


def test_of_an_unseen_perturbation_in_an_unseen_context_training_has_neither():
    obs = cells_of_lines([*GENES, "GENE0+GENE1"])
    tested = []
    for number in range(5):
        table = split_by_context(obs, fold=number, folds=5, **OF_CONTEXTS)
        names = named_in(table, "test", "RPE1")
        learned = set(table.loc[table["role"] != "test", "perturbation"])
        assert not names & learned
        assert "RPE1" not in set(table.loc[table["role"] != "test", "context"])
        of_fold = fold(obs, fold=number, **{**OPTIONS, "dataset": "lines"})
        assert names == with_role(of_fold, "test")
        tested += names
    assert sorted(tested) == sorted([*GENES, "GENE0+GENE1"])


def test_a_condition_with_few_cells_is_not_tested_in_a_held_out_context_but_trained_on_elsewhere():
    obs = cells_of_lines()
    few = obs[~((obs["perturbation"] == "GENE3") & (obs.groupby(["perturbation", "context"]).cumcount() > 20))]
    table = split_by_context(few, **OF_CONTEXTS)
    assert set(table.loc[table["perturbation"] == "GENE3", "context"]) == {"K562", "HepG2"}
    assert set(table.loc[table["perturbation"] == "GENE3", "role"]) == {"train"}


def test_the_splits_of_a_study_are_known_by_name_before_there_is_a_cell():
    contexts = {"hold_out": ["T cell"], "seen": [0, 0.1], "unseen": ["context", "both"]}
    options = {"folds": 5, "run": [0, 3], "gears_seeds": [1], "files": {}, "contexts": contexts}
    options |= {"seed": 1, "validation_share": 0.15, "minimum_cells": 30}
    found = dict(planned(options, ["T cell"]))
    assert [*found] == [
        *("fold0", "fold3", "gears1", "context-T_cell", "context-T_cell-seen0.1"),
        *("context-T_cell-fold0", "context-T_cell-fold3"),
    ]
    assert found["context-T_cell-seen0.1"]["context"] == "T cell"
    assert pooled(options, ["T cell", "B"])["contexts-fold3"] == ["context-T_cell-fold3", "context-B-fold3"]
    for how in found.values():
        arguments = {key: value for key, value in how.items() if key != "made_by"}
        inspect.signature(MAKERS[how["made_by"]]).bind(None, dataset="lines", **arguments)
