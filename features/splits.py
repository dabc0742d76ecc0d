"""Which rows train, choose and test: the split names, and a stratified choice that any machine repeats.

The choice depends on the seed and on each row's own key alone, so it is the same under every version of every library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

Row = tuple[str, str, str | None]  # path below the root, name of the class, name of the split if it is given
SPLITS = {"train": 0, "val": 1, "test": 2}
# Folder and manifest names that mean a split, in any case of letters.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "training_set", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validation_set", "val_set", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "test_set"), "test"),
}


def stratified_split(strata: np.ndarray, keys: Sequence[str | bytes], fraction: float, seed: int) -> np.ndarray:
    """Choose a fraction of each stratum.

    Rows of a stratum are ordered by the SHA-256 of seed and key and the first ones are taken (at least one and not
    all), so the choice needs no random generator; rows with equal keys (copies of one image) fall on one side.

    Parameters
    ----------
    strata : ndarray of shape (n_rows,)
    keys : sequence of length n_rows
        What identifies each row: its path, or the hash of its content.
    fraction : float
        Between 0 and 1.
    seed : int

    Returns
    -------
    chosen : ndarray of shape (n_rows,), bool
    """
    ranks = rank_keys(seed, keys)
    chosen = np.zeros(len(strata), bool)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        ordered = np.sort(ranks[rows])
        take = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        if take:
            chosen[rows] = ranks[rows] <= ordered[take - 1]
    return chosen


def stratified_folds(strata: np.ndarray, keys: Sequence[str | bytes], times: int, seed: int) -> np.ndarray:
    """Deal the rows of each stratum out to folds, in the order of `stratified_split`; see there.

    Returns
    -------
    folds : ndarray of shape (n_rows,), int
        From 0 to ``times - 1``; rows with equal keys in one fold.
    """
    ranks = rank_keys(seed, keys)
    folds = np.empty(len(strata), int)
    dealt = 0  # goes on from stratum to stratum, so that small strata do not all fill the first folds
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        distinct, places = np.unique(ranks[rows], return_inverse=True)
        folds[rows] = (places + dealt) % times
        dealt += len(distinct)
    return folds


def count_rows(class_names: Sequence[str], labels: np.ndarray, splits: np.ndarray) -> dict[str, dict[str, int]]:
    """Return the number of rows per split and class: ``{split: {class name: rows}}``."""
    return {
        split: {name: int(np.sum((splits == code) & (labels == label))) for label, name in enumerate(class_names)}
        for split, code in SPLITS.items()
    }


def rank_keys(seed: int, keys: Sequence[str | bytes]) -> np.ndarray:
    """Return one sortable rank per key: it looks random, and depends on the seed and the key alone (SHA-256)."""
    data = (key.encode() if isinstance(key, str) else key for key in keys)
    return np.array([hashlib.sha256(f"{seed}:".encode() + each).hexdigest() for each in data], "S64")
