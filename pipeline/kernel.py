"""SVMs on kernel matrices that are computed once: by matrix products, for all settings and all folds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.svm import SVC

from features.errors import RequestError

from .choice import Choice, Grid, best_of, combinations
from .platt import Sigmoids, calibrate
from .sample import Pair, Sample
from .scaling import SCALES, measure_scale

_ROWS = 1024  # of a kernel matrix that are computed at once when predicting


class Svm:
    """scikit-learn's SVC on scaled features, with probabilities.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scale_ : ndarray of shape (n_features,)
        What features are divided by.
    gamma_ : float or None
        Of the Gaussian kernel ``exp(-gamma |a - b|^2)``; None for the linear one.
    support_vectors_ : ndarray of shape (n_support, n_features), float32
        Scaled.
    sigmoids_ : Sigmoids
    """

    def __init__(self, svc: SVC, scaled: np.ndarray, scale: np.ndarray, gamma: float | None, sigmoids: Sigmoids):
        self.classes_, self.scale_, self.gamma_, self._svc = svc.classes_, scale, gamma, svc
        self.sigmoids_ = sigmoids
        self.support_vectors_, self._n_rows = scaled[svc.support_], len(scaled)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores: (n_samples,) for two classes, else (n_samples, n_classes)."""
        scores = []
        for first in range(0, len(X), _ROWS):
            block = X[first : first + _ROWS] / self.scale_
            kernel = np.zeros((len(block), self._n_rows))  # the SVC looks at support vectors only
            kernel[:, self._svc.support_] = kernel_matrix(block, self.support_vectors_, self.gamma_)
            scores.append(self._svc.decision_function(kernel))
        return np.concatenate(scores)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        return self.sigmoids_.probabilities(self.decision_function(X))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class SvmSearch:
    """SVMs on one sample; see `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
        Of one view.
    grid : dict of str to tuple
        Values of ``scale`` and ``C`` and, for a Gaussian kernel, of ``gamma``, in units of one over the mean squared
        distance of two rows.
    """

    def __init__(self, sample: Sample, grid: Grid):
        self.sample, self.grid = sample, grid
        n, memory = len(sample.y), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        # Products a scale in float32; a kernel in float64 and what it is made of; and each thread's copy of a fold.
        held, a_thread = (4 * len(SCALES) + 24) * n**2, 8 * n**2
        if held + a_thread > memory / 2:
            raise RequestError(
                f"an SVM's kernel matrices may take half of the memory, {memory / 2e9:.1f} GB; {n} rows need "
                f"{(held + a_thread) / 1e9:.1f} GB. Use --head logistic, or fewer images: --limit"
            )
        self._threads = int(min(os.cpu_count() or 1, (memory / 2 - held) // a_thread))
        self._measured: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the most accurate settings on the images that each pair looks at."""
        y, accuracies = self.sample.y, []
        for scale in self.grid["scale"]:
            for gamma in self.grid.get("gamma", (None,)):
                kernel = self._kernel(scale, gamma)
                # libsvm lets go of the interpreter, so that threads share the kernel.
                looked = Parallel(self._threads, require="sharedmem")(
                    delayed(_count_correct)(kernel, y, C, pair) for C in self.grid["C"] for pair in pairs
                )
                correct = np.reshape(looked, (-1, len(pairs))).sum(axis=1)
                accuracies += list(correct / sum(look.sum() for _, look in pairs))
        return best_of(combinations(self.grid), accuracies)

    def fit(self, settings: dict[str, Any], images: np.ndarray) -> Svm:
        """Return the head with some settings, fitted to images given by a mask."""
        scaled, scale, _ = self._scaled(settings["scale"])
        gamma, y = settings.get("gamma"), self.sample.y
        kernel = self._kernel(settings["scale"], gamma)

        def score(fit: np.ndarray, look: np.ndarray) -> np.ndarray:
            return _fit(kernel, y, settings["C"], fit).decision_function(kernel[np.ix_(look, fit)])

        svc = _fit(kernel, y, settings["C"], images)
        sigmoids = calibrate(self.sample, images, svc.classes_, score)
        return Svm(svc, scaled[images], scale, self._gamma(settings["scale"], gamma), sigmoids)

    def _scaled(self, how: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scaled rows, the scale, and the products of all pairs of rows."""
        if how not in self._measured:
            scale = measure_scale(self.sample.features.matrix, how, self.sample.features.widths)
            scaled = self.sample.features.matrix / scale
            self._measured[how] = scaled, scale, scaled @ scaled.T
        return self._measured[how]

    def _gamma(self, scale: str, gamma: float | None) -> float | None:
        if gamma is None:
            return None
        products = self._scaled(scale)[2]
        distance = 2 * (np.trace(products, dtype=np.float64) / len(products) - products.mean(dtype=np.float64))
        return gamma / distance if distance > 1e-6 else gamma

    def _kernel(self, scale: str, gamma: float | None) -> np.ndarray:
        products = self._scaled(scale)[2]
        return _from_products(products, np.diagonal(products), np.diagonal(products), self._gamma(scale, gamma))


def kernel_matrix(A: np.ndarray, B: np.ndarray, gamma: float | None) -> np.ndarray:
    """Return ``exp(-gamma |a - b|^2)``, or products where gamma is None, of rows of A and B, (len(A), len(B)), float64."""
    return _from_products(A @ B.T, np.einsum("ij,ij->i", A, A), np.einsum("ij,ij->i", B, B), gamma)


def _from_products(products: np.ndarray, a: np.ndarray, b: np.ndarray, gamma: float | None) -> np.ndarray:
    if gamma is None:
        return products.astype(np.float64)
    squares = np.maximum(a[:, None] + b - 2 * products, 0)  # rounding can leave a tiny negative
    return np.exp(-gamma * squares.astype(np.float64))


def _fit(kernel: np.ndarray, y: np.ndarray, C: float, rows: np.ndarray) -> SVC:
    return SVC(kernel="precomputed", C=C, cache_size=1000).fit(kernel[np.ix_(rows, rows)], y[rows])


def _count_correct(kernel: np.ndarray, y: np.ndarray, C: float, pair: Pair) -> int:
    fit, look = pair
    return int(np.sum(_fit(kernel, y, C, fit).predict(kernel[np.ix_(look, fit)]) == y[look]))
