"""Search over the settings of heads whose optimum is a formula."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from features.errors import RequestError, counted, option
from features.runtime.progress import Tell, untold

from ...data.svd_basis import Rotation, rotate_features
from ...data.training_data import Pair, Sample
from ...options import METRIC
from ..calibration import CalibratedSearch, ScoreJudge
from ..contract import Cost, Extent, Pace
from ..linear_head import LinearHead
from ..settings import Choice, Grid, Judge, Output, Rating, best_of, combinations
from .models import Model

# Functions per score in fitting sigmoids and in probabilities; products in float64 take so many in float32.
_SIGMOIDS, _SCORES, _FOLD, _EXACT = 450, 20, 20, 2


class ClosedFormSearch(CalibratedSearch):
    """Ridge classifiers or linear discriminants on one sample; all settings and folds share one rotation per scale.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Values of ``scale`` (by default ``layer``), of the model's own setting and of ``class_weight``, in this order.
    model : type of Model
    """

    read_as = (LinearHead,)
    streams = "products"

    def __init__(self, sample: Sample, grid: Grid, model: type[Model]):
        super().__init__(sample, grid)
        self._model, self._scales = model, grid.get("scale", ("layer",))
        self._rotations: dict[str, Rotation] = {}

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace, model: type[Model]) -> Cost:
        """Return about how long the head takes: rotations, a decomposition per fold and setting, and products with all classes."""
        rank, k = min(extent.rows, extent.features), extent.scores
        scales = len(grid.get("scale", ("layer",)))
        others = math.prod(len(values) for name, values in grid.items() if name != "scale")
        out = extent.looked_at
        sigmoids = 0.0 if model.gives_chances else extent.rows * k * _SIGMOIDS * pace.step
        solved = _EXACT * (rank**3 / 3 + rank**2 * k + out * rank * k) * pace.product + out * k * _SCORES * pace.step
        fold = extent.rows * rank * (_EXACT * (min(rank, out) + k) * pace.product + _FOLD * pace.step)
        rating = others * (extent.folds * solved + sigmoids)
        return Cost(
            scales * (pace.rotation(extent.rows, extent.features) + extent.folds * fold + rating),
            extent.folds * (fold + solved) + sigmoids,
        )

    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return the settings with the best metric on the images that the pairs score on."""
        calibrated, settings = not self._model.gives_chances, combinations(self.grid)
        judge = ScoreJudge(self.sample, pairs, metric) if calibrated else Judge(self.sample, pairs, metric)
        ratings: list[Rating] = []
        with self.progress(len(settings) * len(judge.jobs)) as progress:
            for scale in self._scales:
                ratings += judge.rate_all(self._outputs(scale, judge.jobs), progress)
        if isinstance(judge, ScoreJudge):
            return self._choose_by(judge, settings, ratings)
        return best_of(settings, ratings, metric, judge.rows)

    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> LinearHead:
        """Return the head with the given settings, fitted to images given by a mask.

        Raises
        ------
        RequestError
            If the images are of one class, or the setting has no solution for them.
        """
        rotation, name = self._rotated(settings.get("scale", "layer")), self._model.setting
        if len(np.unique(self.sample.y[images])) < 2:
            raise RequestError(
                "this head must be fitted to images of at least 2 classes; got 1. Add images of another class."
            )

        def fit(some: np.ndarray) -> LinearHead:
            model = self._fitted(rotation, some, settings.get("class_weight", "none"))
            try:
                return LinearHead(model.classes, *model.solve(settings[name]))
            except ValueError as error:
                raise RequestError(
                    f"{name} must have a solution for {counted(some.sum(), 'image')}; got {settings[name]:g}: {error}. "
                    f"For example {option('settings', {name: 0.1})}"
                ) from error

        def score(some: np.ndarray, look: np.ndarray) -> np.ndarray:
            return fit(some).decision_function(rotation.rows[self._rows(look)])

        turned = fit(images)
        coefficients = rotation.back(turned.coef_)
        intercept = turned.intercept_ - rotation.mean @ coefficients
        sigmoids = None if self._model.gives_chances else self._calibrate(settings, images, score, tell)
        return LinearHead(turned.classes_, coefficients.astype(np.float32), intercept, sigmoids)

    def _outputs(self, scale: str, pairs: Sequence[Pair]) -> Iterator[Output | None]:
        """Yield each setting's outputs for the rows of each pair; None where a setting has no solution."""
        rotation, kinds = self._rotated(scale), self.grid.get("class_weight", ("none",))
        models = [[self._fitted(rotation, fit, kind) for fit, _ in pairs] for kind in kinds]
        for value in self.grid[self._model.setting]:
            for of_kind in models:
                for model, (_, look) in zip(of_kind, pairs, strict=True):
                    try:
                        head = LinearHead(model.classes, *model.solve(value))
                    except ValueError:
                        yield None
                        continue
                    given = head.predict_proba if self._model.gives_chances else head.decision_function
                    yield model.classes, given(rotation.rows[self._rows(look)])

    def _fitted(self, rotation: Rotation, images: np.ndarray, class_weight: str) -> Model:
        y = np.repeat(self.sample.y, self.sample.features.views)
        return self._model(rotation, y, self._rows(images), class_weight)

    def _rows(self, images: np.ndarray) -> np.ndarray:
        """Return the mask of rows, all views, of images given by a mask."""
        return np.repeat(images, self.sample.features.views)

    def _rotated(self, scale: str) -> Rotation:
        if scale not in self._rotations:
            self._rotations |= rotate_features(self.sample.features, scale, self._scales)
        return self._rotations[scale]
