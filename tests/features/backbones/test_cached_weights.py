"""Weights in the per-user cache: damage is a miss and heals, and what was replaced while it was read is not believed."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, draw

from features.backbones import weights
from features.errors import WeightsError
from features.runtime.user_cache import cache_folder


def small():
    """Return a model of its own weights."""
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A base called ``small`` whose weights are in a package, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    held = [np.arange(12, dtype="f4").reshape(4, 3), np.ones(3, "f4")]
    model = small()
    model.set_weights(held)
    monkeypatch.setitem(weights.IMAGENET_SHA256, "small", weights.fingerprint_weights(model))
    monkeypatch.setitem(weights.CARRIERS, "small", ("a_package", "small.onnx"))
    monkeypatch.setattr(weights, "_carrier_file", lambda backbone: tmp_path / "small.onnx")
    monkeypatch.setattr(weights, "_load_onnx", lambda model, path: model.set_weights(held))
    return cache_folder() / "small-imagenet.weights.h5"


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "others", "another model's"])
def test_a_damaged_cached_file_is_left_out_and_made_again(packaged, damage, said):
    assert weights.load_weights(small(), "small").origin == "package a-package"
    whole = packaged.read_bytes()
    assert weights.load_weights(small(), "small").origin == "per-user cache" and not said
    if damage in ("others", "another model's"):
        other = small() if damage == "others" else keras.Sequential([keras.Input((9,)), keras.layers.Dense(2)])
        other.save_weights(packaged)
    else:
        packaged.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"<html>not found</html>"}[damage])
    loaded = weights.load_weights(small(), "small")
    assert loaded.origin == "package a-package" and loaded.sha256 == weights.IMAGENET_SHA256["small"]
    assert len(said) == 1 and "is left out, and made again" in said[0]
    assert weights.load_weights(small(), "small").origin == "per-user cache" and len(said) == 1


def test_a_cached_file_that_cannot_be_read_is_left_out_and_not_called_damaged(packaged, monkeypatch, said):
    weights.load_weights(small(), "small")

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(weights, "check_weights_file", refused)
    assert weights.load_weights(small(), "small").origin == "package a-package"
    assert len(said) == 1 and "cannot be used ([Errno 13]" in said[0] and "damaged" not in said[0]


def test_a_damaged_cached_file_that_nothing_replaces_names_the_ways(packaged, monkeypatch, said):
    monkeypatch.setattr(weights, "_carrier_file", lambda backbone: None)
    packaged.parent.mkdir(parents=True)
    packaged.write_bytes(b"")
    with pytest.raises(WeightsError, match="the ImageNet weights of small are not available"):
        weights.load_weights(small(), "small")
    assert "is damaged" in said[0]


def test_the_package_stands_in_for_a_damaged_file_in_keras_cache(packaged, monkeypatch, said):
    monkeypatch.setattr(weights, "_in_keras_cache", lambda backbone: [Path("small_notop.h5")])

    def download():
        raise OSError("Unable to synchronously open file (truncated file)")

    assert weights.load_weights(small(), "small", download=download).origin == "package a-package"
    assert "truncated file" in said[0] and "The package is taken instead" in said[0]


def test_a_file_that_was_replaced_while_it_was_loaded_is_not_believed(packaged, tmp_path, monkeypatch):
    file, model, load = tmp_path / "w.weights.h5", small(), weights._load_file
    model.save_weights(file)
    sha256 = weights.fingerprint_weights(model)

    def load_and_replace(model, path):
        load(model, path)
        os.replace(tmp_path / "new.weights.h5", path)

    small().save_weights(tmp_path / "new.weights.h5")
    monkeypatch.setattr(weights, "_load_file", load_and_replace)
    assert weights.load_weights(small(), "small", str(file), sha256).sha256 == sha256
    assert weights.recall_sha256("small", str(file)) is None
    monkeypatch.setattr(weights, "_load_file", load)
    with pytest.raises(WeightsError, match="must have SHA-256"):
        weights.load_weights(small(), "small", str(file), sha256)
    model.save_weights(file)
    weights.load_weights(small(), "small", str(file), sha256)
    assert weights.recall_sha256("small", str(file)) == sha256


def test_a_cache_that_cannot_be_written_is_said_and_gone_without(packaged, said):
    packaged.parent.parent.mkdir(parents=True)
    packaged.parent.write_text("a file, where a folder should be")
    assert weights.load_weights(small(), "small").origin == "package a-package"
    assert len(said) == 1 and "cannot be written" in said[0] and "XDG_CACHE_HOME" in said[0]


# Extracts, trains and predicts with the stand-in engine: first as root, which imports all that is needed from folders that others
# may not read, and then as a user without rights.
CHILD = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import standin
from features.runtime.user_cache import remember
from pipeline.cli.commands import main

standin.install()

def work(folder):
    os.chdir(folder)
    for command in (
        ["extract", "photos", "--backbone", "tiny", "--out", "s.h5"],
        ["train-head", "s.h5", "--head", "logistic", "--out", "run"],
        ["predict", "run", "new.png"],
    ):
        status = main(command)
        if status:
            sys.exit(status)

work(sys.argv[2])
print("as nobody", file=sys.stderr, flush=True)
del os.environ["XDG_CACHE_HOME"]
os.environ["HOME"] = sys.argv[4]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
work(sys.argv[3])
remember("notes", 1, 2)  # as real bases have it, of which the stand-in is none
remember("notes", 2, 3)
"""


def all_may_enter(*places):
    """Return whether every user may enter these folders: not below one that ``mktemp -d`` made."""
    return all(each.stat().st_mode & 0o001 for place in places for each in (place, *place.parents))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become a user without rights"
)
@pytest.mark.skipif(
    not all_may_enter(ROOT, Path(sys.prefix)), reason="needs a checkout and an environment that every user may read"
)
@pytest.mark.parametrize("home", ["locked", "gone"])
def test_a_user_who_may_not_write_the_cache_goes_on(tree, home):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "locked").mkdir(mode=0o555)
        for work in (place / "first", place / "second"):
            shutil.copytree(tree, work / "photos")
            draw(work / "new.png", 77)
            work.chmod(0o777)
        environment = {**os.environ, "XDG_CACHE_HOME": str(place / "roots"), "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, ROOT, place / "first", place / "second", place / home],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
        before, after = done.stderr.split("as nobody")
        told = [line for line in after.splitlines() if "cannot be written (Permission denied)" in line]
        assert len(told) == 1 and str(place / home) in told[0] and "XDG_CACHE_HOME" in told[0]
        assert "cannot be written" not in before
