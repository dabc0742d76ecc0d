"""Bootstrap intervals: how much metrics vary when the test rows, or their groups, are resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .metrics import METRICS, figures_of
from .weighted_rows import WeightedRows

_NUMBERS = 1 << 22  # weights held in memory at once


def bootstrap_intervals(
    y: np.ndarray,
    probabilities: np.ndarray,
    seed: int = 0,
    draws: int | None = None,
    groups: Sequence[str | bytes] | None = None,
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap percentile intervals of metrics (Efron and Tibshirani 1993, chapter 13).

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
        Rows sum to one.
    seed : int
        The same seed draws the same rows.
    draws : int, optional
        Number of resamples; by default 1,000, or 200 for more than 5,000 rows.
    groups : sequence of length n_samples, optional
        The group of each row. Whole groups are drawn, since rows of a group are alike (the cluster bootstrap: Davison and
        Hinkley 1997, section 3.8); by default, single rows.

    Returns
    -------
    intervals : dict
        Name → (low, high) of each of `METRICS` that has an interval. A draw that lacks one of the classes in `y`
        counts for every metric that is defined on it. nan if the metric is undefined, or the same in all draws (for example
        because the head makes no mistakes), since resampling then does not show how much it varies.
    """
    random, n = np.random.default_rng(seed), len(y)
    of_row = np.arange(n) if groups is None else np.unique(np.array(groups, object), return_inverse=True)[1]
    units = int(of_row.max(initial=-1)) + 1
    draws = draws or (1000 if n <= 5000 else 200)
    step = max(1, _NUMBERS // max(n, 1))
    drawn: dict[str, list[np.ndarray]] = {}
    for first in range(0, draws, step):
        # How often each group is drawn, (draws, n_groups).
        weights = random.multinomial(units, np.full(units, 1 / units), min(step, draws - first)).astype(np.float64)
        rows = WeightedRows(y, probabilities, weights[:, of_row])
        for name, values in figures_of((each for each in METRICS if each.interval), rows).items():
            drawn.setdefault(name, []).append(values)
    found = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        varies = len(values) and np.ptp(values) > 1e-12  # smaller differences are rounding errors of a constant
        low, high = np.quantile(values, (0.025, 0.975)) if varies else (np.nan, np.nan)
        found[name] = float(low), float(high)
    return found
