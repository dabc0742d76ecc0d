"""How a layer's output for one image becomes one vector, by its kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np

from .errors import RequestError, called, must_be_one_of, option
from .options import ExtractPool, ReadPool

# What a layer gives for one image: (h, w, channels), (n_tokens, channels) or (channels,).
KINDS = ("map", "tokens", "vector")
POOLS: tuple[str, ...] = get_args(ReadPool)
EXTRACT_POOLS: tuple[str, ...] = get_args(ExtractPool)
_MOST_BEFORE = 16  # class token and registers (Darcet et al., 2024: 4; DINOv3: 4)


def kind_of(shape: Sequence[int]) -> str:
    """Return the kind of a Keras layer's output from its shape for one image."""
    if not 1 <= len(shape) <= len(KINDS):
        raise RequestError(
            f"a layer's output for one image must have 1 to 3 axes; got {tuple(shape)}. Take another: {option('layers')}"
        )
    return KINDS[-len(shape)]


def check_pool(pool: str, kind: str, shape: Sequence[int], where: str) -> None:
    """Raise RequestError unless features of this kind, and shape for one image, can be pooled this way.

    `where` is their store or layer, for messages.
    """
    if pool not in POOLS:
        raise must_be_one_of(called("pool"), POOLS, pool)
    if kind == "vector" and pool != "flatten":
        raise RequestError(
            f"{called('pool')} must be flatten for features that were pooled at extraction; got {pool!r} for {where}. Leave it out."
        )
    if kind != "tokens" and "cls" in pools_of(pool):
        raise RequestError(
            f"{called('pool')} must be avg, max, avg+max or flatten for a feature map; got {pool!r} for {where}, which takes the first of a "
            f"transformer's tokens. Use {option('pool', 'avg')}"
        )
    if "cls" in pools_of(pool) and not tokens_before(shape[0]):
        raise RequestError(
            f"{called('pool')} must be avg, max, avg+max or flatten for tokens without a class token; got {pool!r} for {where}, whose "
            f"{shape[0]} tokens are all of patches. Use {option('pool', 'avg')}"
        )


def pools_of(pool: str) -> tuple[str, ...]:
    """Return the poolings that are concatenated, in order: two for ``avg+max`` and ``cls+avg``, otherwise `pool` itself."""
    return tuple(pool.split("+"))


def tokens_before(count: int) -> int:
    """Return how many of a layer's tokens stand before those of patches: the class token and registers.

    Images are squares, so patches are a square number; what is left over stands before them.
    """
    before = count - math.isqrt(count) ** 2
    return before if before <= _MOST_BEFORE else 0


def pooled_shape(shape: Sequence[int], pool: str) -> tuple[int, ...]:
    """Return the shape of a row after pooling, given its shape before."""
    if pool == "none" or len(shape) == 1:
        return tuple(shape)
    if pool == "flatten":
        return (math.prod(shape),)
    return (shape[-1] * len(pools_of(pool)),)


def pool_maps(maps: np.ndarray, pool: str) -> np.ndarray:
    """Turn features into vectors.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, channels), (n, n_tokens, channels) or (n, channels)
    pool : str
        One of ``POOLS``: ``cls`` is the first token, ``avg`` and ``max`` are over all cells or the tokens of patches; averages are
        taken in float32.

    Returns
    -------
    X : ndarray of shape (n, n_features), float32
    """
    maps = maps.astype(np.float32, copy=False)
    if pool == "flatten":
        return maps.reshape(len(maps), -1)
    over = tuple(range(1, maps.ndim - 1))
    seen = maps[:, tokens_before(maps.shape[1]) :] if maps.ndim == 3 else maps
    parts = [
        maps[:, 0] if name == "cls" else seen.mean(over) if name == "avg" else seen.max(over) for name in pools_of(pool)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
