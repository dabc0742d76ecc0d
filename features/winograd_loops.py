"""The innermost loops of Winograd's convolutions: matrix products and transforms of tiles, compiled by Numba.

Channels lie last and are what vectors run along. Each sum is taken in one order, whatever else is computed beside it and
however wide a vector is, so that an image's features always have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit

from .toomcook import firsts, matrices, singles_and_firsts
from .vectors import FEWER, INT, LANES, PANEL, ROWS, VECTOR, Emitter, Vectors, at, loop

_zeros, _no_floor = np.zeros(PANEL, np.float32), np.full(1, -np.inf, np.float32)


def _forward(e: Emitter, m: int, x: Vectors) -> Vectors:
    """Return B^T @ x; the rows of a point and its negative share their sums of even and of odd powers."""
    out, (_, _, bt) = [], matrices(m)
    for i in singles_and_firsts(m):
        if i in firsts(m):
            even, odd = e.dot(bt[i, ::2], x[::2]), e.dot(bt[i, 1::2], x[1::2])
            out += [e.b.fadd(even, odd), e.b.fsub(*((odd, even) if m % 2 else (even, odd)))]
        else:
            out.append(e.dot(bt[i], x))
    return out


def _backward(e: Emitter, m: int, x: Vectors) -> Vectors:
    """Return A^T @ x; columns of a point and its negative are added for even powers, subtracted for odd ones."""
    at, columns = matrices(m)[0], singles_and_firsts(m)
    parts = [[combine(x[i], x[i + 1]) if i in firsts(m) else x[i] for i in columns] for combine in (e.b.fadd, e.b.fsub)]
    return [e.dot(at[i, columns], parts[i % 2]) for i in range(m)]


def _both(
    multiply: Callable[[Emitter, int, Vectors], Vectors], e: Emitter, m: int, x: Sequence[Vectors]
) -> list[Vectors]:
    """Return x[i][j] multiplied by a matrix on both sides."""
    half = [multiply(e, m, row) for row in x]
    columns = [multiply(e, m, list(column)) for column in zip(*half, strict=True)]
    return list(zip(*columns, strict=True))


def _product(
    rows: int, e: Emitter, a: Any, row: Any, segment: Any, segments: Any, u: Any, length: Any, start: Any, floor: Any,
    out: Any, out_row: Any, soon_u: Any, step_u: Any, soon_a: Any, step_a: Any,
) -> None:  # fmt: skip
    """Emit out[r] = max(start + sum over s, i of a[r * row + s * segment + i] * u[s, i], floor) of PANEL, r < rows.

    What is soon needed of u and a is fetched from memory meanwhile.
    """
    b, places = e.b, [(r, LANES * j) for r in range(rows) for j in range(PANEL // LANES)]
    before, (outer, inner, latch, after) = b.block, [b.append_basic_block() for _ in range(4)]
    first = [e.load(e.at(start, j)) for _, j in places]
    lowest = e.splat(b.load(floor))
    for r, j in places:
        e.prefetch(e.at(out, b.mul(out_row, INT(r)), j), write=1)
    b.branch(outer)

    b.position_at_end(outer)
    s, s_sums = b.phi(INT), [b.phi(VECTOR) for _ in places]
    s_a = [e.at(a, b.mul(s, segment), b.mul(row, INT(r))) for r in range(rows)]
    s_u = e.at(u, b.mul(s, b.mul(length, INT(PANEL))))
    b.branch(inner)

    b.position_at_end(inner)
    i, sums = b.phi(INT), [b.phi(VECTOR) for _ in places]
    right = {j: e.load(e.at(s_u, b.mul(i, INT(PANEL)), j)) for j in range(0, PANEL, LANES)}
    left = [e.splat(b.load(e.at(pointer, i))) for pointer in s_a]
    e.prefetch(e.at(soon_u, b.mul(i, step_u)), level=2)
    e.prefetch(e.at(soon_a, b.mul(i, step_a)), level=2)
    new = [e.fma(left[r], right[j], old) for (r, j), old in zip(places, sums, strict=True)]
    i_next = b.add(i, INT(1))
    b.cbranch(b.icmp_signed("<", i_next, length), inner, latch)

    b.position_at_end(latch)
    s_next = b.add(s, INT(1))
    b.cbranch(b.icmp_signed("<", s_next, segments), outer, after)
    s_values, values = zip(s_sums, first, new, strict=True), zip(sums, s_sums, new, strict=True)
    for phi, initial, again in ((s, INT(0), s_next), *s_values):
        phi.add_incoming(initial, before)
        phi.add_incoming(again, latch)
    for phi, initial, again in ((i, INT(0), i_next), *values):
        phi.add_incoming(initial, outer)
        phi.add_incoming(again, inner)

    b.position_at_end(after)
    for (r, j), value in zip(places, new, strict=True):
        e.store(e.larger(value, lowest), e.at(out, b.mul(out_row, INT(r)), j))


_product_rows, _product_fewer = (loop("piiipipppipipi")(partial(_product, rows)) for rows in (ROWS, FEWER))


@njit(nogil=True)
def multiply(v: Any, u: Any, out: Any, tiles: int, first: int, last: int) -> None:
    """Set out[point] to v[point] @ u[point] for points first..last: (tiles, c) @ (c, k), u packed."""
    panels, c = u.shape[1], u.shape[2]
    k, blocks = panels * PANEL, -(-tiles // ROWS)
    step_u, step_a = -(-PANEL // blocks), -(-ROWS * PANEL // k)  # what comes next is fetched evenly beforehand
    for point in range(first, last):
        for panel in range(panels):
            u_at = (point * panels + panel) * c * PANEL
            for block in range(blocks):
                arguments = (
                    at(v, point * v.shape[1] + block * ROWS * c), c, 0, 1, at(u, u_at), c,
                    at(_zeros, 0), at(_no_floor, 0),
                    at(out, point * out.shape[1] + block * ROWS * k + panel * PANEL), k,
                    at(u, u_at + c * PANEL + block * c * step_u), step_u,
                    at(v, (point + 1) * v.shape[1] + (panel * blocks + block) * c * step_a), step_a,
                )  # fmt: skip
                if tiles - block * ROWS > FEWER:
                    _product_rows(arguments)
                else:
                    _product_fewer(arguments)


@njit(nogil=True)
def convolve_directly(x: Any, u: Any, bias: Any, y: Any, border: int) -> None:
    """Convolve an image of few channels, x (h + 2, w + 2, c), to y (h + 2 * border, w + 2 * border, k); w >= ROWS."""
    h, w, c, k = x.shape[0] - 2, x.shape[1] - 2, x.shape[2], y.shape[2]
    for i in range(h):
        for start in range(0, w, ROWS):
            j = min(start, w - ROWS)
            for panel in range(k // PANEL):
                _product_rows((
                    at(x, (i * (w + 2) + j) * c), c, (w + 2) * c, 3, at(u, panel * 9 * c * PANEL), 3 * c,
                    at(bias, panel * PANEL), at(_zeros, 0),
                    at(y, ((i + border) * y.shape[1] + j + border) * k + panel * PANEL), k,
                    at(u, 0), 0, at(x, 0), 0,
                ))  # fmt: skip


@cache
def input_transform(m: int) -> Callable[..., None]:
    """Return a function that transforms tiles first..last of x, with a border, to v (points, tiles x c)."""
    tile_in = loop("piipi")(partial(_tile_in, m))

    @njit(nogil=True)
    def transform(x: Any, v: Any, tiles: tuple[int, int], start: int, first: int, last: int) -> None:
        height, width, c = x.shape[1:]
        for t in range(first, last):
            image, rest = divmod(start + t, tiles[0] * tiles[1])
            i, j = divmod(rest, tiles[1])
            corner = ((image * height + i * m) * width + j * m) * c
            for channel in range(0, c, LANES):
                tile_in((at(x, corner + channel), width * c, c, at(v, t * c + channel), v.shape[1]))

    return transform


@cache
def output_transform(m: int, pooled: bool) -> Callable[..., None]:
    """Return a function that makes tiles first..last of y, (n, h, w, k) with a border, from products (points, tiles x k)."""
    side = m // 2 if pooled else m
    tile_out = loop("pippii")(partial(_tile_out, m, pooled))

    @njit(nogil=True)
    def transform(
        v: Any, bias: Any, y: Any, border: int, size: tuple[int, int], tiles: tuple[int, int],
        start: int, first: int, last: int,
    ) -> None:  # fmt: skip
        height, width, k = y.shape[1:]
        edge = np.empty((side, side, LANES), np.float32)
        for t in range(first, last):
            image, rest = divmod(start + t, tiles[0] * tiles[1])
            i, j = divmod(rest, tiles[1])
            i, j = i * side, j * side
            rows, columns = min(side, size[0] - i), min(side, size[1] - j)
            corner = ((image * height + i + border) * width + j + border) * k
            for channel in range(0, k, LANES):
                source, shift = at(v, t * k + channel), at(bias, channel)
                if rows == side and columns == side:
                    tile_out((source, v.shape[1], shift, at(y, corner + channel), width * k, k))
                else:  # a tile partly outside
                    tile_out((source, v.shape[1], shift, at(edge, 0), side * LANES, LANES))
                    for a in range(rows):
                        for b in range(columns):
                            for lane in range(LANES):
                                y[image, i + border + a, j + border + b, channel + lane] = edge[a, b, lane]

    return transform


def _tile_in(m: int, e: Emitter, x: Any, row: Any, pixel: Any, v: Any, plane: Any) -> None:
    n = m + 2
    where = [[e.at(x, e.b.mul(row, INT(i)), e.b.mul(pixel, INT(j))) for j in range(n)] for i in range(n)]
    tile = [[e.load(pointer) for pointer in line] for line in where]
    for i, line in enumerate(_both(_forward, e, m, tile)):
        for j, value in enumerate(line):
            e.store(value, e.at(v, e.b.mul(plane, INT(i * n + j))))


def _tile_out(m: int, pooled: bool, e: Emitter, v: Any, plane: Any, bias: Any, y: Any, row: Any, pixel: Any) -> None:
    """Emit a tile's output with bias, ReLU and perhaps a 2x2 max pool."""
    n = m + 2
    points = [[e.load(e.at(v, e.b.mul(plane, INT(i * n + j)))) for j in range(n)] for i in range(n)]
    tile: list[Vectors] = _both(_backward, e, m, points)
    if pooled:
        wide = [[e.larger(*pair) for pair in zip(line[::2], line[1::2], strict=True)] for line in tile]
        pairs = zip(wide[::2], wide[1::2], strict=True)
        tile = [[e.larger(*pair) for pair in zip(*lines, strict=True)] for lines in pairs]
    shift, zero = e.load(bias), ir.Constant(VECTOR, [0.0] * LANES)
    for i, line in enumerate(tile):
        for j, value in enumerate(line):
            value = e.larger(e.b.fadd(value, shift), zero)
            e.store(value, e.at(y, e.b.mul(row, INT(i)), e.b.mul(pixel, INT(j))))


@njit(nogil=True)
def pool(x: Any, y: Any, border: int, first: int, last: int) -> None:
    """Set y, within its border, to the 2x2 max pool of images first..last of x."""
    for image in range(first, last):
        for i in range(x.shape[1] // 2):
            for j in range(x.shape[2] // 2):
                for channel in range(x.shape[3]):
                    one = max(x[image, 2 * i, 2 * j, channel], x[image, 2 * i, 2 * j + 1, channel])
                    two = max(x[image, 2 * i + 1, 2 * j, channel], x[image, 2 * i + 1, 2 * j + 1, channel])
                    y[image, border + i, border + j, channel] = max(one, two)
