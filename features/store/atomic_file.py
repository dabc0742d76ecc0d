"""Atomic writing of an HDF5 file: it appears only when complete, even if something fails."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ..errors import StoreError
from ..runtime.atomic import sync_path, written_whole

# Object headers, indices and links with checksums; read by HDF5 1.10 and later.
_LIBVER = ("v110", "v110")
UNFINISHED = "unfinished-"  # prefix of temporary folders for unfinished files; a killed run leaves them behind


def sweep(folder: Path) -> None:
    """Remove files that a killed writer left unfinished; a worker presumed dead may still write there, without effect."""
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


class Unfailing:
    """A file object for HDF5 that records the first error instead of raising it.

    HDF5 cannot close a file whose last writes fail, and then crashes the interpreter at exit. So after an error, such as a
    full disk, further writes are dropped; the caller checks `error` and discards the file.
    """

    def __init__(self, path: str):
        self._file = open(path, "xb+", buffering=0)  # noqa: SIM115 - closed by close
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Write, or do nothing after an error."""
        size = len(data)
        try:
            while self.error is None and len(data):  # a nearly full disk may write only a part
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int) -> int:
        """Set the size, or do nothing after an error."""
        try:
            if self.error is None:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Do nothing, since nothing is buffered."""

    def read(self, size: int = -1) -> bytes:
        """Read from the current position."""
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        """Read into a buffer; fill it with zeros beyond the end of the file."""
        done = self._file.readinto(buffer) or 0
        buffer[done:] = bytes(len(buffer) - done)
        return len(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the current position."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def whole_file(path: Path, folder: Path, seal: Callable[[Path], None] | None = None) -> Iterator[h5py.File]:
    """Write an HDF5 file in `folder` that appears as `path` only when it is complete and on disk; `seal` is called with it before.

    Raises
    ------
    StoreError
        If the disk is full or fails, or HDF5 does; an earlier file at `path` stays unchanged.
    """
    with written_whole(path, folder=folder, prefix=UNFINISHED, sync=False) as name:
        raw = Unfailing(str(name))
        try:
            with h5py.File(raw, "w", libver=_LIBVER) as file:
                yield file
        except Exception as error:
            if raw.error is None and isinstance(error, RuntimeError):  # how h5py raises what HDF5 does not explain
                raise StoreError(f"{path} cannot be written: {error}. Run the same command again.") from error
            if raw.error is None:
                raise
        finally:
            raw.close()
        if raw.error is not None:
            raise disk_error(raw.error, folder)
        _sync(name, folder)
        if seal is not None:
            try:
                seal(name)
            except OSError as error:
                raise disk_error(error, folder) from error
    _sync(path.parent, path.parent)


def free_space(folder: Path) -> float:
    """Return the number of free bytes; infinity if the file system does not report it, as on some synced drives."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else math.inf


def _sync(path: Path, folder: Path) -> None:
    try:
        sync_path(path)
    except OSError as error:
        raise disk_error(error, folder) from error


def disk_error(error: OSError, folder: Path) -> StoreError:
    """Return the error for a full or failing disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"the disk of {folder} is full. Free some space and run the same command again: it resumes from there."
        )
    return StoreError(
        f"{folder} cannot be written: {error.strerror}. Fix that and run the same command again: it resumes from there."
    )
