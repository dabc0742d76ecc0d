"""Files and folders that are there whole, or not at all, whatever fails while they are written."""

from __future__ import annotations

import errno
import os
import shutil
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
        ``.<name of path>-`` if left out.
    sync : bool
        Wait until all of it is on disk, so that not even a power cut leaves `path` without what was written.
    replace : bool
        Let a folder take the place of one that has something in it.

    Raises
    ------
    OSError
        If it cannot be written, be it for a full disk, or a folder is there already; what was there before stays.
    """
    folder = folder or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=prefix or f".{path.name}-", dir=folder) as place:
        unfinished = Path(place) / path.name
        yield unfinished
        if sync:
            for each in (*unfinished.rglob("*"), unfinished):
                sync_path(each)
        if replace and path.is_dir():
            shutil.move(path, Path(place) / "replaced")
        os.replace(unfinished, path)
    if sync:
        sync_path(path.parent)


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
