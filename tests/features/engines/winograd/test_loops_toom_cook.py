"""Winograd's matrices, in exact rational arithmetic; what they round in float32."""

from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from winograd_loops import transform_kernel

from features.engines.winograd.loops.toom_cook import (
    POINTS,
    exact_matrices,
    firsts,
    matrices,
    singles_and_firsts,
)

SIDES = [(4, 3), (7, 3), (4, 5), (6, 7), (1, 1)]


def by(matrix, vector):
    """Return a matrix times a vector of fractions."""
    return [sum(a * x for a, x in zip(row, vector, strict=True)) for row in matrix]


@pytest.mark.parametrize("side", SIDES)
def test_the_method_is_exactly_a_convolution(side):
    """It is linear in taps and inputs, so that one tap and one input at a time are all there is to try."""
    (m, r), (at, g, bt) = side, exact_matrices(*side)
    n = m + r - 1
    for tap in range(r):
        weights = by(g, [Fraction(i == tap) for i in range(r)])
        for signal in range(n):
            values = by(bt, [Fraction(i == signal) for i in range(n)])
            found = by(at, [a * b for a, b in zip(weights, values, strict=True)])
            assert found == [Fraction(i + tap == signal) for i in range(m)]


@pytest.mark.parametrize("side", SIDES)
def test_transforms_of_maps_are_exact_in_float32(side):
    """A^T and B^T are constants of the loops; only G, of kernels, is rounded, in float64."""
    for exact, found in zip(exact_matrices(*side), matrices(*side), strict=True):
        np.testing.assert_array_equal(found, np.array(exact, np.float64))
    for matrix in (matrices(*side)[0], matrices(*side)[2]):
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


@pytest.mark.parametrize("side", SIDES)
def test_the_negative_of_a_point_follows_it(side):
    """What transforms of tiles share: rows that differ in the signs of odd powers alone."""
    n, (at, _, bt) = sum(side) - 1, matrices(*side)
    signs = (-1.0) ** np.arange(n)
    for row in firsts(n):
        np.testing.assert_array_equal(at[:, row + 1], at[:, row] * signs[: side[0]])
        np.testing.assert_array_equal(bt[row + 1], bt[row] * signs * (-1.0) ** n)
    assert {*singles_and_firsts(n), *(row + 1 for row in firsts(n))} == set(range(n))


@pytest.mark.parametrize(("taps", "outputs"), [((3, 3), (4, 4)), ((3, 3), (7, 7)), ((1, 7), (1, 6)), ((5, 5), (4, 4))])
def test_a_kernel_is_transformed(taps, outputs):
    kernel = np.random.default_rng(0).normal(size=(*taps, 2, 4)).astype(np.float32)
    down, across = (np.array(exact_matrices(m, r)[1], np.float64) for m, r in zip(outputs, taps, strict=True))
    found = transform_kernel(kernel, outputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.einsum("xi,yj,ijck->xyck", down, across, kernel), rtol=1e-6, atol=1e-8)


def rounding(side, points=None):
    """Return the relative error of 2-D tiles of random numbers in float32."""
    (m, r), random = side, np.random.default_rng(0)
    at, g, bt = matrices(m, r) if points is None else of_points(points, m, r)
    kernel, tiles = random.normal(size=(r, r, 64)), random.normal(size=(m + r - 1, m + r - 1, 64, 200))
    kernel, tiles = kernel.astype(np.float32), tiles.astype(np.float32)
    u = np.einsum("xi,yj,ijc->xyc", g, g, kernel).astype(np.float32)
    low_a, low_b = at.astype(np.float32), bt.astype(np.float32)
    v = np.einsum("yj,xjct->xyct", low_b, np.einsum("xi,ijct->xjct", low_b, tiles))
    products = np.einsum("xyc,xyct->xyt", u, v)
    found = np.einsum("yj,xjt->xyt", low_a, np.einsum("xi,ijt->xjt", low_a, products))
    seen = np.lib.stride_tricks.sliding_window_view(tiles.astype(np.float64), (r, r), (0, 1))
    expected = np.einsum("xyctij,ijc->xyt", seen, kernel.astype(np.float64))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def of_points(points, m, r):
    """Return the matrices on other points."""
    with patch.dict(POINTS, {m + r - 1: points}):
        return [np.array(matrix, np.float64) for matrix in exact_matrices(m, r)]


@pytest.mark.parametrize(
    ("side", "most", "usual"), [((4, 3), 1.2e-6, ("0", "1", "2")), ((7, 3), 1.2e-5, ("1/2", "1", "2", "4"))]
)
def test_the_points_round_less_than_the_usual_ones(side, most, usual):
    """Lavin and Gray's 0, 1, -1, 2, -2 for F(4x4, 3x3); powers of two for F(7x7, 3x3)."""
    assert rounding(side) < most
    assert rounding(side) < 0.6 * rounding(side, points=usual)
