"""The fitted form of logistic regression, ridge, LDA, nearest mean and the linear SVM of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.runtime.keras_runtime import import_keras

from .calibration import Sigmoids
from .contract import Classifier, Saved

if TYPE_CHECKING:
    import keras


class LinearHead(Classifier):
    """Scores that are linear in the unscaled features, and probabilities computed from them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    coefficients : ndarray of shape (n_features, k)
        k is 1 for two classes.
    intercept : ndarray of shape (k,)
    sigmoids : Sigmoids, optional
        Convert scores to probabilities; by default, the logistic function or softmax does.

    Attributes
    ----------
    classes_, coef_, intercept_, sigmoids_
    """

    kind = "linear"

    def __init__(
        self, classes: np.ndarray, coefficients: np.ndarray, intercept: np.ndarray, sigmoids: Sigmoids | None = None
    ):
        self.classes_, self.coef_, self.intercept_, self.sigmoids_ = classes, coefficients, intercept, sigmoids

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores: (n_samples,) for two classes, else (n_samples, n_classes)."""
        scores = X @ self.coef_ + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        scores = self.decision_function(X).astype(np.float64)
        if self.sigmoids_ is not None:
            return self.sigmoids_.probabilities(scores)
        if scores.ndim == 1:
            return np.exp(-np.logaddexp(0, np.column_stack([scores, -scores])))
        return np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))

    def coefficients(self, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients, (n_features, n_classes), and intercepts, (n_classes,), both float64.

        With two classes, the columns are the negatives of each other. Classes that the head does not know have zeros.
        """
        coef, intercept = self.coef_.astype(np.float64), self.intercept_
        if coef.shape[1] == 1:
            coef, intercept = np.hstack([-coef, coef]), np.concatenate([-intercept, intercept])
        of_all, offsets = np.zeros((len(coef), n_classes)), np.zeros(n_classes)
        of_all[:, self.classes_], offsets[self.classes_] = coef, intercept
        return of_all, offsets

    def to_saved(self) -> Saved:
        """Return coefficients, intercept and sigmoids."""
        sigmoids = {} if self.sigmoids_ is None else self.sigmoids_.to_arrays()
        return Saved({}, {**sigmoids, "coefficients": self.coef_, "intercept": self.intercept_})

    @classmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> LinearHead:
        """Return the saved head."""
        coefficients, intercept = saved.arrays["coefficients"], saved.arrays["intercept"]
        columns = 1 if len(classes) == 2 else len(classes)
        if coefficients.ndim != 2 or intercept.shape != (columns,) or coefficients.shape[1] != columns:
            raise ValueError(
                f"coefficients must have {columns} columns for {len(classes)} classes; got shape {coefficients.shape} "
                f"and intercepts of shape {intercept.shape}"
            )
        return LinearHead(classes, coefficients, intercept, Sigmoids.from_arrays(saved.arrays))

    def as_layers(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return probabilities, (n, n_classes)."""
        return linear_layers(features, self.coef_, self.intercept_, self.sigmoids_)


def affine(
    x: keras.KerasTensor, kernel: np.ndarray, bias: np.ndarray, activation: str | None = None
) -> keras.KerasTensor:
    """Return ``x @ kernel + bias`` computed by a Keras layer in the dtype of x."""
    layer = import_keras().layers.Dense(kernel.shape[1], activation=activation, dtype=x.dtype)
    made = layer(x)
    layer.set_weights([kernel.astype(x.dtype), bias.astype(x.dtype)])
    return made


def linear_layers(
    x: keras.KerasTensor, kernel: np.ndarray, bias: np.ndarray, sigmoids: Sigmoids | None
) -> keras.KerasTensor:
    """Return probabilities from scores that are linear in x; a single score is for the second of two classes."""
    slopes, offsets = (np.ones(1), np.zeros(1)) if sigmoids is None else (sigmoids.slopes, sigmoids.offsets)
    kernel, bias = kernel * slopes, bias * slopes + offsets
    if len(bias) == 1:
        return affine(x, np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0)), "softmax")
    if sigmoids is None:
        return affine(x, kernel, bias, "softmax")
    ops, chances = import_keras().ops, affine(x, kernel, bias, "sigmoid")
    return chances / ops.maximum(ops.sum(chances, axis=1, keepdims=True), 1e-37)
