"""Training Keras Dense heads, several at once, and the search over their settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from features.runtime.keras_runtime import import_keras
from features.runtime.progress import Tell, untold

from ...data.row_blocks import Matrix, align, blocks, shuffled_blocks
from ...data.training_data import Pair, Sample
from ...options import METRIC
from ..contract import Cost, Extent, Pace, Search
from ..settings import TIES, Choice, Grid, Judge, best_of, combinations, rank
from .classifier import DenseHead
from .config import Recipe, Schedule
from .trainer import LARGE, LOOK, TINY, find_bank

if TYPE_CHECKING:
    import keras

Key = tuple[float, ...]
Watch = Callable[[np.ndarray], tuple[dict[str, float | None], Key]]


@dataclass(frozen=True)
class Trained:
    """A trained head.

    Attributes
    ----------
    model : keras.Model
        Maps features, (n, n_features), to probabilities: one column for two classes, else one per class.
    history : dict of str to list
        ``loss``, ``accuracy`` and, with validation rows, ``val_loss``, ``val_accuracy`` and the metric watched: one value per
        epoch, None where undefined.
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
    watch: Watch | None = None,
    tell: Tell = untold,
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
    watch : callable, optional
        ``watch(probabilities)`` returns columns of the history for the probabilities of the validation rows, by name, and a sort
        key; the epoch with the greatest key is the best. By default, the one with the lowest validation loss.
    tell : callable, optional
        Called with the share of the epochs, after each of them.

    Returns
    -------
    trained : list of Trained
        One per recipe. Up to rounding, the weights equal those of training each head alone.
    """
    X, n_classes = align(X), int(targets[fit].max()) + 1
    shapes = tuple((each.widths, each.dropout) for each in recipes)
    bank = find_bank(shapes, X.shape[1], n_classes, schedule.optimizer, any(each.weight_decay for each in recipes))
    bank.reset(recipes, schedule.seed, _root_mean_square(X, fit) if schedule.scaled else 1.0, np.bincount(targets[fit]))
    random = np.random.default_rng(schedule.seed)
    fit_order = _order(fit, schedule.steps, schedule.batch_size, random)
    look_order = _order(look, schedule.val_steps, schedule.batch_size, random) if look is not None else None
    histories: list[dict[str, list[Any]]] = [{} for _ in recipes]
    kept: list[Any] = [None] * len(recipes)
    best: list[Any] = [None] * len(recipes)
    best_epoch = np.zeros(len(recipes), int)
    for epoch in range(1, schedule.epochs + 1):
        rows = next(fit_order)
        stream = shuffled_blocks(X, rows, schedule.batch_size, random)
        figures: dict[str, Any] = dict(bank.train(stream, targets, schedule.batch_size))
        if look_order is not None:
            seen = next(look_order)
            looked, keys = _look(bank.look(blocks(X, seen)), targets[seen], watch)
            figures |= looked
        tell(1 / schedule.epochs)
        for name, values in figures.items():
            for history, value in zip(histories, values, strict=True):
                history.setdefault(name, []).append(None if value is None else float(value))
        if look is not None and schedule.keep_best:
            for head, key in enumerate(keys):
                if best[head] is None or key > best[head]:
                    best[head], best_epoch[head], kept[head] = key, epoch, bank.weights(head)
            if schedule.patience and epoch - best_epoch.max() >= schedule.patience:
                break
    return [
        Trained(bank.model(head, kept[head] or bank.weights(head)), histories[head], int(best_epoch[head]) or epoch)
        for head in range(len(recipes))
    ]


def _look(
    probabilities: np.ndarray, targets: np.ndarray, watch: Watch | None
) -> tuple[dict[str, list[Any]], list[Key]]:
    """Return each head's figures on validation rows, by name, and the keys by which its epochs are compared."""
    if watch is not None:
        figures, keys = zip(*map(watch, probabilities), strict=True)
        return {name: [each[name] for each in figures] for name in figures[0]}, list(keys)
    losses = -np.log(np.maximum(probabilities[:, np.arange(len(targets)), targets], TINY)).mean(axis=1)
    accuracies = (probabilities.argmax(axis=2) == targets).mean(axis=1)
    return {"val_loss": list(losses), "val_accuracy": list(accuracies)}, [(-loss,) for loss in losses]


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


# Functions that tracing takes, compiling, a batch, a batch per head, an update per weight, and a rating per probability.
_START, _COMPILE, _BATCH, _OF_HEAD, _UPDATE, _LOOKS = 7e8, 1.5e10, 1.5e5, 5e4, 5, 60
Widths = Sequence[tuple[int, ...]]  # of each head's layers, from its features to its scores
_RECIPE = tuple(each.name for each in fields(Recipe))


def _start(widths: Widths, pace: Pace) -> float:
    """Return about how many seconds it takes until the first batch."""
    return (_START + _COMPILE * (sum(each[0] * each[1] for each in widths) > LARGE)) * pace.step


def _epoch(widths: Widths, rows: int, batches: int, pace: Pace) -> float:
    """Return about how many seconds an epoch takes: three products with all weights, and updates of these."""
    weights = sum(a * b for each in widths for a, b in itertools.pairwise(each))
    update = (_BATCH + len(widths) * _OF_HEAD + weights * _UPDATE / pace.cores) * pace.step
    return 3 * rows * weights * pace.product + batches * update


class DenseSearch(Search):
    """Dense heads on one sample; settings and epoch are chosen on val. See `LogisticSearch`.

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

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace) -> Cost:
        """Return about how long the heads take if they stop half-way, in proportion, from four times their patience to their last epoch."""
        recipes = [Recipe(**each) for each in combinations({name: grid[name] for name in grid if name in _RECIPE})]
        schedules = combinations({name: grid[name] for name in grid if name not in _RECIPE})
        k, train = extent.scores, (extent.images - extent.val) * extent.views
        widths = [(extent.features, *each.widths, k) for each in recipes]
        choosing = fitting = 0.0
        for schedule in schedules:
            most = schedule["epochs"]
            epochs = math.sqrt(most * min(most, 4 * schedule["patience"]))
            batches = -(-train // schedule["batch_size"])
            looking = extent.val * len(recipes) * k * _LOOKS * pace.step
            choosing += _start(widths, pace) + epochs * (_epoch(widths, train, batches, pace) + looking)
            fitting += _start(widths[:1], pace) + epochs * _epoch(widths[:1], train, batches, pace)
        return Cost(
            choosing, fitting / len(schedules) / 2
        )  # of two final fits, one was watched when settings were chosen

    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return the settings and epoch with the best metric on val, fitted on train; `pairs` is ignored."""
        sample = self.sample
        fit, look = ~sample.val, sample.val & np.isin(sample.y, sample.y[~sample.val])
        judge, classes = Judge(sample, [(fit, look)], metric), np.unique(sample.y[fit])
        columns = {name: "val_loss" if name == TIES else f"val_{name}" for name in judge.names}

        def watch(probabilities: np.ndarray) -> tuple[dict[str, float | None], Key]:
            rating = judge.rate([(classes, probabilities.astype(np.float64))])
            return {columns[name]: value for name, value in rating.items()}, rank(rating, metric)

        tried, trained = [], []
        recipes = combinations({name: values for name, values in self.grid.items() if name in _RECIPE})
        schedules = combinations({name: values for name, values in self.grid.items() if name not in _RECIPE})
        with self.fits(len(schedules), "training" if len(schedules) == 1 else "trainings") as progress:
            for schedule, tell in progress.each(schedules):
                trained += self._train(recipes, schedule, fit, tell, look, watch)
                tried += [{**recipe, **schedule} for recipe in recipes]
        ratings = [
            [
                dict(zip(columns, values, strict=True))
                for values in zip(*map(each.history.get, columns.values()), strict=True)
            ]
            for each in trained
        ]
        best = [{**those, "epochs": each.best_epoch} for those, each in zip(tried, trained, strict=True)]
        of_best = [each[at["epochs"] - 1] for each, at in zip(ratings, best, strict=True)]
        choice = best_of(best, of_best, metric, judge.rows, by_folds=False)
        chosen = trained[best.index(choice.settings)]
        self._watched = choice.settings, self._head(chosen, fit)
        epochs = [
            {**those, "epochs": epoch, **rating}
            for those, each in zip(tried, ratings, strict=True)
            for epoch, rating in enumerate(each, start=1)
        ]
        return Choice(choice.settings, epochs, chosen.history)

    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> DenseHead:
        """Return the head with the given settings, fitted to images given by a mask."""
        if self._watched and np.array_equal(images, ~self.sample.val) and settings == self._watched[0]:
            return self._watched[1]
        recipe = {name: value for name, value in settings.items() if name in _RECIPE}
        schedule = {name: value for name, value in settings.items() if name not in _RECIPE}
        (trained,) = self._train([recipe], schedule, images, tell)
        return self._head(trained, images)

    def _train(
        self,
        recipes: list[dict[str, Any]],
        schedule: dict[str, Any],
        fit: np.ndarray,
        tell: Tell,
        look: np.ndarray | None = None,
        watch: Watch | None = None,
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
            watch,
            tell,
        )

    def _head(self, trained: Trained, fit: np.ndarray) -> DenseHead:
        return DenseHead(trained.model, np.unique(self.sample.y[fit]))
