"""Rows in their singular basis, where an L2-penalised linear model is small.

Such a model is unchanged by rotating and shifting the features, and only the rows' space matters (Hastie & Tibshirani
2004, "Efficient quadratic regularization for expression arrays").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, eigh

_BLOCK = 2048  # columns that are taken to float64 at once


@dataclass(frozen=True)
class Rotation:
    """Rows in their singular basis.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, rank), float64
        Centred and scaled rows, rotated; columns are orthogonal.
    lengths : ndarray of shape (rank,)
        Singular values: the norms of the columns of `rows`.
    mean : ndarray of shape (n_features,), float64
    scale : ndarray of shape (n_features,), float32
        What features are divided by.
    """

    rows: np.ndarray
    lengths: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    _X: np.ndarray
    _basis: np.ndarray

    def back(self, weights: np.ndarray) -> np.ndarray:
        """Return coefficients for features as they are, (n_features, k), from those for `rows`, (rank, k)."""
        if len(self._basis) == len(self.mean):
            coefficients = self._basis @ weights
        else:  # the basis belongs to the rows: features' coefficients are sums of centred rows
            sums = self._basis @ (weights / self.lengths[:, None])
            coefficients = np.empty((len(self.mean), weights.shape[1]))
            for part in _blocks(len(self.mean)):
                block = self._X[:, part].astype(np.float64) / self.scale[part]
                coefficients[part] = (block - self.mean[part] / self.scale[part]).T @ sums
        return coefficients / self.scale[:, None]

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return scores of all rows, (n, n_problems, k), under weights, (rank + 1, n_problems, k)."""
        flat = weights.reshape(len(weights), weights.shape[1] * weights.shape[2])
        return (self.rows @ flat[:-1] + flat[-1]).reshape(-1, *weights.shape[1:])

    def transposed(self, residuals: np.ndarray) -> np.ndarray:
        """Return the transpose of `scores`, applied to residuals, (n, n_problems, k): (rank + 1, n_problems, k)."""
        flat = residuals.reshape(len(residuals), residuals.shape[1] * residuals.shape[2])
        return np.vstack([self.rows.T @ flat, flat.sum(axis=0)]).reshape(-1, *residuals.shape[1:])


def rotate(X: np.ndarray, scale: np.ndarray) -> Rotation:
    """Rotate rows into their singular basis, with sums in float64.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    scale : ndarray of shape (n_features,)
    """
    n, d = X.shape
    mean = X.mean(axis=0, dtype=np.float64)
    if n < d:
        gram = np.zeros((n, n), order="F")
        for part in _blocks(d):
            block = (X[:, part] - mean[part]) / scale[part]
            gram = blas.dsyrk(1.0, block, 1.0, gram, overwrite_c=True)
        values, basis = eigh(gram, lower=False, overwrite_a=True, driver="evd")
    else:
        centred = (X - mean) / scale
        values, basis = eigh(centred.T @ centred, overwrite_a=True, driver="evd")
    kept = values > max(n, d) * np.finfo(np.float64).eps * max(values[-1], 1e-300)
    lengths, basis = np.sqrt(values[kept]), basis[:, kept]
    rows = basis * lengths if n < d else centred @ basis
    return Rotation(np.ascontiguousarray(rows), lengths, mean, scale, X, basis)


def _blocks(n_features: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, n_features, _BLOCK)]
