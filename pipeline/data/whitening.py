"""Whitening: rows of features as unit vectors whose angles tell one image from another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .row_blocks import Matrix, Stored

DIMENSIONS = 512  # kept of the whitened features
_WIDEST, _PROJECTED = 2048, 1024  # wider features are first projected at random onto this many
_ROWS = 4096  # at once, in float64


def whiten(X: Matrix) -> np.ndarray:
    """Return rows centred, with their principal components brought to like variance, as unit vectors.

    Without it, the cosine of any two photos of cats is high, because few components hold most of the variance. Whitening makes
    the cosine depend on all of them (Jégou & Chum 2012, "Negative evidences and co-occurences in image retrieval: the benefit
    of PCA and whitening"). The mean of the components' variances is added to each, so that components of noise are not blown up.
    Of n rows at most n - 1 components are kept, and without that mean n rows would all be at right angles, copies included.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_rows, n_features)
        Read block by block, twice.

    Returns
    -------
    unit : ndarray of shape (n_rows, n_components), float32
        At most `DIMENSIONS` components, and n_rows - 1. A row that equals the mean is zero.
    """
    width, project = X.shape[1], None
    step = min(_ROWS, X.block_rows) if isinstance(X, Stored) else _ROWS
    if width > _WIDEST:
        from sklearn.random_projection import SparseRandomProjection  # takes a second to import

        project = SparseRandomProjection(_PROJECTED, random_state=0).fit(np.zeros((1, width), np.float32))
        width = _PROJECTED

    def chunks() -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, len(X), step):
            some = X[np.arange(first, min(first + step, len(X)))]
            yield first, np.asarray(some if project is None else project.transform(some), np.float64)

    total, products = np.zeros(width), np.zeros((width, width))
    for _, some in chunks():
        total += some.sum(axis=0)
        products += some.T @ some
    mean = total / len(X)
    variances, components = np.linalg.eigh(products / len(X) - np.outer(mean, mean))
    kept = slice(None, -min(DIMENSIONS, max(len(X) - 1, 1)) - 1, -1)  # largest first
    held = np.maximum(variances[kept], 0)
    spread = np.sqrt(held + max(held.mean(), np.finfo(float).tiny))
    turned = components[:, kept] / spread
    unit = np.empty((len(X), turned.shape[1]), np.float32)
    for first, some in chunks():
        white = (some - mean) @ turned
        unit[first : first + len(some)] = white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-9)
    return unit
