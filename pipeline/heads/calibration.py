"""Probabilities for heads that give only scores: sigmoids fitted to out-of-sample scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from features.errors import RequestError, option

from ..data.training_data import Sample


class Sigmoids:
    """One sigmoid per class (Platt 1999, "Probabilistic outputs for support vector machines").

    Parameters
    ----------
    slopes, offsets : ndarray of shape (k,)
        k is 1 for two classes.
    """

    def __init__(self, slopes: np.ndarray, offsets: np.ndarray):
        self.slopes, self.offsets = slopes, offsets

    @classmethod
    def fit(cls, scores: np.ndarray, y: np.ndarray, classes: np.ndarray) -> Sigmoids:
        """Fit to out-of-sample scores, (n_samples, k), and their classes y, (n_samples,)."""
        positive = classes[1:] if scores.shape[1] == 1 else classes
        fitted = [LogisticRegression(C=1e6).fit(scores[:, [k]], y == name) for k, name in enumerate(positive)]
        return cls(np.array([each.coef_[0, 0] for each in fitted]), np.array([each.intercept_[0] for each in fitted]))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Sigmoids | None:
        """Return the sigmoids that `to_arrays` saved; None if the arrays contain none."""
        return cls(arrays["slopes"], arrays["offsets"]) if "slopes" in arrays else None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return slopes and offsets, for a head's file."""
        return {"slopes": self.slopes, "offsets": self.offsets}

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes), from the scores that `decision_function` returns."""
        chances = expit(scores.reshape(len(scores), -1) * self.slopes + self.offsets)
        if chances.shape[1] == 1:
            return np.hstack([1 - chances, chances])
        return chances / np.maximum(chances.sum(axis=1, keepdims=True), 1e-300)


def calibrate(
    sample: Sample, images: np.ndarray, classes: np.ndarray, score: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Sigmoids:
    """Fit sigmoids to cross-validated scores: each fold is scored by a head fitted to the other folds.

    Parameters
    ----------
    sample : Sample
    images : ndarray of shape (n_images,), bool
        Images to cross-validate on.
    classes : ndarray of shape (n_classes,)
        Classes of `images`.
    score : callable
        ``score(fit, look)`` fits a head to the images in the mask `fit` and returns its scores of those in `look`.

    Raises
    ------
    RequestError
        If a class has too few distinct images to be both fitted and scored.
    """
    pairs = [pair for pair in sample.split(images) if len(np.unique(sample.y[pair[0]])) == len(classes)]
    labels = np.concatenate([sample.labels(look) for _, look in pairs]) if pairs else np.empty(0)
    if len(np.unique(labels)) < len(classes):
        raise RequestError(
            "this head's probabilities need at least 2 different training rows of each class; got 1. Add images, or use "
            f"{option('head', 'logistic')}"
        )
    scores = [score(fit, look).reshape(look.sum() * sample.features.views, -1) for fit, look in pairs]
    return Sigmoids.fit(np.concatenate(scores), labels, classes)
