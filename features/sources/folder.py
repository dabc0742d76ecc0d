"""Labelled images in a folder tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import SourceError
from ..splits import SPLIT_NAMES, Row
from .source import EXTENSIONS, Source, make_source


def read_folder(root: Path) -> Source:
    """Read a folder laid out as ``split/class/file`` or ``class/file``.

    Raises
    ------
    SourceError
        If it mixes the two layouts, or holds no images, or images of only one class.
    """
    rows: list[Row] = []
    rejected: list[tuple[str, str]] = []
    splits = _split_folders(root)
    if splits:
        for folder, split in splits.items():
            for entry in _visible(root / folder):
                _take_files(root, f"{folder}/{entry.name}", entry, split, rows, rejected)
    else:
        for entry in _visible(root):
            _take_files(root, entry.name, entry, None, rows, rejected)
    notes = [f"the folder {name} is read as {split}" for name, split in sorted(splits.items()) if name != split]
    return make_source("folder", root, rows, rejected, notes=notes)


def _split_folders(root: Path) -> dict[str, str]:
    """Return {folder: split} if the folders below the root are splits, nothing if they are classes."""
    folders = sorted(entry.name for entry in _visible(root) if _is_folder(entry))
    splits = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    if not any(_is_folder(entry) for name in splits for entry in _visible(root / name)):
        return {}  # no class folders inside: these are classes that happen to be called train or test
    if len(splits) < len(folders):
        others = ", ".join(name for name in folders if name not in splits)
        raise SourceError(
            f"{root} must hold either splits or classes; it mixes the splits {', '.join(splits)} with {others}. "
            f"Use split/class/file throughout, or class/file throughout."
        )
    if len(set(splits.values())) < len(splits):
        raise SourceError(
            f"{root} must hold one folder per split; got {', '.join(splits)}. Merge the folders of the same split."
        )
    return splits


def _take_files(
    root: Path,
    below: str,
    folder: os.DirEntry[str],
    split: str | None,
    rows: list[Row],
    rejected: list[tuple[str, str]],
) -> None:
    """Add the images of one class folder, at `below` relative to the root."""
    if not _is_folder(folder):
        return
    if folder.is_symlink() and not _lies_below(folder, root):
        rejected.append((unicode_name(below), "symbolic link out of the source's folder"))
        return
    for entry in _visible(Path(folder.path)):
        path = f"{below}/{entry.name}"
        if Path(entry.name).suffix.lower() not in EXTENSIONS or _is_folder(entry):
            continue
        if unicode_name(path) != path:
            rejected.append((unicode_name(path), "file name is not UTF-8"))
        elif entry.is_symlink() and not _lies_below(entry, root):
            rejected.append((path, "symbolic link out of the source's folder"))
        else:
            rows.append((path, folder.name, split))


def unicode_name(name: str) -> str:
    """Return a file name with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a circular link


def _lies_below(entry: os.DirEntry[str], root: Path) -> bool:
    try:
        return Path(entry.path).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return True  # a broken link, which reading will report
