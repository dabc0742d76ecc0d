"""Metrics of a classifier on rows it has not seen, and intervals for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics


def evaluate(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Compare predicted probabilities with labels.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
        Rows sum to one; the class of the highest is the prediction.

    Returns
    -------
    scores : dict
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes present), ``macro_f1`` (mean F1 of the classes
        present), ``roc_auc`` and ``average_precision`` (of two classes: of the second; of more: one against the rest,
        averaged over those present; nan if only one class is present), ``log_loss`` (nats, probabilities clipped to the
        float's resolution) and ``calibration_error`` (see `calibration_error`).
    """
    present = np.unique(y)
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "balanced_accuracy": float(
            metrics.recall_score(y, predicted, labels=present, average="macro", zero_division=0)
        ),
        "macro_f1": float(metrics.f1_score(y, predicted, labels=present, average="macro", zero_division=0)),
        "roc_auc": _by_class(metrics.roc_auc_score, y, probabilities, present),
        "average_precision": _by_class(metrics.average_precision_score, y, probabilities, present),
        "log_loss": float(metrics.log_loss(y, probabilities, labels=np.arange(probabilities.shape[1]))),
        "calibration_error": calibration_error(y, probabilities),
    }


def calibration_error(y: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, in bins of equal width.

    The mean over rows of ``|accuracy - mean confidence|`` of a row's bin, where confidence is the probability of the
    predicted class (Guo et al. 2017, "On calibration of modern neural networks").
    """
    confidence = probabilities.max(axis=1)
    surplus = (probabilities.argmax(axis=1) == y) - confidence
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(places, surplus, bins)).sum() / len(y)) if len(y) else math.nan


def _by_class(
    score: Callable[[np.ndarray, np.ndarray], float], y: np.ndarray, probabilities: np.ndarray, present: np.ndarray
) -> float:
    if len(present) < 2:
        return math.nan
    if probabilities.shape[1] == 2:
        return float(score(y, probabilities[:, 1]))
    return float(np.mean([score(y == label, probabilities[:, label]) for label in present]))


def accuracy_interval(accuracies: Sequence[float], n_train: int, n_test: int) -> tuple[float, float]:
    """Return a 95 % interval for the accuracy.

    Of one split: Wilson's interval. Of several random splits of the same rows: Student's t with the variance
    corrected for overlapping training sets, ``s^2 (1/J + n_test/n_train)`` (Nadeau & Bengio 2003, "Inference for
    the generalization error").

    Parameters
    ----------
    accuracies : sequence of float
        One a split.
    n_train, n_test : int
        Rows that train and test in each.
    """
    mean, times = float(np.mean(accuracies)), len(accuracies)
    if times == 1:
        interval = stats.binomtest(round(mean * n_test), n_test).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)
    half = _corrected_half(accuracies, n_train, n_test)
    return max(0.0, mean - half), min(1.0, mean + half)


def difference_interval(differences: Sequence[float], n_train: int, n_test: int) -> tuple[float, float]:
    """Return a 95 % interval for the mean difference of two heads' accuracies on several random splits.

    The corrected resampled t of Nadeau & Bengio, as in `accuracy_interval`; see there.
    """
    half = _corrected_half(differences, n_train, n_test)
    return float(np.mean(differences)) - half, float(np.mean(differences)) + half


def paired_test(correct: Sequence[np.ndarray], others: Sequence[np.ndarray], n_train: int) -> float:
    """Return the two-sided p value of the hypothesis that two heads are equally accurate.

    On one split: McNemar's exact test, on the rows that only one of them gets right. On several: the corrected
    resampled t test of Nadeau & Bengio on the differences of accuracy.

    Parameters
    ----------
    correct, others : sequence of ndarray of shape (n_test,), bool
        Whether each test row of each split is right, by one head and by the other.
    n_train : int
        Rows that were learnt from in each split.
    """
    if len(correct) == 1:
        first, second = int(np.sum(correct[0] & ~others[0])), int(np.sum(others[0] & ~correct[0]))
        return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0
    differences = [float(np.mean(a) - np.mean(b)) for a, b in zip(correct, others, strict=True)]
    if not np.ptp(differences):
        return float(differences[0] == 0)
    error = _corrected_half(differences, n_train, len(correct[0])) / stats.t.ppf(0.975, len(differences) - 1)
    return float(2 * stats.t.sf(abs(np.mean(differences)) / error, len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for several comparisons (Holm 1979, "A simple sequentially rejective test procedure")."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(p) for p in adjusted]


def _corrected_half(values: Sequence[float], n_train: int, n_test: int) -> float:
    times = len(values)
    return float(stats.t.ppf(0.975, times - 1) * np.std(values, ddof=1) * math.sqrt(1 / times + n_test / n_train))
