"""Stores of every format that ever landed, kept as files, still open, and give the values that were written."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import assert_same_stores, draw, draw_tree

from features import FeatureStore, extract
from features.errors import StoreError
from features.extraction.verification import verify
from features.safefiles.hdf5 import filters_of
from features.store.parts import upgrade_store
from features.store.schema import digest_attributes

FORMATS = Path(__file__).with_name("formats")
# SHA-256 of each layer's values as the version that wrote the file read them, with h5py alone.
LAST = "5fba3695fb72430883ec745d6dfd3be92279010827b40cbdc68de58a9d48a5b6"
VALUES = {
    "format1.h5": {"last": LAST},
    "format1-parts.h5": {"last": LAST},
    "format1-gzip.h5": {
        "relu": "5065a6aac05fa9d0b4ac7a9ff322bca41880c75cc0bff8ce2830693a57b00798",
        "last": "91494def50a141605f45e6ce3b30525898b804f6526fa1eb1ebbccc7fe66af15",
    },
    "format2.h5": {"last": LAST},
    "format2-parts.h5": {"last": LAST},
    "format3.h5": {"last": LAST},
    "format3-parts.h5": {"last": LAST},
}


def hashes(path):
    with FeatureStore(path) as store:
        return {
            layer: hashlib.sha256(store.read(layer).astype(np.float16).tobytes()).hexdigest() for layer in store.layers
        }


@pytest.mark.parametrize("name", VALUES)
def test_a_store_of_any_format_gives_the_values_that_were_written(name):
    with FeatureStore(FORMATS / name) as store:
        assert store.rows.class_names == ("blue", "red") and store.rows.paths[0] == "test/blue/test000.png"
        assert store.kinds == dict.fromkeys(store.layers, "map") and store.format_version == int(name[6])
        assert store.made.spec.decode == "full"  # which none of them records
        columns = {} if name < "format2" else {"number": tuple(path[-7:-4] for path in store.rows.paths)}
        assert store.rows.columns == columns
    assert hashes(FORMATS / name) == VALUES[name]


@pytest.fixture
def old(tmp_path, request):
    """A copy of a kept store."""
    shutil.copy(FORMATS / request.param, tmp_path)
    if (FORMATS / f"{request.param}.parts").exists():
        shutil.copytree(FORMATS / f"{request.param}.parts", tmp_path / f"{request.param}.parts")
    return tmp_path / request.param


@pytest.mark.parametrize("old", [name for name in VALUES if name < "format3"], indirect=True)
def test_upgrading_keeps_all_values_and_computes_nothing(old, said):
    assert upgrade_store(old) and not upgrade_store(old)
    with FeatureStore(old) as store:
        assert store.format_version == 3 and store.made.compression == "gzip"
    assert hashes(old) == VALUES[old.name] and verify(old, rows=0)[0].held
    assert any(f"has format {old.name[6]}; it becomes format 3" in line for line in said)
    code = f"import h5py; print(h5py.File({str(old)!r})['features/last'][0].sum() > 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("old", ["format1.h5", "format1-gzip.h5"], indirect=True)
def test_upgrading_a_damaged_store_is_an_error_that_names_it(old):
    with h5py.File(old) as file:
        chunk = file["features/last"].id.get_chunk_info(0)
    data = bytearray(old.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    old.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{old} is damaged .*restore a copy"):
        upgrade_store(old)
    assert old.read_bytes() == data


@pytest.mark.parametrize("old", ["format1-parts.h5"], indirect=True)
def test_upgrading_keeps_parts_that_the_store_does_not_use(old):
    """Those of a pass that adds images and was interrupted."""
    folder = Path(f"{old}.parts")
    (part,) = folder.glob("part-*.h5")
    other = Path(shutil.copy(part, folder / "part-of-an-interrupted-pass.h5"))
    with h5py.File(other, "a") as file:
        file["sha256"][:] = file["sha256"][:] ^ 1  # other contents
    kept = other.read_bytes()
    assert upgrade_store(old)
    assert other.read_bytes() == kept and not part.exists()


@pytest.mark.parametrize("layout", ["file", "parts"])
def test_a_store_of_format_1_grows_into_format_3(tmp_path, layout, said):
    """Of images of today, so that the versions that are part of a spec are today's."""
    tree, path = draw_tree(tmp_path / "photos"), tmp_path / "s.h5"
    asked = {"backbone": "tiny", "batch_size": 8, "engine": "tensorflow", "layout": layout}
    extract(str(tree), out=path, compression="lz4", **asked)
    as_format_1(path)
    assert extract(str(tree), out=path, **asked).computed == 0
    with FeatureStore(path) as store:
        assert store.format_version == 1  # nothing was asked for that it does not hold
    draw(tree / "train/blue/new.png", 99)
    assert extract(str(tree), out=path, **asked).computed == 1
    extract(str(tree), out=tmp_path / "new.h5", **asked)
    assert_same_stores(path, tmp_path / "new.h5")
    assert any("has format 1; it becomes format 3" in line for line in said)
    assert all(check.held for check in verify(path))


def as_format_1(path):
    """Take out of a store and its parts what later formats added."""
    for name in [*Path(f"{path}.parts").glob("part-*.h5"), path]:
        with h5py.File(name, "a", libver=("v110", "v110")) as file:
            provenance = json.loads(file.attrs["provenance"])
            for added in ("kinds", "values"):
                del provenance[added]
            file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
            file.attrs["format_version"] = 1
            del file.attrs["digests"], file["digests"]
            if "parts" in file.attrs:
                sizes = {part: (path.parent / part).stat().st_size for part in json.loads(file.attrs["parts"])}
                file.attrs["parts"] = json.dumps(sizes)
            file.attrs["sha256"] = digest_attributes(file)
    for seal in Path(f"{path}.parts").glob("index-*"):
        seal.unlink()


@pytest.mark.parametrize("name", ["format3.h5", "format3-parts.h5"])
def test_no_text_is_where_hdf5_has_no_checksum(name):
    """A signature of its global heap is there only for the references of an index, which has a seal."""
    assert (b"GCOL" in (FORMATS / name).read_bytes()) == ("parts" in name)
    assert all(b"GCOL" not in part.read_bytes() for part in (FORMATS / f"{name}.parts").glob("part-*.h5"))


def test_plain_readers_need_nothing_of_ours(tmp_path):
    store = FORMATS / "format3.h5"
    code = (
        "import sys, h5py, hashlib; file = h5py.File(sys.argv[1])\n"
        "assert not {'hdf5plugin', 'features'} & set(sys.modules)\n"
        "print(hashlib.sha256(file['features/last'][:].tobytes()).hexdigest())"
    )
    plain = subprocess.run(
        [sys.executable, "-c", code, store], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert plain.stdout.strip() == LAST
    if shutil.which("h5dump") is None:
        pytest.skip("h5dump, of Debian's hdf5-tools, is not installed")
    raw = tmp_path / "last.bin"
    subprocess.run(
        ["h5dump", "-d", "/features/last", "-b", "NATIVE", "-o", raw, store], check=True, capture_output=True
    )
    found = np.fromfile(raw, np.float32).astype(np.float16)
    assert hashlib.sha256(found.tobytes()).hexdigest() == LAST


def test_a_machine_without_isal_writes_and_reads_the_same_format(tmp_path):
    code = (
        "import sys; sys.modules['isal'] = None\n"
        "import hashlib, shutil, numpy as np, features\n"
        "from features.store.chunks import deflate\n"
        "assert deflate.__name__ == 'zlib'\n"
        "features.upgrade_store(sys.argv[1])\n"
        "with features.FeatureStore(sys.argv[1]) as store:\n"
        "    print(hashlib.sha256(store.read().astype(np.float16).tobytes()).hexdigest())"
    )
    path = shutil.copy(FORMATS / "format1.h5", tmp_path)
    made = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == LAST and hashes(path) == VALUES["format1.h5"]


def test_processes_that_are_forked_or_spawned_read_the_same(tmp_path):
    with FeatureStore(FORMATS / "format3.h5") as store:
        expected = store.read()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, bytes([np.array_equal(store.read(), expected)]))
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 1) == b"\1"
        os.close(reading), os.close(writing)
        with pickle.loads(pickle.dumps(store)) as again:
            np.testing.assert_array_equal(again.read(), expected)


def test_filters_are_those_that_every_hdf5_has():
    with h5py.File(FORMATS / "format3.h5") as file:
        assert filters_of(file["features/last"]) == (h5py.h5z.FILTER_DEFLATE,)
