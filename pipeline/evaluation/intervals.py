"""Intervals of the metrics on one split's test rows, each by the method that the table of metrics names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bootstrap import bootstrap_intervals
from .metrics import METRICS, evaluate
from .significance import wilson


def intervals_of(
    y: np.ndarray, probabilities: np.ndarray, groups: Sequence[str | bytes] | None = None
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of metrics.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
        Rows sum to one.
    groups : sequence of length n_samples, optional
        The group of each row. All intervals then resample whole groups. If all resamples give the same share, for example
        because the head makes no mistakes, its interval is Wilson's with the number of groups as the number of rows.

    Returns
    -------
    intervals : dict
        Name → (low, high) of each of `METRICS` that has an interval; nan if undefined.
    """
    values, drawn = evaluate(y, probabilities), bootstrap_intervals(y, probabilities, groups=groups)
    if groups is None:
        shares = {each.name for each in METRICS if each.interval == "wilson"}
    else:
        shares = {each.name for each in METRICS if each.interval == "wilson" and np.isnan(drawn[each.name][0])}
    n = len(y) if groups is None else len(set(groups))
    return drawn | {name: wilson(values[name], n) for name in shares}
