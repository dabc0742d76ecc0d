"""L2-penalised logistic regression: scikit-learn's optimum, for every value of C and every fold at once.

One rotation of all training rows serves every value of C and every fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from features.runtime.log import log
from features.runtime.progress import Tell, untold

from ...data.scaling import measure
from ...data.svd_basis import Rotation, rotate, rotate_features
from ...data.training_data import Pair, Sample
from ...options import METRIC
from ..contract import Cost, Extent, Pace, Search
from ..linear_head import LinearHead
from ..settings import Choice, Grid, Judge, Output, Rating, best_of, combinations, row_weights
from .newton import chances, solve

# Products of a path along C, of each fit on it, and of one fit alone; those of one to float64; functions per score in each.
_PATH, _FIT, _ALONE, _EXACT, _STEPS = 40, 8, 100, 300, 30
_MANY = 5e8  # rows x their rank x classes: some seconds for one fit in float64


class Logistic(LinearHead):
    """Logistic regression, softmax for more than two classes, with an L2 penalty on all but the intercept.

    Minimises ``C * sum(log loss) + |w|^2 / 2`` over features divided by `scale_`, which is scikit-learn's objective. With
    balanced class weights, the log loss of each row counts as much as all classes had equally many.

    Parameters
    ----------
    C : float
    scale : {'all', 'layer', 'feature'}
        See `measure_scale`.
    widths : tuple of int, optional
        Number of features of each layer; by default, one layer.
    class_weight : {'none', 'balanced'}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_features, k), float32
        For unscaled features; k is 1 for two classes.
    intercept_ : ndarray of shape (k,)
    scale_ : ndarray of shape (n_features,)
    """

    def __init__(
        self,
        C: float = 1.0,
        scale: str = "layer",
        widths: tuple[int, ...] | None = None,
        class_weight: str = "none",
    ):
        self.C, self.scale, self.widths, self.class_weight = C, scale, widths, class_weight
        self.sigmoids_ = None

    def fit(self, X: np.ndarray, y: np.ndarray) -> Logistic:
        """Fit to X, (n_samples, n_features), and y, (n_samples,)."""
        moments = measure(X)
        (rotation,) = rotate(X, moments.mean, [moments.scale(self.scale, self.widths or (X.shape[1],))])
        return self._take(rotation, y, np.ones(len(y), bool))

    def _take(self, rotation: Rotation, y: np.ndarray, rows: np.ndarray, tell: Tell = untold) -> Logistic:
        """Fit to some of a rotation's rows, given by a mask."""
        self.classes_ = np.unique(y[rows])
        targets = np.searchsorted(self.classes_, np.where(rows, y, self.classes_[0]))
        counts = row_weights(y, rows, self.class_weight)[:, None]
        weights = solve(rotation, targets, len(self.classes_), [self.C], counts, tell)[0, :, 0]
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
        Values of ``scale``, ``C`` and ``class_weight``, in this order.
    """

    read_as = (LinearHead,)
    streams = "products"

    def __init__(self, sample: Sample, grid: Grid):
        super().__init__(sample, grid)
        self._rotations: dict[str, Rotation] = {}

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace) -> Cost:
        """Return about how long the head takes: products of all rows with the weights of all classes, and rotations."""
        rank, numbers = min(extent.rows, extent.features), extent.rows * extent.scores
        product = numbers * (rank * pace.product + _STEPS * pace.step)
        rotation = pace.rotation(extent.rows, extent.features)
        paths = len(grid["scale"]) * len(grid.get("class_weight", ("none",))) * extent.folds
        alone = _ALONE if numbers * rank >= _MANY else _EXACT
        return Cost(
            len(grid["scale"]) * rotation + paths * (_PATH + _FIT * len(grid["C"])) * product,
            alone * product,
        )

    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return the settings with the best metric on the images that the pairs score on.

        They are compared in float32, in about half the time: figures of settings that can be best are the same to four digits.
        """
        judge, views = Judge(self.sample, pairs, metric), self.sample.features.views
        kinds = self.grid.get("class_weight", ("none",))
        y, fits = np.repeat(self.sample.y, views), [np.repeat(fit, views) for fit, _ in pairs]
        counts = np.column_stack([row_weights(y, fit, kind) for kind in kinds for fit in fits])
        ratings: list[Rating] = []
        with self.progress(len(self.grid["scale"]) * len(self.grid["C"]) * counts.shape[1]) as progress:
            for scale in self.grid["scale"]:
                rotation = self._rotated(scale).rounded()
                found = solve(rotation, self._targets, len(self._classes), self.grid["C"], counts, progress.update)
                for weights in found:
                    outputs = self._outputs(rotation.scores(weights), pairs, len(kinds))
                    ratings += [judge.rate(each) for each in outputs]
        return best_of(combinations(self.grid), ratings, metric, judge.rows)

    def _outputs(self, scores: np.ndarray, pairs: Sequence[Pair], n_kinds: int) -> list[list[Output]]:
        """Return for each kind of class weights the probabilities of the images that each pair scores on."""
        looks = [np.repeat(look, self.sample.features.views) for _, look in pairs]
        columns = np.arange(n_kinds * len(pairs)).reshape(n_kinds, len(pairs))
        return [
            [(self._classes, _both(scores[look, column])) for look, column in zip(looks, of_kind, strict=True)]
            for of_kind in columns
        ]

    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> Logistic:
        """Return the head with the given settings, fitted to images given by a mask."""
        sample = self.sample
        head = Logistic(settings["C"], settings["scale"], sample.features.widths, settings.get("class_weight", "none"))
        return head._take(
            self._rotated(settings["scale"]),
            np.repeat(sample.y, sample.features.views),
            np.repeat(images, sample.features.views),
            tell,
        )

    @cached_property
    def _classes(self) -> np.ndarray:
        return np.unique(self.sample.y)

    @cached_property
    def _targets(self) -> np.ndarray:
        return np.repeat(np.searchsorted(self._classes, self.sample.y), self.sample.features.views)

    def _rotated(self, scale: str) -> Rotation:
        if scale not in self._rotations:
            rotations = rotate_features(self.sample.features, scale, self.grid["scale"])
            self._rotations |= {how: self._rounded(rotation) for how, rotation in rotations.items()}
        return self._rotations[scale]

    def _rounded(self, rotation: Rotation) -> Rotation:
        """Return a rotation in float32 if its many classes and rows would take minutes in float64."""
        numbers = math.prod(rotation.rows.shape) * len(self._classes)
        if numbers < _MANY:
            return rotation
        log.info(
            f"logistic {rotation.rows.shape[0]} rows of {len(self._classes)} classes are fitted in float32, to within about "
            "1e-5 of the optimum, since float64 would take five times as long"
        )
        return rotation.rounded()


def _both(scores: np.ndarray) -> np.ndarray:
    """Return probabilities of all classes, (n, n_classes), from scores, (n, k)."""
    found = chances(scores[:, None])[:, 0]
    return np.hstack([1 - found, found]) if found.shape[1] == 1 else found
