"""Products of rows, against NumPy's; whole numbers, so that they are equal to the last bit."""

import numpy as np
import pytest
from winograd_loops import FLOORS, ZEROS, call, import_loops, transform_kernel, transform_packed, whole_numbers, windows

kernels, registers = import_loops("kernels"), import_loops("registers")
FEWER, PANEL, ROWS = registers.FEWER, registers.PANEL, registers.ROWS
UNTOUCHED = np.float32(777)


@pytest.mark.parametrize("k", [PANEL // 2, PANEL, 2 * PANEL + PANEL // 2])
def test_a_kernel_is_packed_in_panels(k):
    kernel = whole_numbers(0, 2, 5, k)
    panels = [matrix[:, first : first + PANEL].ravel() for matrix in kernel for first in range(0, k, PANEL)]
    np.testing.assert_array_equal(kernels.pack(kernel), np.concatenate(panels))


@pytest.mark.parametrize("k", [PANEL // 2, PANEL + PANEL // 2])
@pytest.mark.parametrize("tile", [((4, 3), (4, 3)), ((7, 3), (7, 3)), ((4, 5), (4, 5)), ((1, 1), (6, 7))])
def test_a_kernel_is_transformed_and_packed_to_the_same_bits_as_by_numpy(tile, k):
    kernel = np.random.default_rng(0).normal(size=(tile[0][1], tile[1][1], 5, k)).astype(np.float32)
    kernel[..., 1, 2] = -0.0
    points = transform_kernel(kernel, [m for m, _ in tile]).reshape(-1, 5, k)
    np.testing.assert_array_equal(transform_packed(kernel, tile), kernels.pack(points))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("c", [1, 16, 37])
@pytest.mark.parametrize("k", [PANEL // 2, PANEL, 2 * PANEL + PANEL // 2])
@pytest.mark.parametrize("rows", [1, FEWER - 1, FEWER + 1, ROWS, ROWS + 1, 2 * ROWS, 3 * ROWS - 1])
@pytest.mark.parametrize("room", [False, True])
def test_rows_are_multiplied(room, rows, k, c, relu):
    """Between other values on all sides, which stay as they are."""
    padded = -(-rows // ROWS) * ROWS
    a, u, start, bias = (whole_numbers(i, *s) for i, s in enumerate(((padded, c), (c, k), (padded, k + 3), (k,))))
    out = np.full((padded + 2, k + 5), UNTOUCHED)
    flat_a = np.concatenate([ZEROS[:7], a.ravel()])
    flat_u = np.concatenate([ZEROS[:11], kernels.pack(u[None])])
    call(
        "multiply", flat_a[7:], rows, flat_u[11:], c, k, start.ravel()[2:], k + 3, bias, FLOORS[relu],
        out.ravel()[k + 5 + 1 :], k + 5, room, flat_a[7:],
    )  # fmt: skip
    begin = start.ravel()[2 : 2 + rows * (k + 3)]
    begin = np.pad(begin, (0, rows * (k + 3) - len(begin)))
    expected = a[:rows] @ u + begin.reshape(rows, k + 3)[:, :k] + bias
    np.testing.assert_array_equal(out[1 : rows + 1, 1 : k + 1], expected.clip(0 if relu else -np.inf, None))
    assert (out[0] == UNTOUCHED).all() and (out[:, 0] == UNTOUCHED).all() and (out[:, k + 1 :] == UNTOUCHED).all()
    assert (out[1 + (padded if room else rows) :] == UNTOUCHED).all()


def test_a_row_has_the_same_bits_whatever_rows_are_beside_it():
    random, (rows, c, k) = np.random.default_rng(0), (3 * ROWS - 1, 301, PANEL)
    a, u = random.normal(size=(rows, c)).astype(np.float32), random.normal(size=(1, c, k)).astype(np.float32)
    together, alone, packed = np.empty((rows, k), np.float32), np.empty((rows, k), np.float32), kernels.pack(u)
    for first, count, out in ((0, rows, together), *((row, 1, alone[row:]) for row in range(rows))):
        bias, floor = ZEROS, FLOORS[False]
        call("multiply", a[first], count, packed, c, k, ZEROS, 0, bias, floor, out, k, False, a)
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_allclose(together, a.astype(np.float64) @ u[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("tiles", "first", "last"), [(1, 0, 3), (ROWS + 2, 1, 3), (2 * ROWS, 0, 2)])
def test_planes_of_points_are_multiplied(tiles, first, last):
    points, c, k = 3, 16, PANEL + PANEL // 2
    padded = -(-tiles // ROWS) * ROWS
    v, u = whole_numbers(0, points, padded, c), whole_numbers(1, points, c, k)
    out = np.full((points, padded * k + 16), UNTOUCHED)
    given = ZEROS, FLOORS[False], out, padded * k + 16, first, last
    call("multiply_points", v, padded * c, tiles, kernels.pack(u), c, k, *given)
    found = out[:, : padded * k].reshape(points, padded, k)[:, :tiles]
    np.testing.assert_array_equal(found[first:last], (v @ u)[first:last, :tiles])
    assert (np.delete(found, range(first, last), 0) == UNTOUCHED).all() and (out[:, padded * k :] == UNTOUCHED).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("k", [PANEL // 2, PANEL + PANEL // 2])
@pytest.mark.parametrize("window, strides", [((3, 3), (1, 1)), ((7, 7), (2, 2)), ((1, 3), (2, 1))])
@pytest.mark.parametrize("size", [(1, ROWS), (3, ROWS + 1), (2, 3 * ROWS - 1)])
def test_an_image_is_convolved_in_place(size, window, strides, k, relu):
    c, (height, width) = 3, ((n - 1) * s + t + 1 for n, s, t in zip(size, strides, window, strict=True))
    image, kernel, bias = whole_numbers(0, 1, height, width, c), whole_numbers(1, *window, c, k), whole_numbers(2, k)
    out, u = np.full((*size, k + 4), UNTOUCHED), kernels.pack(kernel.reshape(1, -1, k))
    given = u, k, bias, ZEROS, FLOORS[relu], out, k + 4, *size
    call("convolve_rows", image, width * c, c, *window, *strides, *given)
    expected = np.einsum("nhwijc,ijck->hwk", windows(image, window, strides, (0, 0), size), kernel) + bias
    np.testing.assert_array_equal(out[..., :k], expected.clip(0 if relu else -np.inf, None))
    assert (out[..., k:] == UNTOUCHED).all()


@pytest.mark.parametrize("before", [(0, 0), (1, 2)])
@pytest.mark.parametrize("window, strides", [((3, 3), (1, 1)), ((5, 2), (2, 3)), ((1, 1), (2, 2))])
def test_windows_are_laid_out_as_rows(window, strides, before):
    images, size = whole_numbers(0, 2, 6, 7, 3), (4, 3)
    expected = windows(images, window, strides, before, size).reshape(2 * 4 * 3, -1)
    for first, last in ((0, 24), (5, 6), (10, 14), (23, 24)):
        rows = np.full((last - first, expected.shape[1]), UNTOUCHED)
        call("im2col", images, 6, 7, 3, *window, *strides, *before, *size, rows, first, last)
        np.testing.assert_array_equal(rows, expected[first:last])
