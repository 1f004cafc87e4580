"""Tables of the report hold everything they need, and never run what stands in them."""

import re

import pandas as pd

from scgpt_bench.figures.tables import page

TABLE = pd.DataFrame({"method": ["<script>alert(1)</script>", 'a "quoted" ümlaut'], "mean": [0.123456, float("nan")]})


def test_the_page_asks_the_network_for_nothing():
    assert not re.search(r"""(src|href)=["']?https?:""", page(TABLE, "Scores").split("</head>")[0])
    assert not re.search(r"""<(script|link)[^>]+(src|href)=["']?http""", page(TABLE, "Scores"))


def test_names_are_text():
    html = page(TABLE, "<b>Scores</b>")
    assert "<script>alert(1)</script>" not in html
    assert "<h1>&lt;b&gt;Scores&lt;/b&gt;</h1>" in html


def test_two_pages_of_the_same_table_are_the_same_bytes():
    assert page(TABLE, "Scores") == page(TABLE, "Scores")
