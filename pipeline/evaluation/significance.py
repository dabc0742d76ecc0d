"""Intervals of accuracies, and paired tests of the difference between two heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MIN_REPEATS = 3  # the fewest random splits for which an interval or a test is given
NEEDS = f"needs {MIN_REPEATS} repeats"  # shown in their place
_Z = float(stats.norm.ppf(0.975))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `n` rows (Wilson 1927, "Probable inference"); see Newcombe 1998.

    It contains every p for which ``|share - p| <= 1.96 sqrt(p (1 - p) / n)``, so its width is positive even at 0 and 1.
    """
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_interval(accuracies: Sequence[float], n_train: int, n_test: int) -> tuple[float, float] | None:
    """Return a 95 % interval for the accuracy; None for two splits, too few to estimate a spread.

    For one split: Wilson's interval. For J random splits of the same rows: Student's t with the variance corrected for
    overlapping training sets, ``s^2 c`` with ``c = 1/J + n_test/n_train`` (Nadeau & Bengio 2003, "Inference for the
    generalization error"), and never narrower than the number of rows allows.

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

    Notes
    -----
    The floor: s^2 estimates the variance of one split's accuracy p. This accuracy is a mean over n_test rows that are right or
    wrong, so its variance is at least p (1 - p) / n_test, which needs no estimate beyond p. With few splits, s^2 is often far
    below that by chance, and zero if the splits agree. Substituted for s^2, it gives p (1 - p) c / n_test: the variance of a
    share of n_test / c rows, whose interval is Wilson's. The returned interval contains both.
    """
    mean, times = float(np.mean(accuracies)), len(accuracies)
    if times == 1:
        return wilson(mean, n_test)
    if times < MIN_REPEATS:
        return None
    half = stats.t.ppf(0.975, times - 1) * _corrected_error(accuracies, n_train, n_test)
    low, high = wilson(mean, n_test / _correction(times, n_train, n_test))
    return max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))


def difference_interval(
    correct: Sequence[np.ndarray], others: Sequence[np.ndarray], n_train: int
) -> tuple[float, float] | None:
    """Return a 95 % interval for the mean difference between two heads' accuracies on several random splits.

    None below three splits. Uses the corrected resampled t of Nadeau & Bengio with a floor; see `paired_test`.
    """
    if len(correct) < MIN_REPEATS:
        return None
    mean, error, least = _difference(correct, others, n_train)
    half = max(stats.t.ppf(0.975, len(correct) - 1) * error, _Z * least)
    return float(mean - half), float(mean + half)


def paired_test(correct: Sequence[np.ndarray], others: Sequence[np.ndarray], n_train: int) -> float | None:
    """Return the two-sided p-value for the null hypothesis that two heads are equally accurate; None for two splits.

    On one split: McNemar's exact test, on the rows that exactly one of the heads classifies correctly. On three or more:
    the corrected resampled t-test of Nadeau & Bengio on the differences in accuracy, with a p-value no smaller than the
    number of such rows allows.

    Parameters
    ----------
    correct, others : sequence of ndarray of shape (n_test,), bool
        Per split, whether each test row is classified correctly by the one head and by the other.
    n_train : int
        Training rows per split.

    Notes
    -----
    The floor is that of `accuracy_interval`: a row adds 1, 0 or -1 to a difference, so under the null hypothesis the variance
    of one split's difference is q / n_test, with q the share of rows that exactly one head classifies correctly. Of n rows,
    q is taken as (n q + 1) / (n + 2), so heads that never differ are not taken to be equal with certainty (Agresti & Min
    2005, "Simple improved confidence intervals for comparing matched proportions"); n is n_test / c, the effective number
    of test rows of all splits together.
    """
    if len(correct) == 1:
        first, second = int(np.sum(correct[0] & ~others[0])), int(np.sum(others[0] & ~correct[0]))
        return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0
    if len(correct) < MIN_REPEATS:
        return None
    mean, error, least = _difference(correct, others, n_train)
    estimated = 2 * stats.t.sf(abs(mean) / error, len(correct) - 1) if error else 0.0
    return float(max(estimated, 2 * stats.norm.sf(abs(mean) / least)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons (Holm 1979, "A simple sequentially rejective test procedure")."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(p) for p in adjusted]


def _correction(times: int, n_train: int, n_test: int) -> float:
    """Return Nadeau & Bengio's c: the variance of a mean over random splits, as a multiple of one split's variance."""
    return 1 / times + n_test / n_train


def _corrected_error(values: Sequence[float], n_train: int, n_test: int) -> float:
    """Return the standard error of the mean of one value per split."""
    return float(np.std(values, ddof=1) * math.sqrt(_correction(len(values), n_train, n_test)))


def _difference(
    correct: Sequence[np.ndarray], others: Sequence[np.ndarray], n_train: int
) -> tuple[float, float, float]:
    """Return the mean difference in accuracy over splits, its standard error, and the error's floor; see `paired_test`."""
    differences = [float(np.mean(a) - np.mean(b)) for a, b in zip(correct, others, strict=True)]
    n_test = len(correct[0])
    n = n_test / _correction(len(correct), n_train, n_test)
    discordant = float(np.mean([np.mean(a != b) for a, b in zip(correct, others, strict=True)]))
    least = math.sqrt((n * discordant + 1) / (n + 2) / n)
    return float(np.mean(differences)), _corrected_error(differences, n_train, n_test), least
