"""About how long fits take, told before they begin: by each head's law, how fast this machine is, and the fits that are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from features.errors import RequestError, counted, listed
from features.runtime.log import log
from features.runtime.machine import cores
from features.runtime.progress import between, duration
from features.splits import SPLITS

from ...data.training_data import Features
from ...heads.contract import Cost, Extent, Pace
from ...heads.registry import find_head
from ..request import Fitting
from ..splitting import LEFT_OUT
from .fitting import FOLDS, grid_of

_LONG = 20  # seconds from which on it is said how long fits take
_SPREAD = 2  # a fit takes between one such part and so many times what is expected
_IMAGE, _CHANCE = 5e5, 4e3  # functions per test image, and per probability of it, of which 1,000 draws are figured


def expected_cost(head: str, features: Features, labels: np.ndarray, splits: np.ndarray, how: Fitting) -> Cost | None:
    """Return about how long choosing a head's settings takes, with the figures on test, and how long one fit; None if unknown.

    A head that will refuse these images takes no time.
    """
    found, test = find_head(head, how.settings), splits == SPLITS["test"]
    learn = ~test & (splits != LEFT_OUT)
    extent = Extent(
        images=int(learn.sum()),
        val=int((splits == SPLITS["val"]).sum()),
        test=int(test.sum()),
        views=1 if found.views == "mean" else features.views,
        features=features.X.shape[1],
        classes=len(np.unique(labels[learn])),
        folds=FOLDS if how.select == "cv" else 1,
    )
    pace = measure_pace()
    try:
        cost = found.cost(extent, grid_of(found, features, how), pace)
    except RequestError:
        return Cost(0.0, 0.0)
    figures = (_IMAGE + _CHANCE * extent.scores) * extent.test * pace.step
    return cost and Cost(cost.choosing + figures, cost.fitting)


@lru_cache(maxsize=1)
def measure_pace() -> Pace:
    """Measure how fast this machine computes, which takes some hundredths of a second."""
    rows, values = np.ones((512, 2048), np.float32), np.linspace(0, 1, 1 << 17)
    product = _quickest(lambda: rows @ rows.T) / (len(rows) * rows.size)
    return Pace(product, _quickest(lambda: np.exp(values)) / len(values), cores())


def _quickest(compute: Callable[[], object]) -> float:
    seconds = []
    for _ in range(5):  # the first one starts threads
        started = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class TimeEstimate:
    """How long fits will take: what is expected of those to come, times what the fits that are done took of theirs."""

    def __init__(self) -> None:
        self._coming: dict[str, list[float]] = {}
        self._done: dict[str, list[tuple[float, float]]] = {}  # head → what was expected, and what it took
        self._unknown: set[str] = set()

    def add(self, head: str, cost: Cost | None, fits: int = 2) -> None:
        """Expect a choice of a head's settings, and so many fits with them; None if nothing is known of it."""
        if cost is None:
            self._unknown.add(head)
        elif any(cost):
            self._coming.setdefault(head, []).append(cost.choosing + fits * cost.fitting)

    @contextmanager
    def timing(self, head: str) -> Iterator[None]:
        """Note how long the next fit of a head takes; if it fails, no more of that head are expected."""
        expected, started = self._coming.pop(head, []), time.perf_counter()
        yield
        if expected:
            self._done.setdefault(head, []).append((expected[0], time.perf_counter() - started))
            self._coming[head] = expected[1:]

    def rate(self) -> float | None:
        """Return how many fits per second those to come are expected to be; None if there are none that is known of."""
        left = self.left()
        return sum(map(len, self._coming.values())) / left if left else None

    def left(self) -> float:
        """Return the seconds that all fits to come are expected to take.

        A head takes what its own fits took; one without any what all that are done suggest, in proportion to their part of the whole.
        """
        coming = [(own, own) for fits in self._coming.values() for own in fits]
        every = [each for own in self._done.values() for each in own] + coming
        return sum(sum(fits) * _ratio(self._done.get(head, every)) for head, fits in self._coming.items() if fits)

    def tell(self) -> None:
        """Log how long the fits will take, if that is long, and which heads take most of it."""
        seconds = self.left()
        if seconds < _LONG:
            return
        first, *others = sorted(((sum(own), head) for head, own in self._coming.items()), reverse=True)
        longest = [first, *(each for each in others[:2] if each[0] > seconds / 5)]
        beside = f", and those of {listed(sorted(self._unknown))} unknown time" if self._unknown else ""
        fits = counted(sum(map(len, self._coming.values())), "fit")
        log.info(
            f"time     {fits} will take about {between(seconds / _SPREAD, seconds * _SPREAD)}{beside}; most of it "
            f"{listed([f'{head} {duration(own)}' for own, head in longest])}"
        )


def _ratio(done: list[tuple[float, float]]) -> float:
    """Return how many times what was expected fits took."""
    expected, taken = map(sum, zip(*done, strict=True))
    return taken / expected
