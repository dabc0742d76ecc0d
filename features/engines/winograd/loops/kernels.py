"""A convolution's kernel in the order in which products read it, as it is or transformed for Winograd's method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from .huge_pages import address, large_zeros
from .machine_code import compiled
from .registers import PANEL
from .toom_cook import Tile

# A transformed kernel of more floats than the first is kept once it was used for more images than the second. Until then it is
# transformed for each use, in the same memory as others: to predict one photo, taking fresh memory for all costs more.
HUGE, _FEW = 8_000_000, 8

Split = Callable[[Callable[[int, int], Any], int], Any]
"""Runs a task of `count` units in parts, ``part(first, last)``, possibly in parallel."""


def pack(kernel: np.ndarray) -> np.ndarray:
    """Return matrices (points, c, k) as a flat array in the order in which products read them, in panels of output channels.

    A panel is (c, PANEL); the last one of each matrix is half as wide if k is not a multiple of PANEL.
    """
    packed = large_zeros(kernel.size)
    for matrix, place in zip(kernel, packed.reshape(len(kernel), -1), strict=True):
        start = 0
        for first in range(0, matrix.shape[1], PANEL):
            panel = matrix[:, first : first + PANEL].ravel()
            place[start : start + panel.size] = panel
            start += panel.size
    return packed


class TransformedKernel:
    """G g G^T for each pair of channels, (n * n', c, k) float32, packed, from a kernel g, (r, r', c, k).

    Computed in float64, each sum in one order, so that it is bitwise equal on every machine.

    Parameters
    ----------
    kernel : ndarray
    tile : Tile

    Attributes
    ----------
    floats : int
    """

    def __init__(self, kernel: np.ndarray, tile: Tile):
        self._kernel, self._transform = np.ascontiguousarray(kernel, np.float32), compiled("kernel_transform", tile)
        self.floats = prod(sum(side) - 1 for side in tile) * prod(kernel.shape[2:])
        self._kept: np.ndarray | None = None
        self._images = 0
        if self.floats <= HUGE:
            self._keep(lambda part, count: part(0, count))

    def locate(self, images: int, take: Callable[[str, int], int], split: Split) -> int:
        """Return its address, to be used for so many images until the next kernel takes its place.

        Parameters
        ----------
        images : int
        take : callable
            See `Scratch.take`.
        split : Split
        """
        self._images += images
        if self._kept is None and self._images > _FEW:
            self._keep(split)
        if self._kept is not None:
            return address(self._kept)
        place = take("u", self.floats)
        self._write(place, split)
        return place

    def _keep(self, split: Split) -> None:
        kept = large_zeros(self.floats)
        self._write(address(kept), split)
        self._kept, self._kernel = kept, kept[:0]

    def _write(self, place: int, split: Split) -> None:
        c, k = self._kernel.shape[2:]
        split(partial(self._transform, address(self._kernel), c, k, place), -(-k // PANEL))
