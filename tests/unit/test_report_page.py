"""The page holds everything it shows, in the order of the reader's questions."""

import datetime
import json
import re

import pandas as pd
import pytest
from jinja2 import UndefinedError

from scgpt_bench.errors import InputError
from scgpt_bench.files import write_table
from scgpt_bench.report import page

TABLE = pd.DataFrame({"method": ["<script>alert(1)</script>", 'a "quoted"\tümlaut'], "mean": [0.1234567, None]})
MADE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def item(path: str, category: str) -> page.Item:
    return page.Item(path, category, None, {}, "")


def written(folder, *items) -> str:
    page.write(items, "<h1>Start</h1>", folder / "report.html", MADE)
    return (folder / "report.html").read_text()


@pytest.fixture
def table(tmp_path):
    write_table(TABLE, tmp_path / "a.tsv")
    return page.Item(tmp_path / "a.tsv", "Scores", "planted", {"table": "scores", "split": "<b>"}, "<p>Caption.</p>")


def test_categories_come_in_the_order_of_the_questions_and_items_as_they_were_asked_for():
    items = [item("z", "Verdict"), item("b", "Scores"), item("c", "Cost"), item("a", "Scores"), item("y", "Verdict")]
    assert [entry.path for entry in page.in_order(items)] == ["z", "y", "b", "a", "c"]
    with pytest.raises(InputError, match="x: category of the report: found 'Figures'; expected one of Verdict, Scores"):
        page.in_order([item("x", "Figures")])


def test_the_page_asks_the_network_for_nothing(tmp_path, table):
    text = written(tmp_path, table)
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=""", text)
    assert """content="default-src 'none';""" in text


def test_names_are_text_and_tables_are_whole(tmp_path, table):
    text = written(tmp_path, table)
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "0.1234567" in text
    assert '<span class="labels">&lt;b&gt;</span>' in text
    assert "<p>Caption.</p>" in text


def test_methods_and_metrics_are_explained_where_they_are_known(tmp_path):
    metrics = ["effect_pearson", "mse_top20", "</script>"]
    write_table(pd.DataFrame({"metric": metrics, "mean": [0.5, 0.25, 1.0]}), tmp_path / "a.tsv")
    items = [item(tmp_path / "a.tsv", "Scores")]
    kinds = {"ridge": "ridge", "tenfold": "ridge", "elsewhere": "imported"}
    page.write(items, "", tmp_path / "report.html", MADE, kinds=kinds)
    (block,) = re.findall(r'id="names">(.*?)</script>', (tmp_path / "report.html").read_text())
    names = json.loads(block)
    assert list(names["metric"]) == metrics[:2]
    assert "Higher is better" in names["metric"]["effect_pearson"]
    assert "Lower is better" in names["metric"]["mse_top20"]
    assert names["method"]["tenfold"].startswith("simple method, a variant of ridge: ")
    assert names["groups"]["elsewhere"] == "other model"


def test_two_pages_of_the_same_results_are_the_same_bytes(tmp_path, table):
    assert written(tmp_path, table) == written(tmp_path, table)


def test_a_piece_of_html_is_shown_as_it_is_and_an_unknown_file_refused(tmp_path):
    (tmp_path / "card.html").write_text("<h4>Batches</h4>")
    assert "<h4>Batches</h4>" in written(tmp_path, item(tmp_path / "card.html", "Data"))
    with pytest.raises(InputError, match=r"a\.png: suffix: found '\.png'; expected one of \.svg, \.tsv"):
        written(tmp_path, item(tmp_path / "a.png", "Data"))


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("mean", ["0.5", "-1e-3"], "bar"),
        ("n_seeds", ["1", "2"], "number"),
        ("p_value", ["0.5", "0.1"], "number"),
        ("method", ["ridge", "1"], "text"),
    ],
)
def test_what_a_column_is_shown_as(name, cells, kind):
    assert page._kind(name, cells) == kind


def test_a_caption_is_filled_in_and_a_name_in_it_is_text():
    text = 'Cells of {{ snakemake.wildcards.dataset }}, ``{{ snakemake.config["scorers"] | join(", ") }}``.'
    html = page.caption(text, {"dataset": "<b>drop</b>"}, {"scorers": ["a", "b"]})
    assert "Cells of &lt;b&gt;drop&lt;/b&gt;, " in html
    assert "a, b" in html
    with pytest.raises(UndefinedError, match="split"):
        page.caption("{{ snakemake.wildcards.split }}", {}, {})


def test_a_caption_includes_no_file_and_no_html(tmp_path):
    (tmp_path / "secret").write_text("SECRET")
    text = f".. include:: {tmp_path / 'secret'}\n\n.. raw:: html\n\n   <script>alert(1)</script>\n"
    html = page.caption(text, {}, {})
    assert "SECRET" not in html
    assert "<script>" not in html


def test_tables_that_differ_in_the_split_alone_are_one_table_with_a_column_for_it(tmp_path):
    def table_of(split, columns=("perturbation", "ridge"), heading="index"):
        path = tmp_path / split / f"{heading}.tsv"
        path.parent.mkdir(exist_ok=True)
        write_table(pd.DataFrame([(f"{split}'s", 0.5)], columns=columns), path)
        return page.Item(path, "Perturbations", "drop", {"split": split, "table": heading}, "")

    other = table_of("fold0", heading="leaks")
    unlike = table_of("fold2", ("perturbation", "context"))
    items = page.joined([table_of("fold0"), other, table_of("fold1"), unlike])
    assert [item.labels for item in items] == [{"table": "index"}, other.labels, unlike.labels]
    shown = page._shown(items[0])
    assert shown["text"] == "perturbation\tsplit\tridge\nfold0's\tfold0\t0.5\nfold1's\tfold1\t0.5\n"
    assert shown["choices"] == {"split": ["fold0", "fold1"]}
    assert shown["file"].endswith("/*/index.tsv")
