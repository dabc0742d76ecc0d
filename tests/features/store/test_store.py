"""The store: written equals read, and damage is an error."""

import shutil

import h5py
import numpy as np
import pytest

from features import FeatureStore
from features.errors import RequestError, StoreError
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
        file.attrs["format_version"] = 2
    with pytest.raises(StoreError, match="format version 2"):
        FeatureStore(tmp_path / "newer.h5")


def test_damaged_values_are_an_error(tmp_path, tiny_store):
    copy = shutil.copy(tiny_store, tmp_path / "damaged.h5")
    with h5py.File(copy) as file:
        where = file["features/last"].id.get_chunk_info(0).byte_offset
    with open(copy, "r+b") as file:
        file.seek(where + 10)
        byte = file.read(1)[0]
        file.seek(where + 10)
        file.write(bytes([byte ^ 1]))
    with FeatureStore(copy) as store, pytest.raises(StoreError, match="fail their checksum"):
        store.read()


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
