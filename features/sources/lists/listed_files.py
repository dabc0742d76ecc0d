"""Files below a root, found by the names that lists give them."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from ...images.formats import EXTENSIONS


class ListedFiles:
    """Files below a root, found by the names in a list.

    A name is first taken as an exact path. If there is no such file, surrounding blanks are removed, then backslashes become
    slashes, then the file is searched in another Unicode form or, last, with an image extension added.

    Parameters
    ----------
    root : Path
    pattern : str, optional
        Pattern of the path; ``{}`` stands for the name.

    Attributes
    ----------
    changes : Counter of str
        What was done to names that are not exact paths → number of such names.
    """

    def __init__(self, root: Path, pattern: str | None = None):
        self.root, self.pattern = root, pattern
        self.changes: Counter[str] = Counter()
        self._folders: dict[PurePosixPath, tuple[dict[str, list[str]], dict[str, list[str]]]] = {}

    def path_of(self, name: str) -> str:
        """Return the exact path, relative to the root, that a name stands for."""
        return PurePosixPath(self.pattern.replace("{}", name) if self.pattern else name).as_posix()

    def find(self, name: str) -> list[str]:
        """Return the paths, relative to the root, of all files that a name can mean; exactly one if it is unambiguous."""
        path = self.path_of(name)
        if self._is_there(path):
            return [path]
        bare = self.path_of(name.strip())
        for given, change in (
            (bare, "are read without the blanks around them"),
            (bare.replace("\\", "/"), "are read with / for \\"),
        ):
            path = PurePosixPath(given).as_posix()
            if self._is_there(path):
                self.changes[change] += 1
                return [path]
        return self._search(PurePosixPath(path))

    def guess_pattern(self, name: str) -> str | None:
        """Return a pattern that turns the name into the path of an image below the root; None if there is no such image."""
        name = name.strip().replace("\\", "/")
        for folder, _, files in os.walk(self.root):
            below = PurePosixPath(folder).relative_to(self.root)
            for file in files:
                before, found, after = str(below / file).rpartition(name)
                if found and before.endswith("/") and after.lower() in {"", *EXTENSIONS}:
                    return f"{before}{{}}{after}"
        return None

    def _is_there(self, path: str) -> bool:
        file = self.root / path
        try:
            return file.exists() and not file.is_dir()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise

    def _search(self, path: PurePosixPath) -> list[str]:
        """Search a path folder by folder, in any Unicode form, with or without an image extension."""
        folder = PurePosixPath()
        for part in path.parts[:-1]:
            below = [part] if part in ("/", "..") else self._entries(folder)[0].get(normalize("NFC", part), [])
            if len(below) != 1:
                return []
            folder /= below[0]
        names, stems = self._entries(folder)
        name, change = normalize("NFC", path.name), "are matched to files in another Unicode form (NFC or NFD)"
        files = [each for each in names.get(name, []) if self._is_there(str(folder / each))]
        if not files and path.suffix.lower() not in EXTENSIONS:
            files, change = stems.get(name, []), "are matched to files by their names without ending"
        if len(files) == 1:
            self.changes[change] += 1
        return [str(folder / each) for each in files]

    def _entries(self, folder: PurePosixPath) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return a folder's entries by name, and its images by name without extension; names are in NFC."""
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            stems: dict[str, list[str]] = {}
            try:
                entries = sorted(os.listdir(self.root / folder))
            except OSError:
                entries = []  # not a readable folder
            for entry in entries:
                names.setdefault(normalize("NFC", entry), []).append(entry)
                file = PurePosixPath(entry)
                if file.suffix.lower() in EXTENSIONS:
                    stems.setdefault(normalize("NFC", file.stem), []).append(entry)
            self._folders[folder] = names, stems
        return self._folders[folder]
