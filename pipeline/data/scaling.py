"""Scaling of features before a head sees them; the kind of scale is a setting tuned like C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from .row_blocks import Matrix, columns, each_block

SCALES = ("layer", "feature", "all")
_COLUMNS = 2048  # columns converted to float64 at once


@dataclass(frozen=True)
class Moments:
    """Mean, mean square and variance of each feature over `n_rows` rows, (n_features,) each, float64."""

    n_rows: int
    mean: np.ndarray
    squares: np.ndarray
    variances: np.ndarray

    def joined(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together.

        Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
        """
        n_rows = self.n_rows + other.n_rows
        one, two, apart = self.n_rows / n_rows, other.n_rows / n_rows, other.mean - self.mean
        return Moments(
            n_rows,
            self.mean + two * apart,
            one * self.squares + two * other.squares,
            one * self.variances + two * other.variances + one * two * apart**2,
        )

    def scale(self, how: str, widths: Sequence[int]) -> np.ndarray:
        """Return the divisor of each feature; see `measure_scale`."""
        if how == "feature":
            varies = self.variances > 1e-12 * self.squares  # otherwise it is the rounding error of a constant
            return np.where(varies, np.sqrt(self.variances * len(self.mean)), 1.0).astype(np.float32)
        if how == "all":
            return np.full(len(self.mean), np.sqrt(self.squares.sum()) or 1.0, np.float32)
        lengths = [np.sqrt(block.sum()) or 1.0 for block in np.split(self.squares, np.cumsum(widths)[:-1])]
        return np.repeat(np.array(lengths, np.float32), widths)


def measure(X: Matrix) -> Moments:
    """Return the moments of the features of X, (n_rows, n_features)."""
    return reduce(Moments.joined, each_block(_measure, X))


def _measure(block: np.ndarray, rows: slice) -> Moments:
    mean = block.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", block, block, dtype=np.float64) / len(block)
    variances = [np.square(block[:, part] - mean[part]).mean(axis=0) for part in columns(block, _COLUMNS)]
    return Moments(len(block), mean, squares, np.concatenate(variances))


def measure_scale(X: Matrix, how: str, widths: Sequence[int]) -> np.ndarray:
    """Return the divisor of each feature that gives rows a mean squared length of one, (n_features,), float32.

    With lengths near one, the same values of C suit any number of features. Labels are not used.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_rows, n_features)
    how : {'all', 'layer', 'feature'}
        ``all``: one number for all features, which changes only their unit. ``layer``: one per layer, so that no layer
        dominates. ``feature``: each feature's standard deviation, which amplifies features that are rarely active.
    widths : sequence of int
        Number of features of each layer.
    """
    return measure(X).scale(how, widths)
