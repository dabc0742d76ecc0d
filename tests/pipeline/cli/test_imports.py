"""A command imports only the heavy libraries that it needs, since each takes as long to import as small work takes to do."""

import json
import subprocess
import sys

import pytest
from conftest import draw_tree

from features import extract
from features.backbones.keras_base import build_base
from features.engines.registry import is_installed
from pipeline import train_head

HEAVY = ("tensorflow", "keras", "numba", "openvino", "matplotlib", "sklearn", "scipy.stats", "skops", "dask", "onnx")
STATISTICS = {"sklearn", "scipy.stats"}
CHILD = f"""
import json, sys
from pipeline.cli.commands import main
status = main(sys.argv[1:])
print(json.dumps([status, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def imported(*arguments):
    """Run a command in a fresh process, and return what heavy it imported."""
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    status, found = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    return set(found)


def test_help_imports_nothing_heavy():
    assert imported() == set()


def test_heads_that_need_no_tensorflow_do_not_import_it(tiny_store, tmp_path):
    assert imported("train-head", "--store", tiny_store, "--head", "logistic", "--out", tmp_path / "run") <= STATISTICS
    options = ["--heads", "logistic,majority", "--out", tmp_path / "compared"]
    assert imported("compare", "--store", tiny_store, *options) <= STATISTICS | {"matplotlib"}


@pytest.mark.parametrize(("engine", "needs"), [("numba", set()), ("openvino", {"openvino"})])
def test_a_linear_head_on_a_ready_base_predicts_with_the_engine_alone(engine, needs, tmp_path):
    if not is_installed(engine):
        pytest.skip(f"the extra {engine} is not installed")
    build_base("tiny_chain", ["-1"], 16).model.save(tmp_path / "own.keras")
    data = draw_tree(tmp_path / "photos")
    extract(str(data), backbone=str(tmp_path / "own.keras"), engine=engine, out=tmp_path / "s.h5")
    train_head(tmp_path / "s.h5", head="logistic", out=tmp_path / "run")
    (tmp_path / "s.h5").unlink()  # so that the base computes the images
    assert imported("predict", "--run", tmp_path / "run", data / "test") == needs


def test_a_store_is_extracted_without_tensorflow_where_the_base_is_ready(tmp_path):
    if not is_installed("numba"):
        pytest.skip("the extra numba is not installed")
    build_base("tiny_chain", ["-1"], 16).model.save(tmp_path / "own.keras")
    data = draw_tree(tmp_path / "photos")
    options = ["--backbone", tmp_path / "own.keras"]
    extract(str(data), backbone=str(tmp_path / "own.keras"), out=tmp_path / "s.h5")
    assert imported("extract", "--data", data, *options, "--out", tmp_path / "again.h5") == set()
