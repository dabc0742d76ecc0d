"""Slices: a metric on the test rows that share a value of a column, against all other test rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from .bootstrap import NUMBERS
from .held_out import HeldOut, effective_units
from .intervals import intervals_of
from .metrics import Metric, figures_of, value_of
from .significance import holm
from .weighted_rows import WeightedRows

MIN_ROWS = 10  # of a slice
MIN_GROUPS = 3  # fewer do not show how much groups vary
BINS, MOST_NUMBERS = 4, 12  # a column of more different numbers than that is cut into so many bins of equally many rows
_DRAWS, _FEW, _MANY = 5000, 1000, 2000  # random draws per test; fewer for more test rows than _MANY


@dataclass(frozen=True)
class Slice:
    """A metric on the test rows that share a column's value.

    Attributes
    ----------
    column, value : str
    rows, units : int
        Number of its test rows, and of the groups that they belong to; without groups, each row is a unit.
    metric, rest : float or None
        The metric on these rows, and on all others; None if undefined.
    interval : (float, float) or None
        95 % interval of the metric.
    p_value : float or None
        For the null hypothesis that the slice is like the rest, adjusted by Holm's method for all slices that were tested.
    """

    column: str
    value: str
    rows: int
    units: int
    metric: float | None
    rest: float | None
    interval: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True)
class Slices:
    """All slices that were looked at, by ascending p-value.

    Attributes
    ----------
    slices : tuple of Slice
    tests : int
        Number of tests; a column of two values needs one.
    left_out : dict of str to str
        Column → why it, or some of its values, were not looked at.
    """

    slices: tuple[Slice, ...]
    tests: int
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)


def find_slices(
    metric: Metric, tested: HeldOut, probabilities: np.ndarray, columns: Mapping[str, Sequence[str]]
) -> Slices:
    """Return the slices of test rows by each column.

    Each slice is tested against the rest: shares of rows by Fisher's exact test; other metrics, and all metrics of rows in
    groups, by a permutation test, in which rows or whole groups change sides at random. If a group has rows on both sides, the
    difference is divided by its bootstrap standard error over groups instead (Student's t, with the degrees of freedom of the
    effective number of groups on the side that has fewer).

    Parameters
    ----------
    metric : Metric
    tested : HeldOut
    probabilities : ndarray of shape (n_test, n_classes)
    columns : dict of str to sequence of length n_test
        Column → text of each test row.
    """
    found: list[Slice] = []
    p_values: list[float] = []
    places: list[int | None] = []  # of each slice's p-value
    left_out: dict[str, str] = {}
    for column, texts in columns.items():
        values, why = _values_of(np.array(texts, object))
        masks = {value: np.array(values == value) for value in dict.fromkeys(values)} if values is not None else {}
        kept = {value: mask for value, mask in masks.items() if _is_large(tested, mask)}
        if why or len(kept) < len(masks):
            few = f"{len(masks) - len(kept)} of its {len(masks)} values have fewer than {MIN_ROWS} test images"
            left_out[column] = why or few + (f" or {MIN_GROUPS} groups" if tested.grouped else "")
        paired = len(masks) == len(kept) == 2
        for number, (value, mask) in enumerate(kept.items()):
            one, p_value = _measure(metric, tested, probabilities, mask, (column, value))
            repeated = paired and number == 1
            if p_value is not None and not repeated:
                p_values.append(p_value)
            places.append(None if p_value is None else len(p_values) - 1)
            found.append(one)
    adjusted = holm(p_values)
    slices = [
        Slice(**{**vars(each), "p_value": None if place is None else adjusted[place]})
        for each, place in zip(found, places, strict=True)
    ]
    slices.sort(key=lambda each: math.inf if each.p_value is None else each.p_value)
    return Slices(tuple(slices), len(p_values), left_out)


def _values_of(texts: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return each row's value, numbers in bins, or None and why a column has no slices."""
    names = set(texts)
    if len(names) == 1:
        return None, "it has one value"
    numbers = _numbers_of(texts)
    if numbers is not None and len(names) > MOST_NUMBERS:
        edges = np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS))
        # With fewer digits, edges of long numbers, such as dates, would read alike, and their bins would be one.
        digits = next(n for n in range(6, 18) if len({f"{edge:.{n}g}" for edge in edges}) == len(edges))
        ends = [f"{edge:.{digits}g}" for edge in edges]
        told = [f"up to {ends[0]}", *map(" to ".join, itertools.pairwise(ends)), f"above {ends[-1]}"]
        return np.array(told, object)[np.searchsorted(edges, numbers)], ""
    if 2 * len(names) > len(texts):
        return None, f"it has {len(names)} different values on {len(texts)} test images"
    return texts, ""


def _numbers_of(texts: np.ndarray) -> np.ndarray | None:
    try:
        numbers = texts.astype(float)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _is_large(tested: HeldOut, mask: np.ndarray) -> bool:
    units = len(np.unique(tested.units[mask]))
    return mask.sum() >= MIN_ROWS and (units >= MIN_GROUPS or not tested.grouped)


def _measure(
    metric: Metric, tested: HeldOut, probabilities: np.ndarray, mask: np.ndarray, name: tuple[str, str]
) -> tuple[Slice, float | None]:
    """Return a slice, and the p-value against the rest of the rows before any adjustment, None if undefined."""
    value, rest = (value_of(metric, tested.y[some], probabilities[some]) for some in (mask, ~mask))
    units = tested.units[mask]
    among = np.unique(units, return_inverse=True)[1]
    interval = intervals_of(tested.y[mask], probabilities[mask], among, [metric])[metric.name]
    p_value = _p_value(metric, tested, probabilities, mask)
    return Slice(
        *name,
        rows=int(mask.sum()),
        units=len(np.unique(units)),
        metric=None if math.isnan(value) else value,
        rest=None if math.isnan(rest) else rest,
        interval=None if math.isnan(interval[0]) else interval,
        p_value=p_value,
    ), p_value


def _p_value(metric: Metric, tested: HeldOut, probabilities: np.ndarray, mask: np.ndarray) -> float | None:
    if metric.interval == "share" and not tested.grouped:
        right = probabilities.argmax(axis=1) == tested.y
        table = [[int(np.sum(right[some])), int(np.sum(~right[some]))] for some in (mask, ~mask)]
        return float(stats.fisher_exact(table).pvalue)
    found = abs(_differences(metric, tested, probabilities, mask[None].astype(float), 1 - mask[None])[0])
    random, n = np.random.default_rng(0), tested.n_units
    inside = np.zeros((1, n), bool)
    inside[0, tested.units[mask]] = True
    nested = not inside[0, tested.units[~mask]].any()  # no unit is on both sides
    drawn: list[np.ndarray] = []
    draws = _DRAWS if len(mask) <= _MANY else _FEW
    for some in np.array_split(np.arange(draws), max(1, draws * len(mask) // NUMBERS)):
        if nested:
            ones = random.permuted(np.repeat(inside, len(some), axis=0), axis=1)[:, tested.units].astype(float)
            drawn.append(_differences(metric, tested, probabilities, ones, 1 - ones))
        else:
            weights = random.multinomial(n, np.full(n, 1 / n), len(some))[:, tested.units].astype(float)
            drawn.append(_differences(metric, tested, probabilities, weights * mask, weights * ~mask))
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    if math.isnan(found) or len(values) < draws / 2 or np.ptp(values) < 1e-12:
        return None
    if nested:
        return float((1 + np.sum(np.abs(values) >= found - 1e-12)) / (1 + len(values)))
    # Of few groups, draws vary too little (see `tail_of`), and it is the side with fewer that the difference is known by.
    freedom = min(effective_units(tested.units[side]) for side in (mask, ~mask)) - 1
    if freedom < 1e-9:
        return None
    error = np.std(values, ddof=1) * math.sqrt((freedom + 1) / freedom)
    return float(2 * stats.t.sf(found / error, freedom))


def _differences(
    metric: Metric, tested: HeldOut, probabilities: np.ndarray, ones: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Return the metric under one kind of row weights minus that under another, (n_draws,)."""
    sides = [figures_of([metric], WeightedRows(tested.y, probabilities, each))[metric.name] for each in (ones, others)]
    return sides[0] - sides[1]
