"""Curves of a classifier's probabilities: ROC, precision-recall, reliability. Their areas equal the table's metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn import metrics
from sklearn.calibration import calibration_curve

from ..evaluation.weighted_rows import BINS

Curve = tuple[np.ndarray, np.ndarray]  # x, non-decreasing, and y
Pair = tuple[np.ndarray, np.ndarray]  # labels, (n_samples,), and probabilities, (n_samples, n_classes)

_GRID = 1000  # steps along each axis of a drawn curve; one step is half a pixel


def roc(pairs: Sequence[Pair], label: int | None = None) -> Curve | None:
    """Return the ROC curve: false positive rate, true positive rate.

    With two classes, the curve of the second class; with more, the mean of the one-vs-rest curves of the classes present.
    Curves are averaged over splits at equal x, so the area is the mean of the areas, which the table of heads shows.

    Parameters
    ----------
    pairs : sequence of (ndarray, ndarray)
        Labels and probabilities of each split's test rows.
    label : int, optional
        Of this class alone against the rest.

    Returns
    -------
    curve : (x, y) or None
        None if the test rows of a split have only one class, or lack the one asked for.
    """

    def draw(truth: np.ndarray, score: np.ndarray) -> Curve:
        false, true, _ = metrics.roc_curve(truth, score)
        return false, true

    return _averaged(pairs, draw, label)


def precision_recall(pairs: Sequence[Pair], label: int | None = None) -> Curve | None:
    """Return the precision-recall curve as steps, so that its area equals the average precision; see `roc`."""

    def draw(truth: np.ndarray, score: np.ndarray) -> Curve:
        precision, recall, _ = metrics.precision_recall_curve(truth, score)
        end = len(recall) - np.searchsorted(recall[::-1], recall[0])  # the first point of full recall
        recall, precision = recall[end - 1 :][::-1], precision[end - 1 :][::-1]
        return np.repeat(recall, 2)[1:-1], np.repeat(precision[1:], 2)

    return _averaged(pairs, draw, label)


def _averaged(pairs: Sequence[Pair], draw: Callable[[np.ndarray, np.ndarray], Curve], only: int | None) -> Curve | None:
    curves = []
    for y, probabilities in pairs:
        present = np.unique(y)
        if len(present) < 2 or (only is not None and only not in present):
            return None
        labels = [only] if only is not None else [1] if probabilities.shape[1] == 2 else present
        curves.append(average([draw(y == label, probabilities[:, label]) for label in labels]))
    return average(curves)


def average(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves at equal x. Jumps are preserved, so the area is exactly the mean of the areas."""
    if len(curves) == 1:
        return curves[0]
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    low, high = np.zeros(len(grid)), np.zeros(len(grid))
    for x, y in curves:
        first, last = np.searchsorted(x, grid), np.searchsorted(x, grid, "right") - 1
        between, known = np.interp(grid, x, y), first <= last
        low += np.where(known, y[np.minimum(first, len(x) - 1)], between)
        high += np.where(known, y[last], between)
    return np.repeat(grid, 2), np.column_stack([low, high]).ravel() / len(curves)


def thin(curve: Curve) -> Curve:
    """Return a curve rounded to thousandths, reduced to the points where it changes direction; it looks the same."""
    x, y = (np.round(each * _GRID) / _GRID for each in curve)
    moves = np.ones(len(x), bool)
    moves[1:] = (np.diff(x) != 0) | (np.diff(y) != 0)
    x, y = x[moves], y[moves]
    turns = np.ones(len(x), bool)
    turns[1:-1] = np.abs(np.diff(x)[:-1] * np.diff(y)[1:] - np.diff(y)[:-1] * np.diff(x)[1:]) > 1e-12
    return x[turns], y[turns]


def reliability(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean confidence, accuracy and row count of each non-empty confidence bin, pooled over all splits.

    Confidence is the probability of the predicted class; 15 bins of equal width (Guo et al. 2017).
    """
    confidence = np.concatenate([p.max(axis=1) for _, p in pairs])
    correct = np.concatenate([p.argmax(axis=1) == y for y, p in pairs])
    accuracy, mean = calibration_curve(correct, np.minimum(confidence, 1), n_bins=BINS)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    counts = np.bincount(bins, minlength=BINS)
    return mean, accuracy, counts[counts > 0]


def class_calibration(pairs: Sequence[Pair]) -> list[float]:
    """Return each class's calibration error, pooled over all splits (Kull et al. 2019, "Beyond temperature scaling", equation 2).

    The mean over rows of ``|share of the class - mean probability of the class|`` of the row's bin of that probability; 15 bins of
    equal width.
    """
    y, p = np.concatenate([each for each, _ in pairs]), np.concatenate([each for _, each in pairs])
    errors = []
    for number, chances in enumerate(p.T):
        bins = np.minimum((chances * BINS).astype(int), BINS - 1)
        errors.append(float(np.abs(np.bincount(bins, (y == number) - chances)).sum() / len(y)))
    return errors


def confusion(pairs: Sequence[Pair]) -> np.ndarray:
    """Return row counts by true class (first axis) and predicted class, pooled over all splits."""
    n_classes = pairs[0][1].shape[1]
    return sum(metrics.confusion_matrix(y, p.argmax(axis=1), labels=np.arange(n_classes)) for y, p in pairs)
