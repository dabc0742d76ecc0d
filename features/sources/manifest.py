"""Sources defined by a list in a file, such as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import SourceError
from ..splits import SPLIT_NAMES, Row
from .source import Source, make_source


def read_csv(path: Path) -> Source:
    """Read a CSV file with the columns path, label and optionally split; paths are relative to its folder.

    Raises
    ------
    SourceError
        If it is not such a file; see also `source_of_list`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise SourceError(
                    f"{path} must have the columns path,label[,split]; {' and '.join(sorted(missing))} missing from "
                    f"{reader.fieldnames or 'an empty file'}. Correct its first line."
                )
            lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} must be a CSV file in UTF-8; {error}. Save it again as UTF-8.") from error
    return source_of_list("csv", path, lines)


def source_of_list(kind: str, path: Path, lines: Iterable[tuple[int, Mapping[str, Any]]]) -> Source:
    """Return the source that a list in a file of any format defines.

    Parameters
    ----------
    kind : str
        Name of the source's kind.
    path : Path
        The file; paths in it are relative to its folder.
    lines : iterable of (int, mapping)
        Number and fields of each line: ``path``, ``label`` and optionally ``split``.

    Raises
    ------
    SourceError
        If a file is missing, a path occurs twice, or a split is unknown; the message names the line.
    """
    root = path.parent
    seen: dict[str, int] = {}
    rows: list[Row] = []
    absent: list[str] = []
    for number, line in lines:
        name, label, split = (
            (line.get("path") or ""),
            (line.get("label") or "").strip(),
            (line.get("split") or "").strip(),
        )
        if not name or not label:
            raise SourceError(
                f"{path}:{number} must give a path and a label; got {name!r}, {label!r}. Fill it in or delete it."
            )
        if split and split.lower() not in SPLIT_NAMES:
            raise SourceError(f"{path}:{number} split must be train, val or test; got {split!r}. Correct the line.")
        name = Path(name).as_posix()
        if name in seen:
            raise SourceError(
                f"{path}:{number} names {name} again (first in line {seen[name]}). Delete one of the two."
            )
        seen[name] = number
        if not (root / name).exists():
            absent.append(f"line {number}: {name}")
        rows.append((name, label, SPLIT_NAMES[split.lower()] if split else None))
    if absent:
        raise SourceError(
            f"{path} names {len(absent)} files that do not exist in {root}: {'; '.join(absent[:3])}"
            f"{' ...' if len(absent) > 3 else ''}. Paths are relative to the folder of the CSV file; correct or delete these lines."
        )
    if len({split is None for _, _, split in rows}) == 2:
        raise SourceError(f"{path} must give a split on every line or on none. Fill in the column split.")
    return make_source(kind, root, rows)
