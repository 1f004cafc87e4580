"""Tables of the report as pages: sortable, searchable, offline."""

from __future__ import annotations

import html

import itables.options
import pandas as pd
from itables import to_html_datatable
from itables.javascript import generate_init_offline_itables_html

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font-family: sans-serif; font-size: 14px; margin: 1em; }} h1 {{ font-size: 18px; }}
h2 {{ font-size: 15px; margin: 1em 0 0.2em; }}
.facts th {{ text-align: left; font-weight: normal; padding-right: 2em; }}
</style>
</head>
<body>
<h1>{title}</h1>
{above}
{library}
{table}
</body>
</html>
"""


def page(table: pd.DataFrame, title: str, digits: int = 4, above: str = "") -> str:
    """One HTML file that holds everything it needs.

    Parameters
    ----------
    table
        Shown without its index. Text is never read as HTML.
    title
        Heading of the page.
    digits
        Significant digits of numbers; the TSV beside the page has all of them.
    above
        HTML between heading and table, escaped by whoever wrote it.
    """
    shown = table.copy()
    for column in shown.select_dtypes("float"):
        shown[column] = shown[column].map(lambda value: float(f"{value:.{digits}g}"))
    body = to_html_datatable(
        shown,
        connected=False,
        allow_html=False,
        showIndex=False,
        classes="display compact nowrap",
        pageLength=25,
        maxBytes=0,
        scrollX=True,
        table_id="table",
    )
    library = generate_init_offline_itables_html(itables.options.dt_bundle)
    return PAGE.format(title=html.escape(title), library=library, table=body, above=above)
