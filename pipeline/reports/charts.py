"""Geometry of charts: axes, ticks, paths and labels, for SVG drawn by the templates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 420, 300  # of a chart, in SVG units; about one pixel each on a narrow phone
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 42
Span = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
_LETTER, _LINE = 6.1, 13  # approximate width and height of a label's letters
_BESIDE = 24  # the title of the upright axis, and what is left on both sides of its ticks' texts


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes
    ----------
    low, high : float
        Values at its ends.
    start, end : float
        Positions of the ends in the chart.
    label : str
    log : bool
    """

    low: float
    high: float
    start: float
    end: float
    label: str
    log: bool = False

    def at(self, value: float) -> float:
        """Return a value's position in the chart."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Positions and labels of ticks."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [(self.at(10.0**power), f"{10.0**power:g}") for power in powers]
        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [v for v in values if self.low - 1e-9 <= v <= self.high + 1e-9]
        digits = max((len(f"{v:.4f}".rstrip("0").split(".")[1]) for v in inside), default=0)
        return [(self.at(v), f"{v:.{digits}f}") for v in inside]


@dataclass(frozen=True)
class Frame:
    """A chart's two axes."""

    x: Axis
    y: Axis
    width: int = WIDTH
    height: int = HEIGHT

    def path(self, x: Iterable[float], y: Iterable[float]) -> str:
        """Return a line through points as the ``d`` of an SVG path."""
        return "M" + "L".join(f"{self.x.at(float(a)):g} {self.y.at(float(b)):g}" for a, b in zip(x, y, strict=True))


def frame(
    x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str], log: bool = False, height: int = HEIGHT
) -> Frame:
    """Return a chart's frame from the ranges and labels of its axes."""
    up = Axis(*y, height - BOTTOM, TOP, labels[1])
    left = max(LEFT, round(_BESIDE + _LETTER * max((len(text) for _, text in up.ticks), default=0)))
    return Frame(Axis(*x, left, WIDTH - RIGHT, labels[0], log), up, WIDTH, height)


def widened(values: Sequence[float], share: float = 0.06, within: tuple[float, float] = (-np.inf, np.inf)) -> Span:
    """Return the range of values with a margin on both sides; its length is never zero."""
    low, high = float(np.min(values)), float(np.max(values))
    room = share * (high - low) or 0.05
    return max(within[0], low - room), min(within[1], high + room)


def decades(values: Sequence[float]) -> Span:
    """Return the powers of ten around values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def place_labels(
    points: Sequence[tuple[float, float]], texts: Sequence[str], lines: Sequence[Box], box: Frame
) -> list[dict[str, Any]]:
    """Return the position of each point's label, so that labels avoid points, lines and each other.

    Greedy: each label takes the candidate position that overlaps least; good enough for a dozen points.
    """
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    taken += lines
    placed = []
    for (x, y), text in zip(points, texts, strict=True):
        width = len(text) * _LETTER
        places = []
        for far in (0, 12, 24, 36):
            for lift in (-far, far) if far else (0,):
                places += [
                    (x + 9, y + lift, "start"),
                    (x - 9, y + lift, "end"),
                    (x, y + lift + (-14, 16)[lift > 0], "middle"),
                ]

        def cost(place: tuple[float, float, str], y: float = y, width: float = width) -> float:
            area = _area(place, width)
            outside = sum(
                max(0, each)
                for each in (box.x.start - area[0], area[2] - box.x.end, TOP - area[1], area[3] - box.y.start)
            )
            covered = sum(_overlap(area, each) for each in taken)
            return covered + 50 * outside + 3 * abs(place[1] - y)

        best = min(places, key=cost)
        taken.append(_area(best, width))
        placed.append({"x": round(best[0], 1), "y": round(best[1] + 4, 1), "anchor": best[2], "text": text})
    return placed


def _area(place: tuple[float, float, str], width: float) -> Box:
    x, y, anchor = place
    left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
    return left, y - _LINE / 2, left + width, y + _LINE / 2


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
