"""Transforms of tiles for Winograd's convolutions, compiled by Numba.

Lavin and Gray 2016 (arXiv 1509.09308): tiles of the input are transformed, multiplied point by point with the transformed
kernel, and the products are transformed back. Channels are last, and vectors run along them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

from llvmlite import ir

from .registers import LANES, PANEL
from .simd import VECTOR, Emitter, Pixels, Steps, Vectors, at, jit, local_floats, loop
from .toom_cook import Tile, firsts, matrices, singles_and_firsts

_LINE = 16  # floats of a cache line: the next channels', which a processor does not fetch by itself from so many places

Transform = Callable[[Emitter, tuple[int, int], Vectors], Vectors]


def _forward(e: Emitter, side: tuple[int, int], x: Vectors) -> Vectors:
    """Return B^T @ x; the rows of a point and its negative share their sums over even and odd powers."""
    out, bt, n = [], matrices(*side)[2], sum(side) - 1
    for i in singles_and_firsts(n):
        if i in firsts(n):
            even, odd = e.dot(bt[i, ::2], x[::2]), e.dot(bt[i, 1::2], x[1::2])
            out += [e.b.fadd(even, odd), e.b.fsub(*((odd, even) if n % 2 else (even, odd)))]
        else:
            out.append(e.dot(bt[i], x))
    return out


def _backward(e: Emitter, side: tuple[int, int], x: Vectors) -> Vectors:
    """Return A^T @ x; the columns of a point and its negative are added for even powers and subtracted for odd ones."""
    n = sum(side) - 1
    at, columns = matrices(*side)[0], singles_and_firsts(n)
    parts = [[combine(x[i], x[i + 1]) if i in firsts(n) else x[i] for i in columns] for combine in (e.b.fadd, e.b.fsub)]
    return [e.dot(at[i, columns], parts[i % 2]) for i in range(side[0])]


def _both(transform: Transform, e: Emitter, tile: Tile, x: Sequence[Vectors]) -> list[Vectors]:
    """Return x[i][j] transformed horizontally and vertically."""
    half = [transform(e, tile[1], row) for row in x]
    columns = [transform(e, tile[0], list(column)) for column in zip(*half, strict=True)]
    return list(zip(*columns, strict=True))


def _copy_vector(e: Emitter, to: Any, of: Any) -> None:
    e.store(e.load(of), to)
    e.prefetch(e.at(of, _LINE))


_copy = loop("pp")(_copy_vector)
_zero = loop("p")(lambda e, to: e.store(VECTOR(None), to))


def input_transform(tile: Tile) -> Callable[..., None]:
    """Return a function that transforms tiles first..last of x into planes of v, (tiles, c), one per point."""
    (m, _), (m_across, _) = tile
    n, n_across = (sum(side) - 1 for side in tile)
    tile_in, edge_floats = loop("PS")(partial(_tile_in, tile)), local_floats(n * n_across * LANES)

    @jit()
    def transform(
        x: Any, height: int, width: int, c: int, above: int, before: int, tiles: int, tiles_across: int, v: Any, plane: int,
        start: int, first: int, last: int,
    ) -> None:  # fmt: skip
        edge = edge_floats()
        for t in range(first, last):
            image, rest = divmod(start + t, tiles * tiles_across)
            i, j = divmod(rest, tiles_across)
            top, left = i * m - above, j * m_across - before
            corner = ((image * height + top) * width + left) * c
            inside = top >= 0 and left >= 0 and top + n <= height and left + n_across <= width
            if not inside:
                for point in range(n * n_across):
                    _zero((at(edge, point * LANES),))  # outside x
            for channel in range(0, c, LANES):
                source = at(x, corner + channel), width * c, c
                if not inside:
                    for a in range(max(-top, 0), min(height - top, n)):
                        for b in range(max(-left, 0), min(width - left, n_across)):
                            _copy((at(edge, (a * n_across + b) * LANES), at(x, corner + (a * width + b) * c + channel)))
                    source = at(edge, 0), n_across * LANES, LANES
                tile_in((source, (at(v, t * c + channel), plane)))

    return transform


def output_transform(tile: Tile, pooled: bool) -> Callable[..., None]:
    """Return a function that computes tiles first..last of y from planes of products, (tiles, k), one per point."""
    side, across = (m // 2 if pooled else m for m, _ in tile)
    tile_out, edge_floats = loop("SpPp")(partial(_tile_out, tile, pooled)), local_floats(side * across * LANES)

    @jit()
    def transform(
        v: Any, plane: int, k: int, bias: Any, floor: Any, y: Any, y_pixel: int, height: int, width: int, tiles: int,
        tiles_across: int, start: int, first: int, last: int,
    ) -> None:  # fmt: skip
        edge = edge_floats()
        for t in range(first, last):
            image, rest = divmod(start + t, tiles * tiles_across)
            i, j = divmod(rest, tiles_across)
            i, j = i * side, j * across
            rows, columns = min(side, height - i), min(across, width - j)
            corner = ((image * height + i) * width + j) * y_pixel
            inside = rows == side and columns == across
            for channel in range(0, k, LANES):
                place = at(y, corner + channel), width * y_pixel, y_pixel
                if not inside:
                    place = at(edge, 0), across * LANES, LANES
                tile_out(((at(v, t * k + channel), plane), at(bias, channel), place, floor))
                if not inside:
                    for a in range(rows):
                        for b in range(columns):
                            to = at(y, corner + (a * width + b) * y_pixel + channel)
                            _copy((to, at(edge, (a * across + b) * LANES)))

    return transform


def _tile_in(tile: Tile, e: Emitter, x: Pixels, v: Steps) -> None:
    n, across = (sum(side) - 1 for side in tile)
    values = [[e.load(e.go_to(x, i, j)) for j in range(across)] for i in range(n)]
    for i, line in enumerate(_both(_forward, e, tile, values)):
        for j, value in enumerate(line):
            to = e.go(v, i * across + j)
            e.store(value, to)
            e.prefetch(e.at(to, _LINE), write=1)


def _tile_out(tile: Tile, pooled: bool, e: Emitter, v: Steps, bias: Any, y: Pixels, floor: Any) -> None:
    """Emit a tile's output with bias, optional 2x2 max pool, and floor."""
    n, across = (sum(side) - 1 for side in tile)
    points = [[e.load(e.go(v, i * across + j)) for j in range(across)] for i in range(n)]
    for point in range(n * across):
        e.prefetch(e.at(e.go(v, point), _LINE))
    values: list[Vectors] = _both(_backward, e, tile, points)
    if pooled:
        wide = [[e.larger(*pair) for pair in zip(line[::2], line[1::2], strict=True)] for line in values]
        pairs = zip(wide[::2], wide[1::2], strict=True)
        values = [[e.larger(*pair) for pair in zip(*lines, strict=True)] for lines in pairs]
    shift, lowest = e.load(bias), e.splat(e.b.load(floor))
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            e.store(e.larger(e.b.fadd(value, shift), lowest), e.go_to(y, i, j))


def kernel_transform(tile: Tile) -> Callable[..., None]:
    """Return a function that sets panels first..last of packed, (n * n', c, k), to the transform of a kernel, (r, r', c, k)."""
    across, of_kernel = tile[1][1], loop("PS")(partial(_of_kernel, tile))

    @jit()
    def transform(kernel: Any, c: int, k: int, packed: Any, first: int, last: int) -> None:
        for begin in range(first * PANEL, min(last * PANEL, k), PANEL):
            width = min(PANEL, k - begin)
            for channel in range(c):
                for q in range(0, width, LANES):
                    taps = at(kernel, channel * k + begin + q), across * c * k, c * k
                    of_kernel((taps, (at(packed, begin * c + channel * width + q), c * k)))

    return transform


def _of_kernel(tile: Tile, e: Emitter, taps: Pixels, u: Steps) -> None:
    """Emit u = G g G^T in float64, each product and sum rounded once and in one order."""

    def weigh(row: Sequence[float], values: Vectors) -> Any:
        products = [
            e.b.fmul(ir.Constant(doubles, [weight] * LANES), v) for weight, v in zip(row, values, strict=True) if weight
        ]
        return reduce(e.b.fadd, products)

    doubles = ir.VectorType(ir.DoubleType(), LANES)
    left, right = (matrices(*side)[1].tolist() for side in tile)
    columns = [[e.b.fpext(e.load(e.go_to(taps, i, j)), doubles) for i in range(tile[0][1])] for j in range(tile[1][1])]
    for i, down in enumerate(left):
        line = [weigh(down, column) for column in columns]
        for j, row in enumerate(right):
            e.store(e.b.fptrunc(weigh(row, line), VECTOR), e.go(u, i * len(right) + j))
