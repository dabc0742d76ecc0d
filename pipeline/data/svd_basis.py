"""Rows in their singular basis, in which an L2-penalised linear model has few parameters.

Such a model is invariant to rotation and translation of the features, and depends only on the span of the rows (Hastie &
Tibshirani 2004, "Efficient quadratic regularization for expression arrays").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

from .inner_products import gram, transposed
from .row_blocks import Matrix, Stored
from .training_data import Features


@dataclass(frozen=True)
class Rotation:
    """Rows in their singular basis.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, rank), float64, or float32 if `rounded`
        Rows, centred, scaled and rotated; columns are orthogonal.
    lengths : ndarray of shape (rank,)
        Singular values: the norms of the columns of `rows`.
    mean : ndarray of shape (n_features,), float64
    scale : ndarray of shape (n_features,), float32
        Features are divided by it.
    """

    rows: np.ndarray
    lengths: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    _X: Matrix
    _basis: np.ndarray

    def rounded(self) -> Rotation:
        """Return the same with rows in float32, by which `solve` is several times as fast and less precise."""
        return replace(self, rows=self.rows.astype(np.float32))

    def back(self, weights: np.ndarray) -> np.ndarray:
        """Return coefficients for unscaled features, (n_features, k), from those for `rows`, (rank, k)."""
        if len(self._basis) == len(self.mean):
            coefficients = self._basis @ weights
        else:  # the basis is in row space: coefficients of features are sums of centred rows
            sums = self._basis @ (weights / self.lengths[:, None])
            coefficients = transposed(self._X, self.mean, self.scale, sums)
        return coefficients / self.scale[:, None]

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return scores of all rows, (n, n_problems, k), for weights, (rank + 1, n_problems, k)."""
        flat = weights.reshape(len(weights), weights.shape[1] * weights.shape[2])
        scores = self.rows @ flat[:-1]
        scores += flat[-1]
        return scores.reshape(-1, *weights.shape[1:])

    def transposed(self, residuals: np.ndarray) -> np.ndarray:
        """Return the transpose of `scores`, applied to residuals, (n, n_problems, k): (rank + 1, n_problems, k)."""
        flat = residuals.reshape(len(residuals), residuals.shape[1] * residuals.shape[2])
        return np.vstack([self.rows.T @ flat, flat.sum(axis=0)]).reshape(-1, *residuals.shape[1:])


def rotate(X: Matrix, mean: np.ndarray, scales: Sequence[np.ndarray]) -> list[Rotation]:
    """Rotate rows into their singular basis, for each of several scales, with sums in float64.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_samples, n_features), float32
        A stored matrix is rotated through its inner products, (n_samples, n_samples).
    mean : ndarray of shape (n_features,), float64
        Subtracted from each row.
    scales : sequence of ndarray of shape (n_features,)
        The centred rows are divided by each of these.

    Returns
    -------
    rotations : list of Rotation
        One per scale.
    """
    if isinstance(X, Stored) or X.shape[0] < X.shape[1]:
        products = gram(X, mean, scales)
        return [_rotate_rows(X, mean, scale, products.pop(0)) for scale in scales]
    return [_rotate_columns(X, mean, scale) for scale in scales]


def rotate_features(features: Features, scale: str, scales: Sequence[str]) -> dict[str, Rotation]:
    """Return scale → rotation of a head's features, for one scale; for all of them where the rows are read from a store."""
    hows = features.together(scale, scales)
    rotations = rotate(features.X, features.moments.mean, [features.scale(how) for how in hows])
    return dict(zip(hows, rotations, strict=True))


def _rotate_rows(X: Matrix, mean: np.ndarray, scale: np.ndarray, products: np.ndarray) -> Rotation:
    values, basis = eigh(products, lower=False, overwrite_a=True, driver="evd")
    kept = _kept(values, X)
    lengths, basis = np.sqrt(values[kept]), basis[:, kept]
    return Rotation(np.ascontiguousarray(basis * lengths), lengths, mean, scale, X, basis)


def _rotate_columns(X: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Rotation:
    centred = (X - mean) / scale
    values, basis = eigh(centred.T @ centred, overwrite_a=True, driver="evd")
    kept = _kept(values, X)
    basis = basis[:, kept]
    return Rotation(np.ascontiguousarray(centred @ basis), np.sqrt(values[kept]), mean, scale, X, basis)


def _kept(values: np.ndarray, X: Matrix) -> np.ndarray:
    """Return which eigenvalues exceed rounding error."""
    return values > max(X.shape) * np.finfo(np.float64).eps * max(values[-1], 1e-300)
