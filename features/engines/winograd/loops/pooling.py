"""Pools and sums of feature maps, compiled by Numba, on flat arrays of pixels with channels last."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit

from .simd import INT, LANES, Emitter, Pixels, at, loop


def _window(
    mean: bool, e: Emitter, x: Pixels, rows: Any, columns: Any, first: Any, count: Any, y: Any, depth: Any
) -> None:
    """Emit y = the mean of x (its sum divided by `count`) or the maximum of x and `first`, over rows and columns."""
    combine, divisor, begin = e.b.fadd if mean else e.larger, e.splat(e.b.load(count)), e.splat(e.b.load(first))

    def channels(i: Any, _: list[Any]) -> list[Any]:
        corner = x._replace(pointer=e.at(x.pointer, e.b.mul(i, INT(LANES))))

        def line(a: Any, values: list[Any]) -> list[Any]:
            return e.fold(columns, values, lambda b, old: [combine(old[0], e.load(e.go_to(corner, a, b)))])

        (value,) = e.fold(rows, [begin], line)
        e.store(e.b.fdiv(value, divisor) if mean else value, e.at(y, e.b.mul(i, INT(LANES))))
        return []

    e.fold(e.b.sdiv(depth, INT(LANES)), [], channels)


_mean, _largest = (loop("Piipppi")(partial(_window, mean)) for mean in (True, False))


@njit(nogil=True)
def pool(
    x: Any, x_at: int, shape: tuple[int, int, int], window: tuple[int, int], strides: tuple[int, int],
    before: tuple[int, int], mean: bool, zeros: bool, y: Any, y_at: int, y_pixel: int, size: tuple[int, int],
    first: int, last: int,
) -> None:  # fmt: skip
    """Set pixels first..last of y to the maximum or mean of windows; outside x counts as 0 if `zeros`, else is ignored."""
    (height, width, c), (h, w) = shape, size
    start, count = np.empty(1, np.float32), np.empty(1, np.float32)
    for pixel in range(first, last):
        image, rest = divmod(pixel, h * w)
        i, j = divmod(rest, w)
        top, left = i * strides[0] - before[0], j * strides[1] - before[1]
        rows = min(top + window[0], height) - max(top, 0)
        columns = min(left + window[1], width) - max(left, 0)
        taps = window[0] * window[1]
        corner = x_at + ((image * height + max(top, 0)) * width + max(left, 0)) * c
        start[0] = 0.0 if mean or (zeros and rows * columns < taps) else -np.inf
        count[0] = taps if zeros else rows * columns
        to = at(y, y_at + pixel * y_pixel)
        given = (at(x, corner), width * c, c), rows, columns, at(start, 0), at(count, 0), to, c
        if mean:
            _mean(given)
        else:
            _largest(given)


@njit(nogil=True)
def add(
    x: Any, x_at: int, other: Any, other_at: int, c: int, scale: Any, shift: Any, floor: Any, y: Any, y_at: int,
    y_pixel: int, first: int, last: int,
) -> None:  # fmt: skip
    """Set pixels first..last of y to max((x + other) * scale + shift, floor); an empty `other` is ignored."""
    for pixel in range(first, last):
        of, to = pixel * c, y_at + pixel * y_pixel
        for channel in range(c):
            value = x[x_at + of + channel]
            if len(other):
                value += other[other_at + of + channel]
            value = value * scale[channel] + shift[channel]
            y[to + channel] = max(value, floor)
