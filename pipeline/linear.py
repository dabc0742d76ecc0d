"""L2-penalised linear heads."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

_NEWTON_SIZE = 3000  # features x classes up to which a Hessian of 72 MB pays


class Logistic(LogisticRegression):
    """Logistic regression with the solver that suits the matrix.

    Newton's method with a Cholesky factor converges in about ten steps where L-BFGS takes thousands on correlated
    features, but its Hessian grows with the square of the number of coefficients.
    """

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Logistic:
        """Fit to X, (n_samples, n_features), and y."""
        classes = len(np.unique(y))
        coefficients = X.shape[1] * (1 if classes == 2 else classes)
        self.solver = "newton-cholesky" if coefficients <= _NEWTON_SIZE else "lbfgs"
        return super().fit(X, y, sample_weight)
