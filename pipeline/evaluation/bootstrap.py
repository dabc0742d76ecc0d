"""Bootstrap intervals: how much metrics vary when the test rows, or their groups, are resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from .held_out import effective_units
from .metrics import METRICS, Metric, figures_of, value_of
from .weighted_rows import WeightedRows

NUMBERS = 1 << 22  # weights held in memory at once


def bootstrap_intervals(
    y: np.ndarray,
    probabilities: np.ndarray,
    seed: int = 0,
    draws: int | None = None,
    units: np.ndarray | None = None,
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap intervals of metrics: expanded percentiles (Hesterberg 2015), and Student's t on the logit scale.

    Draws of few rows or groups are lopsided: near an end of a metric's values they reach too little away from it, and not at all
    where groups are fewer than an interval needs. So it also holds Student's t interval by the draws' standard error, less their
    bias; see `_by_logits`.

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
    units : ndarray of shape (n_samples,), int, optional
        The group of each row, numbered from 0. Whole groups are drawn, since rows of a group are alike (the cluster bootstrap: Davison
        and Hinkley 1997, section 3.8); by default, single rows.
    metrics : sequence of Metric

    Returns
    -------
    intervals : dict
        Name → (low, high) of each of them that has an interval. A draw that lacks one of the classes in `y`
        counts for every metric that is defined on it. nan if the metric is undefined, there is one group, or the metric is
        the same in all draws (for example because the head makes no mistakes), since resampling then does not show how much
        it varies.
    """
    random, n = np.random.default_rng(seed), len(y)
    of_row = np.arange(n) if units is None else units
    n_units = int(of_row.max(initial=-1)) + 1
    tail = tail_of(effective_units(of_row)) if n_units > 1 else math.nan
    metrics = [each for each in metrics if each.interval]
    draws = draws or (1000 if n <= 5000 else 200)
    step = max(1, NUMBERS // max(n, 1))
    drawn: dict[str, list[np.ndarray]] = {}
    for first in range(0, draws, step):
        # How often each group is drawn, (draws, n_groups).
        times = random.multinomial(n_units, np.full(n_units, 1 / n_units), min(step, draws - first))
        rows = WeightedRows(y, probabilities, times.astype(np.float64)[:, of_row])
        for name, values in figures_of(metrics, rows).items():
            drawn.setdefault(name, []).append(values)
    found = {}
    for metric in metrics:
        values = np.concatenate(drawn[metric.name])
        values = values[np.isfinite(values)]
        if (
            n_units < 2 or not len(values) or np.ptp(values) < 1e-12
        ):  # smaller differences are rounding errors of a constant
            found[metric.name] = math.nan, math.nan
            continue
        low, high = np.quantile(values, (tail, 1 - tail))
        value = value_of(metric, y, probabilities)
        # A draw has some groups twice, whose pairs are ranked better than others: less the draws' bias.
        centre = 2 * value - float(np.mean(values))
        centre = centre if metric.bounds[0] < centre < metric.bounds[1] else value
        if metric.bounds[0] < centre < metric.bounds[1]:
            ends = _by_logits(centre, half_of(values, tail), metric.bounds)
            low, high = min(low, ends[0]), max(high, ends[1])
        found[metric.name] = float(low), float(high)
    return found


def _by_logits(value: float, half: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the interval whose ends are as far from a value, on the logit scale, as `half` is at the value (the delta method).

    Draws of a figure near an end of its values are less lopsided there, and no interval leaves them (Pepe 2003, "The statistical
    evaluation of medical tests for classification and prediction", for the area under the ROC curve; Boyd, Eng and Page 2013, "Area
    under the precision-recall curve"). A log loss, which has no upper end, is that of the geometric mean chance ``exp(-loss)``.
    """
    low, high = bounds
    sides = np.array([-half, half])
    if math.isinf(high):
        ends = low + np.logaddexp(0, math.log(math.expm1(value - low)) - sides / math.expm1(low - value))
    else:
        share, width = (value - low) / (high - low), high - low
        ends = low + width * special.expit(special.logit(share) + sides / (width * share * (1 - share)))
    return float(ends[0]), float(ends[1])


def half_of(drawn: np.ndarray, tail: float) -> float:
    """Return half the width of Student's t interval by the standard error of draws, (n_draws,), given `tail_of` their units."""
    return -float(stats.norm.ppf(tail) * np.std(drawn))


def tail_of(units: float) -> float:
    """Return the share of draws below an interval, less than 0.025 if there are few units.

    Hesterberg 2015, "What teachers should know about the bootstrap": draws of few units vary too little, by ``sqrt((units - 1) / units)``, and as their spread is estimated itself, Student's t
    takes the normal distribution's place.
    """
    return float(stats.norm.cdf(-math.sqrt(units / (units - 1)) * stats.t.ppf(0.975, units - 1)))
