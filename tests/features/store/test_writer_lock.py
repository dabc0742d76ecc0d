"""The lock for writing where the file system has none: a file, which one process at most takes over from a dead one."""

import errno
import json
import socket

import pytest

from features.errors import StoreError
from features.store import writer_lock
from features.store.writer_lock import one_writer


@pytest.fixture
def left(tmp_path, monkeypatch):
    """A folder without locks, where a process of this host that is dead holds the lock."""

    def no_locks(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(writer_lock, "flock", no_locks)
    monkeypatch.setattr(writer_lock, "_alive", lambda process: process != 7)
    folder = tmp_path / "s.h5.parts"
    folder.mkdir()
    dead = {"process": 7, "host": socket.gethostname(), "since": "2026-11-01 00:00:00 +0000"}
    (folder / "writer.json").write_text(json.dumps(dead))
    return folder


def test_a_dead_holder_is_replaced(left):
    with one_writer(left):
        assert json.loads((left / "writer.json").read_text())["process"] != 7
        with pytest.raises(StoreError, match="has been locked by process"), one_writer(left):
            pass
        assert [each.name for each in left.glob("writer.*on")] == ["writer.json"]
    assert not left.exists()


@pytest.mark.parametrize("moment", ["before it claims", "while it claims"])
def test_of_two_that_find_a_dead_holder_one_takes_over(left, monkeypatch, moment):
    """The other comes in whenever the first has just seen that the holder is dead."""
    look, looks, others = writer_lock._is_left, [], []

    def look_and_be_overtaken(told):
        found = look(told)
        looks.append(found)
        if len(looks) == (1 if moment == "before it claims" else 2):
            other = one_writer(left)
            try:
                other.__enter__()
                others.append(other)
            except StoreError as error:
                others.append(error)
        return found

    monkeypatch.setattr(writer_lock, "_is_left", look_and_be_overtaken)
    if moment == "before it claims":
        with pytest.raises(StoreError, match="has been locked by process"), one_writer(left):
            pytest.fail("both have the lock")
        held = (left / "writer.json").read_text()
        assert json.loads(held)["process"] != 7  # the other's, which still has it
        others[0].__exit__(None, None, None)
    else:
        with one_writer(left):
            assert isinstance(others[0], StoreError) and "another process is taking over" in str(others[0])
    assert not left.exists()
