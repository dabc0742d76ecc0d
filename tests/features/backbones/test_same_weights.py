"""The same real weights, read in two ways, give the same features: VGG16 by Keras and as an ONNX file, EfficientNet-Lite0 here and in timm."""

import warnings

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from features.backbones.keras_base import build_base
from features.backbones.normalisation import make_normalisation
from features.backbones.onnx.packaged import PACKAGED
from features.engines.frozen_graph import Frozen
from features.engines.ready_base import draw_probes
from features.engines.registry import ENGINES
from features.safefiles.pickled_arrays import read_torch_file

CAFFE = str(make_normalisation(1.0, (103.939, 116.779, 123.68), channels="bgr"))


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.real
def test_vgg16_exported_by_keras_is_a_base_with_the_same_features(tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra export is not installed")
    side, images = 64, draw_probes(64)
    of_keras = build_base("vgg16", ["block3_pool", "block5_pool"], side)
    expected = Frozen(of_keras, side, len(images)).compute(images)
    path = tmp_path / "vgg16.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx's warnings about NumPy
        of_keras.model.export(path, format="onnx", verbose=False)
    import onnx

    outputs = [each.name for each in onnx.load(path, load_external_data=False).graph.output]
    base = build_base(str(path), outputs, side, CAFFE)
    found = ENGINES["onnxruntime"].make(Frozen(base, side, len(images))).run(images)
    by_shape = {base.layers[layer]: values for layer, values in found.items()}
    assert {name: base.kinds[name] for name in base.layers} == dict.fromkeys(base.layers, "map")
    for layer, values in expected.items():
        assert distance(by_shape[of_keras.layers[layer]], values) < 1e-5


@pytest.mark.skipif(
    PACKAGED["efficientnet_lite0"].find() is None, reason="the package of EfficientNet-Lite0 is not installed"
)
def test_efficientnet_lite0_is_that_of_timm_with_the_tensors_of_the_package():
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    timm = pytest.importorskip("timm", reason="the extra torch is not installed")
    packaged, images = PACKAGED["efficientnet_lite0"], draw_probes(224)
    held = list(read_torch_file(packaged.find().read_bytes()).items())
    model = timm.create_model("tf_efficientnet_lite0").eval()
    # Both list their tensors in the order of the network; only names differ.
    kept = {}
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    tensors = [values for name, values in held if not name.endswith("num_batches_tracked")]
    for name, values in zip(names, tensors, strict=True):
        kept[name] = torch.from_numpy(np.array(values, np.float32))
    model.load_state_dict(kept, strict=False)
    pixels = torch.from_numpy(((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2))
    with torch.no_grad():
        features = model.forward_features(pixels)
        logits = model.forward_head(features).numpy()
    base = build_base("efficientnet_lite0", ["top", "logits"], 224)
    found = ENGINES["onnxruntime"].make(Frozen(base, 224, len(images))).run(images)
    assert distance(found["top"], features.numpy().transpose(0, 2, 3, 1)) < 1e-4
    assert distance(found["logits"], logits) < 1e-4
