"""Memory layout of feature maps, in flat arrays that later maps reuse."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .graph import FeatureMap
from .loops.huge_pages import address, large_zeros


class Stage(NamedTuple):
    """Steps that process the same number of images at once.

    Attributes
    ----------
    begin, end : int
        Steps begin..end - 1.
    images : int
    """

    begin: int
    end: int
    images: int


class Location(NamedTuple):
    """Location of the feature maps of several consecutive images.

    Attributes
    ----------
    address : int
        Of the first image's map; pixels row by row, channels last, float32.
    pixel : int
        Floats from one pixel to the next; more than the map's channels if it is part of a concatenation.
    """

    address: int
    pixel: int


class _Values(NamedTuple):
    """Values, float32, and their address."""

    values: np.ndarray
    address: int


class _Lifetime(NamedTuple):
    """The first and last step in which a map is in use, and the stage that determines how many images it holds."""

    first: int
    last: int
    stage: int


class _Slot(NamedTuple):
    """Memory of a stage that is used by one map after another."""

    stage: int
    number: int


class _Place(NamedTuple):
    """A feature map's place in a slot: number of images, floats per image, first channel, floats per pixel."""

    slot: _Slot
    images: int
    floats: int
    channel: int
    pixel: int


class MapMemory:
    """Memory of all feature maps.

    A map holds as many images as the stage of its last reader processes at once. Threads share the maps of the last stage;
    each thread has its own maps for the other stages.

    Parameters
    ----------
    maps : sequence of FeatureMap
        By number; 0 is the image.
    touched : dict of int to list of int
        Separate map → steps that read or write it; -1 is before the first step.
    stages : sequence of Stage
    """

    def __init__(self, maps: Sequence[FeatureMap], touched: dict[int, list[int]], stages: Sequence[Stage]):
        self._maps, self._stages = maps, stages
        self._sizes: list[list[int]] = [[] for _ in stages]  # floats per image of each slot
        slots: dict[int, _Slot] = {}
        free: list[list[int]] = [[] for _ in stages]
        lifetimes = {number: _lifetime(steps, stages) for number, steps in touched.items()}
        for step in range(-1, stages[-1].end):
            for number, life in lifetimes.items():
                if life.first == step:
                    slots[number] = self._take(life.stage, prod(maps[number].shape), free[life.stage])
            for number, life in lifetimes.items():
                if life.last == step and number:  # never the image's slot, whose padding must stay 0
                    free[life.stage].append(slots[number].number)
        # No step touches the map between a convolution and a pool that was folded into it, so it has no place.
        self._places = {
            number: _Place(
                slots[of.whole],
                stages[slots[of.whole].stage].images,
                prod(maps[of.whole].shape),
                of.channel,
                maps[of.whole].shape[2],
            )
            for number, of in enumerate(maps)
            if of.whole in slots
        }
        self._own = threading.local()
        self._shared = [_zeros(stages[-1].images * size) for size in self._sizes[-1]]

    def _take(self, stage: int, size: int, free: list[int]) -> _Slot:
        """Return the free slot with the nearest size, or a new one."""
        sizes = self._sizes[stage]
        if not free:
            free.append(len(sizes))
            sizes.append(0)
        nearest = min(free, key=lambda number: (abs(sizes[number] - size), number))
        free.remove(nearest)
        sizes[nearest] = max(size, sizes[nearest])
        return _Slot(stage, nearest)

    def locate(self, number: int, image: int) -> Location:
        """Return the location of a feature map, starting with the given image, for the calling thread."""
        slot, images, floats, channel, pixel = self._places[number]
        return Location(self._values(slot).address + 4 * (image % images * floats + channel), pixel)

    def array(self, number: int, image: int) -> np.ndarray:
        """Return a feature map of one image as an array (height, width, channels)."""
        slot, images, floats, channel, pixel = self._places[number]
        (height, width, channels), start = self._maps[number].shape, image % images * floats
        whole = self._values(slot).values[start : start + height * width * pixel].reshape(height, width, pixel)
        return whole[..., channel : channel + channels]

    def _values(self, slot: _Slot) -> _Values:
        if slot.stage == len(self._stages) - 1:
            return self._shared[slot.number]
        own: dict[Any, _Values] = self._own.__dict__
        if slot not in own:
            own[slot] = _zeros(self._stages[slot.stage].images * self._sizes[slot.stage][slot.number])
        return own[slot]


def _zeros(floats: int) -> _Values:
    values = large_zeros(floats)
    return _Values(values, address(values))


def _lifetime(steps: Sequence[int], stages: Sequence[Stage]) -> _Lifetime:
    first, last = min(steps), max(steps)
    # A map written by an earlier stage is already in use when its own stage begins, so it has a separate slot there.
    return _Lifetime(first, last, next(number for number, stage in enumerate(stages) if last < stage.end))


class Scratch(threading.local):
    """Per-thread scratch memory, which is kept and grows on demand."""

    def __init__(self) -> None:
        self._arrays: dict[str, _Values] = {}

    def take(self, name: str, floats: int) -> int:
        """Return the address of at least this many floats, with arbitrary contents."""
        if name not in self._arrays or self._arrays[name].values.size < floats:
            self._arrays[name] = _zeros(floats)
        return self._arrays[name].address
