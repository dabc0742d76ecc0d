"""Choice of an algorithm for each operation of a `features.engines.winograd.graph.LayerGraph`, by its sizes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod

import numpy as np

from .graph import CHANNELS, NO_PADDING, Convolution, FeatureMap, LayerGraph, Operation, Pair, Pool, Sum
from .loops.kernels import TransformedKernel, pack
from .loops.registers import ROWS
from .loops.toom_cook import Tile
from .operations import Adding, DirectConvolution, Im2colConvolution, Pooling, Step, WinogradConvolution

_FEW = 64  # with fewer 4x4 tiles per image, larger tiles may be used

_OUTPUTS: dict[Pair, tuple[Pair, ...]] = {
    (3, 3): ((4, 4), (7, 7)), (5, 5): ((4, 4),), (1, 7): ((1, 6),), (7, 1): ((6, 1),),
}  # fmt: skip
"""Taps (vertical, horizontal) → possible numbers of outputs per tile."""


def pad_image(graph: LayerGraph) -> tuple[tuple[slice, slice], LayerGraph]:
    """Give the image the padding of the only convolution that reads it; return the image's position in it, and the graph."""
    first = graph.operations[0]
    height, width, depth = graph.maps[0].shape
    readers = [operation for operation in graph.operations if 0 in operation.sources]
    if readers != [first] or not isinstance(first, Convolution):
        return (slice(0, height), slice(0, width)), graph
    (above, below), (left, right) = first.padding
    maps = [FeatureMap((height + above + below, width + left + right, depth), 0), *graph.maps[1:]]
    operations = [replace(first, padding=NO_PADDING), *graph.operations[1:]]
    inner = (slice(above, above + height), slice(left, left + width))
    return inner, replace(graph, operations=operations, maps=maps)


def plan_steps(graph: LayerGraph, executor: ThreadPoolExecutor) -> list[Step]:
    """Return a step for each operation, without pools that are folded into the preceding convolution."""

    def plan(operation: Operation) -> Step:
        shape, size = graph.maps[operation.sources[0]].shape, graph.maps[operation.y].shape[:2]
        if isinstance(operation, Convolution):
            return plan_convolution(operation, shape, size, _pool_after(operation, graph))
        return Adding(operation, shape) if isinstance(operation, Sum) else Pooling(operation, shape, size)

    steps = list(executor.map(plan, graph.operations))
    made = {step.y for step in steps if not isinstance(step, Pooling)}
    return [step for step in steps if not (isinstance(step, Pooling) and step.y in made)]


def _pool_after(conv: Convolution, graph: LayerGraph) -> int | None:
    """Return the feature map of the 2x2 max pool that is the only reader of a convolution's output, if there is one."""
    readers = [operation for operation in graph.operations if conv.y in operation.sources]
    if len(readers) != 1 or conv.y in graph.outputs.values() or not isinstance(readers[0], Pool):
        return None
    pool = readers[0]
    halves = not pool.mean and pool.window == pool.strides == (2, 2) and pool.padding == NO_PADDING
    return pool.y if halves else None


def plan_convolution(conv: Convolution, shape: tuple[int, int, int], size: Pair, pool_y: int | None) -> Step:
    """Choose how to compute a convolution.

    Parameters
    ----------
    conv : Convolution
    shape : tuple of int
        (height, width, channels) of its input.
    size : tuple of int
        Height and width of its output, before the pool.
    pool_y : int, optional
        Number of the feature map of a following 2x2 max pool, which is folded into the convolution if tiles allow it.
    """
    tile = choose_tile(conv, shape[2], size)
    if tile is not None:
        outputs = (tile[0][0], tile[1][0])
        tiles = (-(-size[0] // outputs[0]), -(-size[1] // outputs[1]))
        conv, transformed = _without_kernel(conv), TransformedKernel(conv.kernel, tile)
        pools = outputs[0] % 2 == outputs[1] % 2 == 0
        if pool_y is None or not pools:
            return WinogradConvolution(conv, conv.y, shape, size, tile, False, tiles, transformed)
        half = (size[0] // 2, size[1] // 2)
        return WinogradConvolution(conv, pool_y, shape, half, tile, True, tiles, transformed)
    conv, u = _without_kernel(conv), pack(conv.kernel.reshape(1, -1, conv.kernel.shape[3]))
    pixels_are_rows = conv.kernel.shape[:2] == conv.strides == (1, 1)
    direct = conv.padding == NO_PADDING and size[1] >= ROWS and conv.residual is None and not pixels_are_rows
    return (DirectConvolution if direct else Im2colConvolution)(conv, shape, size, u)


def _without_kernel(conv: Convolution) -> Convolution:
    """Return a convolution whose kernel has its shape, but takes no memory, since it has been packed."""
    return replace(conv, kernel=np.broadcast_to(np.float32(np.nan), conv.kernel.shape))


def choose_tile(conv: Convolution, depth: int, size: Pair) -> Tile | None:
    """Return the tile for a convolution of maps with `depth` channels by Winograd's method; None if it does not apply."""
    window = conv.kernel.shape[:2]
    if conv.strides != (1, 1) or depth % CHANNELS or conv.residual is not None or window not in _OUTPUTS:
        return None
    choices = [((m, window[0]), (m_across, window[1])) for m, m_across in _OUTPUTS[window]]
    costs = [_multiplications(tile, size) for tile in choices]
    # Small tiles make the transforms cheaper; with few tiles, nearly all of the cost is in the products.
    return choices[costs.index(min(costs))] if costs[0] < _FEW * 36 else choices[0]


def _multiplications(tile: Tile, size: Pair) -> int:
    """Return the number of multiplications per image and pair of channels."""
    return prod(-(-side // m) * (m + r - 1) for side, (m, r) in zip(size, tile, strict=True))
