"""The default batch size: sixteen on a CPU, the fastest one on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import EngineError, counted
from ..runtime.log import log
from ..runtime.user_cache import recall, remember
from .frozen_graph import Frozen
from .registry import ENGINES, considered, describe_engine

USUAL = 16
_LARGEST = 1024
_GAIN = 1.05  # gain in images per second for which the batch size is doubled


def pick_batch_size(
    asked: str,
    frozen: Frozen,
    key: Any,
    rate: Callable[[str, Frozen], float] | None = None,
    largest: int = _LARGEST,
) -> int:
    """Return the batch size for an engine, found by trial on a GPU and remembered.

    Parameters
    ----------
    asked : str
        One of ``CHOICES``. With ``auto``, the first engine that it considers is timed, since the engine is chosen later by
        its speed at this batch size.
    frozen : Frozen
    key : dict
        Identifies the base; see `pick_engine`.
    rate : callable
        Returns images per second of an engine on a base; by default, measured.
    largest : int
        Largest batch size to try.
    """
    name = considered(frozen.base.library)[0] if asked == "auto" else asked
    if ENGINES[name].device().kind == "cpu":
        return USUAL

    def rate_of(count: int) -> float:  # a separate `Frozen`, so that its graph does not stay in memory
        return (rate or _images_per_second)(name, Frozen(frozen.base, frozen.image_size, count, frozen.pool))

    known = {"base": key, "engine": str(describe_engine(name))}
    size = recall("batches", known)
    if size is None:
        size = find_batch_size(rate_of, largest)
        remember("batches", known, size)
    log.info(f"batches  of {counted(size, 'image')}, the fastest on this GPU")
    return int(size)


def find_batch_size(rate: Callable[[int], float], largest: int) -> int:
    """Double the batch size until the gain is below 5 % or `rate` raises EngineError because memory runs out."""
    best, pace = USUAL, rate(USUAL)
    while best < largest:
        try:
            found = rate(2 * best)
        except EngineError:
            break
        if found < _GAIN * pace:
            break
        best, pace = 2 * best, found
    return best


def _images_per_second(name: str, frozen: Frozen) -> float:
    engine = ENGINES[name].make(frozen)
    images = np.zeros((frozen.batch_size, frozen.image_size, frozen.image_size, 3), np.uint8)
    engine.run(images)
    start = time.perf_counter()
    for _ in range(3):
        engine.run(images)
    return 3 * frozen.batch_size / (time.perf_counter() - start)
