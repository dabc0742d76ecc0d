"""An index is checked as a whole before HDF5 opens it, and stays readable whenever a writer is killed."""

import random

import numpy as np
import pytest
from fuzzed_readers import make_index, make_parts, read_store
from samples import provenance_of

from features import FeatureStore
from features.errors import StoreError
from features.store import parts
from features.store.parts import Parts


def again(folder, layout):
    """Write the store once more, of fewer rows."""
    with FeatureStore(folder / "s.h5") as store:
        made = provenance_of(store.layers)
        rows = store.rows.only(np.arange(len(store)) < 20)
    Parts(folder / "s.h5", made).commit(rows, [], layout)


def seals(folder):
    return sorted(path.name for path in (folder / "s.h5.parts").glob("index-*"))


def test_any_changed_bit_of_an_index_is_an_error_before_hdf5_opens_it(tmp_path, monkeypatch):
    make_index(tmp_path)
    monkeypatch.setattr("h5py.File", lambda *_, **__: pytest.fail("HDF5 opened it"))
    whole, choose = (tmp_path / "s.h5").read_bytes(), random.Random(0)
    for _ in range(50):
        changed = bytearray(whole)
        changed[choose.randrange(8, len(changed))] ^= 1 << choose.randrange(8)
        (tmp_path / "s.h5").write_bytes(changed)
        with pytest.raises(
            StoreError, match=r"s\.h5 is damaged: it is not the index that .*s\.h5\.parts was sealed with"
        ):
            read_store(tmp_path)


@pytest.mark.parametrize("layout", ["parts", "file"])
def test_a_writer_killed_before_or_after_the_rename_leaves_a_store_that_opens(tmp_path, monkeypatch, layout):
    make_index(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path, layout)
    assert len(seals(tmp_path)) == 2 and len(read_store(tmp_path)[1]) == 24
    with monkeypatch.context() as patch:
        patch.setattr(parts, "break_seals", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path, layout)
    assert len(read_store(tmp_path)[1]) == 20


def test_a_store_that_is_one_file_again_has_no_seal(tmp_path):
    make_index(tmp_path)
    again(tmp_path, "parts")
    assert len(seals(tmp_path)) == 1 and len(read_store(tmp_path)[1]) == 20
    again(tmp_path, "file")
    assert not seals(tmp_path) and len(read_store(tmp_path)[1]) == 20
    with FeatureStore(tmp_path / "s.h5") as store:
        assert not store.parts


def test_an_index_of_an_earlier_version_has_no_seal_and_opens(tmp_path):
    make_index(tmp_path)
    for seal in (tmp_path / "s.h5.parts").glob("index-*"):
        seal.unlink()
    assert len(read_store(tmp_path)[1]) == 24


def test_parts_alone_have_no_seal(tmp_path):
    make_parts(tmp_path)
    assert not seals(tmp_path)
