"""A folder's images as they appear, each once it is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from features.errors import RequestError, called, shell

from .prediction import images_below

Stamp = tuple[int, int, int]  # size in bytes, time of the last change in ns, inode
_SECONDS = 0.5  # between two looks
_AT_REST = 20  # times that a look takes are waited at least, so that looking at many files takes a twentieth of a core


def watch_folder(folder: str | Path, stop: threading.Event, seconds: float = _SECONDS) -> Iterator[list[Path]]:
    """Return an iterator over lists of image files that are new or changed since this call.

    A file is yielded once it is not empty and was the same in two looks: size, time and inode.

    Parameters
    ----------
    folder : path-like
        Images below it count, too; hidden ones do not.
    stop : threading.Event
        Ends the iterator.
    seconds : float
        Between two looks.

    Raises
    ------
    RequestError
        If there is no such folder.
    """
    watched = Path(folder)
    if not watched.is_dir():
        raise RequestError(
            f"{called('watch')} must be a folder; got {folder}. Create it: {shell('mkdir', '-p', folder)}"
        )
    return _appearing(watched, stop, seconds, _look(watched))


def _appearing(folder: Path, stop: threading.Event, seconds: float, known: dict[Path, Stamp]) -> Iterator[list[Path]]:
    last, took = known, 0.0
    while not stop.wait(max(seconds, _AT_REST * took)):
        start = time.perf_counter()
        now = _look(folder)
        took = time.perf_counter() - start
        whole = [file for file, stamp in now.items() if known.get(file) != stamp == last.get(file) and stamp[0]]
        known = {file: stamp for file, stamp in known.items() if file in now} | {file: now[file] for file in whole}
        last = now
        if whole:
            yield sorted(whole)


def _look(folder: Path) -> dict[Path, Stamp]:
    """Return the images below a folder, each with its stamp."""
    found = {}
    for file in images_below(folder):
        try:
            status = file.stat()
        except OSError:  # it is gone again, or cannot be reached now
            continue
        found[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found
