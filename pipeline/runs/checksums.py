"""The SHA-256 of each file of a run, in a list that ``sha256sum --check`` reads, so that files of two runs are never mixed."""

from __future__ import annotations

from pathlib import Path

from features.errors import UnsafeFile, option
from features.safefiles.regular_files import hash_file, read_whole

SUMS = "SHA256SUMS"
_MAX_BYTES = 1 << 20  # a run has about ten files


def write_sums(folder: Path) -> None:
    """List all files of a folder in ``SHA256SUMS``."""
    lines = [f"{found}  {name}\n" for name, found in sums_of(folder).items()]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def sums_of(path: Path) -> dict[str, str]:
    """Return the name below `path` of each file in a folder, or of a single file, with its SHA-256 in hexadecimal."""
    if path.is_file():
        return {path.name: hash_file(path)}
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): hash_file(each) for each in files}


def check_sums(folder: Path, *names: str) -> None:
    """Check that files are those that were written with their run. Earlier versions wrote no list; then nothing is checked.

    Raises
    ------
    UnsafeFile
        If a file is not on the list, or another than that on it.
    """
    try:
        lines = read_whole(folder / SUMS, _MAX_BYTES).decode().splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UnsafeFile(
            f"{folder / SUMS} cannot be read ({error}). Run the command that made {folder} again."
        ) from error
    listed = {name: found for found, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if (folder / name).is_file() and listed.get(name) != hash_file(folder / name):
            raise UnsafeFile(
                f"{folder / name} must be the file that was written with its run; {SUMS} says otherwise. Restore it, or run "
                f"the command that made {folder} again, with {option('overwrite', True)}"
            )
