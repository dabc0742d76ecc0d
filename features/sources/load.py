"""Loading a source: a folder tree, a file list or a named set, with missing splits filled in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from ..errors import RequestError, SourceError, called, counted, find_near, listed, option
from ..splits import (
    SPLITS,
    check_numbers,
    check_unbroken,
    count_units,
    groups_of,
    join_keys,
    rank_keys,
    stratified_split,
)
from .cifar10 import read_cifar10
from .elpv import read_elpv
from .folder import NO_FOLDER_OPTIONS, FolderOptions, read_folder
from .lists.added import add_lists
from .lists.manifest import NO_OPTIONS, ListOptions, read_csv
from .path_columns import add_columns, compile_patterns
from .source import Source

NAMED_SETS: dict[str, Callable[[], Source]] = {"elpv": read_elpv, "cifar10": read_cifar10}
LISTS: dict[str, Callable[[Path, ListOptions], Source]] = {".csv": read_csv, ".tsv": read_csv}  # by file extension
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_FRACTIONS = {
    "test": 0.25,  # of all rows, if the source has no test split
    "val": 0.20,  # of the remaining training rows, if the source has no val split
}


def source_name(data: str) -> str:
    """Return what to call a source in names of files: a folder's whole name, a file's without its ending."""
    path = Path(data).resolve()
    if path.is_dir():
        return path.name
    return path.stem if os.sep in data or path.exists() else data


def load_source(
    data: str,
    seed: int = 0,
    limit: int | None = None,
    allow_missing_classes: bool = False,
    options: ListOptions = NO_OPTIONS,
    column: Mapping[str, str] | None = None,
    group: str | None = None,
    folder: FolderOptions = NO_FOLDER_OPTIONS,
    add: Sequence[str | Path] = (),
) -> Source:
    """Read a source: a folder, a ``.csv`` file, or a named set.

    Parameters
    ----------
    data : str
        A folder laid out as ``split/class/file`` or ``class/file``; a CSV file with columns ``path``, ``label``,
        optionally ``split``, and any further ones; or a key of ``NAMED_SETS``.
    seed : int
        Determines splits that the source does not define, and which rows `limit` keeps.
    limit : int, optional
        Keep this many rows, in proportion to splits and strata.
    allow_missing_classes : bool
        Accept a class that has no image in some split.
    options : ListOptions
        For a CSV file: that of the source, or of a folder those that are added.
    column : mapping of str to str, optional
        Name of a further column → regular expression, which must match every path, but those of `add`; see `add_columns`.
    group : str, optional
        Column that names each row's group; no group may be in two splits, whether given or drawn.
    folder : FolderOptions
        For a folder.
    add : sequence of path-like
        CSV files whose images are added to a folder or a CSV file; see `add_lists`.

    Raises
    ------
    RequestError
        If `limit` is below 1, an option does not apply to the source, a pattern or group is invalid, or the package of a named
        set is missing.
    SourceError
        If there is no such source, or it has no images, only one class, or a class that is missing from a split.
    """
    patterns = compile_patterns(column or {})
    if add and data in NAMED_SETS:
        raise RequestError(
            f"{called('add')} must go with a folder or a CSV file; got {data!r}. Leave out {option('add')}"
        )
    source = add_columns(_read(data, options, folder, allow_missing_classes, bool(add)), patterns)
    if add:
        source = add_lists(source, add, NO_OPTIONS if source.kind == "csv" else options, group, patterns)
    source = _fill_splits(source, seed, group, allow_missing_classes)
    if limit is not None:
        source = _keep(source, limit, seed)
    if not allow_missing_classes:
        check_splits(source)
    return source


def _read(
    data: str, options: ListOptions, folder: FolderOptions, allow_missing_classes: bool, of_added: bool
) -> Source:
    """Read a source; options of a CSV file may be those of files that are added."""
    path = Path(data)
    is_list = data not in NAMED_SETS and path.is_file() and path.suffix.lower() in LISTS
    is_folder = data not in NAMED_SETS and path.is_dir()
    for given, unset, fits, what in (
        (options, NO_OPTIONS, is_list or of_added, "a CSV file"),
        (folder, NO_FOLDER_OPTIONS, is_folder, "a folder"),
    ):
        if given != unset and not fits:
            name = next(each.name for each in fields(given) if getattr(given, each.name))
            raise RequestError(f"{called(name)} must go with {what}; got {data!r}. Leave out {option(name)}")
    if is_list:
        return LISTS[path.suffix.lower()](path, options)
    if data in NAMED_SETS:
        return NAMED_SETS[data]()
    if is_folder:
        return read_folder(path, folder, allow_missing_classes)
    endings = " or ".join(LISTS)
    wrong = f"is another file. {_other_file(path)}" if path.exists() else f"does not exist. {find_near(path)}"
    raise SourceError(
        f"{called('data')} must be a folder, a {endings} file or one of {', '.join(sorted(NAMED_SETS))}; got {data!r}, which {wrong}"
    )


def _other_file(path: Path) -> str:
    """Return the remedy for a file that is no source."""
    if path.suffix.lower() in _ARCHIVES:
        return "Unpack it, and name the folder."
    return "Of a table, save it as CSV in UTF-8, with the columns path,label[,split]."


def _fill_splits(source: Source, seed: int, group: str | None = None, allow_missing_classes: bool = False) -> Source:
    """Draw the splits that the source does not define from its training rows.

    Parameters
    ----------
    source : Source
    seed : int
    group : str, optional
        Column that names each row's group; a group stays in one split.
    allow_missing_classes : bool
        Accept a class with too few groups to be in every split.

    Raises
    ------
    RequestError
        If there is no such column, a row has no text in it, a class has too few groups, or the source's own splits break a
        group.
    """
    splits, notes = source.splits.copy(), list(source.notes)
    if (splits == 255).all():
        splits[:] = SPLITS["train"]
    names = tuple(name for name in _FRACTIONS if not (splits == SPLITS[name]).any())
    source = replace(source, splits=splits, drawn=names, seed=seed, group=group)
    if group is not None:
        groups = groups_of(source.columns, group)
        check_unbroken(
            groups, splits, group, f"the splits of {source.root}", f"Correct them, or leave out {option('group')}"
        )
        pool = splits == SPLITS["train"]
        if not allow_missing_classes:
            own = [text for text, there in zip(groups, pool, strict=True) if there]
            check_numbers(source.labels[pool], own, source.class_names, group, 1 + len(names), "splits")
    whole = "" if group is None else f"; each {group} is in one split"
    notes += [
        f"no split {name} given: drew {_FRACTIONS[name]:.0%} of the remaining training images, stratified, seed {seed}{whole}"
        for name in names
    ]
    return replace(source, splits=_draw(source, [source.side_keys]), notes=tuple(notes))


def keep_copies_together(source: Source, contents: Sequence[bytes | str]) -> Source:
    """Return the source with its drawn splits drawn again if they separate copies of an image.

    Parameters
    ----------
    source : Source
        From `load_source`.
    contents : sequence of bytes or str of length n_rows
        The SHA-256 of each file; a str if the file cannot be read.
    """
    if not source.drawn:
        return source
    keys = [key if isinstance(key, bytes) else path for key, path in zip(contents, source.paths, strict=True)]
    given = [code for name, code in SPLITS.items() if name not in (*source.drawn, "train")]
    sides: dict[bytes | str, set[int]] = {}
    for key, side in zip(keys, source.splits.tolist(), strict=True):
        if side not in given:
            sides.setdefault(key, set()).add(side)
    apart = sum(len(held) > 1 for held in sides.values())
    if not apart:
        return source
    note = (
        f"drew again, since {counted(apart, 'image')} had copies in another split; copies of an image are in one split"
    )
    return replace(source, splits=_draw(source, [source.side_keys, keys]), notes=(*source.notes, note))


def _draw(source: Source, keys: Sequence[Sequence[bytes | str]]) -> np.ndarray:
    """Draw the splits that the source does not define and return all; rows that share any key stay together."""
    splits = source.splits.copy()
    splits[np.isin(splits, [SPLITS[name] for name in source.drawn])] = SPLITS["train"]
    pool = np.flatnonzero(splits == SPLITS["train"])
    joined = join_keys(*([each[row] for row in pool.tolist()] for each in keys))
    if source.learnt:
        units = {unit for unit, row in zip(joined, pool, strict=True) if source.paths[row] not in source.learnt}
        free = [i for i, unit in enumerate(joined) if unit in units]
        pool, joined = pool[free], [joined[i] for i in free]
    for name in source.drawn:
        rest = np.flatnonzero(splits[pool] == SPLITS["train"])
        rows = pool[rest]
        chosen = stratified_split(source.strata[rows], [joined[i] for i in rest], _FRACTIONS[name], source.seed)
        splits[rows[chosen]] = SPLITS[name]
    return splits


def check_splits(source: Source, contents: Sequence[bytes | str] | None = None) -> None:
    """Raise SourceError if a class has no image in some split; if contents are given, it counts a class's different ones."""
    for split, classes in source.counts().items():
        missing = [name for name, rows in classes.items() if not rows]
        if missing:
            together = "" if source.group is None else f" of other groups ({source.group})"
            copies = "" if contents is None else _tell_copies(source, contents, missing)
            raise SourceError(
                f"every class must be in every split; {split} has no image of {listed(list(map(repr, missing)))}{copies}. "
                f"Add images{together} (or raise {called('limit')}), remove the class, or accept it: {option('allow_missing_classes', True)}"
            )


def _tell_copies(source: Source, contents: Sequence[bytes | str], names: Sequence[str]) -> str:
    """Return how many different images each of these classes has, if some of its images are copies, which stay together."""
    different = count_units(source.labels, contents, len(source.class_names))
    images = np.bincount(source.labels, minlength=len(source.class_names)).tolist()
    labels = [source.class_names.index(name) for name in names]
    told = [
        f"{names[i]!r} is {different[k]} different of {images[k]}"
        for i, k in enumerate(labels)
        if different[k] < images[k]
    ]
    return f" ({'; '.join(told)}: copies stay in one split)" if told else ""


def _keep(source: Source, limit: int, seed: int) -> Source:
    """Keep `limit` rows in proportion to splits and strata (largest remainders)."""
    if limit < 1:
        raise RequestError(
            f"{called('limit')} must be at least 1; got {limit}. Leave it out to take all {len(source)} images."
        )
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
        columns={name: tuple(texts[i] for i in rows) for name, texts in source.columns.items()},
        notes=(*source.notes, f"a stratified subset: {limit} of {len(source)} images"),
    )
