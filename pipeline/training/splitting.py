"""The splits on which heads are compared: the store's own, or several random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from features.errors import RequestError, called, command, counted, option
from features.extraction.request import extract_again
from features.runtime.log import log
from features.splits import (
    NEAR_COPIES,
    SPLITS,
    check_numbers,
    check_unbroken,
    count_units,
    groups_of,
    join_keys,
    stratified_split,
)
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.near_copies import NearCopies, find_near_copies
from ..data.series import LOOKED_AT, PLACES, Series, find_series
from ..evaluation.held_out import MIN_REPEATS, unit_numbers
from .loading import features_of, read_if_small, say_reading
from .request import Request

_MOST = 5000  # images among which near-copies are looked for unasked, which takes a second
LEFT_OUT = 255  # in the place of a split: an image that is neither learned from nor tested


def check_repeats(repeats: int) -> None:
    """Refuse a number of splits below 1."""
    if repeats < 1:
        raise RequestError(f"{called('repeats')} must be at least 1; got {repeats}. Leave it out for the usual number.")


def with_groups(store: FeatureStore, asked: Request, repeats: int = 1) -> Request:
    """Return the request with its group: as asked, else the column that the store was extracted with, if any.

    If near-copies are the groups, they are found here. If there is no group but images come in series, a warning says so.

    Raises
    ------
    RequestError
        If there is no such column, or the store's own split, used for one repeat, breaks groups.
    """
    origin = store.made.origin
    group = asked.group or (None if origin is None else origin.group)
    if group is None:
        warn_of_series(store, asked)
        return asked
    if group == NEAR_COPIES and group not in store.rows.columns:
        asked = replace(asked, clusters=names_of(near_copies_of(store, asked), asked.rows(store)))
    rows = asked.rows(store)
    if not rows.columns:
        raise _no_columns(store, group)
    groups = groups_of(rows.columns, group)
    if repeats == 1:
        each = group if asked.clusters is None else "cluster of near-copies"
        check_unbroken(groups, rows.splits, each, f"the splits of {store.path}", _mend(store, group, asked))
    log.info(f"groups   {len(set(groups))} of {group}; each stays on one side of splits and folds")
    return replace(asked, group=group)


def _no_columns(store: FeatureStore, group: str) -> RequestError:
    """Return the error for a group where a store has no columns, with the command that gives it one."""
    again, remedy = (
        extract_again(store.made, store.path, column={group: "PATTERN"}),
        "Name one in a CSV file of its source.",
    )
    if again is not None:
        remedy = (
            f"Take one from the paths, such as {store.rows.paths[0]}, by a regular expression whose first group is it; with the "
            f"other options as they were, nothing is computed again: {again}"
        )
    return RequestError(f"{called('group')} must be a column; got {group!r}, and {store.path} has none. {remedy}")


def split_anew(store: FeatureStore, group: str) -> str | None:
    """Return the command that splits a store by groups, if its split breaks those of a column that it has; else None."""
    rows = store.rows.images()
    if group not in rows.columns:
        return None
    units = unit_numbers(side_keys(rows, group))
    sides = np.unique(np.stack([units, rows.splits]), axis=1)
    return extract_again(store.made, store.path, group=group) if sides.shape[1] > units.max() + 1 else None


def _mend(store: FeatureStore, group: str, asked: Request) -> str:
    """Return the remedy for a store's split that breaks groups."""
    drawn = f"compare on drawn splits: {option('repeats', 5)}"
    if asked.clusters is not None:
        return (
            f"{drawn[0].upper()}{drawn[1:]}, or split anew by the groups.csv of {command('audit', store=asked.store)}"
        )
    again = extract_again(store.made, store.path, group=group) or option("group", group)
    return f"With the other options as they were, extract again, which computes nothing: {again}. Or {drawn}"


def _warn_of_copies(rows: Rows, keys: list[str | bytes]) -> None:
    """Warn of classes with copies that have too few different images to be in every split, since copies stay together."""
    images = np.bincount(rows.labels, minlength=len(rows.class_names)).tolist()
    units = count_units(rows.labels, keys, len(rows.class_names))
    for name, different, count in zip(rows.class_names, units, images, strict=True):
        if different < min(len(SPLITS), count):
            log.warning(
                f"{name} has {counted(count, 'image')} but only {different} different: copies stay in one split, so the class is not in "
                f"every one of the drawn splits. Add images, or leave out the class."
            )


def names_of(found: NearCopies, rows: Rows) -> tuple[str, ...]:
    """Return the text of each image in the column `NEAR_COPIES`: the path of its cluster's first image."""
    return tuple(rows.paths[first] for first in found.clusters.tolist())


def near_copies_of(store: FeatureStore, asked: Request) -> NearCopies:
    """Find the near-copies among a store's images, by the images themselves in its last layer, maps averaged.

    They do not depend on the features that a request names, so that all commands find the same ones.
    """
    asked = replace(asked, layer=None, pool=None, views=1)
    rows, features = asked.rows(store), read_if_small(store, features_of(store, "avg", asked), asked)
    log.info(f"copies   comparing all pairs of {counted(len(rows), 'image')} by {features.layer}, {features.pool}")
    return find_near_copies(features.X, rows.sha256)


def warn_of_series(store: FeatureStore, asked: Request) -> Series:
    """Warn if images that look alike stand together in the file list; return how many do, and how many would by chance."""
    rows, features = asked.rows(store), features_of(store, "avg", replace(asked, pool=None))
    say_reading(store, features, min(len(rows), LOOKED_AT))
    series = find_series(features.X, features.views, rows.labels, rows.sha256, rows.paths)
    if series.found:
        log.warning(
            f"the images come in series: {series.share:.0%} stand within {PLACES} places of their nearest neighbour by "
            f"{features.layer} in the list of their class, by chance {series.chance:.1%}. Figures of a random split are too "
            f"good. Name what a series shares: {option('group')}, or see how much it matters: {command('audit', store=asked.store)}"
        )
    return series


def warn_of_near_copies(store: FeatureStore, asked: Request) -> int:
    """Warn if test images have near-copies in train or val; return how many do. Of more than `_MOST` images, none is looked at."""
    rows = store.rows.images()
    if len(rows) > _MOST:
        return 0
    test = rows.splits == SPLITS["test"]
    exposed = int(near_copies_of(store, asked).exposed(test).sum())
    if exposed:
        log.warning(
            f"{exposed} of {test.sum()} test images have a near-copy in train or val, an image whose features are nearly equal. Keep "
            f"them together: {command('compare', store=asked.store, group=NEAR_COPIES, repeats=5)}, or see how much it matters: "
            f"{command('audit', store=asked.store)}"
        )
    else:
        log.info(f"copies   none of {test.sum()} test images has a near-copy in train or val")
    return exposed


def side_keys(rows: Rows, group: str | None) -> list[str | bytes]:
    """Return one key per image; copies and images of one group share it and stay on one side. See `join_keys`."""
    contents = [key.tobytes() for key in rows.sha256]
    return join_keys(contents) if group is None else join_keys(groups_of(rows.columns, group), contents)


def units_among(rows: Rows, images: np.ndarray, group: str | None) -> np.ndarray | None:
    """Return the group of each of the images given by a mask, numbered from 0, or None without groups."""
    if group is None:
        return None
    return unit_numbers([key for key, chosen in zip(side_keys(rows, group), images, strict=True) if chosen])


def draw_splits(rows: Rows, repeats: int, seed: int, group: str | None = None) -> list[np.ndarray]:
    """Return the store's own split for one repeat, else `repeats` random stratified splits of the same sizes.

    Copies of an image, and images of a group, are always in the same split. Images of added files stay in train, as in the store's.

    Returns
    -------
    splits : list of ndarray of shape (n_images,), uint8
        Values of ``SPLITS``.

    Raises
    ------
    RequestError
        If `repeats` is below 1, or a class has too few groups.
    """
    check_repeats(repeats)
    if repeats == 1:
        return [rows.splits]
    if repeats < MIN_REPEATS:
        log.warning(
            f"{called('repeats')} must be 1 or at least {MIN_REPEATS} for intervals and tests; got {repeats}. "
            f"Without them it goes on; for them: {option('repeats', MIN_REPEATS)}"
        )
    keys = side_keys(rows, group)
    pool = _may_be_tested(rows, keys)
    if group is not None:
        pooled = [keys[row] for row in pool]
        check_numbers(rows.labels[pool], pooled, rows.class_names, group, len(SPLITS), "splits")
    else:
        _warn_of_copies(rows, keys)
    if len(pool) < len(rows):
        log.info(f"splits   {counted(len(rows) - len(pool), 'image')} of added files stay in train")
    test = float(np.mean(rows.splits[pool] == SPLITS["test"]))
    val = float(np.mean(rows.splits[pool] == SPLITS["val"])) / (1 - test)
    drawn = []
    for number in range(seed, seed + repeats):
        splits, rest = np.full(len(rows), SPLITS["train"], np.uint8), pool
        for name, share in (("test", test), ("val", val)):
            chosen = stratified_split(rows.strata[rest], [keys[row] for row in rest], share, number)
            splits[rest[chosen]] = SPLITS[name]
            rest = rest[~chosen]
        drawn.append(splits)
    return drawn


def _may_be_tested(rows: Rows, keys: Sequence[str | bytes]) -> np.ndarray:
    """Return the numbers of the images that may leave train: all but added ones, unless a copy or their group is of the others."""
    if rows.learnt is None:
        return np.arange(len(rows))
    free = {key for key, learnt in zip(keys, rows.learnt, strict=True) if not learnt}
    return np.flatnonzero([key in free for key in keys])
