"""The store: written equals read, and damage is an error."""

import shutil

import h5py
import numpy as np
import pytest

from features import FeatureStore, extract
from features.errors import RequestError, StoreError, UnsafeFile
from features.extraction.forward import PassLimits
from features.extraction.request import ExtractRequest
from features.extraction.run import run_pass
from features.pooling import pool_maps


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


def test_pooling_takes_averages_in_float32():
    maps = np.full((1, 16, 16, 1), 2049, np.float16)  # float16 would stop counting at 65504
    assert pool_maps(maps, "avg")[0, 0] == pytest.approx(float(np.float16(2049)))


def test_unknown_layer_and_pool(tiny_store):
    with FeatureStore(tiny_store) as store:
        with pytest.raises(RequestError, match="must be one of last; got 'relu'"):
            store.read("relu")
        with pytest.raises(RequestError, match="pool must be one of avg, "):
            store.read(pool="mean")


def test_what_is_no_store(tmp_path, tiny_store):
    with pytest.raises(StoreError, match="is not there"):
        FeatureStore(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(StoreError, match="cannot be read"):
        FeatureStore(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore(tmp_path / "other.h5")
    shutil.copy(tiny_store, tmp_path / "newer.h5")
    with h5py.File(tmp_path / "newer.h5", "a") as file:
        file.attrs["format_version"] = 3
    with pytest.raises(StoreError, match="format version 3; this program reads 1 and 2"):
        FeatureStore(tmp_path / "newer.h5")


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
        file.attrs["provenance"] = file.attrs["provenance"].replace('"image_size": 16', '"image_size": 17')
    with pytest.raises(StoreError, match="attributes do not match"):
        FeatureStore(copy)


def test_readers_are_not_blocked_by_each_other(tiny_store):
    with FeatureStore(tiny_store) as one, FeatureStore(tiny_store) as two:
        np.testing.assert_array_equal(one.read(), two.read())
