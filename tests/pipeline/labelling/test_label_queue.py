"""A queue of images to label: what it prefers, the page on which they are labelled, and its replay."""

import csv
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, draw, draw_tree
from samples import provenance_of, rows_of, write_store

import pipeline
from features import FeatureStore, extract
from features.errors import RequestError, SourceError
from pipeline.cli.commands import main
from pipeline.evaluation.metrics import find_metric
from pipeline.labelling import replayed_queue
from pipeline.labelling.label_budget import told_gain
from pipeline.labelling.queue import doubt, order_queue, typicality

sys.path.insert(0, str(ROOT / "tests/pipeline/reports"))
from test_page import browser as browser


def directions(*angles):
    return np.column_stack([np.cos(angles), np.sin(angles)])


def test_the_queue_prefers_doubt_and_is_diverse():
    sure, unsure = [0.99, 0.01], [0.55, 0.45]
    unit = directions(0.5, 0.51, 0.52, 1.0, 1.01, 1.02)
    chances = np.array([unsure, unsure, sure, unsure, unsure, sure])
    first, second = order_queue(chances, unit, directions(0.0), 2)
    assert first in (3, 4) and second in (
        0,
        1,
    )  # farther from what is labelled; then the other group, not its neighbour
    assert sorted(order_queue(chances, unit, directions(0.0), 10)) == list(range(6))
    np.testing.assert_allclose(doubt(chances[:3]), [0.9, 0.9, 0.02])


def test_an_outlier_is_not_typical():
    random = np.random.default_rng(0)
    X = random.normal(0, 0.1, (50, 8)) + 1
    X[7] = random.normal(0, 1, 8)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert typicality(unit).argmin() == 7
    assert 7 not in order_queue(np.full((50, 2), 0.5), unit, unit[:1], 10)


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("queue")
    pipeline.train_head(tiny_store, "logistic", out=folder / "run")
    for number in range(12):
        draw(folder / f"new/{number}, odd.png", 500 + number, ((20, 20, 120), (120, 20, 20))[number % 2])
    (folder / "new/broken.png").write_bytes(b"no image")
    return folder


def test_a_queue_is_written_and_features_are_computed_once(run, tmp_path, capsys, said, monkeypatch):
    given = ["next", "--run", str(run / "run"), str(run / "new"), "-n", "5", "--json", "--out", str(run / "queue")]
    assert main(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 12 and len(told["queue"]) == 5 and len(told["skipped"]) == 1
    with open(run / "queue/queue.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["path"] for line in lines] == [each["path"] for each in told["queue"]]
    assert all(Path(line["path"]).is_file() and 0 <= float(line["margin"]) <= 1 for line in lines)
    predicted = pipeline.predict(run / "run", [line["path"] for line in lines]).predictions
    assert [each.class_name for each in predicted] == [line["predicted"] for line in lines]
    np.testing.assert_allclose(
        [each.novelty for each in predicted], [float(line["novelty"]) for line in lines], rtol=1e-3
    )
    again = pipeline.label_next(run / "run", run / "new", 5, out=run / "again")
    assert [each.path for each in again.queue] == [line["path"] for line in lines]
    assert any("13, of which the features of 12 are kept" in line for line in said)
    main(["next", "--run", str(run / "run"), str(run / "new"), "-n", "5", "--out", str(run / "told")])
    following = capsys.readouterr().err.splitlines()[-1].split()
    assert following[:2] == ["cached-features", "extract"] and following[4:6] == ["--add", "labels.csv"]
    page = (run / "told/queue.html").read_text().replace("<span>", "").replace("</span>", "")
    assert f">{' '.join(following)}</code>" in page
    monkeypatch.chdir(run / "new")
    above = pipeline.label_next(run / "run", "../new", 5, out=run / "above")
    assert [each.path for each in above.queue] == [line["path"] for line in lines]
    with pytest.raises(RequestError, match="n must be at least 1; got 0"):
        pipeline.label_next(run / "run", run / "new", 0)
    with pytest.raises(SourceError, match=r"none of 1 is.*broken\.png"):
        pipeline.label_next(run / "run", run / "new/broken.png", out=run / "none")


def test_images_are_labelled_by_keys_and_extract_takes_the_table_on(run, browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    pipeline.label_next(run / "run", run / "new", 6, out=run / "page")
    browser.get((run / "page/queue.html").as_uri())
    body = browser.find_element("tag name", "body")
    shown = [browser.find_element("id", "path").text]
    for key in ("1", "2", "s", "1"):
        body.send_keys(key)
        shown.append(browser.find_element("id", "path").text)
    body.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.find_element("id", "path").text == shown[2]
    browser.find_element("css selector", "[data-class=red]").click()
    assert "4 of 6 labelled" in browser.find_element("id", "done").text
    table = browser.execute_script("return labelTable()")
    browser.execute_script("saved = true")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    (tmp_path / "labels.csv").write_text(table)
    names = [(line["path"], line["label"]) for line in csv.DictReader(table.splitlines())]
    assert names == [(shown[0], "blue"), (shown[1], "red"), (shown[2], "red"), (shown[3], "blue")]
    done = extract(
        str(tmp_path / "labels.csv"), backbone="tiny", out=tmp_path / "s.h5", allow_missing_classes=True, batch_size=4
    )
    with FeatureStore(done.path) as store:
        assert len(store) == 4 and store.rows.class_names == ("blue", "red")


def test_labels_of_a_store_with_groups_are_added_by_the_command_that_is_told(browser, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw_tree(tmp_path / "photos", {"x": 30}, splits=False)
    for number in range(4):
        draw(tmp_path / f"new/{number}.jpeg", 900 + number)
    grouped = ["--column", r"digit=(\d)\.png", "--group", "digit"]
    assert main(["extract", "photos", "--backbone", "tiny", "--out", "s.h5", *grouped]) == 0
    assert main(["train-head", "s.h5", "--head", "nearest-mean", "--out", "run"]) == 0
    assert main(["next", "run", "new", "-n", "4", "--out", "queue"]) == 0
    told = shlex.split(capsys.readouterr().err.splitlines()[-1])
    browser.get((tmp_path / "queue/queue.html").as_uri())
    assert "<code>digit</code>, by which images are grouped" in (tmp_path / "queue/queue.html").read_text()
    browser.find_element("tag name", "body").send_keys("1", "2", "1")
    table = browser.execute_script("saved = true; return labelTable()")
    (tmp_path / "labels.csv").write_text(table)
    lines = list(csv.DictReader(table.splitlines()))
    assert len(lines) == 3 and all(line["digit"] == line["path"] for line in lines)
    assert main(told[1:]) == 0
    assert "3 of 63 images to compute" in capsys.readouterr().err


def test_a_replay_tells_what_the_queue_saves_or_that_it_does_not_pay(tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, narrow in (("border", True), ("noise", False)):
        angle = random.uniform(0, 1.5, 900)
        y = (angle > 0.75 if narrow else random.random(900) < 0.5).astype(
            np.int32
        )  # labels far from the border tell little
        X = np.column_stack([3 * np.cos(angle), 3 * np.sin(angle), random.exponential(0.1, (900, 6))]).astype(
            np.float32
        )
        splits = np.repeat([0, 1, 2], [500, 100, 300]).astype(np.uint8)
        store = write_store(
            tmp_path / f"{name}.h5", {"x": X}, rows_of(y, splits, 2), provenance_of({"x": (8,)}, "float32")
        )
        pipeline.train_head(store, "logistic", out=tmp_path / name)
    assert main(["next", "--run", str(tmp_path / "border"), "--replay", "--draws", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gain_interval"][0] > 0 and found["saved_interval"][0] <= found["saved"] <= 160
    assert "would have saved" in found["words"] and len(found["queue"]) == 8 and found["labels"][-1] == 180
    found = pipeline.replay_queue(tmp_path / "noise", draws=4, seed=1)
    assert "does not pay here" in found.words
    assert main(["next", "--run", str(tmp_path / "border"), "--draws", "4", "x"]) == 2
    assert "--draws must go with --replay" in capsys.readouterr().err
    assert main(["next", "--run", str(tmp_path / "border"), "--replay", "-n", "4"]) == 2
    with pytest.raises(RequestError, match="draws must be at least 3; got 2"):
        pipeline.replay_queue(tmp_path / "noise", draws=2)


def test_a_replay_has_the_images_labels_and_groups_of_the_run(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    angle = random.uniform(0, 1.5, 900)
    X = np.column_stack([3 * np.cos(angle), 3 * np.sin(angle), random.exponential(0.1, (900, 6))]).astype(np.float32)
    rows = rows_of((angle > 0.75).astype(np.int32), np.repeat([0, 1, 2], [500, 100, 300]).astype(np.uint8), 2)
    rows.columns["patient"] = tuple(str(number // 10) for number in range(900))
    store = write_store(tmp_path / "s.h5", {"x": X}, rows, provenance_of({"x": (8,)}, "float32"))
    with open(tmp_path / "c.csv", "w") as file:
        file.write("sha256,old,verdict,new\n")
        for row in range(40):
            old, verdict = int(rows.labels[row]), "drop" if row < 20 else "change"
            file.write(f"{rows.sha256[row].tobytes().hex()},{old},{verdict},{1 - old}\n")
    options = {"corrections": tmp_path / "c.csv", "group": "patient", "metric": "log_loss"}
    run = pipeline.train_head(store, "logistic", **options, out=tmp_path / "run")
    real, taken = replayed_queue.take_sample, []
    monkeypatch.setattr(replayed_queue, "take_sample", lambda *given: taken.append(given) or real(*given))
    found = pipeline.replay_queue(run.out, draws=3)
    features, held, *_, group = taken[0]
    assert group == "patient" and len(held) == 880 and len(features.X) == 880
    np.testing.assert_array_equal(held.labels[:20], 1 - rows.labels[20:40])
    assert found.metric == "log_loss" and " less" in found.words and "points" not in found.words


def test_a_gain_is_told_in_points_or_in_the_unit_of_a_metric_that_falls():
    assert told_gain(find_metric("accuracy"), 0.03, (-0.012, 0.048)) == "+3.0 [-1.2, 4.8] points"
    assert told_gain(find_metric("accuracy"), -0.03, (-0.048, -0.012)) == "-3.0 [-4.8, -1.2] points"
    assert told_gain(find_metric("log_loss"), 0.03, (0.012, 0.048)) == "0.030 [0.012, 0.048] less"
