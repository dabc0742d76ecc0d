"""Whatever libraries write of their own, the terminal of a run that is well shows this program's lines alone."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, draw_tree

from features.backbones.keras_base import build_base
from features.engines.registry import is_installed

# A word of ours and what it tells, its continuation, or progress.
OURS = re.compile(
    r"([a-z]{2,8} *(?<=^.{8}) \S.*|         \S.*|([\w.-]+: )?(\d+/\d+|\d+ % of \d+) [a-z0-9 ]+(, .*left)?)"
)
CHILD = """
import json, sys
from pipeline.cli.commands import main
for command in json.loads(sys.argv[1]):
    status = main(command + ["--json"])
    if status:
        sys.exit(status)
"""
LEARN = [["compare", "s.h5", "--heads", "logistic,dense", "--out", "c"], ["report", "c"]]
EXPORTS = [["train-head", "s.h5", "--head", "dense", "--out", "r"],
           *(["export", "r", "--out", model] for model in ("m.keras", "m.onnx"))]  # fmt: skip
USE = [["train-head", "s.h5", "--out", "r"], ["predict", "r", "photos/test"], ["next", "r", "photos/test", "-n", "2"],
       ["export", "r", "--out", "m.onnx"]]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos, and with bases that a fresh process can read."""
    folder = tmp_path_factory.mktemp("noise")
    draw_tree(folder / "photos")
    return folder


@pytest.mark.parametrize(
    ("engine", "base", "after"),
    [
        ("tensorflow", "own.keras", []),
        ("openvino", "own.keras", EXPORTS),
        ("numba", "own.keras", LEARN),
        ("onnxruntime", "own.onnx", USE),
    ],
)
def test_libraries_are_not_heard(folder, tmp_path, engine, base, after):
    """Each engine is another order in which libraries are first imported, so each has a process."""
    exports = any("m.onnx" in command for command in after)
    if not is_installed(engine) or (exports and not is_installed("onnxruntime")):
        pytest.skip(f"the extra of {engine}, or export, is not installed")
    if not (folder / base).exists():
        if base.endswith("onnx"):
            models = pytest.importorskip("onnx_models", reason="the extra onnx is not installed", exc_type=ImportError)
            models.save(models.maps(), folder / base)
        else:
            build_base("tiny_chain", ["-1"], 16).model.save(folder / base)
    for each in (base, "photos"):
        (tmp_path / each).symlink_to(folder / each)
    extract = ["extract", "photos", "--backbone", base, "--engine", engine, "--out", "s.h5", "--image-size", "16",
               "--preprocess", "none"]  # fmt: skip
    commands = [extract, *after]
    loud = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name not in loud} | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not OURS.fullmatch(line)] == []
    if after is USE:
        assert "next     cached-features export --run r --out model.onnx" in done.stderr  # not .keras, which is refused
    answers = done.stdout.splitlines()
    assert len(answers) == len(commands) and all(isinstance(json.loads(answer), dict) for answer in answers)
