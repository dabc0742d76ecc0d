"""How a head's features are made of layers and views, at training and ever after, and its probabilities of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.errors import UnsafeFile
from features.pooling import POOLS, pool_maps
from features.store.reader import FeatureStore

from ..heads.contract import Classifier


@dataclass(frozen=True)
class Reading:
    """What a head reads of an image.

    Attributes
    ----------
    layers : tuple of (str, str)
        Layers in their order, and how each is pooled as it is read: a key of ``POOLS``.
    views : int
        The first so many views of the image.
    views_as : {'rows', 'mean'}
        Whether probabilities of the views are averaged, or their features.
    """

    layers: tuple[tuple[str, str], ...]
    views: int
    views_as: str

    @classmethod
    def from_json(cls, told: Mapping[str, Any], where: str) -> Reading:
        """Return what `to_json` told.

        Raises
        ------
        UnsafeFile
            If it is something else.
        """
        try:
            reading = cls(tuple((str(name), pool) for name, pool in told["layers"]), told["views"], told["views_as"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnsafeFile(f"{where} does not say what its head reads ({error!r}). Train it again.") from error
        pools = all(pool in POOLS for _, pool in reading.layers)
        if not (reading.layers and pools and reading.views in range(1, 257) and reading.views_as in ("rows", "mean")):
            raise UnsafeFile(f"{where} says that its head reads {str(told)[:200]}. Train it again.")
        return reading

    def to_json(self) -> dict[str, Any]:
        """Return it as ``run.json`` tells it."""
        return asdict(self)

    def of_store(self, store: FeatureStore, images: np.ndarray) -> np.ndarray:
        """Return features of stored images, given by their first rows: (n_images * views, n_features), float32."""
        rows = (images[:, None] + np.arange(self.views)).ravel()
        return np.hstack([store.read(name, pool, rows) for name, pool in self.layers])

    def of_maps(self, maps: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features of what the base gives for each layer, (n_images * views, ...), as `of_store` does."""
        return np.hstack([pool_maps(maps[name], pool) for name, pool in self.layers])

    def probabilities(self, head: Classifier, X: np.ndarray, n_classes: int) -> np.ndarray:
        """Return probabilities of all classes, (n_images, n_classes), of what `of_store` or `of_maps` gives."""
        if self.views_as == "mean" and self.views > 1:
            return class_probabilities(head, X.reshape(-1, self.views, X.shape[1]).mean(axis=1), n_classes, 1)
        return class_probabilities(head, X, n_classes, self.views)


def class_probabilities(head: Classifier, X: np.ndarray, n_classes: int, views: int) -> np.ndarray:
    """Return probabilities of all classes, means over views: zero for classes that were not in the training rows."""
    probabilities = np.zeros((len(X) // views, n_classes))
    if len(X):
        of_rows = head.predict_proba(X).astype(np.float64)
        probabilities[:, head.classes_] = of_rows.reshape(len(probabilities), views, -1).mean(axis=1)
        probabilities /= probabilities.sum(axis=1, keepdims=True)  # heads in float32 sum to one but for rounding
    return probabilities
