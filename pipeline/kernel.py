"""An SVM with a Gaussian kernel that is computed once: by matrix products, for all values of C and all folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.utils.metaestimators import available_if

from .linear import block_scale

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
_ROWS = 1024  # of a kernel matrix that are computed at once when predicting


class RbfSvm(ClassifierMixin, BaseEstimator):
    """scikit-learn's SVC with ``gamma="scale"``, on features of which each layer is divided by one number.

    Parameters
    ----------
    C : float
    widths : tuple of int, optional
        Number of features of each layer; one layer if left out.
    folds : sequence of (train, test), optional
        Rows of folds. Where given, decision values of rows that a fold left out are fitted by a sigmoid a class (Platt
        1999), so that there is `predict_proba`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    support_ : ndarray of shape (n_support, n_features), float32
        Scaled support vectors.
    scale_ : ndarray of shape (n_features,)
    gamma_ : float
    """

    def __init__(self, C: float = 1.0, widths: tuple[int, ...] | None = None, folds: Folds | None = None):
        self.C, self.widths, self.folds = C, widths, folds

    def fit(self, X: np.ndarray, y: np.ndarray) -> RbfSvm:
        """Fit to X, (n_samples, n_features), and y."""
        scale = block_scale(X, self.widths or (X.shape[1],))
        scaled = X / scale
        gamma = _gamma(scaled)
        kernel = gaussian(scaled, scaled, gamma)
        self._take(_svc(self.C).fit(kernel, y), scaled, scale, gamma)
        if self.folds is not None:
            held_out = np.empty((len(y), 1 if len(self.classes_) == 2 else len(self.classes_)))
            for train, test in self.folds:
                fitted = _svc(self.C).fit(kernel[np.ix_(train, train)], y[train])
                held_out[test] = fitted.decision_function(kernel[np.ix_(test, train)]).reshape(len(test), -1)
            positive = self.classes_[1:] if held_out.shape[1] == 1 else self.classes_
            sigmoids = [
                LogisticRegression(C=1e6).fit(held_out[:, [column]], y == name) for column, name in enumerate(positive)
            ]
            self._slopes = np.array([each.coef_[0, 0] for each in sigmoids])
            self._offsets = np.array([each.intercept_[0] for each in sigmoids])
        return self

    def _take(self, svc: SVC, scaled: np.ndarray, scale: np.ndarray, gamma: float) -> None:
        self.classes_, self.scale_, self.gamma_, self._svc = svc.classes_, scale, gamma, svc
        self.support_, self._n_train = scaled[svc.support_], len(scaled)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores: (n_samples,) for two classes, else (n_samples, n_classes)."""
        scores = []
        for first in range(0, len(X), _ROWS):
            block = X[first : first + _ROWS] / self.scale_
            kernel = np.zeros((len(block), self._n_train))  # the SVC looks at support vectors only
            kernel[:, self._svc.support_] = gaussian(block, self.support_, self.gamma_)
            scores.append(self._svc.decision_function(kernel))
        return np.concatenate(scores)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    @available_if(lambda self: self.folds is not None)
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        scores = self.decision_function(X).reshape(len(X), -1)
        chances = expit(scores * self._slopes + self._offsets)
        if chances.shape[1] == 1:
            return np.hstack([1 - chances, chances])
        return chances / np.maximum(chances.sum(axis=1, keepdims=True), 1e-300)


def fit_rbf_path(
    X: np.ndarray, y: np.ndarray, values: Sequence[float], widths: tuple[int, ...] | None = None
) -> list[RbfSvm]:
    """Fit an SVM for each value of C on one kernel matrix; none has probabilities.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    y : ndarray of shape (n_samples,)
    values : sequence of float
    widths : tuple of int, optional
        See `RbfSvm`.
    """
    scale = block_scale(X, widths or (X.shape[1],))
    scaled = X / scale
    gamma = _gamma(scaled)
    kernel, fitted = gaussian(scaled, scaled, gamma), []
    for C in values:
        model = RbfSvm(C, widths)
        model._take(_svc(C).fit(kernel, y), scaled, scale, gamma)
        fitted.append(model)
    return fitted


def gaussian(A: np.ndarray, B: np.ndarray, gamma: float) -> np.ndarray:
    """Return ``exp(-gamma |a - b|^2)`` for all rows of A and B, (len(A), len(B)), float64."""
    squares = np.einsum("ij,ij->i", A, A)[:, None] + np.einsum("ij,ij->i", B, B) - 2 * (A @ B.T)
    np.maximum(squares, 0, out=squares)  # rounding can leave a tiny negative
    return np.exp(-gamma * squares.astype(np.float64))


def _gamma(scaled: np.ndarray) -> float:
    return float(1 / (scaled.shape[1] * (scaled.var(dtype=np.float64) or 1.0)))


def _svc(C: float) -> Any:
    return SVC(kernel="precomputed", C=C, cache_size=1000)
