"""Ways to compute an operation of a `features.engines.winograd.graph.LayerGraph` on one image or many, with Numba's loops.

Convolutions of 3x3, 5x5, 7x1 and 1x7 with stride 1 are Winograd's (Lavin and Gray 2016, arXiv 1509.09308): a block of tiles
is transformed, multiplied with the transformed kernel, and transformed back while it is in a core's cache. All others are
products of rows with the kernel's matrix.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np

from .graph import CHANNELS, MOST_CHANNELS, NO_BORDER, Convolution, Pair, Pool, Sum
from .loops.matmul import (
    convolve_rows,
    gather,
    large_zeros,
    multiply,
    multiply_points,
    pack,
)
from .loops.pooling import add, pool
from .loops.simd import ROWS
from .loops.tiles import Tile, input_transform, output_transform
from .loops.toom_cook import transform_kernel

_LEAST, _FLOATS = 56, 400_000  # tiles of a block at least; floats of its transformed input and output if that is more
_LARGE, _LARGE_BLOCK = 2_000_000, 134  # floats of a kernel that threads share; tiles of a block then
_FEW = 64  # 4x4 tiles of an image: of fewer, larger ones may be taken
_ROW_FLOATS, _MOST_ROWS = 1 << 16, 32 * ROWS  # floats of a block of rows; rows of a block
_APART = 16  # floats between planes that would else be of whole pages, which are in each other's way in caches

_OUTPUTS: dict[Pair, tuple[Pair, ...]] = {
    (3, 3): ((4, 4), (7, 7)), (5, 5): ((4, 4),), (1, 7): ((1, 6),), (7, 1): ((6, 1),),
}  # fmt: skip
"""Taps down and across, and how many outputs a tile may have."""

Place = Callable[[int], tuple[np.ndarray, int, int]]
"""From the number of a feature map to a flat array, where in it the first image's begins, and from pixel to pixel."""
Split = Callable[[Callable[[int, int], Any], int], Any]
"""Does parts of a task, first..last of so many, perhaps side by side."""


class Step(Protocol):
    """An operation at one size of its feature maps."""

    @property
    def weight(self) -> int:
        """Floats of its kernel."""
        ...

    @property
    def y(self) -> int:
        """Number of the feature map that it makes."""
        ...

    def run(self, place: Place, count: int, split: Split) -> None:
        """Compute `count` images."""
        ...


class _Scratch(threading.local):
    """Memory of each thread that lasts and grows."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, name: str, floats: int) -> np.ndarray:
        """Return an array of at least so many floats, with anything in it."""
        if name not in self._arrays or self._arrays[name].size < floats:
            self._arrays[name] = large_zeros(floats)
        return self._arrays[name]


_scratch = _Scratch()
_NOTHING, _ZEROS, _NO_FLOOR = (
    np.zeros(0, np.float32),
    np.zeros(MOST_CHANNELS, np.float32),
    np.full(1, -np.inf, np.float32),
)


def whole(part: Callable[[int, int], Any], count: int) -> None:
    """Do a task in one: a `Split`."""
    part(0, count)


def _floor(relu: bool) -> np.ndarray:
    return _ZEROS if relu else _NO_FLOOR


@dataclass(frozen=True, eq=False)
class Winograd:
    """A convolution by tiles, perhaps with a 2x2 max pool after it."""

    convolution: Convolution
    y: int
    shape: tuple[int, int, int]
    size: Pair  # of its output
    tile: Tile
    pooled: bool
    tiles: Pair
    u: np.ndarray

    @property
    def weight(self) -> int:
        """See `Step`."""
        return self.u.size

    def run(self, place: Place, count: int, split: Split) -> None:
        """See `Step`."""
        tiles = count * prod(self.tiles)
        if self.u.size > _LARGE and split is not whole:
            # All threads work on one block: each reads its part of the kernel, once.
            for start in range(0, tiles, _LARGE_BLOCK):
                self._block(place, start, min(_LARGE_BLOCK, tiles - start), split)
            return
        depth = self.shape[2] + len(self.convolution.bias)
        block = max(_LEAST, _FLOATS // (self._points * depth) // ROWS * ROWS)

        def part(first: int, last: int) -> None:
            for start in range(first * block, min(last * block, tiles), block):
                self._block(place, start, min(block, tiles - start), whole)

        split(part, -(-tiles // block))

    @property
    def _points(self) -> int:
        return prod(sum(side) - 1 for side in self.tile)

    def _block(self, place: Place, start: int, count: int, split: Split) -> None:
        bias, c, points = self.convolution.bias, self.shape[2], self._points
        k, rows = len(bias), -(-count // ROWS) * ROWS
        planes = [rows * depth + _APART for depth in (c, k)]
        v, products = (_scratch.take(name, points * plane) for name, plane in zip("vp", planes, strict=True))
        x, x_at, _ = place(self.convolution.x)
        y, y_at, y_pixel = place(self.y)
        before = (self.convolution.border[0][0], self.convolution.border[1][0])
        transform_in, transform_out = input_transform(self.tile), output_transform(self.tile, self.pooled)
        split(partial(transform_in, x, x_at, self.shape, before, self.tiles, v, planes[0], start), count)
        split(
            partial(multiply_points, v, planes[0], count, self.u, c, k, _ZEROS, _NO_FLOOR, products, planes[1]), points
        )
        floor = _floor(self.convolution.relu)
        split(
            partial(transform_out, products, planes[1], bias, floor, y, y_at, y_pixel, self.size, self.tiles, start),
            count,
        )


@dataclass(frozen=True, eq=False)
class _Direct:
    """A convolution by the kernel's matrix: shape of its input, height and width of its output, the packed kernel."""

    convolution: Convolution
    shape: tuple[int, int, int]
    size: Pair
    u: np.ndarray

    @property
    def weight(self) -> int:
        """See `Step`."""
        return self.u.size

    @property
    def y(self) -> int:
        """See `Step`."""
        return self.convolution.y


class Rows(_Direct):
    """A convolution by rows of what each pixel is computed from, laid out first unless they lie so."""

    def run(self, place: Place, count: int, split: Split) -> None:
        """See `Step`."""
        of, c = self.convolution, self.convolution.kernel[..., 0].size
        rows, k = count * prod(self.size), len(of.bias)
        block = min(max(_LEAST, _ROW_FLOATS // c // ROWS * ROWS), _MOST_ROWS)
        window, before = of.kernel.shape[:2], (of.border[0][0], of.border[1][0])
        laid_out = window == of.strides == (1, 1) and of.border == NO_BORDER
        x, x_at, _ = place(of.x)
        y, y_at, y_pixel = place(of.y)

        def part(first: int, last: int) -> None:
            for start in range(first * block, min(last * block, rows), block):
                begin = max(min(start, rows - ROWS), 0)  # at the end some once more
                end = min(start + block, rows)
                if laid_out:
                    a, a_at = x, x_at + begin * c
                else:
                    a, a_at = _scratch.take("a", block * c), 0
                    gather(x, x_at, self.shape, window, of.strides, before, self.size, a, begin, end)
                sums, sums_at, sums_row, bias = of.bias, 0, 0, _ZEROS
                if of.residual is not None:
                    sums, residual_at, sums_row = place(of.residual)
                    sums_at, bias = residual_at + begin * sums_row, of.bias
                multiply(
                    a, a_at, end - begin, self.u, 0, c, k, sums, sums_at, sums_row, bias, _floor(of.relu),
                    y, y_at + begin * y_pixel, y_pixel, False, a_at + (end - begin) * c,
                )  # fmt: skip

        split(part, -(-rows // block))


class Straight(_Direct):
    """A convolution without a border to maps that are wide: rows are read where they are."""

    def run(self, place: Place, count: int, split: Split) -> None:
        """See `Step`."""
        of, (_, width, c) = self.convolution, self.shape
        x, x_at, _ = place(of.x)
        y, y_at, y_pixel = place(of.y)

        def part(first: int, last: int) -> None:
            for image in range(first, last):
                convolve_rows(
                    x, x_at + image * prod(self.shape), width * c, c, of.kernel.shape[:2], of.strides, self.u, of.bias,
                    _floor(of.relu), y, y_at + image * prod(self.size) * y_pixel, y_pixel, self.size,
                )  # fmt: skip

        split(part, count)


@dataclass(frozen=True, eq=False)
class Pooling:
    """Windows' largest or mean values."""

    pool: Pool
    shape: tuple[int, int, int]
    size: Pair
    weight: int = 0

    @property
    def y(self) -> int:
        """See `Step`."""
        return self.pool.y

    def run(self, place: Place, count: int, split: Split) -> None:
        """See `Step`."""
        of, before = self.pool, (self.pool.border[0][0], self.pool.border[1][0])
        x, x_at, _ = place(of.x)
        given = (x, x_at, self.shape, of.window, of.strides, before, of.mean, of.zeros, *place(of.y), self.size)
        split(partial(pool, *given), count * prod(self.size))


@dataclass(frozen=True, eq=False)
class Adding:
    """Sums of one feature map or two."""

    sum: Sum
    shape: tuple[int, int, int]
    weight: int = 0

    @property
    def y(self) -> int:
        """See `Step`."""
        return self.sum.y

    def run(self, place: Place, count: int, split: Split) -> None:
        """See `Step`."""
        of, (height, width, c) = self.sum, self.shape
        x, x_at, _ = place(of.sources[0])
        other, other_at, _ = place(of.sources[1]) if len(of.sources) > 1 else (_NOTHING, 0, 0)
        y, y_at, y_pixel = place(of.y)
        scale, shift = (np.full(c, 1 - i, np.float32) if v is None else v for i, v in enumerate((of.scale, of.shift)))
        floor = np.float32(0.0 if of.relu else -np.inf)
        given = x, x_at, other, other_at, c, scale, shift, floor, y, y_at, y_pixel
        split(lambda first, last: add(*given, first, last), count * height * width)


def plan_convolution(of: Convolution, shape: tuple[int, int, int], size: Pair, pool_y: int | None) -> Step:
    """Choose how to compute a convolution; `pool_y` is where to a 2x2 max pool after it goes, if there is one.

    Parameters
    ----------
    of : Convolution
    shape : tuple of int
        Of its input.
    size : tuple of int
        Height and width of its output, before the pool.
    """
    tile = choose_tile(of, shape[2], size)
    if tile is not None:
        outputs = (tile[0][0], tile[1][0])
        kernel = transform_kernel(of.kernel, outputs)
        tiles = (-(-size[0] // outputs[0]), -(-size[1] // outputs[1]))
        u = pack(kernel.reshape(-1, *kernel.shape[2:]))
        pools = outputs[0] % 2 == outputs[1] % 2 == 0
        if pool_y is None or not pools:
            return Winograd(of, of.y, shape, size, tile, False, tiles, u)
        return Winograd(of, pool_y, shape, (size[0] // 2, size[1] // 2), tile, True, tiles, u)
    u = pack(of.kernel.reshape(1, -1, of.kernel.shape[3]))
    window = of.kernel.shape[:2]
    wide = of.border == NO_BORDER and size[1] >= ROWS and of.residual is None and not window == of.strides == (1, 1)
    return Straight(of, shape, size, u) if wide else Rows(of, shape, size, u)


def choose_tile(of: Convolution, depth: int, size: Pair) -> Tile | None:
    """Return the tile of a convolution that Winograd's method is for."""
    window = of.kernel.shape[:2]
    if of.strides != (1, 1) or depth % CHANNELS or of.residual is not None or window not in _OUTPUTS:
        return None
    choices = [((m, window[0]), (m_across, window[1])) for m, m_across in _OUTPUTS[window]]
    costs = [_products(tile, size) for tile in choices]
    # Transforms cost less with small tiles; products are almost all there is where there are few.
    return choices[costs.index(min(costs))] if costs[0] < _FEW * 36 else choices[0]


def _products(tile: Tile, size: Pair) -> int:
    return prod(-(-side // m) * (m + r - 1) for side, (m, r) in zip(size, tile, strict=True))
