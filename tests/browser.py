"""Headless Chromium for the tests of the report: no network, nothing kept, every message of the console seen."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from selenium_axe_python import Axe

import needs

ARGUMENTS = [
    *["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"],
    *["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"],
]
SECONDS = 60  # that a slow machine may take for what takes one


@contextmanager
def chromium(profile: Path, width: int, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A browser of this size with the network off and an empty profile; needs Chromium."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(programs.values()):
        needs.missing("no chromium and chromium-driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver
    finally:
        driver.quit()


def open_report(driver: webdriver.Chrome, path: Path) -> None:
    driver.get(path.resolve().as_uri())


def until(driver: webdriver.Chrome, script: str, *arguments: object) -> object:
    """What ``script`` returns, once it is true."""
    return WebDriverWait(driver, SECONDS, 0.05).until(lambda d: d.execute_script(script, *arguments))


def categories(driver: webdriver.Chrome) -> list[str]:
    return [link.text for link in driver.find_elements(By.CSS_SELECTOR, "header nav a")]


def go_to(driver: webdriver.Chrome, category: str) -> None:
    driver.execute_script("window.scrollTo(0, 0)")
    driver.find_element(By.LINK_TEXT, category).click()
    until(driver, "return !document.getElementById(arguments[0]).hidden", category.lower().replace(" ", "-"))


def draw_everything(driver: webdriver.Chrome) -> None:
    """Have every figure and table of what is shown drawn, as scrolling through it would."""
    until(
        driver,
        """
        const pending = [...document.querySelectorAll('.group:not([hidden]) .item:not([hidden])')].filter((item) =>
          item.checkVisibility() && item.querySelector(':is(.figure, .table, .view):not([data-ready])'));
        if (pending.length) pending[0].scrollIntoView();
        return !pending.length;
        """,
    )


def visible(driver: webdriver.Chrome, selector: str) -> list:
    return [element for element in driver.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


def pixels(element) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the console says, of any level."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requested(driver: webdriver.Chrome) -> set[str]:
    """The schemes of every address that a report asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return {entry["request"]["url"].split(":")[0] for entry in sent if entry["documentURL"].startswith("file:")}


def accessibility_violations(driver: webdriver.Chrome) -> list[str]:
    """What axe-core finds wrong with what is shown: contrast, names, alternative texts, order, landmarks.

    Within a figure, which is one image with a text for those who cannot see it, thousands of shapes are left out.
    """
    axe = Axe(driver)
    axe.inject()
    found = axe.run(context={"exclude": [[".figure svg"]]})["violations"]
    return [f"{entry['id']}: {[node['html'][:150] for node in entry['nodes'][:3]]}" for entry in found]


def assert_answered_in_twenty_seconds(driver: webdriver.Chrome, *pictures: str) -> None:
    """The first 900 pixels hold the answer, the pictures (selectors of their rows), and the lines of what limits it."""
    assert driver.execute_script("return scrollY") == 0
    for selector in ("#start .answer", *pictures, "#start .limits summary"):
        shown = driver.find_elements(By.CSS_SELECTOR, selector)
        assert shown, selector
        ends = [each.rect["y"] + each.rect["height"] for each in shown]
        assert all(each.is_displayed() for each in shown), selector
        assert max(ends) <= 900, f"{selector}: {ends}"
