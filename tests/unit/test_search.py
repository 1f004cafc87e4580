"""The search of a recipe: which candidates there are, and which one is chosen."""

import pytest

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt.search import candidates, choose, epochs, table


def report(select="pearson_delta", **scores):
    return {"options": {"select": select}, **scores}


def test_candidates_are_all_combinations_by_names_that_say_their_values():
    found = candidates({"learning_rate": [0.001, 0.0001], "freeze": [[], ["encoder", "value_encoder"]]})
    assert list(found) == [
        "freeze=none,learning_rate=0.001",
        "freeze=none,learning_rate=0.0001",
        "freeze=encoder+value_encoder,learning_rate=0.001",
        "freeze=encoder+value_encoder,learning_rate=0.0001",
    ]
    assert found["freeze=none,learning_rate=0.001"] == {"freeze": [], "learning_rate": 0.001}
    assert candidates({"epochs": [3]}) == {"epochs=3": {"epochs": 3}}


def test_another_value_leaves_the_other_candidates_alone():
    few, more = candidates({"epochs": [1, 2]}), candidates({"epochs": [5, 2, 1]})
    assert few.items() <= more.items()


def test_the_best_on_the_validation_conditions_is_chosen_and_the_first_of_equals():
    reports = {"a": report(pearson_delta=0.2), "b": report(pearson_delta=0.5), "c": report(pearson_delta=0.5)}
    assert choose(reports) == "b"


def test_a_candidate_that_failed_or_has_no_score_is_the_worst_and_the_table_says_why():
    reports = {"a": report(failed="loss nan"), "b": report(pearson_delta=-0.9), "c": report(pearson_delta=float("nan"))}
    assert choose(reports) == "b"
    rows = table({"a": {"epochs": 1}, "b": {"epochs": 2}, "c": {"epochs": 3}}, reports, "b")
    assert [row["pearson_delta"] for row in rows] == [None, -0.9, None]
    assert [row["reason"] for row in rows] == ["loss nan", "", ""]
    assert [row["chosen"] for row in rows] == ["", "yes", ""]


def test_a_search_without_a_candidate_that_could_be_trained_says_why():
    with pytest.raises(InputError, match="a: loss nan; b: no score"):
        choose({"a": report(failed="loss nan"), "b": report(pearson_delta=float("nan"))})


def test_where_no_candidate_has_anything_to_train_on_the_first_is_chosen():
    reports = dict.fromkeys("ab", report(nothing_to_train_on="no token"))
    assert choose(reports) == "a"
    assert [row["reason"] for row in table({key: {"epochs": 1} for key in "ab"}, reports, "a")] == ["no token"] * 2


def test_candidates_validated_by_different_metrics_are_not_compared():
    with pytest.raises(InputError, match="pearson and pearson_delta"):
        choose({"a": report(pearson_delta=0.2), "b": report("pearson", pearson=0.9)})


def test_a_training_on_everything_takes_as_long_as_half_of_those_with_validation_conditions():
    assert epochs([{"selected_epoch": number} for number in (7, 1, 3)]) == 3
    assert epochs([{"selected_epoch": number} for number in (2, 4)]) == 2
