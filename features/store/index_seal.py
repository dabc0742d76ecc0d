"""The seal of an index: an empty file among its parts, named by the index's SHA-256, which is checked before HDF5 opens the index.

HDF5 keeps an index's references to its parts in a heap without a checksum; one changed bit there was seen to crash and to hang it.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import StoreError
from ..runtime.atomic import sync_path
from ..safefiles.regular_files import hash_file

_PREFIX = "index-"


def seal_index(unfinished: Path, folder: Path) -> None:
    """Seal an index that is about to get its name; the seal of the one that it replaces stays valid until `break_seals`."""
    (folder / f"{_PREFIX}{hash_file(unfinished)}").touch()
    sync_path(folder)


def is_sealed(folder: Path) -> bool:
    """Return whether there is a seal in a folder of parts."""
    return any(folder.glob(f"{_PREFIX}*"))


def check_seal(path: Path, folder: Path, remedy: str) -> None:
    """Raise StoreError if the parts in a folder have a seal of an index, but not of this one; earlier versions sealed none."""
    if is_sealed(folder) and not (folder / f"{_PREFIX}{hash_file(path)}").exists():
        raise StoreError(f"{path} is damaged: it is not the index that {folder} was sealed with. {remedy}")


def break_seals(folder: Path, keep: Path | None = None) -> None:
    """Remove the seals in a folder, but for that of an index."""
    kept = None if keep is None else f"{_PREFIX}{hash_file(keep)}"
    for seal in folder.glob(f"{_PREFIX}*"):
        if seal.name != kept:
            seal.unlink(missing_ok=True)
