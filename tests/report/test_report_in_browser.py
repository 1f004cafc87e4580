"""What a reader of the report sees and can do, in a real browser without a network."""

import re
import shutil
import time
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import browser
import firefox
import made_up
from scgpt_bench.files import write_table
from scgpt_bench.report import page

ATTACK = "<script>alert(1)</script>"
LONG = "Größe \"quoted\" 'single' & <b>" + 50 * "W"
CATEGORIES = ["Verdict", "Scores", "Perturbations", "Data", "Model", "Trust", "Cost", "Provenance"]
METHODS = {
    **{name: name for name in ("control-mean", "ridge", "scgpt-zero-shot", "scgpt-finetuned")},
    "my-floor": "shuffled",
    ATTACK: "technical-duplicate",
}
DATASETS = ["planted", f"{ATTACK} {LONG}"]
PERTURBATIONS = [ATTACK, LONG, "_Ünder*line*_", "NA", *(f"GENE{i}" for i in range(8))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-up")
    return made_up.make(folder, DATASETS, PERTURBATIONS, [ATTACK, *(f"CXCL{i}" for i in range(99))], METHODS)


@pytest.fixture(scope="module")
def report(run):
    return run.write(run.folder / "report.html")


@pytest.fixture(scope="module", params=[1280, 400])
def reader(request, report, tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile"), request.param) as driver:
        browser.open_report(driver, report)
        yield driver


@pytest.fixture
def page_of(tmp_path):
    """A browser that shows a report of the given items."""
    with browser.chromium(tmp_path / "profile", 1280) as driver:

        def opened(*items, **more):
            page.write(items, "<h1>Start</h1>", tmp_path / "report.html", **more)
            browser.open_report(driver, tmp_path / "report.html")
            return driver

        yield opened


def test_every_category_is_reachable_readable_and_quiet(reader):
    assert browser.categories(reader) == ["Start", *CATEGORIES]
    for category in browser.categories(reader):
        browser.go_to(reader, category)
        assert reader.find_element(By.CSS_SELECTOR, "section:not([hidden]) h1").is_displayed()
        browser.draw_everything(reader)
        assert browser.accessibility_violations(reader) == [], category
        _assert_within_the_window(reader)
        for link in browser.visible(reader, ".datasets a")[1:]:
            reader.execute_script("window.scrollTo(0, 0)")
            link.click()
            headings = [heading.text for heading in browser.visible(reader, "h2")]
            assert DATASETS[1] in headings
            assert DATASETS[0] not in headings
            browser.draw_everything(reader)
            _assert_within_the_window(reader)
    assert browser.complaints(reader) == []
    assert browser.requested(reader) <= {"file", "data", "blob"}


def _assert_within_the_window(reader):
    page_width, window_width = reader.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert page_width <= window_width


def _colours(image):
    return len(pd.unique(browser.pixels(image).reshape(-1, 3).sum(axis=1)))


@pytest.mark.parametrize("width", [400, 1100])
def test_no_verdict_of_the_start_page_is_out_of_sight(report, tmp_path, width):
    with browser.chromium(tmp_path / "profile", width) as driver:
        browser.open_report(driver, report)
        verdicts = browser.visible(driver, "#start .ladder .verdict")
        assert len(verdicts) == 3 * len(DATASETS)  # two methods each, and one in the line of the data set
        assert all(each.rect["x"] + each.rect["width"] <= width for each in verdicts)


def test_a_figure_is_whole_in_a_narrow_window_until_it_is_enlarged(report, tmp_path):
    def width_over_window(button):
        box = "arguments[0].closest('.item').querySelector('.scroll')"
        return driver.execute_script(f"const box = {box}; return box.scrollWidth / box.clientWidth", button)

    with browser.chromium(tmp_path / "profile", 400) as driver:
        browser.open_report(driver, report)
        browser.go_to(driver, "Scores")
        browser.draw_everything(driver)
        button = browser.visible(driver, ".enlarge")[0]
        assert width_over_window(button) == 1
        button.click()
        assert width_over_window(button) > 1.5
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert width_over_window(button) == 1


def test_no_verdict_of_a_table_is_out_of_sight(reader):
    width = reader.execute_script("return innerWidth")
    _go_to_address(reader, "#verdict?metric=")
    browser.draw_everything(reader)
    verdicts = [cell for cell in browser.visible(reader, ".table td") if cell.text in ("better", "worse")]
    assert len(verdicts) > 5
    assert all(cell.rect["x"] + cell.rect["width"] <= width for cell in verdicts)


def test_cells_of_a_heat_map_say_their_values(reader):
    _go_to_address(reader, "#perturbations/planted")
    browser.draw_everything(reader)
    said = """
        const cells = document.querySelector('#perturbations .group:not([hidden]) [data-cells]');
        const { left, top, width, height } = cells.firstElementChild.getBoundingClientRect();
        const place = { clientX: left + width / 40, clientY: top + height / 40, bubbles: true };
        cells.firstElementChild.dispatchEvent(new PointerEvent('pointermove', place));
        const { texts, rows, columns } = JSON.parse(cells.dataset.cells);
        return [document.querySelector('.hover').textContent, `${rows[0]}, ${columns[0]}\n${texts[0][0]}`];
    """
    shown, expected = reader.execute_script(said)
    assert shown == expected
    assert re.fullmatch(r".*\n-?\d\.\d{3}", shown, re.DOTALL)


def test_figures_are_dark_in_the_dark_and_keep_their_hues(report, tmp_path):
    with browser.chromium(tmp_path / "profile", 1280) as driver:
        browser.open_report(driver, report)
        _go_to_address(driver, "#scores")
        browser.draw_everything(driver)
        figure = browser.visible(driver, ".figure")[0]
        driver.execute_script("arguments[0].scrollIntoView()", figure)
        light = browser.pixels(figure).astype(float)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        browser.until(driver, "return document.documentElement.classList.contains('dark')")
        shaded = browser.pixels(figure).astype(float)
        assert light[0, 0].min() == 255
        assert shaded[0, 0].max() < 30
        marks = np.ptp(light, axis=2) > 100  # what has a colour
        assert marks.sum() > 100
        assert np.mean(light.argmax(axis=2)[marks] == shaded.argmax(axis=2)[marks]) > 0.9


def test_tables_can_be_read_in_the_dark(report, tmp_path):
    with browser.chromium(tmp_path / "profile", 1280) as driver:
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        browser.open_report(driver, report)
        for category in ("Start", "Verdict"):
            browser.go_to(driver, category)
            browser.draw_everything(driver)
            assert browser.accessibility_violations(driver) == []
        assert (
            driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
            != "rgba(255, 255, 255, 1)"
        )


def test_every_figure_is_drawn_and_told_in_words(reader, run):
    seen = 0
    for category in CATEGORIES:
        _go_to_address(reader, f"#{category.lower()}?metric=")
        browser.draw_everything(reader)
        for image in browser.visible(reader, ".item .figure"):
            seen += 1
            assert len(image.get_attribute("aria-label")) > 40
            # A picture of an element holds what is in the window: at its edge that may be two lines.
            reader.execute_script("arguments[0].scrollIntoView()", image)
            # A busy machine paints a figure some time after it has loaded it.
            waiting = WebDriverWait(reader, browser.SECONDS)
            waiting.until(lambda _, image=image: _colours(image) > 20, image.get_attribute("aria-label"))
    drawn = {item.path for item in run.items if item.path.suffix == ".svg" and item.subcategory in (None, DATASETS[0])}
    assert seen == len(drawn)


def test_names_are_shown_as_they_stand_and_never_run(reader):
    start = reader.find_element(By.ID, "start")
    browser.go_to(reader, "Start")
    headings = [heading.text for heading in start.find_elements(By.TAG_NAME, "h2")]
    assert any(heading.startswith(DATASETS[1][:40]) for heading in headings)  # the start page shortens long names
    _go_to_address(reader, f"#perturbations/planted?methods={quote(ATTACK, safe='')}")
    browser.draw_everything(reader)
    first_column = [cell.text for cell in browser.visible(reader, ".table tbody td:first-child")]
    assert sorted(first_column) == sorted(PERTURBATIONS)
    header = (
        "return [...document.querySelectorAll('.table thead th')].some((cell) => cell.textContent === arguments[0])"
    )
    browser.until(reader, header, ATTACK)
    assert reader.execute_script("return document.scripts.length") == 3
    # `alert` would have left a dialog that makes every later command fail.
    assert reader.title == "scgpt-bench report"


def _go_to_address(reader, address):
    reader.execute_script("location.hash = arguments[0]", address)
    browser.until(reader, "return !document.getElementById(arguments[0]).hidden", re.match(r"#(\w+)", address)[1])


def _choices(reader):
    return {label.text.split("\n")[0]: Select(label.find_element(By.TAG_NAME, "select")) for label in _labels(reader)}


def _labels(reader):
    return browser.visible(reader, ".choices label")


def _items(reader):
    return [heading.text for heading in browser.visible(reader, ".item h3")]


def _left(reader):
    return browser.visible(reader, ".choices p")[0].text


def test_choices_are_in_the_address_and_are_remembered(reader, report):
    reader.get("about:blank")
    reader.get(report.resolve().as_uri() + "#scores")
    assert _choices(reader)["metric"].first_selected_option.text == "effect_pearson"
    assert not any("mse_unbiased" in heading for heading in _items(reader))
    _choices(reader)["metric"].select_by_visible_text("mse_unbiased")
    browser.until(reader, "return location.hash.endsWith('scores?metric=mse_unbiased')")
    assert any("mse_unbiased" in heading for heading in _items(reader))
    assert not any("effect_pearson" in heading for heading in _items(reader))
    assert "3 of 8 items. Show all" in _left(reader)
    browser.go_to(reader, "Verdict")
    assert _choices(reader)["metric"].first_selected_option.text == "mse_unbiased"
    browser.draw_everything(reader)
    assert "metric mse_unbiased" in browser.visible(reader, ".table .note")[0].text
    reader.back()
    reader.back()
    browser.until(reader, "return location.hash === '#scores'")
    assert _choices(reader)["metric"].first_selected_option.text == "effect_pearson"
    browser.visible(reader, ".choices p a")[0].click()
    browser.until(reader, "return !document.querySelector('section:not([hidden]) .item[hidden]')")
    assert len(_items(reader)) == 8
    _go_to_address(reader, "#verdict/planted")
    assert _choices(reader)["data set"].first_selected_option.text == "planted"
    browser.visible(reader, ".choices p a")[0].click()
    browser.until(reader, "return location.hash.startsWith('#verdict?')")
    assert _choices(reader)["data set"].first_selected_option.text == "all"


def test_of_several_splits_one_figure_of_each_is_shown(page_of, run, tmp_path):
    figure = next(item for item in run.items if item.path.name == "skill.svg")
    verdicts = pd.read_csv(run.folder / "verdicts.tsv", sep="\t")
    splits = ("fold0", "fold1", "together")
    write_table(pd.concat([verdicts.assign(split=split) for split in splits]), tmp_path / "verdicts.tsv")
    items = [
        page.Item(figure.path.with_name(f"skill_{split}_{name}.svg"), "Verdict", "planted", labels, "")
        for name in ("a", "b")
        for split in splits[: 3 if name == "a" else 2]
        for labels in [{"figure": name, "split": split}]
    ]
    for item in items:
        shutil.copy(figure.path, item.path)
    items.append(page.Item(tmp_path / "verdicts.tsv", "Verdict", None, {"table": "all"}, ""))
    reader = page_of(*items, pooled=["together"])
    browser.go_to(reader, "Verdict")
    browser.draw_everything(reader)
    assert _items(reader) == ["a together", "b fold0", "all"]
    assert "3 of 6 items. Show all" in _left(reader)
    (table,) = browser.visible(reader, ".item:has(.table)")
    assert "split together" in table.text
    _choices(reader)["split"].select_by_visible_text("fold1")
    browser.until(reader, "return location.hash.includes('split=fold1')")
    assert _items(reader) == ["a fold1", "b fold1", "all"]
    _choices(reader)["split"].select_by_visible_text("pooled or one")
    browser.until(reader, "return !location.hash.includes('split')")
    browser.visible(reader, ".choices p a")[0].click()
    browser.until(reader, "return !document.querySelector('section:not([hidden]) .item[hidden]')")
    assert len(_items(reader)) == 6


def test_odd_names_in_an_address_are_text(reader, report):
    address = "#perturbations/" + quote(DATASETS[1], safe="") + "?method=" + quote(ATTACK, safe="") + "&metric=%zz"
    reader.get(report.resolve().as_uri() + address)
    browser.until(reader, "return !document.getElementById('perturbations').hidden")
    assert [heading.text for heading in browser.visible(reader, "h2")] == [DATASETS[1]]
    browser.draw_everything(reader)
    assert [panel.text for panel in browser.visible(reader, ".panels strong")] == [ATTACK]
    reader.get(report.resolve().as_uri() + "#scores/planted?metric=<img src=x onerror=alert(1)>&%")
    browser.until(reader, "return !document.getElementById('scores').hidden")
    assert "Not on this page: <img src=x onerror=alert(1)>." in _left(reader)
    assert browser.complaints(reader) == []


def test_an_item_has_a_link_that_shows_it(reader):
    _go_to_address(reader, "#scores?metric=")
    hidden = browser.until(
        reader,
        "return [...document.querySelectorAll('section:not([hidden]) .item')].find((item) =>"
        " item.checkVisibility() && item.querySelector('h3').textContent.includes('discrimination'))",
    )
    reader.execute_script("arguments[0].querySelector('.file a').click()", hidden)
    browser.until(reader, "return location.hash === '#' + arguments[0].id", hidden)
    browser.until(reader, "return document.activeElement === arguments[0]", hidden)
    assert hidden.is_displayed()
    assert _choices(reader)["metric"].first_selected_option.text == "discrimination"


def test_kinds_of_methods_are_chosen_together(reader):
    _go_to_address(reader, "#scores?group=scGPT")
    assert _choices(reader)["kind of method"].first_selected_option.text == "scGPT"
    browser.draw_everything(reader)
    (table,) = browser.visible(reader, ".item:has(.table)")
    rows = _rows(reader, table)
    assert [row.split("\t")[0] for row in rows] == ["scgpt-zero-shot", "scgpt-finetuned"]
    assert "Fine-tuned on the training" in table.find_element(
        By.CSS_SELECTOR, "tbody tr:nth-child(2) span"
    ).get_attribute("title")


def test_text_of_figures_is_found_and_marks_say_their_values(reader, run, tmp_path):
    _go_to_address(reader, "#scores?metric=")
    browser.draw_everything(reader)
    assert reader.execute_script("return window.find('difference between', false) || window.find('my-floor')")
    titles = reader.execute_script("return [...document.querySelectorAll('.figure title')].map((t) => t.textContent)")
    assert any(title.startswith(f"{ATTACK}: 0.") for title in titles)
    assert any(title.startswith("ridge, effect_pearson: skill 0.") for title in titles)
    assert not reader.find_elements(By.CSS_SELECTOR, ".figure :is(script, style, a, metadata)")
    ids = reader.execute_script("return [...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids)) > 1000
    reader.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    entry = next(item for item in browser.visible(reader, ".item") if "effect_pearson" in item.text.split("\n")[0])
    for button in entry.find_elements(By.CSS_SELECTOR, "button.download"):
        reader.execute_script("arguments[0].click()", button)
        suffix = button.get_attribute("data-suffix")
        WebDriverWait(reader, browser.SECONDS).until(lambda _, end=suffix: list(tmp_path.glob(f"*.{end}")))
    (svg,), (png,), (tsv,) = (list(tmp_path.glob(f"*.{suffix}")) for suffix in ("svg", "png", "tsv"))
    assert svg.read_bytes() == (run.folder / "dataset0" / "scores_effect_pearson.svg").read_bytes()
    assert Image.open(png).width > 1000
    numbers = pd.read_csv(tsv, sep="\t")
    assert set(numbers["method"]) == set(METHODS)
    assert set(numbers["metric"]) == {"effect_pearson"}
    assert browser.complaints(reader) == []


def test_a_table_sorts_numbers_filters_and_is_saved_in_full(reader, run, tmp_path):
    browser.go_to(reader, "Scores")
    for table in browser.visible(reader, ".item table"):
        reader.execute_script("arguments[0].scrollIntoView()", table)
    browser.go_to(reader, "Verdict")
    browser.draw_everything(reader)
    entry = browser.visible(reader, ".item:has(table)")[0]
    header = {cell.text: cell for cell in entry.find_elements(By.CSS_SELECTOR, "thead th")}
    position = list(header).index("difference")
    reader.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", header["difference"])
    values = [float(row.split("\t")[position]) for row in _rows(reader, entry)]
    assert not _ascend(values)
    header["difference"].click()
    _until_rows(reader, entry, lambda rows: _ascend([float(row.split("\t")[position]) for row in rows]))
    search = entry.find_element(By.CSS_SELECTOR, "input[type=search]")
    search.send_keys("zero-shot")
    _until_rows(reader, entry, lambda rows: rows and all("scgpt-zero-shot" in row for row in rows))
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.DELETE)
    reader.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    button = entry.find_element(By.CSS_SELECTOR, "button.download")
    reader.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    end = time.monotonic() + browser.SECONDS
    while not list(tmp_path.glob("*verdicts.tsv")) and time.monotonic() < end:
        time.sleep(0.05)
    (saved,) = tmp_path.glob("*verdicts.tsv")
    assert saved.read_bytes() == (run.folder / "verdicts.tsv").read_bytes()


def _ascend(values: list[float]) -> bool:
    return values == sorted(values)


def _until_rows(reader, entry, condition) -> None:
    """A table is drawn again a moment after what asks for it."""
    WebDriverWait(reader, browser.SECONDS, 0.05).until(lambda _: condition(_rows(reader, entry)))


def _rows(reader, entry) -> list[str]:
    cells = "(row) => [...row.cells].map((cell) => cell.textContent).join('\\t')"
    script = f"return [...arguments[0].querySelectorAll('tbody tr')].map({cells})"
    return reader.execute_script(script, entry)


def test_the_keyboard_is_enough(reader):
    browser.go_to(reader, "Start")
    reader.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reader.find_element(By.CSS_SELECTOR, "header nav a").send_keys("")
    for _ in range(3):
        reader.switch_to.active_element.send_keys(Keys.TAB)
    assert reader.switch_to.active_element.text == "Perturbations"
    reader.switch_to.active_element.send_keys(Keys.ENTER)
    browser.until(reader, "return !document.getElementById('perturbations').hidden")
    reader.find_element(By.CSS_SELECTOR, ".skip").send_keys(Keys.ENTER)
    browser.until(reader, "return document.activeElement.id === 'perturbations'")
    browser.draw_everything(reader)
    table = browser.visible(reader, ".item table thead th")
    table[1].find_element(By.CSS_SELECTOR, "[tabindex='0'], button").send_keys(Keys.ENTER)
    browser.until(reader, "return arguments[0].getAttribute('aria-sort') === 'ascending'", table[1])
    reader.back()
    browser.until(reader, "return !document.getElementById('start').hidden")


def test_the_start_page_names_no_page_that_is_not_there(tmp_path):
    links = "".join(f'<li><a href="#{name}">{name}</a></li>' for name in ("verdict", "start", "print"))
    page.write([], f'<h1>Start</h1><ul class="next">{links}</ul>', tmp_path / "report.html")
    with browser.chromium(tmp_path / "profile", 1280) as driver:
        browser.open_report(driver, tmp_path / "report.html")
        assert [link.text for link in browser.visible(driver, ".next a")] == ["start", "print"]


def test_ten_thousand_rows_are_sorted_and_searched(page_of, tmp_path):
    rows = 10_000
    table = pd.DataFrame(
        {"perturbation": [f"GENE{i}" for i in range(rows)], "ridge": [(i * 7919) % rows / rows for i in range(rows)]}
    )
    write_table(table, tmp_path / "perturbations.tsv")
    driver = page_of(page.Item(tmp_path / "perturbations.tsv", "Perturbations", "big", {"table": "all"}, ""))
    browser.go_to(driver, "Perturbations")
    browser.draw_everything(driver)
    driver.find_elements(By.CSS_SELECTOR, "thead th")[1].click()
    browser.until(driver, "return document.querySelector('tbody td.number').textContent === '0.0000'")
    driver.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("GENE9999")
    browser.until(driver, "return document.querySelectorAll('tbody tr').length === 1")
    assert driver.find_element(By.CSS_SELECTOR, "tbody td").text == "GENE9999"


def _on_paper(driver, script):
    """What a script returns where the page looks as on paper: of its width, with its style."""
    paper = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    found = driver.execute_script(script)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper | {"width": 1280})
    return found


def test_print_has_every_row_figure_and_limit(run, report, tmp_path):
    """What a reader has not scrolled to is printed too, and what was folded is folded again afterwards."""
    rows = pd.DataFrame({"perturbation": [f"GENE{i}" for i in range(60)]})
    write_table(
        rows.assign(**{f"a long name of a method {i}": np.arange(60) / (i + 60) for i in range(20)}),
        tmp_path / "wide.tsv",
    )
    items = [*run.items, page.Item(tmp_path / "wide.tsv", "Perturbations", DATASETS[0], {"table": "wide"}, "")]
    page.write(items, run.start, tmp_path / "report.html")
    with browser.chromium(tmp_path / "profile", 1280) as driver:
        browser.open_report(driver, tmp_path / "report.html")
        browser.go_to(driver, "Perturbations")
        browser.draw_everything(driver)
        driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        parts = browser.visible(driver, ".item:has([aria-labelledby]) .printed table")
        wide = [table for table in parts if "long name" in table.text]
        assert len(wide) > 1
        assert all(len(table.find_elements(By.CSS_SELECTOR, "tbody tr")) == 60 for table in wide)
        assert all(table.text.startswith("perturbation") for table in wide)
        widths = "return [...document.querySelectorAll('.printed table')].map((table) => table.offsetWidth)"
        assert 500 < max(_on_paper(driver, widths)) < 718
        assert not browser.visible(driver, ".dt-container")
        driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
        assert not browser.visible(driver, ".printed")
        assert browser.visible(driver, ".dt-container")
        browser.go_to(driver, "Start")
        folded = "#start details"
        driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        assert all(details.get_attribute("open") for details in browser.visible(driver, folded))
        driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
        assert not any(details.get_attribute("open") for details in browser.visible(driver, folded))
        driver.get((tmp_path / "report.html").resolve().as_uri() + "#print")
        assert len(browser.visible(driver, "main > section")) == len(CATEGORIES) + 1
        assert len(browser.visible(driver, ".item")) == len(items)
        browser.until(driver, "return !document.querySelector('.figure:not([data-ready])')")
        scores = pd.read_csv(run.folder / "scores.tsv", sep="\t")
        assert _rows_of_parts(driver, "#scores") == [sum(scores["metric"] == "effect_pearson")]
        assert not _on_paper(driver, "return document.querySelector('#scores .printed a').checkVisibility()")
        # Wider than paper, Chromium would print everything smaller.
        assert _on_paper(driver, "return document.documentElement.scrollWidth") <= 718
        assert browser.complaints(driver) == []


def _show_everything(driver):
    driver.execute_script("location.hash = '#print'")
    browser.until(driver, "return document.documentElement.classList.contains('everything')")


def _rows_of_parts(driver, page_of_report):
    parts = browser.visible(driver, f"{page_of_report} .printed table")
    return [len(table.find_elements(By.CSS_SELECTOR, "tbody tr")) for table in parts]


def test_print_says_which_rows_of_a_long_table_it_leaves_out_and_has_them_on_demand(page_of, tmp_path):
    metrics = ["effect_pearson", *(f"metric{i}" for i in range(60))]
    scores = pd.DataFrame(
        [(method, metric, 0.5) for method in ("knn", "ridge", "additive", "gears") for metric in metrics]
    )
    write_table(scores.set_axis(["method", "metric", "mean"], axis=1), tmp_path / "scores.tsv")
    write_table(pd.DataFrame({"perturbation": [f"GENE{i}" for i in range(300)]}), tmp_path / "cells.tsv")
    driver = page_of(
        page.Item(tmp_path / "scores.tsv", "Scores", None, {"table": "scores"}, ""),
        page.Item(tmp_path / "cells.tsv", "Data", None, {"table": "cells"}, ""),
    )
    _show_everything(driver)
    assert _rows_of_parts(driver, "#scores") == [4]
    assert _rows_of_parts(driver, "#data") == [300]
    said = browser.visible(driver, "#scores .printed .note")[0]
    assert said.text.startswith("Printed: 4 of 244 rows, those of metric effect_pearson. All rows are in ")
    assert str(tmp_path / "scores.tsv") in said.text
    said.find_element(By.TAG_NAME, "a").click()
    browser.until(driver, "return location.hash.endsWith('?metric=')")
    assert _rows_of_parts(driver, "#scores") == [244]


def test_a_row_of_a_printed_table_can_be_told_apart_in_every_part_of_it(page_of, tmp_path):
    """Later parts repeat the columns that name a row, and leave out rows that have nothing there."""
    long = [(method, metric) for method in ("knn", "ridge") for metric in ("mse", "mae")]
    rows = [(*names, *[str(number) + "x" * 40] * 4) for number, names in enumerate(long)]
    table = pd.DataFrame(rows, columns=["method", "metric", *"abcd"]).assign(
        reason=["", ("one seed " * 9).strip(), "", ""]
    )
    write_table(table, tmp_path / "verdicts.tsv")
    driver = page_of(page.Item(tmp_path / "verdicts.tsv", "Verdict", None, {"table": "verdicts"}, ""))
    _show_everything(driver)
    parts = [part.text for part in browser.visible(driver, "#verdict .printed table")]
    assert len(parts) > 1
    assert all(part.startswith("method metric ") for part in parts)
    assert parts[-1].split("\n", 1)[1].replace("\n", " ") == "knn mae " + table["reason"][1]


def test_firefox_shows_every_page_and_keeps_choices(report, tmp_path):
    chosen = "document.querySelector('section:not([hidden]) [name={}]')"
    pending = "[...document.querySelectorAll(':is(.figure, .table, .view):not([data-ready])')]"
    pending += ".filter((element) => element.checkVisibility())"
    with firefox.firefox(tmp_path / "profile") as driver:
        driver.open(report.resolve().as_uri() + "#start?metric=mse_unbiased")
        for width in (1280, 400):
            driver.resize(width)
            for category in ("start", *map(str.lower, CATEGORIES)):
                driver.value(f"document.querySelector('header [data-page={category}]').click()")
                driver.until(f"!document.getElementById('{category}').hidden")
                assert driver.value("document.documentElement.scrollWidth <= innerWidth"), category
                driver.until(f"{{ const left = {pending}; left[0]?.scrollIntoView(); !left.length }}")
                assert driver.value("document.documentElement.scrollWidth <= innerWidth"), category
        driver.value("document.querySelector('header [data-page=scores]').click()")
        driver.until("!document.getElementById('scores').hidden")
        assert driver.value(f"{chosen.format('metric')}.value") == "mse_unbiased"
        assert driver.value("document.querySelector('#scores .figure title').textContent.length > 10")
        driver.value("history.back()")
        driver.until("document.getElementById('scores').hidden")
        assert driver.complaints == []


def test_the_checks_find_what_is_wrong(page_of, tmp_path):
    table = pd.DataFrame({"a": [1.5, 2.5]})
    write_table(table, tmp_path / "a.tsv")
    caption = '<p style="color:#ddd">faint</p><script>window.ran = true</script>'
    driver = page_of(page.Item(tmp_path / "a.tsv", "Data", None, {"table": "a"}, caption))
    browser.go_to(driver, "Data")
    browser.draw_everything(driver)
    assert any("color-contrast" in entry for entry in browser.accessibility_violations(driver))
    driver.execute_script("fetch('https://example.org').catch(() => 0); new Image().src = 'https://example.org/x.png'")
    browser.until(driver, "return true")
    time.sleep(0.3)
    complaints = browser.complaints(driver)
    assert sum("Content Security Policy" in message for message in complaints) >= 3
    assert driver.execute_script("return window.ran") is None


def test_two_builds_differ_in_the_time_stamp_only(run, report):
    time.sleep(1.1)
    again = run.write(run.folder / "again.html").read_text().splitlines()
    once = report.read_text().splitlines()
    assert len(once) == len(again)
    different = [line for line, other in zip(once, again, strict=True) if line != other]
    assert all("<time>" in line for line in different)
    assert len(different) == 1


def test_nothing_is_left_where_a_table_cannot_be_read(run, tmp_path):
    broken = tmp_path / "broken.svg"
    shutil.copy(run.folder / "verdicts.tsv", broken)
    with pytest.raises(Exception, match="syntax error"):
        page.write([page.Item(broken, "Data", None, {}, "")], "", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == [broken]
