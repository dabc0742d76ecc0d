"""Inner products of the features of some rows, from those of all rows; regularised and solved for any number of levels."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from ...data.svd_basis import Rotation


class FoldProducts:
    """``A = R.T @ diag(weights) @ R - V.T @ V`` of rotated rows R, of which those of weight 0 are left out.

    Over all rows of a rotation ``R.T @ R`` is diagonal: D, the squared singular values. If all others count alike, and few rows are
    left out, A is ``D - U.T @ U``, where U has the rows that are left out and those of V. The inverse then takes a matrix of the size
    of U (Woodbury 1950, "Inverting modified matrices")::

        (D - U.T U)^-1 = E + E U.T (1 - U E U.T)^-1 U E,    E = D^-1

    Parameters
    ----------
    rotation : Rotation
    weights : ndarray of shape (n_samples,)
    less : ndarray of shape (k, rank)
        V.
    """

    def __init__(self, rotation: Rotation, weights: np.ndarray, less: np.ndarray):
        counts, rows = weights > 0, rotation.rows
        self._squares, self._out, self._products = rotation.lengths**2, None, None
        if (weights[counts] == 1).all() and 2 * (~counts).sum() < len(self._squares):
            self._out = np.vstack([rows[~counts], less])
            self.trace = float(self._squares.sum() - np.square(self._out).sum())
        else:
            self._products = (rows[counts].T * weights[counts]) @ rows[counts] - less.T @ less
            self.trace = float(np.trace(self._products))

    def solve(self, right: np.ndarray, level: float, share: float = 1.0) -> np.ndarray:
        """Return ``(share * A + level)^-1 @ right``, (rank, k).

        Raises
        ------
        ValueError
            If the level is so low that the solution is lost in rounding.
        """
        if self._products is not None:
            return _solve(share * self._products + np.diag(np.full(len(self._products), level)), right)
        root = 1 / np.sqrt(share * self._squares + level)  # of E
        out, right = self._out * (np.sqrt(share) * root), root[:, None] * right
        return root[:, None] * (right + out.T @ _solve(np.eye(len(out)) - out @ out.T, out @ right))


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return ``matrix^-1 @ right`` for a positive definite matrix; SciPy's error for any other is a ValueError."""
    return cho_solve(cho_factor(matrix, overwrite_a=True), right)
