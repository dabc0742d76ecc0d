"""Where labelled images come from: a folder tree, a CSV manifest or a named set, as rows in one fixed order.

Rows are sorted by the UTF-8 bytes of their path below the source's root, whatever order the file system lists
them in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import RequestError, SourceError
from ..splits import SPLIT_NAMES, SPLITS, Row, count_rows, rank_keys, stratified_split
from .cifar10 import cifar10_folder
from .elpv import read_elpv
from .manifest import read_manifest

# What is taken for an image by its name; content decides how it is decoded.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
TEST_FRACTION = 0.25  # of all rows, where the source gives no test split
VAL_FRACTION = 0.20  # of what is left for training, where the source gives no val split


@dataclass(frozen=True)
class Source:
    """Labelled images in a fixed order.

    Attributes
    ----------
    kind : str
        ``folder``, ``csv`` or the name of a set.
    root : Path
        The folder that `paths` are relative to.
    class_names : tuple of str
        Sorted; a label is an index into it.
    paths : tuple of str
        One a row, sorted by their UTF-8 bytes, with ``/`` between folders.
    labels, splits, strata : ndarray of shape (n_rows,)
        int32 label, uint8 split (values of ``SPLITS``), int32 stratum: what a stratified split keeps in proportion.
    rejected : tuple of (str, str)
        Path and reason of files that cannot be rows by their name or kind.
    notes : tuple of str
        What was decided about the rows, for people.
    """

    kind: str
    root: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    strata: np.ndarray
    rejected: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, row: int) -> Path:
        """Return where the image of a row lies."""
        return self.root / self.paths[row]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return rows a split and class: ``{split: {class name: rows}}``."""
        return count_rows(self.class_names, self.labels, self.splits)


def load_source(data: str, seed: int = 0, limit: int | None = None, allow_missing_classes: bool = False) -> Source:
    """Read a source: a folder, a ``.csv`` manifest, or the name of a set.

    Parameters
    ----------
    data : str
        A folder laid out as ``split/class/file`` or ``class/file``; a CSV file with columns ``path``, ``label`` and
        optionally ``split``; or a key of ``NAMED_SETS``.
    seed : int
        Decides splits that the source does not give, and which rows `limit` keeps.
    limit : int, optional
        Keep this many rows, in proportion to splits and strata.
    allow_missing_classes : bool
        Accept a class that has no image in some split.

    Raises
    ------
    SourceError
        If there is nothing to learn from: no images, one class only, a class missing from a split.
    """
    path = Path(data)
    if data in NAMED_SETS:
        source = NAMED_SETS[data]()
    elif path.is_dir():
        source = _read_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        source = _read_csv(path)
    else:
        raise SourceError(
            f"data must be a folder, a .csv file or one of {', '.join(sorted(NAMED_SETS))}; got {data!r}, "
            f"which is {'no .csv file' if path.exists() else 'not there'}. Check the path: ls {data}"
        )
    source = _fill_splits(source, seed)
    if limit is not None:
        source = _keep(source, limit, seed)
    if not allow_missing_classes:
        _check_splits(source)
    return source


def _make_source(
    kind: str,
    root: Path,
    rows: list[Row],
    rejected: Sequence[tuple[str, str]] = (),
    strata: dict[str, str] | None = None,
) -> Source:
    """Build a source from (path, class name, split or None); `strata` adds to the label what a split keeps in proportion."""
    if not rows:
        raise SourceError(
            f"{root} holds no images (endings {' '.join(sorted(EXTENSIONS))}) at class/file or split/class/file. "
            f"Look at it: ls -R {root}"
        )
    rows = sorted(rows, key=lambda row: row[0].encode())
    names = tuple(sorted({name for _, name, _ in rows}))
    if len(names) < 2:
        raise SourceError(
            f"{root} holds one class only ({names[0]!r}); a classifier needs two. Sort the images into a folder a class."
        )
    keys = [(name, (strata or {}).get(path, "")) for path, name, _ in rows]
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    return Source(
        kind=kind,
        root=root,
        class_names=names,
        paths=tuple(path for path, _, _ in rows),
        labels=np.array([names.index(name) for _, name, _ in rows], np.int32),
        splits=np.array([255 if split is None else SPLITS[split] for _, _, split in rows], np.uint8),
        strata=np.array([numbers[key] for key in keys], np.int32),
        rejected=tuple(sorted(rejected)),
    )


def _fill_splits(source: Source, seed: int) -> Source:
    """Cut the splits that the source does not give from the rows it has for training."""
    splits, notes = source.splits.copy(), list(source.notes)
    if (splits == 255).all():
        splits[:] = SPLITS["train"]
    for name, fraction in (("test", TEST_FRACTION), ("val", VAL_FRACTION)):
        if not (splits == SPLITS[name]).any():
            pool = np.flatnonzero(splits == SPLITS["train"])
            chosen = stratified_split(source.strata[pool], [source.paths[i] for i in pool], fraction, seed)
            splits[pool[chosen]] = SPLITS[name]
            notes.append(
                f"no split {name} given: cut {fraction:.0%} of what was left to train on, stratified, seed {seed}"
            )
    return replace(source, splits=splits, notes=tuple(notes))


def _check_splits(source: Source) -> None:
    for split, classes in source.counts().items():
        missing = [name for name, rows in classes.items() if not rows]
        if missing:
            raise SourceError(
                f"every class must be in every split; {split} has no image of {', '.join(map(repr, missing))}. "
                f"Add images (or raise --limit), remove the class, or accept it: --allow-missing-classes"
            )


def _keep(source: Source, limit: int, seed: int) -> Source:
    """Keep `limit` rows in proportion to splits and strata (largest remainders)."""
    if limit < 1:
        raise RequestError(f"limit must be at least 1; got {limit}. Leave it out to take all {len(source)} images.")
    if limit >= len(source):
        return source
    cells = source.strata.astype(np.int64) * len(SPLITS) + source.splits
    names, sizes = np.unique(cells, return_counts=True)
    exact = sizes * limit / len(source)
    takes = np.floor(exact).astype(int)
    takes[np.argsort(takes - exact, kind="stable")[: limit - takes.sum()]] += 1
    ranks = rank_keys(seed, source.paths)
    kept: list[int] = []
    for name, take in zip(names, takes, strict=True):
        rows = np.flatnonzero(cells == name)
        kept.extend(rows[np.argsort(ranks[rows], kind="stable")[:take]])
    rows = np.sort(np.array(kept))
    return replace(
        source,
        paths=tuple(source.paths[i] for i in rows),
        labels=source.labels[rows],
        splits=source.splits[rows],
        strata=source.strata[rows],
        notes=(*source.notes, f"a stratified subset: {limit} of {len(source)} images"),
    )


def _read_folder(root: Path) -> Source:
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
    notes = tuple(f"the folder {name} is read as {split}" for name, split in sorted(splits.items()) if name != split)
    return replace(_make_source("folder", root, rows, rejected), notes=notes)


def _split_folders(root: Path) -> dict[str, str]:
    """Return {folder: split} if the folders below the root are splits, nothing if they are classes."""
    folders = sorted(entry.name for entry in _visible(root) if _is_folder(entry))
    splits = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    if not any(_is_folder(entry) for name in splits for entry in _visible(root / name)):
        return {}  # no class folders in them: classes that happen to be called train or test
    if len(splits) < len(folders):
        others = ", ".join(name for name in folders if name not in splits)
        raise SourceError(
            f"{root} must hold either splits or classes; it mixes the splits {', '.join(splits)} with {others}. "
            f"Use split/class/file throughout, or class/file throughout."
        )
    if len(set(splits.values())) < len(splits):
        raise SourceError(
            f"{root} must hold one folder a split; got {', '.join(splits)}. Merge those that mean the same."
        )
    return splits


def _take_files(
    root: Path, below: str, folder: os.DirEntry[str], split: str | None, rows: list, rejected: list
) -> None:
    """Add the images of one class folder, which lies at `below` under the root."""
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


def _visible(folder: Path) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads round in a circle


def _lies_below(entry: os.DirEntry[str], root: Path) -> bool:
    try:
        return Path(entry.path).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return True  # leads nowhere: reading it will say so


def _read_csv(path: Path) -> Source:
    return _make_source("csv", path.parent, read_manifest(path))


def _read_elpv() -> Source:
    """Read the solar cells; splits are stratified by label and module type, as the published benchmark's are."""
    root, rows, module_types = read_elpv()
    return _make_source("elpv", root, rows, strata=module_types)


def _read_cifar10() -> Source:
    return replace(_read_folder(cifar10_folder()), kind="cifar10")


NAMED_SETS = {"elpv": _read_elpv, "cifar10": _read_cifar10}
