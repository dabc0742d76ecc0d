"""What a head may learn from: labelled images, and the pairs of rows that its settings are chosen by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from features.errors import RequestError

from .stream import Matrix, Stored, aligned

Pair = tuple[np.ndarray, np.ndarray]  # masks of images: those to fit on, those to look at


@dataclass(frozen=True)
class Features:
    """What a head is given of a store.

    Attributes
    ----------
    X : ndarray or Stored of shape (n_images * views, n_features), float32
        Consecutive rows are the views of one image.
    widths : tuple of int
        Numbers of features that belong together: those of one layer under one pooling.
    views : int
    layer, pool : str
        Where they come from, for people.
    parts : tuple of (str, str)
        Where they come from, for `Reading`: layers in their order, and how each was pooled as it was read.
    """

    X: Matrix
    widths: tuple[int, ...]
    views: int
    layer: str
    pool: str
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def matrix(self) -> np.ndarray:
        """`X`, for heads that want it whole in memory; `read_features` gives them no other."""
        assert isinstance(self.X, np.ndarray)
        return self.X

    def places(self, images: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows, all views, of images given by a mask."""
        return np.flatnonzero(np.repeat(images, self.views))

    def of(self, images: np.ndarray) -> np.ndarray:
        """Return the rows, all views, of images given by a mask."""
        rows = self.places(images)
        if isinstance(self.X, Stored) or len(rows) == len(self.X):
            return self.X[rows] if isinstance(self.X, Stored) else self.X
        return np.take(self.X, rows, axis=0, out=aligned((len(rows), self.X.shape[1])))

    def only(self, images: np.ndarray) -> Features:
        """Return the features of images given by a mask; those of a stored matrix stay where they are."""
        if isinstance(self.X, np.ndarray):
            return replace(self, X=self.of(images))
        rows, whole = self.places(images), self.X
        return replace(
            self, X=replace(whole, shape=(len(rows), whole.shape[1]), read=lambda some: whole.read(rows[some]))
        )

    def averaged(self) -> Features:
        """Return each image's mean over its views, as one view."""
        if self.views == 1:
            return self
        return replace(self, X=self.matrix.reshape(-1, self.views, self.X.shape[1]).mean(axis=1), views=1)


@dataclass(frozen=True)
class Sample:
    """The images of train and val.

    Attributes
    ----------
    features : Features
    y : ndarray of shape (n_images,), int
    val : ndarray of shape (n_images,), bool
        Which images are of the val split.
    folds : ndarray of shape (n_images,), int
        The number of each image's fold; copies of an image are in one.
    seed : int
    """

    features: Features
    y: np.ndarray
    val: np.ndarray
    folds: np.ndarray
    seed: int = 0

    @property
    def everything(self) -> np.ndarray:
        """All images, as a mask."""
        return np.ones(len(self.y), bool)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each row, all views, of images given by a mask."""
        return np.repeat(self.y[images], self.features.views)

    def pairs(self, select: str) -> list[Pair]:
        """Return what to fit on and what to look at when settings are chosen, by ``cv`` or by ``val``."""
        pairs = self.split(self.everything) if select == "cv" else [(~self.val, self.val)]
        if not pairs:
            raise RequestError(
                "cross-validation needs at least 2 different training rows of two classes; got fewer. Add images."
            )
        return pairs

    def split(self, images: np.ndarray) -> list[Pair]:
        """Return the folds of some images, but those that leave fewer than two classes to fit on."""
        pairs = [(images & (self.folds != fold), images & (self.folds == fold)) for fold in np.unique(self.folds)]
        return [(fit, look) for fit, look in pairs if look.any() and len(np.unique(self.y[fit])) > 1]
