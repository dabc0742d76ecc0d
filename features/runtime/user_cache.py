"""The per-user folder for what is made once and used by every project.

What is kept there is whole, or not used: a note holds its key and its SHA-256, and a file's name has them, which are checked on each use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from .atomic import written_whole
from .log import log

if TYPE_CHECKING:
    from typing_extensions import Buffer

_STALE = 3600.0  # seconds after which what a killed process left half-written is removed


def cache_folder() -> Path:
    """Return the folder; on Linux ``$XDG_CACHE_HOME/cached-features``, or ``~/.cache/cached-features`` where that is not set."""
    return user_cache_path("cached-features", appauthor=False)


def recall(what: str, key: Any) -> Any:
    """Return what `remember` was given under this key, or None."""
    try:
        note = json.loads(_note(what, key).read_text(encoding="utf-8"))
        return note["value"] if note["key"] == key and note["sha256"] == _digest(note["value"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never noted, or damaged: it is found out again


def remember(what: str, key: Any, value: Any) -> None:
    """Keep a value that took long to find, for this user and machine; key and value as JSON has them."""
    with if_writable(), written_whole(_note(what, key)) as path:
        path.write_text(json.dumps({"key": key, "value": value, "sha256": _digest(value)}, indent=1), encoding="utf-8")


def recall_bytes(what: str, key: Any) -> mmap.mmap | None:
    """Return what `remember_bytes` was given under this key, mapped into memory; None if it is not there, or damaged, when it is removed."""
    digest = _digest(key)
    for path in sorted((cache_folder() / what).glob(f"{digest}-*")):
        found = None
        try:
            with open(path, "rb") as file, contextlib.suppress(ValueError):  # an empty file cannot be mapped
                found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:  # another process has removed it, or the system cannot read it now
            continue
        if found is not None:
            if path.name == f"{digest}-{hashlib.sha256(found).hexdigest()}":
                with contextlib.suppress(OSError):  # a cache that can only be read
                    os.utime(path)
                return found
            found.close()
        log.debug(f"cache    {path} is damaged; it is made again")
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def remember_bytes(what: str, key: Any, value: Iterable[Buffer], most: int) -> None:
    """Keep bytes that took long to make, in a file of their own.

    Parameters
    ----------
    what : str
        Folder below `cache_folder`.
    key : Any
        As JSON has it.
    value : iterable of bytes, or what has a buffer
        Written one after the other.
    most : int
        Bytes that the folder may hold beside this file; what was not used for the longest time is removed.
    """
    folder, pieces, sha256 = cache_folder() / what, list(value), hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    with if_writable():
        # Not waiting for the disk: what a power cut leaves does not have the digest in its name.
        with (
            written_whole(folder / f"{_digest(key)}-{sha256.hexdigest()}", sync=False) as path,
            open(path, "wb") as file,
        ):
            file.writelines(pieces)
        _forget(folder, most)


def _forget(folder: Path, most: int) -> None:
    """Remove the least recently used files beyond so many bytes, and what killed processes left half-written."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process has removed it
            status = path.stat()
            if path.is_dir():
                if time.time() - status.st_mtime > _STALE:
                    shutil.rmtree(path, ignore_errors=True)
            else:
                found.append((status.st_mtime_ns, status.st_size, path))
    for _, size, path in sorted(found, reverse=True)[1:]:  # the newest stays, whatever its size
        most -= size
        if most < 0:
            with contextlib.suppress(OSError):  # where a mapped file cannot be removed
                path.unlink()


@contextmanager
def if_writable() -> Iterator[None]:
    """Go on without the cache, and say so once, where it cannot be written."""
    try:
        yield
    except OSError as error:
        _warn(str(cache_folder()), error.strerror or str(error))


@cache
def _warn(folder: str, why: str) -> None:
    log.warning(
        f"the cache {folder} cannot be written ({why}); what is prepared is not kept. Name another folder: XDG_CACHE_HOME"
    )


def _note(what: str, key: Any) -> Path:
    return cache_folder() / what / f"{_digest(key)}.json"


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
