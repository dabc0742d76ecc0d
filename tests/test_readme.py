"""What the README shows in Python runs as it stands."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import draw, draw_tree

import pipeline
from features.engines.registry import ENGINES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = [textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n|^\n)+", README, re.M)]
EXAMPLES = [block for block in EXAMPLES if re.search(r"^(import|from) ", block, re.M)]
EXAMPLES = [block for block in EXAMPLES if "dask_jobqueue" not in block]  # which needs a job queue


def test_examples_run_in_their_order(tmp_path, monkeypatch):
    """On the tiny base instead of VGG16, and small images for photos."""
    pytest.importorskip("tf2onnx", reason="the extra export is not installed")
    for name in ENGINES.keys() - {"tensorflow"}:  # engines are not timed first
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], module="not_installed"))
    monkeypatch.chdir(tmp_path)
    files = sorted(draw_tree(tmp_path / "photos").rglob("*.png"))
    draw(tmp_path / "new/chelsea.png", 77)
    (tmp_path / "drive").mkdir()
    scope = {"paths": files, "labels": [file.parent.name for file in files]}
    assert len(EXAMPLES) == 4
    for example in EXAMPLES:
        for name, instead in {"vgg16": "tiny", "block4_pool": "relu", "block5_pool": "last"}.items():
            example = example.replace(name, instead)
        if "photos.keras" in example:
            pipeline.export(scope["run"]["out"], "photos.keras", rows=4)
        exec("\n".join(line for line in example.splitlines() if not line.startswith("%")), scope)
    assert scope["X"].shape == (32, 6) and scope["search"].best_score_ > 0.5
    assert Path("photos.onnx").exists() and Path("drive/compare/report.html").exists()
