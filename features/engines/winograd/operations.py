"""Algorithms for the operations of a `features.engines.winograd.graph.LayerGraph`, with compiled loops.

Each step is created once, by `features.engines.winograd.planning`, for one size of feature maps, and run on each batch. Loops
take addresses, of arrays that the steps hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, Protocol

import numpy as np

from .graph import MOST_CHANNELS, NO_PADDING, Convolution, Pair, Pool, Sum
from .loops.huge_pages import address
from .loops.kernels import Split, TransformedKernel
from .loops.machine_code import compiled
from .loops.registers import ROWS
from .loops.toom_cook import Tile
from .memory import Location, Scratch

_LEAST, _FLOATS = 56, 400_000  # minimum tiles per block; target floats of its transformed input and output
_LARGE, _LARGE_BLOCK = 2_000_000, 128  # kernel size in floats above which threads share a kernel; tiles per block then
_ROW_FLOATS, _MOST_ROWS = 1 << 16, 32 * ROWS  # floats per block of rows; maximum rows per block
_APART = 16  # floats of padding between planes, since planes that are whole pages apart conflict in caches

Locate = Callable[[int], Location]
"""From the number of a feature map to its location for the current images."""


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
_zeros, _no_floor = np.zeros(MOST_CHANNELS, np.float32), np.full(1, -np.inf, np.float32)
_ZEROS, _NO_FLOOR = address(_zeros), address(_no_floor)


def undivided(part: Callable[[int, int], Any], count: int) -> None:
    """Run a task in one part; this is a `Split`."""
    part(0, count)


def _floor(relu: bool) -> int:
    """Return the address of the lower bound of output values."""
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
    u : TransformedKernel
        The names `u` and `v` are those of Lavin and Gray.
    """

    convolution: Convolution
    y: int
    shape: tuple[int, int, int]
    size: Pair
    tile: Tile
    pooled: bool
    tiles: Pair
    u: TransformedKernel

    @property
    def kernel_floats(self) -> int:
        """See `Step`."""
        return self.u.floats

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Step`."""
        return self.convolution.sources

    @cached_property
    def _loops(self) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
        loops = compiled("input_transform", self.tile), compiled("output_transform", self.tile, self.pooled)
        return loops[0], compiled("multiply_points"), loops[1]

    @cached_property
    def _bias(self) -> int:
        return address(self.convolution.bias)

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        tiles, u = count * prod(self.tiles), self.u.locate(count, _scratch.take, split)
        if self.u.floats > _LARGE and split is not undivided:
            # All threads work on one block, so each reads only its part of the kernel, once.
            self._blocks(locate, u, range(0, tiles, _LARGE_BLOCK), tiles, split)
            return
        depth = self.shape[2] + len(self.convolution.bias)
        block = max(_LEAST, _FLOATS // (self._points * depth) // ROWS * ROWS)

        def part(first: int, last: int) -> None:
            self._blocks(locate, u, range(first * block, min(last * block, tiles), block), tiles, undivided)

        split(part, -(-tiles // block))

    @property
    def _points(self) -> int:
        return prod(sum(side) - 1 for side in self.tile)

    def _blocks(self, locate: Locate, u: int, starts: range, tiles: int, split: Split) -> None:
        """Compute blocks of the tiles, up to `tiles`, with the kernel at the address u."""
        conv, c, points = self.convolution, self.shape[2], self._points
        k, rows = len(conv.bias), -(-min(starts.step, tiles) // ROWS) * ROWS
        plane_v, plane_p = (rows * depth + _APART for depth in (c, k))
        v, products = _scratch.take("v", points * plane_v), _scratch.take("p", points * plane_p)
        x, y, before = locate(conv.x), locate(self.y), (conv.padding[0][0], conv.padding[1][0])
        transform_in, multiply_points, transform_out = self._loops
        given = x.address, *self.shape, *before, *self.tiles, v, plane_v
        to = products, plane_p, k, self._bias, _floor(conv.relu), y.address, y.pixel, *self.size, *self.tiles
        for start in starts:
            count = min(starts.step, tiles - start)
            split(partial(transform_in, *given, start), count)
            split(partial(multiply_points, v, plane_v, count, u, c, k, _ZEROS, _NO_FLOOR, products, plane_p), points)
            split(partial(transform_out, *to, start), count)


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

    @cached_property
    def _arrays(self) -> tuple[int, int]:
        """Addresses of the kernel and the bias."""
        return address(self.u), address(self.convolution.bias)


class Im2colConvolution(_MatrixConvolution):
    """A convolution whose windows are first copied into rows of a matrix, unless the pixels already are the rows (1x1)."""

    @cached_property
    def _loops(self) -> tuple[Callable[..., None], Callable[..., None]]:
        return compiled("im2col"), compiled("multiply")

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        conv, c, (u, bias) = self.convolution, prod(self.convolution.kernel.shape[:3]), self._arrays
        rows, k, (im2col, multiply) = count * prod(self.size), len(conv.bias), self._loops
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
                    a = x.address + 4 * begin * c
                else:
                    a = _scratch.take("a", block * c)
                    im2col(x.address, *self.shape, *window, *conv.strides, *before, *self.size, a, begin, end)
                sums, added = (bias, 0), _ZEROS
                if residual is not None:
                    sums, added = (residual.address + 4 * begin * residual.pixel, residual.pixel), bias
                multiply(
                    a, end - begin, u, c, k, *sums, added, _floor(conv.relu), y.address + 4 * begin * y.pixel, y.pixel, 0,
                    a + 4 * (end - begin) * c,
                )  # fmt: skip

        split(part, -(-rows // block))


class DirectConvolution(_MatrixConvolution):
    """A convolution without padding to wide maps, which reads windows in place."""

    @cached_property
    def _loop(self) -> Callable[..., None]:
        return compiled("convolve_rows")

    def run(self, locate: Locate, count: int, split: Split) -> None:
        """See `Step`."""
        conv, (_, width, c), (u, bias) = self.convolution, self.shape, self._arrays
        x, y = locate(conv.x), locate(conv.y)
        given = *conv.kernel.shape[:2], *conv.strides, u, len(conv.bias), bias, _ZEROS, _floor(conv.relu)

        def part(first: int, last: int) -> None:
            for image in range(first, last):
                place, to = (4 * image * prod(shape) for shape in (self.shape, (*self.size, y.pixel)))
                self._loop(x.address + place, width * c, c, *given, y.address + to, y.pixel, *self.size)

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
        window = *of.window, *of.strides, *before, of.mean, of.zeros
        given = x.address, *self.shape, *window, y.address, y.pixel, *self.size
        split(partial(compiled("pool"), *given), count * prod(self.size))


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
        other, two = (locate(of.sources[1]), 1) if len(of.sources) > 1 else (x, 0)
        scale, shift = self._arrays
        given = x.address, other.address, two, c, address(scale), address(shift), _floor(of.relu), y.address, y.pixel
        split(partial(compiled("add"), *given), count * height * width)

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift, which are 1 and 0 where there is none."""
        of, c = self.sum, self.shape[2]
        return (
            np.ones(c, np.float32) if of.scale is None else np.ascontiguousarray(of.scale),
            np.zeros(c, np.float32) if of.shift is None else np.ascontiguousarray(of.shift),
        )
