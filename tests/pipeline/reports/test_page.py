"""The report's page in a real browser: it loads, sorts and shows, and runs nobody else's script."""

import base64
import csv
import io
import json
import shutil
import time
from types import SimpleNamespace

import pytest
from conftest import HOSTILE_CLASSES

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
    log_loss = titles.index("Log loss, nats")
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


def test_details_the_head_to_take_until_another_is_picked(page, monkeypatch):
    """The second best here, as if it were simpler than the best and not distinguishable from it."""
    monkeypatch.setattr("pipeline.reports.build.recommended", lambda heads: heads[1])
    page.browser.get(report(page.folder, out=page.folder / "second.html").path.as_uri())
    try:
        (told,) = page.browser.find_elements("css selector", "#pick option:checked")
        assert page.browser.find_element("css selector", "h1 .nowrap").text == told.text
        (visible,) = (each for each in page.browser.find_elements("css selector", ".panel") if each.is_displayed())
        assert visible.get_attribute("data-head") == told.get_attribute("value") == "1"
        on = page.browser.find_elements("css selector", ".curve.on")
        assert [each.get_attribute("data-head") for each in on] == ["1", "1"] and not page.browser.get_log("browser")
    finally:
        page.browser.get((page.folder / "report.html").as_uri())


def test_shows_the_head_that_is_picked(page):
    page.browser.execute_script("arguments[0].click()", page.browser.find_element("css selector", "tr[data-row='1'] a"))
    visible = [each.is_displayed() for each in page.browser.find_elements("css selector", ".panel")]
    assert visible == [False, True, False]
    on = page.browser.find_elements("css selector", ".curve.on")
    assert [each.get_attribute("data-head") for each in on] == ["1", "1"]


def test_shows_the_image_under_the_pointer_and_by_arrow_keys(page):
    from selenium.webdriver import ActionChains, Keys

    canvas, tip = (page.browser.find_element("css selector", each) for each in ("#points", "#tip"))
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    for number in (0, 32):
        x, y = page.browser.execute_script(
            "const c = arguments[0], [x, y] = data.at['t-SNE'][arguments[1]], u = c.clientWidth / 640;"
            "return [x * u - c.clientWidth / 2, y * u - c.clientHeight / 2]",
            canvas, number,
        )  # fmt: skip
        ActionChains(page.browser, duration=0).move_to_element_with_offset(canvas, round(x), round(y)).perform()
        assert tip.is_displayed()
        path = page.browser.execute_script("return data.path[data.points[arguments[0]]]", number)
        told = page.browser.find_element("css selector", "#tip-path").text
        near = page.browser.execute_script(
            "const k = data.points.findIndex((i) => data.path[i] === arguments[0]), [a, b] = data.at['t-SNE'][k],"
            "[x, y] = data.at['t-SNE'][arguments[1]]; return Math.hypot(a - x, b - y)", told, number)  # fmt: skip
        assert told == path or near < 5  # or one that covers it
        for _ in range(20):  # until its sheet is decoded
            pixels = page.browser.execute_script(
                "const c = document.querySelector('#tip-image'); return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 9, 9).data]"
            )
            if any(pixels):
                break
            time.sleep(0.05)
        red, blue = sum(pixels[::4]), sum(pixels[2::4])
        label = page.browser.find_element("css selector", "#tip-said").text
        assert (blue > red) == (HOSTILE_CLASSES[0].split()[0] in label)
    drawn = page.browser.execute_script(
        "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let k = 0; k < d.length; k += 4) n += Math.abs(d[k] - d[k + 2]) > 60 && d[k + 3] === 255; return n",
        canvas,
    )
    assert drawn > 33 * 15  # marks of two colours, on a background that hides what is behind the canvas
    seen = set()
    for key in (Keys.ESCAPE, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, "+", Keys.ARROW_UP, Keys.ARROW_DOWN, "0"):
        canvas.send_keys(key)
        seen.add(page.browser.find_element("css selector", "#here").get_attribute("textContent"))
    assert len(seen - {""}) > 1
    assert page.browser.execute_script("return window.hacked") is None
    assert [each for each in page.browser.get_log("browser") if each["level"] == "SEVERE"] == []


def counted(browser, which):
    """Return how many images a browser of images says that it has."""
    text = browser.find_element("css selector", f"#{which} .count").text
    return 0 if text == "none" else int(text.split(" of ")[1].replace(",", ""))


def test_a_cell_of_the_matrix_shows_its_images(page):
    page.browser.execute_script("pick(0)")
    for cell in page.browser.find_elements("css selector", ".panel:not([hidden]) button[data-true]"):
        count = int(cell.text.split()[0])
        page.browser.execute_script("arguments[0].click()", cell)
        assert counted(page.browser, "mistakes-browser") == count
        assert len(page.browser.find_elements("css selector", "#mistakes-browser .card")) == count
    page.browser.execute_script("document.querySelector('#mistakes-browser [type=reset]').click()")
    time.sleep(0.1)
    wrong = page.browser.execute_script(
        "return data.heads[0].predicted.filter((p, k) => p !== data.label[data.tested[k]]).length"
    )
    assert counted(page.browser, "mistakes-browser") == wrong


def test_filters_pages_and_saves(page, tmp_path):
    from selenium.webdriver.support.select import Select

    page.browser.execute_script("pick(2)")  # the baseline, which is wrong on half of the images
    root = page.browser.find_element("css selector", "#mistakes-browser")
    root.find_element("css selector", "[name=wrong]").click()
    everything = counted(page.browser, "mistakes-browser")
    Select(root.find_element("css selector", "[name=label]")).select_by_index(1)
    assert 0 < counted(page.browser, "mistakes-browser") < everything
    high = root.find_element("css selector", "[name=high]")
    high.clear()
    high.send_keys("1")
    assert counted(page.browser, "mistakes-browser") == 0
    assert not root.find_element("css selector", ".save").is_enabled()
    page.browser.execute_script("document.querySelector('#mistakes-browser [type=reset]').click()")
    time.sleep(0.1)
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    root.find_element("css selector", ".save").click()
    saved = tmp_path / "majority-test-images.csv"
    for _ in range(100):
        if saved.exists() and saved.stat().st_size:
            break
        time.sleep(0.05)
    with open(saved, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == counted(page.browser, "mistakes-browser") > 0
    assert all(row["label"].lstrip("'") in HOSTILE_CLASSES and row["label"] != row["predicted"] for row in rows)


def tab_to(browser, start, selector):
    """Press Tab from an element on until one is reached, which must show that it has the focus; return it."""
    from selenium.webdriver import ActionChains, Keys

    browser.execute_script("const e = document.querySelector(arguments[0]); e.tabIndex = -1; e.focus()", start)
    for _ in range(60):
        ActionChains(browser, duration=0).send_keys(Keys.TAB).perform()
        reached = browser.switch_to.active_element
        if browser.execute_script("return arguments[0].matches(arguments[1])", reached, selector):
            assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", reached) != "none"
            return reached
    raise AssertionError(f"Tab from {start} does not reach {selector}")


def test_images_are_chosen_by_keys_alone(page):
    from selenium.webdriver import Keys

    browser, shown = page.browser, "#mistakes-browser"
    browser.execute_script("pick(2)")
    cell = tab_to(browser, ".panel:not([hidden])", ".panel:not([hidden]) button[data-true]")
    count = int(cell.text.split()[0])
    cell.send_keys(Keys.ENTER)
    assert counted(browser, shown[1:]) == count
    tab_to(browser, shown, f"{shown} [type=reset]").send_keys(Keys.ENTER)
    time.sleep(0.1)
    wrong = counted(browser, shown[1:])
    tab_to(browser, shown, f"{shown} [name=wrong]").send_keys(Keys.SPACE)
    everything = counted(browser, shown[1:])
    assert everything > wrong
    tab_to(browser, shown, f"{shown} [name=label]").send_keys(Keys.ARROW_DOWN)
    assert 0 < counted(browser, shown[1:]) < everything
    assert tab_to(browser, shown, f"{shown} .save").is_enabled()
    tab_to(browser, shown, f"{shown} [type=reset]").send_keys(Keys.SPACE)
    time.sleep(0.1)
    assert counted(browser, shown[1:]) == wrong


def test_prints_all_columns_and_no_empty_page(page):
    pypdf = pytest.importorskip("pypdf", reason="the extra test is not installed")
    page.browser.execute_script("pick(0)")
    printed = page.browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pages = pypdf.PdfReader(io.BytesIO(base64.b64decode(printed["data"]))).pages
    texts = ["".join(each.extract_text().split()) for each in pages]
    whole = "".join(texts)
    for column in ("Accuracy", "95%interval", "Behind(p)", "MacroF1", "ROCAUC", "Logloss,nats", "Fit,s", "Predict,s"):
        assert column in whole, column
    assert "logistic" in texts[0] and all(texts[:-1])


def test_commands_break_between_words_alone_and_are_copied_as_one_line(page):
    width = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", width)
    try:
        words = """return [...document.querySelectorAll("pre .command span")].map(each => [each.textContent, each.offsetHeight])"""
        found = page.browser.execute_script(words)
        (height,) = {height for word, height in found if len(word) < 20}  # one line, also at a hyphen
        assert height < 40 and any(word == "head='logistic')" for word, _ in found)
        copied = """const range = document.createRange(); range.selectNodeContents(document.querySelector("pre .command"));
            getSelection().removeAllRanges(); getSelection().addRange(range); return getSelection().toString()"""
        line = page.browser.execute_script(copied)
        shown = page.browser.execute_script("return document.querySelector('pre .command').textContent")
        assert line == shown and line.startswith("pipeline.train_head(store=") and "\n" not in line
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_frames_that_scroll_say_so_on_a_phone(page):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        time.sleep(0.2)
        hint = page.browser.find_element("css selector", "#leaderboard .swipe")
        assert hint.is_displayed() and hint.text == "scrolls sideways →"
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


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


def test_class_names_never_break_inside_a_word(page):
    """On a phone, with a name that the widest column cannot hold in one line. Last, since names on the page are replaced."""
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        broken = page.browser.execute_script(BROKEN, "Streifenhörnchen, Meerschweinchen und Siebenschläfer")
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert broken.pop("seen") > 20 and broken == {}


# Gives all class names that are shown another text, and returns where a word of it stands on several lines.
BROKEN = """
const found = { seen: 0 };
const names = [...document.querySelectorAll(".matrix bdi, .legend bdi, .classes bdi, .counts bdi, .said bdi, .dim bdi")];
for (const name of names) name.textContent = arguments[0];
for (const name of names.filter((each) => each.checkVisibility())) {
  found.seen += 1;
  for (const word of arguments[0].matchAll(/[^ ]+/g)) {
    const range = document.createRange();
    range.setStart(name.firstChild, word.index);
    range.setEnd(name.firstChild, word.index + word[0].length);
    const lines = new Set([...range.getClientRects()].map((each) => Math.round(each.top)));
    if (lines.size > 1) found[name.closest("[class]").className + " " + name.closest("section").id] = word[0];
  }
}
return found;
"""
