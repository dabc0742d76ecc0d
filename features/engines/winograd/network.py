"""A `features.engines.winograd.graph.LayerGraph` run on batches of images: which thread does what, in which memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from .graph import NO_BORDER, Convolution, LayerGraph, Maps, Operation, Pool, Sum
from .loops.matmul import large_zeros
from .operations import Adding, Place, Pooling, Split, Step, plan_convolution, whole

# From the first kernel on that has so many times the floats of its input a thread computes some images together, from the
# first of so many floats on all threads compute all.
_HEAVY, _HUGE = 2, 8_000_000
_GROUP = 4  # images that a thread computes together


class Network:
    """A graph of layers for batches of one size.

    While maps are large each thread computes one image after the other, whose maps stay in its core's cache; then, where
    kernels are large, some together, so that a kernel is read for all of them; and where they are huge, as VGG's, all threads
    compute all images, each with a part of the kernel.

    Parameters
    ----------
    graph : LayerGraph
    threads, batch_size : int
        Threads, and how many images there are at once.
    """

    def __init__(self, graph: LayerGraph, threads: int, batch_size: int):
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads)
        self._image, graph = _pad_image(graph)
        self._maps, self._outputs = graph.maps, graph.outputs
        planned = _plan(graph, self._executor)
        self._steps = [step for _, step in planned]
        inputs = [prod(self._maps[of.sources[0]].shape) for of, _ in planned]
        huge = [j for j, step in enumerate(self._steps) if step.weight > _HUGE]
        heavy = [j for j, step in enumerate(self._steps) if step.weight > _HEAVY * inputs[j]]
        last = huge[0] if huge else len(planned)
        self._ends = (min([last, *heavy]), last, len(planned))
        self._group = 1 if self._ends[0] == last else max(1, min(_GROUP, batch_size // threads))
        touched: dict[int, list[int]] = {0: [-1]}
        written: dict[int, int] = {}
        for j, (of, step) in enumerate(planned):
            for number in (*of.sources, step.y):
                touched.setdefault(self._maps[number].inside, []).append(j)
            written[self._maps[step.y].inside] = j
        self._finished: dict[int, list[str]] = {}  # layers that are asked for, by the last step that makes them
        for name, number in self._outputs.items():
            self._finished.setdefault(written[self._maps[number].inside], []).append(name)
        self._memory = _Memory(self._maps, touched, self._ends, (1, self._group, batch_size))

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
        shapes = {name: (len(images), *self._maps[number].shape) for name, number in self._outputs.items()}
        out = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        firsts = iter(range(0, len(images), self._group))

        def work(_: int) -> None:
            for first in firsts:
                group = range(first, min(first + self._group, len(images)))
                for i in group:
                    self._memory.array(0, i)[self._image] = prepare(images[i : i + 1])[0]
                    self._go(0, self._ends[0], i, 1, whole, out)
                self._go(self._ends[0], self._ends[1], first, len(group), whole, out)

        list(self._executor.map(work, range(self._threads)))
        self._go(self._ends[1], self._ends[2], 0, len(images), self._divide, out)
        return out

    def _go(self, begin: int, end: int, first: int, count: int, split: Split, out: dict[str, np.ndarray]) -> None:
        """Take steps begin..end with `count` images."""
        place = self._memory.placing(first)
        for j in range(begin, end):
            self._steps[j].run(place, count, split)
            for name in self._finished.get(j, ()):
                for i in range(first, first + count):
                    out[name][i] = self._memory.array(self._outputs[name], i)

    def _divide(self, part: Callable[[int, int], Any], count: int) -> None:
        """Let all threads do parts of a task: more parts than threads, which other work may keep waiting."""
        parts = min(2 * self._threads, count)
        ends = [count * i // parts for i in range(parts + 1)]
        list(self._executor.map(part, ends[:-1], ends[1:]))


class _Memory:
    """Where feature maps lie: memory is used again for later ones.

    Parameters
    ----------
    maps : sequence of Maps
    touched : dict of int to list of int
        Steps that read or write each map that is in no other.
    ends : sequence of int
        Of the steps with one image, with some, and with all.
    counts : sequence of int
        How many images that is. All threads share the memory of the last kind.
    """

    def __init__(self, maps: Sequence[Maps], touched: dict[int, list[int]], ends: Sequence[int], counts: Sequence[int]):
        self._maps, self._counts = maps, counts
        self._slots: dict[int, tuple[int, int]] = {}  # of a feature map: its kind, and which of this kind
        sizes: list[list[int]] = [[] for _ in counts]  # floats of an image
        free: list[list[int]] = [[] for _ in counts]
        kinds = {
            number: next(kind for kind, end in enumerate(ends) if max(steps) < end) for number, steps in touched.items()
        }
        # What images write one by one is in use from the start on.
        lives = {
            number: (-1 if kinds[number] and min(steps) < ends[kinds[number] - 1] else min(steps), max(steps))
            for number, steps in touched.items()
        }
        for j in range(-1, ends[-1]):
            for number in (number for number, (begin, _) in lives.items() if begin == j):
                kind, size = kinds[number], prod(maps[number].shape)
                if not free[kind]:
                    free[kind].append(len(sizes[kind]))
                    sizes[kind].append(0)
                _, slot = min((abs(sizes[kind][slot] - size), slot) for slot in free[kind])
                free[kind].remove(slot)
                sizes[kind][slot] = max(size, sizes[kind][slot])
                self._slots[number] = kind, slot
            for number in (number for number, (_, end) in lives.items() if end == j and number):
                free[kinds[number]].append(self._slots[number][1])  # not the image's, whose border stays 0
        self._sizes, self._own = sizes, threading.local()
        self._shared = [large_zeros(counts[-1] * size) for size in sizes[-1]]

    def placing(self, first: int) -> Place:
        """Return what tells where feature maps of images from this one on lie."""

        def place(number: int) -> tuple[np.ndarray, int, int]:
            maps = self._maps[number]
            kind, slot = self._slots[maps.inside]
            floats = prod(self._maps[maps.inside].shape)
            at = first % self._counts[kind] * floats + maps.start
            return self._array(kind, slot), at, self._maps[maps.inside].shape[2]

        return place

    def array(self, number: int, image: int) -> np.ndarray:
        """Return a feature map of one image as an array (height, width, channels)."""
        x, at, depth = self.placing(image)(number)
        height, width, channels = self._maps[number].shape
        start = self._maps[number].start
        whole = x[at - start : at - start + height * width * depth].reshape(height, width, depth)
        return whole[..., start : start + channels]

    def _array(self, kind: int, slot: int) -> np.ndarray:
        if kind == len(self._counts) - 1:
            return self._shared[slot]
        own: dict[Any, np.ndarray] = self._own.__dict__
        if (kind, slot) not in own:
            own[kind, slot] = large_zeros(self._counts[kind] * self._sizes[kind][slot])
        return own[kind, slot]


def _pad_image(graph: LayerGraph) -> tuple[Any, LayerGraph]:
    """Give the image the border of the one convolution that reads it; return where in it the image itself is."""
    first = graph.operations[0]
    height, width, depth = graph.maps[0].shape
    readers = [of for of in graph.operations if 0 in of.sources]
    if readers != [first] or not isinstance(first, Convolution):
        return (slice(0, height), slice(0, width)), graph
    (above, below), (left, right) = first.border
    maps = [Maps((height + above + below, width + left + right, depth), 0), *graph.maps[1:]]
    operations = [replace(first, border=NO_BORDER), *graph.operations[1:]]
    inner = (slice(above, above + height), slice(left, left + width))
    return inner, replace(graph, operations=operations, maps=maps)


def _plan(graph: LayerGraph, executor: ThreadPoolExecutor) -> list[tuple[Operation, Step]]:
    """Return each operation and how it is computed, without pools that are part of a convolution before."""

    def plan(of: Operation) -> Step:
        shape, size = graph.maps[of.sources[0]].shape, graph.maps[of.y].shape[:2]
        if isinstance(of, Convolution):
            return plan_convolution(of, shape, size, _pool_after(of, graph))
        return Adding(of, shape) if isinstance(of, Sum) else Pooling(of, shape, size)

    planned = list(zip(graph.operations, executor.map(plan, graph.operations), strict=True))
    made = {step.y for of, step in planned if isinstance(of, Convolution)}
    return [(of, step) for of, step in planned if not (isinstance(of, Pool) and of.y in made)]


def _pool_after(of: Convolution, graph: LayerGraph) -> int | None:
    """Return where to the 2x2 max pool goes that alone reads what a convolution makes."""
    readers = [each for each in graph.operations if of.y in each.sources]
    if len(readers) != 1 or of.y in graph.outputs.values() or not isinstance(readers[0], Pool):
        return None
    pool = readers[0]
    halves = not pool.mean and pool.window == pool.strides == (2, 2) and pool.border == NO_BORDER
    return pool.y if halves else None
