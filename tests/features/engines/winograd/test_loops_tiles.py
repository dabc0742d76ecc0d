"""Transforms of tiles, against the matrices of `toom_cook` by NumPy in float64, at the edges of maps too."""

import numpy as np
import pytest
from winograd_loops import FLOORS, ZEROS, call, import_loops, transform_packed, whole_numbers, windows

registers, toom_cook = import_loops("registers"), import_loops("toom_cook")
UNTOUCHED = np.float32(777)
TILES = [((4, 3), (4, 3)), ((7, 3), (7, 3)), ((4, 5), (4, 5)), ((1, 1), (6, 7)), ((6, 7), (1, 1))]
SIZES = [(1, 1), (7, 9), (14, 12)]


def of_tile(tile):
    """Return multiplications of a tile down and across, and its matrices for both."""
    return [sum(side) - 1 for side in tile], [toom_cook.matrices(*side) for side in tile]


def counts(size, steps):
    """Return how many tiles cover a size."""
    return tuple(-(-side // step) for side, step in zip(size, steps, strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", TILES)
def test_tiles_of_the_input_are_transformed(tile, size):
    c, before = 2 * registers.LANES, tuple(r // 2 for _, r in tile)
    images, outputs = whole_numbers(0, 2, *size, c), [m for m, _ in tile]
    (n, across), (down, right) = of_tile(tile)
    grid = counts(size, outputs)
    count = 2 * grid[0] * grid[1]
    plane = count * c + 16
    v = np.full(n * across * plane, UNTOUCHED)
    start, middle = count // 3, (count - count // 3) // 2  # in two parts, from a tile that is not the first
    for first, last in ((0, middle), (middle, count - start)):
        call("input_transform", images, *size, c, *before, *grid, v, plane, start, first, last, of=[tile])
    seen = windows(images, (n, across), outputs, before, grid).reshape(count, n, across, c)[start:]
    expected = np.einsum("xi,yj,tijc->xytc", down[2], right[2], seen.astype(np.float64))
    planes = v.reshape(n, across, plane)
    found = planes[..., : (count - start) * c].reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * abs(expected).max())
    assert (planes[..., (count - start) * c :] == UNTOUCHED).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile", "pooled"), [*((tile, False) for tile in TILES), (TILES[0], True), (TILES[2], True)])
def test_products_are_transformed_to_tiles_of_the_output(tile, pooled, size, relu):
    k, outputs = 2 * registers.LANES, [m // 2 if pooled else m for m, _ in tile]
    (n, across), (down, right) = of_tile(tile)
    grid = counts(size, outputs)
    count = 2 * grid[0] * grid[1]
    plane = count * k + 16
    products = np.random.default_rng(1).normal(size=(n, across, plane)).astype(np.float32)
    bias, y = whole_numbers(2, k), np.full((2 * size[0] * size[1], k + 8), UNTOUCHED)
    middle = count // 2
    for start, first, last in ((0, 0, middle), (middle, 0, count - middle)):
        given = np.concatenate([products.ravel()[start * k :], ZEROS]), plane, k, bias, FLOORS[relu]
        to = y.ravel()[4:], k + 8, *size, *grid, start, first, last
        call("output_transform", *given, *to, of=[tile, pooled])
    values = products[..., : count * k].reshape(n, across, count, k).astype(np.float64)
    made = np.einsum("ix,jy,xytk->tijk", down[0], right[0], values)
    if pooled:
        made = made.reshape(count, outputs[0], 2, outputs[1], 2, k).max((2, 4))
    made = (made + bias).clip(0 if relu else -np.inf, None)
    maps = made.reshape(2, *grid, *outputs, k).swapaxes(2, 3)
    maps = maps.reshape(2, grid[0] * outputs[0], grid[1] * outputs[1], k)[:, : size[0], : size[1]]
    np.testing.assert_allclose(y[:, 4 : k + 4].reshape(maps.shape), maps, rtol=0, atol=1e-5 * abs(made).max())
    assert (y[:, :4] == UNTOUCHED).all() and (y[:, k + 4 :] == UNTOUCHED).all()


@pytest.mark.parametrize("tile", TILES)
def test_transforms_and_products_are_a_convolution(tile):
    """The three loops, as the engine calls them."""
    c, k, size, outputs, taps = registers.LANES, 16, (9, 10), [m for m, _ in tile], [r for _, r in tile]
    images = whole_numbers(0, 1, *size, c)
    kernel = whole_numbers(1, *taps, c, k) / 8
    (n, across), _ = of_tile(tile)
    grid, before, points = counts(size, outputs), tuple(r // 2 for r in taps), n * across
    count = grid[0] * grid[1]
    rows = -(-count // registers.ROWS) * registers.ROWS
    u = transform_packed(kernel, tile)
    v, products, y = (
        np.zeros(points * rows * c, np.float32),
        np.zeros(points * rows * k, np.float32),
        np.empty((*size, k), np.float32),
    )
    call("input_transform", images, *size, c, *before, *grid, v, rows * c, 0, 0, count, of=[tile])
    call("multiply_points", v, rows * c, count, u, c, k, ZEROS, FLOORS[False], products, rows * k, 0, points)
    to = y, k, *size, *grid, 0, 0, count
    call("output_transform", products, rows * k, k, ZEROS, FLOORS[False], *to, of=[tile, False])
    expected = np.einsum("nhwijc,ijck->hwk", windows(images, taps, (1, 1), before, size), kernel.astype(np.float64))
    assert np.linalg.norm(y - expected) < 1e-5 * np.linalg.norm(expected)
