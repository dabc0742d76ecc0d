"""The SHA-256 of each file of a run, in a list that ``sha256sum --check`` reads, so that files of two runs are never mixed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from features.errors import UnsafeFile, option

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """List all files of a folder in ``SHA256SUMS``."""
    lines = [f"{found}  {name}\n" for name, found in sums_of(folder).items()]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def sums_of(path: Path) -> dict[str, str]:
    """Return the name below `path` of each file in a folder, or of a single file, with its SHA-256 in hexadecimal."""
    if path.is_file():
        return {path.name: _sum(path)}
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): _sum(each) for each in files}


def check_sums(folder: Path, *names: str) -> None:
    """Check that files are those that were written with their run. Earlier versions wrote no list; then nothing is checked.

    Raises
    ------
    UnsafeFile
        If a file is not on the list, or another than that on it.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UnsafeFile(
            f"{folder / SUMS} cannot be read ({error}). Run the command that made {folder} again."
        ) from error
    listed = {name: found for found, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if (folder / name).is_file() and listed.get(name) != _sum(folder / name):
            raise UnsafeFile(
                f"{folder / name} must be the file that was written with its run; {SUMS} says otherwise. Restore it, or run "
                f"the command that made {folder} again, with {option('overwrite', True)}"
            )


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
