"""Projection of features to two dimensions."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

EMBEDDED = 2000  # rows that t-SNE itself places: its time grows faster than their number
NEIGHBOURS = 10  # of a further row, among those


def project(X: np.ndarray, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return positions of rows on maps, and the shares of variance of PCA's two axes.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
    seed : int

    Returns
    -------
    maps : dict of str to ndarray of shape (n_rows, 2)
        ``PCA``, and with at least 12 rows ``t-SNE`` (van der Maaten & Hinton 2008) of the first 50 principal components.
        Of more than `EMBEDDED` rows, t-SNE places so many, drawn at random; each other row is put at the median of its
        `NEIGHBOURS` nearest of them (where Poličar et al. 2019 start to embed new rows). Empty if rows do not vary in two
        directions.
    shares : ndarray of shape (2,)
        In [0, 1].
    """
    n_components = min(50, *X.shape)
    if n_components < 2 or len(np.unique(X, axis=0)) < 3:
        return {}, np.zeros(2)
    pca = PCA(n_components, random_state=seed)
    scores = pca.fit_transform(X.astype(np.float64))
    maps = {"PCA": scores[:, :2]}
    if len(X) >= 12:
        maps["t-SNE"] = _embed(scores, seed)
    return maps, pca.explained_variance_ratio_[:2]


def _embed(scores: np.ndarray, seed: int) -> np.ndarray:
    """Return positions of all rows on a map by t-SNE, of shape (n_rows, 2)."""
    chosen = np.arange(len(scores))
    if len(scores) > EMBEDDED:
        chosen = np.sort(np.random.default_rng(seed).choice(len(scores), EMBEDDED, replace=False))
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    # One thread: the steps are so short that several threads would mostly wait for each other.
    with threadpool_limits(1):
        tsne = TSNE(perplexity=perplexity, init=_start(scores[chosen]), random_state=seed, n_jobs=1)
        placed = tsne.fit_transform(scores[chosen])
    if len(chosen) == len(scores):
        return placed
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(scores[chosen]).kneighbors(scores, return_distance=False)
    positions = np.median(placed[nearest], axis=1)
    positions[chosen] = placed
    return positions


def _start(scores: np.ndarray) -> np.ndarray:
    """Return t-SNE's initial positions: the first two components, scaled down (Kobak & Berens 2019), like init="pca"."""
    return (scores[:, :2] / (scores[:, 0].std() or 1.0) * 1e-4).astype(np.float32)
