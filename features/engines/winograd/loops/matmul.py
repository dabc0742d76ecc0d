"""Products of rows with a kernel's matrix, and copying windows into rows: the innermost loops of all convolutions here.

Feature maps are flat arrays of pixels with channels last. Each sum is computed in one fixed order, independent of other work and
of the vector width, so that an image's features are always bitwise equal.

The functions are called through `features.engines.winograd.loops.machine_code`, so they take only addresses of float32 and
integers. In all loops, y_pixel is the number of floats from one pixel of y to the next, `above` and `before` are the padding above
and to the left, and `floor` is the lower bound of outputs: 0 for a ReLU, else -inf.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from .registers import FEWER, LANES, PANEL, ROWS
from .simd import INT, Emitter, Pixels, Steps, at, jit, loop

# Products per turn of the innermost loop of long rows, which share its computation of addresses. Of other shapes LLVM then keeps
# some sums in memory, which takes 1.6 times as long.
_UNROLLED = 8


class Block(NamedTuple):
    """What an emitted product computes at once.

    Attributes
    ----------
    rows, width : int
        Rows of out, and vectors per row: their sums are in registers.
    unrolled : int
        Products per turn of the innermost loop.
    """

    rows: int
    width: int
    unrolled: int


def _product(
    block: Block, e: Emitter, a: Pixels, segments: Any, u: Any, length: Any, start: Steps, bias: Any, floor: Any, out: Steps,
    soon_u: Steps, soon_a: Steps,
) -> None:  # fmt: skip
    """Emit out[r] = max(start[r] + sum over s, i of a[s, r][i] * u[s, i] + bias, floor) for each row r of a block.

    Parts of u and a that are needed soon are prefetched meanwhile.
    """
    rows, width, unrolled = block
    b, places = e.b, [(r, LANES * j) for r in range(rows) for j in range(width)]
    first = [e.load(e.at(e.go(start, r), j)) for r, j in places]
    lowest = e.splat(b.load(floor))
    for r, j in places:
        e.prefetch(e.at(e.go(out, r), j), write=1)

    def segment(s: Any, sums: list[Any]) -> list[Any]:
        s_a, s_u = e.go_to(a, s, 0), e.at(u, b.mul(s, b.mul(length, INT(width * LANES))))

        def add(i: Any, count: int, sums: list[Any]) -> list[Any]:
            """Add `count` products to the sums, from i on."""
            i_a = [e.at(e.go(Steps(s_a, a.pixel), r), i) for r in range(rows)]
            i_u = e.at(s_u, b.mul(i, INT(width * LANES)))
            for n in range(count):
                right = {LANES * j: e.load(e.at(i_u, (n * width + j) * LANES)) for j in range(width)}
                left = [e.splat(b.load(e.at(pointer, n))) for pointer in i_a]
                e.prefetch(e.go(soon_u, b.add(i, INT(n))), level=2)
                e.prefetch(e.go(soon_a, b.add(i, INT(n))), level=2)
                sums = [e.fma(left[r], right[j], old) for (r, j), old in zip(places, sums, strict=True)]
            return sums

        turns = b.udiv(length, INT(unrolled))
        whole = b.mul(turns, INT(unrolled))
        sums = e.fold(turns, sums, lambda turn, sums: add(b.mul(turn, INT(unrolled)), unrolled, sums))
        return e.fold(b.sub(length, whole), sums, lambda i, sums: add(b.add(whole, i), 1, sums))

    sums = e.fold(segments, first, segment)
    shift = {LANES * j: e.load(e.at(bias, LANES * j)) for j in range(width)}
    for (r, j), value in zip(places, sums, strict=True):
        e.store(e.larger(b.fadd(value, shift[j]), lowest), e.at(e.go(out, r), j))


def _emit(rows: int, unrolled: int = 1) -> tuple[Any, Any]:
    """Return the products of so many rows with a whole panel and with half of one."""
    whole, half = (Block(rows, width, unrolled) for width in (PANEL // LANES, PANEL // LANES // 2))
    return loop("PipiSppSSS")(partial(_product, whole)), loop("PipiSppSSS")(partial(_product, half))


_many, _many_half = _emit(ROWS, _UNROLLED)
_direct, _direct_half = _emit(ROWS)
_fewer, _fewer_half = _emit(FEWER)
_one, _one_half = _emit(1)


@jit(inline="always")
def _panel(rows: int, whole: bool, given: Any) -> None:
    if whole:
        if rows == ROWS:
            _many(given)
        elif rows == FEWER:
            _fewer(given)
        else:
            _one(given)
    elif rows == ROWS:
        _many_half(given)
    elif rows == FEWER:
        _fewer_half(given)
    else:
        _one_half(given)


@jit()
def multiply(
    a: Any, rows: int, u: Any, c: int, k: int, start: Any, start_row: int, bias: Any, floor: Any, out: Any, out_row: int,
    room: int, soon: Any,
) -> None:  # fmt: skip
    """Set out (rows, k) to max(start + a @ u + bias, floor), a (rows, c) contiguous, u packed (c, k).

    If there is `room` after a and out, up to ROWS - 1 additional rows are read and written, instead of single rows.
    `soon` is the start of a in the next call.
    """
    panels, blocks = -(-k // PANEL), -(-rows // ROWS)
    step_u, step_a = -(-PANEL // blocks), -(-ROWS * PANEL // k)  # the next data is prefetched evenly
    for panel in range(panels):
        done = 0
        while done < rows:
            rest, count = rows - done, 1
            if rest >= ROWS or (room and rest > FEWER):
                count = ROWS
            elif room:
                count = FEWER
            elif rows >= ROWS:
                done, count = rows - ROWS, ROWS  # some rows are computed twice
            block = done // ROWS
            _panel(count, (panel + 1) * PANEL <= k, (
                (at(a, done * c), 0, c), 1, at(u, panel * c * PANEL), c,
                (at(start, done * start_row + panel * PANEL), start_row), at(bias, panel * PANEL), floor,
                (at(out, done * out_row + panel * PANEL), out_row),
                (at(u, ((panel + 1) * PANEL + block * step_u) * c), step_u),
                (at(soon, (panel * blocks + block) * c * step_a), step_a),
            ))  # fmt: skip
            done += count


@jit()
def multiply_points(
    v: Any, plane: int, tiles: int, u: Any, c: int, k: int, zeros: Any, floor: Any, out: Any, out_plane: int, first: int,
    last: int,
) -> None:  # fmt: skip
    """Set planes first..last of out, (tiles, k) each, to planes of v, (tiles, c), times u, packed (points, c, k)."""
    for point in range(first, last):
        multiply(
            at(v, point * plane), tiles, at(u, point * c * k), c, k, zeros, 0, zeros, floor, at(out, point * out_plane), k,
            1, at(v, (point + 1) * plane),
        )  # fmt: skip


@jit()
def convolve_rows(
    x: Any, row: int, c: int, down: int, across: int, stride: int, stride_across: int, u: Any, k: int, bias: Any,
    zeros: Any, floor: Any, y: Any, y_pixel: int, height: int, width: int,
) -> None:  # fmt: skip
    """Convolve an image without copying windows (down, across), to y of size (height, width), width >= ROWS.

    Rows of x are `row` floats apart.
    """
    for i in range(height):
        for begin in range(0, width, ROWS):
            j = min(begin, width - ROWS)
            for panel in range(-(-k // PANEL)):
                given = (
                    (at(x, i * stride * row + j * stride_across * c), row, stride_across * c), down,
                    at(u, panel * down * across * c * PANEL), across * c,
                    (at(bias, panel * PANEL), 0), zeros, floor,
                    (at(y, (i * width + j) * y_pixel + panel * PANEL), y_pixel), (u, 0), (x, 0),
                )  # fmt: skip
                if (panel + 1) * PANEL <= k:
                    _direct(given)
                else:
                    _direct_half(given)


@jit()
def im2col(
    x: Any, height: int, width: int, c: int, down: int, across: int, stride: int, stride_across: int, above: int,
    before: int, h: int, w: int, a: Any, first: int, last: int,
) -> None:  # fmt: skip
    """Copy the windows (down, across) of output pixels first..last, over consecutive images of x, into rows of a."""
    to = 0
    for pixel in range(first, last):
        image, rest = divmod(pixel, h * w)
        i, j = divmod(rest, w)
        top, left = i * stride - above, j * stride_across - before
        for di in range(down):
            start = ((image * height + top + di) * width + left) * c
            low, high = max(-left, 0) * c, min(width - left, across) * c
            if not 0 <= top + di < height:
                low, high = 0, 0
            for t in range(low):
                a[to + t] = 0.0
            for t in range(low, high):
                a[to + t] = x[start + t]
            for t in range(high, across * c):
                a[to + t] = 0.0
            to += across * c
