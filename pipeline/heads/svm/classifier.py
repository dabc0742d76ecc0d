"""A fitted support vector machine and its kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.runtime.keras_runtime import import_keras

from ...data.row_blocks import Matrix, whole_blocks
from ..calibration import Sigmoids
from ..contract import Classifier, Saved
from ..linear_head import affine, linear_layers

if TYPE_CHECKING:
    import keras

_ROWS = 1024  # rows of the kernel matrix computed at once when predicting


class Svm(Classifier):
    """A support vector machine on scaled features: one score per pair of classes, and probabilities computed from them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    scale : ndarray of shape (n_features,)
        Features are divided by it.
    gamma : float or None
        Of the Gaussian kernel ``exp(-gamma |a - b|^2)``; None for the linear kernel.
    support : ndarray or Stored of shape (n_support, n_features), float32
        Support vectors, scaled.
    weights : ndarray of shape (n_support, n_pairs)
        Weight of each support vector in the score of each pair of classes, (0, 1), (0, 2), ... With two classes, a
        positive score means the second; with more, the first of the pair.
    intercept : ndarray of shape (n_pairs,)
    sigmoids : Sigmoids
    """

    kind = "svm"

    def __init__(
        self,
        classes: np.ndarray,
        scale: np.ndarray,
        gamma: float | None,
        support: Matrix,
        weights: np.ndarray,
        intercept: np.ndarray,
        sigmoids: Sigmoids,
    ):
        self.classes_, self.scale_, self.gamma_, self.sigmoids_ = classes, scale, gamma, sigmoids
        self.support_vectors_, self.weights_, self.intercept_ = support, weights, intercept

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores: (n_samples,) for two classes, else (n_samples, n_classes)."""
        pairs = np.tile(self.intercept_, (len(X), 1))
        for rows, support in whole_blocks(self.support_vectors_):
            for first in range(0, len(X), _ROWS):
                some = slice(first, first + _ROWS)
                pairs[some] += kernel_matrix(X[some] / self.scale_, support, self.gamma_) @ self.weights_[rows]
        return pairs[:, 0] if len(self.classes_) == 2 else join_pairs(pairs, len(self.classes_))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        return self.sigmoids_.probabilities(self.decision_function(X))

    def to_saved(self) -> Saved:
        """Return the support vectors with their weights, and the sigmoids."""
        arrays = {"scale": self.scale_, "support": self.support_vectors_}
        arrays |= {"weights": self.weights_, "intercept": self.intercept_}
        told = {"gamma": None if self.gamma_ is None else float(self.gamma_)}
        return Saved(told, {**self.sigmoids_.to_arrays(), **arrays})

    @classmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> Svm:
        """Return the saved head."""
        scale, support, weights, intercept, slopes, offsets = (
            saved.arrays[name] for name in ("scale", "support", "weights", "intercept", "slopes", "offsets")
        )
        return cls(classes, scale, saved.told["gamma"], support, weights, intercept, Sigmoids(slopes, offsets))

    def as_layers(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return probabilities, (n, n_classes)."""
        ops, gamma = import_keras().ops, self.gamma_
        assert isinstance(self.support_vectors_, np.ndarray)  # true of every loaded head
        support = (self.support_vectors_ / self.scale_).astype(np.float64)
        # In float64: squared distances are small differences of large numbers, and a score sums many kernel values.
        x = ops.cast(features, "float64")
        if gamma is None:
            return self._of_pairs(x, support.T @ self.weights_)
        # exp(-gamma |a - b|^2) of scaled rows, with the square expanded.
        squares = affine(ops.square(x), -gamma / np.square(self.scale_, dtype=np.float64)[:, None], np.zeros(1))
        lengths = np.square(self.support_vectors_, dtype=np.float64).sum(axis=1)
        products = affine(x, 2 * gamma * support.T, -gamma * lengths)
        return self._of_pairs(ops.exp(ops.minimum(products + squares, 0.0)), self.weights_)

    def _of_pairs(self, x: keras.KerasTensor, kernel: np.ndarray) -> keras.KerasTensor:
        """Return probabilities from pairwise scores that are linear in x; see `join_pairs`."""
        n_classes = len(self.classes_)
        pairs = import_keras().ops.cast(affine(x, kernel, self.intercept_), "float32")
        if n_classes == 2:
            return linear_layers(pairs, np.eye(1), np.zeros(1), self.sigmoids_)
        votes = import_keras().ops.tanh(pairs)
        return linear_layers(votes, class_pairs(n_classes), np.zeros(n_classes), self.sigmoids_)


def class_pairs(n_classes: int) -> np.ndarray:
    """Return signs, (n_pairs, n_classes): +1 for the class that a pair's score favours, -1 for the other."""
    first, second = np.triu_indices(n_classes, 1)
    signs = np.zeros((len(first), n_classes))
    signs[np.arange(len(first)), first], signs[np.arange(len(first)), second] = 1, -1
    return signs


def join_pairs(pairs: np.ndarray, n_classes: int) -> np.ndarray:
    """Return one score per class, (n_samples, n_classes): the sum of the soft votes of its pairs.

    A vote is ``tanh`` of the pair's score. Hard votes, as in scikit-learn's SVC, take only a few distinct values, to which
    no sigmoid can be fitted.
    """
    return np.tanh(pairs) @ class_pairs(n_classes)


def kernel_matrix(A: np.ndarray, B: np.ndarray, gamma: float | None) -> np.ndarray:
    """Return ``exp(-gamma |a - b|^2)`` of rows of A and B, or inner products without gamma, (len(A), len(B)), float64."""
    return from_products(A @ B.T, np.einsum("ij,ij->i", A, A), np.einsum("ij,ij->i", B, B), gamma)


def from_products(products: np.ndarray, a: np.ndarray, b: np.ndarray, gamma: float | None) -> np.ndarray:
    """Return the same as `kernel_matrix`, from inner products and the rows' squared lengths a and b."""
    if gamma is None:
        return products.astype(np.float64)
    squares = np.maximum(a[:, None] + b - 2 * products, 0)  # rounding can leave a tiny negative
    return np.exp(-gamma * squares.astype(np.float64))
