"""Nested subsets of the images that are learned from, to see how a figure grows with their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.errors import RequestError
from features.splits import SPLITS, stratified_split
from features.store.schema import Rows

from ..training.splitting import LEFT_OUT, side_keys

SIZES, STEP = 8, math.sqrt(2)  # sizes of subsets: each the STEPth part of the next larger one
LEAST_UNITS = 5  # images, or groups, of the rarest class in a subset


@dataclass(frozen=True)
class Subsets:
    """Nested subsets of train and val of one split or several.

    Attributes
    ----------
    splits : list of ndarray of shape (n_images,), uint8
    steps, counts, repeats : ndarray of shape (n_subsets,), int
        How often each was made smaller, how many images are in it, and the number of the split that it is of.
    """

    splits: list[np.ndarray]
    steps: np.ndarray
    counts: np.ndarray
    repeats: np.ndarray

    @classmethod
    def of(cls, each_split: Sequence[Rows], draws: int, seed: int, group: str | None) -> Subsets:
        """Draw subsets of each split, given as the rows with it. See `draw_subsets`."""
        found = [draw_subsets(rows, draws, seed + number * draws, group) for number, rows in enumerate(each_split)]
        splits = [each for _, some in found for each in some]
        counts = np.array([np.sum((each != SPLITS["test"]) & (each != LEFT_OUT)) for each in splits])
        numbers = np.repeat(np.arange(len(found)), [len(some) for _, some in found])
        return cls(splits, np.concatenate([steps for steps, _ in found]), counts, numbers)

    @property
    def by_step(self) -> list[np.ndarray]:
        """Places of the subsets made smaller equally often, the smallest first."""
        return [np.flatnonzero(self.steps == step) for step in np.unique(self.steps)[::-1]]

    @property
    def images(self) -> int:
        """Number of images in train and val, on average over splits."""
        return round(float(self.counts[self.steps == 0].mean()))


def draw_subsets(rows: Rows, draws: int, seed: int, group: str | None = None) -> tuple[list[int], list[np.ndarray]]:
    """Return splits whose train and val are nested stratified subsets of the store's: first all of it, then draw by draw.

    Groups, and copies of an image, are in a subset as a whole. Test stays as it is; what is in no subset is `LEFT_OUT`. Subsets get
    smaller as long as each class is in train, and any in val, which may end sooner where groups are large.

    Returns
    -------
    steps : list of int
        How often each subset was made smaller: 0 for all of train and val.
    splits : list of ndarray of shape (n_images,), uint8

    Raises
    ------
    RequestError
        If there are too few images for three sizes.
    """
    learn = np.flatnonzero((rows.splits != SPLITS["test"]) & (rows.splits != LEFT_OUT))
    keys, strata = side_keys(rows, group), rows.strata * 2 + (rows.splits == SPLITS["val"])
    units = [len({keys[row] for row in learn[rows.labels[learn] == label]}) for label in np.unique(rows.labels[learn])]
    sizes = 1 + min(SIZES - 1, int(math.log(max(1.0, min(units) / LEAST_UNITS), STEP)))
    steps, subsets = [0], [rows.splits]
    for number in range(seed, seed + draws):
        kept = learn
        for size in range(1, sizes):
            share = len(learn) / STEP**size / len(kept)
            kept = kept[stratified_split(strata[kept], [keys[row] for row in kept], share, number * SIZES + size)]
            split = np.where(rows.splits == SPLITS["test"], rows.splits, LEFT_OUT).astype(np.uint8)
            split[kept] = rows.splits[kept]
            if not _can_be_fitted(rows.labels, split):
                break
            steps.append(size)
            subsets.append(split)
    if len(set(steps)) < 3:
        in_val = len({keys[row] for row in np.flatnonzero(rows.splits == SPLITS["val"]).tolist()})
        raise RequestError(
            f"each class must have at least {2 * LEAST_UNITS} {'groups' if group else 'different images'} in train and val, and val "
            f"enough for each subset to have some; got {min(units)} of a class, and {in_val} in val. "
            f"Add images{f' of other groups ({group})' if group else ''}."
        )
    return steps, subsets


def _can_be_fitted(labels: np.ndarray, split: np.ndarray) -> bool:
    """Return whether each class is in train, and any in val."""
    train, val = (split == SPLITS[name] for name in ("train", "val"))
    return bool(val.any()) and len(np.unique(labels[train])) == len(np.unique(labels[split != LEFT_OUT]))
