"""Train, validation and test splits: their names, and reproducible stratified sampling of whole units.

A unit is what must not be divided between splits: an image, its copies, or a group of images such as a patient's. All rows of
a unit share a key. The sample depends only on the seed and these keys, so it is the same on every machine and with every
library version.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import RequestError, called, command, must_be_one_of, option

Row = tuple[str, str, str | None]  # path relative to the root, class name, split name if given
SPLITS = {"train": 0, "val": 1, "test": 2}
# Folder and manifest names that denote a split, case-insensitive.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "training_set", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validation_set", "val_set", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "test_set"), "test"),
}
NEAR_COPIES = "near-copies"  # as a group: clusters of images whose features are nearly equal, which stage two finds
_ALIKE = 1e-15  # smaller differences of squared shares are rounding errors; one row in ten million makes a larger one


def stratified_split(strata: np.ndarray, keys: Sequence[str | bytes], fraction: float, seed: int) -> np.ndarray:
    """Choose a fraction of each stratum.

    Units are visited in the order of the SHA-256 of seed and key, so no random generator is needed. A unit is added or removed
    if this brings the chosen shares of its strata nearer to the fraction (least squares), until no such change is left. Of each
    stratum with two or more units, at least one is chosen, but never all; a single unit of several rows is left over. Of a stratum with three or more units, some of several
    rows, at least two are left over, so another fraction can be chosen from the rest.

    Parameters
    ----------
    strata : ndarray of shape (n_rows,)
    keys : sequence of length n_rows
        Key of each row's unit, such as a path or the hash of a content; see `join_keys`. If all differ, each row is a unit.
    fraction : float
        In [0, 1].
    seed : int

    Returns
    -------
    chosen : ndarray of shape (n_rows,), bool
    """
    units = _Units.of(strata, keys, seed)
    choice = _Choice(units, fraction)
    while choice.come_nearer():
        pass
    for stratum in range(len(units.rows)):  # of a stratum with few large units, none may be chosen yet
        choice.take_one(stratum)
    return choice.taken[units.of_row]


def stratified_folds(strata: np.ndarray, keys: Sequence[str | bytes], times: int, seed: int) -> np.ndarray:
    """Deal units out to `times` folds, each with its share of each stratum; see `stratified_split`.

    Units of several rows are dealt first, by descending size, then single rows, stratum by stratum. Ties are broken by the
    SHA-256 of seed and key. A unit goes to the fold that has least of its strata; among equals, to the one with fewest rows.

    Returns
    -------
    folds : ndarray of shape (n_rows,), int
        From 0 to ``times - 1``; rows with equal keys share a fold.
    """
    units = _Units.of(strata, keys, seed)
    rows, cells = units.rows.tolist(), units.cells
    sizes = np.array([sum(n for _, n in each) for each in cells])
    dealt = np.empty(len(cells), int)
    held = np.zeros((len(rows), times), int)  # rows of each stratum in each fold
    several = np.flatnonzero(sizes > 1)
    for unit in several[np.argsort(-sizes[several], kind="stable")]:
        share = sum(held[s] * (n / rows[s] ** 2) for s, n in cells[unit])
        fold = np.lexsort((held.sum(axis=0), share))[0]
        dealt[unit] = fold
        for s, n in cells[unit]:
            held[s, fold] += n
    single = np.flatnonzero(sizes == 1)
    of_stratum = np.array([cells[unit][0][0] for unit in single], int)
    total = held.sum(axis=0)
    for stratum in range(len(rows)):
        own = single[of_stratum == stratum]
        filled = _fill_up(held[stratum], total, len(own))
        dealt[own] = filled
        total += np.bincount(filled, minlength=times)
    return dealt[units.of_row]


def _fill_up(held: np.ndarray, total: np.ndarray, count: int) -> np.ndarray:
    """Return a fold for each single row, (count,): the one with least of the stratum, then with the fewest rows."""
    held, total = held.copy(), total.copy()
    folds: list[int] = []
    while len(folds) < count and np.ptp(held):
        fold = int(np.lexsort((total, held))[0])
        folds.append(fold)
        held[fold] += 1
        total[fold] += 1
    rest = np.argsort(total, kind="stable")  # all folds have equally many by now, so the remaining rows go round
    return np.concatenate([folds, rest[np.arange(count - len(folds)) % len(rest)]]).astype(int)


@dataclass(frozen=True)
class _Units:
    """Units in the order of their ranks, and their rows in each stratum.

    Attributes
    ----------
    of_row : ndarray of shape (n_rows,)
        The unit of each row.
    cells : list of list of (int, int)
        Per unit, its strata, renumbered from 0, and the unit's number of rows in each.
    rows, numbers : ndarray of shape (n_strata,)
        Number of rows and of units in each stratum.
    """

    of_row: np.ndarray
    cells: list[list[tuple[int, int]]]
    rows: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, strata: np.ndarray, keys: Sequence[str | bytes], seed: int) -> _Units:
        names, strata = np.unique(strata, return_inverse=True)
        ranks, of_row = np.unique(rank_keys(seed, keys), return_inverse=True)
        cells, counts = np.unique(of_row * np.int64(len(names)) + strata, return_counts=True)
        unit, stratum = np.divmod(cells, max(1, len(names)))
        pairs = list(zip(stratum.tolist(), counts.tolist(), strict=True))
        ends = np.searchsorted(unit, np.arange(len(ranks) + 1)).tolist()
        return cls(
            of_row,
            [pairs[first:last] for first, last in itertools.pairwise(ends)],
            np.bincount(strata, minlength=len(names)),
            np.bincount(stratum, minlength=len(names)),
        )


class _Choice:
    """The units chosen so far, at first none, and how many rows of each stratum they hold.

    Attributes
    ----------
    taken : ndarray of shape (n_units,), bool
    """

    def __init__(self, units: _Units, fraction: float):
        self._cells, self._rows = units.cells, units.rows.tolist()
        self.taken = np.zeros(len(units.cells), bool)
        self._wanted = [min(max(1, round(fraction * n)), n - 1) for n in self._rows]
        self._held = [0] * len(self._rows)
        self._most = [  # how many units of each stratum may be chosen
            count - (max(1, min(2, count - 1)) if count < n else 0)
            for count, n in zip(units.numbers.tolist(), self._rows, strict=True)
        ]
        self._chosen = [0] * len(self._rows)

    def come_nearer(self) -> bool:
        """Flip each unit in order if that brings its strata's shares nearer; return whether another round may help."""
        flipped = False
        for unit in range(len(self._cells)):
            if self._farther(unit) < -_ALIKE and self._may_flip(unit):
                self._flip(unit)
                flipped = True
        return flipped and self._held != self._wanted

    def take_one(self, stratum: int) -> None:
        """If no unit of a stratum is chosen, choose the best one that is allowed."""
        if self._chosen[stratum] or not self._wanted[stratum]:
            return
        units = (unit for unit, cells in enumerate(self._cells) if any(s == stratum for s, _ in cells))
        allowed = [unit for unit in units if self._may_flip(unit)]
        if allowed:
            self._flip(min(allowed, key=self._farther))

    def _farther(self, unit: int) -> float:
        """Return how much flipping a unit raises the sum of squared differences between actual and wanted shares."""
        sign = -1 if self.taken[unit] else 1
        return sum(
            n * (2 * sign * (self._held[s] - self._wanted[s]) + n) / self._rows[s] ** 2 for s, n in self._cells[unit]
        )

    def _may_flip(self, unit: int) -> bool:
        if self.taken[unit]:
            return all(self._chosen[s] > 1 for s, _ in self._cells[unit])
        return all(self._chosen[s] < self._most[s] for s, _ in self._cells[unit])

    def _flip(self, unit: int) -> None:
        sign = -1 if self.taken[unit] else 1
        self.taken[unit] = not self.taken[unit]
        for s, n in self._cells[unit]:
            self._held[s] += sign * n
            self._chosen[s] += sign


def join_keys(*keys: Sequence[str | bytes]) -> list[str | bytes]:
    """Return one key per row; rows share it if they share a key of any kind, directly or through other rows.

    Parameters
    ----------
    keys : sequences of length n_rows
        One key per row of each kind, such as the group's name and the content's SHA-256.

    Returns
    -------
    joined : list of length n_rows
        The least key of the first kind among the rows that belong together.
    """
    first: dict[tuple[int, str | bytes], int] = {}
    parent = list(range(len(keys[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for kind, of_rows in enumerate(keys):
        for row, key in enumerate(of_rows):
            parent[root(row)] = root(first.setdefault((kind, key), row))
    roots = [root(row) for row in range(len(parent))]
    least: dict[int, str | bytes] = {}
    for each, key in zip(roots, keys[0], strict=True):
        least[each] = min(least.get(each, key), key)
    return [least[each] for each in roots]


def groups_of(columns: Mapping[str, Sequence[str]], group: str) -> Sequence[str]:
    """Return the text of each row in the column that names its group.

    Raises
    ------
    RequestError
        If there is no such column, or rows have no text in it.
    """
    if group == NEAR_COPIES and group not in columns:
        raise RequestError(
            f"{called('group')} must be a column here; got {group!r}, which are found in features, once these are extracted. "
            f"Leave it out, then: {command('compare', store='STORE.h5', group=NEAR_COPIES, repeats=5)}"
        )
    if not columns:
        raise RequestError(
            f"{called('group')} must be a column; got {group!r}, and there are none. Name one in a CSV file, or take one from "
            f"paths: {option('column')}"
        )
    if group not in columns:
        raise must_be_one_of(called("group"), columns, group, f"From paths: {option('column', {group: 'PATTERN'})}")
    empty = sum(not text for text in columns[group])
    if empty:
        raise RequestError(
            f"{called('group')} {group} must have a text for every row; {empty} of {len(columns[group])} have none. Fill them "
            f"in, with a text of its own for an image that belongs to no other."
        )
    return columns[group]


def check_unbroken(groups: Sequence[str], sides: np.ndarray, group: str, what: str, remedy: str) -> None:
    """Raise RequestError, naming the groups, if rows of one group are on several sides.

    Parameters
    ----------
    groups : sequence of length n_rows
    sides : ndarray of shape (n_rows,)
    group : str
        Name of the column.
    what, remedy : str
        What defines the sides, and the remedy.
    """
    of_group: dict[str, set[int]] = {}
    for name, side in zip(groups, sides.tolist(), strict=True):
        of_group.setdefault(name, set()).add(side)
    broken = sorted(name for name, held in of_group.items() if len(held) > 1)
    if broken:
        raise RequestError(
            f"{what} must keep each {group} in one split; {len(broken)} of {len(of_group)} are in several: "
            f"{', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}. {remedy}"
        )


def check_numbers(
    labels: np.ndarray, keys: Sequence[str | bytes], class_names: Sequence[str], group: str, sides: int, what: str
) -> None:
    """Raise RequestError, naming the class, if a class has fewer units than there are sides.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,)
    keys : sequence of length n_rows
        See `join_keys`.
    class_names : sequence of str
    group : str
        Name of the column.
    sides : int
    what : str
        What the sides are: ``splits`` or ``folds``.
    """
    units = count_units(labels, keys, len(class_names))
    few = [(name, count) for name, count in zip(class_names, units, strict=True) if 0 < count < sides]
    if few:
        told = ", ".join(f"{name!r} in {count}" for name, count in few)
        raise RequestError(
            f"every class must be in at least {sides} groups ({group}) for {sides} {what}; got {told}. Add images of other "
            f"groups, or leave out the class."
        )


def count_units(labels: np.ndarray, keys: Sequence[str | bytes], classes: int) -> list[int]:
    """Return the number of units, rows with different keys, of each class."""
    units: list[set[str | bytes]] = [set() for _ in range(classes)]
    for label, key in zip(labels.tolist(), keys, strict=True):
        units[label].add(key)
    return [len(held) for held in units]


def count_rows(class_names: Sequence[str], labels: np.ndarray, splits: np.ndarray) -> dict[str, dict[str, int]]:
    """Return the number of rows per split and class: ``{split: {class name: rows}}``."""
    held = splits < len(SPLITS)  # not those that are to be drawn
    counts = np.zeros((len(SPLITS), len(class_names)), int)
    np.add.at(counts, (splits[held], labels[held]), 1)
    return {split: dict(zip(class_names, counts[code].tolist(), strict=True)) for split, code in SPLITS.items()}


def rank_keys(seed: int, keys: Sequence[str | bytes]) -> np.ndarray:
    """Return one pseudorandom, sortable rank per key, which depends only on the seed and the key (SHA-256)."""
    data = (key.encode() if isinstance(key, str) else key for key in keys)
    return np.array([hashlib.sha256(f"{seed}:".encode() + each).hexdigest() for each in data], "S64")
