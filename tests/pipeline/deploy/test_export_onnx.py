"""A head on a base that is an ONNX model becomes one ONNX model; a Keras model that was written as ONNX is the same base."""

import warnings

import numpy as np
import pytest
from conftest import draw_tree

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("tf2onnx", reason="the extra export is not installed")

import onnx_models
import onnxruntime

from features import extract
from features.backbones.keras_base import build_base
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES
from features.errors import RequestError
from pipeline import export, train_head
from pipeline.runs.trained_run import load_trained


@pytest.mark.parametrize(
    ("model", "asked", "reading"),
    [
        (onnx_models.maps(opset=11), {"layers": ("stem.relu", "last"), "fit": "crop"}, {"layer": "stem.relu,last"}),
        (onnx_models.maps(channels_last=True), {"views": 2, "augment": "hflip"}, {"layer": "last"}),
        (onnx_models.maps(1), {"pool": "avg"}, {"layer": "last"}),
        (onnx_models.tokens(), {}, {"layer": "normed", "pool": "cls+avg", "conformal": 0.6}),
    ],
)
def test_an_exported_model_gives_what_the_run_gives(tmp_path, monkeypatch, model, asked, reading):
    monkeypatch.chdir(tmp_path)
    tree, path = draw_tree(tmp_path / "photos"), onnx_models.save(model, tmp_path / "own.onnx")
    done = extract(str(tree), backbone=str(path), preprocess="half", dtype="float32", out=tmp_path / "s.h5", **asked)
    train_head(done.path, head="logistic", out=tmp_path / "run", **reading)
    further = "conformal" in reading or "views" in asked
    exported = export(tmp_path / "run", tmp_path / "whole.onnx", novelty=further)
    assert exported.parity["same_class"] == exported.parity["rows"] == 32
    assert exported.parity["largest_difference"] < 1e-4
    session = onnxruntime.InferenceSession(exported.path)
    assert [each.name for each in session.get_inputs()] == ["images"]
    outputs = ["probabilities", *["novelty"] * further, *["set"] * ("conformal" in reading)]
    assert exported.parity.get("novelty_difference", 0) < 1e-2
    assert [each.name for each in session.get_outputs()] == outputs
    assert exported.parity.get("same_set") == (exported.parity["rows"] if "conformal" in reading else None)
    if "views" not in asked:
        with pytest.raises(RequestError, match=r"out must end in \.onnx for own\.onnx, which is an ONNX model"):
            export(tmp_path / "run", tmp_path / "whole.keras")


def test_views_need_a_model_that_takes_any_number_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree, path = draw_tree(tmp_path / "photos"), onnx_models.save(onnx_models.maps(1), tmp_path / "own.onnx")
    extract(str(tree), backbone=str(path), preprocess="half", out=tmp_path / "s.h5", views=2, augment="hflip")
    train_head(tmp_path / "s.h5", head="logistic", out=tmp_path / "run")
    with pytest.raises(RequestError, match=r"must take any number of images .* own.onnx takes 1 at a time"):
        export(tmp_path / "run", tmp_path / "whole.onnx")
    assert load_trained(tmp_path / "run").reading.views == 2 and not (tmp_path / "whole.onnx").exists()


def test_a_keras_model_written_as_onnx_is_the_same_base(tmp_path):
    of_keras = build_base("tiny_chain", ["pool6"], 16)
    model = of_keras.model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx's warnings about NumPy
        model(np.zeros((1, 16, 16, 3), np.float32))
        model.export(tmp_path / "chain.onnx", format="onnx", verbose=False)
    text = "scale=0.00784313725490196 mean=1.0,1.0,1.0 std=1.0,1.0,1.0 channels=rgb"  # images / 127.5 - 1, as tiny.py has it
    of_onnx = build_base(str(tmp_path / "chain.onnx"), ["-1"], 16, text)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    (expected,) = ENGINES["tensorflow"].make(Frozen(of_keras, 16, 4)).run(images).values()
    (found,) = ENGINES["onnxruntime"].make(Frozen(of_onnx, 16, 4)).run(images).values()
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
