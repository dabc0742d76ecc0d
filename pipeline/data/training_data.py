"""The data a head is trained on: labelled images, and the pairs of subsets by which its settings are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from features.errors import RequestError

from .row_blocks import Matrix, Stored, aligned
from .scaling import Moments, measure

Pair = tuple[np.ndarray, np.ndarray]  # masks of images: those to fit on, those to score on


class Part(NamedTuple):
    """One layer's share of a head's input features.

    Attributes
    ----------
    layer : str
    pool : str
        How its maps were pooled into vectors, when stored or when read.
    read : str
        A key of ``POOLS``: the pooling applied on reading; ``flatten`` if the store holds vectors.
    """

    layer: str
    pool: str
    read: str = "flatten"


@dataclass(frozen=True)
class Features:
    """The input features of a head, read from a store.

    Attributes
    ----------
    X : ndarray or Stored of shape (n_images * views, n_features), float32
        Consecutive rows are the views of one image.
    widths : tuple of int
        Number of features in each group; a group is one layer under one pooling.
    views : int
        Views per image.
    parts : tuple of Part
        The layers that the features come from, in order.
    """

    X: Matrix
    widths: tuple[int, ...]
    views: int
    parts: tuple[Part, ...]

    @property
    def layer(self) -> str:
        """The layers, as text for display."""
        return "+".join(part.layer for part in self.parts)

    @property
    def pool(self) -> str:
        """How the layers were pooled, as text for display."""
        return ", ".join(dict.fromkeys(part.pool for part in self.parts))

    @property
    def read(self) -> tuple[tuple[str, str], ...]:
        """The layers, each with the pooling applied on reading, for `Reading`."""
        return tuple((part.layer, part.read) for part in self.parts)

    @property
    def matrix(self) -> np.ndarray:
        """`X`, for heads that need it in memory; `read_features` never gives them a stored matrix."""
        assert isinstance(self.X, np.ndarray)
        return self.X

    @cached_property
    def moments(self) -> Moments:
        """Means, mean squares and variances of `X`."""
        return measure(self.X)

    def scale(self, how: str) -> np.ndarray:
        """Return the divisor of each feature; see `measure_scale`."""
        return self.moments.scale(how, self.widths)

    def together(self, how: str, scales: Sequence[str]) -> list[str]:
        """Return the scales to compute together with `how`: all `scales` for a stored matrix, to read it only once."""
        return [how] if isinstance(self.X, np.ndarray) else list(dict.fromkeys([how, *scales]))

    def places(self, images: np.ndarray) -> np.ndarray:
        """Return the row indices, all views, of images given by a mask."""
        return np.flatnonzero(np.repeat(images, self.views))

    def of(self, images: np.ndarray) -> np.ndarray:
        """Return the rows, all views, of images given by a mask."""
        rows = self.places(images)
        if isinstance(self.X, Stored) or len(rows) == len(self.X):
            return self.X[rows] if isinstance(self.X, Stored) else self.X
        return np.take(self.X, rows, axis=0, out=aligned((len(rows), self.X.shape[1])))

    def only(self, images: np.ndarray) -> Features:
        """Return the features of images given by a mask; a stored matrix is selected lazily."""
        if isinstance(self.X, np.ndarray):
            return replace(self, X=self.of(images))
        return replace(self, X=self.X.only(self.places(images)))

    def averaged(self) -> Features:
        """Return each image's mean over its views, as one view."""
        if self.views == 1:
            return self
        views, shape = self.views, (len(self.X) // self.views, self.X.shape[1])

        def mean(rows: np.ndarray) -> np.ndarray:
            return rows.reshape(-1, views, shape[1]).mean(axis=1)

        if isinstance(self.X, np.ndarray):
            return replace(self, X=mean(self.X), views=1)
        X, of = self.X, np.arange(len(self.X)).reshape(shape[0], views)
        stored = Stored(shape, lambda some: mean(X[of[some].ravel()]), max(1, X.block_rows // views))
        return replace(self, X=stored, views=1)


@dataclass(frozen=True)
class Sample:
    """The images of train and val.

    Attributes
    ----------
    features : Features
    y : ndarray of shape (n_images,), int
    val : ndarray of shape (n_images,), bool
        Which images belong to the val split.
    folds : ndarray of shape (n_images,), int
        Fold number of each image; copies of an image, and images of a group, share a fold.
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

    def only(self, images: np.ndarray) -> Sample:
        """Return the images given by a mask."""
        return replace(
            self, features=self.features.only(images), y=self.y[images], val=self.val[images], folds=self.folds[images]
        )

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each row, all views, of images given by a mask."""
        return np.repeat(self.y[images], self.features.views)

    def pairs(self, select: str) -> list[Pair]:
        """Return the pairs of images to fit and to score on when settings are chosen by ``cv`` or by ``val``.

        Raises
        ------
        RequestError
            If no fold leaves two classes to fit on.
        """
        pairs = self.split(self.everything) if select == "cv" else [(~self.val, self.val)]
        if not pairs:
            raise RequestError(
                "cross-validation needs at least 2 different training rows of two classes; got fewer. Add images."
            )
        return pairs

    def split(self, images: np.ndarray) -> list[Pair]:
        """Return (fit, look) masks for each fold of some images, omitting folds with fewer than two classes to fit."""
        pairs = [(images & (self.folds != fold), images & (self.folds == fold)) for fold in np.unique(self.folds)]
        return [(fit, look) for fit, look in pairs if look.any() and len(np.unique(self.y[fit])) > 1]
