"""Inner products and sums of rows, of a matrix in memory or of a stored one that is never in memory as a whole.

A store's chunks hold whole rows. So the products of a stored matrix are computed panel by panel: the rows of a panel stay in
memory while all later rows are read past them. No product is summed over panels, so the results do not depend on which process
computes a panel, nor on the order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import blas

from features.errors import RequestError, option
from features.runtime.machine import memory_limit

from .parallel import spread
from .row_blocks import Matrix, Stored, columns, each_block

_COLUMNS = 2048  # columns converted to float64 at once
_FEW_COLUMNS = 256  # the same for a stored matrix, small compared with a panel


def gram(X: Matrix, mean: np.ndarray, scales: Sequence[np.ndarray], memory: float | None = None) -> list[np.ndarray]:
    """Return the inner products of all pairs of rows, for each of several scales, accumulated in float64.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_rows, n_features)
        A stored matrix is read half as many times as there are panels, however many scales there are.
    mean : ndarray of shape (n_features,), float64
        Subtracted from each row.
    scales : sequence of ndarray of shape (n_features,)
        The centred rows are divided by each of these.
    memory : float, optional
        Bytes; the products of a stored matrix may take half of it. By default, all that this machine has.

    Returns
    -------
    products : list of ndarray of shape (n_rows, n_rows), float64
        Only the upper triangle is valid.

    Raises
    ------
    RequestError
        If the products of a stored matrix would take more than half of the memory.
    """
    if isinstance(X, np.ndarray):
        return [_gram(X, mean, scale) for scale in scales]
    n, room = len(X), memory_limit() if memory is None else memory
    needed = 8 * n**2 * (2 * len(scales) + 3)  # two matrices per scale, and three for one decomposition
    if needed > room / 2:
        raise RequestError(
            f"inner products of rows may take half of the memory, {room / 2e9:.1f} GB; {n} rows need {needed / 1e9:.1f} GB. "
            f"Use {option('head', 'dense')}, or fewer images: {option('limit')}"
        )
    found = [np.zeros((n, n), order="F") for _ in scales]
    firsts = range(0, n, 2 * X.block_rows)
    panels = spread(_panel, ((X, first, mean, scales) for first in firsts))
    for first, panel in zip(firsts, panels, strict=True):
        for each, products in zip(found, panel, strict=True):
            each[first : first + len(products), first:] = products
    return found


def _gram(X: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    products = np.zeros((len(X), len(X)), order="F")
    for part in columns(X, _COLUMNS):
        block = (X[:, part] - mean[part]) / scale[part]
        products = blas.dsyrk(1.0, block, 1.0, products, overwrite_c=True)
    return products


def _panel(X: Stored, first: int, mean: np.ndarray, scales: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for each scale, the products of a panel's rows with all rows from `first` on, (panel, n_rows - first)."""
    panel = X[np.arange(first, min(first + 2 * X.block_rows, len(X)))]
    found = [np.zeros((len(panel), len(X) - first)) for _ in scales]
    for start in range(0, len(X) - first, X.block_rows):
        rows = slice(start, min(start + X.block_rows, len(X) - first))  # relative to the panel's first row
        block = panel[rows] if rows.stop <= len(panel) else X[np.arange(first + rows.start, first + rows.stop)]
        for part in columns(panel, _FEW_COLUMNS):
            one, two = panel[:, part] - mean[part], block[:, part] - mean[part]
            for scale, products in zip(scales, found, strict=True):
                products[:, rows] += one @ (two / scale[part].astype(np.float64) ** 2).T
    return found


def transposed(X: Matrix, mean: np.ndarray, scale: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ``((X - mean) / scale).T @ weights``, (n_features, k), float64, for weights of shape (n_rows, k)."""
    return sum(each_block(_transposed, X, mean, scale, weights))


def _transposed(block: np.ndarray, rows: slice, mean: np.ndarray, scale: np.ndarray, weights: np.ndarray) -> np.ndarray:
    parts = columns(block, _COLUMNS)
    return np.concatenate([((block[:, part] - mean[part]) / scale[part]).T @ weights[rows] for part in parts])
