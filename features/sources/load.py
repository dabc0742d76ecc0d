"""Loading a source: a folder tree, a file list or a named set, with missing splits filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from ..errors import RequestError, SourceError, called, option
from ..splits import SPLITS, rank_keys
from .cifar10 import read_cifar10
from .drawn_splits import check_splits, fill_splits
from .elpv import read_elpv
from .folder import read_folder
from .manifest import NO_OPTIONS, ListOptions, read_csv
from .path_columns import add_columns, compile_patterns
from .source import Source

NAMED_SETS: dict[str, Callable[[], Source]] = {"elpv": read_elpv, "cifar10": read_cifar10}
LISTS: dict[str, Callable[[Path, ListOptions], Source]] = {".csv": read_csv}  # by file extension


def load_source(
    data: str,
    seed: int = 0,
    limit: int | None = None,
    allow_missing_classes: bool = False,
    options: ListOptions = NO_OPTIONS,
    column: Mapping[str, str] | None = None,
    group: str | None = None,
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
        For a CSV file.
    column : mapping of str to str, optional
        Further columns by name: a regular expression that every path matches; see `add_columns`.
    group : str, optional
        Column whose equal texts must stay in one split; see `fill_splits`.

    Raises
    ------
    RequestError
        If `limit` is below 1, an option does not apply to the source, a pattern or group is invalid, or the package of a named
        set is missing.
    SourceError
        If there is no such source, or it has no images, only one class, or a class that is missing from a split.
    """
    patterns = compile_patterns(column or {})
    source = fill_splits(add_columns(_read(data, options), patterns), seed, group, allow_missing_classes)
    if limit is not None:
        source = _keep(source, limit, seed)
    if not allow_missing_classes:
        check_splits(source)
    return source


def _read(data: str, options: ListOptions) -> Source:
    path = Path(data)
    if data not in NAMED_SETS and path.is_file() and path.suffix.lower() in LISTS:
        return LISTS[path.suffix.lower()](path, options)
    if options != NO_OPTIONS:
        name = next(each.name for each in fields(options) if getattr(options, each.name) is not None)
        raise RequestError(f"{called(name)} must go with a CSV file; got {data!r}. Leave out {option(name)}")
    if data in NAMED_SETS:
        return NAMED_SETS[data]()
    if path.is_dir():
        return read_folder(path)
    endings = " or ".join(LISTS)
    raise SourceError(
        f"{called('data')} must be a folder, a {endings} file or one of {', '.join(sorted(NAMED_SETS))}; got {data!r}, "
        f"which {f'is not a {endings} file' if path.exists() else 'does not exist'}. Check the path: ls {data}"
    )


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
