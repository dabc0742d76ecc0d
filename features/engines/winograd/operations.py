"""Algorithms for the operations of a `features.engines.winograd.graph.LayerGraph`, with loops compiled by Numba.

Each step is created once, by `features.engines.winograd.planning`, for one size of feature maps, and run on each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np

from .graph import MOST_CHANNELS, NO_PADDING, Convolution, Pair, Pool, Sum
from .loops.matmul import convolve_rows, im2col, multiply, multiply_points
from .loops.pooling import add, pool
from .loops.simd import ROWS
from .loops.tiles import Tile, input_transform, output_transform
from .memory import Location, Scratch

_LEAST, _FLOATS = 56, 400_000  # minimum tiles per block; target floats of its transformed input and output
_LARGE, _LARGE_BLOCK = 2_000_000, 134  # kernel size in floats above which threads share a kernel; tiles per block then
_ROW_FLOATS, _MOST_ROWS = 1 << 16, 32 * ROWS  # floats per block of rows; maximum rows per block
_APART = 16  # floats of padding between planes, since planes that are whole pages apart conflict in caches

Locate = Callable[[int], Location]
"""From the number of a feature map to its location for the current images."""
Split = Callable[[Callable[[int, int], Any], int], Any]
"""Runs a task of `count` units in parts, ``part(first, last)``, possibly in parallel."""


class Step(Protocol):
    """An operation at one size of its feature maps."""

    @property
    def kernel_floats(self) -> int:
        """Number of floats of its kernel, as read."""
        ...

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the feature maps that it reads."""
        ...

    @property
    def y(self) -> int:
        """Number of the feature map that it writes."""
        ...

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """Compute `count` images."""
        ...


_scratch = Scratch()
_NOTHING, _ZEROS, _NO_FLOOR = (
    np.zeros(0, np.float32),
    np.zeros(MOST_CHANNELS, np.float32),
    np.full(1, -np.inf, np.float32),
)


def undivided(part: Callable[[int, int], Any], count: int) -> None:
    """Run a task in one part; this is a `Split`."""
    part(0, count)


def _floor(relu: bool) -> np.ndarray:
    """Return the lower bound of output values."""
    return _ZEROS if relu else _NO_FLOOR


@dataclass(frozen=True, eq=False)
class WinogradConvolution:
    """A convolution by Winograd's method, optionally followed by a 2x2 max pool.

    A block of tiles is transformed, multiplied with the transformed kernel point by point, and transformed back while it is in a
    core's cache.

    Attributes
    ----------
    convolution : Convolution
    y : int
        Number of the output feature map; the pool's if `pooled`.
    shape : tuple of int
        (height, width, channels) of the input.
    size : tuple of int
        Height and width of the output, after the pool.
    tile : Tile
    pooled : bool
    tiles : tuple of int
        Vertical and horizontal number of tiles per image.
    u : ndarray, float32
        The transformed kernel, packed; the names `u` and `v` are those of Lavin and Gray.
    """

    convolution: Convolution
    y: int
    shape: tuple[int, int, int]
    size: Pair
    tile: Tile
    pooled: bool
    tiles: Pair
    u: np.ndarray

    @property
    def kernel_floats(self) -> int:
        """See `Step`."""
        return self.u.size

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Step`."""
        return self.convolution.sources

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        tiles = count * prod(self.tiles)
        if self.u.size > _LARGE and split is not undivided:
            # All threads work on one block, so each reads only its part of the kernel, once.
            for start in range(0, tiles, _LARGE_BLOCK):
                self._block(locate, start, min(_LARGE_BLOCK, tiles - start), split)
            return
        depth = self.shape[2] + len(self.convolution.bias)
        block = max(_LEAST, _FLOATS // (self._points * depth) // ROWS * ROWS)

        def part(first: int, last: int) -> None:
            for start in range(first * block, min(last * block, tiles), block):
                self._block(locate, start, min(block, tiles - start), undivided)

        split(part, -(-tiles // block))

    @property
    def _points(self) -> int:
        return prod(sum(side) - 1 for side in self.tile)

    def _block(self, locate: Locate, start: int, count: int, split: Split) -> None:
        """Compute `count` tiles from the tile `start` on."""
        conv, c, points = self.convolution, self.shape[2], self._points
        k, rows = len(conv.bias), -(-count // ROWS) * ROWS
        plane_v, plane_p = (rows * depth + _APART for depth in (c, k))
        v, products = _scratch.take("v", points * plane_v), _scratch.take("p", points * plane_p)
        x, y, before = locate(conv.x), locate(self.y), (conv.padding[0][0], conv.padding[1][0])
        transform_in, transform_out = input_transform(self.tile), output_transform(self.tile, self.pooled)
        given = x.values, x.offset, self.shape, before, self.tiles, v, plane_v, start
        split(partial(transform_in, *given), count)
        split(partial(multiply_points, v, plane_v, count, self.u, c, k, _ZEROS, _NO_FLOOR, products, plane_p), points)
        to = y.values, y.offset, y.pixel, self.size, self.tiles, start
        split(partial(transform_out, products, plane_p, conv.bias, _floor(conv.relu), *to), count)


@dataclass(frozen=True, eq=False)
class _MatrixConvolution:
    """A convolution as a product with the kernel's matrix, (kh * kw * c, k).

    Attributes
    ----------
    convolution : Convolution
    shape : tuple of int
        (height, width, channels) of the input.
    size : tuple of int
        Height and width of the output.
    u : ndarray, float32
        The kernel, packed.
    """

    convolution: Convolution
    shape: tuple[int, int, int]
    size: Pair
    u: np.ndarray

    @property
    def kernel_floats(self) -> int:
        """See `Step`."""
        return self.u.size

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Step`."""
        return self.convolution.sources

    @property
    def y(self) -> int:
        """See `Step`."""
        return self.convolution.y


class Im2colConvolution(_MatrixConvolution):
    """A convolution whose windows are first copied into rows of a matrix, unless the pixels already are the rows (1x1)."""

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        conv, c = self.convolution, self.convolution.kernel[..., 0].size
        rows, k = count * prod(self.size), len(conv.bias)
        block = min(max(_LEAST, _ROW_FLOATS // c // ROWS * ROWS), _MOST_ROWS)
        window, before = conv.kernel.shape[:2], (conv.padding[0][0], conv.padding[1][0])
        laid_out = window == conv.strides == (1, 1) and conv.padding == NO_PADDING
        x, y = locate(conv.x), locate(conv.y)
        residual = None if conv.residual is None else locate(conv.residual)

        def part(first: int, last: int) -> None:
            for start in range(first * block, min(last * block, rows), block):
                begin = max(min(start, rows - ROWS), 0)  # the last rows may be computed twice
                end = min(start + block, rows)
                if laid_out:
                    a, a_at = x.values, x.offset + begin * c
                else:
                    a, a_at = _scratch.take("a", block * c), 0
                    im2col(x.values, x.offset, self.shape, window, conv.strides, before, self.size, a, begin, end)
                sums, bias = (conv.bias, 0, 0), _ZEROS
                if residual is not None:
                    sums, bias = (residual.values, residual.offset + begin * residual.pixel, residual.pixel), conv.bias
                multiply(
                    a, a_at, end - begin, self.u, 0, c, k, *sums, bias, _floor(conv.relu),
                    y.values, y.offset + begin * y.pixel, y.pixel, False, a_at + (end - begin) * c,
                )  # fmt: skip

        split(part, -(-rows // block))


class DirectConvolution(_MatrixConvolution):
    """A convolution without padding to wide maps, which reads windows in place."""

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        conv, (_, width, c) = self.convolution, self.shape
        x, y = locate(conv.x), locate(conv.y)

        def part(first: int, last: int) -> None:
            for image in range(first, last):
                convolve_rows(
                    x.values, x.offset + image * prod(self.shape), width * c, c, conv.kernel.shape[:2], conv.strides,
                    self.u, conv.bias, _floor(conv.relu),
                    y.values, y.offset + image * prod(self.size) * y.pixel, y.pixel, self.size,
                )  # fmt: skip

        split(part, count)


@dataclass(frozen=True, eq=False)
class Pooling:
    """Maximum or mean of windows, from a map (height, width, channels) to height and width `size`."""

    pool: Pool
    shape: tuple[int, int, int]
    size: Pair
    kernel_floats: int = 0

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Step`."""
        return self.pool.sources

    @property
    def y(self) -> int:
        """See `Step`."""
        return self.pool.y

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        of, before = self.pool, (self.pool.padding[0][0], self.pool.padding[1][0])
        x, y = locate(of.x), locate(of.y)
        window = of.window, of.strides, before, of.mean, of.zeros
        split(
            partial(pool, x.values, x.offset, self.shape, *window, y.values, y.offset, y.pixel, self.size),
            count * prod(self.size),
        )


@dataclass(frozen=True, eq=False)
class Adding:
    """Sum of one or two feature maps (height, width, channels)."""

    sum: Sum
    shape: tuple[int, int, int]
    kernel_floats: int = 0

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Step`."""
        return self.sum.sources

    @property
    def y(self) -> int:
        """See `Step`."""
        return self.sum.y

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        of, (height, width, c) = self.sum, self.shape
        x, y = locate(of.sources[0]), locate(of.y)
        other = locate(of.sources[1]) if len(of.sources) > 1 else Location(_NOTHING, 0, 0)
        scale, shift = (np.full(c, 1 - i, np.float32) if v is None else v for i, v in enumerate((of.scale, of.shift)))
        floor = np.float32(0.0 if of.relu else -np.inf)
        given = x.values, x.offset, other.values, other.offset, c, scale, shift, floor, y.values, y.offset, y.pixel
        split(partial(add, *given), count * height * width)
