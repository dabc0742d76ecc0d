"""Predictions for new images are those of the evaluation, whatever the head, the file and the place they are read from."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, draw, draw_tree
from PIL import Image

import pipeline
from features import extract
from features.backbones.registry import BACKBONES
from features.backbones.weights import fingerprint_weights
from features.errors import RequestError, SourceError, UnsafeFile, WeightsError
from pipeline.cli.commands import main
from pipeline.deploy.prediction import find_images
from pipeline.deploy.predictor import predict
from pipeline.heads.registry import HEADS


def draw_odd(folder):
    """Write an EXIF-rotated, a CMYK and a 16-bit file into each class and split of a folder."""
    for number, place in enumerate(sorted(each for each in folder.glob("*/*") if each.is_dir())):
        image = Image.open(draw(place / "odd.png", 1000 + number, (10, 200 * (number % 2), 90)))
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(place / "rotated.jpg", exif=exif, quality=95)
        image.convert("CMYK").save(place / "cmyk.jpg", quality=95)
        Image.fromarray((np.asarray(image.convert("L"), np.uint16) * 257 - 90).clip(0)).save(place / "deep.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of odd files too, of two layers and views, and a run of every head on it."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        from features.backbones.registry import Backbone

        patch.setitem(BACKBONES, "tiny", Backbone("tiny", "Tiny", "last", 16, 8))
        patch.chdir(folder)
        draw_odd(draw_tree(folder / "photos"))
        options = {"layers": ("relu", "last"), "views": 2, "augment": "hflip", "batch_size": 6}
        extract("photos", backbone="tiny", out="s.h5", **options)
        for head in HEADS:
            pipeline.train_head("s.h5", head, layer="last,relu" if head in ("ridge", "vote") else None, out=head)
    return folder


def evaluation(run, split="test"):
    """Return path → (class, probabilities) of the rows that the run was evaluated on."""
    with open(run / "predictions.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return {
        row["path"]: (row["predicted"], [float(value) for name, value in row.items() if name.startswith("p(")])
        for row in rows
    }


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("head", sorted(HEADS))
def test_equals_the_evaluation_row_by_row(trained, tmp_path, monkeypatch, head, stored):
    run = trained / head
    if not stored:  # the run names its store by a path relative to itself, too
        run = shutil.copytree(run, tmp_path / "moved" / head)
    monkeypatch.chdir(trained if stored else tmp_path)
    check_predictions(run, predict(run, [trained / "photos/test"]), from_store=16 if stored else 0)


def check_predictions(run, predicted, from_store):
    """Compare predictions for 16 test photos with the run's evaluation of them."""
    expected = evaluation(run)
    assert len(predicted.predictions) == len(expected) == 16 and not predicted.skipped
    assert (predicted.from_store, predicted.computed) == (from_store, 16 - from_store)
    for each in predicted.predictions:
        name, chances = expected[each.path.split("photos/")[1]]
        assert each.class_name == name
        np.testing.assert_allclose(list(each.probabilities.values()), chances, atol=2e-6)
        first, second = sorted(each.probabilities.values())[::-1]
        assert each.probability == first and each.margin == pytest.approx(first - second)


@pytest.mark.real
@pytest.mark.parametrize("backbone", ["vgg16", "mobilenet_v2", "mobilenet_v3_large"])
def test_of_other_bases_too(trained, tmp_path, monkeypatch, backbone):
    """VGG16 with its own weights, the others with random ones from a file; the other heads are tried on the tiny base."""
    monkeypatch.chdir(tmp_path)
    options = {"image_size": 32, "engine": "tensorflow", "dtype": "float32"}
    if backbone != "vgg16":
        keras.utils.set_random_seed(0)
        make = getattr(keras.applications, BACKBONES[backbone].constructor)
        model = make(weights=None, include_top=False, input_shape=(32, 32, 3))
        model.save_weights("random.weights.h5")
        options |= {"weights": "random.weights.h5", "weights_sha256": fingerprint_weights(model)}
    extract(str(trained / "photos"), backbone=backbone, out="s.h5", **options)
    heads = ("logistic", "dense", "hist-gradient-boosting")
    for head in heads:
        pipeline.train_head("s.h5", head, select="val", out=head)
    shutil.move("s.h5", "moved.h5")
    for head in heads:
        check_predictions(tmp_path / head, predict(head, [trained / "photos/test"]), from_store=0)


def test_new_files_are_computed_stored_contents_are_read_and_bad_ones_told(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    new = tmp_path / "new"
    draw(new / "one.png", 77)
    draw(new / "deeper/two.png", 78)
    shutil.copy(trained / "photos/test/red/test000.png", new / "known.png")
    shutil.copy(new / "one.png", new / "copy.png")
    (new / "broken.jpg").write_bytes(b"no image")
    (new / "notes.txt").write_text("no image by its name")
    (new / ".hidden.png").write_bytes(b"")
    Path(os.fsdecode(bytes(new) + b"/odd-\xff.jpg")).write_bytes(b"no image, and a name that is not UTF-8")
    assert main(["predict", "--run", "logistic", str(new), "--json"]) == 0
    told = capsys.readouterr()
    predicted = json.loads(told.out)
    assert [each["path"].split("new/")[1] for each in predicted["predictions"]] == [
        "copy.png", "deeper/two.png", "known.png", "one.png",
    ]  # fmt: skip
    assert (predicted["from_store"], predicted["computed"]) == (1, 2)
    assert [each["path"].split("/")[-1] for each in predicted["skipped"]] == [
        "broken.jpg", "odd-\\xff.jpg",
    ]  # fmt: skip
    assert "no image in one of the formats" in told.err and "of which 1 are in s.h5" in told.err
    copy, _, _, one = predicted["predictions"]
    assert copy["probabilities"] == one["probabilities"]
    assert main(["predict", "--run", "logistic", str(new), "gone.png"]) == 2  # before anything is computed
    assert "images must be files that are there; got gone.png. Check: ls ." in capsys.readouterr().err
    (skipped,) = predict(
        "logistic", [new / "one.png", "gone.png"]
    ).skipped  # a list in Python may be older than the files
    assert skipped["path"] == "gone.png" and "No such file" in skipped["reason"]
    shown = repr(predict("logistic", new / "one.png")).splitlines()
    assert shown[:2] == [
        "1 image predicted by logistic of logistic, 0 skipped",
        "path,class,probability,margin,novelty,p(blue),p(red)",
    ]


def test_names_patterns_and_standard_input(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    files = sorted(map(str, (trained / "photos/test/red").glob("*.png")))
    assert main(["predict", "--run", "logistic", "photos/test/red/*.png"]) == 0
    by_pattern = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert by_pattern[0] == ["path", "class", "probability", "margin", "novelty", "p(blue)", "p(red)"]
    command = [sys.executable, "-m", "pipeline", "predict", "--run", "logistic", "-"]
    done = subprocess.run(
        command,
        input="\n".join(files) + "\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    by_list = list(csv.reader(io.StringIO(done.stdout)))
    assert [row[1:] for row in by_list] == [row[1:] for row in by_pattern] and len(by_list) == 1 + len(files)
    with pytest.raises(RequestError, match=r"there is none in photos/\*\.gif"):
        find_images(["photos/*.gif"])
    with pytest.raises(SourceError, match="none of 1 is"):
        predict("logistic", ["gone.png"])
    with pytest.raises(RequestError, match="holds no trained head"):
        predict(tmp_path, ["gone.png"])


def test_one_name_is_one_image_and_not_its_letters(trained, monkeypatch):
    monkeypatch.chdir(trained)
    for name in ("photos/test/red/test000.png", Path("photos/test/red/test000.png")):
        assert [each.path for each in predict("logistic", name).predictions] == ["photos/test/red/test000.png"]
    assert len(predict("logistic", "photos/test/red/test*.png").predictions) == 4


def test_hostile_files_computed_equal_those_stored(shared, tmp_path, monkeypatch):
    subprocess.run([sys.executable, shared / "hostile/make_extra.py", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    done = extract("images", backbone="tiny", out="s.h5", allow_missing_classes=True, max_skipped=0.5)
    pipeline.train_head("s.h5", "nearest-mean", out="run")
    stored = predict("run", ["images"])
    shutil.move("s.h5", "moved.h5")
    computed = predict("run", ["images"])
    assert stored.from_store > 40 and not computed.from_store and len(computed.predictions) >= done.rows
    for one, other in zip(stored.predictions, computed.predictions, strict=True):
        assert one.path == other.path and one.class_name == other.class_name
        np.testing.assert_allclose(list(one.probabilities.values()), list(other.probabilities.values()), atol=1e-6)
    assert stored.skipped == computed.skipped != []


def test_a_store_made_with_other_settings_is_not_read(trained, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    extract(str(trained / "photos"), backbone="tiny", out="s.h5", resize="nearest")
    predicted = predict(trained / "logistic", [trained / "photos/test"])
    assert predicted.from_store == 0 and any("other settings" in line for line in said)


def test_a_model_of_ones_own_that_moved_and_one_that_changed(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = [keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 99), keras.layers.Conv2D(5, 3, name="maps")]
    keras.Sequential(layers).save("own.keras")
    extract(str(trained / "photos"), backbone="own.keras", out="s.h5")
    pipeline.train_head("s.h5", "logistic", out="run")
    shutil.move("s.h5", "moved.h5")
    shutil.move("own.keras", "moved.keras")
    with pytest.raises(RequestError, match="is not there"):
        predict("run", [trained / "photos/test"])
    predicted = predict("run", [trained / "photos/test"], weights="moved.keras")
    expected = evaluation(tmp_path / "run")
    assert [each.class_name for each in predicted.predictions] == [
        expected[each.path.split("photos/")[1]][0] for each in predicted.predictions
    ]
    keras.Sequential([*layers[:2], keras.layers.Conv2D(5, 3, name="maps")]).save("other.keras")
    with pytest.raises(WeightsError, match="must have SHA-256"):
        predict("run", [trained / "photos/test"], weights="other.keras")


def test_a_run_without_what_its_head_reads(trained, tmp_path):
    folder = shutil.copytree(trained / "logistic", tmp_path / "old")
    (folder / "SHA256SUMS").unlink()
    told = json.loads((folder / "run.json").read_text())
    for reading in (None, {}, {"layers": [["last", "harm"]], "views": 1, "views_as": "rows"}):
        (folder / "run.json").write_text(json.dumps({**told, "reading": reading}))
        with pytest.raises(UnsafeFile, match="Train"):
            predict(folder, [trained / "photos/test"])
    for changed in (
        {"class_names": ["blue"]},
        {"reading": {"layers": [["relu", "avg"]], "views": 2, "views_as": "rows"}},
    ):
        (folder / "run.json").write_text(json.dumps({**told, **changed}))
        with pytest.raises(UnsafeFile, match="must match its classes and features"):
            predict(folder, [trained / "photos/test"])


def test_a_folder_of_new_images_is_a_group_if_the_run_has_groups(tmp_path, tiny, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    lines = [("path", "label", "split", "patient")]
    for number in range(160):
        name, colour = (("blue", (20, 20, 120)), ("red", (120, 20, 20)))[number % 2]
        draw(tmp_path / f"photos/{number}.png", number, colour)
        split = "train" if number < 130 else "val" if number < 145 else "test"
        lines.append((f"{number}.png", name, split, f"p{number // 5}"))
        if number < 40:
            image = draw(tmp_path / f"new/{number // 4}/{number}.png", 1000 + number, colour)
            shutil.copy(image, draw(tmp_path / f"flat/{number}.png", 0))
    with open("photos/photos.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    extract("photos/photos.csv", backbone="tiny", out="s.h5")
    for group in (None, "patient"):
        run = pipeline.train_head("s.h5", "nearest-mean", group=group, out=f"r{group}").out
        several, one = (predict(run, [name]) for name in ("new", "flat"))
        counted = [line for line in said if line.startswith("folders ")]
        if group is None:
            assert several.drift == one.drift and not counted
        else:
            assert several.drift != one.drift
            assert counted == ["folders  each of 10 counts as one patient of its own, as a whole"]
