"""Paired tests of two heads on the test rows of one split: exact sign flips, random swaps, and DeLong's."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from .bootstrap import NUMBERS
from .held_out import HeldOut
from .metrics import Metric, figures_of, value_of
from .weighted_rows import WeightedRows

SWAPS = 2000  # random swaps of a test


def p_value_of_split(metric: Metric, tested: HeldOut, one: np.ndarray, other: np.ndarray) -> tuple[str, float]:
    """Return the name of the test that fits a metric, and its two-sided p-value.

    Parameters
    ----------
    metric : Metric
    tested : HeldOut
    one, other : ndarray of shape (n_test, n_classes)
        Probabilities of two heads for the same rows.

    Returns
    -------
    name : str
    p_value : float
        nan if the metric is undefined.
    """
    if metric.interval == "share":
        name = "an exact sign-flip test of whole groups" if tested.grouped else "McNemar's exact test"
        return name, flip_test(counts_apart(tested, one, other))
    if metric.name == "roc_auc" and one.shape[1] == 2 and not tested.grouped:
        p_value = delong_test(tested.y == 1, one[:, 1], other[:, 1])
        if not math.isnan(p_value):
            return "DeLong's test", p_value
    name = f"a permutation test{' of whole groups' if tested.grouped else ''}"
    return name, swap_test(metric, tested, one, other)


def counts_apart(tested: HeldOut, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how many more rows of each unit the one head classifies correctly than the other, (n_units,), int."""
    apart = (one.argmax(axis=1) == tested.y).astype(int) - (other.argmax(axis=1) == tested.y)
    return np.bincount(tested.units, apart, tested.n_units).round().astype(int)


def flip_test(apart: np.ndarray) -> float:
    """Return the exact two-sided p-value of differences whose signs are random under the null hypothesis.

    The p-value is the share of all assignments of signs whose sum is at least as far from zero as the actual one. For
    differences of 1 and -1 it is McNemar's exact test.

    Parameters
    ----------
    apart : ndarray of shape (n_units,), int
    """
    sizes = np.abs(apart[apart != 0])
    ones = int(np.sum(sizes == 1))
    chances = stats.binom.pmf(np.arange(ones + 1), ones, 0.5)  # of each sum of the positive differences, from 0
    for size in sizes[sizes > 1].tolist():
        none = np.zeros(size)
        chances = (np.concatenate([chances, none]) + np.concatenate([none, chances])) / 2
    sums = 2 * np.arange(len(chances)) - sizes.sum()
    return min(1.0, float(chances[np.abs(sums) >= abs(apart.sum())].sum()))


def swap_test(metric: Metric, tested: HeldOut, one: np.ndarray, other: np.ndarray) -> float:
    """Return the two-sided p-value of a permutation test; nan if the metric is undefined.

    If the heads are equally good, it makes no difference which of them predicted a row, or a whole group of rows (Yeh 2000,
    "More accurate tests for the statistical significance of result differences").
    """
    found = abs(value_of(metric, tested.y, one) - value_of(metric, tested.y, other))
    if math.isnan(found):
        return math.nan
    differences = swapped_differences(metric, tested, one, other, SWAPS)
    return float((1 + np.sum(np.abs(differences) >= found - 1e-12)) / (1 + SWAPS))


def swapped_differences(
    metric: Metric, tested: HeldOut, one: np.ndarray, other: np.ndarray, swaps: int, seed: int = 0
) -> np.ndarray:
    """Return differences of a metric between two heads whose predictions of random units are swapped, (swaps,).

    For metrics of the rows' order, each head's probabilities are replaced by their ranks: swapped heads then rank their rows
    as well as unswapped ones, however confident each of them is. Ranks of either head have the same mean, whatever effects its
    units have, which takes one of n degrees of freedom: the differences are multiplied by ``sqrt(n / (n - 1))``.
    """
    wider = 1.0
    if metric.ranks:
        one, other = stats.rankdata(one, axis=0), stats.rankdata(other, axis=0)
        wider = math.sqrt(tested.n_units / max(1, tested.n_units - 1))
    random, y, both = np.random.default_rng(seed), np.tile(tested.y, 2), np.concatenate([one, other])
    step, found = max(1, NUMBERS // len(y)), []
    for first in range(0, swaps, step):
        kept = random.integers(0, 2, (min(step, swaps - first), tested.n_units)).astype(np.float64)[:, tested.units]
        weights = np.hstack([kept, 1 - kept])
        sides = [figures_of([metric], WeightedRows(y, both, each))[metric.name] for each in (weights, 1 - weights)]
        found.append(wider * (sides[0] - sides[1]))
    return np.concatenate(found)


def delong_test(positive: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Return the two-sided p-value for equal areas under two ROC curves of the same rows.

    DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating characteristic
    curves". The components of the areas are computed from midranks (Sun and Xu 2014, "Fast implementation of DeLong's algorithm
    for comparing the areas under correlated receiver operating characteristic curves").

    Parameters
    ----------
    positive : ndarray of shape (n_rows,), bool
    one, other : ndarray of shape (n_rows,)
        Scores of two heads.

    Returns
    -------
    p_value : float
        1 for equal areas; nan if a side has fewer than two rows, or no row tells how much the difference varies.
    """
    n_ups, n_downs = int(positive.sum()), int((~positive).sum())
    if min(n_ups, n_downs) < 2:
        return math.nan
    of_ups, of_downs = (
        np.subtract(*sides) for sides in zip(*(_components(positive, s) for s in (one, other)), strict=True)
    )
    difference = float(of_ups.mean())
    if abs(difference) < 1e-12:
        return 1.0
    error = math.sqrt(np.var(of_ups, ddof=1) / n_ups + np.var(of_downs, ddof=1) / n_downs)
    return 2 * float(stats.norm.sf(abs(difference) / error)) if error > 1e-12 else math.nan


def _components(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each positive row's share of negative rows below it, and each negative row's share of positive rows above it."""
    ranks, n_ups, n_downs = stats.rankdata(scores), positive.sum(), (~positive).sum()
    ups = (ranks[positive] - stats.rankdata(scores[positive])) / n_downs
    downs = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / n_ups
    return ups, downs
