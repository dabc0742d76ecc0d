"""Intervals of shares, and paired tests of two heads, on one split or on several random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .held_out import MIN_REPEATS, HeldOut, effective_units
from .metrics import Metric, value_of
from .paired_tests import counts_apart, p_value_of_split, swapped_differences

NEEDS = f"needs {MIN_REPEATS} repeats"  # shown in their place
_Z = float(stats.norm.ppf(0.975))
_SWAPS = 200  # random swaps per split, of which only the variance is used


def agresti_coull(share: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `n` rows of Agresti & Coull 1998, "Approximate is better than 'exact'".

    Its middle is that of Wilson's, as if about two more rows were right and two wrong, and it contains Wilson's, which holds an
    accuracy of 0.99 too rarely on 50 rows (0.895; this one holds any accuracy from 0.5 to 0.995 with a chance of 0.934 or more).
    """
    total = n + _Z**2
    centre = (n * share + _Z**2 / 2) / total
    half = _Z * math.sqrt(centre * (1 - centre) / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def effective_rows(right: np.ndarray, units: np.ndarray, quantile: float = 0.975) -> float:
    """Return the number of independent rows whose share would be known as well as that of rows in groups.

    Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts estimated from
    survey data": ``p (1 - p) / v`` times the square of the ratio of the normal distribution's quantile to that of Student's t, at
    most the number of rows, which groups that differ no more than rows do. The variance v is that of the delete-one-group
    jackknife, and t has the degrees of freedom of the effective number of groups, so that few or unequal groups give wide intervals.

    Parameters
    ----------
    right : ndarray of shape (n_rows,), bool
    units : ndarray of shape (n_rows,), int
        The group of each row, numbered from 0.
    quantile : float
        Of the normal distribution, at which an interval ends.

    Returns
    -------
    rows : float
        The number of rows, if each is a group; of groups, if they do not differ; 0 for a single group, which does not show how much groups vary.
    """
    n, sizes = len(right), np.bincount(units)
    if len(sizes) == n:
        return float(n)
    if len(sizes) < 2:
        return 0.0
    p = float(right.mean())
    without = np.bincount(units, right - p) / (n - sizes)  # what p changes by without each group
    variance = (len(sizes) - 1) / len(sizes) * float(without @ without)
    groups = effective_units(units)
    rows = p * (1 - p) / variance if variance > 1e-12 else groups
    return min(float(n), float(rows * (stats.norm.ppf(quantile) / stats.t.ppf(quantile, groups - 1)) ** 2))


def accuracy_interval(accuracies: Sequence[float], n_train: int, n_test: int) -> tuple[float, float] | None:
    """Return a 95 % interval for the accuracy; None for two splits, too few to estimate a spread.

    For one split: `agresti_coull`. For several random splits of the same rows: see `share_interval`.

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
    if len(accuracies) == 1:
        return agresti_coull(accuracies[0], n_test)
    if len(accuracies) < MIN_REPEATS:
        return None
    return share_interval(accuracies, n_test, 1 / len(accuracies) + n_test / n_train)


def share_interval(shares: Sequence[float], rows: float, c: float) -> tuple[float, float]:
    """Return a 95 % interval for the mean of a share of rows over random splits.

    Student's t with the variance corrected for overlapping training sets, ``s^2 c`` with ``c = 1/J + n_test/n_train`` of J
    splits (Nadeau & Bengio 2003, "Inference for the generalization error"), and never narrower than the number of rows allows.

    Parameters
    ----------
    shares : sequence of float
        One per split, in [0, 1].
    rows : float
        The effective number of test rows per split.
    c : float
        See `correction`.

    Returns
    -------
    low, high : float
        In [0, 1].

    Notes
    -----
    The floor: s^2 estimates the variance of one split's share p. This share is a mean over n_test rows that are right or
    wrong, so its variance is at least p (1 - p) / n_test, which needs no estimate beyond p. With few splits, s^2 is often far
    below that by chance, and zero if the splits agree. Substituted for s^2, it gives p (1 - p) c / n_test: the variance of a
    share of n_test / c rows, whose interval is `agresti_coull`'s. The returned interval contains both.
    """
    mean, half = float(np.mean(shares)), corrected_half(shares, c)
    low, high = agresti_coull(mean, rows / c)
    return max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))


def correction(tested: Sequence[HeldOut]) -> float:
    """Return Nadeau & Bengio's c: the variance of a mean over random splits, as a multiple of one split's variance.

    It has the ratio of test to training rows; where whole groups are drawn, of groups.
    """
    return 1 / len(tested) + float(np.mean([each.n_units / each.n_learn for each in tested]))


def corrected_half(values: Sequence[float], c: float) -> float:
    """Return half the width of the corrected t interval of the mean of one value per split."""
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) * math.sqrt(c))


@dataclass(frozen=True)
class Difference:
    """How far one head is behind another in a metric.

    Attributes
    ----------
    behind : float
        Mean over splits; positive if the other head is worse, whichever direction is better.
    interval : (float, float) or None
        95 % interval; None for two splits, or if the heads never differ in what the metric sees.
    p_value : float or None
        Two-sided, for the null hypothesis that both are equally good; None for two splits, or if the metric is undefined.
    test : str
        Name of the test.
    """

    behind: float
    interval: tuple[float, float] | None
    p_value: float | None
    test: str


def compare_pair(
    metric: Metric, tested: Sequence[HeldOut], ones: Sequence[np.ndarray], others: Sequence[np.ndarray]
) -> Difference:
    """Return how far the second of two heads is behind the first.

    On one split: an exact or permutation test; see `p_value_of_split`. On three or more: the corrected resampled t-test of
    Nadeau & Bengio on the differences, with a p-value no smaller than the number of rows, or of groups, allows.

    Parameters
    ----------
    metric : Metric
    tested : sequence of HeldOut
        One per split.
    ones, others : sequence of ndarray of shape (n_test, n_classes)
        Each head's probabilities for the test rows of each split.

    Notes
    -----
    The floor is that of `share_interval`: if the heads are equally good, one split's difference has at least the variance
    that it has when they swap their predictions for random rows, or groups. See `_variance`. On one split the interval has this
    variance, and Student's t for the effective number of units; it is about Agresti and Min's for accuracy, and a little wider
    where one head is better.
    """
    of = [[value_of(metric, t.y, p) for t, p in zip(tested, head, strict=True)] for head in (ones, others)]
    differences = (np.array(of[0]) - of[1]) * (1 if metric.greater_is_better else -1)
    behind = float(np.mean(differences))
    if math.isnan(behind):
        return Difference(behind, None, None, "")
    if len(tested) == 1:
        name, p_value = p_value_of_split(metric, tested[0], ones[0], others[0])
        half = math.sqrt(_variance(metric, tested, ones, others, 1.0))
        half *= float(stats.t.ppf(0.975, effective_units(tested[0].units) - 1))  # nan for a single unit
        return Difference(behind, (behind - half, behind + half) if half > 1e-12 else None, p_value, name)
    name = "the corrected resampled t-test"
    if len(tested) < MIN_REPEATS:
        return Difference(behind, None, None, name)
    c, freedom = correction(tested), len(tested) - 1
    error = float(np.std(differences, ddof=1) * math.sqrt(c))
    least = math.sqrt(_variance(metric, tested, ones, others, c) * c)
    if not max(error, least):  # the heads have never differed in what the metric sees
        return Difference(behind, None, 1.0, name)
    half = max(stats.t.ppf(0.975, freedom) * error, _Z * least)
    p_values = [
        2 * law(abs(behind) / e) for law, e in ((lambda t: stats.t.sf(t, freedom), error), (stats.norm.sf, least)) if e
    ]
    return Difference(behind, (behind - half, behind + half), float(max(p_values)), name)


def _variance(
    metric: Metric, tested: Sequence[HeldOut], ones: Sequence[np.ndarray], others: Sequence[np.ndarray], c: float
) -> float:
    """Return the variance of one split's difference between equally good heads.

    A row adds 1, 0 or -1 to a difference in accuracy, so its variance is q / n_test, with q the share of rows that exactly
    one head classifies correctly; for groups, q is the mean square of a group's sum in units of the mean group's size. Of n
    units, q is taken as (n q + 1) / (n + 2), so heads that never differ are not taken to be equal with certainty (Agresti & Min
    2005, "Simple improved confidence intervals for comparing matched proportions"); n is the effective number of test units
    of all splits together. For other metrics, the variance is that of random swaps.
    """
    splits = list(zip(tested, ones, others, strict=True))
    if metric.interval != "share":
        return float(np.mean([np.mean(swapped_differences(metric, *each, _SWAPS) ** 2) for each in splits]))
    units = float(np.mean([each.n_units for each in tested]))
    q = np.mean([np.mean((counts_apart(*each) * each[0].n_units / len(each[0].y)) ** 2) for each in splits])
    n = units / c
    return float((n * q + 1) / (n + 2) / units)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons (Holm 1979, "A simple sequentially rejective test procedure")."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(p) for p in adjusted]


def with_interval(value: float | None, interval: Sequence[float] | None, repeats: int = 1, digits: int = 3) -> str:
    """Return a value for a table with its interval, or with what an interval would need."""
    if value is None:
        return "-"
    told = f"{value:.{digits}f}"
    if interval:
        return f"{told} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
    return f"{told} ({NEEDS})" if 1 < repeats < MIN_REPEATS else told


def told_p(p_value: float) -> str:
    """Return a p-value as text; a small one as its bound."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
