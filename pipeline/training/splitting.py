"""The splits on which heads are compared: the store's own, or several random ones."""

from __future__ import annotations

import numpy as np

from features.errors import RequestError, called, option
from features.runtime.log import log
from features.splits import SPLITS, check_numbers, check_unbroken, groups_of, join_keys, stratified_split
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..evaluation.significance import MIN_REPEATS

MAX_SEED = 2**32 - 1  # the largest that NumPy, scikit-learn and Keras accept


def check_repeats(repeats: int) -> None:
    """Refuse a number of splits below 1."""
    if repeats < 1:
        raise RequestError(f"{called('repeats')} must be at least 1; got {repeats}. Leave it out for the usual number.")


def check_seed(seed: int) -> None:
    """Refuse a seed that some head's random generator does not accept."""
    if not 0 <= seed <= MAX_SEED:
        raise RequestError(f"{called('seed')} must be between 0 and {MAX_SEED}; got {seed}. Leave it out for 0.")


def find_group(store: FeatureStore, asked: str | None, repeats: int = 1) -> str | None:
    """Return the column that names each row's group: as asked, else the one the store was extracted with, if any.

    Raises
    ------
    RequestError
        If there is no such column, or the store's own split, used for one repeat, breaks groups.
    """
    origin = store.made.origin
    group = asked or (None if origin is None else origin.group)
    if group is None:
        return None
    rows = store.rows.images()
    groups = groups_of(rows.columns, group)
    if repeats == 1:
        remedy = f"Extract again with {option('group', group)}, which computes nothing, or compare on drawn splits: {option('repeats', 5)}"
        check_unbroken(groups, rows.splits, group, f"the splits of {store.path}", remedy)
    log.info(f"groups   {len(set(groups))} of {group}; each stays on one side of splits and folds")
    return group


def side_keys(rows: Rows, group: str | None) -> list[str | bytes]:
    """Return one key per image; copies and images of one group share it and stay on one side. See `join_keys`."""
    contents = [key.tobytes() for key in rows.sha256]
    return join_keys(contents) if group is None else join_keys(groups_of(rows.columns, group), contents)


def draw_splits(rows: Rows, repeats: int, seed: int, group: str | None = None) -> list[np.ndarray]:
    """Return the store's own split for one repeat, else `repeats` random stratified splits of the same sizes.

    Copies of an image, and images of a group, are always in the same split.

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
    if group is not None:
        check_numbers(rows.labels, keys, rows.class_names, group, len(SPLITS), "splits")
    test = float(np.mean(rows.splits == SPLITS["test"]))
    val = float(np.mean(rows.splits == SPLITS["val"])) / (1 - test)
    drawn = []
    for number in range(seed, seed + repeats):
        splits = np.full(len(rows), SPLITS["train"], np.uint8)
        splits[stratified_split(rows.strata, keys, test, number)] = SPLITS["test"]
        rest = np.flatnonzero(splits == SPLITS["train"])
        chosen = stratified_split(rows.strata[rest], [keys[row] for row in rest], val, number)
        splits[rest[chosen]] = SPLITS["val"]
        drawn.append(splits)
    return drawn
