"""Models of hubs: refused by name, and a base once they are exported by the lines that features/README.md gives."""

import re
import warnings

import numpy as np
import pytest
from conftest import ROOT

from features.backbones.keras_base import build_base
from features.backbones.registry import find_backbone
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES
from features.errors import RequestError


@pytest.mark.parametrize(
    "name", ["torch.hub:a/b", "torchhub:a/b", "keras_hub:dinov2_base", "hf-hub:timm/a", "HF-Hub:a"]
)
def test_hubs_are_refused_with_the_way_around(name):
    message = rf"backbone must be timm:NAME, FILE.onnx, .*; got {name}, .* Export it .* then: backbone='own.onnx'$"
    with pytest.raises(RequestError, match=message):
        find_backbone(name)


def test_the_lines_of_the_readme_make_a_base(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    for package in ("torchvision", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra torch is not installed")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "features/README.md").read_text(encoding="utf-8").split("### Models of hubs")[1]
    (lines,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    made = {}
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        exec(lines, made)
    backbone = find_backbone("own.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    base = build_base("own.onnx", [backbone.layer], backbone.image_size, "imagenet")
    (found,) = ENGINES["onnxruntime"].make(Frozen(base, 224, 3)).run(images).values()
    pixels = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        expected = made["model"](torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32))
    expected = expected.numpy().transpose(0, 2, 3, 1)
    assert found.shape == expected.shape == (3, 7, 7, 576)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
