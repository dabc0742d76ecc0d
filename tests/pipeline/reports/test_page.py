"""The report's page in a real browser: it loads, sorts and shows, and runs nobody else's script."""

import base64
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import HOSTILE_CLASSES
from PIL import Image

from pipeline.reports.build import report


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, with every request and console line kept."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[test]'")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--force-prefers-reduced-motion",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(browser, hostile_run):
    """The hostile run's page, opened, with what it logged and asked for."""
    report(hostile_run)
    browser.get((hostile_run / "report.html").as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    return SimpleNamespace(browser=browser, asked=asked, logged=browser.get_log("browser"), folder=hostile_run)


def column(browser, number):
    return browser.execute_script(
        f"return [...document.querySelectorAll('#heads tbody tr')].map(row => row.children[{number}].dataset.v)"
    )


def test_loads_without_error_network_or_foreign_script(page):
    assert page.logged == []
    assert page.asked and all(url.startswith(("file:", "data:")) for url in page.asked)
    assert page.browser.execute_script("return window.hacked") is None
    assert page.browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    shown = page.browser.execute_script("return [...document.querySelectorAll('.legend bdi')].map(e => e.textContent)")
    assert sorted(shown) == sorted(HOSTILE_CLASSES)
    page.browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s)"
    )
    assert page.browser.execute_script("return window.hacked") is None  # the policy, were escaping to fail
    page.browser.get_log("browser")


def test_sorts_by_click_and_by_key(page):
    from selenium.webdriver.common.keys import Keys

    buttons = page.browser.find_elements("css selector", "#heads thead button")
    titles = [button.text for button in buttons]
    log_loss = titles.index("Log loss")
    buttons[log_loss].click()
    values = [float(each) for each in column(page.browser, log_loss + 1)]  # the column of intervals has no button
    assert values == sorted(values) and len(set(values)) > 1
    buttons[log_loss].send_keys(Keys.ENTER)
    assert [float(each) for each in column(page.browser, log_loss + 1)] == values[::-1]
    states = page.browser.execute_script(
        "return [...document.querySelectorAll('#heads th[aria-sort]')].map(e => e.ariaSort)"
    )
    assert states.count("descending") == 1 and states[log_loss] == "descending"
    buttons[0].click()
    assert column(page.browser, 0) == ["knn", "logistic", "majority"]


def test_shows_the_head_that_is_picked(page):
    page.browser.execute_script("arguments[0].click()", page.browser.find_element("css selector", "tr[data-row='1'] a"))
    visible = [each.is_displayed() for each in page.browser.find_elements("css selector", ".panel")]
    assert visible == [False, True, False]
    on = page.browser.find_elements("css selector", ".curve.on")
    assert [each.get_attribute("data-head") for each in on] == ["1", "1"]


def test_shows_the_image_under_the_pointer_and_by_arrow_keys(page):
    from selenium.webdriver import ActionChains, Keys

    points = json.loads(page.browser.execute_script("return document.querySelector('#map-data').textContent"))
    marks = page.browser.find_elements("css selector", "#points use[data-class]")
    svg, tip = (page.browser.find_element("css selector", each) for each in ("#points", "#tip"))
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", svg)
    for number in (0, len(points) - 1):
        ActionChains(page.browser, duration=0).move_to_element(marks[number]).perform()
        assert tip.is_displayed()
        image = tip.find_element("css selector", "img")
        shown = next(point for point in points if point["path"] == image.get_attribute("alt"))
        assert np.hypot(*np.subtract(shown["at"]["t-SNE"], points[number]["at"]["t-SNE"])) < 5  # or one that covers it
        assert image.get_attribute("src") == shown["image"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["image"].split(",")[1])))).mean(axis=(0, 1))
        blue = shown["label"] == HOSTILE_CLASSES[0]
        assert (pixels[2] > pixels[0]) == blue and shown["path"] in tip.text
    seen = set()
    for key in (Keys.ESCAPE, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_DOWN):
        svg.send_keys(key)
        seen.add(page.browser.find_element("css selector", "#here").get_attribute("textContent"))
    assert len(seen - {""}) > 1
    assert page.browser.execute_script("return window.hacked") is None and page.browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_dark(page, scheme):
    page.browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        assert page.browser.execute_script("return document.documentElement.scrollWidth") == 390
        back, text = page.browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map(c => c.match(/\\d+/g).map(Number))"
        )
        assert (sum(back) > sum(text)) == (scheme == "light") and abs(sum(back) - sum(text)) > 450
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
