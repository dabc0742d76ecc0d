"""Labelled images in a fixed order, and building them from rows.

Rows are sorted by the UTF-8 bytes of their path relative to the source's root, independent of the file system's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SourceError
from ..splits import SPLITS, Row, count_rows

# Extensions by which images are recognised; the decoder is chosen by content.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Source:
    """Labelled images in a fixed order.

    Attributes
    ----------
    kind : str
        ``folder``, ``csv`` or the name of a set.
    root : Path
        The folder to which `paths` are relative.
    class_names : tuple of str
        Sorted; a label is an index into it.
    paths : tuple of str
        One per row, sorted by UTF-8 bytes, with ``/`` between folders.
    labels, splits, strata : ndarray of shape (n_rows,)
        int32 label, uint8 split (values of ``SPLITS``), int32 stratum, whose proportions stratified splits preserve.
    rejected : tuple of (str, str)
        Path and reason of files rejected because of their name or type.
    notes : tuple of str
        Human-readable notes on how the rows were chosen.
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
        """Return the path of a row's image file."""
        return self.root / self.paths[row]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows per split and class: ``{split: {class name: rows}}``."""
        return count_rows(self.class_names, self.labels, self.splits)


def make_source(
    kind: str,
    root: Path,
    rows: list[Row],
    rejected: Sequence[tuple[str, str]] = (),
    strata: dict[str, str] | None = None,
) -> Source:
    """Build a source from rows in any order; `strata`, path → text, refines the strata given by the labels.

    Raises
    ------
    SourceError
        If there are no rows, or all have one class.
    """
    if not rows:
        raise SourceError(
            f"{root} holds no images (extensions {' '.join(sorted(EXTENSIONS))}) at class/file or split/class/file. "
            f"Check: ls -R {root}"
        )
    rows = sorted(rows, key=lambda row: row[0].encode())
    names = tuple(sorted({name for _, name, _ in rows}))
    if len(names) < 2:
        raise SourceError(
            f"{root} holds only one class ({names[0]!r}); a classifier needs two. Sort the images into one folder per class."
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
