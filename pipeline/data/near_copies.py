"""Near-copies: images whose features are nearly equal, as those of re-encodes, crops, mirror images and frames of a burst."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .row_blocks import Matrix
from .whitening import whiten

# Images of at least this likeness are near-copies. Of planted copies, at least 95 in 100 reach it, and of other pairs at most one
# per 1,000 images, whichever of the packaged bases made the features; see the lab book.
THRESHOLD = 0.53
_LOOKED = 4096  # most images among which crowds are looked for
_CROWD = 0.01  # an image's crowd: the hundredth part of those looked at that is most like it,
_LEAST_CROWD, _LEAST_SHARE = 20, 0.2  # but no fewer images than 20, or a fifth of those looked at, if that is less
_BLOCK = 4096  # rows per block of products: 64 MiB


@dataclass(frozen=True)
class Likeness:
    """How alike images are: the cosine of their whitened features, less what is usual around the two.

    Attributes
    ----------
    unit : ndarray of shape (n_images, n_components), float32
        See `whiten`.
    crowd : ndarray of shape (n_images,), float32
        The cosine with the last of an image's crowd, that hundredth of the images which is most like it: at least 20 of
        them, or a fifth of all. Some images are like many others: the mean of both images' crowds is subtracted, as cross-domain
        similarity local scaling does (Conneau et al. 2018, "Word translation without parallel data").
    """

    unit: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, X: Matrix) -> Likeness:
        """Return the likeness of images by their features, (n_images, n_features)."""
        unit = whiten(X)
        looked = _spaced(len(unit))
        least = min(_LEAST_CROWD, int(_LEAST_SHARE * len(looked)))
        place = max(1, least, round(_CROWD * len(looked)))
        crowd = np.empty(len(unit), np.float32)
        for some in _blocks(len(unit)):
            cosines = unit[some] @ unit[looked].T
            cosines[some[:, None] == looked] = -1  # the image itself
            crowd[some] = np.partition(cosines, len(looked) - place, axis=1)[:, len(looked) - place]
        return cls(unit, crowd)

    def between(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the likeness of each of some images with each of others, (n_rows, n_others), float32."""
        left, right = self._sides
        return left[rows] @ right[others].T

    @cached_property
    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Two matrices whose inner products are the likeness."""
        half, one = -self.crowd[:, None] / 2, np.ones((len(self.unit), 1), np.float32)
        return np.hstack([self.unit, half, one]), np.hstack([self.unit, one, half])


@dataclass(frozen=True)
class NearCopies:
    """Clusters of near-copies.

    Attributes
    ----------
    clusters : ndarray of shape (n_images,), int
        The first image of each image's cluster: two images share it if they are near-copies or byte for byte the same,
        directly or through other images.
    likeness : Likeness
    """

    clusters: np.ndarray
    likeness: Likeness

    def exposed(self, test: np.ndarray) -> np.ndarray:
        """Return which of the images in a mask have a near-copy outside it, (n_images,), bool."""
        return test & np.isin(self.clusters, self.clusters[~test])

    def nearest(self, of: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each of some images the most alike of others and how alike it is, within the same cluster.

        Parameters
        ----------
        of, among : ndarray of int
            Images. An image is not its own nearest.

        Returns
        -------
        images : ndarray of int
            -1 if its cluster has none of the others.
        likeness : ndarray of float32
        """
        images, alike = np.full(len(of), -1), np.full(len(of), -np.inf, np.float32)
        order = among[np.argsort(self.clusters[among], kind="stable")]
        held = self.clusters[order]
        for cluster in np.unique(self.clusters[of]):
            others = order[np.searchsorted(held, cluster) : np.searchsorted(held, cluster, "right")]
            places = np.flatnonzero(self.clusters[of] == cluster) if len(others) else np.empty(0, int)
            for some in (places[start : start + _BLOCK] for start in range(0, len(places), _BLOCK)):
                found = self.likeness.between(of[some], others)
                found[of[some][:, None] == others] = -np.inf
                best = found.argmax(axis=1)
                alike[some] = found[np.arange(len(some)), best]
                images[some] = np.where(np.isfinite(alike[some]), others[best], -1)
        return images, alike


def find_near_copies(X: Matrix, contents: np.ndarray) -> NearCopies:
    """Find clusters of near-copies by the likeness of all pairs of images, block by block.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_images, n_features)
    contents : ndarray of shape (n_images, 32), uint8
        SHA-256 of each image's file.
    """
    from scipy.sparse import coo_array  # takes a while to import
    from scipy.sparse.csgraph import connected_components

    likeness, n = Likeness.of(X), len(X)
    _, clusters = np.unique(contents, axis=0, return_inverse=True)
    clusters = clusters.ravel()
    for some in _blocks(n):
        pairs = []
        for first in range(some[0], n, _BLOCK):
            others = np.arange(first, min(first + _BLOCK, n))
            one, two = np.nonzero(likeness.between(some, others) >= THRESHOLD)
            pairs.append((clusters[some[one]], clusters[others[two]]))
        one, two = (np.concatenate(each) for each in zip(*pairs, strict=True))
        graph = coo_array((np.ones(len(one), bool), (one, two)), (n, n))
        clusters = connected_components(graph, directed=False)[1][clusters]
    _, firsts, numbers = np.unique(clusters, return_index=True, return_inverse=True)
    return NearCopies(firsts[numbers], likeness)


def _spaced(n: int) -> np.ndarray:
    """Return images in equal steps through the file list among which crowds are looked for."""
    return np.unique(np.linspace(0, n - 1, min(n, _LOOKED)).astype(int))


def _blocks(n: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + _BLOCK, n)) for first in range(0, n, _BLOCK))
