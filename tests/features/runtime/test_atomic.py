"""Files and folders that are there whole or not at all."""

import contextlib
import errno
import gc
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from features.runtime import atomic
from features.runtime.atomic import written_whole
from features.runtime.user_cache import cache_folder


def test_a_file_appears_once_it_is_written(tmp_path):
    path = tmp_path / "a/b/file.txt"
    with written_whole(path) as new:
        new.write_text("one")
        assert not path.exists() and new.name == path.name
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_names_of_new_folders_are_on_disk_before_what_is_written_into_them(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())), sync(handle))
    )
    with written_whole(tmp_path / "a/b/file.txt") as new:
        assert synced == [str(tmp_path / "a"), str(tmp_path)]
        new.write_text("one")
    assert synced[2:] == [str(new), str(tmp_path / "a/b")]
    with written_whole(tmp_path / "a/b/other.txt") as new:
        assert len(synced) == 4
        new.write_text("two")


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("one")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as new:
        new.write_text("tw")
        raise KeyboardInterrupt
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another_only_where_it_may(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").write_text("old")

    def write(**options):
        with written_whole(folder, **options) as new:
            (new / "below").mkdir(parents=True)
            (new / "below/file").write_text("new")

    with pytest.raises(OSError) as raised:
        write()
    assert raised.value.errno in (errno.ENOTEMPTY, errno.EEXIST) and (folder / "old").exists()
    write(replace=True)
    assert (folder / "below/file").read_text() == "new" and not (folder / "old").exists()
    assert list(tmp_path.iterdir()) == [folder]


KILLED = """
import os, pathlib, signal, sys
from features.runtime.atomic import written_whole
with written_whole(pathlib.Path(sys.argv[1])) as new:
    new.write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path):
    path = tmp_path / "file.txt"
    child = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert child.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".file.txt-")
    (tmp_path / ".file.txt-notes").write_text("of someone else")
    with written_whole(path) as first:
        first.write_text("first")
        with written_whole(path) as second:
            second.write_text("second")
        assert path.read_text() == "second" and first.exists() and not left.exists()
    assert path.read_text() == "first"
    assert sorted(each.name for each in tmp_path.iterdir()) == [".file.txt-notes", "file.txt"]


REPLACED = """
import itertools, pathlib, sys
from features.runtime.atomic import written_whole
for number in itertools.count():
    with written_whole(pathlib.Path(sys.argv[1]), sync=False, replace=True) as new:
        new.mkdir()
        (new / "number").write_text(str(number))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2, which exchanges two names at once, is Linux's")
def test_a_folder_that_is_replaced_again_and_again_is_there_at_any_moment(tmp_path):
    path = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", REPLACED, str(path)])
    try:
        while not path.exists():
            assert child.poll() is None
        seen = set()
        while len(seen) < 20:
            path.stat()  # raises where the folder is missing
            with contextlib.suppress(FileNotFoundError):  # removed with its folder after that was looked up
                seen.add((path / "number").read_text())
    finally:
        child.kill()
        child.wait()
    assert path.is_dir()


def test_a_folder_is_replaced_where_two_names_cannot_be_exchanged(tmp_path, monkeypatch):
    """As on other systems; the second time after a process was killed between its two renames, and the folder was written again."""
    monkeypatch.setattr(sys, "platform", "other")
    path, aside = tmp_path / "run", tmp_path / "run.replaced"
    for number in range(3):
        with written_whole(path, replace=True) as new:
            new.mkdir()
            (new / "number").write_text(str(number))
        assert (path / "number").read_text() == str(number) and not aside.exists()
        aside.mkdir()
        (aside / "number").write_text("of the killed one")


def test_a_disk_that_fills_up_names_the_path_and_leaves_what_was_there(small_disk):
    path = small_disk / "file.bin"
    path.write_bytes(b"one")
    with pytest.raises(OSError, match="No space left") as raised, written_whole(path) as new:
        new.write_bytes(os.urandom(400_000))
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(path)
    assert path.read_bytes() == b"one" and list(small_disk.iterdir()) == [path]


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cached-features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert not sys.platform.startswith("linux") or cache_folder() == Path.home() / ".cache/cached-features"


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_folder_that_another_process_sweeps_is_made_again_without_a_word(tmp_path, monkeypatch, when):
    owner, name = (atomic.os, "open") if when == "before it is opened" else (atomic, "_try_lock")
    made, real = [], getattr(owner, name)

    def swept_first(*given):
        (found,) = tmp_path.glob(".s.txt-*")
        made.append(found)
        if len(made) == 1:
            found.rmdir()
        return real(*given)

    monkeypatch.setattr(owner, name, swept_first)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with written_whole(tmp_path / "s.txt", sync=False) as new:
            monkeypatch.undo()
            new.write_text("whole")
        gc.collect()
    assert not said and (tmp_path / "s.txt").read_text() == "whole" and made[0] != made[1]
    assert [each.name for each in tmp_path.iterdir()] == ["s.txt"]
