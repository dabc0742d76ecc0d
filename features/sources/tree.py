"""All files below a folder: images, and what else there is, with the reason why it is not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..images.formats import why_no_image
from .file_names import unicode_name

LINK = "symbolic link out of the source's folder"


class Tree:
    """The files below a folder, without hidden ones.

    Parameters
    ----------
    root : Path
    follow_links : bool
        Follow links that lead out of the folder.

    Attributes
    ----------
    images : list of str
        Paths below the root, as the file system has them.
    rejected : list of (str, str)
        Links that are not followed, and the reason.
    left_out : list of (str, str)
        Every other file, empty folder and link, and the reason why it is not read.
    """

    def __init__(self, root: Path, follow_links: bool = False):
        self.images: list[str] = []
        self.rejected: list[tuple[str, str]] = []
        self.left_out: list[tuple[str, str]] = []
        self._root, self._follow = Path(root), follow_links
        self._real = os.path.realpath(root)
        for entry in _visible(root):
            seen = {
                self._real
            }  # folders that a top folder holds, each of which is read once, so that links make no circle
            self._take(entry, entry.name, self._real, seen)

    def _take(self, entry: os.DirEntry[str], path: str, above: str, seen: set[str]) -> None:
        """Add an entry at `path` below the root, in the folder whose real path is `above`, and all below it."""
        real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above}/{entry.name}"
        inside = real == self._real or real.startswith(f"{self._real}/") or not Path(real).exists()
        if entry.is_symlink() and not inside and not self._follow:
            self.rejected.append((unicode_name(path), LINK))
        elif not _is_folder(entry):
            self._take_file(entry, path)
        elif real in seen:
            self.left_out.append((unicode_name(path), "a link to a folder that is read already"))
        else:
            seen.add(real)
            entries = list(_visible(entry.path))
            if not entries:
                self.left_out.append((unicode_name(path), "an empty folder"))
            for each in entries:
                self._take(each, f"{path}/{each.name}", real, seen)

    def _take_file(self, entry: os.DirEntry[str], path: str) -> None:
        reason = why_no_image(entry.path)
        if reason is None:
            self.images.append(path)
        else:
            self.left_out.append((unicode_name(path), reason))


def _visible(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a circular link
