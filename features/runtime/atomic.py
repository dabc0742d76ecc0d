"""Files and folders that are there whole, or not at all, whatever fails while they are written."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of drives that promise nothing, such as synced ones


@contextmanager
def written_whole(
    path: Path, *, folder: Path | None = None, prefix: str | None = None, sync: bool = True, replace: bool = False
) -> Iterator[Path]:
    """Yield a name to write a file or folder under, which becomes `path` once it is written and on disk.

    Several processes may do so at the same time; the last one to finish is kept.

    Parameters
    ----------
    path : Path
        Its parent is made if need be.
    folder : Path, optional
        Where to write meanwhile, on the same file system; beside `path` if left out. What a killed process leaves there is
        a folder whose name begins with `prefix`.
    prefix : str, optional
        ``.<name of path>-`` if left out, and then what killed processes left under it is removed.
    sync : bool
        Wait until all of it is on disk, so that not even a power cut leaves `path` without what was written.
    replace : bool
        Let a folder take the place of one that has something in it, in one step where the system has one.

    Raises
    ------
    OSError
        If it cannot be written, be it for a full disk, or a folder is there already; what was there before stays.
    """
    folder = folder or path.parent
    make_folder(folder, sync)
    if prefix is None:
        prefix = f".{path.name}-"
        _sweep(folder, prefix)
    with _locked_folder(folder, prefix) as place:
        unfinished = place / path.name
        with errors_named(path):
            yield unfinished
        if sync:
            for each in (*unfinished.rglob("*"), unfinished):
                sync_path(each)
        if replace and path.is_dir():
            _exchange(unfinished, path)
        else:
            os.replace(unfinished, path)
    if sync:
        sync_path(path.parent)


@contextmanager
def errors_named(path: str | Path) -> Iterator[None]:
    """Have an error of writing a file, which names none (a full disk), name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None and not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def _locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder, locked as long as it is written to and removed afterwards."""
    while True:
        place = tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
        try:
            handle = os.open(place.name, os.O_RDONLY)
        except FileNotFoundError:  # swept before it was locked
            place.cleanup()
            continue
        except OSError:  # Windows opens no folders
            handle = None
        try:
            if handle is not None and not _try_lock(handle):
                place.cleanup()
                continue
            with place:
                yield Path(place.name)
            return
        finally:
            if handle is not None:
                os.close(handle)


def _sweep(folder: Path, prefix: str) -> None:
    """Remove folders that killed processes left; those of living ones are locked."""
    for left in folder.iterdir():
        if not left.name.startswith(prefix) or left.is_symlink() or not left.is_dir():
            continue
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                flock(handle)
                shutil.rmtree(left)
            finally:
                os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock a new folder; return whether it is this process's, which it also is where there are no locks."""
    try:
        flock(handle)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return os.fstat(handle).st_nlink > 0  # else swept just before


def flock(handle: int) -> None:
    """Take the system's lock on an open file or folder, which ends with the process.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    OSError
        If this system or its file system has no locks.
    """
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise OSError(errno.ENOTSUP, "no flock on this system") from error
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _exchange(new: Path, old: Path) -> None:
    """Give a folder the name of another, which gets the name of the first: at once on Linux, where the file system can."""
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        at_cwd, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, see rename(2)
        if rename and rename(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
            return
    aside = old.with_name(f"{old.name}.replaced")  # a name that stays visible if the process is killed now
    if aside.is_dir():  # one was killed there, and `old` has been written since
        shutil.rmtree(aside)
    os.replace(old, aside)
    os.replace(new, old)
    shutil.rmtree(aside)


def make_folder(folder: Path, sync: bool = True) -> None:
    """Make a folder and those above it, and wait until their names are on disk; else all that is written into them can be lost."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing if sync else ():
        sync_path(each.parent)


def sync_path(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on disk, where its file system can tell.

    Raises
    ------
    OSError
        If it could not be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)
