"""Labelled images in a folder tree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RequestError, SourceError, called, command, counted, in_result, listed, option, shell
from ..splits import SPLIT_NAMES, Row
from .file_names import unicode_name
from .source import Source, make_source, tell_reasons
from .tree import Tree

FOLDER = "folder"  # the column of the first folder below a class
_NO_CLASS = "in no class folder"
_UNLABELLED = "without a class; predict reads it"
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is read.

    Attributes
    ----------
    follow_links : bool
        Follow links that lead out of the folder.
    label_pattern : str, optional
        Regular expression whose first group, or all that it matches, in an image's path is its class.
    """

    follow_links: bool = False
    label_pattern: str | None = None


NO_FOLDER_OPTIONS = FolderOptions()


@dataclass
class _Layout:
    """What the paths of images say: rows, further folders, and what is no row."""

    rows: list[Row] = field(default_factory=list)
    further: dict[str, str] = field(default_factory=dict)  # path → first folder below its class
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, name: str, split: str | None, deeper: Sequence[str] = ()) -> None:
        """Add an image."""
        self.rows.append((path, name, split))
        self.further[path] = deeper[0] if deeper else ""


def read_folder(root: Path, options: FolderOptions = NO_FOLDER_OPTIONS, allow_missing_classes: bool = False) -> Source:
    """Read a folder laid out as ``split/class/file``, ``class/split/file`` or ``class/file``, with further folders below a class.

    Raises
    ------
    RequestError
        If the pattern is no regular expression.
    SourceError
        If it mixes layouts or gives only some images a split, holds no images, or images of only one class, or a class folder holds
        files but no image.
    """
    tree = Tree(root, options.follow_links)
    images: dict[str, str] = {}  # path as text → as the file system has it
    for real in tree.images:
        if images.setdefault(unicode_name(real), real) != real:
            tree.left_out.append((unicode_name(real), "another file's name is the same as text"))
    layout = _by_pattern(root, images, options.label_pattern) if options.label_pattern else _by_folders(root, images)
    left_out = [*tree.left_out, *layout.left_out]
    if not options.label_pattern and not allow_missing_classes:
        _check_folders(root, layout, [*left_out, *tree.rejected])
    if not layout.rows:
        raise _no_images(root, left_out, tree.rejected)
    columns = {FOLDER: layout.further} if any(layout.further.values()) else {}
    if columns:
        layout.notes.append(
            f"folders below classes are read, and their names kept as the column {FOLDER}: if images of one belong together (a day, a patient), "
            f"{option('group', FOLDER)}"
        )
    return make_source(
        "folder", root, layout.rows, tree.rejected, columns=columns, notes=layout.notes, left_out=left_out
    )


def _by_folders(root: Path, images: Iterable[str]) -> _Layout:
    """Return the layout that folders give."""
    layout, parts = _Layout(), {path: path.split("/") for path in images}
    layout.left_out += [(path, _NO_CLASS) for path, each in parts.items() if len(each) == 1]
    parts = {path: each for path, each in parts.items() if len(each) > 1}
    tops = sorted({each[0] for each in parts.values()})
    splits = {name: SPLIT_NAMES[name.lower()] for name in tops if name.lower() in SPLIT_NAMES}
    if any(each[0] in splits and len(each) > 2 for each in parts.values()):
        _check_split_folders(root, tops, splits)
        _take_splits(root, parts, splits, layout)
    elif tops and len(splits) == len(tops):
        raise SourceError(
            f"{root} must hold a folder per class; {' and '.join(tops)} hold images without one. {_guess_pattern(parts)}"
        )
    else:
        _check_wrapped(root, parts)
        given = _given_splits(root, parts, 1)
        if given:
            layout.notes.append("splits are read from the folders below the classes")
        for path, each in parts.items():
            layout.add(path, each[0], given.get(path), each[2 if given else 1 : -1])
    return layout


def _given_splits(root: Path, images: Iterable[str], depth: int) -> dict[str, str]:
    """Return the split that each image's folder at this depth names; nothing unless all do.

    Raises
    ------
    SourceError
        If some are in val or test and others in no split: images of test must not go to train without a word. A folder ``train``
        alone may be anything, such as a class of vehicles.
    """
    folders = {path: path.split("/")[: depth + 1] for path in images if path.count("/") > depth}
    given = {path: SPLIT_NAMES[each[-1].lower()] for path, each in folders.items() if each[-1].lower() in SPLIT_NAMES}
    others = sorted(set(images) - given.keys())
    if not others:
        return given
    held_out = sorted({"/".join(folders[path]) for path, split in given.items() if split != "train"})
    if held_out:
        raise SourceError(
            f"{root} must have a split for all images or for none; it mixes {listed(held_out, 3)} with {counted(len(others), 'image')} in "
            f"no split, such as {others[0]}. Move them into a split or away; or, if these folders are no splits, rename them."
        )
    return {}


def _check_split_folders(root: Path, tops: Sequence[str], splits: Mapping[str, str]) -> None:
    """Raise SourceError if not all folders are splits, or two are the same split."""
    if len(splits) < len(tops):
        others = ", ".join(name for name in tops if name not in splits)
        raise SourceError(
            f"{root} must hold either splits or classes; it mixes the splits {', '.join(splits)} with {others}. "
            f"Use split/class/file throughout, or class/file throughout."
        )
    if len(set(splits.values())) < len(splits):
        raise SourceError(
            f"{root} must hold one folder per split; got {', '.join(splits)}. Merge the folders of the same split."
        )


def _take_splits(root: Path, parts: Mapping[str, Sequence[str]], splits: Mapping[str, str], layout: _Layout) -> None:
    """Add images at split/class/file; a split other than train that has no classes, or none of train's, is left out."""
    classes: dict[str, set[str]] = {name: set() for name in splits}
    for each in parts.values():
        if len(each) > 2:
            classes[each[0]].add(each[1])
    known = {name for top, names in classes.items() if splits[top] == "train" for name in names}
    unlabelled = {
        top
        for top, names in classes.items()
        if splits[top] != "train" and (not names or (len(known) > 1 and len(names) == 1 and not names & known))
    }
    for path, each in parts.items():
        if each[0] in unlabelled:
            layout.left_out.append((path, _UNLABELLED))
        elif len(each) == 2:
            layout.left_out.append((path, _NO_CLASS))
        else:
            layout.add(path, each[1], splits[each[0]], each[2:-1])
    for name, split in sorted(splits.items()):
        if name in unlabelled:
            count = sum(each[0] == name for each in parts.values())
            layout.notes.append(
                f"{name}/ holds {counted(count, 'image')} without a class, which predict reads: "
                f"{command('predict', 'RUN', str(root / name))}"
            )
        elif name != split:
            layout.notes.append(f"the folder {name} is read as {split}")


def _by_pattern(root: Path, images: Iterable[str], pattern: str) -> _Layout:
    """Return the layout in which a pattern gives classes, and the first folders the splits, if they are splits."""
    try:
        searched = re.compile(pattern)
    except re.error as error:
        raise RequestError(
            f"{called('label_pattern')} must be a regular expression; got {pattern!r} ({error}). Such as '([a-z]+)[.]' for "
            f"train/cat.0.jpg"
        ) from error
    layout, given = _Layout(), _given_splits(root, images, 0)
    found = {path: searched.search(path) for path in images}
    names = {path: match[min(1, searched.groups)] if match else None for path, match in found.items()}
    matched = {path.split("/")[0] for path, name in names.items() if name}
    other = []
    for path, name in names.items():
        if name:
            layout.add(path, name, given.get(path))
        elif given.get(path, "train") != "train" and path.split("/")[0] not in matched:
            layout.left_out.append((path, _UNLABELLED))
        else:
            other.append(path)
    if other:
        raise SourceError(
            f"{called('label_pattern')} must match every path; {pattern!r} does not match {len(other)} of {len(names)}, or has no text in "
            f"its first group, such as {', '.join(sorted(other)[:3])}. Correct it; it is searched for in the path below {root}"
        )
    return layout


def _guess_pattern(parts: Mapping[str, Sequence[str]]) -> str:
    """Return the remedy for images without class folders: a pattern, if names begin with a few words."""
    words = Counter(match[0] if (match := _WORD.match(each[-1])) else "" for each in parts.values())
    if "" not in words and 1 < len(words) <= len(parts) / 2:
        pattern = option("label_pattern", "([A-Za-z]+)[^/]*$")
        return f"If names begin with the class ({', '.join(sorted(words)[:3])}): {pattern}"
    return (
        f"Sort them into split/class/file, list them in a CSV file with the columns path,label, or say which part of a name is the "
        f"class: {option('label_pattern')}"
    )


def _check_wrapped(root: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Raise SourceError if all images are in one folder, whose folders look like the classes."""
    tops = {each[0] for each in parts.values()}
    below = sorted({each[1] for each in parts.values() if len(each) > 2})
    if len(tops) == 1 and len(below) > 1:
        (top,) = tops
        raise SourceError(
            f"{root} holds only one class ({top!r}); a classifier needs two. Its folders {', '.join(below[:3])} look like classes: "
            f"{option('data', root / top)}"
        )


def _check_folders(root: Path, layout: _Layout, left: Sequence[tuple[str, str]]) -> None:
    """Raise SourceError if a class folder holds files, none of which is an image."""
    if not layout.rows:
        return
    given = layout.rows[0][2] is not None and layout.rows[0][0].split("/")[0].lower() in SPLIT_NAMES
    known = {name for _, name, _ in layout.rows}
    empty: dict[str, list[tuple[str, str]]] = {}
    for path, reason in left:
        each = path.split("/")[1 if given else 0 :]
        is_file = len(each) > 1 and reason != _UNLABELLED
        if is_file and each[0] not in known:
            empty.setdefault(each[0], []).append((path, reason))
    for name, files in empty.items():
        raise SourceError(
            f"{root} must have an image in every class folder; {name} has {counted(len(files), 'file')} and no image "
            f"({'; '.join(tell_reasons(files))}). Move it away, or accept it: {option('allow_missing_classes', True)}"
        )


def _no_images(root: Path, left: Sequence[tuple[str, str]], rejected: Sequence[tuple[str, str]]) -> SourceError:
    """Return the error for a folder without an image in a class folder, with all that is there instead."""
    told = "".join(f"; {reason}" for reason in tell_reasons(left))
    remedy = f"Check: {shell('ls', '-R', root)}"
    if rejected:
        told += f"; {len(rejected)} links lead out of the folder"
        remedy = f"To follow them: {option('follow_links', True)}"
    elif any(reason == _NO_CLASS for _, reason in left):
        parts = {path: path.split("/") for path, reason in left if reason == _NO_CLASS}
        remedy = _guess_pattern(parts)
    return SourceError(f"{root} holds no images at class/file or split/class/file{told}. {remedy}")


def describe_left_out(left: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield lines that count files that are not read, by ending and reason."""
    if left:
        yield f"left out {counted(len(left), 'file')}: {'; '.join(tell_reasons(left))}. All of them: {in_result('left_out')}"
