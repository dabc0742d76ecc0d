"""Intervals of the metrics on the test rows of one split or of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bootstrap import bootstrap_intervals
from .held_out import MIN_REPEATS, HeldOut
from .metrics import METRICS, Metric, value_of
from .significance import agresti_coull, corrected_half, correction, effective_rows, share_interval

Ends = tuple[float, float]


def intervals_of(
    y: np.ndarray, probabilities: np.ndarray, units: np.ndarray | None = None, metrics: Sequence[Metric] = METRICS
) -> dict[str, Ends]:
    """Return 95 % intervals of metrics, each by the method that the table of metrics names.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
        Rows sum to one.
    units : ndarray of shape (n_samples,), int, optional
        The group of each row, numbered from 0. Agresti and Coull's interval is then of the effective number of rows, and the bootstrap
        draws whole groups. By default, each row is a group.
    metrics : sequence of Metric

    Returns
    -------
    intervals : dict
        Name → (low, high) of each of them that has an interval; nan if undefined.
    """
    units = np.arange(len(y)) if units is None else units
    rows = effective_rows(probabilities.argmax(axis=1) == y, units)
    shares = {m.name: agresti_coull(value_of(m, y, probabilities), rows) for m in metrics if m.interval == "share"}
    drawn = bootstrap_intervals(
        y, probabilities, units=units, metrics=[m for m in metrics if m.interval == "bootstrap"]
    )
    return shares | drawn


def interval_of_mean(
    metric: Metric,
    values: Sequence[float],
    intervals: Sequence[Ends],
    tested: Sequence[HeldOut],
    probabilities: Sequence[np.ndarray],
) -> Ends | None:
    """Return a 95 % interval of a metric's mean over random splits; of one split, that split's own.

    For three or more splits: Student's t with a variance corrected for overlapping training sets; see `share_interval`. It is
    never narrower than the number of rows allows: it contains the mean of the splits' own intervals, shrunk as the standard
    error of that mean is below that of one split.

    Parameters
    ----------
    metric : Metric
    values : sequence of float
        One per split.
    intervals : sequence of (float, float)
        Each split's own, of `intervals_of`.
    tested : sequence of HeldOut
    probabilities : sequence of ndarray of shape (n_test, n_classes)

    Returns
    -------
    low, high : float or None
        None for two splits, and where an interval is undefined.
    """
    if len(values) == 1:
        return None if np.isnan(intervals[0]).any() else intervals[0]
    if len(values) < MIN_REPEATS or np.isnan(values).any():
        return None
    c = correction(tested)
    if metric.interval == "share":
        rows = [effective_rows(p.argmax(axis=1) == t.y, t.units) for t, p in zip(tested, probabilities, strict=True)]
        return share_interval(values, float(np.mean(rows)), c)
    own = np.array([ends for ends in intervals if not np.isnan(ends).any()])
    if not len(own):  # no draw of rows has shown how much it varies
        return None
    known = np.array([v for v, ends in zip(values, intervals, strict=True) if not np.isnan(ends).any()])
    mean, half = float(np.mean(values)), corrected_half(values, c)
    below, above = np.sqrt(c) * np.mean(known - own[:, 0]), np.sqrt(c) * np.mean(own[:, 1] - known)
    return mean - max(half, below), mean + max(half, above)
