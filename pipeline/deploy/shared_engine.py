"""An engine that threads share: what they ask for while it is busy is then computed in common batches."""

from __future__ import annotations

import gc
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from features.engines.registry import Engine, describe_engine
from features.extraction.recompute import forward, rebuild_engine
from features.runtime.log import log
from features.store.provenance import Provenance

Features = dict[str, np.ndarray]
_SHARED: WeakValueDictionary[Any, SharedEngine] = WeakValueDictionary()
_MAKING = threading.Lock()
_KEPT: list[SharedEngine] = []  # one at most, which nobody may be using


@dataclass(frozen=True)
class _Asked:
    images: np.ndarray
    features: Future[Features] = field(default_factory=Future)


class SharedEngine:
    """An engine used by one thread at a time, on behalf of all that wait.

    Parameters
    ----------
    made : Provenance
    engine : Engine
        See `rebuild_engine`.
    """

    def __init__(self, made: Provenance, engine: Engine):
        self._made, self._engine = made, engine
        self._turn, self._waiting = threading.Lock(), deque[_Asked]()

    def run(self, images: np.ndarray) -> Features:
        """Return each layer's features of some images, in the store's dtype; may be called from any thread.

        Parameters
        ----------
        images : ndarray of shape (n, image_size, image_size, 3), uint8

        Returns
        -------
        features : dict of str to ndarray of shape (n, ...)
        """
        asked = _Asked(images)
        self._waiting.append(asked)
        while not asked.features.done():
            with self._turn:  # whoever has it computes what was asked for first, until its own is among it
                if not asked.features.done():
                    self._compute(self._next())
        return asked.features.result()

    def _next(self) -> list[_Asked]:
        """Take from those that wait what fits into a batch, at least one."""
        some = [self._waiting.popleft()]
        rows = len(some[0].images)
        while self._waiting and rows + len(self._waiting[0].images) <= self._made.batch_size:
            some.append(self._waiting.popleft())
            rows += len(some[-1].images)
        return some

    def _compute(self, some: list[_Asked]) -> None:
        try:
            features = forward(np.concatenate([each.images for each in some]), self._engine, self._made)
        except Exception as error:
            if len(some) == 1:
                some[0].features.set_exception(error)
            else:  # features of one image can be refused, which is no matter of the others
                for each in some:
                    self._compute([each])
            return
        except BaseException:  # Ctrl-C in this thread; the others still want theirs
            self._waiting.extendleft(reversed(some))
            raise
        start = 0
        for each in some:
            rows = slice(start, start := start + len(each.images))
            each.features.set_result({name: values[rows] for name, values in features.items()})


def share_engine(made: Provenance, weights: str | Path | None) -> SharedEngine:
    """Return the engine that a provenance describes: the one in use, or a new one. See `rebuild_engine` for errors.

    It is freed when nobody refers to it any more.
    """
    key = made.spec, made.batch_size, made.backbone_file, None if weights is None else str(weights)
    with _MAKING:
        shared = _SHARED.get(key)
        if shared is None:
            _KEPT.clear()
            gc.collect()  # an engine's base is part of circles, which Python would keep until much memory is taken
            shared = _SHARED[key] = SharedEngine(made, rebuild_engine(made, weights))
            then, now = made.spec.engine, describe_engine(made.spec.engine.name)
            differs = "" if now == then else f"; the store was computed by {then}, so the last digits can differ"
            log.info(f"engine   {now}{differs}")
    return shared


def keep_engine(engine: SharedEngine) -> None:
    """Keep an engine for its next user, until another one is made."""
    _KEPT[:] = [engine]


def release_engine(engine: SharedEngine) -> None:
    """Free an engine, unless somebody else refers to it."""
    if engine in _KEPT:
        _KEPT.clear()
    del engine
    gc.collect()
