"""Groups from a source to its store, and from there to every split and fold of heads."""

import json
import shlex
import shutil

import numpy as np
import pytest
from conftest import assert_same_stores, draw, draw_tree
from samples import provenance_of, rows_of, write_store

import pipeline
from features import FeatureStore, RequestError, extract
from features.splits import SPLITS
from features.store.provenance import Origin
from pipeline.cli.commands import main
from pipeline.data.training_data import Features, Part
from pipeline.evaluation.significance import agresti_coull
from pipeline.reports.build import report
from pipeline.training.fits.fitting import fit_head, take_sample
from pipeline.training.request import Fitting, Request
from pipeline.training.splitting import draw_splits, with_groups


def grouped_rows(seed, number=45):
    """Return rows of groups of many sizes, some of whose images are copies of others of any class and group."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(number), random.integers(1, 12, number))
    y = np.where(random.random(len(groups)) < 0.8, groups % 3, random.integers(0, 3, len(groups))).astype(np.int32)
    splits = np.resize(np.repeat([0, 0, 1, 2], 5), len(y)).astype(np.uint8)
    rows = rows_of(y, splits, 3)
    for row in random.integers(len(y), size=4):
        rows.sha256[row] = rows.sha256[random.integers(len(y))]
    rows.columns["patient"] = tuple(f"p{group:02d}" for group in groups)
    return rows


def features_of(rows):
    """Return features by which classes can be told."""
    X = np.random.default_rng(0).random((len(rows), 3), np.float32)
    X[np.arange(len(rows)), rows.labels] += 1
    return Features(X, (3,), 1, (Part("layer", "avg"),))


def are_whole(rows, sides):
    """Tell whether all images of a patient, and all copies of an image, are on one side."""
    keys = [*rows.columns["patient"], *(key.tobytes() for key in rows.sha256)]
    of_key = {}
    for key, side in zip(keys, np.tile(sides, 2).tolist(), strict=True):
        of_key.setdefault(key, set()).add(side)
    return all(len(held) == 1 for held in of_key.values())


@pytest.mark.parametrize("seed", range(10))
def test_drawn_splits_and_all_folds_keep_groups_and_copies_on_one_side(seed):
    rows = grouped_rows(seed)
    drawn = draw_splits(rows, 3, seed, "patient")
    assert len({split.tobytes() for split in drawn}) == 3
    for split, again in zip(drawn, draw_splits(rows, 3, seed, "patient"), strict=True):
        assert are_whole(rows, split)
        np.testing.assert_array_equal(split, again)
        assert all(set(split[rows.labels == label]) == {0, 1, 2} for label in range(3))
        learn = split != SPLITS["test"]
        sample = take_sample(features_of(rows), rows, learn, split == SPLITS["val"], seed, "patient")
        sides = np.full(len(rows), 9)
        sides[learn] = sample.folds
        assert are_whole(rows, sides)
    assert not are_whole(rows, draw_splits(rows, 2, seed)[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_head_is_calibrated_on_whole_groups(seed):
    """Every mask on which scikit-learn's estimator is fitted or scores, for settings and for sigmoids."""
    rows, masks = grouped_rows(seed), []

    class Watched(Features):
        def of(self, images):
            masks.append(images)
            return super().of(images)

    split = draw_splits(rows, 2, seed, "patient")[0]
    features = Watched(**vars(features_of(rows)))
    learn = np.flatnonzero(split != SPLITS["test"])
    fit_head("nearest-mean", features, rows, split, Fitting(seed, group="patient"))
    pairs = [mask for mask in masks if len(mask) == len(learn)]
    assert len(pairs) > 5
    for mask in pairs:
        sides = np.full(len(rows), 9)
        sides[learn] = mask
        assert are_whole(rows, sides)


def test_too_few_groups_are_refused():
    rows = grouped_rows(0)
    rows.columns["patient"] = tuple("ab"[int(label == 1)] for label in rows.labels)
    with pytest.raises(
        RequestError, match=r"at least 3 groups .patient. for 3 splits; got '0' in 1, '1' in 1, '2' in 1"
    ):
        draw_splits(rows, 2, 0, "patient")
    everything = np.ones(len(rows), bool)
    with pytest.raises(RequestError, match=r"at least 2 groups .patient. for 2 folds"):
        take_sample(features_of(rows), rows, everything, ~everything, 0, "patient")


def test_a_class_of_copies_alone_is_told_of(tmp_path, caplog):
    """Ten copies of one image: extract refuses, drawing splits warns."""
    for number in range(12):
        draw(tmp_path / "photos/a" / f"{number}.png", number)
    draw(tmp_path / "photos/b/0.png", 99)
    for number in range(1, 10):
        shutil.copy(tmp_path / "photos/b/0.png", tmp_path / f"photos/b/{number}.png")
    with pytest.raises(
        RequestError, match=r"(val|test) has no image of 'b' \('b' is 1 different of 10: copies stay in one split\)"
    ):
        extract(str(tmp_path / "photos"), backbone="tiny", out=tmp_path / "s.h5")
    y, splits = np.repeat([0, 1], [12, 10]).astype(np.int32), np.resize([0, 0, 1, 2], 22).astype(np.uint8)
    rows = rows_of(y, splits, 2)
    draw_splits(rows, 3, 0)
    assert not caplog.records
    rows.sha256[12:] = rows.sha256[12]
    assert all((split[y == 1] == SPLITS["train"]).all() for split in draw_splits(rows, 3, 0))  # where it is of most use
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["1 has 10 images but only 1 different"]


@pytest.fixture
def write(tmp_path):
    """Return what extracts 40 images of ten patients, in two classes; one image of each patient is there twice."""
    lines = ["path,label,patient"]
    for number in range(40):
        name = f"{number:02d}.png"
        if number % 4 == 3:
            shutil.copy(tmp_path / f"{number - 1:02d}.png", tmp_path / name)
        else:
            draw(tmp_path / name, number, ((20, 20, 120), (120, 20, 20))[number // 4 % 2])
        lines.append(f"{name},{'ab'[number // 4 % 2]},p{number // 4}")
    (tmp_path / "m.csv").write_text("\n".join(lines))

    def write(out="s.h5", **options):
        return extract(str(tmp_path / "m.csv"), backbone="tiny", batch_size=5, out=tmp_path / out, **options)

    return write


def test_a_store_is_split_by_group_anew_without_a_pass(write, tmp_path):
    with FeatureStore(write().path) as store:
        rows = store.rows
        assert (rows.splits[2::4] == rows.splits[3::4]).all() and not are_whole(rows, rows.splits)
        fingerprint = store.made.spec.fingerprint
    assert write(group="patient").computed == 0
    write("fresh.h5", group="patient")
    assert_same_stores(tmp_path / "s.h5", tmp_path / "fresh.h5")
    with FeatureStore(tmp_path / "s.h5") as store:
        assert are_whole(store.rows, store.rows.splits) and store.made.origin.group == "patient"
        assert store.made.spec.fingerprint == fingerprint
    before = (tmp_path / "s.h5").stat().st_ino
    write(group="patient")
    assert (tmp_path / "s.h5").stat().st_ino == before
    assert write().computed == 0
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.origin.group is None


def test_the_group_of_a_store_with_given_splits_is_kept(write, tmp_path):
    lines = (tmp_path / "m.csv").read_text().splitlines()
    split = [("train", "val", "test")[number // 8 % 3] for number in range(40)]
    given = [f"{line},{side}" for line, side in zip(lines[1:], split, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join([f"{lines[0]},split", *given]))
    write()
    assert write(group="patient").computed == 0
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.origin.group == "patient"


def test_copies_are_in_one_split_whatever_their_names_and_classes(tmp_path):
    for number in range(40):
        draw(tmp_path / f"photos/a/{number}.png", number)
        target = tmp_path / f"photos/{'ab'[number % 2]}/copy{number}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / f"photos/a/{number}.png", target)
    with FeatureStore(extract(str(tmp_path / "photos"), backbone="tiny", out=tmp_path / "s.h5").path) as store:
        rows, sides = store.rows, {}
        for key, split in zip(rows.sha256, rows.splits, strict=True):
            sides.setdefault(key.tobytes(), set()).add(int(split))
        assert len(sides) == 40 and all(len(held) == 1 for held in sides.values())


def test_heads_take_the_group_of_the_store_or_the_one_asked_for(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(group="patient").path
    compared = pipeline.compare(path, ["logistic", "majority"], repeats=2, out="runs/c")
    assert {head["group"] for head in compared.heads} == {"patient"}
    trained = pipeline.train_head(path, "logistic", out="runs/h")
    assert trained.group == "patient" and json.loads((tmp_path / "runs/h/run.json").read_text())["group"] == "patient"
    assert pipeline.probe(path, repeats=2, out="runs/p").layers[0]["group"] == "patient"
    assert "of a split that keeps whole groups (<bdi>patient</bdi>) on one side" in report("runs/h").path.read_text()
    report("runs/c")
    plain = write().path
    assert pipeline.train_head(plain, "logistic", out="runs/plain").group is None
    capsys.readouterr()
    assert main(["train-head", "--store", str(plain), "--group", "patient"]) == 2
    told = capsys.readouterr().err
    assert "must keep each patient in one split" in told and "--group patient" in told
    assert main(["compare", "--store", str(plain), "--group", "patient", "--heads", "majority", "--repeats", "2"]) == 0
    told = capsys.readouterr().err
    assert "groups   10 of patient" in told and "--group patient" in told.partition("next")[2]
    assert main(["compare", "--store", str(plain), "--group", "patent", "--repeats", "2"]) == 2
    assert "--group must be one of patient; got 'patent'" in capsys.readouterr().err


def test_a_store_without_columns_names_the_command_that_gives_it_one(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", str(tree), "--backbone", "tiny", "--out", "s.h5"]) == 0
    capsys.readouterr()
    assert main(["compare", "s.h5", "--heads", "majority", "--group", "series"]) == 2
    (line,) = (each for each in capsys.readouterr().err.splitlines() if each.startswith("error"))
    asked = line.rpartition("nothing is computed again: cached-features ")[2]
    assert main([each.replace("PATTERN", r"(\d+)\.png") for each in shlex.split(asked)]) == 0
    assert "0 of 32 images to compute" in capsys.readouterr().err
    assert main(["compare", "s.h5", "--heads", "majority", "--group", "series", "--repeats", "3"]) == 0
    assert "groups   8 of series" in capsys.readouterr().err
    extract(tree, backbone="tiny", out="plain.h5")
    with pytest.raises(RequestError, match=r"features\.extract\(.*column=\{'series': 'PATTERN'\}\)"):
        pipeline.compare("plain.h5", "majority", group="series")


def test_the_commands_after_a_comparison_by_groups_that_the_store_breaks_can_be_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw_tree(tmp_path / "photos", {"x": 30}, splits=False)
    assert main(["extract", "photos", "--backbone", "tiny", "--out", "s.h5", "--column", r"digit=(\d)\.png"]) == 0
    capsys.readouterr()
    assert main(["compare", "s.h5", "--heads", "majority,nearest-mean", "--group", "digit", "--repeats", "3"]) == 0
    told = capsys.readouterr().err
    assert "split    s.h5 breaks groups of digit" in told and "fewer than 6 can hardly tell heads apart" in told
    first, second, _ = (shlex.split(each)[1:] for each in told.partition("next     ")[2].splitlines())
    assert first[0] == "extract" and second[0] == "train-head"
    assert main(first) == main(second) == 0
    assert "0 of 60 images to compute" in capsys.readouterr().err
    assert main(["compare", "s.h5", "--heads", "majority", "--group", "digit", "--repeats", "3"]) == 0
    assert "breaks groups" not in capsys.readouterr().err


def test_a_grouped_comparison_has_the_intervals_of_whole_groups(write, tmp_path):
    path = write(group="patient").path
    (head,) = pipeline.compare(path, ["majority"], out=tmp_path / "runs/c").heads
    run = pipeline.train_head(path, "majority", out=tmp_path / "runs/h")
    with FeatureStore(path) as store:
        n_test = int(np.sum(store.rows.splits == SPLITS["test"]))
    assert head["accuracy_interval"] == list(run.intervals["accuracy"])
    assert head["accuracy_interval"] != list(agresti_coull(head["accuracy"], n_test))  # that of as many separate images


def test_a_fit_by_another_group_is_not_taken_from_the_cache(write, tmp_path):
    """On the same split, where only the folds of selection differ."""
    path = write(group="patient", column={"number": r"(\d+)\.png"}).path
    options = {"heads": ["logistic"], "settings": {"C": (0.001, 1.0)}}
    found = [
        pipeline.compare(path, **options, group=group, out=tmp_path / f"runs/{group}").heads[0]["group"]
        for group in ("patient", "number")
    ]
    assert found == ["patient", "number"]


def test_a_store_of_an_earlier_version_has_no_group(tmp_path):
    rows = grouped_rows(0)
    made = provenance_of({"last": (3,)})
    told = {**made.to_json(), "source": {"kind": "folder", "data": "d", "root": "/d", "limit": None}}
    assert type(made).from_json(told, "s.h5").origin == Origin("folder", "d", "/d")
    values = {"last": features_of(rows).X.astype(np.float16)}
    with FeatureStore(write_store(tmp_path / "s.h5", values, rows, made)) as store:
        assert with_groups(store, Request("s.h5")).group is None
