"""Models of timm are bases: features, layers and heads, against plain PyTorch. All weights here are random, and mean nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import draw_tree

pytest.importorskip("torch", reason="the extra torch is not installed")
pytest.importorskip("timm", reason="the extra torch is not installed")
pytest.importorskip("safetensors", reason="the extra torch is not installed")
pytest.importorskip("onnxscript", reason="the extra torch is not installed")
pytest.importorskip("onnxruntime", reason="the extra torch is not installed")

import sklearn
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from features import ConvFeatures, FeatureStore, extract
from features.backbones.keras_base import build_base
from features.backbones.onnx import timm_models
from features.backbones.onnx.description import Description
from features.backbones.onnx.tensors import Input, Tensor
from features.backbones.registry import find_backbone
from features.engines.frozen_graph import Frozen
from features.engines.ready_base import draw_probes
from features.engines.registry import ENGINES, is_installed
from features.errors import RequestError, StoreError, WeightsError
from features.extraction.request import FeatureOptions, extract_again
from features.images.decoding import decode, read_bytes
from pipeline import export, predict, train_head
from pipeline.cli.commands import main
from pipeline.reports.analysis.class_activation import activation_maps
from pipeline.runs.trained_run import load_trained

ENGINES_OF_TIMM = [each for each in ("onnxruntime", "openvino", "torch") if is_installed(each)]
# Model, side in pixels, shape of its features: 5 x 5 patches behind a class token and 4 registers, and maps.
MODELS = [
    ("vit_small_patch14_reg4_dinov2.lvd142m", 70, (30, 384)),
    ("test_convnext", 64, (2, 2, 64)),
    ("test_efficientnet", 64, (2, 2, 256)),
    ("test_resnet", 64, (2, 2, 96)),
]


def draw(name, path, **options):
    """Write a model's file of weights, drawn from a seed, and return the model."""
    torch.manual_seed(3)
    model = timm.create_model(name, **options).eval()
    for values in model.state_dict().values():  # of BatchNorm and layer scales, too
        if values.is_floating_point():
            values.add_(0.1 * torch.rand_like(values))
    save_file(model.state_dict(), path)
    return model


@pytest.fixture
def weights(tmp_path):
    """A file of weights of a small residual network."""
    draw("test_resnet", tmp_path / "drawn.safetensors")
    return tmp_path / "drawn.safetensors"


def forward(model, images):
    """Return features and pooled features of RGB images, (n, h, w, 3), uint8, by PyTorch alone; maps channels last."""
    mean, std = (model.pretrained_cfg[each] for each in ("mean", "std"))
    pixels = ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        features = model.forward_features(torch.from_numpy(pixels))
        pooled = model.forward_head(features, pre_logits=True).numpy()
    features = features.numpy()
    return (features.transpose(0, 2, 3, 1) if features.ndim == 4 else features), pooled


def assert_close(found, expected, allowed=1e-4):
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= allowed * np.linalg.norm(expected)


@pytest.mark.parametrize(("name", "side", "shape"), MODELS)
def test_features_are_those_of_pytorch(tmp_path, name, side, shape):
    weights = tmp_path / "drawn.safetensors"
    model = draw(name, weights, **({"img_size": side} if "vit" in name else {}))
    backbone = find_backbone(f"timm:{name}")
    # PyTorch exports the pooling of ConvNeXt by steps whose shape ONNX does not tell, so it is no layer.
    layers = ["features"] if "convnext" in name else ["features", "pooled"]
    base = build_base(f"timm:{name}", [backbone.layer, *layers[1:]], side, weights=str(weights))
    assert base.layers["features"] == shape
    assert [base.kinds[each] for each in layers] == ["tokens" if len(shape) == 2 else "map", "vector"][: len(layers)]
    images = draw_probes(side)
    expected, pooled = forward(model, images)
    for engine in ENGINES_OF_TIMM:
        found = ENGINES[engine].make(Frozen(base, side, len(images))).run(images)
        assert_close(found["features"], expected)
        if "pooled" in found:
            assert_close(found["pooled"], pooled)
    if len(shape) == 2:
        both = ENGINES["onnxruntime"].make(Frozen(base, side, len(images), "cls+avg")).run(images)["features"]
        assert_close(both, np.hstack([expected[:, 0], expected[:, 5:].mean(axis=1)]))


@pytest.mark.parametrize(("name", "side"), [("test_vit", 64), ("test_convnext", 64)])
def test_a_file_that_pytorch_exports_is_a_base_with_the_same_features(tmp_path, name, side):
    weights, file = tmp_path / "drawn.safetensors", tmp_path / "own.onnx"
    model = draw(name, weights, **({"img_size": side} if "vit" in name else {}))
    model.forward = model.forward_features
    free = ({0: torch.export.Dim("n")},)
    images = torch.zeros(2, 3, side, side)
    torch.onnx.export(model, (images,), str(file), dynamo=True, external_data=False, dynamic_shapes=free, verbose=False)
    by_name = build_base(f"timm:{name}", ["features"], side, weights=str(weights))
    by_file = build_base(str(file), [find_backbone(str(file)).layer], side, find_backbone(f"timm:{name}").preprocess)
    run = ENGINES["onnxruntime"].make
    (expected,), (found,) = (run(Frozen(base, side, 8)).run(draw_probes(side)).values() for base in (by_name, by_file))
    assert_close(found, expected)


def test_a_transformer_goes_through_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data, weights = draw_tree(tmp_path / "photos"), tmp_path / "drawn.safetensors"
    model = draw("test_vit", weights, img_size=64)
    asked = {"backbone": "timm:test_vit", "image_size": 64, "weights": str(weights), "dtype": "float32"}
    done = extract(str(data), **asked)
    assert done.path.name == "photos-timm-test_vit.h5"
    with FeatureStore(done.path) as store:
        spec, tokens = store.made.spec, store.read("features", "flatten").reshape(-1, 17, 64)
        files = [data / each for each in store.rows.paths]
    images = np.stack([decode(read_bytes(each), spec.image_spec) for each in files])
    assert (spec.resize, spec.fit, spec.preprocess) == (
        "bicubic",
        "crop:0.95",
        find_backbone("timm:test_vit").preprocess,
    )
    expected, _ = forward(model, images)
    assert_close(tokens, expected)
    assert extract(str(data), **asked).computed == 0
    vectors = ConvFeatures(**asked, pool="flatten", cache=None).transform(files)
    assert_close(vectors.reshape(tokens.shape), tokens, 1e-6)

    for pool in ("avg", "cls"):
        train_head(done.path, head="logistic", pool=pool, out=tmp_path / pool)
    head = load_trained(tmp_path / "avg").head
    coef, _ = head.coefficients(2)
    looked = activation_maps(tokens[:, 1:].reshape(-1, 4, 4, 64), coef, "avg")
    assert_close(looked, activation_maps(expected[:, 1:].reshape(-1, 4, 4, 64), coef, "avg"))

    of_store = predict(tmp_path / "cls", data / "test").predictions
    done.path.unlink()
    for before, after in zip(of_store, predict(tmp_path / "cls", data / "test").predictions, strict=True):
        assert before.probabilities == pytest.approx(after.probabilities, abs=1e-5)
    assert main(["layers", "timm:test_vit", "--image-size", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["default"], told["layers"]["features"]) == ("features", [17, 64])


def test_a_transformer_is_exported_with_its_head(tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra export is not installed")
    data, weights = draw_tree(tmp_path / "photos"), tmp_path / "drawn.safetensors"
    draw("test_vit", weights, img_size=64)
    asked = {"backbone": "timm:test_vit", "image_size": 64, "weights": str(weights)}
    done = extract(str(data), out=tmp_path / "s.h5", **asked)
    train_head(done.path, head="logistic", pool="cls+avg", out=tmp_path / "run")
    exported = export(tmp_path / "run", tmp_path / "model.onnx")
    assert exported.parity["rows"] > 0
    assert exported.parity["same_class"] == exported.parity["rows"]


PHOTO = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"  # 640 x 427


@pytest.mark.parametrize(
    ("name", "rule", "fit"),
    [
        ("vit_small_patch14_reg4_dinov2.lvd142m", "bicubic", "crop:1"),
        ("tf_efficientnet_lite0.in1k", "bicubic", "crop"),
        ("resnet50.tv_in1k", "bilinear", "crop"),
        ("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", "bicubic", "stretch"),
    ],
)
def test_photos_become_the_pixels_that_timm_makes_of_them(tmp_path, name, rule, fit):
    told = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    by_timm = create_transform(**told, normalize=False)
    spec = FeatureOptions(backbone=f"timm:{name}").image_spec
    assert (spec.size, spec.resize, spec.fit) == (told["input_size"][1], rule, fit)
    other = replace(spec, resize="bicubic" if rule == "bilinear" else "bilinear")
    square = tmp_path / "square.png"
    Image.open(PHOTO).crop((0, 0, 427, 427)).save(square)

    def differences(path, spec):
        expected = np.asarray(by_timm(Image.open(path))).transpose(1, 2, 0).astype(int)
        return np.abs(expected - decode(read_bytes(path), spec))

    assert differences(square, spec).max() <= 1
    assert differences(square, other).mean() > 1
    # timm rounds sides and crops of other photos to whole pixels: half a pixel off, where it crops.
    assert differences(PHOTO, spec).mean() < (8 if fit == "crop" else 1)


def test_a_rule_that_is_named_or_stored_is_kept(tmp_path, weights):
    data = draw_tree(tmp_path / "photos")
    asked = {"image_size": 32, "weights": str(weights), "dtype": "float32"}

    def rule(**options):
        done = extract(str(data), backbone="timm:test_resnet", out=tmp_path / "s.h5", **asked, **options)
        with FeatureStore(done.path) as store:
            return store.made.spec.resize

    assert find_backbone("timm:test_resnet").resize == "bilinear"
    assert rule(resize="bicubic") == rule() == "bicubic"
    with pytest.raises(StoreError, match="resize: stored bicubic, requested bilinear"):
        rule(resize="bilinear")
    with FeatureStore(tmp_path / "s.h5") as store:
        again = extract_again(store.made, tmp_path / "t.h5")
    assert "resize='bicubic'" in again


def test_tensorflow_may_have_been_imported_before():
    """In a process of its own, since a library for GPUs that PyTorch imports would end it."""
    code = (
        "from features.runtime.keras_runtime import import_keras; import_keras()\n"
        "from features.backbones.onnx.timm_models import layers_of_timm\n"
        "print(layers_of_timm('timm:test_resnet', 64)['features'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(2, 2, 96)"), done.stderr[-2000:]


def test_models_that_cannot_be_exported_are_refused_with_the_reason(monkeypatch):
    def fail(*given, **options):
        raise RuntimeError("\x1b[96mStep 2/3\x1b[0m failed.\nNext steps") from ValueError(
            "cannot view 3 as 2\nTraceback"
        )

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(RequestError, match=r"export to ONNX at 64 pixels; cannot view 3 as 2. Take another.$"):
        timm_models.layers_of_timm("timm:test_resnet", 64)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (160, r"^timm:test_vit must give the tokens of a square of patches, .* it gives 12 in all. Take another.$"),
        (96, r"^image_size must give timm:test_vit so many patches .* got 96, .* Take its own: image_size=160$"),
    ],
)
def test_tokens_that_would_be_miscounted_are_refused(side, message):
    tensors = {"features": Tensor("features", (12, 8), "tokens", True)}
    described = Description("0" * 64, Input("images", 1, False, None, side), side, tensors, "features")
    with pytest.raises(RequestError, match=message):
        timm_models._check_features("timm:test_vit", described, SimpleNamespace(num_prefix_tokens=1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "timm:test_vlt"}, RequestError, "backbone must be a model of timm .*Nearest: .*timm:test_vit"),
        ({"backbone": "timm:hf-hub:a/b"}, RequestError, "backbone must be a model of timm"),
        ({"backbone": "timm:resnet18.of_nothing"}, RequestError, "must name weights that timm knows.*timm:resnet18.a1_in1k"),
        ({"weights": "absent.safetensors"}, RequestError, "weights must be a file; got absent.safetensors"),
        ({"preprocess": "half"}, RequestError, "preprocess must be 'scale=.* as it was trained; got 'half'. Leave it out"),
        ({"mean": (0.5,)}, RequestError, "mean must be left out for timm:test_resnet"),
        ({"engine": "tensorflow"}, RequestError, "engine must be auto or one of onnxruntime, openvino"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused(tmp_path, options, error, message):
    data = draw_tree(tmp_path / "photos")
    with pytest.raises(error, match=message):
        extract(str(data), out=tmp_path / "s.h5", **{"backbone": "timm:test_resnet", **options})


def test_a_file_of_other_weights_is_refused_in_one_line(tmp_path):
    other, path = tmp_path / "other.safetensors", tmp_path / "pickled.pth"
    save_file({"conv1.weight": torch.zeros(2, 2)}, other)
    torch.save({"model": draw_tree}, path)  # a function, which only a pickle that is trusted could name
    for file in (other, path):
        with pytest.raises(WeightsError, match=rf"weights of timm:test_resnet must be there and fit; {file}: [^\n]+$"):
            build_base("timm:test_resnet", ["features"], 64, weights=str(file))
