"""Make the pictures of the documents from finished studies: docs/images.

``make pictures`` makes those of every study whose report is in results/, and names the pictures that it left. The demo
has all except that of the README, which ``config/papalexi.yaml`` makes.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

import browser  # tests/browser.py

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
NOTEBOOK = ROOT / "docs" / "reading_results.ipynb"
IN_NOTEBOOK = ("reading_scores.png", "reading_prediction.png")
PICTURES = {  # of each study, by its name in results/
    "papalexi_2021": ("papalexi.png",),
    "demo": ("start.png", "skill.png", *IN_NOTEBOOK),
}


def make(checkout: Path, target: Path = IMAGES) -> list[str]:
    """Make the pictures of all studies that have run in ``checkout``; return the names of the others."""
    left = []
    for study, names in PICTURES.items():
        report = checkout / "results" / study / "report.html"
        if not report.is_file():
            left += names
            continue
        for name in set(names) - set(IN_NOTEBOOK):
            taken = FROM_REPORT[name](report)
            Image.open(io.BytesIO(taken)).convert("RGB").quantize(256).save(target / name, optimize=True)
    if not set(IN_NOTEBOOK) & set(left):
        run_notebook(checkout, target)
    return left


def start_page(report: Path) -> bytes:
    """Photograph what a wide window shows of a report first, as PNG."""
    with _opened(report, 1280, 1000) as reader:
        return reader.get_screenshot_as_png()


def ladder(report: Path) -> bytes:
    """Photograph the table of all methods on the start page, with its key, as PNG."""
    with _opened(report, 960) as reader:
        table = reader.find_element(By.CSS_SELECTOR, "#start .ladder").rect
        key = reader.find_element(By.CSS_SELECTOR, "#start .ladder ~ .note:has(.key)").rect
        return _photographed(reader, 0, table["y"] - 4, 960, key["y"] + key["height"] - table["y"] + 12)


def skill(report: Path) -> bytes:
    """Photograph the heat map of skill on the page *Scores*, as PNG."""
    with _opened(report, 1280) as reader:
        browser.go_to(reader, "Scores")
        browser.draw_everything(reader)
        found = "//article[.//code[contains(., '/skill_')]]//div[contains(@class, 'figure')]"
        figure = reader.find_element(By.XPATH, found).rect
        return _photographed(reader, *(figure[side] for side in ("x", "y", "width", "height")))


FROM_REPORT = {"papalexi.png": ladder, "start.png": start_page, "skill.png": skill}


@contextmanager
def _opened(report: Path, width: int, height: int = 900) -> Iterator[webdriver.Chrome]:
    with tempfile.TemporaryDirectory() as profile, browser.chromium(Path(profile), width, height) as reader:
        reader.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.open_report(reader, report)
        yield reader


def _photographed(reader: webdriver.Chrome, x: float, y: float, width: float, height: float) -> bytes:
    """Photograph a part of the page, in its pixels, in sight or not."""
    clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    taken = reader.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return base64.b64decode(taken["data"])


def run_notebook(checkout: Path, target: Path) -> str:
    """Run the notebook on the demo of ``checkout``; save its figures, and return what it printed.

    Raises
    ------
    RuntimeError
        If the notebook fails, or has another number of figures than ``IN_NOTEBOOK``; with its traceback.
    """
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = [str(target / name) for name in IN_NOTEBOOK]
    code.append(f"for name, number in zip({names}, plt.get_fignums(), strict=True):")
    code.append("    plt.figure(number).savefig(name, dpi=90)")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=checkout / "docs",
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{NOTEBOOK.name}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", type=Path, default=ROOT, help="where studies have run; this one")
    for name in make(parser.parse_args().checkout.resolve()):
        study = next(study for study, names in PICTURES.items() if name in names)
        print(f"docs/images/{name} stays as it was: there is no results/{study}/report.html")
