"""Choice of the probability from which on rows are predicted as the positive class."""

from __future__ import annotations

import math

import numpy as np

from features.errors import called
from features.runtime.log import log

from ..evaluation.metrics import find_metric
from ..evaluation.weighted_rows import WeightedRows
from .aim import Aim


def choose_threshold(aim: Aim, positive: np.ndarray, chances: np.ndarray) -> float:
    """Return the probability from which on rows are predicted as positive.

    Parameters
    ----------
    aim : Aim
    positive : ndarray of shape (n_samples,), bool
    chances : ndarray of shape (n_samples,)
        Probabilities of the positive class.

    Notes
    -----
    A sensitivity s is that of new rows. If k of n positive rows lie at or above the threshold, a new one does so with
    probability k / (n + 1), whatever the distribution (order statistics; Vovk, Gammerman and Shafer 2005, "Algorithmic learning
    in a random world", section 2.2). The threshold is the highest with k / (n + 1) >= s; likewise, for a specificity, the lowest.

    For a metric or a cost, all thresholds between two neighbouring probabilities decide alike. Among the best ones the threshold
    is that which would be best if probabilities were true, if it is one of them: the share of positives for balanced accuracy,
    1 / (1 + cost) for a cost (Elkan 2001, "The foundations of cost-sensitive learning"), and 1 / 2 otherwise. If it is not, it
    is the middle of the nearest gap.
    """
    if aim.way in ("sensitivity", "specificity"):
        return _ranked(aim, positive, chances)
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
    inside = (lows < usual) & (usual <= highs)
    if inside.any():
        return usual
    middles = (lows + highs) / 2
    return float(middles[np.abs(middles - usual).argmin()])


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


def _ranked(aim: Aim, positive: np.ndarray, chances: np.ndarray) -> float:
    """Return the threshold for a sensitivity or specificity; see `choose_threshold`."""
    assert aim.value is not None
    wanted = np.sort(chances[positive])[::-1] if aim.way == "sensitivity" else np.sort(chances[~positive])
    needed = math.ceil(aim.value * (len(wanted) + 1) - 1e-9)
    if needed > len(wanted):
        enough = math.ceil(aim.value / (1 - aim.value) - 1e-9)
        log.warning(
            f"{called(aim.way)} {aim.value:g} needs at least {enough} images of its class in train and val; got {len(wanted)}. "
            f"The threshold lets all of them through, for which {len(wanted) / (len(wanted) + 1):.3f} is to be expected"
        )
        needed = len(wanted)
    edge = float(wanted[needed - 1])
    return edge if aim.way == "sensitivity" else float(np.nextafter(edge, np.inf))
