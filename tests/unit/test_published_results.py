"""Published figures stand beside a run's own only where both mean the same."""

from pathlib import Path

import pandas as pd
import pytest

from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.metric_definitions import metric_definitions
from scgpt_bench.evaluation.published_results import COLUMNS, PUBLISHED_COLUMNS, beside_published, read_published
from scgpt_bench.files import write_table

TABLE = Path(__file__).parents[2] / "config" / "published_results.tsv"


def scores(*rows):
    table = pd.DataFrame(rows, columns=["dataset", "split", "method", "metric", "mean"]).assign(context="all")
    return table.assign(ci_low=table["mean"] - 0.1, ci_high=table["mean"] + 0.1)


def test_the_projects_table_holds_the_published_figures():
    table = read_published(TABLE).set_index(["dataset", "method"])["value"].sort_index(kind="stable")
    assert table["norman_gears", "scgpt-finetuned-published"].tolist() == [0.554, 0.502]
    assert table["replogle_rpe1_gears", "train-mean"].tolist() == [0.628]
    assert table["adamson_gears", "random-forest-go"].tolist() == [0.739]
    metric_definitions(read_published(TABLE)["metric"])  # every metric is one of ours


def test_a_run_is_compared_within_the_tolerance_and_only_where_it_was_run():
    run = scores(
        ("norman_gears", "gears1", "scgpt-finetuned-published", "pearson_delta", 0.55),
        ("norman_gears", "gears1", "train-mean", "pearson_delta", 0.40),
        ("norman_gears", "gears1", "ridge", "pearson_delta", 0.60),
    )
    table = beside_published(run, read_published(TABLE))
    assert table.columns.tolist() == COLUMNS
    agrees = table.groupby("method")["agrees"].agg(list).to_dict()
    assert agrees["scgpt-finetuned-published"] == ["yes", "yes"], "two sources, each by its own value"
    assert agrees["train-mean"] == ["no", "no", "no"]
    assert agrees["random-forest-go"] == [""], "published, not run: shown, not judged"
    assert "ridge" not in agrees
    assert set(table["dataset"]) == {"norman_gears"}


@pytest.mark.parametrize("key", [("norman_gears", "fold0"), ("norman_gears", "gears2"), ("planted", "gears1")])
def test_other_splits_and_data_have_no_published_result(key):
    run = scores((*key, "scgpt-finetuned-published", "pearson_delta", 0.55))
    assert beside_published(run, read_published(TABLE)).empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, "line 2, source: found nothing"),
        ({"mark": "c"}, "line 2, mark: found 'c'; expected one of read, unverified"),
        ({"split": "fold0"}, "line 2, split: found 'fold0'"),
    ],
)
def test_a_figure_without_source_or_split_is_refused(tmp_path, change, message):
    row = dict(zip(PUBLISHED_COLUMNS, ["a", "gears1", "train-mean", "mse", 0.1, 0.01, "a paper", "read"], strict=True))
    write_table(pd.DataFrame([{**row, **change}]), tmp_path / "published_results.tsv")
    with pytest.raises(InputError, match=message):
        read_published(tmp_path / "published_results.tsv")


def test_no_figure_of_a_leak_is_in_the_table():
    """Published where the measured response of a test perturbation was its input (docs/statistics.md)."""
    table = read_published(TABLE)
    assert not table["source"].str.contains("manifold").any()
    assert table["value"].max() < 0.76


def test_a_run_agrees_with_the_source_that_it_is_near():
    run = scores(("norman_gears", "gears1", "scgpt-finetuned-published", "pearson_delta", 0.46))
    table = beside_published(run, read_published(TABLE)).set_index("method").loc["scgpt-finetuned-published"]
    assert dict(zip(table["value"], table["agrees"], strict=True)) == {0.554: "no", 0.502: "yes"}


def test_a_figure_twice_of_one_source_is_refused(tmp_path):
    table = read_published(TABLE)
    write_table(pd.concat([table, table.tail(1)]), tmp_path / "published_results.tsv")
    with pytest.raises(InputError, match="a second time; expected one figure of each source"):
        read_published(tmp_path / "published_results.tsv")
