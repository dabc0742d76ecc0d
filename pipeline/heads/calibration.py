"""Probabilities for heads that give only scores: sigmoids fitted to out-of-sample scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from features.errors import RequestError, option
from features.runtime.progress import Tell

from ..data.training_data import Pair, Sample
from .contract import Search
from .settings import Choice, Judge, Output, Rating, best_of

_NEWTON_STEPS = 100
_COLUMNS = 64  # classes whose sigmoids are fitted at once


class Sigmoids:
    """One sigmoid per class (Platt 1999, "Probabilistic outputs for support vector machines"), fitted to smoothed targets.

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
        return cls(*_fit_sigmoids(scores, y[:, None] == positive, views))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Sigmoids | None:
        """Return the sigmoids that `to_arrays` saved; None if the arrays contain none."""
        return cls(arrays["slopes"], arrays["offsets"]) if "slopes" in arrays else None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return slopes and offsets, for a head's file."""
        return {"slopes": self.slopes, "offsets": self.offsets}

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes), from the scores that `decision_function` returns."""
        chances = np.exp(-np.logaddexp(0, -(scores.reshape(len(scores), -1) * self.slopes + self.offsets)))
        if chances.shape[1] == 1:
            return np.hstack([1 - chances, chances])
        return chances / np.maximum(chances.sum(axis=1, keepdims=True), 1e-300)


def _fit_sigmoids(scores: np.ndarray, positive: np.ndarray, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes, at least 0, and offsets, (k,) each, of the sigmoids with the lowest log loss on smoothed targets.

    Targets are ``(p + 1/2) / (p + 1)`` for p positive images and ``(1/2) / (n + 1)`` for n negative ones, so separable scores
    have an optimum, too. These are the means of a proportion under Jeffreys' prior (Krichevsky and Trofimov 1981, "The
    performance of universal encoding"). Platt's own targets, ``(p + 1) / (p + 2)`` and ``1 / (n + 2)`` (Platt 1999; Lin, Lin and
    Weng 2007, "A note on Platt's probabilistic outputs for support vector machines"), come from a uniform prior and are measurably
    too cautious where classes are nearly separable; see the lab book. In p and n an image counts once, however many views it
    has. The probabilities do not depend on the scores' unit or zero.

    The optimal slope has the sign of the difference between the mean scores of the two classes. This can be negative if a
    head predicts little more than its intercept: a fold that holds more of a class leaves fewer of it to fit on, which lowers
    the fold's scores. The best slope that does not reverse the head's ranking is then 0: all rows get the mean target.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, k)
    positive : ndarray of shape (n_samples, k), bool
    views : int
        Rows per image.
    """
    scores, of_class = scores.astype(np.float64), positive.sum(axis=0)
    p, n = of_class / views, (len(scores) - of_class) / views
    targets = np.where(positive, (p + 0.5) / (p + 1), 0.5 / (n + 1))
    apart = scores.mean(axis=0, where=positive) - scores.mean(axis=0, where=~positive)
    useful = apart > 1e-12 * np.abs(scores).max(axis=0)  # not where all scores are equal, and means differ by rounding
    slopes, offsets = np.zeros(len(p)), np.log(targets.mean(axis=0)) - np.log1p(-targets.mean(axis=0))
    centre, spread = scores.mean(axis=0), np.where(useful, scores.std(axis=0), 1.0)
    for first in range(0, len(p), _COLUMNS):
        some = first + np.flatnonzero(useful[first : first + _COLUMNS])
        slopes[some], offsets[some] = _descend(
            (scores[:, some] - centre[some]) / spread[some], targets[:, some], offsets[some]
        )
    slopes /= spread
    return slopes, offsets - slopes * centre


def _descend(scores: np.ndarray, targets: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes and offsets of least log loss, (k,) each, for standardised scores, (n, k), by Newton's method.

    Each column has two unknowns, so its curvature is a 2 x 2 matrix; steps are halved until the loss falls (Armijo's condition).
    """
    from scipy.special import expit  # a third of a second to import, which predict does without

    slopes = np.zeros(len(offsets))
    margins = np.broadcast_to(offsets, scores.shape)
    losses = _losses(margins, targets)
    for _ in range(_NEWTON_STEPS):
        chances = expit(margins)
        residual, curvature = chances - targets, chances * (1 - chances)
        down, across = residual.sum(axis=0), np.einsum("ij,ij->j", residual, scores)
        weighed = curvature * scores
        a, b, c = np.einsum("ij,ij->j", weighed, scores), weighed.sum(axis=0), curvature.sum(axis=0)
        determinant = np.maximum(a * c - b * b, 1e-300)
        slope, offset = (b * down - c * across) / determinant, (b * across - a * down) / determinant
        decrement = -(slope * across + offset * down)
        if (decrement <= 1e-12 * losses).all():  # so near, a step squares the distance that is left
            return slopes + slope, offsets + offset
        size = np.ones(len(slopes))
        for _ in range(30):
            tried = (slopes + size * slope) * scores + (offsets + size * offset)
            found = _losses(tried, targets)
            enough = found <= losses - 1e-4 * size * decrement + 1e-12 * losses
            if enough.all():
                break
            size = np.where(enough, size, size / 2)
        slopes, offsets, margins, losses = slopes + size * slope, offsets + size * offset, tried, found
    return slopes, offsets


def _losses(margins: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return each column's log loss, (k,)."""
    return (np.maximum(margins, 0) + np.log1p(np.exp(-np.abs(margins))) - targets * margins).sum(axis=0)


class Calibrator:
    """Fits sigmoids to cross-validated scores: each fold is scored by a head fitted to the other folds.

    Parameters
    ----------
    sample : Sample
    images : ndarray of shape (n_images,), bool
        Images to cross-validate on.

    Attributes
    ----------
    images : ndarray of shape (n_images,), bool
    classes : ndarray of shape (n_classes,)
        Classes of `images`.
    pairs : list of Pair
        Masks of the images to fit a head to, and of those to score by it.

    Raises
    ------
    RequestError
        If a class has too few distinct images to be both fitted and scored.
    """

    def __init__(self, sample: Sample, images: np.ndarray):
        self.images, self.classes, self._views = images, np.unique(sample.y[images]), sample.features.views
        self.pairs = [
            (fit, look)
            for fit, look in sample.split(images)
            if len(np.unique(sample.y[fit])) == len(self.classes)  # a head that does not know a class has other scores
        ]
        self._labels = np.concatenate([sample.labels(look) for _, look in self.pairs]) if self.pairs else np.empty(0)
        if len(np.unique(self._labels)) < len(self.classes):
            raise RequestError(
                "this head's probabilities need at least 2 different training rows of each class; got 1. Add images, or use "
                f"{option('head', 'logistic')}"
            )

    def fit(self, scores: Sequence[np.ndarray]) -> Sigmoids:
        """Return the sigmoids for the scores of each pair's rows."""
        columns = [each.reshape(len(each), -1) for each in scores]
        return Sigmoids.fit(np.concatenate(columns), self._labels, self.classes, self._views)


class ScoreJudge(Judge):
    """Rates settings of heads that give only scores, by the probabilities that the head of a run would give.

    With several folds, sigmoids are fitted to the scores of all folds, as for the head that is fitted to all of them. With one
    pair, as when settings are chosen on val, they are fitted to cross-validated scores of the images to fit. Either way, these
    are the sigmoids of the head of the run, which need not be fitted again.

    Attributes
    ----------
    calibrator : Calibrator
    sigmoids : list of Sigmoids or None
        Of all settings rated so far; None for impossible ones.
    """

    def __init__(self, sample: Sample, pairs: Sequence[Pair], metric: str):
        by_folds = len(pairs) > 1
        self.calibrator = Calibrator(sample, sample.everything if by_folds else pairs[0][0])
        self._rated, self.sigmoids = self.calibrator.pairs if by_folds else pairs, list[Sigmoids | None]()
        super().__init__(sample, self._rated, metric)
        self.jobs = self.calibrator.pairs if by_folds else [*self.calibrator.pairs, *pairs]

    def rate(self, outputs: Sequence[Output | None]) -> Rating:
        """Return the rating of a setting from its scores of the rows of each job."""
        known = [each for each in outputs if each is not None]
        if len(known) < len(outputs):
            self.sigmoids.append(None)
            return super().rate([None])
        sigmoids = self.calibrator.fit([scores for _, scores in known[: len(self.calibrator.pairs)]])
        self.sigmoids.append(sigmoids)
        last = known[len(known) - len(self._rated) :]
        return super().rate([(classes, sigmoids.probabilities(scores)) for classes, scores in last])


class CalibratedSearch(Search):
    """A search over heads that give only scores; it keeps the sigmoids of the chosen settings for the head of the run."""

    _kept: tuple[dict[str, Any], np.ndarray, Sigmoids | None] | None = None

    def _choose_by(self, judge: ScoreJudge, settings: list[dict[str, Any]], ratings: list[Rating]) -> Choice:
        choice = best_of(settings, ratings, judge.metric, judge.rows)
        self._kept = choice.settings, judge.calibrator.images, judge.sigmoids[settings.index(choice.settings)]
        return choice

    def _calibrate(
        self,
        settings: dict[str, Any],
        images: np.ndarray,
        score: Callable[[np.ndarray, np.ndarray], np.ndarray],
        tell: Tell,
    ) -> Sigmoids:
        """Return sigmoids for the images in a mask.

        ``score(fit, look)`` fits a head to the images in the mask `fit` and returns its scores of those in `look`. The head of the
        run was fitted before, and is told as one fit more.
        """
        if self._kept and self._kept[2] and settings == self._kept[0] and np.array_equal(images, self._kept[1]):
            return self._kept[2]
        calibrator = Calibrator(self.sample, images)
        share = 1 / (len(calibrator.pairs) + 1)
        tell(share)
        scores = []
        for fit, look in calibrator.pairs:
            scores.append(score(fit, look))
            tell(share)
        return calibrator.fit(scores)
