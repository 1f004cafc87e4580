"""The view of one perturbation: chosen by a link or a selector, read with the pointer, printed."""

import json

import numpy as np
import pandas as pd
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

import browser
import made_up
from scgpt_bench.files import write_table
from scgpt_bench.report import page, perturbations

ATTACK = "<script>alert(1)</script>"
METHODS = {
    "knn": "knn", "ridge": "ridge", ATTACK: "scgpt-finetuned", "chance": "scgpt-scratch",
    "ceiling": "technical-duplicate",
}  # fmt: skip
GENES = [ATTACK, *(f"CXCL{number}" for number in range(99))]
TESTED = {"fold0": [ATTACK, "A&B", "STAT1"], "fold1": ["GATA1@K562", "JAK2@K562"]}  # the second in a context


@pytest.fixture(scope="module")
def views():
    """What is in the views of two splits, each with perturbations of its own."""
    random = np.random.default_rng(3)
    size_of = {"fold0": 0.3, "fold1": 0.1}  # the largest change of all is in fold0
    return {split: made_view(tested, size_of[split], random) for split, tested in TESTED.items()}


def made_view(tested, size, random):
    """What the view of perturbations holds, and their scores."""
    table = [{"perturbation": name, "method": method} for method in METHODS for name in tested]
    values = pd.DataFrame(table).assign(context="all", metric="effect_pearson", reason="")
    values["value"] = random.uniform(0, 1, len(values)) + 2 * values["method"].isin(["ridge", "chance"])
    true = random.normal(0, size, (len(tested), len(GENES)))
    return made_up.view_of(true, tested, GENES, METHODS, values, random), values


def written(views, folder):
    """A report of views and indices."""
    items = []
    for split, (view, values) in views.items():
        table = values.pivot_table(index="perturbation", columns="method", values="value").reset_index()
        index, shown = (folder / split / f"perturbations.{suffix}" for suffix in ("tsv", "json.gz"))
        names = table["perturbation"].str.split("@", expand=True).reindex(columns=[0, 1])
        table = table.assign(perturbation=names[0], context=names[1], measured_cells=[*range(20, 20 + len(table))])
        write_table(table.dropna(axis=1), index)
        perturbations.write(view, shown)
        items.append(page.Item(index, "Perturbations", "drop", {"split": split, "table": "index"}, ""))
        items.append(page.Item(shown, "Perturbations", "drop", {"split": split, "figure": "one perturbation"}, ""))
    page.write(items, "<h1>Start</h1>", folder / "report.html", kinds=METHODS, without_pretraining=["chance"])
    return folder / "report.html"


@pytest.fixture(scope="module")
def report(views, tmp_path_factory):
    return written(views, tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def driver(report, tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile"), 1280) as driver:
        yield driver


@pytest.fixture
def reader(driver, report):
    driver.get("about:blank")
    driver.get(report.resolve().as_uri() + "#perturbations/drop")
    browser.draw_everything(driver)
    yield driver
    assert browser.complaints(driver) == []


def shown(reader):
    """The perturbation and the methods that are drawn."""
    (view,) = [view for view in browser.visible(reader, ".view") if view.get_attribute("data-ready")]
    return view.get_attribute("data-ready"), [
        panel.text for panel in view.find_elements(By.CSS_SELECTOR, ".panels strong")
    ]


def until_shown(reader, name):
    script = "return [...document.querySelectorAll('.view')].some((view) => view.dataset.ready === arguments[0])"
    browser.until(reader, script, name)


def test_without_a_choice_it_is_the_largest_change_by_the_best_method_of_each_group(reader, views):
    conditions = views["fold0"][0]["conditions"]
    assert shown(reader) == (max(conditions, key=lambda one: one["size"])["name"], ["ridge", ATTACK])
    assert browser.accessibility_violations(reader) == []


@pytest.mark.parametrize("name", [ATTACK, "JAK2@K562"])
def test_a_row_of_the_index_leads_to_its_view_and_back(reader, name):
    """Of the split that tests it, where several are on the page."""
    first = shown(reader)
    (link,) = [link for link in browser.visible(reader, ".table a") if link.text == name.split("@")[0]]
    link.click()
    until_shown(reader, name)
    assert shown(reader) == (name, ["ridge", ATTACK])
    assert f"{name}: 2" in browser.visible(reader, ".drawings > p")[0].text
    reader.back()
    until_shown(reader, first[0])


def test_methods_stand_side_by_side_and_the_index_has_their_scores(reader):
    boxes = browser.visible(reader, ".view fieldset")[0].find_elements(By.CSS_SELECTOR, "input")
    names = [box.get_attribute("value") for box in boxes]
    assert names == list(METHODS)
    boxes[names.index("ceiling")].click()
    browser.until(reader, "return document.querySelectorAll('.panels figure').length === 3")
    boxes[names.index(ATTACK)].click()
    browser.until(reader, "return document.querySelectorAll('.panels figure').length === 2")
    assert shown(reader)[1] == ["ridge", "ceiling"]
    header = "return [...document.querySelector('.table').querySelectorAll('thead th')].map((cell) => cell.textContent)"
    browser.until(
        reader, f"const shown = (() => {{ {header} }})(); return shown.includes('ceiling') && !shown.includes('knn')"
    )
    assert "methods=ridge%2Cceiling" in reader.current_url
    Select(browser.visible(reader, ".view select")[0]).select_by_visible_text("STAT1")
    until_shown(reader, "STAT1")
    assert shown(reader) == ("STAT1", ["ridge", "ceiling"])


def hovered(reader, element, across=0, down=0):
    reader.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(reader).move_to_element_with_offset(element, across, down).perform()
    return browser.until(reader, "return document.querySelector('.hover:not([hidden])')?.textContent").split("\n")


def change(value):
    return f"{'−' if value < 0 else '+'}{abs(value) / 1000:.3f}"


def test_the_pointer_reads_every_number(reader, views):
    view, _ = views["fold0"]
    condition = next(one for one in view["conditions"] if one["name"] == shown(reader)[0])
    gene, ridge = view["genes"][condition["genes"][0]], list(METHODS).index("ridge")
    dot = reader.find_element(By.CSS_SELECTOR, ".panels circle")
    numbers = f"measured {change(condition['measured'][0])}", f"ridge {change(condition['predicted'][ridge][0])}"
    assert hovered(reader, dot)[:3] == [gene, *numbers]
    told = hovered(reader, reader.find_element(By.CSS_SELECTOR, ".boxes g"))
    assert told[0] == gene
    assert told[2] == f"measured cells {', '.join(map(change, condition['quartiles']['cells'][0]))}"
    assert any(ATTACK in text for text in told)
    last = view["map"]["rows"][-1]
    picture = reader.find_element(By.CSS_SELECTOR, ".map image")
    box = picture.rect
    place = int(box["width"] / 2) - 3, int(box["height"] / 2) - 3
    name, gene = view["conditions"][last]["name"], view["genes"][view["map"]["genes"][-1]]
    assert hovered(reader, picture, *place) == [
        f"{name}, {gene}",
        f"measured {change(view['map']['measured'][last][-1])}",
    ]
    ActionChains(reader).click().perform()
    until_shown(reader, name)


def test_the_numbers_are_also_a_table_and_the_file_is_saved(reader, views, tmp_path):
    view, _ = views["fold0"]
    condition = next(one for one in view["conditions"] if one["name"] == shown(reader)[0])
    script = "const rows = document.querySelectorAll('.drawings tbody tr');"
    script += "return [...rows].map((row) => [...row.cells].map((cell) => cell.textContent))"
    genes = [view["genes"][gene] for gene in condition["genes"]]
    assert [row[:2] for row in reader.execute_script(script)] == [
        [gene, change(value)] for gene, value in zip(genes, condition["measured"], strict=True)
    ]
    reader.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    button = reader.find_element(By.CSS_SELECTOR, ".item:has(.view) button.download")
    reader.execute_script("arguments[0].click()", button)
    WebDriverWait(reader, browser.SECONDS, 0.05).until(lambda _: list(tmp_path.glob("*perturbations.json")))
    (saved,) = tmp_path.glob("*perturbations.json")
    assert json.loads(saved.read_text()) == json.loads(json.dumps(view))


def test_paper_has_the_chosen_view_and_the_whole_index(driver, report):
    driver.get("about:blank")
    driver.get(report.resolve().as_uri() + "#print?perturbation=STAT1&methods=knn")
    until_shown(driver, "STAT1")
    assert shown(driver) == ("STAT1", ["knn"])
    rows = [row.text for row in browser.visible(driver, ".printed tbody td:first-child")]
    assert sorted(rows) == sorted(name.split("@")[0] for tested in TESTED.values() for name in tested)
    assert all(row.rect["width"] > 60 for row in browser.visible(driver, ".printed tbody td:first-child"))


def test_the_page_opens_on_the_largest_change_of_all_splits_beside_one_index_of_them(tmp_path):
    random = np.random.default_rng(4)
    views = {"fold0": made_view(["A", "B"], 0.1, random), "fold1": made_view(["C", "D"], 0.3, random)}
    report = written(views, tmp_path)
    with browser.chromium(tmp_path / "profile", 1280) as driver:
        driver.get(report.resolve().as_uri() + "#perturbations/drop")
        browser.draw_everything(driver)
        largest = max(views["fold1"][0]["conditions"], key=lambda one: one["size"])
        assert shown(driver)[0] == largest["name"]
        (table,) = browser.visible(driver, ".table")
        assert [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:first-child")] == [*"ABCD"]
        assert "slope of this perturbation" in driver.find_element(By.CSS_SELECTOR, ".panels figcaption").text
        next(link for link in browser.visible(driver, ".table a") if link.text == "A").click()
        until_shown(driver, "A")
        assert browser.complaints(driver) == []
