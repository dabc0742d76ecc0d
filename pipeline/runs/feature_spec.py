"""How a head's features are read from layers and views, in training and prediction, and its probabilities of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.errors import UnsafeFile
from features.pooling import POOLS, pool_maps
from features.store.reader import FeatureStore

from ..data.row_blocks import Stored
from ..data.training_data import Features
from ..heads.contract import Classifier

_PREDICT_BYTES = 64 << 20  # of features per call to predict


@dataclass(frozen=True)
class Reading:
    """The features that a head reads for an image.

    Attributes
    ----------
    layers : tuple of (str, str)
        Layers in order, each with its pooling on reading, a key of ``POOLS``.
    views : int
        Number of views used, starting with view 0.
    views_as : {'rows', 'mean'}
        Whether the probabilities (``rows``) or the features (``mean``) of the views are averaged.
    """

    layers: tuple[tuple[str, str], ...]
    views: int
    views_as: str

    @classmethod
    def from_json(cls, told: Mapping[str, Any], where: str) -> Reading:
        """Return the reading that `to_json` wrote; `where` is the file, for messages.

        Raises
        ------
        UnsafeFile
            If it is not a valid reading.
        """
        try:
            reading = cls(tuple((str(name), pool) for name, pool in told["layers"]), told["views"], told["views_as"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnsafeFile(f"{where} must say which features its head reads; {error!r}. Train it again.") from error
        pools = all(pool in POOLS for _, pool in reading.layers)
        if not (reading.layers and pools and reading.views in range(1, 257) and reading.views_as in ("rows", "mean")):
            raise UnsafeFile(
                f"{where} must name known layers, pooling and views for its head; got {str(told)[:200]}. Train it again."
            )
        return reading

    def to_json(self) -> dict[str, Any]:
        """Return it as stored in ``run.json``."""
        return asdict(self)

    def of_store(self, store: FeatureStore, images: np.ndarray) -> np.ndarray:
        """Return features of stored images, given by their first rows: (n_images * views, n_features), float32."""
        rows = (images[:, None] + np.arange(self.views)).ravel()
        return np.hstack([store.read(name, pool, rows) for name, pool in self.layers])

    def of_maps(self, maps: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the same features as `of_store` from the base's output for each layer, (n_images * views, ...)."""
        return np.hstack([pool_maps(maps[name], pool) for name, pool in self.layers])

    def probabilities(self, head: Classifier, X: np.ndarray, n_classes: int) -> np.ndarray:
        """Return probabilities of all classes, (n_images, n_classes), from the features of `of_store` or `of_maps`."""
        if self.views_as == "mean" and self.views > 1:
            return class_probabilities(head, self.averaged(X), n_classes, 1)
        return class_probabilities(head, X, n_classes, self.views)

    def averaged(self, X: np.ndarray) -> np.ndarray:
        """Return the mean features of each image's views, (n_images, n_features)."""
        return X.reshape(-1, self.views, X.shape[1]).mean(axis=1)


def class_probabilities(head: Classifier, X: np.ndarray, n_classes: int, views: int) -> np.ndarray:
    """Return probabilities of all classes, (n_images, n_classes), averaged over views; 0 for classes not trained on."""
    probabilities = np.zeros((len(X) // views, n_classes))
    if len(X):
        of_rows = head.predict_proba(X).astype(np.float64)
        probabilities[:, head.classes_] = of_rows.reshape(len(probabilities), views, -1).mean(axis=1)
        probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 heads sum to one only up to rounding
    return probabilities


def all_classes(estimator: Classifier, features: Features, images: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities of all classes for the images given by a mask, in blocks; see `class_probabilities`."""
    numbers, views = np.flatnonzero(images), features.views
    step = max(1, _PREDICT_BYTES // (4 * views * features.X.shape[1]))
    if isinstance(features.X, Stored):  # an SVM reads its support vectors again for each block
        step = max(1, features.X.block_rows // views)
    blocks = [
        class_probabilities(
            estimator,
            features.X[(numbers[start : start + step, None] * views + np.arange(views)).ravel()],
            n_classes,
            views,
        )
        for start in range(0, len(numbers), step)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, n_classes))
