"""PyTorch runs models of timm, here on a CPU: its features are ONNX Runtime's, and a store keeps it. All weights are random, and mean nothing."""

import shutil
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
from conftest import draw as draw_image
from conftest import draw_tree

pytest.importorskip("torch", reason="the extra torch is not installed")
pytest.importorskip("timm", reason="the extra torch is not installed")
pytest.importorskip("onnxscript", reason="the extra torch is not installed")
pytest.importorskip("onnxruntime", reason="the extra torch is not installed")

import timm
import torch
from safetensors.torch import save_file

from features import FeatureStore, extract
from features.backbones.base import Base
from features.backbones.keras_base import build_base
from features.backbones.weights import Weights
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES, describe_engine
from features.engines.selection import make_checked
from features.errors import EngineError, RequestError, WeightsError
from features.extraction.verification import verify
from features.pooling import pool_maps
from features.store.provenance import CPU
from pipeline import predict, train_head

BATCH = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of a small residual network, as timm draws them."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "drawn.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def frozen(weights, pool="none", layers=("features", "pooled")):
    return Frozen(build_base("timm:test_resnet", layers, 32, weights=str(weights)), 32, 5, pool)


class Tiny(torch.nn.Module):
    """A module as `Base.module` returns it; `seen` are the settings under which it ran."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer, self.seen = torch.nn.Linear(3, 4), []

    def forward(self, images):
        return [torch.relu(self.layer(images))]


def tiny(module, size=2):
    base = Base(None, {"maps": (8, 8, 4)}, None, {"maps": "map"}, Weights("drawn", "0" * 64), "torch")
    return Frozen(replace(base, module=lambda loaded: module), 8, size)


@pytest.mark.parametrize(("name", "allowed"), [("torch", 1e-5), ("torch-f16", 2e-3)])
def test_features_are_those_of_onnx_runtime_and_of_nothing_else_in_the_batch(weights, name, allowed):
    whole, order = frozen(weights), [3, 1, 4, 0, 2]
    checked = make_checked(name, whole, lambda: BATCH)
    assert (checked.parity_on, 0 < checked.parity <= allowed) == ("probes", True)
    found, turned = checked.engine.run(BATCH), checked.engine.run(BATCH[order])
    expected = ENGINES["onnxruntime"].make(whole).run(BATCH)
    for layer, values in found.items():
        assert values.shape == expected[layer].shape and values.dtype == np.float32
        assert np.linalg.norm(values - expected[layer]) <= allowed * np.linalg.norm(expected[layer])
        np.testing.assert_array_equal(turned[layer], values[order])
    assert (np.abs(found["features"] - expected["features"]).max() > 1e-6) == (name == "torch-f16")
    again = make_checked(name, whole, lambda: BATCH).engine.run(BATCH)  # from what the cache keeps
    np.testing.assert_array_equal(again["features"], found["features"])


@pytest.mark.parametrize("pool", ["avg", "avg+max"])
def test_maps_are_pooled_and_vectors_are_not(weights, pool):
    whole, pooled = (ENGINES["torch"].make(frozen(weights, each)).run(BATCH) for each in ("none", pool))
    np.testing.assert_allclose(pooled["features"], pool_maps(whole["features"], pool), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled["pooled"], whole["pooled"])


def test_a_store_keeps_it_and_its_head_predicts(tmp_path, weights):
    data = draw_tree(tmp_path / "photos")
    asked = {"backbone": "timm:test_resnet", "image_size": 32, "weights": str(weights), "dtype": "float32"}
    asked |= {"out": tmp_path / "s.h5"}
    extract(str(data), engine="torch", **asked)
    with FeatureStore(tmp_path / "s.h5") as store:
        engine = store.made.spec.engine
        assert engine == describe_engine("torch")
        assert (engine.version, engine.device, engine.precision) == (version("torch"), CPU, "float32")
    draw_image(next(data.glob("train/*")) / "added.png", 1001)
    assert extract(str(data), **asked).computed == 1
    assert [check.held for check in verify(tmp_path / "s.h5")] == [True, True, True]
    train_head(tmp_path / "s.h5", head="logistic", pool="avg", out=tmp_path / "run")
    of_store = predict(tmp_path / "run", data / "test").predictions
    (tmp_path / "s.h5").unlink()
    for before, after in zip(of_store, predict(tmp_path / "run", data / "test").predictions, strict=True):
        assert before.probabilities == pytest.approx(after.probabilities, abs=1e-6)


def test_a_layer_that_the_export_alone_has_is_left_to_other_engines(tmp_path, weights):
    data = draw_tree(tmp_path / "photos")
    (layer,) = build_base("timm:test_resnet", ["0"], 32, weights=str(weights)).layers
    asked = {"backbone": "timm:test_resnet", "image_size": 32, "weights": str(weights), "layers": ("features", layer)}
    message = rf"engine must be auto or one of onnxruntime, openvino.* for the layers features, {layer} of timm:test_resnet; got torch"
    with pytest.raises(RequestError, match=message):
        extract(str(data), out=tmp_path / "s.h5", engine="torch", **asked)
    with pytest.raises(
        EngineError, match=r"PyTorch runs the layers features and pooled .* Use another: engine=.onnxruntime"
    ):
        make_checked("torch", frozen(weights, layers=[layer]), lambda: BATCH)


def test_weights_that_have_changed_since_the_export_are_refused(tmp_path, weights):
    path = tmp_path / "copy.safetensors"
    shutil.copyfile(weights, path)
    base = frozen(path).base
    torch.manual_seed(4)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(
        WeightsError, match="weights of timm:test_resnet must be those of the exported model, of SHA-256"
    ):
        base.module(True)


def test_a_gpu_would_not_round_and_settings_are_as_before_afterwards():
    module, matmul, cudnn = Tiny(), torch.backends.cuda.matmul, torch.backends.cudnn

    def settings():
        return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.allow_tf32

    before = settings()
    module.register_forward_hook(lambda *_: module.seen.append(settings()))
    ENGINES["torch"].make(tiny(module)).run(np.zeros((2, 8, 8, 3), np.uint8))
    assert module.seen == [("ieee", "ieee", False)] * 2
    assert settings() == before and before[2]


def test_a_batch_that_does_not_fit_is_one_line_with_the_remedy():
    module = Tiny()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    engine = ENGINES["torch"].make(tiny(module))
    module.register_forward_hook(full)
    with pytest.raises(EngineError, match=r"must fit into the memory of cpu; 2 images of 8 px do not\. .*batch_size=1"):
        engine.run(np.zeros((2, 8, 8, 3), np.uint8))


def test_compiled_it_gives_the_same():
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    images, module = BATCH[:2, :8, :8], Tiny()
    expected = ENGINES["torch"].make(tiny(module)).run(images)["maps"]
    found = ENGINES["torch-compiled"].make(tiny(module)).run(images)["maps"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
