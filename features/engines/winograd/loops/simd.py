"""Float vectors for functions compiled by Numba, emitted as LLVM code for full control over a loop's speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .registers import LANES

INT = ir.IntType(64)
VECTOR = ir.VectorType(ir.FloatType(), LANES)
_pointer = types.CPointer(types.float32)
Vectors = Sequence[Any]


class Emitter:
    """The operations of LLVM's builder that the loops use."""

    def __init__(self, builder: Any):
        self.b = builder

    def at(self, pointer: Any, *offsets: Any) -> Any:
        """Return a pointer advanced by offsets, in floats."""
        for offset in offsets:
            pointer = self.b.gep(pointer, [INT(offset) if isinstance(offset, int) else offset])
        return pointer

    def go(self, along: Steps, count: int | Any) -> Any:
        """Return the pointer after `count` steps."""
        return self.at(along.pointer, self.b.mul(along.step, INT(count) if isinstance(count, int) else count))

    def go_to(self, pixels: Pixels, i: int | Any, j: int | Any) -> Any:
        """Return the pointer to the pixel i rows down and j pixels to the right."""
        return self.go(Steps(self.go(Steps(pixels.pointer, pixels.row), i), pixels.pixel), j)

    def load(self, pointer: Any) -> Any:
        """Return the vector at a pointer."""
        return self.b.load(self.b.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def store(self, value: Any, pointer: Any) -> None:
        """Write a vector."""
        self.b.store(value, self.b.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def prefetch(self, pointer: Any, write: int = 0, level: int = 3) -> None:
        """Prefetch a cache line into the caches from `level` on, where 3 is the first-level cache."""
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        self.b.call(function, [self.b.bitcast(pointer, byte), i32(write), i32(level), i32(1)])

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Return x * y + z, rounded once."""
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, f"llvm.fma.v{LANES}f32"), [x, y, z])

    def larger(self, x: Any, y: Any) -> Any:
        """Return the larger value, or x if either is NaN."""
        return self.b.select(self.b.fcmp_ordered(">", y, x), y, x)

    def splat(self, x: Any) -> Any:
        """Return a vector of one float."""
        none, i32 = ir.Constant(VECTOR, ir.Undefined), ir.IntType(32)
        return self.b.shuffle_vector(
            self.b.insert_element(none, x, i32(0)), none, ir.Constant(ir.VectorType(i32, LANES), [0] * LANES)
        )

    def fold(self, count: Any, values: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Return the values after ``values = body(i, values)`` for each i below `count`."""
        b, before = self.b, self.b.block
        head, inside, after = [b.append_basic_block() for _ in range(3)]
        b.branch(head)
        b.position_at_end(head)
        i, carried = b.phi(INT), [b.phi(value.type) for value in values]
        b.cbranch(b.icmp_signed("<", i, count), inside, after)
        b.position_at_end(inside)
        pairs = zip([i, *carried], [INT(0), *values], [b.add(i, INT(1)), *body(i, carried)], strict=True)
        for phi, first, again in list(pairs):
            phi.add_incoming(first, before)
            phi.add_incoming(again, b.block)
        b.branch(head)
        b.position_at_end(after)
        return carried

    def dot(self, row: np.ndarray, x: Vectors) -> Any:
        """Return the sum of row[i] * x[i] for constants `row` that are not all zero."""
        total = None
        for a, v in zip(row, x, strict=True):
            constant = ir.Constant(VECTOR, [float(np.float32(a))] * LANES)
            if a and total is None:
                total = v if a == 1 else self.b.fmul(constant, v)
            elif a:
                total = self.b.fadd(total, v) if a == 1 else self.fma(constant, v, total)
        return total


class Steps(NamedTuple):
    """A pointer, and the step to the next item, in floats."""

    pointer: Any
    step: Any


class Pixels(NamedTuple):
    """A pointer to a pixel of a feature map, and the steps to the next row and the next pixel, in floats."""

    pointer: Any
    row: Any
    pixel: Any


ARGUMENTS = {"p": _pointer, "i": types.intp}
"""Kinds of arguments of compiled functions: pointers to float32, and integers."""

_KINDS: dict[str, tuple[Any, Callable[..., Any] | None]] = {
    "p": (_pointer, None),
    "i": (types.intp, None),
    "S": (types.Tuple([_pointer, types.intp]), Steps),
    "P": (types.Tuple([_pointer, types.intp, types.intp]), Pixels),
}


def loop(arguments: str) -> Callable[[Callable[..., None]], Any]:
    """Make an intrinsic, which takes a tuple of pointers (p), integers (i), `Steps` (S) and `Pixels` (P), from its emitter."""
    kinds = [_KINDS[argument] for argument in arguments]

    def decorate(body: Callable[..., None]) -> Any:
        def typing(context: Any, given: Any) -> tuple[Any, Any]:
            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                parts = zip(kinds, cgutils.unpack_tuple(builder, values[0]), strict=True)
                body(
                    Emitter(builder),
                    *(make(*cgutils.unpack_tuple(builder, value)) if make else value for (_, make), value in parts),
                )
                return context.get_dummy_value()

            return types.void(types.Tuple([kind for kind, _ in kinds])), generate

        return intrinsic(typing)

    return decorate


def jit(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Compile a function so that its code refers to nothing of Python or Numba: it raises nothing and allocates nothing."""
    alone: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(**alone, **options)


def local_floats(count: int) -> Any:
    """Return an intrinsic that returns a pointer to so many floats on the calling function's stack."""

    def typing(context: Any) -> tuple[Any, Any]:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), count))
            return builder.bitcast(place, ir.FloatType().as_pointer())

        return _pointer(), generate

    return intrinsic(typing)


def _point(context: Any, pointer: Any, offset: Any) -> Any:
    """Point to a float `offset` floats further."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return _pointer(_pointer, types.intp), generate


at: Any = intrinsic(_point)
"""Point to a float further along, in a compiled function."""
