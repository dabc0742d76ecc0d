"""What a run's tables and arrays do with what strangers wrote."""

import csv
import json

import numpy as np
import pytest
from samples import rows_of

import pipeline
from features.errors import RequestError
from features.safefiles.csv_cells import path_cell, text_cell
from features.store.schema import Rows
from pipeline.data.near_copies import NearCopies
from pipeline.leakage.exposure import write_clusters
from pipeline.runs.predictions import load_predictions, save_predictions, write_predictions


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_a_formula(begin, tmp_path):
    y, splits = np.array([0, 1, 1]), np.array([0, 1, 2], np.uint8)
    made = rows_of(y, splits, 2)
    names = (f"{begin}cmd|' /C calc'!A0", "dog")
    rows = Rows(names, (f"{begin}1.jpg", "b/2.jpg", "3.jpg"), y, splits, y, made.views, made.sha256)
    write_predictions(tmp_path / "p.csv", rows, np.array([[0.9, 0.1]]), np.array([[0.8, 0.2], [0.3, 0.7]]))
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == [f"./{begin}1.jpg", "b/2.jpg", "3.jpg"]
    assert [row["label"] for row in table] == [f"'{names[0]}", "dog", "dog"]
    assert [row["predicted"] for row in table] == [f"'{names[0]}", "dog", f"'{names[0]}"]
    assert path_cell("a=b.jpg") == "a=b.jpg" and text_cell("cat-dog") == "cat-dog"


def test_no_cell_of_groups_begins_a_formula(tmp_path):
    y, splits = np.array([0, 1, 1]), np.array([0, 1, 2], np.uint8)
    made = rows_of(y, splits, 2)
    rows = Rows(
        ("=a", "b"),
        ("=1.jpg", "2.jpg", "3.jpg"),
        y,
        splits,
        y,
        made.views,
        made.sha256,
        columns={"site": ("+1", "@x", "y")},
    )
    write_clusters(tmp_path, rows, NearCopies(np.arange(3), None))
    lines = (tmp_path / "groups.csv").read_text().splitlines()
    assert lines[1:] == ["./=1.jpg,'=a,'+1,./=1.jpg", "2.jpg,b,'@x,2.jpg", "3.jpg,b,y,3.jpg"]


def test_predictions_decide_as_the_run_does(tiny_store, tmp_path):
    run = pipeline.train_head(tiny_store, "logistic", out=tmp_path / "run", cost="red:blue=1000000")
    threshold = run.operating_point["threshold"]
    with open(tmp_path / "run/predictions.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {row["predicted"] for row in table} <= {"red", "blue"}
    for row in table:
        assert (row["predicted"] == "red") == (float(row["p(red)"]) >= threshold - 1e-6)


@pytest.fixture
def saved(tmp_path):
    """A folder with predictions, and what they are."""
    y = np.array([0, 1, 0, 1])
    rows = rows_of(y, np.array([0, 0, 2, 2], np.uint8), 2)
    save_predictions(
        tmp_path, rows, [rows.splits], {"h": [{"settings": {}}]}, {"h": [np.array([[0.9, 0.1], [0.2, 0.8]])]}
    )
    return tmp_path


def test_predictions_of_an_earlier_version_are_read(saved):
    before = load_predictions(saved)
    with np.load(saved / "predictions.npz") as file:
        held = {name: file[name] for name in file}
    np.savez_compressed(saved / "predictions.npz", **held)
    after = load_predictions(saved)
    np.testing.assert_array_equal(after.probabilities["h"][0], before.probabilities["h"][0])
    assert after.rows.paths == before.rows.paths and after.told == before.told


def test_predictions_that_unpack_to_gigabytes_are_refused(saved):
    with np.load(saved / "predictions.npz") as file:
        held = {name: file[name] for name in file}
    held["probabilities/0/0"] = np.zeros((2, 40 << 20), np.float32)  # 320 MB, and 300 kB in the file
    np.savez_compressed(saved / "predictions.npz", **held)
    with pytest.raises(RequestError, match=r"cannot be read \(.*is compressed or encrypted"):
        load_predictions(saved)


def test_predictions_that_are_something_else_are_one_clear_error(saved):
    with np.load(saved / "predictions.npz") as file:
        held = {name: file[name] for name in file}
    changes = {"told": np.array(json.dumps([1])), "columns": np.array("{"), "rows/labels": np.array([None])}
    for name, value in changes.items():
        np.savez(saved / "predictions.npz", **{**held, name: value})
        with pytest.raises(RequestError, match="cannot be read"):
            load_predictions(saved)
