"""Files and folders that are there whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from features.runtime.atomic import written_whole
from features.runtime.user_cache import cache_folder


def test_a_file_appears_once_it_is_written(tmp_path):
    path = tmp_path / "a/b/file.txt"
    with written_whole(path) as new:
        new.write_text("one")
        assert not path.exists() and new.name == path.name
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


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


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path):
    program = (
        "import os, pathlib, signal, sys; from features.runtime.atomic import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1])) as new: new.write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file.txt")])
    assert child.returncode == -signal.SIGKILL
    assert [path.name.startswith(".file.txt-") for path in tmp_path.iterdir()] == [True]


def test_a_disk_that_fills_up_names_the_path_and_leaves_what_was_there(small_disk):
    path = small_disk / "file.bin"
    path.write_bytes(b"one")
    with pytest.raises(OSError, match="No space left") as raised, written_whole(path) as new:
        new.write_bytes(os.urandom(400_000))
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"one" and list(small_disk.iterdir()) == [path]


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cached-features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert not sys.platform.startswith("linux") or cache_folder() == Path.home() / ".cache/cached-features"
