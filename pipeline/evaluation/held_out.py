"""The test rows of a split, and which of them vary together: the units that tests and intervals count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.splits import SPLITS

MIN_REPEATS = 3  # the fewest random splits for which an interval or a test is given


@dataclass(frozen=True)
class HeldOut:
    """The test rows of one split.

    Attributes
    ----------
    y : ndarray of shape (n_test,), int
        Indices of the true classes.
    units : ndarray of shape (n_test,), int
        The group of each row, numbered from 0; without groups, each row is a unit.
    n_learn : int
        Number of units outside the test split.
    grouped : bool
    """

    y: np.ndarray
    units: np.ndarray
    n_learn: int
    grouped: bool = False

    @classmethod
    def of(cls, labels: np.ndarray, split: np.ndarray, keys: Sequence[str | bytes] | None = None) -> HeldOut:
        """Return the test rows of a split of images; images with equal `keys` are a group."""
        test = split == SPLITS["test"]
        if keys is None:
            return cls(labels[test], np.arange(test.sum()), int(np.sum(~test)))
        numbers = unit_numbers(keys)
        return cls(labels[test], np.unique(numbers[test], return_inverse=True)[1], len(set(numbers[~test])), True)

    @property
    def n_units(self) -> int:
        """Number of units in the test split."""
        return int(self.units.max(initial=-1)) + 1


def unit_numbers(keys: Sequence[str | bytes]) -> np.ndarray:
    """Return a number from 0 for each different key, (n_rows,)."""
    return np.unique(np.array(keys, object), return_inverse=True)[1]


def effective_units(units: np.ndarray) -> float:
    """Return the number of equally large units that vary as much: ``(sum m)^2 / sum m^2`` of units of m rows (Kish 1965)."""
    sizes = np.bincount(units)
    return float(sizes.sum() ** 2 / np.square(sizes, dtype=np.float64).sum())
