"""Images that further CSV files add to a source, such as those that were labelled later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from ...errors import RequestError, SourceError, called, counted, find_near, listed
from ...splits import SPLIT_NAMES, SPLITS, Row
from ..path_columns import Patterns, find_text
from ..source import Source, make_source
from .manifest import Line, ListOptions, read_lines
from .table import read_table

_OPEN = 255  # the split of a row to which the source gives none


def add_lists(
    source: Source, lists: Sequence[str | Path], options: ListOptions, group: str | None, patterns: Patterns
) -> Source:
    """Return a source with the images of CSV files, in paths below its root or else absolute ones.

    An image that the source already has stays as it is. The images of a file that gives no splits are of train: they were often chosen
    for being hard, and figures of a test that they join could not be compared. A column that one of the two lacks is empty in its rows,
    unless a pattern finds it in their paths.

    Parameters
    ----------
    source : Source
        A folder or a CSV file.
    lists : sequence of path-like
        CSV files; paths in each are relative to its folder.
    options : ListOptions
    group : str, optional
        Column that names each row's group, which must not become empty.
    patterns : mapping
        Those columns that paths give; see `add_columns`.

    Raises
    ------
    RequestError, SourceError
        If there is no such file, it is not valid, it gives splits where the source gives none, an image has another label or split in
        the source, or the column of the group is missing.
    """
    for each in lists:
        source = _add_list(source, Path(each), options, group, patterns)
    return source


def _add_list(source: Source, path: Path, options: ListOptions, group: str | None, patterns: Patterns) -> Source:
    if not path.is_file():
        raise RequestError(f"{called('add')} must be CSV files of images with labels; got {path}. {find_near(path)}")
    lines, notes = read_lines(path, read_table(path), options, source.class_names)
    names = dict.fromkeys([*source.columns, *lines[0].further])
    given = bool((source.splits != _OPEN).all())
    if lines[0].split and not given:
        raise SourceError(
            f"{path} must give no splits, since {source.root} gives none; got {lines[0].split!r} in line {lines[0].number}. "
            f"Delete its column split, or give splits to all images."
        )
    rows: list[Row] = []
    texts: dict[str, dict[str, str]] = {name: {} for name in names}
    codes = {code: name for name, code in SPLITS.items()}
    for place, (held, label, split) in enumerate(zip(source.paths, source.labels, source.splits.tolist(), strict=True)):
        rows.append((held, source.class_names[label], codes.get(split)))
        for name in names:
            texts[name][held] = source.columns[name][place] if name in source.columns else ""
    name_of = _Names(source.root)
    known = {name_of(source.file(number)): row for number, row in enumerate(rows)}
    again = 0
    for line in lines:
        new = _row_of(line, name_of(path.parent / line.path), given)
        row = known.setdefault(new[0], new)
        if row is not new:
            _check_same(path, line, row, source)
            again += 1
            continue
        rows.append(new)
        for name in names:
            found = find_text(patterns[name], new[0]) if name in patterns else None
            texts[name][new[0]] = line.further.get(name) or found or ""
            if name == group and name in source.columns and not texts[name][new[0]]:
                raise SourceError(
                    f"{path}:{line.number} must have a text in the column {group}, which {called('group')} names. Fill it in for "
                    f"all lines, with a text of its own for an image that belongs to no other."
                )
    count = counted(len(lines) - again, "image")
    notes.append(
        f"{count} added from {path}" + (f"; {again} of its lines name images that are there already" * bool(again))
    )
    learnt = set(source.learnt)
    if not lines[0].split:
        learnt.update(held for held, _, _ in rows[len(source) :])
        notes.append(f"the images of {path.name} are in train, since it gives no split")
    lacking = names.keys() - lines[0].further - patterns.keys()
    for missing, where in ((lacking, path.name), (names.keys() - source.columns, source.root)):
        if missing:
            columns = f"{'column' if len(missing) == 1 else 'columns'} {listed(sorted(missing))}"
            notes.append(f"the images of {where} have no text in the {columns}")
    taken = {held for held, _, _ in rows}
    rejected, left = ([each for each in files if each[0] not in taken] for files in (source.rejected, source.left_out))
    notes = [*source.notes, *notes]
    made = make_source(source.kind, source.root, rows, rejected, columns=texts, notes=notes, left_out=left)
    return replace(made, learnt=frozenset(learnt))


def _row_of(line: Line, path: str, given: bool) -> Row:
    return path, line.label, SPLIT_NAMES[line.split.lower()] if line.split else ("train" if given else None)


def _check_same(path: Path, line: Line, held: Row, source: Source) -> None:
    """Raise SourceError if a line gives an image that the source has another label or split."""
    if line.label != held[1] or (line.split and SPLIT_NAMES[line.split.lower()] != held[2]):
        one, other = f"{line.label} {line.split}".rstrip(), f"{held[1]} {held[2] if line.split else ''}".rstrip()
        raise SourceError(
            f"{path}:{line.number} names {held[0]}, as {one}; it is there as {other} already, below {source.root}. "
            f"Delete the line, or correct the other."
        )


class _Names:
    """Names files: by the path below a root, or the absolute one; a file has one name, whatever links lead to its folder."""

    def __init__(self, root: Path):
        self._root = Path(os.path.realpath(root))
        self._real = cache(os.path.realpath)  # of folders, each of which holds many files

    def __call__(self, file: Path) -> str:
        real = Path(self._real(file.parent), file.name)
        return (real.relative_to(self._root) if real.is_relative_to(self._root) else real).as_posix()
