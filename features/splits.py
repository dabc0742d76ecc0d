"""Train, validation and test splits: their names, and reproducible stratified sampling.

The sample depends only on the seed and each row's own key, so it is the same on every machine and with every library
version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

Row = tuple[str, str, str | None]  # path relative to the root, class name, split name if given
SPLITS = {"train": 0, "val": 1, "test": 2}
# Folder and manifest names that denote a split, case-insensitive.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "training_set", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validation_set", "val_set", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "test_set"), "test"),
}


def stratified_split(strata: np.ndarray, keys: Sequence[str | bytes], fraction: float, seed: int) -> np.ndarray:
    """Choose a fraction of each stratum.

    Rows of a stratum are sorted by the SHA-256 of seed and key, and the first ones are chosen (at least one, but never
    all), so no random generator is needed. Rows with equal keys (copies of one image) are chosen together.

    Parameters
    ----------
    strata : ndarray of shape (n_rows,)
    keys : sequence of length n_rows
        Identifier of each row: its path, or the hash of its content.
    fraction : float
        In [0, 1].
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
    """Deal the rows of each stratum out to `times` folds, in the order of `stratified_split`; see there.

    Returns
    -------
    folds : ndarray of shape (n_rows,), int
        From 0 to ``times - 1``; rows with equal keys share a fold.
    """
    ranks = rank_keys(seed, keys)
    folds = np.empty(len(strata), int)
    dealt = 0  # continues across strata, so that small strata do not all fill the first folds
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
    """Return one pseudorandom, sortable rank per key, which depends only on the seed and the key (SHA-256)."""
    data = (key.encode() if isinstance(key, str) else key for key in keys)
    return np.array([hashlib.sha256(f"{seed}:".encode() + each).hexdigest() for each in data], "S64")
