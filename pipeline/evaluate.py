"""Metrics of a classifier on rows it has not seen, and intervals for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn import metrics

from features.splits import SPLITS


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
        present), ``roc_auc`` (one against the rest, averaged over classes; nan if only one class is present) and
        ``log_loss`` (nats, probabilities clipped to the float's resolution).
    """
    present = np.unique(y)
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "balanced_accuracy": float(
            metrics.recall_score(y, predicted, labels=present, average="macro", zero_division=0)
        ),
        "macro_f1": float(metrics.f1_score(y, predicted, labels=present, average="macro", zero_division=0)),
        "roc_auc": _roc_auc(y, probabilities, present),
        "log_loss": float(metrics.log_loss(y, probabilities, labels=np.arange(probabilities.shape[1]))),
    }


def _roc_auc(y: np.ndarray, probabilities: np.ndarray, present: np.ndarray) -> float:
    if len(present) < 2:
        return math.nan
    if probabilities.shape[1] == 2:
        return float(metrics.roc_auc_score(y, probabilities[:, 1]))
    return float(np.mean([metrics.roc_auc_score(y == label, probabilities[:, label]) for label in present]))


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


def difference_interval(differences: Sequence[float], splits: np.ndarray) -> tuple[float, float]:
    """Return a 95 % interval for the mean difference of two heads' accuracies on several random splits.

    The corrected resampled t of Nadeau & Bengio, as in `accuracy_interval`.

    Parameters
    ----------
    differences : sequence of float
        One a split; two at least.
    splits : ndarray of shape (n_rows,)
        One of the splits, for its sizes.
    """
    n_test = int(np.sum(splits == SPLITS["test"]))
    half = _corrected_half(differences, len(splits) - n_test, n_test)
    return float(np.mean(differences)) - half, float(np.mean(differences)) + half


def _corrected_half(values: Sequence[float], n_train: int, n_test: int) -> float:
    times = len(values)
    return float(stats.t.ppf(0.975, times - 1) * np.std(values, ddof=1) * math.sqrt(1 / times + n_test / n_train))
