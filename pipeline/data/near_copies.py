"""Near-copies: images whose features are nearly equal, as those of re-encodes, crops, mirror images and frames of a burst."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .row_blocks import Matrix
from .whitening import whiten

FALSE_PAIRS = 0.01  # per 1,000 images, among those that cannot be copies; see `Likeness.threshold`
_LOOKED = 4096  # most images by which the threshold is set
_CROWD = 0.01  # an image's crowd: the hundredth part of those looked at that is most like it,
_LEAST_CROWD = 20  # but no fewer images
_FAR = 0.1  # of the file list: images closer to each other may be of one series
_BLOCK = 4096  # rows per block of products: 64 MiB


@dataclass(frozen=True)
class Likeness:
    """How alike images are: the cosine of their whitened features, less what is usual around the two.

    Attributes
    ----------
    unit : ndarray of shape (n_images, n_components), float32
        See `whiten`.
    crowd : ndarray of shape (n_images,), float32
        The cosine with the last of an image's crowd, that hundredth of the images (at least 20) which is most like it. Some
        images are like many others: the mean of both images' crowds is subtracted, as cross-domain similarity local scaling
        does (Conneau et al. 2018, "Word translation without parallel data").
    """

    unit: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, X: Matrix) -> Likeness:
        """Return the likeness of images by their features, (n_images, n_features)."""
        unit = whiten(X)
        looked = _spaced(len(unit))
        place = min(len(looked) - 1, max(_LEAST_CROWD, round(_CROWD * len(looked))))
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

    def threshold(self, labels: np.ndarray) -> float:
        """Return the likeness above which images count as near-copies.

        It is set so that images that cannot be copies would give `FALSE_PAIRS` pairs per 1,000 images. These strangers are
        images of another class, at least a tenth of the file list away. The likeness of an image's nearest stranger is taken
        to have an exponential tail, whose scale is that from the 90th to the 99th percentile. Strangers beyond the largest of a
        million by a Gumbel distribution with the same lower quartile and median are left out: they are copies with another label. Images of one class are more alike than strangers
        (two dogs behind a fence), so more of their pairs are false: up to one per 1,000 images where that was counted, which
        is why the rate among strangers is a hundredth of that.

        Parameters
        ----------
        labels : ndarray of shape (n_images,), int
            In the order of the file list.
        """
        looked, n = _spaced(len(labels)), len(labels)
        nearest, candidates = np.full(len(looked), -np.inf), np.zeros(len(looked))
        for some in _blocks(n):
            alike = self.between(looked, some)
            stranger = (labels[looked][:, None] != labels[some]) & (abs(looked[:, None] - some) >= _FAR * n)
            np.maximum(nearest, np.where(stranger, alike, -np.inf).max(axis=1), out=nearest)
            candidates += stranger.sum(axis=1)
        nearest = nearest[candidates > 0]
        quarter, middle = np.quantile(nearest, (0.25, 0.5))  # of up to a third of copies, they are nearly unmoved
        gumbel = -np.log(-np.log([0.25, 0.5, 1 - 1e-6]))  # quantiles of the largest of many
        beyond = middle + (middle - quarter) / (gumbel[1] - gumbel[0]) * (gumbel[2] - gumbel[1])
        upper, top = np.quantile(nearest[nearest <= beyond], (0.9, 0.99))
        rate = 2 * FALSE_PAIRS / 1000 * candidates[candidates > 0].mean() / n  # a pair is near for both of its images
        return float(top + (top - upper) / math.log(10) * math.log(0.01 / rate))


@dataclass(frozen=True)
class NearCopies:
    """Clusters of near-copies.

    Attributes
    ----------
    clusters : ndarray of shape (n_images,), int
        The first image of each image's cluster: two images share it if they are near-copies or byte for byte the same,
        directly or through other images.
    likeness : Likeness
    threshold : float
        Images of at least this likeness are near-copies.
    """

    clusters: np.ndarray
    likeness: Likeness
    threshold: float

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


def find_near_copies(X: Matrix, labels: np.ndarray, contents: np.ndarray) -> NearCopies:
    """Find clusters of near-copies by the likeness of all pairs of images, block by block.

    Parameters
    ----------
    X : ndarray or Stored of shape (n_images, n_features)
    labels : ndarray of shape (n_images,), int
        In the order of the file list.
    contents : ndarray of shape (n_images, 32), uint8
        SHA-256 of each image's file.
    """
    from scipy.sparse import coo_array  # takes a while to import
    from scipy.sparse.csgraph import connected_components

    likeness, n = Likeness.of(X), len(labels)
    threshold = likeness.threshold(labels)
    _, clusters = np.unique(contents, axis=0, return_inverse=True)
    clusters = clusters.ravel()
    for some in _blocks(n):
        pairs = []
        for first in range(some[0], n, _BLOCK):
            others = np.arange(first, min(first + _BLOCK, n))
            one, two = np.nonzero(likeness.between(some, others) >= threshold)
            pairs.append((clusters[some[one]], clusters[others[two]]))
        one, two = (np.concatenate(each) for each in zip(*pairs, strict=True))
        graph = coo_array((np.ones(len(one), bool), (one, two)), (n, n))
        clusters = connected_components(graph, directed=False)[1][clusters]
    _, firsts, numbers = np.unique(clusters, return_index=True, return_inverse=True)
    return NearCopies(firsts[numbers], likeness, threshold)


def _spaced(n: int) -> np.ndarray:
    """Return images in equal steps through the file list by which the threshold is set."""
    return np.unique(np.linspace(0, n - 1, min(n, _LOOKED)).astype(int))


def _blocks(n: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + _BLOCK, n)) for first in range(0, n, _BLOCK))
