"""Images made on the spot, a tiny base, and stores of both."""

import csv
import importlib.util
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import standin
from PIL import Image
from samples import write_store

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # results of the tests' own base are those of the CPU
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests load exported models by ONNX Runtime itself

from features import FeatureStore, extract
from features.backbones.registry import BACKBONES, Backbone
from features.runtime.keras_runtime import import_torch
from features.runtime.log import log
from features.runtime.user_cache import cache_folder
from features.store import schema
from features.store.provenance import Provenance

if (
    importlib.util.find_spec("triton") is not None
):  # before tests import TensorFlow, and then PyTorch without `import_torch`
    import_torch()

HOSTILE = """<img src=x onerror=window.hacked=1>'"&amp;"""
HOSTILE_CLASSES = (HOSTILE, "</script><script>window.hacked=2</script>")
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder with photos and hostile files beside the project, where there is one."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep what tests make out of the user's cache, whose ImageNet weights are read."""
    home, users = tmp_path_factory.mktemp("cache"), cache_folder()
    (home / "cached-features").mkdir()
    for weights in users.glob("*.weights.h5"):
        (home / "cached-features" / weights.name).symlink_to(weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Register the bases of tests/tiny.py."""
    monkeypatch.setitem(BACKBONES, "tiny", Backbone("tiny", "Tiny", "last", 16, 8))
    monkeypatch.setitem(BACKBONES, "tiny_tokens", Backbone("tiny", "TinyTokens", "tokens", 16, 8))
    monkeypatch.setitem(BACKBONES, "tiny_chain", Backbone("tiny", "TinyChain", "pool6", 16, 16))
    monkeypatch.setitem(BACKBONES, "tiny_graph", Backbone("tiny", "TinyGraph", "last_relu", 64, 32))


def draw(path, seed, colour=None):
    """Write a small image: noise around a colour."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (20, 24, 3)) // 2 + np.array(colour or (60, 60, 60))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def draw_tree(root, counts=None, splits=True):
    """Write a folder of `counts[split]` images a class (two classes that differ in colour)."""
    counts, seed = counts or {"train": 8, "val": 4, "test": 4}, 0
    for split, count in counts.items():
        for name, colour in (("blue", (20, 20, 120)), ("red", (120, 20, 20))):
            for number in range(count):
                seed += 1
                below = Path(split, name) if splits else Path(name)
                draw(root / below / f"{split}{number:03d}.png", seed, colour)
    return root


@pytest.fixture
def tree(tmp_path):
    """A folder of 32 images in split/class/file."""
    return draw_tree(tmp_path / "photos")


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """A finished store of 32 images through the tiny base."""
    folder = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Backbone("tiny", "Tiny", "last", 16, 8))
        extract(str(draw_tree(folder / "photos")), backbone="tiny", out=folder / "tiny.h5", batch_size=5)
    return folder / "tiny.h5"


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A comparison of three heads on 33 images, whose files and classes are named by somebody who means harm.

    The first class is blue, the second red; an image of its test split is copied into train.
    """
    from pipeline.training.comparison import compare

    folder, seed = tmp_path_factory.mktemp("hostile"), 0
    with open(folder / "photos.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for name, colour in zip(HOSTILE_CLASSES, ((20, 20, 120), (120, 20, 20)), strict=True):
            for split, count in (("train", 8), ("val", 3), ("test", 5)):
                for number in range(count):
                    seed += 1
                    path = f"{'a' if number else HOSTILE}{seed}.png"
                    draw(folder / path, seed, colour)
                    table.writerow([path, name, split])
        shutil.copy(folder / path, folder / "copy.png")
        table.writerow(["copy.png", name, "train"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Backbone("tiny", "Tiny", "last", 16, 8))
        extract(str(folder / "photos.csv"), backbone="tiny", out=folder / "s.h5", batch_size=8)
    compare(folder / "s.h5", ["logistic", "knn", "majority"], out=folder / "runs/c")
    return folder / "runs/c"


@pytest.fixture
def stand_in(monkeypatch):
    """Replace the base and the engine, and count images."""
    for registry, name, row in standin.rows():
        monkeypatch.setitem(registry, name, row)
    standin.calls.clear()


@pytest.fixture
def small_disk():
    """A disk of 200 kB, where this process may mount one."""
    place = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


@pytest.fixture
def said():
    """Collect the program's messages; those of a higher level than INFO behind its name."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(
        record.getMessage()
        if record.levelno == logging.INFO
        else f"{record.levelname.lower():<8} {record.getMessage()}"
    )
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def contents(path):
    """Return every dataset of a store, by name, but for the digests of chunks, which depend on how they are packed."""
    with FeatureStore(path) as store:
        found = {}
        store._file.visititems(lambda name, node: found.update({name: node[()]}) if hasattr(node, "dtype") else None)
        return {name: values for name, values in found.items() if not name.startswith("digests/chunks")}


def assert_same_stores(one, other):
    """Compare two stores dataset by dataset."""
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def rewrite(path, change):
    """Copy a store into another with `change` applied, checksums and all: what only computing again can find."""
    with h5py.File(path) as old:
        values, told = change(old["features/last"][:], json.loads(old.attrs["provenance"]))
        rows = schema.read_rows(old)
    return write_store(path.with_name("changed.h5"), {"last": values}, rows, Provenance.from_json(told, "a test's"))
