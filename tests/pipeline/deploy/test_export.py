"""An exported model gives what the run gives, by Keras alone and by ONNX Runtime alone."""

import ast
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import draw_tree, rewrite
from PIL import Image
from samples import blobs, rows_of

import pipeline
from features import FeatureStore, extract
from features.errors import EngineError, ParityError, RequestError
from features.images.decoding import RESIZE
from features.images.fitting import resize_to_square
from pipeline.cli.commands import main
from pipeline.data.training_data import Features, Part
from pipeline.deploy.exporting import _write, export
from pipeline.deploy.graphs.head_layers import apply_head
from pipeline.deploy.graphs.keras_model import _preprocessing
from pipeline.deploy.graphs.novelty_layers import check_novelty
from pipeline.deploy.graphs.pillow_resize import resize_as_pillow
from pipeline.deploy.model_card import format_card
from pipeline.deploy.parity import open_model
from pipeline.deploy.predictor import predict
from pipeline.evaluation.decisions.novelty import Sketch
from pipeline.heads.registry import HEADS
from pipeline.runs.trained_run import load_trained
from pipeline.training.fits.fitting import fit_head

REFUSED = {"knn", "hist-gradient-boosting"}


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", sorted(set(HEADS) - REFUSED))
def test_heads_as_layers_are_exact(name, n_classes):
    X, y, splits = blobs(n_classes)
    X += np.random.default_rng(1).exponential(2, X.shape).astype(np.float32)
    features = Features(X, (X.shape[1],), 1, (Part("layer", "avg"),))
    _, fitted = fit_head(name, features, rows_of(y, splits, n_classes), splits)
    inputs = keras.Input((X.shape[1],))
    model = keras.Model(inputs, apply_head(fitted.estimator, inputs, n_classes, name))
    np.testing.assert_allclose(np.asarray(model(X)), fitted.estimator.predict_proba(X), atol=2e-5)


def test_a_class_that_was_not_trained_has_probability_zero():
    X, y, splits = blobs(3)
    y = np.where(y == 1, 3, y)
    features = Features(X, (X.shape[1],), 1, (Part("layer", "avg"),))
    head = fit_head("logistic", features, rows_of(y, splits, 4), splits)[1].estimator
    inputs = keras.Input((X.shape[1],))
    found = np.asarray(keras.Model(inputs, apply_head(head, inputs, 4, "logistic"))(X))
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found[:, [0, 2, 3]], head.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "form", "fit"),
    [
        *((rule, form, "stretch") for rule in sorted(RESIZE) for form in ("keras", "onnx")),
        *((rule, "keras", fit) for rule in ("bilinear", "lanczos", "nearest") for fit in ("crop", "pad")),
        *((rule, "keras", "crop:0.9") for rule in sorted(RESIZE)),
        ("bilinear", "onnx", "crop"),
        ("nearest", "onnx", "crop:0.9"),
        ("bilinear", "onnx", "pad"),
    ],
)
def test_resizing_is_pillows(rule, form, fit, tmp_path):
    """To the level, in either order of the two passes, where pixels fall on the edges of a filter too."""
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model, random = keras.Model(inputs, resize_as_pillow(inputs, 48, rule, fit)), np.random.default_rng(0)
    if form == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra export is not installed")
        _write(model, tmp_path / "m.onnx", form)
    run = open_model(tmp_path / "m.onnx", form) if form == "onnx" else lambda images: {"probabilities": model(images)}
    shapes = (
        *((48, 48), (100, 130), (130, 100), (47, 49), (20, 24), (24, 20), (200, 30), (30, 200), (1, 1)),
        *((480, 96), (500, 300), (224, 225), (640, 480), (375, 499)),
    )
    for shape in shapes:
        image = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
        expected = np.asarray(resize_to_square(Image.fromarray(image), 48, RESIZE[rule], fit))
        np.testing.assert_array_equal(np.asarray(run(image[None])["probabilities"])[0], expected, err_msg=str(shape))


@pytest.mark.parametrize(("decode", "bound"), [("scaled", 5e-2), ("full", 5e-3)])
def test_photos_decoded_at_a_reduced_size_are_compared_less_strictly(tmp_path, monkeypatch, decode, bound):
    """The model gets them decoded in full; its card says so."""
    monkeypatch.chdir(tmp_path)
    for file in draw_tree(tmp_path / "photos").rglob("*.png"):
        Image.open(file).resize((120, 90)).save(file.with_suffix(".jpg"))  # at least four times the base's 16 pixels
        file.unlink()
    extract("photos", backbone="tiny", out="s.h5", decode=decode, engine="tensorflow")
    pipeline.train_head("s.h5", "logistic", out="run")
    card = pipeline.export("run", "m.keras", rows=0).card
    assert card["parity"]["bound"] == bound
    assert ("at least 64 pixels" in card["large_jpegs"] and "draft(None, (32, 32))" in card["large_jpegs"]) is (
        decode == "scaled"
    )


@pytest.mark.parametrize("module", ["vgg16", "resnet_v2", "densenet", "inception_v3", "efficientnet_v2"])
def test_preprocessing_as_a_layer(module):
    prepare = getattr(keras.applications, module).preprocess_input
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    layer = _preprocessing(SimpleNamespace(preprocess=prepare))
    np.testing.assert_allclose(np.asarray(layer(images)), prepare(images.copy()), atol=2e-5)


@pytest.fixture(scope="module")
def trained(tiny_store, tmp_path_factory):
    """Runs, and the folder of their images."""
    folder = tmp_path_factory.mktemp("export")
    pipeline.train_head(tiny_store, "rbf-svm", out=folder / "rbf-svm")
    pipeline.train_head(tiny_store, "knn", out=folder / "knn")
    return folder


FORMS = {"m.keras": "keras", "m": "savedmodel", "m.onnx": "onnx"}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_what_the_run_gives_on_all_rows(trained, tmp_path, name, capsys):
    if name.endswith(".onnx"):
        pytest.importorskip("tf2onnx", reason="the extra export is not installed")
        onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    tmp_path = tmp_path / 'it\'s "my"'  # its name is in the command that is told, in Python's and in the shell's quotes
    tmp_path.mkdir()
    assert (
        main(["export", "--run", str(trained / "rbf-svm"), "--out", str(tmp_path / name), "--rows", "0", "--json"]) == 0
    )
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((tmp_path / f"{name}.json").read_text())
    assert card["format"] == FORMS[name] and card["class_names"] == ["blue", "red"]
    files = (
        [tmp_path / name] if (tmp_path / name).is_file() else [p for p in (tmp_path / name).rglob("*") if p.is_file()]
    )
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert {Path(each).name: found for each, found in card["sha256"].items()} == sums
    if name.endswith(".onnx"):
        session = onnxruntime.InferenceSession(tmp_path / name)
        shapes = [each.shape for each in (*session.get_inputs(), *session.get_outputs())]
        assert shapes == [["n", "height", "width", 3], ["n", 2]]
        assert [each.name for each in session.get_outputs()] == ["probabilities"]  # as the card's code calls it
    parity = card["parity"]
    # ONNX's converter takes the rounding to float16 out.
    bound = 5e-3 if name.endswith(".onnx") else 1e-3
    assert parity["rows"] == parity["same_class"] == 32 and parity["largest_difference"] < bound
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, f"{name}.json", f"{name}.md"])
    assert main(["export", str(trained / "rbf-svm"), str(tmp_path / name)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", "--run", str(trained / "rbf-svm"), "--out", str(tmp_path / name), "--overwrite"]) == 0
    (told,) = re.findall("(?m)^next +(.*)", capsys.readouterr().err)
    python, flag, code = shlex.split(told)
    loaded = ast.literal_eval(ast.parse(code).body[-1].value.args[0])
    assert (python, flag, loaded) == ("python", "-c", str(tmp_path / name))


def test_a_run_on_rough_features_is_compared_as_roughly(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        extract(str(tree), backbone="tiny", batch_size=5, engine="openvino-bf16", out="rough.h5")
    except (RequestError, EngineError) as error:
        pytest.skip(str(error))
    pipeline.train_head("rough.h5", "logistic", out="run")
    assert main(["export", "--run", "run", "--out", "m.keras", "--json"]) == 0
    parity = json.loads(capsys.readouterr().out)["parity"]
    assert 1e-5 < parity["largest_difference"] < parity["bound"] == 0.05


@pytest.fixture(scope="module")
def with_sets(tiny_store, tmp_path_factory):
    """A run with sets of classes, of classes whose names mean something in Markdown."""
    folder = tmp_path_factory.mktemp("sets") / "run"
    pipeline.train_head(tiny_store, "nearest-mean", conformal=0.6, out=folder)
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_sets_and_novelty_are_further_outputs_and_those_of_the_run(with_sets, tiny_store, tmp_path, name):
    if name.endswith(".onnx"):
        pytest.importorskip("tf2onnx", reason="the extra export is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        card = export(with_sets, tmp_path / name, rows=0, novelty=True).card
    assert card["parity"]["same_set"] == 32 and card["sets"]["level"] == 0.6 and "set: bool" in card["output"]
    assert card["parity"]["novelty_difference"] < 1e-2 and "novelty: float32" in card["output"]
    with FeatureStore(tiny_store) as store:
        files = [Path(store.provenance["source"]["root"]) / path for path in store.rows.paths[::5]]
    found = open_model(tmp_path / name, FORMS[name])(np.stack([np.asarray(Image.open(file)) for file in files]))
    assert found["set"].dtype == bool and found["probabilities"].shape == found["set"].shape == (7, 2)
    predicted = predict(with_sets, files)
    assert [tuple(np.array(["blue", "red"])[held]) for held in found["set"]] == [
        p.classes for p in predicted.predictions
    ]
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    (new,) = predict(with_sets, noise).predictions
    told = open_model(tmp_path / name, FORMS[name])(noise[None])["novelty"]
    assert (
        found["novelty"].shape == (7,)
        and told[0] == pytest.approx(new.novelty, rel=1e-3, abs=1e-3)
        and new.novelty > 0.1
    )
    text = (tmp_path / f"{name}.md").read_text()
    Image.open(files[3]).save(tmp_path / "photo.jpg", "PNG")
    code = text.partition("```python\n")[2].partition("```")[0]
    alone = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert alone.stdout.split()[0] == predicted.predictions[3].class_name, alone.stderr[-2000:]
    assert "Sets of classes hold the true one with probability 0.6" in text and "| blue | 8 | 4 | 4 |" in text
    assert "So does the model in this file, where its output `novelty` is above 1" in text


def test_a_card_says_how_images_were_split_and_which_slices_stand_out(tiny_store, tmp_path):
    run = pipeline.train_head(tiny_store, "majority", out=tmp_path / "run").to_json()
    card = {
        "model": "m.keras", "format": "keras", "class_names": run["class_names"], "head": "majority", "sets": None,
        "operating_point": None, "decision": "", "input": "", "output": "", "large_jpegs": "", "weights_licence": "unknown",
        "provenance": run["provenance"], "parity": {"rows": 0, "same_class": 0, "largest_difference": 0.0},
    }  # fmt: skip
    text = format_card(card, run)
    assert "How images were read and split: as the source gives them." in text and "drawn" not in text
    assert "No column of groups was named" in text
    drawn = {**run["provenance"], "splits": ["no split val given: drew 20%", "column a|b is kept"]}
    slices = [
        {"column": "c", "value": name, "rows": 9, "metric": 0.5, "interval": None, "rest": 0.9, "p_value": p}
        for name, p in (("zero", 0.0), ("small", 0.01), ("large", 0.5), ("untested", None))
    ]
    text = format_card(card, {**run, "provenance": drawn, "slices": {"slices": slices}, "group": "patient"})
    assert "How images were read and split: no split val given: drew 20%; column a\\|b is kept." in text
    assert "Images of one group (patient) are in one split" in text
    assert [line.split()[3] for line in text.splitlines() if "stand out" in line] == ["zero", "small"]


def test_novelty_that_a_model_cannot_hold_is_refused(with_sets, tmp_path, monkeypatch):
    trained = load_trained(with_sets)
    wide = replace(trained.novelty, sketch=Sketch.draw(25_088))
    with pytest.raises(
        RequestError, match=r"at most 4,096 features per image; got 25,088. Leave out novelty=True, and use"
    ):
        check_novelty(replace(trained, novelty=wide))
    with pytest.raises(RequestError, match=r"novelty must be known to be exported; .* Train it again"):
        check_novelty(replace(trained, novelty=None))
    monkeypatch.setattr("pipeline.deploy.graphs.novelty_layers._MOST", 10)
    with pytest.raises(RequestError, match=r"at most 10 numbers .*; got \d+ training images of \d+ features"):
        export(with_sets, tmp_path / "m.keras", novelty=True)
    assert not list(tmp_path.iterdir())


ALONE = {
    "m.keras": """
import keras
model = keras.saving.load_model(path)
run = lambda images: np.asarray(model(images))
""",
    "m.onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(path)
assert [each.name for each in session.get_inputs()] == ["images"], [each.name for each in session.get_inputs()]
run = lambda images: session.run(None, {"images": images})[0]
""",
}


@pytest.mark.parametrize("name", ALONE)
def test_a_fresh_process_needs_keras_alone_or_onnx_runtime_alone(trained, tiny_store, tmp_path, name):
    if name.endswith(".onnx") and importlib.util.find_spec("tf2onnx") is None:
        pytest.skip("the extra export is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(trained / "rbf-svm", tmp_path / name, rows=4)
    with FeatureStore(tiny_store) as store:
        root, paths = Path(store.provenance["source"]["root"]), store.rows.paths[:6]
    np.save(tmp_path / "images.npy", np.stack([np.asarray(Image.open(root / path)) for path in paths]))
    code = f"""
import sys, numpy as np
path = {str(tmp_path / name)!r}
{ALONE[name]}
print(run(np.load({str(tmp_path / "images.npy")!r})).tolist())
ours = [each for each in ("features", "pipeline") if each in sys.modules]
assert not ours, ours
assert "onnxruntime" not in sys.modules or "keras" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    predicted = predict(trained / "rbf-svm", [root / path for path in paths]).predictions
    np.testing.assert_allclose(found, [list(each.probabilities.values()) for each in predicted], atol=5e-3)


def test_layers_views_and_pooling_at_extraction(tree, tmp_path):
    options = {"backbone": "tiny", "layers": ("relu", "last"), "pool": "avg+max", "augment": "dihedral", "views": 8}
    extract(str(tree), out=tmp_path / "s.h5", dtype="float32", **options)
    for head in ("logistic", "linear-svm", "vote"):  # averages of probabilities, of features, and of parts of them
        pipeline.train_head(tmp_path / "s.h5", head, layer="relu,last", out=tmp_path / head)
        parity = export(tmp_path / head, tmp_path / f"{head}.keras", rows=0).parity
        assert parity["same_class"] == 32 and parity["largest_difference"] < 1e-3


@pytest.mark.parametrize("pool", ["cls+avg", "avg+max"])
def test_a_head_on_tokens(tree, tmp_path, pool):
    extract(str(tree), backbone="tiny_tokens", out=tmp_path / "s.h5", batch_size=8)
    pipeline.train_head(tmp_path / "s.h5", "logistic", out=tmp_path / "run", pool=pool)
    parity = export(tmp_path / "run", tmp_path / "model.keras", rows=0).parity
    assert parity["same_class"] == 32 and parity["largest_difference"] < 1e-3


def test_what_cannot_be_layers_is_refused_with_another_way(trained, tree, tmp_path):
    with pytest.raises(RequestError, match=r"look up training rows.*head=.rbf-svm"):
        export(trained / "knn", tmp_path / "m.keras")
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5", augment="lecture", views=2)
    pipeline.train_head(tmp_path / "s.h5", "logistic", out=tmp_path / "run")
    with pytest.raises(RequestError, match="views=1"):
        export(tmp_path / "run", tmp_path / "m.keras")
    with pytest.raises(RequestError, match=r"must end in \.keras or \.onnx"):
        export(trained / "rbf-svm", tmp_path / "m.h5")
    assert not list(tmp_path.glob("m*.keras*"))


def test_what_is_no_model_is_not_replaced(trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "thesis").write_text("important")
    (tmp_path / "m.keras").mkdir()
    for name in ("mine", "thesis", "m.keras"):
        with pytest.raises(RequestError, match="exists and is no model"):
            export(trained / "rbf-svm", tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis").read_text() == "important"
    (tmp_path / "n.keras.json").write_text("important")
    with pytest.raises(RequestError, match=r"n\.keras\.json exists"):
        export(trained / "rbf-svm", tmp_path / "n.keras")


def test_a_model_that_differs_is_not_written(tree, tmp_path):
    """The store's values are not what its base gives."""
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5")
    rewrite(tmp_path / "s.h5", lambda values, held: (values[:, :, :, ::-1], held))
    pipeline.train_head(tmp_path / "changed.h5", "rbf-svm", out=tmp_path / "run")
    with pytest.raises(ParityError, match="Nothing was written"):
        export(tmp_path / "run", tmp_path / "model/m.keras")
    assert not list((tmp_path / "model").iterdir())


def test_images_above_the_limit_of_pixels_are_not_compared_with(tree, tmp_path):
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5")
    pipeline.train_head(tmp_path / "s.h5", "logistic", out=tmp_path / "run")
    with pytest.raises(RequestError, match=r"\.png must be readable to compare .*max_pixels=480"):
        export(tmp_path / "run", tmp_path / "m.keras", max_pixels=479, rows=1)
    assert not (tmp_path / "m.keras").exists()


def test_images_that_changed_are_not_compared_with(tree, tmp_path):
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5")
    pipeline.train_head(tmp_path / "s.h5", "logistic", out=tmp_path / "run")
    shutil.copy(tree / "test/red/test000.png", tree / "test/red/test001.png")
    with pytest.raises(RequestError, match="it has changed"):
        export(tmp_path / "run", tmp_path / "m.keras", rows=0)
