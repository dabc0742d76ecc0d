"""Our own convolutions: Winograd's method is exact, features are the model's, and the same bits whatever is beside them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from winograd_loops import transform_kernel

from features.backbones.keras_base import build_base
from features.backbones.registry import BACKBONES
from features.backbones.weights import Weights
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES
from features.engines.selection import make_checked
from features.engines.winograd import WinogradEngine
from features.engines.winograd.loops.toom_cook import matrices
from features.errors import EngineError

pytest.importorskip("numba", reason="the extra numba is not installed")

CHAIN = ["conv1", "conv2", "pool3", "conv4", "conv5", "pool6"]
GRAPH = [
    "stem",
    "stem_bn",
    "pool",
    "add",
    "trunk",
    "sum",
    "five_relu",
    "both",
    "mixed",
    "grown",
    "reduced",
    "last_relu",
]


def test_numba_is_not_imported_before_it_is_needed():
    code = "import sys, features.engines.registry; sys.exit('numba' in sys.modules or 'llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(autouse=True)
def processor():
    """Skip where the processor cannot."""
    try:
        WinogradEngine(frozen(16, ["pool6"]))
    except EngineError as error:
        pytest.skip(str(error))


def frozen(size, layers=("pool6",), pool="none", batch_size=5, name="tiny_chain"):
    """Return a tiny base."""
    return Frozen(build_base(name, layers, size), size, batch_size, pool)


def draw(size, count=5, seed=0):
    """Return images."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("taps", [(4, 3), (7, 3), (4, 5), (6, 7), (1, 1)])
def test_the_method_is_a_convolution(taps):
    """Against numpy's."""
    (m, r), (a, g, b), random = taps, matrices(*taps), np.random.default_rng(0)
    signal, filter_ = random.normal(size=m + r - 1), random.normal(size=r)
    np.testing.assert_allclose(a @ ((g @ filter_) * (b @ signal)), np.correlate(signal, filter_, "valid"), atol=1e-12)
    kernel = random.normal(size=(r, 1, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(
        transform_kernel(kernel, (m, 1)), np.einsum("xi,ijck->xjck", g, kernel), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("size", [16, 17, 33, 75])
@pytest.mark.parametrize("layers", [CHAIN, ["pool6"], ["conv2", "conv5"]])
def test_features_of_a_chain_are_those_of_the_model(size, layers):
    """Maps that are large and small, of even and odd sides, with and without the layer before a pool."""
    compare(frozen(size, layers))


@pytest.mark.parametrize("size", [33, 64, 150, 223])
@pytest.mark.parametrize("layers", [GRAPH, ["last_relu"], ["short_bn", "c_bn", "e_relu", "tall_relu", "mean"]])
def test_features_of_a_graph_are_those_of_the_model(size, layers):
    """What is folded into a convolution, and what is not since something else reads it; maps within others."""
    compare(frozen(size, layers, name="tiny_graph"))


@pytest.mark.parametrize("name", ["resnet50", "resnet50_v2", "inception_v3", "inception_resnet_v2", "densenet121"])
def test_bases_of_keras_are_taken(name, monkeypatch):
    """With Keras' random weights: plumbing."""
    monkeypatch.setattr("features.backbones.keras_base.load_weights", lambda *_: Weights("random", ""))
    compare(frozen(75, [BACKBONES[name].layer], name=name))


def compare(whole):
    """Compare each layer's features with Keras'."""
    images = draw(whole.image_size)
    found = WinogradEngine(whole).run(images)
    expected = whole.base.model(whole.base.preprocess(images.astype(np.float32)))
    assert list(found) == list(whole.layers)
    for layer, values in expected.items():
        values = np.asarray(values)
        assert found[layer].shape == values.shape and found[layer].dtype == np.float32
        assert np.linalg.norm(found[layer] - values) < 1e-4 * np.linalg.norm(values), layer
    assert 0 < make_checked("numba", whole, lambda: images).parity <= ENGINES["numba"].allowed


@pytest.mark.parametrize("pool", ["avg", "avg+max"])
def test_maps_are_pooled(pool):
    images = draw(33)
    found = WinogradEngine(frozen(33, pool=pool)).run(images)["pool6"]
    expected = ENGINES["tensorflow"].make(frozen(33, pool=pool)).run(images)["pool6"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name, size", [("tiny_chain", 20), ("tiny_chain", 75), ("tiny_graph", 35), ("tiny_graph", 224)]
)
@pytest.mark.parametrize("pool", ["none", "avg"])
def test_an_images_features_are_the_same_bits_whatever_is_beside_it(name, size, pool):
    images, others, layers = draw(size), draw(size, 7, seed=1), CHAIN if name == "tiny_chain" else GRAPH
    compare_bits(images, others, lambda count: frozen(size, layers, pool, count, name))


def test_an_images_features_are_the_same_bits_where_threads_share_kernels():
    """Kernels of so many floats that all threads compute all images; what comes before and after them too."""
    layers, size = keras.layers, 13
    x = picture = keras.Input((size, size, 3))
    x = layers.Conv2D(512, 3, padding="same", activation="relu")(x)
    huge = layers.Conv2D(512, 3, padding="same", activation="relu", name="huge")(x)
    x = layers.Conv2D(512, 1, name="one")(huge)
    x = layers.Concatenate(name="both")([layers.Add(name="sum")([x, huge]), huge])
    outputs = {"huge": huge, "both": x, "pooled": layers.MaxPooling2D(name="pooled")(x)}
    model, random = keras.Model(picture, outputs), np.random.default_rng(3)
    model.set_weights([random.normal(0, 0.02, array.shape) for array in model.get_weights()])
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in outputs.items()}
    base = replace(build_base("tiny_chain", ["pool6"], 16), build=lambda: model, layers=shapes, identity=None)
    stages = WinogradEngine(Frozen(base, size, 5))._network._stages
    assert stages[2].end > stages[2].begin > 0
    compare_bits(draw(size), draw(size, 7, seed=1), lambda count: Frozen(base, size, count))
    compare(Frozen(base, size, 5))


def compare_bits(images, others, of_batch):
    """Compare five images' features by any number of threads, one's among seven others', and its alone."""
    straight = WinogradEngine(of_batch(5)).run(images)
    others[6] = images[2]
    beside, alone = WinogradEngine(of_batch(7)).run(others), WinogradEngine(of_batch(1)).run(images[2:3])
    for threads in (1, 3):
        for layer, values in WinogradEngine(of_batch(5), threads=threads).run(images).items():
            np.testing.assert_array_equal(values, straight[layer])
    for layer, values in straight.items():
        np.testing.assert_array_equal(beside[layer][6], values[2])
        np.testing.assert_array_equal(alone[layer][0], values[2])


@pytest.mark.parametrize("name, size", [("tiny_chain", 33), ("tiny_graph", 150)])
def test_narrow_vectors_give_the_same_bits(name, size, tmp_path):
    """As a processor without AVX-512 has them."""
    layers = CHAIN if name == "tiny_chain" else GRAPH
    code = f"""
import sys; sys.path[:0] = ["tests", {str(Path(__file__).parent)!r}]
import llvmlite.binding
has = llvmlite.binding.get_host_cpu_features()
has.update({{name: False for name in has if name.startswith(("avx512", "amx", "avx10"))}})
llvmlite.binding.get_host_cpu_features = lambda: has
import numpy as np
import test_numba_engine as those
from features.backbones.registry import BACKBONES, Backbone
from features.engines.winograd.loops import registers
BACKBONES["tiny_chain"] = Backbone("tiny", "TinyChain", "pool6", 16, 16)
BACKBONES["tiny_graph"] = Backbone("tiny", "TinyGraph", "last_relu", 64, 32)
assert registers.LANES == 8
base = those.frozen({size}, {layers!r}, name={name!r})
np.savez({str(tmp_path / "x.npz")!r}, **those.WinogradEngine(base).run(those.draw({size})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "x.npz") as narrow:
        for layer, values in WinogradEngine(frozen(size, layers, name=name)).run(draw(size)).items():
            np.testing.assert_array_equal(narrow[layer], values)


def test_what_is_not_finite_stays_so():
    base = build_base("tiny_chain", ["conv2"], 16)
    kernel, bias = base.model.get_layer("conv1").get_weights()
    kernel[..., 5] = np.nan
    base.model.get_layer("conv1").set_weights([kernel, bias])
    (found,) = WinogradEngine(Frozen(base, 16, 5)).run(draw(16)).values()
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (keras.layers.Conv2D(24, 3), "convolutions to a multiple of 16 channels, at most 16384; got 24"),
        (keras.layers.Conv2D(32, 3, dilation_rate=2), r"Conv2D with dilation_rate \(2, 2\), such as odd"),
        (keras.layers.Conv2D(32, 3, activation="gelu"), "Conv2D with activation 'gelu'"),
        (keras.layers.ReLU(6.0), "ReLU with max_value 6.0"),
        (keras.layers.DepthwiseConv2D(3), "layers of type DepthwiseConv2D, such as odd"),
        (keras.layers.MaxPooling2D(), "pools of a multiple of 16 channels, at most 16384; got 3"),
        (keras.layers.BatchNormalization(), "sums of a multiple of 16 channels, at most 16384; got 3"),
    ],
)
def test_other_bases_are_refused_by_the_layer(layer, why):
    images, base = keras.Input((32, 32, 3)), build_base("tiny_chain", ["pool6"], 16)
    layer = type(layer).from_config({**layer.get_config(), "name": "odd"})
    other = replace(base, build=lambda: keras.Model(images, {"odd": layer(images)}))
    with pytest.raises(EngineError, match=f"numba (does not support|supports) {why}"):
        WinogradEngine(Frozen(other, 32, 5))


@pytest.mark.parametrize(("layer", "why"), [("pool_pad", "pool_pad is not"), ("images", "not the image itself")])
def test_what_is_no_feature_map_is_refused(layer, why):
    with pytest.raises(EngineError, match=why):
        WinogradEngine(frozen(64, [layer, "stem"], name="tiny_graph"))
