"""The writer lock of a store, and the error for a second writer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreError, UnsafeFile, shell
from ..runtime.atomic import flock, make_folder
from ..runtime.log import log
from ..safefiles.json_files import read_json
from .atomic_file import disk_error

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold the lock for writing a store's parts in `folder`, which is created if necessary.

    The lock is the operating system's lock on a file, released when the process ends for any reason. If the file system has no
    locks, the existence of a file serves as the lock, and a warning says so.

    Raises
    ------
    StoreError
        If the disk is full or fails, or another process holds the lock; the message then names the process, its host and
        start time, and what to do if it is dead.
    """
    lock, told = folder / "writer.lock", folder / "writer.json"
    handle = _take(lock, told)
    try:
        if handle is not None:
            _tell(told)
        yield
    finally:
        for path in (told, lock):
            path.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(OSError):  # the folder still holds parts
            folder.rmdir()


def _take(lock: Path, told: Path) -> int | None:
    """Return the handle that holds the lock, or None if the file `told` itself is the lock."""
    while True:
        try:
            make_folder(lock.parent)
        except OSError as error:
            raise disk_error(error, lock.parent) from error
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            flock(handle)
            if os.fstat(handle).st_ino == lock.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass  # the holder finished and removed the file between our opening and locking it
        except BlockingIOError:
            os.close(handle)
            raise _held(told, "the lock ends with its process") from None
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            _take_without_system(told)
            return None
        os.close(handle)


def _tell(told: Path) -> None:
    """Write who holds the lock."""
    try:
        told.write_text(json.dumps(_self()), encoding="utf-8")
    except OSError as error:
        raise disk_error(error, told.parent) from error


def _take_without_system(told: Path) -> None:
    """Create the file `told`, which must not exist unless a dead process on this host left it."""
    log.warning(f"{told.parent} is on a file system without locks; {told.name} replaces the lock")
    if _is_left(told):
        _remove_left(told)
    try:
        with open(told, "x", encoding="utf-8") as file:
            json.dump(_self(), file)
    except FileExistsError:
        raise _held(told, f"this file system has no locks; if that process is dead: {shell('rm', told)}") from None


def _remove_left(told: Path) -> None:
    """Remove the file of a dead holder, and never that of another process which found it, too, and took over meanwhile.

    Only the process that could create `claim` removes a file, and looks again before it does.
    """
    claim = told.with_suffix(".claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        raise _held(told, f"another process is taking over; if none is: {shell('rm', claim, told)}") from None
    try:
        if _is_left(told):
            told.unlink(missing_ok=True)
    finally:
        claim.unlink(missing_ok=True)


def _is_left(told: Path) -> bool:
    """Return whether a process of this host that is dead left the file."""
    holder = _holder(told)
    return holder.get("host") == socket.gethostname() and not _alive(int(holder.get("process", 0)))


def _self() -> dict[str, str | int]:
    return {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder(path: Path) -> dict[str, str | int]:
    try:
        return read_json(path)
    except (OSError, UnsafeFile):
        return {}


def _held(told: Path, note: str) -> StoreError:
    holder = _holder(told)
    process, host = holder.get("process", "unknown"), holder.get("host", "unknown")
    return StoreError(
        f"{told.parent} has been locked by process {process} on {host} since {holder.get('since', 'unknown')}. "
        f"Wait for it, or stop it: kill {process} ({note}). Reading is not blocked."
    )
