"""Regular files, of which no more is read than they say they hold.

A pipe or a device in place of a file would be waited for, or never end; so would some files of ``/proc``, which count as regular
but say that they hold nothing, or 128 TB.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import UnsafeFile

MAX_BYTES = 1 << 36  # of a file that is read to its end, such as a head with all its training rows
_CHUNK = 1 << 20
# What the system says when it could not read a file: no permission, too many open files, no memory, a disk or network that fails.
_SYSTEM = (
    errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE,
    errno.ENOTCONN, errno.ECONNRESET, errno.ETIMEDOUT,
)  # fmt: skip
_TOLD = re.compile(r"errno = (\d+)")  # by HDF5, whatever kind of error h5py makes of it


def is_out_of_reach(error: BaseException | None) -> bool:
    """Return whether an error says that the system could not read a file, which may be whole, instead of damage in it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _SYSTEM
    told = _TOLD.search(str(error))
    return told is not None and int(told[1]) in _SYSTEM


def check_regular(path: str | Path) -> None:
    """Raise UnsafeFile if there is something other than a regular file under this name, before a library opens it.

    Raises
    ------
    UnsafeFile
    OSError
        If there is nothing.
    """
    _check(Path(path).stat(), path)


def read_first(path: str | Path, most: int) -> bytes:
    """Return at most so many bytes from the beginning of a regular file; see `check_regular`."""
    with _opened(path) as (file, size):
        return file.read(min(size, most))


def read_whole(path: str | Path, most: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises
    ------
    UnsafeFile
        If it is not a regular file of at most `most` bytes.
    OSError
        If it cannot be read.
    """
    with _opened(path) as (file, size):
        _check_size(size, most, path)
        return file.read(size)


def hash_file(path: str | Path, most: int = MAX_BYTES) -> str:
    """Return the SHA-256 of a regular file in hexadecimal; see `read_whole`."""
    digest = hashlib.sha256()
    with _opened(path) as (file, size):
        _check_size(size, most, path)
        while size > 0 and (chunk := file.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def identify_file(path: str | Path) -> list[str | int]:
    """Return what tells a file from others, and from itself before it was written: its path, size, times and inode.

    The second of the times changes with every write, and no program can set it.

    Raises
    ------
    OSError
        If there is no such file.
    """
    status = Path(path).stat()
    return [str(Path(path).resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a regular file, opened without waiting, and its size."""
    check_regular(path)  # before it is opened, which has effects on some devices
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        _check(status, path)
        yield file, status.st_size


def _check(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise UnsafeFile(f"{path} must be a regular file; it is {what}. It is not read.")


def _check_size(size: int, most: int, path: str | Path) -> None:
    if size > most:
        raise UnsafeFile(f"{path} must have at most {most:,} bytes; it has {size:,}. It is not read.")
