"""Conditions are told apart by two columns, never by a joined name."""

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.data.conditions import (
    Condition,
    codes_of,
    conditions_of,
    contexts_of,
    controls_of,
    listed,
    rows_of,
    table_of,
)

OBS = pd.DataFrame(
    {
        "perturbation": ["B", "control", "A", "B", "A+B", "B", "control"],
        "context": ["x", "x", "y", "y", "x", "x", "y"],
        "role": ["test", "train", "train", "test", "test", "test", "train"],
    }
)


def test_rows_are_grouped_by_perturbation_and_context_and_controls_are_groups_too():
    rows = {condition: list(own) for condition, own in rows_of(OBS).items()}
    assert rows == {("A", "y"): [2], ("A+B", "x"): [4], ("B", "x"): [0, 5], ("B", "y"): [3],
                    ("control", "x"): [1], ("control", "y"): [6]}  # fmt: skip


@pytest.mark.parametrize("kind", ["category", "string"])
def test_the_type_of_the_columns_does_not_matter_and_absent_categories_are_no_conditions(kind):
    table = OBS.astype(kind)[:4]
    assert conditions_of(table) == [("A", "y"), ("B", "x"), ("B", "y")]


def test_conditions_leave_controls_out_and_can_be_those_of_a_role():
    assert conditions_of(OBS) == [("A", "y"), ("A+B", "x"), ("B", "x"), ("B", "y")]
    assert conditions_of(OBS, "train") == [("A", "y")]
    assert contexts_of(OBS) == ["x", "y"]
    assert controls_of(OBS) == [("control", "x"), ("control", "y")]


def test_a_table_without_contexts_has_one():
    assert conditions_of(OBS[["perturbation"]]) == [("A", "all"), ("A+B", "all"), ("B", "all")]


def test_codes_are_positions_among_the_conditions_asked_for():
    asked = [Condition("B", "y"), Condition("B", "x"), Condition("B", "z")]
    assert list(codes_of(OBS, asked)) == [1, -1, -1, 0, -1, 1, -1]


def test_names_that_join_alike_are_different_conditions():
    hostile = pd.DataFrame({"perturbation": ["A", "A@x", "A"], "context": ["x@y", "y", "x"]})
    assert len(conditions_of(hostile)) == 3
    assert sorted(codes_of(hostile, conditions_of(hostile))) == [0, 1, 2]


def test_what_is_drawn_without_a_declared_context_depends_on_the_perturbation_alone():
    assert Condition("A").drawn_for == ("A",)
    assert Condition("A", "x").drawn_for == ("A", "x")


def test_the_table_of_conditions_gives_them_back_and_is_labelled():
    conditions = [Condition("A", "x"), Condition("A+B")]
    table = table_of(conditions)
    assert list(table.index) == ["A@x", "A+B"]
    assert listed(table) == conditions_of(table) == conditions
    assert conditions_of(table_of([])) == []
    assert rows_of(table.iloc[:0]) == {}
    assert np.issubdtype(codes_of(table, []).dtype, np.integer)
