"""Probabilities for heads that give only scores: sigmoids fitted to out-of-sample scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import expit, logit
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
    def fit(cls, scores: np.ndarray, y: np.ndarray, classes: np.ndarray, views: int = 1) -> Sigmoids:
        """Fit to out-of-sample scores, (n_images * views, k), and their classes y, (n_images * views,)."""
        positive = classes[1:] if scores.shape[1] == 1 else classes
        fitted = [_fit_sigmoid(column, y == name, views) for column, name in zip(scores.T, positive, strict=True)]
        return cls(*np.array(fitted, np.float64).T)

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


def _fit_sigmoid(scores: np.ndarray, positive: np.ndarray, views: int) -> tuple[float, float]:
    """Return slope, at least 0, and offset of the sigmoid with the lowest log loss on Platt's smoothed targets.

    Targets are ``(p + 1) / (p + 2)`` for p positive images and ``1 / (n + 2)`` for n negative ones (Platt 1999; Lin, Lin and
    Weng 2007, "A note on Platt's probabilistic outputs for support vector machines"), so separable scores have an
    optimum, too. In p and n an image counts once, however many views it has. The probabilities do not depend on the scores'
    unit or zero.

    The optimal slope has the sign of the difference between the mean scores of the two classes. This can be negative if a
    head predicts little more than its intercept: a fold that holds more of a class leaves fewer of it to fit on, which lowers
    the fold's scores. The best slope that does not reverse the head's ranking is then 0: all rows get the mean target.
    """
    scores, p, n = scores.astype(np.float64), np.sum(positive) / views, np.sum(~positive) / views
    targets = np.where(positive, (p + 1) / (p + 2), 1 / (n + 2))
    apart = scores[positive].mean() - scores[~positive].mean()
    if apart <= 1e-12 * np.abs(scores).max():  # includes equal scores, whose means differ by rounding
        return 0.0, logit(targets.mean())
    centre, spread = scores.mean(), scores.std()
    # Each row counts as positive with the weight of its target, and as negative with the rest.
    fitted = LogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-10).fit(
        np.tile((scores - centre) / spread, 2)[:, None],
        np.repeat([True, False], len(scores)),
        np.concatenate([targets, 1 - targets]),
    )
    slope = fitted.coef_[0, 0] / spread
    return slope, fitted.intercept_[0] - slope * centre


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
    return Sigmoids.fit(np.concatenate(scores), labels, classes, sample.features.views)
