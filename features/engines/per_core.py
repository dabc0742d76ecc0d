"""Each core computes images of its own: cores that share one convolution wait for the slowest at the end of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

Lane = Callable[[np.ndarray], Sequence[np.ndarray]]  # from images to the flat outputs that `Frozen` tells of


class Lanes:
    """Ways to run a few images that work side by side, each for one thread at a time.

    Where other work takes a part of a core, as decoding does and other tenants of a machine, an engine that splits each
    convolution among the cores waits for that core in each; here it only gets fewer images.

    Parameters
    ----------
    lanes : sequence of callable
        From images of shape (piece, image_size, image_size, 3), uint8, to one flat array an output.
    piece : int
        How many images a lane takes at once; a batch must be a multiple of it.
    """

    def __init__(self, lanes: Sequence[Lane], piece: int):
        self._piece, self._free = piece, SimpleQueue[Lane]()
        for lane in lanes:
            self._free.put(lane)
        self._pool = ThreadPoolExecutor(len(lanes))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the flat outputs of a batch."""
        images = np.ascontiguousarray(images)
        pieces = [images[start : start + self._piece] for start in range(0, len(images), self._piece)]
        rows = list(self._pool.map(self._run_one, pieces))
        return list(rows[0]) if len(rows) == 1 else [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]

    def _run_one(self, images: np.ndarray) -> Sequence[np.ndarray]:
        lane = self._free.get()
        try:
            return lane(images)
        finally:
            self._free.put(lane)
