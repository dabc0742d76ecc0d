"""Keras Dense heads: the lecture's and others, several at once where settings are searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .bank import Recipe, Schedule, Trained, train_heads
from .choice import Choice, Grid, combinations
from .sample import Pair, Sample

if TYPE_CHECKING:
    import keras


class DenseHead:
    """A Keras model that was trained on features.

    Parameters
    ----------
    model : keras.Model
        From features, (n, n_features), to probabilities: one column for two classes, else one a class.
    classes : ndarray of shape (n_classes,)

    Attributes
    ----------
    model_, classes_
    """

    def __init__(self, model: keras.Model, classes: np.ndarray):
        self.model_, self.classes_ = model, classes

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        # Called in blocks rather than by model.predict, which traces a graph anew for every head.
        blocks = [np.asarray(self.model_(X[start : start + 1024], training=False)) for start in range(0, len(X), 1024)]
        scores = np.concatenate(blocks).astype(np.float64)
        if scores.shape[1] == 1 < len(self.classes_):
            return np.hstack([1 - scores, scores])
        return scores / scores.sum(axis=1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class DenseSearch:
    """Dense heads on one sample, their settings and epoch chosen by the validation loss; see `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Fields of `Recipe` and `Schedule`; of ``epochs`` the most that are tried.
    """

    def __init__(self, sample: Sample, grid: Grid):
        self.sample, self._grid = sample, grid
        self._watched: tuple[dict[str, Any], DenseHead] | None = None

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the settings and epoch with the lowest loss on val, fitted on train: no epoch is chosen fold by fold."""
        sample = self.sample
        fit, look = ~sample.val, sample.val & np.isin(sample.y, sample.y[~sample.val])
        tried, trained = [], []
        for schedule in combinations({name: values for name, values in self._grid.items() if name not in _RECIPE}):
            recipes = combinations({name: values for name, values in self._grid.items() if name in _RECIPE})
            trained += self._train(recipes, schedule, fit, look)
            tried += [{**recipe, **schedule} for recipe in recipes]
        losses = [min(each.history["val_loss"]) for each in trained]
        best = int(np.nanargmin(losses))
        settings = {**tried[best], "epochs": trained[best].best_epoch}
        self._watched = settings, self._head(trained[best], fit)
        epochs = [
            {**those, "epochs": epoch, "accuracy": accuracy}
            for those, each in zip(tried, trained, strict=True)
            for epoch, accuracy in enumerate(each.history["val_accuracy"], start=1)
        ]
        return Choice(settings, epochs, trained[best].history)

    def fit(self, settings: dict[str, Any], images: np.ndarray) -> DenseHead:
        """Return the head of some settings, fitted to images given by a mask."""
        if self._watched and np.array_equal(images, ~self.sample.val) and settings == self._watched[0]:
            return self._watched[1]
        recipe = {name: value for name, value in settings.items() if name in _RECIPE}
        schedule = {name: value for name, value in settings.items() if name not in _RECIPE}
        (trained,) = self._train([recipe], schedule, images, None)
        return self._head(trained, images)

    def _train(
        self, recipes: list[dict[str, Any]], schedule: dict[str, Any], fit: np.ndarray, look: np.ndarray | None
    ) -> list[Trained]:
        sample = self.sample
        classes = np.unique(sample.y[fit])
        return train_heads(
            [Recipe(**recipe) for recipe in recipes],
            Schedule(**schedule, seed=sample.seed),
            sample.features.X,
            np.searchsorted(classes, sample.labels(sample.everything)),
            sample.features.places(fit),
            None if look is None else sample.features.places(look),
        )

    def _head(self, trained: Trained, fit: np.ndarray) -> DenseHead:
        return DenseHead(trained.model, np.unique(self.sample.y[fit]))


_RECIPE = tuple(each.name for each in fields(Recipe))
