"""Where a head looked, from a transformer's tokens: patches are put back on their grid."""

import io

import numpy as np
import pytest
from conftest import draw_tree
from PIL import Image

from features import FeatureStore, extract
from pipeline import train_head
from pipeline.cli.serving import examination
from pipeline.deploy.predictor import Predictor
from pipeline.reports.analysis import class_activation
from pipeline.reports.build import gather
from pipeline.reports.run_results import load_run

REGISTERS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of a class token, four registers and 4 x 4 patches of each image."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    onnx_models = pytest.importorskip("onnx_models", reason="the extra onnx is not installed")
    folder = tmp_path_factory.mktemp("tokens")
    path = onnx_models.save(onnx_models.tokens(registers=REGISTERS), folder / "vit.onnx")
    return extract(str(draw_tree(folder / "photos")), backbone=str(path), preprocess="half", out=folder / "s.h5").path


@pytest.mark.parametrize("pool", ["avg", "avg+max"])
def test_patches_are_back_on_their_grid(store, tmp_path, monkeypatch, pool):
    seen, activation_maps = [], class_activation.activation_maps
    monkeypatch.setattr(
        class_activation, "activation_maps", lambda *given: seen.append(given) or activation_maps(*given)
    )
    train_head(store, head="logistic", pool=pool, out=tmp_path / "run")
    assert gather(load_run(tmp_path / "run"))["attention"]["groups"]
    ((maps, coef, read),) = seen
    assert read == pool and maps.shape[1:] == (4, 4, 8)
    with FeatureStore(store) as opened:
        patches = opened.dataset("normed")[:, 1 + REGISTERS :].reshape(-1, 4, 4, 8)
    assert all((np.abs(patches - one).max(axis=(1, 2, 3)) == 0).any() for one in maps)
    assert len(coef) == 8 * len(pool.split("+"))


def test_what_is_served_is_on_the_grid_too(store, tmp_path, monkeypatch):
    """A photo that is not square, with one patch of the base's square in another colour."""
    seen = []
    monkeypatch.setattr(examination, "heat", lambda added, top: seen.append(added) or "data:")
    train_head(store, head="logistic", pool="avg", out=tmp_path / "run")
    pixels = np.full((16, 32, 3), 128, np.uint8)
    pixels[8:12, 24:32] = (250, 0, 90)  # stretched to 16 x 16, the third row and fourth column of 4 x 4
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with Predictor(tmp_path / "run") as predictor:
        told = examination.examine(predictor, file.getvalue(), "photo.png", True)
    assert told["looked"] == "data:"
    (added,) = seen
    away = np.abs(added - np.median(added))
    assert added.shape == (4, 4)
    assert np.argwhere(away > away.max() / 2).tolist() == [[2, 3]]


@pytest.mark.parametrize("pool", ["cls", "cls+avg"])
def test_a_head_that_reads_the_class_token_is_not_shown(store, tmp_path, pool):
    train_head(store, head="logistic", pool=pool, out=tmp_path / "run")
    why = gather(load_run(tmp_path / "run"))["attention"]["why"]
    assert f"The head reads {pool} of the tokens of normed" in why
