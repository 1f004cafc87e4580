"""A report of ten data sets, twelve methods and three hundred perturbations: light enough to open."""

import time

import pytest

import browser
import made_up


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    datasets = [f"drop{number}" for number in range(10)]
    folder = tmp_path_factory.mktemp("large")
    genes = [f"GENE{i}" for i in range(2000)]
    return made_up.make(folder, datasets, [f"TARGET{i}" for i in range(300)], genes)


def test_a_large_report_is_light_and_opens(large, tmp_path):
    """How long it takes is printed and not tested: a busy machine is no fault of the page."""
    start = time.monotonic()
    report = large.write(tmp_path / "report.html")
    written = time.monotonic() - start
    size = report.stat().st_size / 1e6
    with browser.chromium(tmp_path / "profile", 1280) as driver:
        start = time.monotonic()
        browser.open_report(driver, report)
        browser.go_to(driver, "Verdict")
        browser.go_to(driver, "Start")
        usable = time.monotonic() - start
        print(f"{size:.1f} MB, written in {written:.1f} s, usable after {usable:.2f} s")
        assert browser.complaints(driver) == []
    assert len(large.items) > 300
    assert size < 60
