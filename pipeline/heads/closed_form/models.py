"""Ridge regression and linear discriminants on some rows of a rotation, each solved for any number of settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from ...data.svd_basis import Rotation
from ..settings import row_weights
from .fold_products import FoldProducts

_LEAST = 1e-6  # of all variance: that within classes where it is less, such as none


class Model(ABC):
    """A linear model of some rows, one for each value of a setting.

    Parameters
    ----------
    rotation : Rotation
    y : ndarray of shape (n_samples,), int
    rows : ndarray of shape (n_samples,), bool
        Rows to fit to, of two classes or more.
    class_weight : {'none', 'balanced'}

    Attributes
    ----------
    setting : str
    gives_chances : bool
        Whether scores are logits.
    classes : ndarray of shape (n_classes,)
    """

    setting: ClassVar[str]
    gives_chances: ClassVar[bool]

    def __init__(self, rotation: Rotation, y: np.ndarray, rows: np.ndarray, class_weight: str = "none"):
        self.classes = np.unique(y[rows])
        self._take(rotation, y, row_weights(y, rows, class_weight))

    @abstractmethod
    def _take(self, rotation: Rotation, y: np.ndarray, weights: np.ndarray) -> None:
        """Compute what all values of the setting need."""

    @abstractmethod
    def solve(self, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients of the rotated rows, (rank, k), and intercepts, (k,); k is 1 for two classes.

        Raises
        ------
        ValueError
            If there is no solution for this value.
        """


class Ridge(Model):
    """Least squares with an L2 penalty.

    Minimises ``sum(weight * (t - x w - b)^2) + alpha * |w|^2`` with t = 1 for rows of a class and -1 for others, which is the
    objective of scikit-learn's ``RidgeClassifier``. Where its derivatives are 0, ``(A + alpha) w = R.T @ (weight * (t - t0))``
    with the weighted mean t0 of t, and A the products of the rows less those of their weighted mean.
    """

    setting, gives_chances = "alpha", False

    def _take(self, rotation: Rotation, y: np.ndarray, weights: np.ndarray) -> None:
        total, positive = weights.sum(), self.classes[1:] if len(self.classes) == 2 else self.classes
        targets = np.where(y[:, None] == positive, 1.0, -1.0)
        self._mean, self._level = weights @ rotation.rows / total, weights @ targets / total
        self._right = rotation.rows.T @ (weights[:, None] * (targets - self._level))
        self._products = FoldProducts(rotation, weights, np.sqrt(total) * self._mean[None])

    def solve(self, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients and intercepts for one penalty; see `Model.solve`."""
        found = self._products.solve(self._right, value)
        return found, self._level - self._mean @ found


class Discriminants(Model):
    """Linear discriminants: the log densities of normal distributions with one covariance, shrunk towards a multiple of one.

    The covariance is ``(1 - shrinkage) * W + shrinkage * trace(W) / n_features`` with W that within classes; so it is in
    scikit-learn's ``LinearDiscriminantAnalysis("lsqr")``, whose score of a class with mean m is ``x C^-1 m - m C^-1 m / 2`` and the
    log of its share. With balanced weights, all classes have the same share.
    """

    setting, gives_chances = "shrinkage", True

    def _take(self, rotation: Rotation, y: np.ndarray, weights: np.ndarray) -> None:
        member = (y[:, None] == self.classes) * weights[:, None]
        counts = member.sum(axis=0)
        self._total, self._priors = counts.sum(), np.log(counts / counts.sum())
        self._means = member.T @ rotation.rows / counts[:, None]
        self._products = FoldProducts(rotation, weights, np.sqrt(counts)[:, None] * self._means)
        within = max(self._products.trace, _LEAST * np.square(rotation.lengths).sum())
        self._spread = within / self._total / len(rotation.mean)

    def solve(self, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients and intercepts for one shrinkage, at most 1; see `Model.solve`."""
        if value > 1:
            raise ValueError("shrinkage must be at most 1")
        found = self._products.solve(self._means.T, value * self._spread, (1 - value) / self._total)
        offsets = self._priors - 0.5 * np.einsum("ij,ji->i", self._means, found)
        if len(self.classes) == 2:
            return np.diff(found), np.diff(offsets)
        return found, offsets
