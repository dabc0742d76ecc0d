"""Sources defined by a list in a file, such as a CSV file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ...errors import RequestError, SourceError, called, counted, option
from ...safefiles.csv_cells import plain_text
from ...splits import SPLIT_NAMES, SPLITS
from ..source import Source, make_source
from .listed_files import ListedFiles
from .table import Table, read_table


@dataclass(frozen=True)
class ListOptions:
    """Which columns of a list to read, and how its texts become paths.

    Attributes
    ----------
    path_column, label_column, split_column : str, optional
        Headers; by default ``path``, ``label`` and, if present, ``split``.
    path_pattern : str, optional
        Pattern of each file's path, such as ``train/{}.jpg``; ``{}`` stands for the text in the path column.
    """

    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    path_pattern: str | None = None


NO_OPTIONS = ListOptions()


@dataclass(frozen=True)
class Line:
    """A line of a list: its number, and its texts; the path is as written until its file is found."""

    number: int
    path: str
    label: str
    split: str
    further: dict[str, str]


def read_csv(path: Path, options: ListOptions = NO_OPTIONS) -> Source:
    """Read a CSV file with one line per image; paths are relative to its folder.

    Raises
    ------
    SourceError
        If the file is not valid; see also `source_of_table`.
    """
    return source_of_table("csv", path, read_table(path), options)


def source_of_table(kind: str, path: Path, table: Table, options: ListOptions = NO_OPTIONS) -> Source:
    """Return the source defined by a table, whatever the format of its file.

    Parameters
    ----------
    kind : str
        Name of the source's kind.
    path : Path
        The file; paths in it are relative to its folder.
    table : Table
    options : ListOptions

    Raises
    ------
    RequestError, SourceError
        See `read_lines`; or if all have one class.
    """
    lines, notes = read_lines(path, table, options)
    return make_source(
        kind,
        path.parent,
        [(line.path, line.label, SPLIT_NAMES.get(line.split.lower())) for line in lines],
        columns={name: {line.path: line.further[name] for line in lines} for name in lines[0].further},
        notes=notes,
    )


def read_lines(
    path: Path, table: Table, options: ListOptions = NO_OPTIONS, class_names: Collection[str] = ()
) -> tuple[list[Line], list[str]]:
    """Return the lines of a table, one per image, and notes on how they were read.

    Parameters
    ----------
    path, table, options
        See `source_of_table`.
    class_names : collection of str
        Labels that are known to be classes, even if they are numbers.

    Raises
    ------
    RequestError, SourceError
        If a column, file or label is missing, a path has two labels, or a split is unknown; the message names the line.
    """
    if options.path_pattern is not None and options.path_pattern.count("{}") != 1:
        raise RequestError(
            f"{called('path_pattern')} must hold {{}} once, for what the CSV says; got {options.path_pattern!r}. "
            f"Such as {option('path_pattern', 'train/{}.jpg')}"
        )
    places = _find_columns(path, table, options)
    further, notes = _name_further(path, table.headers, set(places.values()))
    lines = [
        Line(
            number,
            texts[places["path"]],
            plain_text(texts[places["label"]].strip()),
            texts[places["split"]].strip() if "split" in places else "",
            {name: plain_text(texts[place].strip()) for place, name in further.items()},
        )
        for number, texts in table.lines
    ]
    _check_labels(path, lines, class_names)
    _check_splits(path, lines)
    words = sorted({line.split for line in lines if line.split})
    if "split" not in places:
        notes += _warn_of_splits(lines)
    notes += [f"the split {word} is read as {SPLIT_NAMES[word.lower()]}" for word in words if word not in SPLITS]
    files = ListedFiles(path.parent, options.path_pattern)
    lines = _find_files(path, lines, files)
    notes += [f"{count} paths {what_was_done}" for what_was_done, count in files.changes.items()]
    return _take_once(path, lines, notes), [*table.notes, *notes]


def _find_columns(path: Path, table: Table, options: ListOptions) -> dict[str, int]:
    """Return the indices of the columns path, label and, if present, split."""
    places, headers = {}, table.headers
    for role in ("path", "label", "split"):
        asked = getattr(options, f"{role}_column")
        alike = [place for place, name in enumerate(headers) if name.lower() == (asked or role).lower()]
        exact = [place for place in alike if headers[place] == (asked or role)]
        if asked and not (exact or len(alike) == 1):
            raise RequestError(
                f"{called(f'{role}_column')} must be one of {', '.join(filter(None, headers))}, the columns of {path}; got {asked!r}. "
                f"Correct it, or leave it out."
            )
        if exact or len(alike) == 1:
            places[role] = (exact or alike)[0]
    missing = [role for role in ("path", "label") if role not in places]
    if missing:
        raise SourceError(
            f"{path} must have the columns path,label[,split]; {' and '.join(missing)} missing from "
            f"{', '.join(filter(None, headers)) or 'an empty first line'}. {_name_missing(path, table, missing, places)}"
        )
    return places


def _name_missing(path: Path, table: Table, missing: Sequence[str], places: dict[str, int]) -> str:
    """Return the remedy for missing columns: options that name those which look like them, if there are some."""
    files = ListedFiles(path.parent)
    if not places and (len(table.headers) < 2 or any(files.find(name) for name in table.headers if name)):
        return "Put a first line with these names above the others."
    free = [place for place, name in enumerate(table.headers) if name and place not in places.values()]
    texts = {place: [line[place].strip() for _, line in table.lines] for place in free}
    named, pattern = {}, None
    if "path" in missing:
        named["path"], pattern = _find_paths(texts, files)
    if "label" in missing:
        left = {place: each for place, each in texts.items() if place != named.get("path")}
        classes = _one_hot(left)
        if classes:
            names = ", ".join(table.headers[place] for place in classes)
            return (
                f"The columns {names} mark one class each: put the name of each image's class into one column, label."
            )
        several = (place for place, each in left.items() if 1 < len(set(each)) < len(each))
        named["label"] = next(several, next(iter(left), None))
    found = [option(f"{role}_column", table.headers[place]) for role, place in named.items() if place is not None]
    if len(found) < len(missing):
        return f"Add what is missing as {'columns' if len(missing) > 1 else 'a column'}: {' and '.join(missing)}."
    if pattern:
        found.append(option("path_pattern", pattern))
    return f"Correct them, or say which they are, such as: {' '.join(found)}"


def _find_paths(texts: Mapping[int, Sequence[str]], files: ListedFiles) -> tuple[int | None, str | None]:
    """Return the index of the column whose first text names a file, or a part of one's path, with the pattern that it then needs."""
    firsts = {place: each[0] for place, each in texts.items() if each and each[0]}
    for place, first in firsts.items():
        if files.find(first):
            return place, None
    guessed = ((place, files.guess_pattern(first)) for place, first in firsts.items())
    return next((each for each in guessed if each[1]), (next(iter(texts), None), None))


def _one_hot(texts: Mapping[int, Sequence[str]]) -> list[int]:
    """Return the columns of zeros and ones if there are several and one of them is 1 in each line; else none."""
    marks = {place: each for place, each in texts.items() if each and set(each) <= {"0", "1", "0.0", "1.0"}}
    lines = zip(*marks.values(), strict=True)
    return list(marks) if len(marks) > 1 and all(sum(map(float, line)) == 1 for line in lines) else []


def _name_further(path: Path, headers: Sequence[str], taken: set[int]) -> tuple[dict[int, str], list[str]]:
    """Return index → the name under which a store keeps each further column, and notes about them."""
    further: dict[int, str] = {}
    notes = []
    for place, header in enumerate(headers):
        if place in taken or not header:
            continue
        name = "_" if header == "." else header.replace("/", "_")
        if name in further.values():
            raise SourceError(f"{path} must name each column once; {header!r} is kept as {name!r}, too. Rename one.")
        if name != header:
            notes.append(f"the column {header} is kept as {name}: names in HDF5 hold no /")
        further[place] = name
    if further:
        names = ", ".join(further.values())
        notes.append(f"columns {names} are kept" if len(further) > 1 else f"column {names} is kept")
    if "" in headers:
        notes.append(f"columns without a name are not kept: {headers.count('')}")
    return further, notes


def _check_labels(path: Path, lines: Sequence[Line], class_names: Collection[str]) -> None:
    if not lines:
        raise SourceError(f"{path} holds no images: there is no line after its first. Add one per image.")
    for what, remedy in (("path", "Fill it in"), ("label", "`predict` classifies images without one. Fill it in")):
        empty = [line for line in lines if not getattr(line, what).strip()]
        if empty:
            numbers = ", ".join(str(line.number) for line in empty[:3])
            raise SourceError(
                f"{path}:{empty[0].number} must give a path and a label; {len(empty)} of {len(lines)} lines give no {what} "
                f"(line {numbers}{', ...' if len(empty) > 3 else ''}). {remedy}, or delete these lines."
            )
    labels = {line.label for line in lines}
    if not labels <= {*class_names} and _are_measures([line.label for line in lines]):
        raise SourceError(
            f"{path} must give classes; got {len(labels)} different labels for {len(lines)} rows, all numbers: this tool "
            f"classifies and does not predict numbers. Name the column of the classes: {option('label_column')}"
        )


def _are_measures(labels: Sequence[str]) -> bool:
    """Return whether labels look like regression targets: numbers that are all different, or fractions that mostly are."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    different = len(set(labels)) / len(labels)
    fractions = not all(number.is_integer() for number in numbers)
    return len(labels) > 4 and (different == 1 or (different > 0.5 and fractions))


def _check_splits(path: Path, lines: Sequence[Line]) -> None:
    for line in lines:
        if line.split and line.split.lower() not in SPLIT_NAMES:
            raise SourceError(
                f"{path}:{line.number} split must be train, val or test; got {line.split!r}. Correct the line."
            )
    if len({line.split == "" for line in lines}) == 2:
        raise SourceError(f"{path} must give a split on every line or on none. Fill in the column split.")


def _warn_of_splits(lines: Sequence[Line]) -> list[str]:
    """Return a note for each further column that holds names of splits, and which nobody has called the column of splits."""
    return [
        f"the column {name} holds splits, but is not taken for them. If these are the splits: {option('split_column', name)}"
        for name in lines[0].further
        if len({line.further[name] for line in lines}) > 1
        and {line.further[name].lower() for line in lines} <= SPLIT_NAMES.keys()
    ]


def _find_files(path: Path, lines: Sequence[Line], files: ListedFiles) -> list[Line]:
    """Return lines with the paths of their files."""
    found, absent = [], []
    for line in lines:
        paths = files.find(line.path)
        if len(paths) > 1:
            raise SourceError(
                f"{path}:{line.number} must name one file; {line.path} can be {' or '.join(paths)}. "
                f"Add the ending, or name it: {option('path_pattern', (files.pattern or '{}') + PurePath(paths[0]).suffix)}"
            )
        if paths:
            found.append(replace(line, path=paths[0]))
        else:
            absent.append(line)
    if absent:
        examples = "; ".join(f"line {line.number}: {files.path_of(line.path)}" for line in absent[:3])
        pattern = option("path_pattern", files.guess_pattern(absent[0].path) or "FOLDER/{}.jpg")
        raise SourceError(
            f"{path} names {counted(len(absent), 'absent file')}, looked for below {path.parent}: {examples}"
            f"{' ...' if len(absent) > 3 else ''}. Paths are relative to the CSV's folder; correct or delete these lines, "
            f"or say where files lie: {pattern}"
        )
    return found


def _take_once(path: Path, lines: Sequence[Line], notes: list[str]) -> list[Line]:
    """Return lines without repetitions of earlier ones, and note how many were dropped."""
    first: dict[str, Line] = {}
    again, differ = 0, set()
    for line in lines:
        held = first.setdefault(line.path, line)
        if (held.label, held.split) != (line.label, line.split):
            one, other = (f"{each.label} {each.split}".rstrip() for each in (held, line))
            raise SourceError(
                f"{path}:{line.number} names {line.path} again (first in line {held.number}), as {other} and not {one}. "
                f"Delete one of the two."
            )
        again += held is not line
        differ |= {name for name in line.further if line.further[name] != held.further[name]}
    if again:
        unlike = f", with the first one's {', '.join(sorted(differ))}" if differ else ""
        notes.append(f"{again} lines name an image again, and are taken once{unlike}")
    return list(first.values())
