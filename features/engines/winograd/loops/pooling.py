"""Pools and sums of feature maps, compiled by Numba, on pixels with channels last; arguments are as in `matmul`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .registers import LANES
from .simd import INT, Emitter, Pixels, at, jit, local_floats, loop


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


_two_floats = local_floats(2)


@jit()
def pool(
    x: Any, height: int, width: int, c: int, down: int, across: int, stride: int, stride_across: int, above: int,
    before: int, mean: int, zeros: int, y: Any, y_pixel: int, h: int, w: int, first: int, last: int,
) -> None:  # fmt: skip
    """Set pixels first..last of y, (h, w) each, to the maximum or mean of windows (down, across).

    Outside x counts as 0 if `zeros`, else is ignored.
    """
    numbers = _two_floats()
    for pixel in range(first, last):
        image, rest = divmod(pixel, h * w)
        i, j = divmod(rest, w)
        top, left = i * stride - above, j * stride_across - before
        rows = min(top + down, height) - max(top, 0)
        columns = min(left + across, width) - max(left, 0)
        corner = ((image * height + max(top, 0)) * width + max(left, 0)) * c
        numbers[0] = 0.0 if mean or (zeros and rows * columns < down * across) else -np.inf
        numbers[1] = down * across if zeros else rows * columns
        given = (at(x, corner), width * c, c), rows, columns, numbers, at(numbers, 1), at(y, pixel * y_pixel), c
        if mean:
            _mean(given)
        else:
            _largest(given)


@jit()
def add(
    x: Any,
    other: Any,
    two: int,
    c: int,
    scale: Any,
    shift: Any,
    floor: Any,
    y: Any,
    y_pixel: int,
    first: int,
    last: int,
) -> None:
    """Set pixels first..last of y to max((x + other) * scale + shift, floor); `other` is ignored unless `two`."""
    for pixel in range(first, last):
        of, to = pixel * c, pixel * y_pixel
        for channel in range(c):
            value = x[of + channel]
            if two:
                value += other[of + channel]
            value = value * scale[channel] + shift[channel]
            y[to + channel] = max(value, floor[0])
