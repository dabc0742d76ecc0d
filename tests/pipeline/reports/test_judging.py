"""Likely label errors are judged on the page, in a real browser, and the table it saves is applied."""

import pytest
from conftest import HOSTILE, draw
from test_page import browser as browser
from test_page import tab_to

import pipeline
from features import FeatureStore, extract
from pipeline.reports.build import report

NAMES = ("=sum(1)", HOSTILE)


@pytest.fixture(scope="module")
def judged(browser, tmp_path_factory):
    """A run on 60 images, three of them with the wrong label, and its page."""
    from features.backbones.registry import BACKBONES, Backbone

    folder = tmp_path_factory.mktemp("judged")
    lines = ["path,label"]
    for number in range(60):
        label = number % 2
        draw(folder / f"{number}.png", number, ((20, 20, 120), (120, 20, 20))[label])
        given = NAMES[label ^ (number in (4, 11, 20))].replace('"', '""')
        lines.append(f'{number}.png,"{given}"')
    (folder / "m.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Backbone("tiny", "Tiny", "last", 16, 8))
        extract(str(folder / "m.csv"), backbone="tiny", out=folder / "s.h5", batch_size=8)
    pipeline.train_head(folder / "s.h5", "logistic", out=folder / "r")
    report(folder / "r")
    browser.get((folder / "r/report.html").as_uri())
    return browser, folder


def test_what_is_judged_is_saved_and_applied(judged):
    browser, folder = judged
    cards = browser.find_elements("css selector", ".judged")
    shown = [card.get_attribute("data-path") for card in cards]
    assert set(shown) >= {"4.png", "11.png", "20.png"}
    save = browser.find_element("id", "save-verdicts")
    assert not save.is_enabled()
    for path, verdict in (("4.png", "change"), ("11.png", "drop"), ("20.png", "keep")):
        card = cards[shown.index(path)]
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", card)
        card.find_element("css selector", f"input[value={verdict}]").click()
    assert save.is_enabled() and f"3 of {len(cards)} images are judged" in browser.find_element("id", "verdicts").text
    browser.execute_script(
        "window.saved = null; URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return '#'; }"
    )
    save.click()
    text = browser.execute_async_script(
        "const done = arguments[0]; const look = () => window.saved === null ? setTimeout(look, 20) : done(window.saved); look();"
    )
    assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []
    assert "'=sum(1)" in text and text.splitlines()[0] == "sha256,old,verdict,new,path" and text.count("\n") == 4
    (folder / "corrections.csv").write_text(text)
    run = pipeline.train_head(
        folder / "s.h5", "logistic", corrections=folder / "corrections.csv", corrections_test=True, out=folder / "c"
    )
    assert run.corrections["changed"] == run.corrections["dropped"] == 1
    with FeatureStore(folder / "s.h5") as store:
        assert sum(sum(each.values()) for each in run.rows.values()) == len(store) - 1


def test_a_label_is_judged_by_keys_alone(judged):
    from selenium.webdriver import Keys

    browser, folder = judged
    browser.get((folder / "r/report.html").as_uri())
    tab_to(browser, ".judged", ".judged input").send_keys(Keys.SPACE)
    assert (
        "1 of " in browser.find_element("id", "verdicts").text
        and browser.find_element("id", "save-verdicts").is_enabled()
    )
