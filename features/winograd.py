"""Chains of 3x3 convolutions and 2x2 max pools, such as VGG's, by Winograd's method in float32.

A convolution transforms tiles of its input, multiplies them with its transformed kernel, point by point of the tile, and
transforms the products back (Lavin and Gray 2016, arXiv 1509.09308). A block of tiles goes through all three while it is in a
core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from .toomcook import POINTS, transform_kernel
from .vectors import LANES, PANEL, ROWS
from .winograd_loops import convolve_directly, input_transform, multiply, output_transform, pool

_LEAST, _FLOATS = 56, 400_000  # tiles of a block at least; floats of its transformed input and output if that is more
_DEEP, _DEEP_BLOCK = 64, 134  # from fewer tiles an image on, all images together; tiles of a block then
_PAGE = 1 << 21  # bytes

Convolution = tuple[np.ndarray, np.ndarray]  # kernel (3, 3, c, k) and bias (k,), float32


@dataclass(frozen=True)
class _Step:
    """A layer, or a convolution with the pool after it, at one size of the images."""

    layer: int  # whose output it makes
    source: int  # whose kernel it has
    m: int  # side of the tiles; 0: convolved directly; -1: only a pool
    pooled: bool
    deep: bool
    depth: tuple[int, int]  # channels of its input and its output
    tiles: tuple[int, int]  # down and across
    padded: tuple[int, int]  # size of its input, for a convolution with what the tiles take of the border
    size: tuple[int, int]  # of its output

    @property
    def block(self) -> int:
        """How many tiles go through the three parts together."""
        most = _FLOATS // ((self.m + 2) ** 2 * sum(self.depth)) // ROWS * ROWS
        return _DEEP_BLOCK if self.deep else max(_LEAST, most)


Split = Callable[[Callable[[int, int], Any], int], Any]


class Chain:
    """Convolutions (3x3, stride 1, 'same', ReLU) and 2x2 max pools in their order, a convolution first.

    While maps are large each thread takes images of its own; where they are small, and kernels large, all threads work on
    all images, so that a kernel is read once.

    Parameters
    ----------
    layers : sequence of Convolution or None
        None is a pool. Channels of outputs are multiples of ``vectors.PANEL``.
    threads, batch_size : int
        Threads, and how many images there are at once.
    image_size, outputs : int and collection of int
        Side of the images, at least ``vectors.ROWS``, and the places of the layers whose outputs are wanted.
    """

    def __init__(
        self,
        layers: Sequence[Convolution | None],
        threads: int,
        batch_size: int,
        image_size: int,
        outputs: Iterable[int],
    ):
        self._layers, self._threads, self._batch_size = layers, threads, batch_size
        self._outputs = sorted(outputs)
        self._executor = ThreadPoolExecutor(threads)
        self._kernels: dict[int, np.ndarray] = {}
        self._buffers: dict[Any, np.ndarray] = {}
        self._steps = self._plan((image_size, image_size))
        # From this step on maps are small.
        self._together = next((j for j, step in enumerate(self._steps) if step.deep), len(self._steps))

    def run(self, images: np.ndarray) -> dict[int, np.ndarray]:
        """Return the wanted outputs by the places of their layers.

        Parameters
        ----------
        images : ndarray of shape (batch_size, image_size, image_size, channels), float32

        Returns
        -------
        outputs : dict of int to ndarray of shape (batch_size, h, w, k), float32
        """
        shapes = {step.layer: (len(images), *step.size, step.depth[1]) for step in self._steps}
        out = {layer: np.empty(shapes[layer], np.float32) for layer in self._outputs}
        queue = iter(range(len(images)))

        def alone(thread: int) -> None:
            for i in queue:
                of = slice(i, i + 1)
                x = self._place(0, thread, of, out)
                x[0, 1 : 1 + images.shape[1], 1 : 1 + images.shape[2]] = images[i]
                self._go(range(self._together), thread, of, out, lambda part, count: part(0, count))

        list(self._executor.map(alone, range(self._threads)))
        self._go(range(self._together, len(self._steps)), None, slice(0, len(images)), out, self._divide)
        return out

    def _plan(self, size: tuple[int, int]) -> list[_Step]:
        steps: list[_Step] = []
        depth, i = 0, 0
        while i <= self._outputs[-1]:
            layer, half = self._layers[i], (size[0] // 2, size[1] // 2)
            if layer is None:
                steps.append(_Step(i, i, -1, True, steps[-1].deep, (depth, depth), (1, 1), size, half))
            else:
                c, k = layer[0].shape[2:]
                m, deep = _tile(size) if c % LANES == 0 else (0, False)
                followed = i < self._outputs[-1] and i not in self._outputs and self._layers[i + 1] is None
                pooled = followed and m > 0 and m % 2 == 0
                tiles = (-(-size[0] // m), -(-size[1] // m)) if m else (1, 1)
                padded = (tiles[0] * m + 2, tiles[1] * m + 2) if m else (size[0] + 2, size[1] + 2)
                steps.append(_Step(i + pooled, i, m, pooled, deep, (c, k), tiles, padded, half if pooled else size))
                self._kernels[i] = _pack(transform_kernel(layer[0], m) if m else layer[0].reshape(1, -1, k))
            size, depth, i = steps[-1].size, steps[-1].depth[1], steps[-1].layer + 1
        return steps

    def _place(self, j: int, thread: int | None, of: slice, out: dict[int, np.ndarray]) -> np.ndarray:
        """Return the input of step j for some images, with a border of zeros if it is a convolution's."""
        if j == len(self._steps):
            return out[self._steps[-1].layer][of]
        shape = (*self._steps[j].padded, self._steps[j].depth[0])
        if j < self._together:
            return self._buffer((thread, j), (1, *shape))
        return self._buffer(j, (self._batch_size, *shape))[of]

    def _go(self, numbers: range, thread: int | None, of: slice, out: dict[int, np.ndarray], split: Split) -> None:
        for j in numbers:
            step, last = self._steps[j], j + 1 == len(self._steps)
            border, (height, width) = int(not last and self._steps[j + 1].m >= 0), step.size
            y = self._place(j + 1, thread, of, out)
            self._take(step, self._place(j, thread, of, out), y, border, thread, split)
            if step.layer in out and not last:
                out[step.layer][of] = y[:, border : border + height, border : border + width]

    def _take(self, step: _Step, x: np.ndarray, y: np.ndarray, border: int, thread: int | None, split: Split) -> None:
        layer = self._layers[step.source]
        if layer is None:
            split(partial(pool, x, y, border), len(x))
            return
        u, bias = self._kernels[step.source], layer[1]
        if step.m == 0:
            for one, other in zip(x, y, strict=True):
                convolve_directly(one, u, bias, other, border)
            return
        transform_in, transform_out = input_transform(step.m), output_transform(step.m, step.pooled)
        rows = -(-step.block // ROWS) * ROWS
        # Planes are not of whole pages, which would be in each other's way in caches.
        v, products = (self._buffer((thread, i), (len(u), rows * step.depth[i] + LANES)) for i in (0, 1))
        tiles = len(x) * prod(step.tiles)
        for start in range(0, tiles, step.block):
            count = min(step.block, tiles - start)
            split(partial(transform_in, x, v, step.tiles, start), count)
            split(partial(multiply, v, u, products, count), len(u))
            split(partial(transform_out, products, bias, y, border, step.size, step.tiles, start), count)

    def _divide(self, part: Callable[[int, int], Any], count: int) -> None:
        """Let all threads do parts of a task: more parts than threads, which other work may keep waiting."""
        ends = [count * i // (2 * self._threads) for i in range(2 * self._threads + 1)]
        list(self._executor.map(part, ends[:-1], ends[1:]))

    def _buffer(self, name: Any, shape: tuple[int, ...]) -> np.ndarray:
        if (name, shape) not in self._buffers:
            self._buffers.setdefault((name, shape), _zeros(shape))  # two threads may be here at once
        return self._buffers[name, shape]


def _tile(size: tuple[int, int]) -> tuple[int, bool]:
    """Return the side of a map's tiles, and whether it is small: then products are almost all there is to do."""
    cost = {m: (m + 2) ** 2 * prod(-(-side // m) for side in size) for m in POINTS}
    deep = cost[4] < _DEEP * 36
    return min(cost, key=lambda m: cost[m]) if deep else 4, deep


def _pack(kernel: np.ndarray) -> np.ndarray:
    """Return (..., c, k) as (points, k / PANEL, c, PANEL), the order in which products read it."""
    c, k = kernel.shape[-2:]
    panels = kernel.reshape(-1, c, k // PANEL, PANEL).transpose(0, 2, 1, 3)
    packed = _zeros(panels.shape)
    packed[...] = panels
    return packed


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros that begin at a large page, of which NumPy lets the system make use."""
    size = prod(shape) * 4
    memory = np.zeros(-(-size // _PAGE) * _PAGE + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + size].view(np.float32).reshape(shape)
