"""Winograd's minimal convolutions F(m, r): m outputs of a filter with r taps from m + r - 1 multiplications.

The matrices come from the Toom-Cook method, by Lagrange interpolation at points and infinity; see Lavin and Gray 2016, "Fast
algorithms for convolutional neural networks" (arXiv 1509.09308), and Barabasz et al. 2020 (arXiv 1803.10986) on points with
small rounding errors.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import prod

import numpy as np

# Number of multiplications → points, each used with its negative; infinity is an additional point.
POINTS: dict[int, tuple[str, ...]] = {
    1: (),
    6: ("0", "5/8", "5/4"),
    8: ("0", "1/2", "1", "2"),
    9: ("1/4", "5/8", "5/4", "2"),
    12: ("0", "3/8", "5/8", "1", "3/2", "5/2"),
}


Tile = tuple[tuple[int, int], tuple[int, int]]
"""Vertical outputs and taps, horizontal outputs and taps."""

Matrix = list[list[Fraction]]


@cache
def matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices of `exact_matrices` as float64 arrays."""
    at, g, bt = exact_matrices(m, r)
    return np.array(at, np.float64), np.array(g, np.float64), np.array(bt, np.float64)


def exact_matrices(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T (m, n), G (n, r) and B^T (n, n), n = m + r - 1; outputs are A^T (G g * B^T d) for taps g and inputs d.

    Parameters
    ----------
    m, r : int
        Outputs and taps; n is a key of ``POINTS``. The rows of a point and its negative are adjacent; infinity is last.
    """
    n = m + r - 1
    points = [sign * point for point in map(Fraction, POINTS[n]) for sign in ((1, -1) if point else (1,))]
    a = [[point**i for point in points] + [Fraction(i == m - 1)] for i in range(m)]
    g, b = [], []
    for skipped in [*points, None]:
        rest = [point for point in points if point != skipped]
        row = [Fraction(1)]  # coefficients, in ascending order, of the product of x - point over the rest
        for point in rest:
            row = [low - point * high for low, high in zip([Fraction(0), *row], [*row, Fraction(0)], strict=True)]
        b.append(row + [Fraction(0)] * (n - len(row)))
        if skipped is None:
            g.append([Fraction(i == r - 1) for i in range(r)])
        else:
            g.append([skipped**i / prod(skipped - point for point in rest) for i in range(r)])
    return a, g, b


def firsts(n: int) -> range:
    """Return the rows of points that are followed by their negative."""
    return range("0" in POINTS[n], n - 1, 2)


def singles_and_firsts(n: int) -> list[int]:
    """Return all rows except those of negatives."""
    return [row for row in range(n) if row - 1 not in firsts(n)]
