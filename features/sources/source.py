"""Labelled images in a fixed order, and building them from rows.

Rows are sorted by the UTF-8 bytes of their path relative to the source's root, independent of the file system's order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np

from ..errors import SourceError, shell
from ..splits import SPLITS, Row, count_rows
from .file_names import named_file


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
        int32 label; uint8 split (values of ``SPLITS``); int32 stratum: stratified splits preserve the strata's proportions.
    rejected : tuple of (str, str)
        Path of each file that cannot be a row, such as a link that is not followed, and the reason.
    left_out : tuple of (str, str)
        Path of every other file that is no row, such as a text, and the reason.
    notes : tuple of str
        Human-readable notes on how the rows were chosen.
    columns : mapping of str to tuple of str
        Further facts about the rows, such as the patient: name → one text per row.
    group : str, optional
        The column that names each row's group; a group stays in one split.
    drawn : tuple of str
        Splits that were drawn from the training rows, in the order of drawing.
    seed : int
        Seed of the drawn splits.
    learnt : frozenset of str
        Paths of rows that are in train whatever is drawn, unless a copy or their group is elsewhere.
    """

    kind: str
    root: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    strata: np.ndarray
    rejected: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None
    drawn: tuple[str, ...] = ()
    seed: int = 0
    learnt: frozenset[str] = frozenset()

    @property
    def side_keys(self) -> tuple[str, ...]:
        """One key per row, its group or else its own path; rows with equal keys stay in one drawn split."""
        return self.paths if self.group is None else self.columns[self.group]

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, row: int) -> Path:
        """Return the path of a row's image file."""
        return named_file(self.root, self.paths[row])

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows per split and class: ``{split: {class name: rows}}``."""
        return count_rows(self.class_names, self.labels, self.splits)


def make_source(
    kind: str,
    root: Path,
    rows: list[Row],
    rejected: Sequence[tuple[str, str]] = (),
    strata: Mapping[str, str] | None = None,
    columns: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
    left_out: Sequence[tuple[str, str]] = (),
) -> Source:
    """Build a source from rows in any order.

    Parameters
    ----------
    kind, root, rejected, notes, left_out
        See `Source`.
    rows : list of Row
    strata : mapping of str to str, optional
        Path → text that refines the strata given by the labels.
    columns : mapping of str to mapping, optional
        Name of each further column → path → text.

    Raises
    ------
    SourceError
        If there are no rows, or all have one class.
    """
    if not rows:
        raise SourceError(f"{root} holds no images. Check: {shell('ls', '-R', root)}")
    rows = sorted(rows, key=lambda row: row[0].encode())
    names = tuple(sorted({name for _, name, _ in rows}))
    if len(names) < 2:
        raise SourceError(
            f"{root} holds only one class ({names[0]!r}); a classifier needs two. Sort the images into one folder per class."
        )
    labels = {name: label for label, name in enumerate(names)}
    keys = [(name, (strata or {}).get(path, "")) for path, name, _ in rows]
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    return Source(
        kind=kind,
        root=root,
        class_names=names,
        paths=tuple(path for path, _, _ in rows),
        labels=np.array([labels[name] for _, name, _ in rows], np.int32),
        splits=np.array([255 if split is None else SPLITS[split] for _, _, split in rows], np.uint8),
        strata=np.array([numbers[key] for key in keys], np.int32),
        rejected=tuple(sorted(rejected)),
        left_out=tuple(sorted(left_out)),
        notes=tuple(notes),
        columns={name: tuple(texts[path] for path, _, _ in rows) for name, texts in (columns or {}).items()},
    )


def tell_reasons(files: Iterable[tuple[str, str]]) -> list[str]:
    """Return texts that count files by ending and reason, the most frequent first, such as ``8 of .txt: no image``."""
    counts = Counter((PurePosixPath(path).suffix or "no ending", reason) for path, reason in files)

    def kind(ending: str, reason: str) -> str:
        if ending != "no ending":
            return f" of {ending}"
        return "" if reason.endswith("folder") else " without ending"

    return [f"{count}{kind(*each)}: {each[1]}" for each, count in counts.most_common()]


def warn_of_like_names(names: Iterable[str]) -> Iterator[str]:
    """Yield a warning for class names that differ only in letter case, blanks or Unicode form."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(normalize("NFC", name).casefold().split()), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            yield (
                f"{' and '.join(map(repr, group))} are {len(group)} classes, though they differ in letter case, blanks or Unicode form "
                f"only"
            )
