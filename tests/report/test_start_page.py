"""The twenty-second test: the first screen has the answer, the picture and what limits it, however large the run."""

import dataclasses

import pandas as pd
import pytest
from selenium.webdriver.common.by import By

import browser
import made_up
from scgpt_bench.evaluation.verdicts import ONE_TRAINING
from scgpt_bench.report import page, summary
from scgpt_bench.report.ladder import MOST

CONTEXTS = ("K562", "RPE1", "Jurkat")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A browser that shows the start page of a run: at 1280 x 900, without a network."""
    folder = tmp_path_factory.mktemp("start")
    with browser.chromium(folder / "profile", 1280) as driver:

        def opened(run):
            page.write([], summary.page(run), folder / "report.html")
            browser.open_report(driver, folder / "report.html")
            assert browser.complaints(driver) == []
            return driver

        yield opened


def _limited(run):
    """The same with a line under each heading of what limits an answer."""
    few = run.scores.assign(n_conditions=9)
    record = made_up.method_record("scgpt-finetuned", {"B": ("no token", "no change")}, n_genes=300)
    tuned = dataclasses.replace(run.predictions[-1], record=record)
    once = run.verdicts.assign(reason=ONE_TRAINING)
    return dataclasses.replace(run, scores=few, verdicts=once, predictions=[*run.predictions, tuned])


def test_one_data_set(start):
    reader = start(_limited(made_up.run(["planted"])))
    browser.assert_answered_in_twenty_seconds(reader, ".ladder tbody tr")
    assert len(reader.find_elements(By.CSS_SELECTOR, ".ladder tbody tr")) == len(made_up.METHODS)
    assert len(reader.find_elements(By.CSS_SELECTOR, ".limits summary")) == 4


def test_many_methods(start):
    methods = {**made_up.METHODS, **{f"ridge on {i}": "ridge" for i in range(14)}}
    reader = start(_limited(made_up.run(["planted"], methods)))
    browser.assert_answered_in_twenty_seconds(reader, ".ladder tbody tr")
    assert len(reader.find_elements(By.CSS_SELECTOR, ".ladder tbody tr")) == MOST
    text = reader.find_element(By.ID, "start").text
    assert "12 more methods are not drawn; the best of them scores " in text
    assert " % of the best possible: Scores has all 26." in text


def test_ten_data_sets(start):
    datasets = [f"drop{number}" for number in range(10)]
    reader = start(_limited(made_up.run(datasets)))
    answer, *of_datasets = reader.find_elements(By.CSS_SELECTOR, "#start .answer")
    assert "In 10 comparisons, scGPT " in answer.text
    assert len(of_datasets) == 10
    reader.execute_script("for (const part of document.querySelectorAll('.answers')) part.remove()")
    browser.assert_answered_in_twenty_seconds(reader, ".overview tbody tr")
    rows = reader.find_elements(By.CSS_SELECTOR, ".overview tbody tr")
    assert [row.find_element(By.TAG_NAME, "a").text for row in rows] == datasets
    assert all("%" in row.find_element(By.CSS_SELECTOR, ".named").text for row in rows)
    marks = rows[0].find_elements(By.CSS_SELECTOR, ".mark")
    assert len(marks) == len(made_up.METHODS)
    rows[9].find_element(By.TAG_NAME, "a").click()
    top = "const { top } = document.getElementById('answer-10').getBoundingClientRect();"
    browser.until(reader, f"{top} return top >= 0 && top < innerHeight / 2")


def test_held_out_contexts(start):
    """One question over three contexts: the answer over all of them, and in which of them it holds."""
    splits = {name: f"context-{name}" for name in CONTEXTS}
    made = made_up.run(["screen"])

    def of_splits(table):
        parts = [table.assign(split=split) for split in ("contexts", *splits.values())]
        return pd.concat(parts, ignore_index=True)

    verdicts = of_splits(made.verdicts)
    verdicts.loc[verdicts["split"] == "context-Jurkat", "verdict"] = "worse"
    pooled = {"contexts": [*splits.values()]}
    run = dataclasses.replace(made, scores=of_splits(made.scores), verdicts=verdicts, pooled=pooled)
    reader = start(_limited(run))
    browser.assert_answered_in_twenty_seconds(reader, ".ladder tbody tr")
    text = " ".join(reader.find_element(By.CSS_SELECTOR, ".answers").text.split())
    assert "screen, held-out contexts" in reader.find_element(By.CSS_SELECTOR, "#start h2").text
    assert "better in K562, RPE1; worse in Jurkat." in text


def test_predicted_lists_alone(start):
    made = made_up.run(["planted"])
    nothing = {"scores": made.scores.head(0), "verdicts": made.verdicts.head(0)}
    reader = start(dataclasses.replace(made, **nothing, lists=["druggable"]))
    browser.assert_answered_in_twenty_seconds(reader)
    assert "Nothing was measured here." in reader.find_element(By.CSS_SELECTOR, "#start .answer").text
    assert reader.find_elements(By.CSS_SELECTOR, ".ladder") == []
