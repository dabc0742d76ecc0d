"""Splits that a source does not define, drawn so that copies of an image, and groups, stay on one side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import SourceError, called, option
from ..splits import SPLITS, check_numbers, check_unbroken, groups_of, join_keys, stratified_split
from .source import Source

_FRACTIONS = {
    "test": 0.25,  # of all rows, if the source has no test split
    "val": 0.20,  # of the remaining training rows, if the source has no val split
}


def fill_splits(source: Source, seed: int, group: str | None = None, allow_missing_classes: bool = False) -> Source:
    """Draw the splits that the source does not define from its training rows.

    Parameters
    ----------
    source : Source
    seed : int
    group : str, optional
        Column whose equal texts must stay in one split.
    allow_missing_classes : bool
        Accept a class with too few groups to be in every split.

    Raises
    ------
    RequestError
        If there is no such column, it does not name the group of every row, a class has too few groups, or splits that the
        source does define break a group.
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
    """Return the source with its drawn splits drawn again where these have copies of one image on two sides.

    Parameters
    ----------
    source : Source
        From `fill_splits`.
    contents : sequence of bytes or str of length n_rows
        The SHA-256 of each file; a str where it cannot be read.
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
    note = f"drew again, since {apart} images had copies in another split; copies of an image are in one split"
    return replace(source, splits=_draw(source, [source.side_keys, keys]), notes=(*source.notes, note))


def _draw(source: Source, keys: Sequence[Sequence[bytes | str]]) -> np.ndarray:
    """Return the splits with those drawn that the source does not define; rows that share a key of any kind stay together."""
    splits = source.splits.copy()
    splits[np.isin(splits, [SPLITS[name] for name in source.drawn])] = SPLITS["train"]
    pool = np.flatnonzero(splits == SPLITS["train"])
    joined = join_keys(*([each[row] for row in pool.tolist()] for each in keys))
    for name in source.drawn:
        rest = np.flatnonzero(splits[pool] == SPLITS["train"])
        rows = pool[rest]
        chosen = stratified_split(source.strata[rows], [joined[i] for i in rest], _FRACTIONS[name], source.seed)
        splits[rows[chosen]] = SPLITS[name]
    return splits


def check_splits(source: Source) -> None:
    """Raise SourceError if a class has no image in some split."""
    for split, classes in source.counts().items():
        missing = [name for name, rows in classes.items() if not rows]
        if missing:
            together = "" if source.group is None else f" of other groups ({source.group})"
            raise SourceError(
                f"every class must be in every split; {split} has no image of {', '.join(map(repr, missing))}. "
                f"Add images{together} (or raise {called('limit')}), remove the class, or accept it: {option('allow_missing_classes', True)}"
            )
