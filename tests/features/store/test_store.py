"""The store: written equals read, and damage is an error."""

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import blobs, provenance_of, rows_of, write_store

from features import FeatureStore, extract
from features.errors import RequestError, StoreError, UnsafeFile
from features.extraction.forward import PassLimits
from features.extraction.request import ExtractRequest
from features.extraction.run import run_pass
from features.pooling import pool_maps
from features.splits import SPLITS
from features.store import content_cache, parts, reader, schema
from features.store.atomic_file import whole_file
from features.store.chunks import LayerReader, copy_values, filter_options
from features.store.content_cache import ContentCache
from features.store.parts import Parts


def test_read_by_rows_equals_numpy(tiny_store):
    with FeatureStore(tiny_store) as store:
        everything = store.dataset("last")[:]
        rows = np.array([5, 6, 7, 3, 31, 0, 0])
        np.testing.assert_array_equal(store.read(rows=rows), everything[rows].reshape(7, -1).astype(np.float32))
        both = np.hstack([everything.astype(np.float32).mean((1, 2)), everything.astype(np.float32).max((1, 2))])
        np.testing.assert_allclose(store.read("last", "avg+max"), both)


def test_batches_and_datasets_are_the_rows_in_order(tiny_store):
    with FeatureStore(tiny_store) as store:
        rows = np.arange(31, -1, -1)
        X, y = store.read("last", "avg", rows), store.rows.labels[rows]
        for found in (store.batches(5, "last", "avg", rows), store.as_dataset(5, "last", "avg", rows)):
            batches = [(np.asarray(values), np.asarray(labels)) for values, labels in found]
            assert [len(values) for values, _ in batches] == [5] * 6 + [2]
            np.testing.assert_array_equal(np.concatenate([values for values, _ in batches]), X)
            np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), y)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", True, None])
def test_a_batch_has_at_least_one_row(tiny_store, batch_size):
    with FeatureStore(tiny_store) as store:
        for read in (store.batches, store.as_dataset):
            with pytest.raises(RequestError, match="batch_size must be a whole number of rows, at least 1; got"):
                read(batch_size)
        assert [len(y) for _, y in store.batches(np.int64(30))] == [30, 2]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"layer": ["lost"]}, r"layer of .* must be the name of one layer; got \['lost'\]. Read each by itself"),
        ({"layer": "lost"}, "layer of .* must be one of those stored: .*; got 'lost'"),
        ({"pool": "cls"}, "pool .* got 'cls'"),
        ({"rows": [0.5]}, "rows must be whole numbers"),
        ({"split": "training"}, "split must be one of"),
    ],
)
def test_batches_that_are_not_allowed_are_refused_before_the_first(tiny_store, asked, told):
    with FeatureStore(tiny_store) as store:
        for read in (store.batches, store.as_dataset):
            with pytest.raises(RequestError, match=told):
                read(**asked)


@pytest.mark.parametrize("name", ["run.json", "lecture.json", "queue.json", "of_a_later_version.json"])
def test_a_folder_of_results_is_told_by_the_store_that_it_names(tmp_path, name):
    (tmp_path / "another.json").write_text("[1, 2]")  # such as annotations of images
    with pytest.raises(RequestError, match=r"which is a folder\. Of images, make a store first"):
        FeatureStore(tmp_path)
    (tmp_path / name).write_text('{"store": "cache/s.h5"}')
    with pytest.raises(RequestError, match=r"which is a folder of results\. They were made of store='cache/s.h5'"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("order", [np.arange(30), np.r_[20:30, 3, 0:3, 10:17, 4:10]], ids=["all", "some, moved"])
def test_rows_that_are_compressed_another_way_stay_the_same(tmp_path, monkeypatch, order, compression):
    if compression == "lz4":
        pytest.importorskip("hdf5plugin", reason="the extra hdf5plugin is not installed")
    shape, random = (7, 7, 512), np.random.default_rng(0)
    X = np.maximum(random.normal(size=(30, *shape)), 0).astype(np.float16)
    made = provenance_of({"maps": shape}, compression="gzip")
    rows = rows_of(np.arange(30, dtype=np.int32) % 3, np.zeros(30, np.uint8), 3)
    path = write_store(tmp_path / "s.h5", {"maps": X}, rows, made)
    monkeypatch.setattr(parts, "_BLOCK_BYTES", 4 * X[0].nbytes)
    asked = Parts(path, replace(made, compression=compression))
    with h5py.File(path) as file:
        assert file["features/maps"].chunks[0] == 1
    moved = {name: getattr(rows, name)[order] for name in ("labels", "splits", "strata", "views", "sha256")}
    asked.commit(replace(rows, paths=tuple(rows.paths[row] for row in order), **moved), ())
    with FeatureStore(path) as store:
        assert store.provenance["compression"] == compression
        store.check("maps", np.arange(len(order)))
        np.testing.assert_array_equal(store.dataset("maps")[:], X[order])


def test_pooling_takes_averages_in_float32():
    maps = np.full((1, 16, 16, 1), 2049, np.float16)  # float16 would stop counting at 65504
    assert pool_maps(maps, "avg")[0, 0] == pytest.approx(float(np.float16(2049)))


def test_unknown_layer_and_pool(tiny_store):
    with FeatureStore(tiny_store) as store:
        with pytest.raises(RequestError, match="must be one of those stored: last; got 'relu'"):
            store.read("relu")
        with pytest.raises(RequestError, match="pool must be one of avg, "):
            store.read(pool="mean")


def test_what_is_no_store(tmp_path, tiny_store):
    with pytest.raises(StoreError, match="is not there"):
        FeatureStore(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(RequestError, match=r"must be a feature store, NAME\.h5; got .*text\.h5, which is no HDF5 file"):
        FeatureStore(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore(tmp_path / "other.h5")
    shutil.copy(tiny_store, tmp_path / "newer.h5")
    with h5py.File(tmp_path / "newer.h5", "a") as file:
        file.attrs["format_version"] = 4
    with pytest.raises(StoreError, match="format version 4; this program reads 1 to 3"):
        FeatureStore(tmp_path / "newer.h5")
    reader.parts_folder(tmp_path / "none.h5").mkdir()
    with pytest.raises(StoreError, match=r"none\.h5 is unfinished\. Run the same extract again"):
        FeatureStore(tmp_path / "none.h5")


@pytest.mark.parametrize(
    "harm",
    [
        lambda chunk: chunk[:10] + bytes([chunk[10] ^ 1]) + chunk[11:],
        lambda chunk: bytes(len(chunk)),  # a hole, which Fletcher-32 takes for whole
        lambda chunk: chunk.replace(b"\0\0", b"\xff\xff"),  # so does it this
        lambda chunk: chunk[::-1],
    ],
    ids=["flip", "hole", "ffff", "reversed"],
)
@pytest.mark.parametrize("compression", ["gzip", "none", "lz4"])
def test_damaged_values_are_an_error(tree, tmp_path, stand_in, compression, harm):
    path = tmp_path / "s.h5"
    extract(str(tree), backbone="tiny", out=path, compression=compression, pool="none")
    with h5py.File(path) as file:
        (name,) = file["features"]
        chunk = file[f"features/{name}"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    held = bytes(data[chunk.byte_offset : chunk.byte_offset + chunk.size])
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = harm(held)
    path.write_bytes(data)
    with FeatureStore(path) as store:
        if harm(held) == held:
            store.read()
        else:
            with pytest.raises(StoreError, match=r"fail their checksum \(chunk 0 of .* does not match its digest"):
                store.read()


@pytest.mark.parametrize(
    "name", ["rows/label", "rows/split", "digests/chunks/last", "digests/rows/last", "skipped/path"]
)
def test_a_changed_table_is_an_error(tmp_path, tree, name):
    path = tmp_path / "s.h5"
    (tree / "train/red/odd.png").write_bytes(b"no image")
    extract(str(tree), backbone="tiny", out=path)
    with h5py.File(path, "a") as file:  # HDF5's own checksums are those of the new values
        values = file[name][:]
        values.reshape(-1).view(np.uint8)[0] ^= 1
        file[name][:] = values
    with pytest.raises(StoreError, match=rf"{name} does not match its digest"), FeatureStore(path) as store:
        store.check("last", np.arange(32))


def test_parts_that_changed_places_are_an_error(tmp_path, tree, stand_in):
    path = tmp_path / "s.h5"
    asked = ExtractRequest(str(tree), backbone="tiny", out=path, layout="parts", compression="none", batch_size=8)
    run_pass(asked, limits=PassLimits(part_bytes=1))
    one, other, *_ = path.with_name("s.h5.parts").glob("part-*.h5")
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second), other.write_bytes(first)
    with FeatureStore(path) as store, pytest.raises(StoreError, match=r"is not the part of .* that had this name"):
        store.read()


def test_a_changed_table_of_a_part_is_an_error_when_a_pass_goes_on(tmp_path, tree, stand_in):
    path = tmp_path / "s.h5"
    extract(str(tree), backbone="tiny", out=path, layout="parts")
    (part,) = path.with_name("s.h5.parts").glob("part-*.h5")
    with h5py.File(part, "a") as file:
        file["sha256"][:] = file["sha256"][:][::-1]
    path.unlink()
    with pytest.raises(StoreError, match=r"is damaged \(sha256 does not match its digest\)"):
        extract(str(tree), backbone="tiny", out=path)


def test_other_filters_are_never_run(tmp_path, tiny_store):
    copy = shutil.copy(tiny_store, tmp_path / "s.h5")
    with h5py.File(copy, "a") as file:
        values = file["features/last"][:]
        del file["features/last"]
        file.create_dataset("features/last", data=values, chunks=True, compression="lzf")
    with pytest.raises(UnsafeFile, match="use an HDF5 filter which is not accepted"):
        FeatureStore(copy)


def test_truncated_file_is_an_error(tmp_path, tiny_store):
    (tmp_path / "cut.h5").write_bytes(tiny_store.read_bytes()[:-100])
    with pytest.raises(StoreError, match="cannot be read"):
        FeatureStore(tmp_path / "cut.h5")


def test_changed_provenance_is_an_error(tmp_path, tiny_store):
    copy = shutil.copy(tiny_store, tmp_path / "edited.h5")
    with h5py.File(copy, "a") as file:
        told = schema.get_text(file, "provenance")
        schema.set_text(file, "provenance", told.replace('"image_size": 16', '"image_size": 17'))
    with pytest.raises(StoreError, match="attributes do not match"):
        FeatureStore(copy)


def test_readers_are_not_blocked_by_each_other(tiny_store):
    with FeatureStore(tiny_store) as one, FeatureStore(tiny_store) as two:
        np.testing.assert_array_equal(one.read(), two.read())


@pytest.mark.parametrize("rows", [np.arange(32) % 2 == 0, np.array([0.0, 1.5]), np.zeros((1, 1), int), 3, ["1"]])
def test_rows_other_than_whole_numbers_are_refused(tiny_store, rows):
    with FeatureStore(tiny_store) as store:
        for read in (store.read, lambda **asked: next(store.batches(**asked))):
            with pytest.raises(RequestError, match=r"rows must be whole numbers, .* numpy.flatnonzero\(mask\)"):
                read(rows=rows)
        assert store.read(rows=[]).shape == (0, 54)


def test_small_unsigned_row_numbers_are_the_same_rows(tmp_path):
    X, y, splits = blobs(3, rows=100)  # 300 vectors, which share a chunk
    path = write_store(
        tmp_path / "s.h5", {"fc": X}, rows_of(y, splits, 3), provenance_of({"fc": (12,)}, "float32", "lz4")
    )
    with FeatureStore(path) as store:
        rows = np.array([255, 0], np.uint8)  # whose difference wraps around to 1
        np.testing.assert_array_equal(store.read(rows=rows), X[[255, 0]])


def test_float16_is_converted_as_numpy_does():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    out = np.empty(len(every), np.float32)
    copy_values(every, out)
    np.testing.assert_array_equal(
        out.view(np.uint32), every.astype(np.float32).view(np.uint32)
    )  # NaNs and subnormals too


@pytest.mark.parametrize("memory", ["1", -1.0, 0, float("nan")])
def test_memory_other_than_bytes_above_zero_is_refused(tiny_store, memory):
    with FeatureStore(tiny_store) as store, pytest.raises(RequestError, match="memory must be bytes above 0; got"):
        store.read(memory=memory)


def test_rows_of_a_split(tiny_store):
    with FeatureStore(tiny_store) as store:
        for split, code in SPLITS.items():
            rows = np.flatnonzero(store.rows.splits == code)
            np.testing.assert_array_equal(store.read(pool="avg", split=split), store.read(pool="avg", rows=rows))
            (batch,) = store.batches(pool="avg", split=split)
            np.testing.assert_array_equal(batch[1], store.rows.labels[rows])
            ((X, y),) = store.as_dataset(pool="avg", split=split)
            assert X.shape == (len(rows), 6) and np.array_equal(y, store.rows.labels[rows])
        with pytest.raises(
            RequestError, match=r"split must be one of test, train, val; got 'training'. Did you mean 'train'"
        ):
            store.read(split="training")
        with pytest.raises(RequestError, match="split must be given without rows"):
            store.read(split="train", rows=[0])


def test_a_store_is_a_sequence_of_features_and_labels(tiny_store, monkeypatch):
    with FeatureStore(tiny_store) as store:
        maps = store.dataset("last")[:].astype(np.float32)
        X, y = store[3]
        np.testing.assert_array_equal(X, maps[3])
        assert y == store.rows.labels[3] and store.class_names == ("blue", "red")
        X, y = store[-3:]
        np.testing.assert_array_equal(X, maps[-3:])
        np.testing.assert_array_equal(y, store.rows.labels[-3:])
        X, _ = store[store.rows.labels == 1]
        np.testing.assert_array_equal(X, maps[store.rows.labels == 1])
        with monkeypatch.context() as machine:
            machine.setattr(reader, "memory_limit", lambda: pytest.fail("looked at for one row"))
            for row in (-1, np.int64(31)):
                np.testing.assert_array_equal(store[row][0], maps[31])
        with pytest.raises(IndexError):
            store[-33]
        assert sum(1 for _ in store) == 32  # ends by IndexError, as sequences do
        told = repr(store)
        assert told.startswith(f"<FeatureStore {tiny_store}: 32 rows of 2 classes, last 3x3x6 of tiny at 16 px")


def test_a_closed_store_says_so(tiny_store):
    with FeatureStore(tiny_store) as store:
        pass
    for read in (store.read, store.describe, lambda: next(store.batches()), lambda: store.dataset("last")):
        with pytest.raises(RequestError, match=r"tiny.h5 must be open; it was closed. Open it again"):
            read()


def test_a_store_closed_while_it_is_read_is_not_called_damaged(tree, tmp_path, stand_in):
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5", compression="lz4")
    with FeatureStore(tmp_path / "s.h5") as store:
        store._file.close()  # as another thread would, between finding the layer and reading it
        with pytest.raises(RequestError, match="must be open; it was closed"):
            store.read()


def change(path, edit):
    """Change a store, and make all its digests those of what it then holds, as somebody who means harm can."""
    with h5py.File(path, "a") as file:
        edit(file)
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        values = {name: file[name][()] for name in names if not name.startswith("features/")}
        known = {
            name: schema.digest(schema._bytes(each)).hex() for name, each in values.items() if hasattr(each, "tobytes")
        }
        schema.set_text(file, "digests", file.attrs.get("told", json.dumps(known)))
        schema.set_text(file, "sha256", schema.digest_attributes(file))


def put(name, values):
    """Return an edit that replaces a dataset."""

    def edit(file):
        del file[name]
        if values is not None:
            file[name] = values

    return edit


def tell(**fields):
    """Return an edit of the provenance; None leaves a field out."""

    def edit(file):
        told = json.loads(file.attrs["provenance"]) | fields
        schema.set_text(
            file, "provenance", json.dumps({name: value for name, value in told.items() if value is not None})
        )

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file.attrs.update(told="no JSON"),
        lambda file: file.attrs.update(told="[]"),
        lambda file: file.attrs.update(parts='{"s.h5.parts/x": []}'),
        lambda file: file.attrs.update(parts='{"s.h5.parts/x": [3]}'),
        tell(values=None),
        tell(layers=["../rows/label"]),
        put("digests/rows/last", np.zeros((3, 16), np.uint8)),
        put("digests/rows/last", np.uint8(3)),
        put("digests/rows/last", None),
        put("digests/chunks/last", np.zeros((3, 16), np.uint8)),
        put("digests/chunks/last", h5py.Empty("u1")),
        put("rows/label", np.zeros(3, np.int32)),
        put("rows/label", np.full(32, 2, np.int32)),
        put("rows/label", np.full(32, -1, np.int32)),
        put("rows/label", np.zeros((32, 2), np.int32)),
        put("rows/label", np.zeros(32)),
        put("rows/split", np.full(32, 3, np.uint8)),
        put("rows/view", np.int32(0)),
        put("rows/sha256", np.zeros(32, np.uint8)),
    ],
)
def test_a_store_made_to_harm_is_an_error_of_ours(tmp_path, tiny_store, edit):
    path = Path(shutil.copy(tiny_store, tmp_path / "s.h5"))
    change(path, edit)
    with pytest.raises((StoreError, UnsafeFile)), FeatureStore(path) as store:
        store.check("last", np.arange(32))


def test_a_chunk_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path, values = tmp_path / "s.h5", np.zeros((2, 1 << 20), np.float32)
    y = np.arange(2, dtype=np.int32)
    write_store(path, {"fc": values}, rows_of(y, y.astype(np.uint8), 2), provenance_of({"fc": (1 << 20,)}, "float32"))
    packed = zlib.compress(bytes(1 << 30), 1)  # 4.7 MB, hardly more than the 4 MB of values

    def edit(file):
        file["features/fc"].id.write_direct_chunk((0, 0), packed[: 4 << 20])
        digests = file["digests/chunks/fc"][:]
        digests[0] = np.frombuffer(schema.digest(packed[: 4 << 20]), np.uint8)
        file["digests/chunks/fc"][:] = digests

    change(path, edit)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FeatureStore(path) as store, pytest.raises(StoreError, match="has not the 4194304 bytes of its values"):
        store.read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200e3  # kB


def test_chunks_that_the_file_does_not_hold_are_not_read(tmp_path, tiny_store):
    """Said by an index of HDF5's older format, which has no checksum."""
    path, values = tmp_path / "s.h5", zlib.compress(bytes(64), 1)
    with h5py.File(tiny_store) as old, h5py.File(path, "w", libver=("earliest", "v110")) as file:
        for name in old:
            old.copy(name, file)
        for name, value in old.attrs.items():
            file.attrs[name] = value
        del file["rows/stratum"]
        data = file.create_dataset("rows/stratum", (4 << 30,), "u1", chunks=((4 << 30) - 1 >> 1,), compression="gzip")
        for start in range(0, 4 << 30, data.chunks[0]):
            data.id.write_direct_chunk((start,), values)
        schema.set_text(file, "sha256", schema.digest_attributes(file))
        places = [data.id.get_chunk_info(number) for number in range(data.id.get_num_chunks())]
    found = path.read_bytes()
    for each in places:
        key = struct.pack("<IIQQQ", each.size, 0, each.chunk_offset[0], 0, each.byte_offset)
        assert key in found
        found = found.replace(key, struct.pack("<I", (1 << 32) - 1) + key[4:])
    path.write_bytes(found)
    with pytest.raises(UnsafeFile, match=r"claims 4,294,967,296 bytes in rows/stratum but holds"):
        FeatureStore(path)


def test_a_link_to_another_file_is_not_followed(tmp_path, tiny_store):
    path = Path(shutil.copy(tiny_store, tmp_path / "s.h5"))
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with h5py.File(path, "a") as file:
        del file["rows"]
        schema.set_text(file, "sha256", schema.digest_attributes(file))
        file["rows"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/rows")
    code = f"import features; features.FeatureStore({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "UnsafeFile: " in done.stderr and "has a link at rows" in done.stderr


@pytest.mark.parametrize("name", ["50%.h5", "100%b.h5"])
def test_the_name_of_a_store_in_parts_may_have_a_percent_sign(tmp_path, tree, stand_in, name):
    extract(str(tree), backbone="tiny", out=tmp_path / name, layout="parts")
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5")
    with FeatureStore(tmp_path / name) as store, FeatureStore(tmp_path / "s.h5") as other:
        np.testing.assert_array_equal(store.read(), other.read())
        np.testing.assert_array_equal(store.dataset("maps")[:], other.dataset("maps")[:])


def flip_table(name):
    """Return harm to a table of a part."""

    def harm(part):
        with h5py.File(part, "a") as file:
            values = file[name][:]
            values[0] ^= 1
            file[name][:] = values

    return harm


def flip_chunk(part):
    """Change a byte of the first chunk of features."""
    with h5py.File(part) as file:
        (name,) = file["features"]
        chunk = file[f"features/{name}"].id.get_chunk_info(0)
    data = bytearray(part.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    part.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "compression"),
    [
        (flip_table("digests/rows/maps"), "gzip"),
        (flip_table("digests/chunks/maps"), "none"),
        (flip_chunk, "none"),
    ],
)
def test_a_damaged_part_is_named_when_a_store_is_made_of_it(tmp_path, tree, stand_in, harm, compression):
    path = tmp_path / "s.h5"
    extract(str(tree), backbone="tiny", out=path, layout="parts")
    (part,) = path.with_name("s.h5.parts").glob("part-*.h5")
    harm(part)
    path.unlink()
    with pytest.raises(StoreError, match=rf"{part} is damaged \(.* does not match its digest\).*: rm {part}"):
        extract(str(tree), backbone="tiny", out=path, layout="parts", compression=compression)


def test_a_damaged_part_of_the_cache_is_said_and_computed_again(tmp_path, stand_in, said):
    made = provenance_of({"fc": (12,)}, "float32")
    cache = ContentCache(tmp_path, made)
    for _ in range(2):
        cache.keep("fc", {bytes(32): np.ones(12, np.float32)})
        (part,) = tmp_path.glob("*.parts/part-*.h5")
        assert cache.read("fc", [bytes(32)])[bytes(32)].all()
        flip_chunk(part)
        assert cache.read("fc", [bytes(32)]) == {} and not part.exists()
    assert sum("is damaged" in line and line.endswith("removed, and computed again.") for line in said) == 2


@contextmanager
def few_files(more=0):
    """Let this process open so many files more, and no further one."""
    resource = pytest.importorskip("resource")
    usual, free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_store_that_cannot_be_read_is_not_called_damaged(tmp_path, tree, stand_in, monkeypatch, number):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    for layout in ("file", "parts"):
        path = tmp_path / f"{layout}.h5"
        extract(str(tree), backbone="tiny", out=path, layout=layout)
        with FeatureStore(path) as store, monkeypatch.context() as disk:
            disk.setattr(os, "pread", fails)
            with pytest.raises(
                StoreError, match=rf"{path} cannot be read \(.*{os.strerror(number)}\)\. It may be whole"
            ):
                store.read()


def test_parts_that_cannot_be_opened_are_not_called_damaged(tmp_path, tree, stand_in):
    path = tmp_path / "s.h5"
    extract(str(tree), backbone="tiny", out=path, layout="parts")
    unread = pytest.raises(StoreError, match=r"cannot be read \(.*part-.*Too many open files.*\)\. It may be whole")
    with FeatureStore(path) as store, few_files(), unread:
        store.read()


def test_parts_of_the_cache_that_cannot_be_read_stay(tmp_path, stand_in, said, monkeypatch):
    cache = ContentCache(tmp_path, provenance_of({"fc": (12,)}, "float32"))

    def keep(number):
        cache.keep("fc", {bytes([number] * 32): np.ones(12, np.float32)})

    for number in range(3):
        keep(number)
    parts = set(tmp_path.glob("*.parts/part-*.h5"))
    with few_files(1):
        assert cache.read("fc", [bytes(32)]) == {}
    assert sum("Too many open files" in line and line.endswith("is computed again.") for line in said) == 3
    with monkeypatch.context() as disk:
        disk.setattr(content_cache, "read_table", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "a disk")))
        keep(3)  # the fourth, with which they would become one
    assert parts < set(tmp_path.glob("*.parts/part-*.h5"))
    assert len(cache.read("fc", [bytes([number] * 32) for number in range(4)])) == 4


def test_images_that_come_one_by_one_are_in_a_few_parts(tmp_path, stand_in):
    made, random = provenance_of({"fc": (12,)}, "float32"), np.random.default_rng(0)
    cache, kept, most = ContentCache(tmp_path, made), {}, 0
    for _ in range(40):
        new = {random.bytes(32): random.normal(size=12).astype(np.float32)}
        cache.keep("fc", new)
        kept |= new
        most = max(most, len(list(tmp_path.glob("*.parts/part-*.h5"))))
    found = cache.read("fc", kept)
    assert most <= 10 and found.keys() == kept.keys()
    assert all(np.array_equal(found[key], kept[key]) for key in kept)


CLAIMS = {  # of chunks of 24 bytes
    "40 bits": ("lz4", (1 << 40).to_bytes(8, "big") + (1 << 22).to_bytes(4, "big")),
    "no block": ("lz4", (24).to_bytes(8, "big") + bytes(4)),
    "cut": ("lz4", b"\0\0"),
    "eight bytes": ("zstd", b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little")),
    "two bytes, counted from 256": ("zstd", b"\x28\xb5\x2f\xfd\x60" + (24).to_bytes(2, "little")),
    "no size": ("zstd", b"\x28\xb5\x2f\xfd\x00\x58" + bytes(12)),
    "no frame": ("zstd", b"a Zstd frame begins otherwise"),
}


@pytest.mark.parametrize(("compression", "claim"), CLAIMS.values(), ids=list(CLAIMS))
def test_a_chunk_that_claims_another_size_is_not_given_to_hdf5(tmp_path, compression, claim):
    """The plugins allocate what a chunk claims. Format 1 has no digests, and those of a hostile file match its chunks."""
    X = np.arange(36, dtype=np.float16).reshape(3, 12)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        data = file.create_dataset("fc", data=X, chunks=(1, 12), fletcher32=True, **filter_options(compression))
        values = np.empty_like(X)
        LayerReader(data, tmp_path, None).read(np.arange(3), values)
        np.testing.assert_array_equal(values, X)
        data.id.write_direct_chunk((1, 0), claim)
        with pytest.raises(ValueError, match=r"chunk 1 .* claims another size|not an? |without its size"):
            LayerReader(data, tmp_path, None).read(np.arange(3), values)


def test_what_hdf5_does_not_explain_is_one_line_and_leaves_nothing(tmp_path):
    told = r"s\.h5 cannot be written: Unspecified error in H5Dwrite_chunk.*\. Run the same command again"
    with pytest.raises(StoreError, match=told), whole_file(tmp_path / "s.h5", tmp_path):
        raise RuntimeError("Unspecified error in H5Dwrite_chunk (return value <0)")
    assert not list(tmp_path.iterdir())
