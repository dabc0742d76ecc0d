"""An operating point is chosen without the test rows, kept with the run, and used by all that comes after."""

import json

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features.errors import RequestError
from pipeline.cli.commands import main
from pipeline.runs.trained_run import load_trained


def store_of(path, change=lambda y, test: y, seed=0):
    """Write a store of 300 rows of two classes, one in ten of the second; `change` changes the labels of the test rows."""
    random = np.random.default_rng(seed)
    y = (np.arange(300) % 10 == 0).astype(np.int32)
    X = random.normal(y[:, None] * 0.8, 1, (300, 6)).astype(np.float32)
    splits = np.repeat([0, 1, 2], [150, 50, 100]).astype(np.uint8)
    y[splits == 2] = change(y[splits == 2], splits == 2)
    return write_store(path, {"x": X}, rows_of(y, splits, 2), provenance_of({"x": (6,)}, "float32"))


@pytest.mark.parametrize("head", ["logistic", "linear-svm"])
@pytest.mark.parametrize("aim", [{"threshold": "balanced_accuracy"}, {"sensitivity": 0.8}, {"cost": "1:0=20"}])
def test_the_labels_of_the_test_rows_change_neither_settings_nor_threshold(head, aim, tmp_path):
    runs = []
    for name, change in (("a", lambda y, test: y), ("b", lambda y, test: 1 - y)):
        store = store_of(tmp_path / f"{name}.h5", change)
        runs.append(pipeline.train_head(store, head, metric="balanced_accuracy", out=tmp_path / name, **aim))
    one, two = (run.operating_point for run in runs)
    assert runs[0].settings == runs[1].settings and runs[0].tried == runs[1].tried
    assert one["threshold"] == two["threshold"] and one["out_of_fold"] == two["out_of_fold"]
    assert one["positive"] == "1" and one["test"]["positives"] == 10 and two["test"]["positives"] == 90
    assert runs[0].operating_point["test"] != runs[1].operating_point["test"]
    assert one["out_of_fold"]["sensitivity"] > runs[0].by_class[1]["recall"]  # of the likeliest class, mostly missed


def test_a_run_keeps_its_point_and_the_command_line_tells_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store_of(tmp_path / "s.h5")
    given = ["train-head", "--store", "s.h5", "--out", "r"]
    assert main([*given, "--sensitivity", "0.8", "--positive", "0"]) == 0
    said = capsys.readouterr()
    assert "0 is" in said.err and "--metric balanced_accuracy" in said.err  # nine in ten are of one class
    told = json.loads((tmp_path / "r/run.json").read_text())["operating_point"]
    assert told["positive"] == "0" and told["chosen_for"] == "sensitivity 0.8"
    assert f"0 from probability {told['threshold']:.6g} on, else 1 (chosen for sensitivity 0.8)" in said.out
    assert f"| sensitivity | {told['test']['sensitivity']:.3f} [" in said.out
    point, chances = load_trained("r").point, np.array([[0.999, 0.001], [0.0, 1.0]])
    assert point.to_json() == {**told, "test": point.test} and list(load_trained("r").decide(chances)) == [0, 1]
    assert main([*given, "--overwrite", "--sensitivity", "0.8", "--threshold", "mcc"]) == 2
    assert "got --threshold and --sensitivity" in capsys.readouterr().err
    with pytest.raises(RequestError, match=r"metric must be one of .*; got 'auc'"):
        pipeline.train_head("s.h5", "logistic", metric="auc")


@pytest.fixture(scope="module")
def pointed(tiny_store, tmp_path_factory):
    """A run on the tiny store that calls next to nothing red."""
    out = tmp_path_factory.mktemp("pointed") / "r"
    pipeline.train_head(tiny_store, "logistic", cost="blue:red=1e9", out=out)
    return out


def test_predictions_follow_the_point(pointed, tiny_store, tmp_path):
    """A blue image that is called red costs a thousand million times as much as the opposite."""
    folder = tiny_store.parent / "photos/test"
    found = pipeline.predict(pointed, [folder]).predictions
    trained = load_trained(pointed)
    assert len(found) == 8
    for each in found:
        blue = each.probabilities["blue"]
        assert each.class_name == ("blue" if blue >= trained.point.threshold else "red")
        assert each.probability == each.probabilities[each.class_name]
        assert each.margin == pytest.approx(2 * each.probability - 1)
    assert trained.point.threshold < 0.5 and trained.point.out_of_fold["sensitivity"] == 1


def test_the_page_shows_the_point_and_the_figures_of_each_class(pointed, tmp_path):
    path = pipeline.report(pointed, out=tmp_path / "page.html").path
    html, told = path.read_text(encoding="utf-8"), json.loads((pointed / "run.json").read_text())
    assert "Operating point" in html and "cost 1e+09" in html
    low, high = told["operating_point"]["test"]["intervals"]["specificity"]
    assert f"[{low:.3f}, {high:.3f}]" in html
    for each in told["by_class"]:
        assert f"<bdi>{each['name']}</bdi></th><td>{each['support']}</td><td>{each['recall']:.3f}" in html


def test_an_exported_card_tells_how_to_decide(pointed, tmp_path):
    exported = pipeline.export(pointed, tmp_path / "m.keras")
    point = load_trained(pointed).point
    assert exported.card["operating_point"] == json.loads(json.dumps(point.to_json()))
    assert exported.card["decision"].startswith(f"blue from probability {point.threshold:.6g} on, else red")


def test_every_comparison_has_the_figures_of_each_class(tiny_store, tmp_path):
    one = pipeline.compare(tiny_store, ["majority"], out=tmp_path / "one").heads[0]["by_class"]
    assert [(each["name"], each["support"], each["recall"]) for each in one] == [("blue", 4, 1.0), ("red", 4, 0.0)]
    assert one[0]["recall_interval"] is not None and one[1]["precision"] is None
    many = pipeline.compare(tiny_store, ["majority"], repeats=3, out=tmp_path / "many").heads[0]["by_class"]
    assert [each["support"] for each in many] == [12, 12] and many[0]["recall_interval"] is None
    assert many[0]["precision"] == 0.5 and many[0]["f1"] == pytest.approx(2 / 3)


def test_an_operating_point_of_another_number_of_classes_is_refused(tmp_path):
    random = np.random.default_rng(0)
    y, splits = np.arange(60, dtype=np.int32) % 3, np.repeat([0, 1, 2], 20).astype(np.uint8)
    rows, X = rows_of(y, splits, 3), random.normal(size=(60, 4)).astype(np.float32)
    store = write_store(tmp_path / "s.h5", {"x": X}, rows, provenance_of({"x": (4,)}, "float32"))
    with pytest.raises(RequestError, match="sensitivity must be left out unless there are two classes; got 3: 0, 1, 2"):
        pipeline.train_head(store, "logistic", sensitivity=0.9, out=tmp_path / "r")
