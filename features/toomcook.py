"""Winograd's minimal convolutions F(m, 3): m outputs of a filter of 3 taps by m + 2 multiplications.

From Toom's and Cook's method, by Lagrange's interpolation on points and infinity; see Lavin and Gray 2016, "Fast algorithms
for convolutional neural networks" (arXiv 1509.09308), and Barabasz et al. 2020 (arXiv 1803.10986) for points that round little.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import prod

import numpy as np

# Side of an output tile → points, each with its negative.
POINTS = {4: ("0", "5/8", "5/4"), 7: ("1/4", "5/8", "5/4", "2")}


@cache
def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A^T (m, m + 2), G (m + 2, 3) and B^T (m + 2, m + 2), float64: outputs are A^T (G g * B^T d).

    Parameters
    ----------
    m : int
        A key of ``POINTS``. Rows of a point and of its negative follow each other; infinity is the last.
    """
    points = [sign * point for point in map(Fraction, POINTS[m]) for sign in ((1, -1) if point else (1,))]
    a = [[point**i for point in points] + [Fraction(i == m - 1)] for i in range(m)]
    g, b = [], []
    for skipped in [*points, None]:
        rest = [point for point in points if point != skipped]
        row = [Fraction(1)]  # the product of x - point over the rest, its coefficients upwards
        for point in rest:
            row = [low - point * high for low, high in zip([Fraction(0), *row], [*row, Fraction(0)], strict=True)]
        b.append(row + [Fraction(0)] * (m + 2 - len(row)))
        if skipped is None:
            g.append([Fraction(0), Fraction(0), Fraction(1)])
        else:
            g.append([skipped**i / prod(skipped - point for point in rest) for i in range(3)])
    return np.array(a, np.float64), np.array(g, np.float64), np.array(b, np.float64)


def firsts(m: int) -> range:
    """Return the rows of the points whose negative follows."""
    return range(POINTS[m][0] == "0", m + 1, 2)


def singles_and_firsts(m: int) -> list[int]:
    """Return all rows but those of the negatives."""
    return [row for row in range(m + 2) if row - 1 not in firsts(m)]


def transform_kernel(kernel: np.ndarray, m: int) -> np.ndarray:
    """Return G g G^T of each pair of channels, (m + 2, m + 2, ...), float32, of g, (3, 3, ...).

    Computed in float64 without a matrix product, so that every machine gets the same bits.
    """
    _, g, _ = matrices(m)
    taps = kernel.astype(np.float64)
    half = [sum(weight * tap for weight, tap in zip(row, taps, strict=True) if weight) for row in g]  # (3, ...) each
    return np.array(
        [[sum(w * tap for w, tap in zip(row, line, strict=True) if w).astype(np.float32) for row in g] for line in half]
    )
