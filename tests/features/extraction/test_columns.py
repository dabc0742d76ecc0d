"""Columns of a source in its store: kept by row, changed without a pass."""

import h5py
import numpy as np
import pytest
from conftest import assert_same_stores, draw

from features import FeatureStore, RequestError, StoreError, extract, plan_cost
from pipeline.runs.predictions import load_predictions, save_predictions


@pytest.fixture
def write(tmp_path):
    """Return what writes a CSV file of 32 images, changed where asked, and extracts it."""
    for number in range(32):
        draw(tmp_path / f"images/{number:02d}.png", number)

    def write(out="s.h5", columns="patient,site", change=lambda number, texts: texts, **options):
        lines = [f"path,label,{columns}".rstrip(",")]
        for number in range(32):
            texts = (f"images/{number:02d}.png", "ab"[number % 2], f"p{number // 4}", "Köln" if number % 8 else "")
            lines.append(",".join(change(number, texts)[: len(lines[0].split(","))]))
        (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
        return extract(str(tmp_path / "m.csv"), backbone="tiny", batch_size=5, out=tmp_path / out, **options)

    return write


def test_every_view_of_an_image_has_its_columns_and_plain_h5py_reads_them(write, tmp_path):
    done = write(views=2, augment="hflip", column={"number": r"(\d+)\.png"})
    with FeatureStore(done.path) as store:
        rows, images = store.rows, store.rows.images()
        assert rows.columns["number"][:4] == ("00", "00", "01", "01") and len(rows.columns["site"]) == 64
        assert images.columns["patient"] == tuple(f"p{number // 4}" for number in range(32))
        assert store.describe()["columns"] == {
            "number": {"values": 32, "examples": ["00", "01", "02"]},
            "patient": {"values": 8, "examples": ["p0", "p1", "p2"]},
            "site": {"values": 2, "examples": ["", "Köln"]},
        }
    with h5py.File(done.path) as file:
        assert file["rows/columns/site"].asstr()[2] == "Köln"


@pytest.mark.parametrize(
    "changed",
    [
        {"change": lambda number, texts: (texts[0], "ba"[number % 2], *texts[2:])},
        {"change": lambda number, texts: (*texts[:2], "p9" if number == 31 else texts[2], texts[3])},
        {"columns": ""},
        {"columns": "patient"},
        {"columns": "person,site"},
        {"column": {"number": r"(\d+)\.png"}},
    ],
    ids=["label", "value", "none", "one less", "renamed", "by pattern"],
)
@pytest.mark.parametrize("layout", ["file", "parts"])
def test_other_labels_or_columns_cost_no_pass(write, tmp_path, changed, layout, monkeypatch):
    write(layout=layout)
    with monkeypatch.context() as patch:
        patch.setattr("features.extraction.run.compute", None)  # would be called for a single image
        assert write(layout=layout, **changed).computed == 0
    write("fresh.h5", layout=layout, **changed)
    assert_same_stores(tmp_path / "s.h5", tmp_path / "fresh.h5")
    before = (tmp_path / "s.h5").stat()
    assert write(layout=layout, **changed).computed == 0
    assert (tmp_path / "s.h5").stat().st_ino == before.st_ino


def test_a_store_without_columns_is_read_as_one_that_has_none(write, tmp_path):
    write(columns="")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file["rows/columns"]
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.rows.columns == {} and store.describe()["columns"] == {}
    before = (tmp_path / "s.h5").stat().st_ino
    write(columns="")
    assert (tmp_path / "s.h5").stat().st_ino == before


def test_a_column_that_was_added_by_others_is_damage(write, tmp_path):
    write()
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["rows/columns/short"] = np.array([b"x"])
    with pytest.raises(StoreError, match="rows/columns/short does not match its digest"):
        FeatureStore(tmp_path / "s.h5")


def test_columns_are_kept_with_predictions(write, tmp_path):
    write()
    with FeatureStore(tmp_path / "s.h5") as store:
        rows = store.rows
    save_predictions(tmp_path, rows, [rows.splits], {"h": [{}]}, {"h": [np.zeros((1, 2))]})
    assert load_predictions(tmp_path).rows.columns == rows.columns


def test_the_command_line_takes_patterns_by_name(write, tmp_path, capsys):
    from pipeline.cli.commands import main

    write()
    data = ["extract", "--data", str(tmp_path / "m.csv"), "--backbone", "tiny", "--out", str(tmp_path / "s.h5")]
    assert main([*data, "--batch-size", "5", "--column", r"first=images/(\d)", "--column", "last=.[.]"]) == 0
    assert main(["inspect", str(tmp_path / "s.h5")]) == 0
    said = capsys.readouterr().out
    assert "column   first: 4 different values, such as '0', '1', '2'" in said and "column   last: 10 different" in said
    for wrong in (["--column", "first"], ["--column", "a=b", "--column", "a=c"]):
        assert main([*data, *wrong]) == 2
        assert "--column must be like NAME=PATTERN, once for each name" in capsys.readouterr().err


def test_the_cost_of_a_pass_takes_the_same_options(write, tmp_path):
    write()
    options = {"backbone": "tiny", "rate": 10}
    assert plan_cost(str(tmp_path / "m.csv"), column={"n": r"\d"}, **options).images == 32
    with pytest.raises(RequestError, match="patient is one of the source"):
        plan_cost(str(tmp_path / "m.csv"), column={"patient": r"\d"}, **options)
