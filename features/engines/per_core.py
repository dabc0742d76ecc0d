"""Each core computes separate images, because cores that share a convolution wait for the slowest at the end of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

Lane = Callable[[np.ndarray], Sequence[np.ndarray]]  # from images to flat outputs; see `Frozen`


class Lanes:
    """Callables that run a few images each, in parallel, each used by one thread at a time.

    If other work, such as decoding, takes part of a core, an engine that splits each convolution among the cores waits for that
    core in every convolution; here that core only computes fewer images.

    Parameters
    ----------
    lanes : sequence of callable
        From images of shape (piece, image_size, image_size, 3), uint8, to one flat array per output.
    piece : int
        Images per call of a lane; the last piece of a batch is padded with zeros, and their features are dropped.
    """

    def __init__(self, lanes: Sequence[Lane], piece: int):
        self._piece, self._free = piece, SimpleQueue[Lane]()
        for lane in lanes:
            self._free.put(lane)
        self._pool = ThreadPoolExecutor(len(lanes))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the flat outputs of some images."""
        count, lacking = len(images), -len(images) % self._piece
        images = np.concatenate([images, np.zeros((lacking, *images.shape[1:]), images.dtype)]) if lacking else images
        images = np.ascontiguousarray(images)
        pieces = [images[start : start + self._piece] for start in range(0, len(images), self._piece)]
        rows = list(self._pool.map(self._run_one, pieces))
        flat = rows[0] if len(rows) == 1 else [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]
        return [output[: output.size // len(images) * count] for output in flat]

    def _run_one(self, images: np.ndarray) -> Sequence[np.ndarray]:
        lane = self._free.get()
        try:
            return lane(images)
        finally:
            self._free.put(lane)
