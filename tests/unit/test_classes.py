"""Test perturbations are scored by how many of their genes training has seen, where there is more than one class."""

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.data.splits import fold
from scgpt_bench.evaluation.classes import COLUMNS, gather_classes, scores_by_class
from scgpt_bench.evaluation.scores import gather, scores
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.files import read_table, write_table
from scored import study

KINDS = {"additive": "additive", "tuned": "scgpt-finetuned", "shuffled": "shuffled"}
SINGLES = [f"S{i}" for i in range(8)]
PAIRS = [f"A{i}+B{i}" for i in range(12)]


def metrics(advantages, split="gears1", dataset="pairs"):
    """Every method's Pearson delta on each perturbation; ``tuned`` is better than ``additive`` by the value given."""
    random = np.random.default_rng(1)
    rows = []
    for name, advantage in advantages.items():
        easy = random.normal(0.5, 0.1)
        for method, value in (("additive", easy), ("tuned", easy + advantage), ("shuffled", 0.0)):
            rows.append((dataset, split, method, 0, name, "specific_pearson", value))
    columns = ["dataset", "split", "method", "seed", "perturbation", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).assign(context="all")


def classes(class_of, split="gears1", dataset="pairs"):
    rows = [(dataset, split, name, *of) for name, of in class_of.items()]
    columns = ["dataset", "split", "perturbation", "n_genes", "n_genes_seen"]
    return pd.DataFrame(rows, columns=columns).assign(context="all", role="test", seen=False)


@pytest.fixture
def opposite():
    """Better on singles, worse on pairs, with nothing to choose over both."""
    random = np.random.default_rng(2)
    advantages = dict(zip(SINGLES, random.normal(0.15, 0.02, 8), strict=True))
    return advantages | dict(zip(PAIRS, random.normal(-0.1, 0.02, 12), strict=True))


CLASS_OF = dict.fromkeys(SINGLES, (1, 0)) | dict.fromkeys(PAIRS, (2, 2))


def test_classes_have_the_verdicts_that_a_pooled_one_hides(opposite):
    data = metrics(opposite)
    assert verdicts(study(data, KINDS))["verdict"].tolist() == ["inconclusive"]
    table = scores_by_class(study(data, KINDS, splits=classes(CLASS_OF)))
    assert list(table.columns) == COLUMNS
    judged = table[table["method"] == "tuned"].set_index(["n_genes", "n_genes_seen"])
    assert judged["verdict"].to_dict() == {(1, 0): "better", (2, 2): "worse"}
    assert judged["n_conditions"].tolist() == [8, 12]
    assert table.loc[table["method"] != "tuned", "verdict"].isna().all()


def test_a_class_is_scored_as_if_it_were_alone(opposite):
    data = metrics(opposite)
    table = scores_by_class(study(data, KINDS, splits=classes(CLASS_OF)))
    alone = data[data["perturbation"].isin(PAIRS)]
    for expected in (
        scores(study(alone, KINDS)),
        verdicts(study(alone, KINDS)).drop(columns=["ci_low", "ci_high", "reason"]),
    ):
        shared = [name for name in expected if name in COLUMNS]
        found = table[(table["n_genes"] == 2) & table["method"].isin(expected["method"])]
        pd.testing.assert_frame_equal(found[shared].reset_index(drop=True), expected[shared], check_dtype=False)


def test_a_perturbation_is_of_the_class_that_it_has_where_it_is_tested():
    """A+B has one gene seen in one split and two in the other; the singles of the second are of no other split."""
    pooled = pd.concat(
        [metrics(dict.fromkeys(["A+B", "C+D"], 0.1)), metrics(dict.fromkeys(["A+B", "E"], 0.3), "gears2")]
    )
    class_of = [classes({"A+B": (2, 1), "C+D": (2, 2)}), classes({"A+B": (2, 2), "E": (1, 0)}, "gears2")]
    table = scores_by_class(study(pooled, KINDS, splits=pd.concat(class_of)))
    tuned = table[table["method"] == "tuned"].set_index(["n_genes", "n_genes_seen", "split"])
    assert tuned["n_conditions"].to_dict() == {
        (1, 0, "gears2"): 1,
        (2, 1, "gears1"): 1,
        (2, 2, "gears1"): 1,
        (2, 2, "gears2"): 1,
    }


def test_data_of_one_class_have_no_rows_and_can_be_read_again(opposite, tmp_path):
    both = pd.concat([metrics(opposite), metrics(dict.fromkeys(SINGLES, 0.1), dataset="singles")])
    of_both = [classes(CLASS_OF), classes(dict.fromkeys(SINGLES, (1, 0)), dataset="singles")]
    assert set(scores_by_class(study(both, KINDS, splits=pd.concat(of_both)))["dataset"]) == {"pairs"}
    singles = both[both["dataset"] == "singles"]
    write_table(scores_by_class(study(singles, KINDS, splits=of_both[1])), tmp_path / "scores_by_class.tsv")
    assert list(read_table(tmp_path / "scores_by_class.tsv").columns) == COLUMNS


def test_classes_are_those_of_the_split_and_names_may_be_numbers(tmp_path):
    names = [*"123456789", *(f"{i}+{i + 1}" for i in range(1, 9))]
    options = {"dataset": "pairs", "folds": 2, "seed": 1, "validation_share": 0.2, "minimum_cells": 1}
    split = fold(pd.DataFrame({"perturbation": names}), fold=0, **options)
    folder = tmp_path / "pairs" / "fold0"
    (folder / "tuned" / "0").mkdir(parents=True)
    write_table(split, folder / "split.tsv")
    tested = split[split["role"] == "test"].drop(columns=["role", "seen"]).reset_index(drop=True)
    found = gather_classes([folder / "split.tsv"])
    pd.testing.assert_frame_equal(found[list(tested.columns)], tested)
    assert set(found["dataset"]) == {"pairs"}
    numbers = tested.loc[tested["n_genes"] == 1, ["perturbation", "context"]].assign(metric="mse", value=0.1)
    write_table(numbers, folder / "tuned" / "0" / "metrics.tsv")
    assert len(
        gather([folder / "tuned" / "0" / "metrics.tsv"]).merge(
            found, on=["dataset", "split", "perturbation", "context"]
        )
    )
