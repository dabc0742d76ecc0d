"""Features in two dimensions, to be looked at."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits


def project(X: np.ndarray, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return places of rows on maps, and the shares of variance of the two axes of PCA.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
    seed : int

    Returns
    -------
    maps : dict of str to ndarray of shape (n_rows, 2)
        ``PCA``, and ``t-SNE`` (van der Maaten & Hinton 2008) of the first 50 principal components where there are rows
        enough; neither where rows do not differ in two directions.
    shares : ndarray of shape (2,)
    """
    n_components = min(50, *X.shape)
    if n_components < 2 or len(np.unique(X, axis=0)) < 3:
        return {}, np.zeros(2)
    pca = PCA(n_components, random_state=seed)
    scores = pca.fit_transform(X.astype(np.float64))
    maps = {"PCA": scores[:, :2]}
    if len(X) >= 12:
        perplexity = min(30.0, (len(X) - 1) / 3)
        # One thread: its steps are so short that threads wait for each other longer than they work.
        with threadpool_limits(1):
            tsne = TSNE(perplexity=perplexity, init=_start(scores), random_state=seed, n_jobs=1)
            maps["t-SNE"] = tsne.fit_transform(scores)
    return maps, pca.explained_variance_ratio_[:2]


def _start(scores: np.ndarray) -> np.ndarray:
    """Return where t-SNE starts: the first two components, small (Kobak & Berens 2019), as scikit-learn's init="pca"."""
    return (scores[:, :2] / (scores[:, 0].std() or 1.0) * 1e-4).astype(np.float32)
