"""What features are divided by before a head sees them; a setting that is chosen like C."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SCALES = ("layer", "feature", "all")


def measure_scale(X: np.ndarray, how: str, widths: Sequence[int]) -> np.ndarray:
    """Return what features are divided by, so that rows have a mean squared length of one, (n_features,), float32.

    With lengths near one, the same values of C suit few features and many. No label is looked at.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
    how : {'all', 'layer', 'feature'}
        One number for all features, which leaves them as they are but for the unit; one a layer, so that no layer
        drowns another; or each feature's standard deviation, which blows up those that are rarely active.
    widths : sequence of int
        Number of features of each layer.
    """
    squares = np.einsum("ij,ij->j", X, X, dtype=np.float64) / len(X)
    if how == "feature":
        variances = X.var(axis=0, dtype=np.float64)
        varies = variances > 1e-12 * squares  # else the rounding of a constant
        return np.where(varies, np.sqrt(variances * X.shape[1]), 1.0).astype(np.float32)
    if how == "all":
        return np.full(X.shape[1], np.sqrt(squares.sum()) or 1.0, np.float32)
    lengths = [np.sqrt(block.sum()) or 1.0 for block in np.split(squares, np.cumsum(widths)[:-1])]
    return np.repeat(np.array(lengths, np.float32), widths)
