"""The site of the documents: it is built without a warning, and nothing in it leads nowhere."""

import re
import runpy

import pytest

from snakemake_checkout import ROOT

PICTURES = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["PICTURES"]
SITE = runpy.run_path(str(ROOT / "docs" / "site.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    report = folder / "made.html"
    report.write_text("<title>a report</title>")
    assert SITE["build"](folder / "docs", report) == 0
    return folder / "docs" / "site"


def test_every_link_and_image_is_in_the_site_and_nothing_is_loaded_from_the_network(site):
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert {f"{page}.html" for page in SITE["PAGES"].values()} <= pages.keys()
    for name, text in pages.items():
        for tag, address in re.findall(r"<(a|img|link|script|iframe)\b[^>]*?(?:href|src)=\"([^\"#?]+)", text):
            if re.match(r"https?:|mailto:", address):
                assert tag == "a", (name, address)
            else:
                assert (site / address).exists(), (name, address)


def test_a_link_to_a_file_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match=r"README\.md: found a link to 'docs/none\.md'"):
        SITE["with_links_of_the_site"]("[none](docs/none.md)", "README.md")


def test_a_file_that_is_no_page_is_named():
    shown = SITE["with_links_of_the_site"]("[rows](config/datasets.tsv) and [more](docs/gpu.md#x)", "README.md")
    assert shown == "rows (`config/datasets.tsv`) and [more](gpu.md#x)"


def test_the_report_of_the_demo_is_in_the_site_where_there_is_one(site):
    assert (site / "report.html").read_text() == "<title>a report</title>"
    assert '<iframe src="report.html"' in (site / "demo.html").read_text()
    assert "<iframe" not in SITE["demo"](made=False)


def test_the_notebook_is_a_page_with_its_code_and_figures(site):
    page = (site / "reading_results.html").read_text()
    assert "highlight-python" in page
    assert page.count("<img") >= 2
    assert 'href="results.html"' in page


def test_every_picture_is_made_from_a_study_and_shown_in_a_document():
    made = [name for names in PICTURES.values() for name in names]
    assert sorted(made) == sorted(path.name for path in (ROOT / "docs" / "images").iterdir())
    documents = "".join((ROOT / name).read_text() for name in SITE["PAGES"])
    assert [name for name in made if f"images/{name}" not in documents] == []
