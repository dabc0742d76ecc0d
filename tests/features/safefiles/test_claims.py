"""Files that claim more than they hold, each read by a process that may take little memory beyond what it has."""

import json
import os
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from conftest import ROOT
from samples import blobs, provenance_of, rows_of, write_store

from features.errors import UnsafeFile
from features.safefiles.hdf5 import little_memory
from features.store.schema import digest_attributes, set_text

SECONDS = 60
# Reads a file with at most 1 GB beyond what the imports took, and prints what became of it.
CHILD = """
import resource, sys, time
from features.errors import CachedFeaturesError
from features.safefiles.json_files import read_json
from features.safefiles.keras_files import check_model_file
from features.store.reader import FeatureStore
from pathlib import Path
from pipeline.runs.predictions import load_predictions
readers = {"store": FeatureStore, "keras": check_model_file, "json": read_json, "npz": load_predictions}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
if len(sys.argv) == 3:
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
limits = resource.getrlimit(resource.RLIMIT_AS)
start = time.process_time()
try:
    readers[sys.argv[1]](Path(sys.argv[2]))
    print("read")
except CachedFeaturesError as error:
    print(type(error).__name__, str(error).replace(sys.argv[2], "FILE"), sep=": ")
assert time.process_time() - start < 20
assert resource.getrlimit(resource.RLIMIT_AS) == limits
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
assert int(peak.split()[1]) * 1024 < used + (3 << 29)  # not ru_maxrss, which begins with the parent's
"""


def outcome(kind, path, limit=True):
    """Return what a child says of a file; without a limit, it must keep one of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(path), *([] if limit else ["none"])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


@pytest.fixture
def store(tmp_path):
    """A store of two classes."""
    X, y, splits = blobs(2, rows=8)
    X = X.astype(np.float16)
    return write_store(tmp_path / "s.h5", {"last": X}, rows_of(y, splits, 2), provenance_of({"last": X.shape[1:]}))


def seal(path, edit):
    """Edit a store and make its checksum of attributes right again."""
    with h5py.File(path, "a") as file:
        edit(file)
        set_text(file, "sha256", digest_attributes(file))


def test_a_store_is_read(store):
    assert outcome("store", store) == "read"


@pytest.mark.parametrize("deep", [False, True])
def test_a_store_of_very_many_groups(store, deep):
    def fill(file):
        node = file
        for number in range(2000 if deep else 60_000):
            made = node.create_group(f"g{number}")
            node = made if deep else node

    seal(store, fill)
    assert outcome("store", store).startswith(
        "UnsafeFile: FILE has more than 50,000 objects, or groups within 30 others"
    )


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "UnsafeFile: FILE has attributes that take more than 1,073,741,824 bytes"),
        (3, "StoreError: FILE is damaged: its texts must have fixed lengths"),
    ],
)
def test_class_names_that_all_point_at_one_long_text(tmp_path, version, message):
    """1.2 MB; the names take 8 GB. Both HDF5's references, of 16 bytes, and its text are in the file as they are."""
    path, count, length = tmp_path / "s.h5", 4000, 1_000_000
    with h5py.File(path, "w", libver="earliest") as file:
        file.attrs["format"], file.attrs["format_version"] = "cached-features", version
        file.attrs["sha256"] = "0" * 64
        file.create_group("rows").attrs["class_names"] = ["x" * length] + ["a"] * (count - 1)
    data, head = bytearray(path.read_bytes()), struct.pack("<I", length)
    at = data.find(head)
    while struct.unpack("<I", data[at + 16 : at + 20]) != (1,):  # the length of the next name
        at = data.find(head, at + 1)
    data[at : at + 16 * count] = data[at : at + 16] * count
    path.write_bytes(data)
    assert outcome("store", path, limit=False).startswith(message)
    with h5py.File(path) as file:
        assert len(file["rows"].attrs.get_id("class_names").shape) == 1


def test_a_store_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "s.h5")
    assert outcome("store", tmp_path / "s.h5").startswith("UnsafeFile: FILE must be a regular file; it is a pipe")


WIDTHS = {
    "kernel_size": {"kernel_size": [40_000, 40_000], "filters": 1},
    "depth_multiplier": {"kernel_size": [3, 3], "depth_multiplier": 10**9},
    "num_heads": {"num_heads": 10**9, "key_dim": 2},
    "output_shape": {"equation": "abc,cd->abd", "output_shape": [None, 10**9]},
}


@pytest.mark.parametrize("name", WIDTHS)
def test_a_model_of_a_kernel_that_it_does_not_hold(tmp_path, name):
    kinds = {"num_heads": "MultiHeadAttention", "output_shape": "EinsumDense", "depth_multiplier": "DepthwiseConv2D"}
    layer = {"module": "keras.layers", "class_name": kinds.get(name, "Conv2D"), "config": WIDTHS[name]}
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/one/vars/0"] = np.zeros((3, 3, 3, 8), np.float32)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as made:
        made.writestr(
            "config.json", json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}})
        )
        made.write(tmp_path / "w.h5", "model.weights.h5")
    told = outcome("keras", tmp_path / "m.keras")
    assert told.startswith("UnsafeFile: FILE must hold Keras' own layers") and "it claims 1" in told and name in told


def test_predictions_of_four_gigabytes_in_four_megabytes(tmp_path):
    """Files of earlier versions are compressed, so a few hundred MB are taken."""
    head = repr({"descr": "<f8", "fortran_order": False, "shape": (1 << 29,)}).encode() + b"\n"
    with (
        zipfile.ZipFile(tmp_path / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as made,
        made.open("splits.npy", "w") as file,
    ):
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
        for _ in range(256):
            file.write(bytes(1 << 20))
    assert (tmp_path / "predictions.npz").stat().st_size < 4 << 20
    assert outcome("npz", tmp_path).startswith("RequestError: FILE/predictions.npz cannot be read")


def test_json_takes_little_more_than_its_file(tmp_path):
    """The largest that is read, of what takes most; another's results, such as probe.json beside a run, come this way, too."""
    text = "[" * 100 + "]" * 100 + ","
    (tmp_path / "probe.json").write_text('{"a": [' + text * ((16 << 20) // len(text) - 4) + "0]}")
    assert outcome("json", tmp_path / "probe.json") == "read"
    with open(tmp_path / "probe.json", "a") as file:
        file.write(" " * 4096)
    assert outcome("json", tmp_path / "probe.json").startswith("UnsafeFile: JSON must be at most 16,777,216 bytes")


@pytest.mark.parametrize("kind", [OSError, RuntimeError, KeyError])
def test_memory_that_hdf5_does_not_get_is_a_claim_whatever_h5py_makes_of_it(kind):
    """As seen in weights whose blocks were swapped: h5py's kind of error depends on what it was at."""
    said = "Link visitation failed (memory allocation failed for on disk image buffer)"
    with (
        pytest.raises(UnsafeFile, match="has attributes that take more than 1,073,741,824 bytes, or"),
        little_memory("w"),
    ):
        raise kind(said)
    with pytest.raises(kind, match="bad symbol table"), little_memory("w"):
        raise kind("Link visitation failed (bad symbol table node signature)")
