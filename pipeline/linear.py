"""L2-penalised logistic regression, solved exactly in the coordinates in which it is easy.

An L2-penalised linear model is unchanged by rotating the centred features, and only their row space matters (Hastie &
Tibshirani 2004, "Efficient quadratic regularization for expression arrays"). In the singular basis of the training rows
the loss's curvature is all but diagonal and known beforehand, so a few dozen steps of L-BFGS on n x min(n, d) numbers
find the optimum that scikit-learn finds on n x d in thousands; and all values of C share one rotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, eigh
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from threadpoolctl import threadpool_limits

_BLOCK = 2048  # columns that are taken to float64 at once


@dataclass(frozen=True)
class Rotation:
    """Training rows in their singular basis.

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


class Logistic(ClassifierMixin, BaseEstimator):
    """Logistic regression, softmax for more than two classes, with an L2 penalty on all but the intercept.

    Minimises ``C * sum(log loss) + |w|^2 / 2`` over features divided by `scale_`, which is scikit-learn's objective.

    Parameters
    ----------
    C : float
    widths : tuple of int, optional
        Numbers of features that belong together, such as those of one layer: each such block is divided by one
        number, so that its rows have a mean squared length of one. All features are one block if left out.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_features, k), float32
        For features as they are; k is 1 for two classes.
    intercept_ : ndarray of shape (k,)
    scale_ : ndarray of shape (n_features,)
    """

    def __init__(self, C: float = 1.0, widths: tuple[int, ...] | None = None):
        self.C, self.widths = C, widths

    def fit(self, X: np.ndarray, y: np.ndarray) -> Logistic:
        """Fit to X, (n_samples, n_features), and y."""
        fitted = fit_path(X, y, [self.C], self.widths)[0]
        self.__dict__.update(fitted.__dict__)
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores: (n_samples,) for two classes, else (n_samples, n_classes)."""
        scores = X @ self.coef_ + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        scores = self.decision_function(X).astype(np.float64)
        return np.column_stack([expit(-scores), expit(scores)]) if scores.ndim == 1 else softmax(scores, axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def fit_path(
    X: np.ndarray, y: np.ndarray, values: Sequence[float], widths: tuple[int, ...] | None = None
) -> list[Logistic]:
    """Fit a logistic regression for each value of C, on one rotation, each from the one before.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    y : ndarray of shape (n_samples,)
    values : sequence of float
        Values of C, rising.
    widths : tuple of int, optional
        See `Logistic`.
    """
    classes, targets = np.unique(y, return_inverse=True)
    scale = block_scale(X, widths or (X.shape[1],))
    rotation = rotate(X, scale)
    columns = 1 if len(classes) == 2 else len(classes)
    start = np.zeros((len(rotation.lengths) + 1, columns))
    fitted = []
    for C in values:
        start = _solve(rotation, targets, C, start)
        model = Logistic(C, widths)
        model.classes_, model.scale_ = classes, scale
        coefficients = rotation.back(start[:-1])
        model.intercept_ = start[-1] - rotation.mean @ coefficients
        model.coef_ = coefficients.astype(np.float32)
        fitted.append(model)
    return fitted


def block_scale(X: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Return for each feature the root mean squared length of a row in its block of features."""
    scale, first = np.empty(X.shape[1], np.float32), 0
    for width in widths:
        block = X[:, first : first + width]
        lengths = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        scale[first : first + width] = np.sqrt(lengths.mean()) or 1.0
        first += width
    return scale


def _solve(rotation: Rotation, targets: np.ndarray, C: float, start: np.ndarray) -> np.ndarray:
    """Return the optimum, weights with the intercept in the last row, (rank + 1, k)."""
    rows, n = rotation.rows, len(rotation.rows)
    # The curvature along each coordinate is at most C/4 of its squared length, plus the penalty's 1: in units of its
    # root the problem is round.
    units = np.sqrt(np.append(C / 4 * rotation.lengths**2 + 1, C / 4 * n))[:, None]
    one_hot = np.eye(start.shape[1])[targets] if start.shape[1] > 1 else targets[:, None].astype(np.float64)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape) / units
        scores = rows @ weights[:-1] + weights[-1]
        if start.shape[1] == 1:
            loss = np.logaddexp(0, scores).sum() - (one_hot * scores).sum()
            residual = expit(scores) - one_hot
        else:
            logs = log_softmax(scores, axis=1)
            loss, residual = -(one_hot * logs).sum(), np.exp(logs) - one_hot
        gradient = np.vstack([C * (rows.T @ residual) + weights[:-1], C * residual.sum(axis=0)])
        return C * loss + 0.5 * (weights[:-1] ** 2).sum(), (gradient / units).ravel()

    options = {"maxiter": 5000, "maxcor": 20, "ftol": 1e-11, "gtol": 1e-6}
    # One thread: the products are small, and on a busy machine threads spend their time waiting for each other.
    with threadpool_limits(1, "blas"):
        found = minimize(objective, (start * units).ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(start.shape) / units


def _blocks(n_features: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, n_features, _BLOCK)]
