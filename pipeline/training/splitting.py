"""The splits on which heads are compared: the store's own, or several random ones."""

from __future__ import annotations

import numpy as np

from features.errors import RequestError, called, option
from features.runtime.log import log
from features.splits import SPLITS, stratified_split
from features.store.schema import Rows

from ..evaluation.significance import MIN_REPEATS

MAX_SEED = 2**32 - 1  # NumPy's, scikit-learn's and Keras'


def check_repeats(repeats: int) -> None:
    """Refuse a number of splits below 1."""
    if repeats < 1:
        raise RequestError(f"{called('repeats')} must be at least 1; got {repeats}. Leave it out for the usual number.")


def check_seed(seed: int) -> None:
    """Refuse a seed that some head's random generator does not take."""
    if not 0 <= seed <= MAX_SEED:
        raise RequestError(f"{called('seed')} must be between 0 and {MAX_SEED}; got {seed}. Leave it out for 0.")


def draw_splits(rows: Rows, repeats: int, seed: int) -> list[np.ndarray]:
    """Return the store's own split for one repeat, else `repeats` random stratified splits of the same sizes.

    Copies of an image are always in the same split.

    Returns
    -------
    splits : list of ndarray of shape (n_images,), uint8
        Values of ``SPLITS``.
    """
    check_repeats(repeats)
    if repeats == 1:
        return [rows.splits]
    if repeats < MIN_REPEATS:
        log.warning(
            f"{called('repeats')} must be 1 or at least {MIN_REPEATS} for intervals and tests; got {repeats}. "
            f"Without them it goes on; for them: {option('repeats', MIN_REPEATS)}"
        )
    keys = [key.tobytes() for key in rows.sha256]
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
