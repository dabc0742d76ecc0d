"""What a head may learn from: labelled images, and the pairs of rows that its settings are chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # masks of images: those to fit on, those to look at


@dataclass(frozen=True)
class Sample:
    """The images of train and val.

    Attributes
    ----------
    X : ndarray of shape (n_images * views, n_features), float32
        Consecutive rows are the views of one image.
    y : ndarray of shape (n_images,), int
    val : ndarray of shape (n_images,), bool
        Which images are of the val split.
    folds : ndarray of shape (n_images,), int
        The number of each image's fold; copies of an image are in one.
    widths : tuple of int
        Numbers of features that belong together: those of one layer under one pooling.
    views : int
    seed : int
    """

    X: np.ndarray
    y: np.ndarray
    val: np.ndarray
    folds: np.ndarray
    widths: tuple[int, ...]
    views: int = 1
    seed: int = 0

    @property
    def everything(self) -> np.ndarray:
        """All images, as a mask."""
        return np.ones(len(self.y), bool)

    def of(self, images: np.ndarray) -> np.ndarray:
        """Return the rows, all views, of images given by a mask."""
        return self.X if images.all() else self.X[np.repeat(images, self.views)]

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each row of `of`."""
        return np.repeat(self.y[images], self.views)

    def pairs(self, select: str) -> list[Pair]:
        """Return what to fit on and what to look at when settings are chosen, by ``cv`` or by ``val``."""
        return self.split(self.everything) if select == "cv" else [(~self.val, self.val)]

    def split(self, images: np.ndarray) -> list[Pair]:
        """Return the folds of some images, but those that leave fewer than two classes to fit on."""
        pairs = [(images & (self.folds != fold), images & (self.folds == fold)) for fold in np.unique(self.folds)]
        return [(fit, look) for fit, look in pairs if look.any() and len(np.unique(self.y[fit])) > 1]
