"""Choice of the probability from which on rows are predicted as the positive class."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import stats

from features.errors import called, counted
from features.runtime.log import log

from ..metrics import find_metric
from ..significance import effective_rows
from ..weighted_rows import WeightedRows
from .aim import Aim

CONFIDENCE = 0.9  # with which a sensitivity or specificity is reached on new rows
_FROM_ENDS = 0.01  # of a gap between two probabilities: how far a threshold stays from each


def choose_threshold(aim: Aim, positive: np.ndarray, chances: np.ndarray, units: np.ndarray | None = None) -> float:
    """Return the probability from which on rows are predicted as positive.

    Parameters
    ----------
    aim : Aim
    positive : ndarray of shape (n_samples,), bool
    chances : ndarray of shape (n_samples,)
        Probabilities of the positive class.
    units : ndarray of shape (n_samples,), int, optional
        The group of each row, by which a sensitivity or specificity is known; by default, each row is a group.

    Notes
    -----
    A sensitivity is that of new rows, and is reached with a confidence of `CONFIDENCE`: if the threshold is the k-th highest
    probability of n positive rows, the share of all positive rows at or above it has the distribution Beta(k, n + 1 - k), whatever
    the distribution of probabilities (Wilks 1941, "Determination of sample sizes for setting tolerance limits"). The smallest k
    is taken whose Beta distribution lies above the sensitivity with this confidence; likewise for a specificity. With groups, n is the
    effective number of rows whose share k / n of all is as well known (Korn & Graubard 1998; see `effective_rows`).

    For a metric or a cost, all thresholds between two neighbouring probabilities decide alike. Among the best ones the threshold
    is the nearest to that which would be best if probabilities were true: the share of positives for balanced accuracy,
    1 / (1 + cost) for a cost (Elkan 2001, "The foundations of cost-sensitive learning"), and 1 / 2 otherwise. Where there are few
    mistakes, the best ones reach far, and their middle lies far from it.
    """
    if aim.way in ("sensitivity", "specificity"):
        return _ranked(aim, positive, chances, units)
    edges = np.concatenate([[0.0], np.unique(chances), [1.0]])
    counts = np.stack([_at_least(chances[side], edges[1:]) for side in (positive, ~positive)], axis=1)
    totals = positive.sum(), (~positive).sum()
    if aim.way == "cost":
        assert aim.value is not None
        gain, usual = -(aim.value * (totals[0] - counts[:, 0]) + counts[:, 1]), 1 / (1 + aim.value)
    else:
        assert aim.metric is not None
        gain = _metric_of_counts(aim.metric, counts, totals)
        usual = float(positive.mean()) if aim.metric == "balanced_accuracy" else 0.5
    best = np.flatnonzero(gain >= np.nanmax(gain) - 1e-12)
    lows, highs = edges[best], edges[best + 1]  # thresholds in (low, high] decide alike
    # An image at the very end of a gap would be decided by rounding, in an export or on another engine.
    apart = (highs - lows) * _FROM_ENDS
    nearest = np.where((lows < usual) & (usual <= highs), usual, np.clip(usual, lows + apart, highs - apart))
    return float(nearest[np.abs(nearest - usual).argmin()])


def _at_least(chances: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return how many probabilities are at or above each threshold."""
    return len(chances) - np.searchsorted(np.sort(chances), thresholds)


def _metric_of_counts(metric: str, counts: np.ndarray, totals: tuple[int, int]) -> np.ndarray:
    """Return a metric for numbers of positive and of other rows that are predicted as positive, (n_thresholds, 2).

    Four rows, one for each pair of true and predicted class, count as often as the pair occurs.
    """
    y, predicted = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    hits, alarms = counts.T
    weights = np.stack([hits, totals[0] - hits, alarms, totals[1] - alarms], axis=1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return find_metric(metric).of(WeightedRows(y, np.eye(2)[predicted], weights))


def _ranked(aim: Aim, positive: np.ndarray, chances: np.ndarray, units: np.ndarray | None) -> float:
    """Return the threshold for a sensitivity or specificity; see `choose_threshold`."""
    assert aim.value is not None
    sign = 1 if aim.way == "sensitivity" else -1
    own = np.flatnonzero(positive == (sign == 1))
    own = own[np.argsort(-sign * chances[own], kind="stable")]  # the surest first
    among = np.arange(len(own)) if units is None else np.unique(units[own], return_inverse=True)[1]
    fewest = max(1, math.floor(aim.value * len(own)))
    k = next((k for k in range(fewest, len(own) + 1) if _reached(k, among) >= aim.value), None)
    if k is None:
        k = len(own)
        _warn_of_few(aim, among, "image" if units is None else "group")
    edge = float(chances[own[k - 1]])
    return edge if sign == 1 else float(np.nextafter(edge, np.inf))


def _reached(k: int, units: np.ndarray) -> float:
    """Return the share of new rows that is reached with a confidence of `CONFIDENCE` if the first k of these rows are right."""
    share, rows = k / len(units), effective_rows(np.arange(len(units)) < k, units, CONFIDENCE)
    return float(stats.beta.ppf(1 - CONFIDENCE, rows * share, rows * (1 - share) + 1)) if rows else 0.0


def _warn_of_few(aim: Aim, units: np.ndarray, unit: str) -> None:
    """Warn that there are too few rows, or groups, of a class."""
    assert aim.value is not None
    rows = 1 if unit == "image" else 2
    fewest = max(2, math.ceil(math.log(1 - CONFIDENCE) / math.log(aim.value)))
    needed = next(n for n in itertools.count(fewest) if _reached(rows * n, np.repeat(np.arange(n), rows)) >= aim.value)
    got = int(units.max()) + 1
    confidence = 1 - aim.value ** effective_rows(np.ones(len(units), bool), units, CONFIDENCE)
    log.warning(
        f"{called(aim.way)} {aim.value:g} needs at least {counted(needed, unit)} of its class in train and val; got {got}. All "
        f"images of the class are on the right side of the threshold, which reaches it with a confidence of only {confidence:.2f}"
    )
