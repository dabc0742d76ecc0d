"""Series: whether images that look alike stand together in the file list, as frames of one video or photos of one patient do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc

from .row_blocks import Matrix, Stored

PLACES = 5  # images that are at most so many places apart in the list of their class stand together
LOOKED_AT, _STRETCH = 5000, 250  # images at most, in stretches of the list
_READ = 16  # images at once
_P_VALUE, _EXCESS = 1e-6, 0.1  # for images to come in series


@dataclass(frozen=True)
class Series:
    """How many images stand together with their nearest neighbour of the same class, and how many would by chance.

    Attributes
    ----------
    share, chance : float
        Of pairs of an image and its nearest neighbour.
    p_value : float
        Of at least this share, if the order of the list said nothing (binomial; each pair of images counts once).
    """

    share: float
    chance: float
    p_value: float

    @property
    def found(self) -> bool:
        """Whether images come in series: far more than chance would give, and a tenth of the pairs more."""
        return self.p_value < _P_VALUE and self.share - self.chance >= _EXCESS


def find_series(X: Matrix, views: int, labels: np.ndarray, contents: np.ndarray, paths: Sequence[str]) -> Series:
    """Look for series among at most 5,000 images, or fewer if less fits into memory.

    Files of one class often stand together, so each class has its own list, in the order of paths with numbers read as numbers.
    Neighbours are nearest by the cosine of standardised features. Under the null hypothesis that its order is random, two of n images are at most w places apart with probability
    ``w (2 n - w - 1) / (n (n - 1))``.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_images * views, n_features)
        Only the rows of images that are looked at are read, of view 0.
    views : int
    labels : ndarray of shape (n_images,), int
    contents : ndarray of shape (n_images, 32), uint8
        SHA-256 of each image's file; of copies, which are kept together anyway, only the first counts.
    paths : sequence of str
    """
    once = np.unique(contents, axis=0, return_index=True)[1]
    order = np.array(sorted(once.tolist(), key=lambda row: (labels[row], _natural(paths[row]))), int)
    most = min(LOOKED_AT, X.block_rows) if isinstance(X, Stored) else LOOKED_AT
    rows = np.concatenate([order[some] for some in _stretches(len(order), most)])
    parts = np.array_split(rows * views, -(-len(rows) // _READ))  # few at once, since whole maps are read to be pooled
    unit = _standardised(np.concatenate([X[part] for part in parts]))
    pairs, together, expected = 0, 0, 0.0
    for label in np.unique(labels[rows]):
        own = unit[labels[rows] == label]
        n, near = len(own), min(PLACES, len(own) - 1)
        if n < 2:
            continue
        cosines = own @ own.T
        np.fill_diagonal(cosines, -np.inf)
        nearest = np.column_stack([np.arange(n), cosines.argmax(axis=1)])
        different = np.unique(np.sort(nearest, axis=1), axis=0)  # often, two images are each other's nearest
        pairs += len(different)
        together += int((np.diff(different, axis=1) <= near).sum())
        expected += len(different) * near * (2 * n - near - 1) / (n * (n - 1))
    if not pairs:
        return Series(0.0, 0.0, 1.0)
    chance = min(1.0, expected / pairs)
    return Series(together / pairs, chance, float(bdtrc(together - 1, pairs, chance)))


def _standardised(X: np.ndarray) -> np.ndarray:
    """Return rows with each feature centred and divided by its standard deviation, as unit vectors."""
    spread = X.std(axis=0)
    scaled = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-9)


def _stretches(n: int, most: int) -> Iterator[slice]:
    """Yield equally spaced stretches of a list of n, which hold at most so many images together; of a short list, all."""
    if n <= most:
        yield slice(n)
        return
    length = min(_STRETCH, most)
    for first in np.linspace(0, n - length, most // length).round().astype(int).tolist():
        yield slice(first, first + length)


def _natural(path: str) -> list[tuple[int, int | str]]:
    """Return what sorts paths with numbers read as numbers: ``2.jpg`` before ``10.jpg``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", path) if part]
