"""L2-penalised logistic regression: scikit-learn's optimum, for every value of C and every fold at once.

One rotation of all training rows serves every value of C and every fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...data.scaling import measure
from ...data.training_data import Pair, Sample
from ..contract import Search
from ..linear_head import LinearHead
from ..settings import Choice, Grid, best_of, combinations
from .newton import chances, solve
from .svd_basis import Rotation, rotate


class Logistic(LinearHead):
    """Logistic regression, softmax for more than two classes, with an L2 penalty on all but the intercept.

    Minimises ``C * sum(log loss) + |w|^2 / 2`` over features divided by `scale_`, which is scikit-learn's objective.

    Parameters
    ----------
    C : float
    scale : {'all', 'layer', 'feature'}
        See `measure_scale`.
    widths : tuple of int, optional
        Number of features of each layer; by default, one layer.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_features, k), float32
        For unscaled features; k is 1 for two classes.
    intercept_ : ndarray of shape (k,)
    scale_ : ndarray of shape (n_features,)
    """

    def __init__(self, C: float = 1.0, scale: str = "layer", widths: tuple[int, ...] | None = None):
        self.C, self.scale, self.widths = C, scale, widths
        self.sigmoids_ = None

    def fit(self, X: np.ndarray, y: np.ndarray) -> Logistic:
        """Fit to X, (n_samples, n_features), and y, (n_samples,)."""
        moments = measure(X)
        (rotation,) = rotate(X, moments.mean, [moments.scale(self.scale, self.widths or (X.shape[1],))])
        return self._take(rotation, y, np.ones(len(y), bool))

    def _take(self, rotation: Rotation, y: np.ndarray, rows: np.ndarray) -> Logistic:
        """Fit to some of a rotation's rows, given by a mask."""
        self.classes_ = np.unique(y[rows])
        targets = np.searchsorted(self.classes_, np.where(rows, y, self.classes_[0]))
        weights = solve(rotation, targets, len(self.classes_), [self.C], rows[:, None])[0, :, 0]
        coefficients = rotation.back(weights[:-1])
        self.scale_ = rotation.scale
        self.intercept_ = weights[-1] - rotation.mean @ coefficients
        self.coef_ = coefficients.astype(np.float32)
        return self


class LogisticSearch(Search):
    """Logistic regressions on one sample; all settings and folds share one rotation per scale.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Values of ``scale`` and ``C``.
    """

    read_as = (LinearHead,)
    streams = "products"

    def __init__(self, sample: Sample, grid: Grid):
        super().__init__(sample, grid)
        self._rotations: dict[str, Rotation] = {}

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the settings with the highest accuracy on the images that the pairs score on."""
        sample, values = self.sample, self.grid["C"]
        masks = np.column_stack([np.repeat(fit, sample.features.views) for fit, _ in pairs])
        looks = np.column_stack([look for _, look in pairs])  # (n_images, n_pairs)
        accuracies: list[float] = []
        for scale in self.grid["scale"]:
            rotation = self._rotated(scale)
            for weights in solve(rotation, self._targets, len(self._classes), values, masks):
                correct = self._correct(rotation.scores(weights))
                accuracies.append(float((correct & looks).sum() / looks.sum()))
        return best_of(combinations(self.grid), accuracies)

    def _correct(self, scores: np.ndarray) -> np.ndarray:
        """Return whether each image's class has the highest mean probability over its views, (n_images, n_problems)."""
        images = (len(self.sample.y), self.sample.features.views)
        p = chances(scores).reshape(*images, *scores.shape[1:]).mean(axis=1)
        predicted = p.argmax(axis=2) if p.shape[2] > 1 else (p[:, :, 0] > 0.5).astype(int)
        return self._classes[predicted] == self.sample.y[:, None]

    def fit(self, settings: dict[str, Any], images: np.ndarray) -> Logistic:
        """Return the head with the given settings, fitted to images given by a mask."""
        sample = self.sample
        head = Logistic(settings["C"], settings["scale"], sample.features.widths)
        return head._take(
            self._rotated(settings["scale"]),
            np.repeat(sample.y, sample.features.views),
            np.repeat(images, sample.features.views),
        )

    @cached_property
    def _classes(self) -> np.ndarray:
        return np.unique(self.sample.y)

    @cached_property
    def _targets(self) -> np.ndarray:
        return np.repeat(np.searchsorted(self._classes, self.sample.y), self.sample.features.views)

    def _rotated(self, scale: str) -> Rotation:
        features = self.sample.features
        if scale not in self._rotations:
            hows = features.together(scale, self.grid["scale"])
            rotations = rotate(features.X, features.moments.mean, [features.scale(how) for how in hows])
            self._rotations |= zip(hows, rotations, strict=True)
        return self._rotations[scale]
