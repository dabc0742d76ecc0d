"""Training Keras Dense heads, several at once, and the search over their settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from features.runtime.keras_runtime import import_keras

from ...data.row_blocks import Matrix, align, blocks, shuffled_blocks
from ...data.training_data import Pair, Sample
from ..contract import Search
from ..settings import Choice, Grid, combinations
from .classifier import DenseHead
from .config import Recipe, Schedule
from .trainer import LOOK, find_bank

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Trained:
    """A trained head.

    Attributes
    ----------
    model : keras.Model
        Maps features, (n, n_features), to probabilities: one column for two classes, else one per class.
    history : dict of str to list
        ``loss``, ``accuracy`` and, with validation rows, ``val_loss`` and ``val_accuracy``: one value per epoch.
    best_epoch : int
        The epoch, from 1, whose weights the model has.
    """

    model: keras.Model
    history: dict[str, list[float]]
    best_epoch: int


def train_heads(
    recipes: Sequence[Recipe],
    schedule: Schedule,
    X: Matrix,
    targets: np.ndarray,
    fit: np.ndarray,
    look: np.ndarray | None = None,
) -> list[Trained]:
    """Train several heads on the same batches.

    Parameters
    ----------
    recipes : sequence of Recipe
    schedule : Schedule
    X : Matrix of shape (n_rows, n_features)
    targets : ndarray of shape (n_rows,), int
        Class index of each row; the rows of `fit` have all indices from 0 to the highest.
    fit, look : ndarray of int
        Row indices for training and for validation.

    Returns
    -------
    trained : list of Trained
        One per recipe. Up to rounding, the weights equal those of training each head alone.
    """
    X, n_classes = align(X), int(targets[fit].max()) + 1
    shapes = tuple((each.widths, each.dropout) for each in recipes)
    bank = find_bank(shapes, X.shape[1], n_classes, schedule.optimizer)
    bank.reset(recipes, schedule.seed, _root_mean_square(X, fit) if schedule.scaled else 1.0, np.bincount(targets[fit]))
    random = np.random.default_rng(schedule.seed)
    fit_order = _order(fit, schedule.steps, schedule.batch_size, random)
    look_order = _order(look, schedule.val_steps, schedule.batch_size, random) if look is not None else None
    histories: list[dict[str, list[float]]] = [{} for _ in recipes]
    kept: list[Any] = [None] * len(recipes)
    lowest, best_epoch = np.full(len(recipes), np.inf), np.zeros(len(recipes), int)
    for epoch in range(1, schedule.epochs + 1):
        rows = next(fit_order)
        figures = bank.train(shuffled_blocks(X, rows, schedule.batch_size, random), targets, schedule.batch_size)
        if look_order is not None:
            figures |= {
                f"val_{name}": values for name, values in bank.look(blocks(X, next(look_order)), targets).items()
            }
        for name, values in figures.items():
            for history, value in zip(histories, values, strict=True):
                history.setdefault(name, []).append(float(value))
        if look is not None and schedule.keep_best:
            for head in np.flatnonzero(figures["val_loss"] < lowest).tolist():
                lowest[head], best_epoch[head], kept[head] = figures["val_loss"][head], epoch, bank.weights(head)
            if schedule.patience and epoch - best_epoch.max() >= schedule.patience:
                break
    return [
        Trained(bank.model(head, kept[head] or bank.weights(head)), histories[head], int(best_epoch[head]) or epoch)
        for head in range(len(recipes))
    ]


def _order(rows: np.ndarray, steps: int | None, batch_size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each epoch."""
    if steps is None:
        yield from itertools.repeat(rows)
        return
    waiting = np.empty(0, int)
    while True:
        while len(waiting) < steps * batch_size:
            waiting = np.concatenate([waiting, random.permutation(rows)])
        yield waiting[: steps * batch_size]
        waiting = waiting[steps * batch_size :]


def _root_mean_square(X: Matrix, rows: np.ndarray) -> float:
    total = 0.0
    for values, _, order in blocks(X, rows):
        for start in range(0, len(order), LOOK):
            total += float(np.square(values[order[start : start + LOOK]]).sum(dtype=np.float64))
    return float(np.sqrt(total / len(rows) / X.shape[1])) or 1.0


_RECIPE = tuple(each.name for each in fields(Recipe))


class DenseSearch(Search):
    """Dense heads on one sample; settings and epoch are chosen by validation loss. See `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Values of the fields of `Recipe` and `Schedule`; for ``epochs``, the maximum.
    """

    read_as = (DenseHead,)
    streams = "batches"
    by_epochs = True

    def __init__(self, sample: Sample, grid: Grid):
        super().__init__(sample, grid)
        self._watched: tuple[dict[str, Any], DenseHead] | None = None

    @classmethod
    def warm_up(cls) -> None:
        """Import Keras."""
        import_keras()

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the settings and epoch with the lowest loss on val, fitted on train; `pairs` is ignored."""
        sample = self.sample
        fit, look = ~sample.val, sample.val & np.isin(sample.y, sample.y[~sample.val])
        tried, trained = [], []
        for schedule in combinations({name: values for name, values in self.grid.items() if name not in _RECIPE}):
            recipes = combinations({name: values for name, values in self.grid.items() if name in _RECIPE})
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
        """Return the head with the given settings, fitted to images given by a mask."""
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
