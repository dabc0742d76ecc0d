"""Keras Dense heads: the lecture's, trained on a matrix in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.runtime import import_keras

from .choice import Choice, Grid
from .sample import Pair, Sample

if TYPE_CHECKING:
    import keras


class DenseHead:
    """The lecture's head: Dense(10, relu), then Dense(1, sigmoid) for two classes or Dense(n, softmax) for more.

    Trained by RMSprop on (binary) cross-entropy. Inputs are flattened features, divided by their root mean square:
    the lecture got features of about that size from its division of pixels by 255.

    Parameters
    ----------
    epochs : int
    batch_size : int
    units : int
        Width of the hidden layer.
    seed : int
        Same seed, same weights, on the same machine. Sets Keras' global seed.
    steps, val_steps : int, optional
        Batches an epoch, of training and of validation rows, drawn from an endless shuffled stream as Keras'
        generators do; all rows, once each, if left out.
    keep_best : bool
        Keep the weights of the epoch with the lowest validation loss, and not the last ones.
    scaled : bool
        Divide inputs by their root mean square.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    history_ : dict of str to list
        ``loss``, ``accuracy`` and, with validation rows, ``val_loss`` and ``val_accuracy``: one value an epoch.
    best_epoch_ : int
        The epoch, counted from 1, whose weights `model_` has: that of the lowest validation loss; without validation
        rows the last one.
    model_ : keras.Model
    """

    def __init__(
        self,
        epochs: int = 30,
        batch_size: int = 20,
        units: int = 10,
        seed: int = 0,
        steps: int | None = None,
        val_steps: int | None = None,
        keep_best: bool = True,
        scaled: bool = True,
    ):
        self.epochs, self.batch_size, self.units, self.seed = epochs, batch_size, units, seed
        self.steps, self.val_steps, self.keep_best, self.scaled = steps, val_steps, keep_best, scaled
        self._keras = import_keras()

    def fit(
        self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> DenseHead:
        """Train on X, (n_samples, n_features), and y; watch X_val and y_val."""
        keras = self._keras
        keras.utils.set_random_seed(self.seed)
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.model_ = self._build(X)
        watched: Any = None
        callbacks = []
        if X_val is not None and y_val is not None:
            known = np.isin(y_val, self.classes_)  # the head can only be wrong on the others, whatever the epoch
            watched = (X_val[known], np.searchsorted(self.classes_, y_val[known]))
            if self.keep_best:
                callbacks = [keras.callbacks.EarlyStopping("val_loss", patience=self.epochs, restore_best_weights=True)]
        how: dict[str, Any] = {"epochs": self.epochs, "verbose": 0, "callbacks": callbacks}
        if self.steps is None:
            fitted = self.model_.fit(X, targets, self.batch_size, validation_data=watched, **how)
        else:
            how |= {"steps_per_epoch": self.steps, "validation_steps": self.val_steps, "shuffle": False}
            stream = self._stream(X, targets)
            fitted = self.model_.fit(stream, validation_data=watched and self._stream(*watched), **how)
        self.history_ = {name: [float(value) for value in values] for name, values in fitted.history.items()}
        self.best_epoch_ = self.epochs if not callbacks else int(np.argmin(self.history_["val_loss"])) + 1
        return self

    def _stream(self, X: np.ndarray, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches without end; rows are shuffled anew each time they have all been seen."""
        random = np.random.default_rng(self.seed)
        while True:
            order = random.permutation(len(X))
            for first in range(0, len(X), self.batch_size):
                some = order[first : first + self.batch_size]
                yield X[some], targets[some]

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

    def _build(self, X: np.ndarray) -> keras.Model:
        keras = self._keras
        scale = (float(np.sqrt(np.mean(np.square(X), dtype=np.float64))) or 1.0) if self.scaled else 1.0
        two = len(self.classes_) == 2
        model = keras.Sequential(
            [
                keras.Input((X.shape[1],), name="features"),
                keras.layers.Rescaling(1 / scale, name="scale"),
                keras.layers.Dense(self.units, activation="relu", name="hidden"),
                keras.layers.Dense(1, activation="sigmoid", name="probability")
                if two
                else keras.layers.Dense(len(self.classes_), activation="softmax", name="probability"),
            ]
        )
        loss = "binary_crossentropy" if two else "sparse_categorical_crossentropy"
        model.compile(optimizer="rmsprop", loss=loss, metrics=["accuracy"])
        return model


class DenseSearch:
    """The Dense head on one sample, its epoch chosen by the validation loss; see `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        One value of ``epochs``, the most that are tried.
    """

    def __init__(self, sample: Sample, grid: Grid):
        self.sample, (self._epochs,) = sample, grid["epochs"]
        self._watched: DenseHead | None = None

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the epoch with the lowest loss on val, fitted on train: an epoch cannot be chosen fold by fold."""
        sample = self.sample
        fit, look = ~sample.val, sample.val
        head = DenseHead(self._epochs, seed=sample.seed)
        self._watched = head.fit(
            sample.features.of(fit), sample.labels(fit), sample.features.of(look), sample.labels(look)
        )
        tried = [{"epochs": e, "accuracy": a} for e, a in enumerate(head.history_["val_accuracy"], start=1)]
        return Choice({"epochs": head.best_epoch_}, tried, head.history_)

    def fit(self, settings: dict[str, Any], images: np.ndarray) -> DenseHead:
        """Return the head of some settings, fitted to images given by a mask."""
        sample = self.sample
        if self._watched and np.array_equal(images, ~sample.val) and settings["epochs"] == self._watched.best_epoch_:
            return self._watched
        return DenseHead(settings["epochs"], seed=sample.seed).fit(sample.features.of(images), sample.labels(images))
