"""Intervals of the metrics of one split's test rows, each made as the table of metrics says."""

from __future__ import annotations

import numpy as np

from .bootstrap import bootstrap_intervals
from .metrics import METRICS, evaluate
from .significance import wilson


def intervals_of(y: np.ndarray, probabilities: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of metrics.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
        Rows sum to one.

    Returns
    -------
    intervals : dict
        Name → (low, high) of each of `METRICS` that has an interval; nan where it is undefined.
    """
    values, drawn = evaluate(y, probabilities), bootstrap_intervals(y, probabilities)
    return {
        each.name: wilson(values[each.name], len(y)) if each.interval == "wilson" else drawn[each.name]
        for each in METRICS
        if each.interval
    }
