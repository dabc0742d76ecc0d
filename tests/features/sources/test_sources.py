"""Where labelled images come from: order, splits and clear errors."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import draw, draw_tree

from features.errors import CachedFeaturesError, SourceError
from features.images.decoding import decode
from features.images.image_spec import ImageSpec
from features.sources.cifar10 import read_cifar10
from features.sources.load import load_source, source_name
from features.sources.source import make_source
from features.splits import SPLITS, stratified_folds, stratified_split


def test_rows_are_sorted_by_path_whatever_the_folder_lists_first(tree, monkeypatch):
    expected = load_source(str(tree))
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: _Reversed(real(path)))
    assert load_source(str(tree)).paths == expected.paths == tuple(sorted(expected.paths))


class _Reversed:
    def __init__(self, entries):
        self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

    def __enter__(self):
        return iter(self.entries)

    def __exit__(self, *exception):
        pass


def test_the_time_of_a_source_grows_with_its_rows_and_not_with_its_classes_too(tmp_path):
    number = 40_000
    began = time.process_time()
    source = make_source("made", tmp_path, [(f"{n}.png", f"class {n // 2}", "val") for n in range(number)])
    counts = source.counts()
    assert time.process_time() - began < 3  # seconds; it was many times that when each row looked through all classes
    for row in (0, number - 1):
        assert source.class_names[source.labels[row]] == f"class {int(source.paths[row].removesuffix('.png')) // 2}"
    assert set(counts["val"].values()) == {2} and set(counts["test"].values()) == {0}


def test_given_splits_are_kept_and_validation_is_val(tmp_path):
    source = load_source(str(draw_tree(tmp_path, {"train": 3, "validation": 2, "test": 1})))
    assert source.class_names == ("blue", "red")
    assert source.counts() == {split: {"blue": n, "red": n} for split, n in (("train", 3), ("val", 2), ("test", 1))}
    assert "the folder validation is read as val" in source.notes


def test_missing_splits_are_cut_stratified_and_the_same_every_time(tmp_path):
    draw_tree(tmp_path, {"x": 20}, splits=False)
    source = load_source(str(tmp_path))
    assert source.counts() == {split: {"blue": n, "red": n} for split, n in (("train", 12), ("val", 3), ("test", 5))}
    np.testing.assert_array_equal(source.splits, load_source(str(tmp_path)).splits)
    assert (source.splits != load_source(str(tmp_path), seed=1).splits).any()


def test_missing_val_alone_is_cut_from_train(tmp_path):
    source = load_source(str(draw_tree(tmp_path, {"train": 10, "test": 4})))
    assert {split: sum(rows.values()) for split, rows in source.counts().items()} == {"train": 16, "val": 4, "test": 8}


def test_folds_are_stratified_and_keep_copies_together():
    strata, keys = np.repeat([0, 1, 2], [50, 25, 3]), [f"{n // 2}" for n in range(78)]
    folds = stratified_folds(strata, keys, 5, seed=3)
    for number in range(0, 50, 2):
        assert folds[number] == folds[number + 1]
    assert np.bincount(folds[:50]).tolist() == [10] * 5
    # Three images of a stratum, one of which has its copy in another, do not all fill the first folds.
    assert len(set(folds[75:])) == 2 and np.ptp(np.bincount(folds)) <= 4
    np.testing.assert_array_equal(folds, stratified_folds(strata, keys, 5, seed=3))
    assert (folds != stratified_folds(strata, keys, 5, seed=4)).any()


def test_split_is_stratified_and_keeps_copies_together():
    strata, keys = np.repeat([0, 1], [40, 80]), [str(row // 2) for row in range(120)]
    chosen = stratified_split(strata, keys, 0.25, seed=3)
    assert abs(chosen[:40].sum() - 10) <= 1 and abs(chosen[40:].sum() - 20) <= 1
    assert (chosen[::2] == chosen[1::2]).all()


def test_limit_keeps_proportions(tmp_path):
    source = load_source(str(draw_tree(tmp_path, {"train": 20, "val": 10, "test": 10})), limit=20)
    assert {split: sum(rows.values()) for split, rows in source.counts().items()} == {"train": 10, "val": 5, "test": 5}
    assert abs((source.labels == 0).sum() - 10) <= 1


def test_csv_with_and_without_splits(tmp_path):
    lines = []
    for number in range(12):
        name, label = f"images/{number:02d}.png", ("b", "a")[number % 2]
        draw(tmp_path / name, number)
        lines.append(f"{name},{label},{('train', 'validation', 'test')[number // 2 % 3]}")
    (tmp_path / "with.csv").write_text("path,label,split\n" + "\n".join(lines))
    (tmp_path / "without.csv").write_text("path,label\n" + "\n".join(line.rsplit(",", 1)[0] for line in lines))
    source = load_source(str(tmp_path / "with.csv"))
    assert source.class_names == ("a", "b") and source.labels.tolist() == [1, 0] * 6
    assert source.splits.tolist() == [SPLITS[("train", "val", "test")[row // 2 % 3]] for row in range(12)]
    assert sum(load_source(str(tmp_path / "without.csv")).counts()["test"].values()) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns path,label"),
        ("file,label\na.png,x\n", "path missing"),
        ("path,label\na.png,\nb.png,y\nb.png,\n", r":2 must .* 2 of 3 lines give no label \(line 2, 4\)"),
        ("path,label\n,x\nb.png,y\n", "1 of 2 lines give no path"),
        ("path,label\na.png,x,y\nb.png,y\n", ":2 must have 2 fields, as the first line has; got 3"),
        ("path,label,label\na.png,x,y\n", "label is there twice"),
        ("path,label,a/b,a_b\na.png,x,1,2\n", "'a_b' is kept as 'a_b', too"),
        ('path,label\na.png,"x\nb.png,y\n', "unexpected end of data"),
        ("path,label\n" + "".join(f"{n}.png,{n}.5\n" for n in range(9)), "9 different labels for 9 rows, .*classifies"),
        ("path,label\n" + "".join(f"{n}.png,{n // 2 / 3}\n" for n in range(2, 9)), "4 different labels for 7 rows"),
        ("path,label\na.png,x\nb.png,y\nnone.png,y\n", "line 4: none.png"),
        ("path,label\na.png,x\nb.png,y\n./a.png,y\n", r":4 names a.png again \(first in line 2\), as y and not x"),
        ("path,label,split\na.png,x,train\na.png,x,test\n", "as x test and not x train"),
        ("path,label,split\na.png,x,train\nb.png,y,extra\n", "got 'extra'"),
        ("path,label,split\na.png,x,train\nb.png,y,\n", "on every line or on none"),
        ("path,label\na.png,x\nb.png,x\n", "only one class"),
        ("path,label\n", "holds no images"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, text, message):
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, 0)
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        load_source(str(tmp_path / "m.csv"))


def test_csv_that_is_not_utf8(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(SourceError, match="UTF-8"):
        load_source(str(tmp_path / "m.csv"))


@pytest.mark.parametrize(
    ("counts", "message"),
    [({}, "holds no images"), ({"train": 2, "val": 1, "test": 1, "extra": 1}, "mixes the splits")],
)
def test_folder_errors(tmp_path, counts, message):
    (tmp_path / "photos").mkdir()
    draw_tree(tmp_path / "photos", counts or {"x": 0})
    with pytest.raises(SourceError, match=message):
        load_source(str(tmp_path / "photos"))


def test_one_class_and_missing_class(tmp_path):
    draw(tmp_path / "one/cats/a.png", 0)
    with pytest.raises(SourceError, match="only one class"):
        load_source(str(tmp_path / "one"))
    root = draw_tree(tmp_path / "two")
    for path in (root / "test/red").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="test has no image of 'red'"):
        load_source(str(root))
    assert load_source(str(root), allow_missing_classes=True).counts()["test"] == {"blue": 4, "red": 0}


def test_nothing_there():
    with pytest.raises(SourceError, match=r"folder, a \.csv or \.tsv file or one of cifar10, elpv; got 'elpw'"):
        load_source("elpw")


def test_links_out_of_the_tree_are_not_followed(tree, tmp_path):
    outside = draw(tmp_path / "elsewhere/secret.png", 99)
    (tree / "train/red/link.png").symlink_to(outside)
    (tree / "train/red/inside.png").symlink_to("train000.png")
    (tree / "train/folder").symlink_to(outside.parent)
    source = load_source(str(tree))
    reason = "symbolic link out of the source's folder"
    assert source.rejected == (("train/folder", reason), ("train/red/link.png", reason))
    assert "train/red/inside.png" in source.paths


def test_hostile_tree_is_listed_as_expected(shared, tmp_path):
    subprocess.run([sys.executable, shared / "hostile/make_extra.py", tmp_path], check=True)
    source = load_source(str(tmp_path / "images"), allow_missing_classes=True)
    for entry in json.loads((shared / "hostile/expected.json").read_text(encoding="utf-8")):
        considered = entry["path"].removeprefix("images/") in source.paths
        assert considered == (entry["outcome"] != "ignore"), entry["path"]
    assert source.class_names == ("cats", "dogs", "only_broken")


def test_elpv_is_the_published_benchmark():
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    source = load_source("elpv")
    # Counted in the package's labels.csv by awk: 2,624 cells, 821 of them with a probability above 0.5.
    assert len(source) == 2624 and source.class_names == ("defective", "functional")
    assert (source.labels == 0).sum() == 821
    assert set(source.columns["type"]) == {"mono", "poly"} and source.columns["probability"][3] == "0.0"
    shares = [np.bincount(source.strata[source.splits == split], minlength=4) for split in (0, 1, 2)]
    np.testing.assert_allclose(shares[2] / sum(shares), 0.25, atol=0.002)
    np.testing.assert_allclose(shares[1] / (shares[0] + shares[1]), 0.2, atol=0.002)


def test_cifar10_comes_from_keras_once_and_is_a_folder(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    made = [(random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n)[:, None] % 10) for n in (80, 30)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    read_cifar10(lambda: made)
    source = load_source("cifar10")
    assert source.class_names[:2] == ("airplane", "automobile") and len(source) == 110
    assert {split: sum(rows.values()) for split, rows in source.counts().items()} == {
        "train": 60,
        "val": 20,
        "test": 30,
    }
    row = source.paths.index("test/dog/00005.png")
    np.testing.assert_array_equal(decode(source.file(row).read_bytes(), ImageSpec(32)), made[1][0][5])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    with pytest.raises(SourceError, match=r"CIFAR-10 is not available .*name a folder of the images: data"):
        load_source("cifar10")


def test_every_error_ends_in_a_remedy(tmp_path):
    with pytest.raises(CachedFeaturesError) as caught:
        load_source(str(tmp_path / "none"))
    assert str(caught.value).endswith(f"ls {tmp_path}")


def test_a_source_is_called_by_its_folder_or_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.2024").mkdir()
    (tmp_path / "list.v2.csv").touch()
    names = {
        each: source_name(each) for each in ("cells.2024", "./cells.2024/", "list.v2.csv", "elpv", "gone/list.csv")
    }
    assert list(names.values()) == ["cells.2024", "cells.2024", "list.v2", "elpv", "list"]
