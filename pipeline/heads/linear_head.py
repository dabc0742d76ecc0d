"""What logistic regression, ridge, LDA, nearest mean and a linear SVM of two classes are once they are fitted."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from .calibration import Sigmoids


class LinearHead:
    """Scores that are linear in the features as they are stored, and probabilities made of them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    coefficients : ndarray of shape (n_features, k)
        k is 1 for two classes.
    intercept : ndarray of shape (k,)
    sigmoids : Sigmoids, optional
        What makes probabilities of scores; logistic function or softmax if left out.

    Attributes
    ----------
    classes_, coef_, intercept_, sigmoids_
    """

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
        return np.column_stack([expit(-scores), expit(scores)]) if scores.ndim == 1 else softmax(scores, axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
