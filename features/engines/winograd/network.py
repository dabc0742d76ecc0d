"""Running a `features.engines.winograd.graph.LayerGraph` on batches of images with several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np

from .graph import FeatureMap, LayerGraph
from .loops.kernels import HUGE, Split
from .memory import Location, MapMemory, Stage
from .operations import Step, undivided
from .planning import pad_image, plan_steps

# From the first kernel with more than _HEAVY times the floats of its input, a thread computes several images together; from the
# first kernel with more than HUGE floats, all threads work on all images.
_HEAVY = 2
_GROUP = 4  # images that a thread computes together


class Network:
    """A graph of layers for batches of one size.

    While maps are large, each thread computes one image at a time, so that its maps stay in the core's cache. When kernels are
    large, a thread computes several images together, so that a kernel is read once for all of them. When kernels are huge, as in
    VGG, all threads work on all images, each with a part of the kernel.

    Parameters
    ----------
    graph : LayerGraph
    threads : int
    batch_size : int
        Maximum number of images per `run`.
    """

    def __init__(self, graph: LayerGraph, threads: int, batch_size: int):
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads)
        self._image, graph = pad_image(graph)
        self._maps, self._outputs = graph.maps, graph.outputs
        self._steps = plan_steps(graph, self._executor)
        self._stages = _plan_stages(self._steps, self._maps, threads, batch_size)
        touched: dict[int, list[int]] = {0: [-1]}
        written: dict[int, int] = {}
        for j, step in enumerate(self._steps):
            for number in (*step.sources, step.y):
                touched.setdefault(self._maps[number].whole, []).append(j)
            written[self._maps[step.y].whole] = j
        self._finished: dict[int, list[str]] = {}  # requested layers, by the last step that computes them
        for name, number in self._outputs.items():
            self._finished.setdefault(written[self._maps[number].whole], []).append(name)
        self._memory = MapMemory(self._maps, touched, self._stages)

    def run(self, images: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs.

        Parameters
        ----------
        images : ndarray of shape (batch_size, height, width, channels)
        prepare : callable
            Maps images to the graph's input, float32; called by several threads at once.

        Returns
        -------
        outputs : dict of str to ndarray of shape (batch_size, h, w, k), float32
        """
        shapes = {name: (len(images), *self._maps[number].shape) for name, number in self._outputs.items()}
        out = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        one_by_one, grouped, together = self._stages
        firsts = iter(range(0, len(images), grouped.images))

        def work(_: int) -> None:
            for first in firsts:
                group = range(first, min(first + grouped.images, len(images)))
                for i in group:
                    self._memory.array(0, i)[self._image] = prepare(images[i : i + 1])[0]
                    self._take(one_by_one, i, 1, undivided, out)
                self._take(grouped, first, len(group), undivided, out)

        list(self._executor.map(work, range(self._threads)))
        self._take(together, 0, len(images), self._divide, out)
        return out

    def _take(self, stage: Stage, first: int, count: int, split: Split, out: dict[str, np.ndarray]) -> None:
        """Run a stage's steps on `count` images from `first` on, and copy finished outputs to `out`."""

        def locate(number: int) -> Location:
            return self._memory.locate(number, first)

        for j in range(stage.begin, stage.end):
            self._steps[j].run(locate, count, split)
            for name in self._finished.get(j, ()):
                for i in range(first, first + count):
                    out[name][i] = self._memory.array(self._outputs[name], i)

    def _divide(self, part: Callable[[int, int], Any], count: int) -> None:
        """Divide a task among all threads, in more parts than threads, since other work may delay a thread."""
        parts = min(2 * self._threads, count)
        ends = [count * i // parts for i in range(parts + 1)]
        list(self._executor.map(part, ends[:-1], ends[1:]))


def _plan_stages(
    steps: Sequence[Step], maps: Sequence[FeatureMap], threads: int, batch_size: int
) -> tuple[Stage, Stage, Stage]:
    """Return the steps that run image by image, group by group and on all images."""
    huge = (j for j, step in enumerate(steps) if step.kernel_floats > HUGE)
    heavy = (j for j, step in enumerate(steps) if step.kernel_floats > _HEAVY * prod(maps[step.sources[0]].shape))
    all_from = next(huge, len(steps))
    groups_from = min(all_from, next(heavy, all_from))
    group = 1 if groups_from == all_from else max(1, min(_GROUP, batch_size // threads))
    return Stage(0, groups_from, 1), Stage(groups_from, all_from, group), Stage(all_from, len(steps), batch_size)
