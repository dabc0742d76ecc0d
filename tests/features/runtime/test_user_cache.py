"""What is kept for a user is whole, or not used; and a cache that cannot be written is said once."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from features.runtime import user_cache
from features.runtime.user_cache import cache_folder, recall, recall_bytes, remember, remember_bytes

KEY, MANY = {"of": "this test", "shape": (1, 2)}, 1 << 30


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))


def held(what="some", key=KEY):
    """Return the bytes that are kept."""
    found = recall_bytes(what, key)
    return None if found is None else bytes(found)


def test_bytes_are_kept_by_key():
    assert held() is None
    remember_bytes("some", KEY, [b"one", np.arange(3, dtype=np.uint8)], MANY)
    assert held() == b"one\x00\x01\x02" and held(key={"of": "another"}) is held("others") is None


def test_a_note_is_recalled_by_its_key_and_whole():
    key = {"of": "this test", "shape": [1, 2]}
    remember("notes", key, {"sides": [224, 7]})
    assert recall("notes", key) == {"sides": [224, 7]} and recall("notes", {"of": "another"}) is None
    (note,) = (cache_folder() / "notes").iterdir()
    note.write_text(note.read_text().replace("224", "225"))
    assert recall("notes", key) is None


def test_newer_bytes_of_a_key_are_not_mixed_with_older_ones():
    for value in (b"first", b"second"):
        remember_bytes("some", KEY, [value], MANY)
    assert held() in (b"first", b"second")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_damaged_bytes_are_removed_and_made_again(damage):
    remember_bytes("some", KEY, [bytes(range(200))], MANY)
    (file,) = (cache_folder() / "some").iterdir()
    value = bytearray(file.read_bytes())
    value[100] ^= 1
    file.write_bytes({"flip": value, "cut": value[:50], "empty": b"", "longer": file.read_bytes() + b"x"}[damage])
    assert held() is None and not file.exists()
    remember_bytes("some", KEY, [b"again"], MANY)
    assert held() == b"again"


def test_bytes_that_cannot_be_read_now_are_not_removed(monkeypatch):
    remember_bytes("some", KEY, [b"value"], MANY)
    with monkeypatch.context() as system:
        system.setattr(
            user_cache.mmap, "mmap", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOMEM, "no memory"))
        )
        assert held() is None
    assert held() == b"value"


def test_what_was_not_used_for_the_longest_time_is_removed():
    for number in range(4):
        remember_bytes("some", number, [bytes(100)], 200)
        time.sleep(0.01)
        if number:
            assert held(key=0) is not None  # and so it is used
        time.sleep(0.01)
    assert [held(key=number) is not None for number in range(4)] == [True, False, True, True]
    remember_bytes("some", "large", [bytes(1000)], 200)
    assert held(key="large") is not None  # whatever its size


def test_what_a_killed_process_left_is_removed_after_an_hour():
    for name, age in ((".old-x", 3700), (".new-x", 3500)):
        (cache_folder() / "some" / name).mkdir(parents=True)
        os.utime(cache_folder() / "some" / name, times=(time.time() - age,) * 2)
    remember_bytes("some", KEY, [b"value"], MANY)
    assert [path.name for path in (cache_folder() / "some").iterdir() if path.is_dir()] == [".new-x"]


def test_a_cache_that_cannot_be_written_is_said_once_and_gone_without(tmp_path, said):
    (tmp_path / "users").write_text("a file, where a folder should be")
    remember("notes", KEY, 1)
    remember_bytes("some", KEY, [b"value"], MANY)
    assert recall("notes", KEY) is held() is None
    assert len(said) == 1 and "cannot be written (Not a directory)" in said[0] and "XDG_CACHE_HOME" in said[0]


WRITER = """
import sys
from features.runtime.user_cache import remember_bytes
print("started", flush=True)
while True:
    for number in range(1, 4):
        remember_bytes("some", "key", [bytes([number]) * (1 << 20)] * 8, 1 << 25)
"""


def test_processes_that_write_at_once_and_are_killed_leave_whole_values():
    wholes = {bytes([number]) * (8 << 20) for number in range(1, 4)}
    for turn in range(3):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout.readline() == "started\n"
        until = time.monotonic() + 0.3 + 0.1 * turn
        while time.monotonic() < until:
            found = held(key="key")
            assert found is None or found in wholes
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        found = held(key="key")
        assert found is None or found in wholes
    remember_bytes("some", "key", [b"after"], MANY)
    assert held(key="key") in wholes | {b"after"}
