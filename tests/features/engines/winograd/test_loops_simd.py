"""What the loops are emitted from, each against NumPy in a small compiled function."""

from fractions import Fraction

import numpy as np
import pytest
from winograd_loops import import_loops

simd = import_loops("simd")
registers = import_loops("registers")
from numba import njit, types  # noqa: E402  # where it is installed
from numba.extending import intrinsic  # noqa: E402

INT, LANES = simd.INT, simd.LANES


@intrinsic
def start(context, array):
    """Point to the first value of an array, in a compiled function."""

    def generate(context, builder, signature, values):
        return context.make_array(signature.args[0])(context, builder, values[0]).data

    return types.CPointer(types.float32)(array), generate


def run(body, *arrays, integer=0):
    """Emit ``body(e, out, integer, *pointers)``, and return what it wrote of four vectors of -1."""
    emitted = simd.loop("pi" + "p" * len(arrays))(body)
    out = np.full(4 * LANES, -1, np.float32)
    arrays = [np.asarray(array, np.float32).ravel() for array in arrays]
    if len(arrays) == 1:

        @njit
        def call(out, integer, x):
            emitted((start(out), integer, start(x)))
    else:

        @njit
        def call(out, integer, x, y, z):
            emitted((start(out), integer, start(x), start(y), start(z)))

    call(out, integer, *arrays)
    return out


def numbers(seed, count=LANES):
    """Return random numbers, float32."""
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def test_pointers_go_by_floats_steps_and_pixels():
    x = np.arange(20 * LANES)

    def body(e, out, integer, x):
        e.store(e.load(e.at(x, 3, integer)), out)
        e.store(e.load(e.go(simd.Steps(x, INT(5)), integer)), e.at(out, LANES))
        e.store(e.load(e.go_to(simd.Pixels(x, INT(30), INT(7)), 1, integer)), e.at(out, 2 * LANES))
        e.prefetch(x)
        e.prefetch(e.at(x, LANES), write=1, level=2)

    starts = (3 + 2, 5 * 2, 30 + 7 * 2)
    expected = np.concatenate([*(np.arange(start, start + LANES) for start in starts), np.full(LANES, -1)])
    np.testing.assert_array_equal(run(body, x, integer=2), expected)


def test_products_and_sums_are_rounded_once():
    x, y, z = numbers(0), numbers(1), numbers(2) / 1000

    def body(e, out, integer, x, y, z):
        e.store(e.fma(e.load(x), e.load(y), e.load(z)), out)

    found, rounded_twice = run(body, x, y, z)[:LANES], x * y + z
    for value, *of in zip(found, x, y, z, strict=True):
        a, b, c = (Fraction(float(each)) for each in of)
        near = [Fraction(float(np.nextafter(value, np.float32(to)))) for to in (-np.inf, np.inf)]
        error = abs(Fraction(float(value)) - (a * b + c))
        assert all(error <= abs(other - (a * b + c)) for other in near)
    assert (found != rounded_twice).any()


def test_the_larger_one_is_the_first_where_either_is_not_a_number():
    x, y = numbers(0), numbers(1)
    x[0] = y[1] = x[2] = y[2] = np.nan

    def body(e, out, integer, x, y, z):
        e.store(e.larger(e.load(x), e.load(y)), out)

    np.testing.assert_array_equal(run(body, x, y, y)[:LANES], np.where(y > x, y, x))


def test_one_number_fills_a_vector():
    def body(e, out, integer, x):
        e.store(e.splat(e.b.load(e.at(x, 3))), out)

    np.testing.assert_array_equal(run(body, numbers(0))[:LANES], np.full(LANES, numbers(0)[3]))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_values_are_folded(count):
    """Two values at once, by themselves, each other and the number of the turn; none at all."""
    x = np.arange(8 * LANES)

    def body(e, out, integer, x):
        def turn(i, values):
            one, other = values
            vector = e.load(e.at(x, e.b.mul(i, INT(LANES))))
            return [e.b.fadd(one, vector), e.larger(other, one)]

        first = e.load(x)
        for number, value in enumerate(e.fold(integer, [first, first], turn)):
            e.store(value, e.at(out, number * LANES))

    one = other = x[:LANES].astype(np.float32)
    for i in range(count):
        one, other = one + x[i * LANES : (i + 1) * LANES], np.maximum(other, one)
    np.testing.assert_array_equal(run(body, x, integer=count)[: 2 * LANES], np.concatenate([one, other]))


@pytest.mark.parametrize("row", [[1, 0, -2], [0, 0.625, 1], [0, 0, 3], [-1, 1, 1]])
def test_vectors_are_weighed_and_added(row):
    x, y, z = (np.round(8 * numbers(seed)) for seed in range(3))

    def body(e, out, integer, x, y, z):
        e.store(e.dot(np.array(row), [e.load(x), e.load(y), e.load(z)]), out)

    np.testing.assert_array_equal(run(body, x, y, z)[:LANES], row[0] * x + row[1] * y + row[2] * z)
    assert (run(body, x, y, z)[LANES:] == -1).all()


@pytest.mark.parametrize(
    ("has", "tile"),
    [({"avx512f": True}, (16, 12, 8, 32)), ({"avx512f": False, "avx2": True, "fma": True}, (8, 6, 4, 16))],
)
def test_a_products_tile_fits_the_registers(has, tile):
    """Of which there are 32, or 16: sums, a panel's row of the kernel, a value of a row."""
    lanes, rows, fewer, panel = found = registers.register_tile(has)
    assert found == tile and fewer < rows
    vectors = panel // lanes
    assert rows * vectors + vectors + 1 <= (32 if has["avx512f"] else 16)


@pytest.mark.parametrize("has", [{}, {"avx2": True}, {"avx2": False, "fma": True}])
def test_other_processors_are_refused(has):
    with pytest.raises(registers.EngineError, match="need a processor with AVX2 and FMA"):
        registers.register_tile(has)
