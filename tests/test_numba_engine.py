"""Our own convolutions: Winograd's method is exact, features are the model's, and the same bits whatever is beside them."""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from features.backbones import BACKBONES, build_base
from features.engines import ENGINES, make_checked
from features.errors import EngineError
from features.frozen import Frozen
from features.numba_engine import NumbaEngine
from features.toomcook import POINTS, matrices, transform_kernel

pytest.importorskip("numba", reason="the extra numba is not installed")

LAYERS = ["conv1", "conv2", "pool3", "conv4", "conv5", "pool6"]


@pytest.fixture(autouse=True)
def processor():
    """Skip where the processor cannot."""
    try:
        NumbaEngine(frozen(16, ["pool6"]))
    except EngineError as error:
        pytest.skip(str(error))


def frozen(size, layers=("pool6",), pool="none", batch_size=5):
    """Return the tiny chain."""
    return Frozen(build_base("tiny_chain", layers, size), size, batch_size, pool)


def draw(size, count=5, seed=0):
    """Return images."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("m", POINTS)
def test_the_method_is_a_convolution(m):
    """Against numpy's."""
    (a, g, b), random = matrices(m), np.random.default_rng(0)
    signal, taps = random.normal(size=m + 2), random.normal(size=3)
    np.testing.assert_allclose(a @ ((g @ taps) * (b @ signal)), np.correlate(signal, taps, "valid"), atol=1e-12)
    kernel = random.normal(size=(3, 3, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(transform_kernel(kernel, m), np.einsum("xi,yj,ijck->xyck", g, g, kernel), rtol=1e-5)


@pytest.mark.parametrize("size", [16, 17, 33, 75])
@pytest.mark.parametrize("layers", [LAYERS, ["pool6"], ["conv2", "conv5"]])
def test_features_are_those_of_the_model(size, layers):
    """Maps that are large and small, of even and odd sides, with and without the layer before a pool."""
    images, whole = draw(size), frozen(size, layers)
    found = NumbaEngine(whole).run(images)
    expected = whole.base.model(whole.base.preprocess(images.astype(np.float32)))
    assert list(found) == layers
    for layer, values in expected.items():
        values = np.asarray(values)
        assert found[layer].shape == values.shape and found[layer].dtype == np.float32
        assert np.linalg.norm(found[layer] - values) < 1e-4 * np.linalg.norm(values)
    assert 0 < make_checked("numba", whole, images).parity <= ENGINES["numba"].allowed


@pytest.mark.parametrize("pool", ["avg", "avg+max"])
def test_maps_are_pooled(pool):
    images = draw(33)
    found = NumbaEngine(frozen(33, pool=pool)).run(images)["pool6"]
    expected = ENGINES["tensorflow"].make(frozen(33, pool=pool)).run(images)["pool6"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [20, 75])
@pytest.mark.parametrize("pool", ["none", "avg"])
def test_an_images_features_are_the_same_bits_whatever_is_beside_it(size, pool, monkeypatch):
    images, whole = draw(size), frozen(size, LAYERS, pool)
    straight = NumbaEngine(whole).run(images)
    others = draw(size, 7, seed=1)
    others[6] = images[2]
    beside = NumbaEngine(frozen(size, LAYERS, pool, 7)).run(others)
    alone = NumbaEngine(frozen(size, LAYERS, pool, 1)).run(images[2:3])
    for count in (1, 3):
        monkeypatch.setattr("features.numba_engine.cores", lambda count=count: count)
        for layer, values in NumbaEngine(whole).run(images).items():
            np.testing.assert_array_equal(values, straight[layer])
    for layer, values in straight.items():
        np.testing.assert_array_equal(beside[layer][6], values[2])
        np.testing.assert_array_equal(alone[layer][0], values[2])


def test_narrow_vectors_give_the_same_bits(tmp_path):
    """As a processor without AVX-512 has them."""
    code = f"""
import sys; sys.path.insert(0, "tests")
import llvmlite.binding
has = llvmlite.binding.get_host_cpu_features()
has.update({{name: False for name in has if name.startswith(("avx512", "amx", "avx10"))}})
llvmlite.binding.get_host_cpu_features = lambda: has
import numpy as np
import test_numba_engine as those
from features.backbones import BACKBONES, Backbone
from features import vectors
BACKBONES["tiny_chain"] = Backbone("tiny", "TinyChain", "pool6", 16, 16)
assert vectors.LANES == 8
np.save({str(tmp_path / "x.npy")!r}, those.NumbaEngine(those.frozen(33)).run(those.draw(33))["pool6"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), NumbaEngine(frozen(33)).run(draw(33))["pool6"])


def test_what_is_not_finite_stays_so():
    from features.winograd import Chain

    kernel, bias = np.ones((3, 3, 3, 32), np.float32), np.zeros(32, np.float32)
    kernel[..., 5] = np.nan
    deeper = np.ones((3, 3, 32, 32), np.float32)
    (found,) = Chain([(kernel, bias), (deeper, bias)], 2, 1, 16, [1]).run(np.ones((1, 16, 16, 3), np.float32)).values()
    assert np.isnan(found).all()


def test_other_bases_are_refused_by_the_layer(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny_chain", replace(BACKBONES["tiny_chain"], smallest=8))
    with pytest.raises(EngineError, match="numba takes images of at least 14 px; got 8"):
        NumbaEngine(frozen(8))
    with pytest.raises(EngineError, match=r"numba takes 3x3 convolutions .*; conv is none"):
        NumbaEngine(Frozen(build_base("tiny", ["last"], 16), 16, 5))
    images = keras.Input((16, 16, 3))
    one, other = (
        keras.layers.Conv2D(32, 3, padding="same", activation="relu", name=name)(images) for name in ("a", "b")
    )
    base = build_base("tiny_chain", ["pool6"], 16)
    branched = type(base)(keras.Model(images, {"b": other, "a": one}), base.layers, base.preprocess, base.weights)
    with pytest.raises(EngineError, match=r"numba takes chains of layers alone; \w+ comes after another branch"):
        NumbaEngine(Frozen(branched, 16, 5))
