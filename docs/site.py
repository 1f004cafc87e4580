"""Write the site: the documents of this repository as they are, the demo's report, and the metrics of the registry.

``make site`` leaves build/docs/site/index.html. Nothing comes from the network.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
from pathlib import Path

from sphinx.cmd.build import build_main

from scgpt_bench.evaluation.metric_definitions import COLUMNS, metric_definitions
from scgpt_bench.evaluation.metrics import METRICS

ROOT = Path(__file__).parents[1]
HOME = "README.md"
METRICS_PAGE = "metrics"  # of no document, but from the registry
REPORT_PAGE = "demo"
REPORT = ROOT / "results" / "demo" / "report.html"
NAVIGATION = {  # of each section: pages, and the documents that they are
    "Use": {
        "configuration": "config/README.md",
        "data_sets": "docs/data_sets.md",
        "cluster": "profiles/README.md",
        "predicting": "docs/predicting.md",
        "reading_the_report": "docs/reading_the_report.md",
        REPORT_PAGE: None,
        "results": "results/README.md",
        "reading_results": "docs/reading_results.ipynb",
        "checkpoints": "docs/checkpoints.md",
        "pretraining": "docs/pretraining.md",
        "adding_a_method": "docs/adding_a_method.md",
        "gpu": "docs/gpu.md",
        "scaling": "docs/scaling.md",
        "glossary": "docs/glossary.md",
    },
    "Background": {
        "evaluation": "docs/evaluation.md",
        "statistics": "docs/statistics.md",
        METRICS_PAGE: None,
        "threats_to_validity": "docs/threats_to_validity.md",
        "architecture": "docs/architecture.md",
        "speed": "benchmarks/README.md",
    },
    "Project": {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"},
}
PAGES = {HOME: "index"} | {
    document: page for section in NAVIGATION.values() for page, document in section.items() if document
}
LINK = re.compile(r"(!?)\[([^\]\[]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def build(target: Path, report: Path = REPORT) -> int:
    """Write pages and site below ``target``; return Sphinx's status: a warning is an error.

    ``report`` becomes a part of the site if it is there.
    """
    pages = target / "pages"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "images", pages / "images")
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = with_links_of_the_site(notebook(text) if source.endswith(".ipynb") else text, source)
        (pages / f"{page}.md").write_text(text + (contents() if source == HOME else ""), encoding="utf-8")
    (pages / f"{METRICS_PAGE}.md").write_text(metrics(), encoding="utf-8")
    extra = target / "extra"
    extra.mkdir()
    if report.is_file():
        shutil.copy(report, extra / "report.html")
    (pages / f"{REPORT_PAGE}.md").write_text(demo(report.is_file()), encoding="utf-8")
    settings = ["-c", str(ROOT / "docs"), "-d", str(target / "doctrees"), "-W", "--keep-going", "-q"]
    settings += ["-D", f"html_extra_path={extra}"]
    return build_main([*settings, str(pages), str(target / "site")])


def with_links_of_the_site(text: str, source: str) -> str:
    """Point the links of a document to pages of the site; name a file that is none, without a link.

    Raises
    ------
    FileNotFoundError
        For a link to what is not in this repository.
    """

    def pointed(found: re.Match[str]) -> str:
        image, words, link, anchor = found.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if target in PAGES:
            return f"[{words}]({PAGES[target]}.md{anchor or ''})"
        if image:
            return f"![{words}]({posixpath.relpath(target, 'docs')})"
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{source}: found a link to {link!r}; expected a file of this repository")
        return f"`{target}`" if words in (target, link) else f"{words} (`{target}`)"

    return LINK.sub(pointed, text)


def notebook(text: str) -> str:
    """Turn a Jupyter notebook into Markdown: its text, and its code in blocks."""
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"]]
    blocks = [f"```python\n{source}\n```" if kind == "code" else source for source, kind in cells]
    return "\n\n".join(blocks) + "\n"


def demo(made: bool) -> str:
    """Write the page of the demo's report: the report itself, or how to make it."""
    about = "# The report of the demo\n\nCells are simulated, and the answer is known. "
    if not made:
        return about + "This site was built where the demo had not run: `make demo`, then `make site` puts it here.\n"
    frame = '<iframe src="report.html" title="The report of the demo" style="width: 100%; height: 80vh"></iframe>'
    return f'{about}<a href="report.html">Open it in a page of its own.</a>\n\n{frame}\n'


def contents() -> str:
    """List the pages for the side bar."""
    blocks = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *section, "```", ""])
        for title, section in NAVIGATION.items()
    ]
    return "\n" + "\n".join(blocks)


def metrics() -> str:
    """Write a section for every metric, as the report's table has them."""
    lines = ["# Metrics", "", "`effect_pearson`, `specific_pearson`, `discrimination` and `mse_unbiased` decide. All"]
    lines += ["others are shown for comparison. [How far a verdict can be trusted](evaluation.md) says how.", ""]
    for metric, (_, row) in zip(METRICS.values(), metric_definitions(METRICS).iterrows(), strict=True):
        lines += [
            f"## {metric.name}",
            "",
            f"{metric.label[0].upper()}{metric.label[1:]}.",
            "",
            "| | |",
            "| --- | --- |",
        ]
        lines += [f"| {column.replace('_', ' ')} | {_cell(row[column])} |" for column in COLUMNS[2:] if row[column]]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(build(ROOT / "build" / "docs"))
