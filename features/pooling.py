"""How a feature map of h x w x channels becomes one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .errors import RequestError, called, must_be_one_of

POOLS = ("flatten", "avg", "max", "avg+max")  # when a stored map is read for a head
EXTRACT_POOLS = ("none", "avg", "max", "avg+max")  # before a map is stored


def check_pool(pool: str, shape: Sequence[int], where: str) -> None:
    """Raise RequestError unless rows of this shape can be pooled this way; `where` is their store, for messages."""
    if pool not in POOLS:
        raise must_be_one_of(called("pool"), POOLS, pool)
    if len(shape) == 1 and pool != "flatten":
        raise RequestError(
            f"{called('pool')} must be flatten for features that were pooled at extraction; got {pool!r} for {where}. Leave it out."
        )


def pools_of(pool: str) -> tuple[str, ...]:
    """Return the poolings that are concatenated, in order: two for ``avg+max``, otherwise `pool` itself."""
    return ("avg", "max") if pool == "avg+max" else (pool,)


def pooled_shape(shape: Sequence[int], pool: str) -> tuple[int, ...]:
    """Return the shape of a row after pooling, given its shape before."""
    if pool == "none" or len(shape) == 1:
        return tuple(shape)
    if pool == "flatten":
        return (math.prod(shape),)
    return (shape[-1] * len(pools_of(pool)),)


def pool_maps(maps: np.ndarray, pool: str) -> np.ndarray:
    """Turn feature maps into vectors.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, channels) or (n, channels)
    pool : str
        One of ``POOLS``; averages are taken in float32.

    Returns
    -------
    X : ndarray of shape (n, n_features), float32
    """
    maps = maps.astype(np.float32)
    if pool == "flatten":
        return maps.reshape(len(maps), -1)
    parts = {"avg": lambda: maps.mean((1, 2)), "max": lambda: maps.max((1, 2))}
    return np.concatenate([parts[name]() for name in pools_of(pool)], axis=1)
