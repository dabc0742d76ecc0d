"""Intervals of accuracies, and paired tests of the difference between two heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def accuracy_interval(accuracies: Sequence[float], n_train: int, n_test: int) -> tuple[float, float]:
    """Return a 95 % interval for the accuracy.

    For one split: Wilson's interval. For J random splits of the same rows: Student's t with the variance corrected for
    overlapping training sets, ``s^2 (1/J + n_test/n_train)`` (Nadeau & Bengio 2003, "Inference for the generalization
    error").

    Parameters
    ----------
    accuracies : sequence of float
        One per split, in [0, 1].
    n_train, n_test : int
        Training and test rows per split.

    Returns
    -------
    low, high : float
        In [0, 1].
    """
    mean, times = float(np.mean(accuracies)), len(accuracies)
    if times == 1:
        interval = stats.binomtest(round(mean * n_test), n_test).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)
    half = _corrected_half(accuracies, n_train, n_test)
    return max(0.0, mean - half), min(1.0, mean + half)


def difference_interval(differences: Sequence[float], n_train: int, n_test: int) -> tuple[float, float]:
    """Return a 95 % interval for the mean difference between two heads' accuracies on several random splits.

    Uses the corrected resampled t of Nadeau & Bengio; see `accuracy_interval`.
    """
    half = _corrected_half(differences, n_train, n_test)
    return float(np.mean(differences)) - half, float(np.mean(differences)) + half


def paired_test(correct: Sequence[np.ndarray], others: Sequence[np.ndarray], n_train: int) -> float:
    """Return the two-sided p-value for the null hypothesis that two heads are equally accurate.

    On one split: McNemar's exact test, on the rows that exactly one of the heads classifies correctly. On several: the
    corrected resampled t-test of Nadeau & Bengio on the differences in accuracy.

    Parameters
    ----------
    correct, others : sequence of ndarray of shape (n_test,), bool
        Per split, whether each test row is classified correctly by the one head and by the other.
    n_train : int
        Training rows per split.
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
    """Return p-values adjusted for multiple comparisons (Holm 1979, "A simple sequentially rejective test procedure")."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(p) for p in adjusted]


def _corrected_half(values: Sequence[float], n_train: int, n_test: int) -> float:
    times = len(values)
    return float(stats.t.ppf(0.975, times - 1) * np.std(values, ddof=1) * math.sqrt(1 / times + n_test / n_train))
