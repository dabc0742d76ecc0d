"""A `features.layergraph.LayerGraph` run on batches of images: which memory its feature maps have, and which thread does what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from .convolution import Adding, Pooling, Split, Step, plan_convolution, whole
from .layergraph import Convolution, LayerGraph, Maps, Operation, Pool, Sum
from .products import large_zeros

_HEAVY = 2  # so many times the floats of its input a kernel has from which on all images are computed together


class Network:
    """A graph of layers for batches of one size.

    While maps are large each thread takes images of its own, whose maps stay in its core's cache; where they are small, and
    kernels large, all threads work on all images, so that a kernel is read for many.

    Parameters
    ----------
    graph : LayerGraph
    threads, batch_size : int
        Threads, and how many images there are at once.
    """

    def __init__(self, graph: LayerGraph, threads: int, batch_size: int):
        self._threads, self._batch_size = threads, batch_size
        self._executor = ThreadPoolExecutor(threads)
        self._image, graph = _pad_image(graph)
        self._maps, self._outputs = graph.maps, graph.outputs
        self._steps = _plan(graph)
        heavy = (
            j for j, (of, step) in enumerate(self._steps) if step.weight > _HEAVY * prod(self._shape(of.sources[0]))
        )
        self._together = next(heavy, len(self._steps))  # from this step on
        self._lay_out()

    def run(self, images: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs.

        Parameters
        ----------
        images : ndarray of shape (batch_size, height, width, channels)
        prepare : callable
            From some images to what the graph takes, float32; several threads call it at once.

        Returns
        -------
        outputs : dict of str to ndarray of shape (batch_size, h, w, k), float32
        """
        out = {
            name: np.empty((len(images), *self._shape(number)), np.float32) for name, number in self._outputs.items()
        }
        queue = iter(range(len(images)))

        def alone(_: int) -> None:
            for i in queue:
                place = self._placing(i)
                x, x_at, depth = place(0)
                height, width, _ = self._shape(0)
                whole_image = x[x_at : x_at + height * width * depth].reshape(height, width, depth)
                whole_image[self._image] = prepare(images[i : i + 1])[0]
                self._go(0, self._together, place, slice(i, i + 1), whole, out)

        list(self._executor.map(alone, range(self._threads)))
        self._go(self._together, len(self._steps), self._placing(0), slice(0, len(images)), self._divide, out)
        return out

    def _shape(self, number: int) -> tuple[int, int, int]:
        return self._maps[number].shape

    def _go(self, first: int, last: int, place: Any, images: slice, split: Split, out: dict[str, np.ndarray]) -> None:
        count = images.stop - images.start
        for j in range(first, last):
            self._steps[j][1].run(place, count, split)
            for name in self._finished.get(j, ()):
                number = self._outputs[name]
                x, x_at, pixel = place(number)
                pixels = count * prod(self._shape(number)[:2])
                rows = x[x_at - self._maps[number].start :][: pixels * pixel].reshape(pixels, pixel)
                start = self._maps[number].start
                out[name][images] = rows[:, start : start + self._shape(number)[2]].reshape(out[name][images].shape)

    def _divide(self, part: Callable[[int, int], Any], count: int) -> None:
        """Let all threads do parts of a task: more parts than threads, which other work may keep waiting."""
        parts = min(2 * self._threads, count)
        ends = [count * i // parts for i in range(parts + 1)]
        list(self._executor.map(part, ends[:-1], ends[1:]))

    def _lay_out(self) -> None:
        """Give each feature map memory: that of a thread where images are computed one by one, else of the batch."""
        used: dict[int, list[int]] = {0: [-1]}
        written: dict[int, int] = {}
        for j, (of, step) in enumerate(self._steps):
            for number in (*of.sources, step.y):
                used.setdefault(self._maps[number].inside, []).append(j)
            written[self._maps[step.y].inside] = j
        self._finished: dict[int, list[str]] = {}
        for name, number in self._outputs.items():
            self._finished.setdefault(written[self._maps[number].inside], []).append(name)
        self._slots: dict[int, tuple[bool, int]] = {}  # of a feature map: whether it is the batch's, and which
        self._sizes: dict[tuple[bool, int], int] = {}
        free: list[tuple[bool, int]] = []
        batch = {number: max(steps) >= self._together for number, steps in used.items()}
        # Maps of the batch that images write one by one are all in use from the start.
        begin = {
            number: -1 if batch[number] and min(steps) < self._together else min(steps)
            for number, steps in used.items()
        }
        for j in range(-1, len(self._steps)):
            for number in (number for number, first in begin.items() if first == j):
                kind, size = batch[number], prod(self._shape(number))
                fitting = sorted(
                    (slot for slot in free if slot[0] == kind),
                    key=lambda slot: (self._sizes[slot] < size, abs(self._sizes[slot] - size)),
                )
                slot = fitting[0] if fitting else (kind, len(self._sizes))
                if fitting:
                    free.remove(slot)
                self._sizes[slot] = max(size, self._sizes.get(slot, 0))
                self._slots[number] = slot
            free += [self._slots[number] for number, steps in used.items() if max(steps) == j and number]
        self._shared = {slot: large_zeros(size * self._batch_size) for slot, size in self._sizes.items() if slot[0]}
        self._own = threading.local()

    def _memory(self, slot: tuple[bool, int]) -> np.ndarray:
        if slot[0]:
            return self._shared[slot]
        arrays: dict[Any, np.ndarray] = self._own.__dict__
        if slot not in arrays:
            arrays[slot] = large_zeros(self._sizes[slot])
        return arrays[slot]

    def _placing(self, image: int) -> Callable[[int], tuple[np.ndarray, int, int]]:
        """Return what tells where feature maps of images from this one on lie."""

        def place(number: int) -> tuple[np.ndarray, int, int]:
            maps = self._maps[number]
            slot, shape = self._slots[maps.inside], self._shape(maps.inside)
            return (self._memory(slot), maps.start + (image * prod(shape) if slot[0] else 0), shape[2])

        return place


def _pad_image(graph: LayerGraph) -> tuple[Any, LayerGraph]:
    """Give the image the border of the one convolution that reads it; return where in it the image itself is."""
    first = graph.operations[0]
    height, width, depth = graph.maps[0].shape
    readers = [of for of in graph.operations if 0 in of.sources]
    if readers != [first] or not isinstance(first, Convolution):
        return (slice(0, height), slice(0, width)), graph
    (above, below), (left, right) = first.border
    maps = [Maps((height + above + below, width + left + right, depth), 0), *graph.maps[1:]]
    operations = [replace(first, border=((0, 0), (0, 0))), *graph.operations[1:]]
    inner = (slice(above, above + height), slice(left, left + width))
    return inner, replace(graph, operations=operations, maps=maps)


def _plan(graph: LayerGraph) -> list[tuple[Operation, Step]]:
    steps: list[tuple[Operation, Step]] = []
    done: list[Operation] = []  # pools that are part of a convolution before
    for of in graph.operations:
        shape, size = graph.maps[of.sources[0]].shape, graph.maps[of.y].shape[:2]
        if isinstance(of, Convolution):
            after = _pool_after(of, graph)
            step = plan_convolution(of, shape, size, after.y if after else None)
            done += [after] if after and step.y == after.y else []
            steps.append((of, step))
        elif isinstance(of, Sum):
            steps.append((of, Adding(of, shape)))
        elif of not in done:
            steps.append((of, Pooling(of, shape, size)))
    return steps


def _pool_after(of: Convolution, graph: LayerGraph) -> Pool | None:
    """Return the 2x2 max pool that alone reads what a convolution makes."""
    readers = [each for each in graph.operations if of.y in each.sources]
    if len(readers) != 1 or of.y in graph.outputs.values() or not isinstance(readers[0], Pool):
        return None
    pool = readers[0]
    halves = not pool.mean and pool.window == pool.strides == (2, 2) and pool.border == ((0, 0), (0, 0))
    return pool if halves else None
