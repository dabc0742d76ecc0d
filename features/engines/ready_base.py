"""A base as an engine runs it, kept in the per-user cache, so that a later process needs no TensorFlow.

It holds what the engine converted the base to, and the reference engine's features of a few fixed images, against which each
process checks its engine.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.log import log
from ..runtime.machine import processor
from ..runtime.user_cache import recall_bytes, remember_bytes
from .frozen_graph import Frozen
from .registry import ENGINES, describe_engine, engine_version, reference_of

PROBES = 1  # images: each costs `predict` of one photo as much as the photo itself
_KINDS = ("part/", "expected/")
_ALIGNED = 64  # bytes
_MOST = 1 << 30  # bytes of ready bases that are kept beside the newest


@dataclass(frozen=True)
class ReadyBase:
    """A converted base.

    Attributes
    ----------
    parts : dict of str to ndarray
        What the engine's `convert` returned.
    expected : dict of str to ndarray of shape (PROBES, ...), float32
        Layer → the reference engine's features of `draw_probes`.
    """

    parts: Mapping[str, np.ndarray]
    expected: dict[str, np.ndarray]


def draw_probes(side: int) -> np.ndarray:
    """Return the images on which engines are checked, (PROBES, side, side, 3), uint8: waves of all lengths with noise.

    They are computed with integers, so that they are the same everywhere.
    """
    down, across, colour, image = np.ogrid[:side, :side, :3, :PROBES]
    waves = (down * down * (3 + image) + across * across * (5 + colour) + 7 * down * across) // side % 256
    noise = (down * 7919 + across * 104729 + colour * 1299709 + image * 15485863) ** 2 // 64 % 64
    return np.ascontiguousarray(np.moveaxis((waves * 3 // 4 + noise) % 256, -1, 0).astype(np.uint8))


def find_ready(name: str, frozen: Frozen) -> ReadyBase | None:
    """Return an engine's ready base from the cache; None if it is not there, or damaged."""
    key = _key(name, frozen)
    held = None if key is None else recall_bytes("ready", key)
    if held is None:
        return None
    arrays = _unpack(held)
    found = {
        kind: {each.removeprefix(kind): arrays[each] for each in arrays if each.startswith(kind)} for kind in _KINDS
    }
    log.debug(f"ready    the base for {name} is in the cache, {len(held) / 1e6:.0f} MB")
    return ReadyBase(found["part/"], found["expected/"])


def make_ready(name: str, frozen: Frozen) -> ReadyBase:
    """Convert a base for an engine, and compute the features to check it against, which takes seconds, and the reference engine.

    Raises
    ------
    EngineError
        If the engine cannot run this base.
    """
    convert = ENGINES[name].convert
    assert convert is not None
    probes, library = draw_probes(frozen.image_size), frozen.base.library
    if library == "keras":
        return ReadyBase(convert(frozen), frozen.compute(probes))
    reference = ENGINES[reference_of(library)].make(frozen.of_batch(PROBES))
    return ReadyBase(convert(frozen), reference.run(probes))


def keep_ready(name: str, frozen: Frozen, ready: ReadyBase) -> None:
    """Keep a ready base, of an engine that was checked with it, for later processes."""
    key = _key(name, frozen)
    if key is None:
        return
    arrays = {f"part/{each}": values for each, values in ready.parts.items()}
    remember_bytes(
        "ready", key, _pack(arrays | {f"expected/{each}": values for each, values in ready.expected.items()}), _MOST
    )


def _key(name: str, frozen: Frozen) -> dict[str, Any] | None:
    """Return all that decides a ready base; None for a base that cannot be told from another."""
    if frozen.base.identity is None:
        return None
    return {
        "base": dict(frozen.base.identity),
        "pool": frozen.pool,
        "engine": str(describe_engine(name)),
        "reference": engine_version(reference_of(frozen.base.library)),
        "processor": processor(),
        "probes": PROBES,
    }


def _pack(arrays: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """Yield arrays as bytes, from which `_unpack` takes them without copying, as an npz file does not allow.

    The length of a JSON list of names, types, shapes and sizes, 8 bytes; the list; the values, each from a multiple of 64 bytes on.
    """
    values = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    told = json.dumps([[name, each.dtype.str, each.shape, each.nbytes] for name, each in values.items()]).encode()
    yield from (len(told).to_bytes(8, "little"), told, bytes(-(8 + len(told)) % _ALIGNED))
    for each in values.values():
        yield from (each.reshape(-1).view(np.uint8), bytes(-each.nbytes % _ALIGNED))


def _unpack(held: mmap.mmap) -> dict[str, np.ndarray]:
    start = 8 + int.from_bytes(held[:8], "little")
    arrays, at = {}, start + -start % _ALIGNED
    for name, dtype, shape, size in json.loads(held[8:start]):
        arrays[name] = np.ndarray(shape, dtype, held, at)
        at += size + -size % _ALIGNED
    return arrays
