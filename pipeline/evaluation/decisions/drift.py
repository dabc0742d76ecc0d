"""Whether a folder of images as a whole is unlike the training images, as from another camera or crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

P_VALUE = 0.01  # of a folder of the same kind that is called drifted
LEAST_FOLDER = 20  # images of a folder that is looked at as a whole
_DIRECTIONS, _VARY = 128, 500  # most principal components, and most images whose components these are
_FOLDERS = 999  # of training images, that a folder is compared with
_ARRAYS = "drift_"  # name before those of each array in a file


@dataclass(frozen=True)
class Drift:
    """Half of the training images, along the directions in which the other half varies, to compare folders with.

    The directions are those of other images, so that these images are no nearer to their centre than new ones are.

    Attributes
    ----------
    means : ndarray of shape (n_classes + 1, n_features), float32
        Mean features of the images that are predicted as each class, and of all, for classes that no image is predicted as.
    counts : ndarray of shape (n_classes + 1,), int
        How many these are.
    directions : ndarray of shape (n_directions, n_features), float32
        Principal components, each divided by the standard deviation along it.
    places : ndarray of shape (n_images, n_directions), float32
        Images along these.
    units : ndarray of shape (n_images,), int
        Images with the same number are copies or of one group.
    """

    means: np.ndarray
    counts: np.ndarray
    directions: np.ndarray
    places: np.ndarray
    units: np.ndarray

    @classmethod
    def calibrate(cls, X: np.ndarray, predicted: np.ndarray, units: np.ndarray) -> Drift | None:
        """Compare later folders with these training images; None if they are too few.

        Parameters
        ----------
        X : ndarray of shape (n_images, n_features), float32
        predicted : ndarray of shape (n_images,), int
            The class that a head which did not see the image predicts.
        units : ndarray of shape (n_images,), int
        """
        units = np.unique(units, return_inverse=True)[1]
        order = np.random.default_rng(0).permutation(units.max() + 1)[units]
        others, own = (np.flatnonzero(half) for half in (order % 2 == 1, order % 2 == 0))
        if min(len(own), len(others)) < 2 * LEAST_FOLDER:
            return None
        n_classes, some = int(predicted.max()) + 1, others[:: -(-len(others) // _VARY)]
        varied = X[some] - _class_means(X[others], predicted[others], n_classes)[0][predicted[some]]
        means, counts = _class_means(X[own], predicted[own], n_classes)
        # An image pulls its class's mean towards itself; it is farther by m / (m - 1) from the mean of the others.
        farther = (counts / np.maximum(counts - 1, 1)).astype(np.float32)[predicted[own]]
        left = (X[own] - means[predicted[own]]) * farther[:, None]
        directions = _components(varied)
        return cls(means, counts, directions, left @ directions.T, order[own] // 2)

    def of(self, X: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return new images by their features and predicted classes along the directions, (n_images, n_directions)."""
        return (X - self.means[self._known(predicted)]) @ self.directions.T

    def p_value(self, places: np.ndarray, predicted: np.ndarray, folders: Sequence[str] | None = None) -> float | None:
        """Return the p-value for images being of the kind of the training images; None if they are too few.

        The squared distance of their mean to that of the training images (Hotelling's statistic, with independent directions) is
        ranked among those of folders as large that are drawn from the training images, whole groups together. Each image is seen
        from the mean of its predicted class, so other shares of classes are no drift. If it is not known which of them are of one
        group, they may all be of few, so the folders drawn are of as few groups as can be.

        Parameters
        ----------
        places : ndarray of shape (n_images, n_directions)
            Of `of`. Training images themselves must be left out.
        predicted : ndarray of shape (n_images,), int
        folders : sequence of str, optional
            The folder of each image. If there are several, each is one group; see `_by_groups`.
        """
        held = len(self.places)
        n = min(len(places), held // 2)
        if n < LEAST_FOLDER:
            return None
        if folders is not None and len(set(folders)) > 1:
            return self._by_groups(places, np.unique(folders, return_inverse=True)[1])
        apart = places.mean(axis=0) - self.places.mean(axis=0)
        classes, share = np.unique(self._known(predicted), return_counts=True)
        own = 1 / len(places) + np.sum((share / len(places)) ** 2 / self.counts[classes])  # variance of one image: 1
        random, total = np.random.default_rng(0), self.places.sum(axis=0)
        drawn = random.random((_FOLDERS, self.units.max() + 1), np.float32)[:, self.units].argpartition(n - 1, axis=1)
        inside = np.array([self.places[each].sum(axis=0) for each in drawn[:, :n]])
        found = ((inside / n - (total - inside) / (held - n)) ** 2).sum(axis=1) / (1 / n + 1 / (held - n))
        return float((1 + np.sum(found >= np.sum(apart**2) / own)) / (1 + _FOLDERS))

    def _by_groups(self, places: np.ndarray, groups: np.ndarray) -> float:
        """Return the p-value for new groups being of the kind of the training groups: a permutation test by whole groups.

        Each group counts by its mean, a training group by as many images as new ones have on average. The squared distance of the
        mean of new groups to that of training groups is ranked among those after groups have changed sides.
        """
        random, count = np.random.default_rng(0), int(groups.max()) + 1
        own = _group_means(self.places, self.units, round(len(places) / count), random)
        both = np.concatenate([_group_means(places, groups, len(places), random), own])
        drawn = random.random((_FOLDERS, len(both)), np.float32).argpartition(count - 1, axis=1)[:, :count]
        new = np.zeros((1 + _FOLDERS, len(both)), np.float32)
        new[0, :count] = 1
        np.put_along_axis(new[1:], drawn, 1, axis=1)
        inside = new @ both
        found = ((inside / count - (both.sum(axis=0) - inside) / len(own)) ** 2).sum(axis=1)
        return float((1 + np.sum(found[1:] >= found[0] * (1 - 1e-6))) / (1 + _FOLDERS))

    def _known(self, predicted: np.ndarray) -> np.ndarray:
        return np.minimum(predicted, len(self.means) - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a file holds of it."""
        return {_ARRAYS + name: each for name, each in vars(self).items()}

    @classmethod
    def of_arrays(cls, held: Mapping[str, np.ndarray], n_features: int) -> Drift | None:
        """Return what `arrays` gave to a file; None if it holds nothing of it, as files of earlier versions.

        Raises
        ------
        KeyError, ValueError
            If arrays are missing, or do not fit each other or images of `n_features`.
        """
        if _ARRAYS + "means" not in held:
            return None
        found = cls(*(held[_ARRAYS + name] for name in cls.__dataclass_fields__))
        means, counts, directions, places, units = vars(found).values()
        fits = means.ndim == directions.ndim == places.ndim == 2 and means.shape[1] == directions.shape[1] == n_features
        fits = fits and counts.shape == means.shape[:1] and units.shape == places.shape[:1] and len(units) > 0
        fits = fits and places.shape[1:] == directions.shape[:1]
        fits = fits and all(np.issubdtype(each.dtype, np.integer) for each in (counts, units))
        if not fits or counts.min() < 1 or not 0 <= units.min() <= units.max() < len(units):
            raise ValueError("its means, directions, places and groups do not belong together")
        if not all(np.isfinite(each).all() for each in (means, directions, places)):
            raise ValueError("its means, directions and places are not finite")
        return found


def _class_means(X: np.ndarray, predicted: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean features by class, and at last of all, also for classes without an image; and of how many they are."""
    of = [predicted == each for each in range(n_classes)] + [np.ones(len(X), bool)]
    of = [each if each.any() else of[-1] for each in of]
    return np.array([X[each].mean(axis=0) for each in of], np.float32), np.array([each.sum() for each in of])


def _group_means(places: np.ndarray, groups: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Return the mean of each group, of at most so many of its rows, drawn at random, (n_groups, n_directions)."""
    order = random.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    ends = np.cumsum(np.unique(groups, return_counts=True)[1])[:-1]
    return np.array([places[rows[:most]].mean(axis=0) for rows in np.split(order, ends)], np.float32)


def _components(X: np.ndarray) -> np.ndarray:
    """Return the first principal components of centred rows, (n_directions, n_features), in units of their deviations.

    They are those of the inner products of the rows, which are fewer than the features.
    """
    squares, vectors = np.linalg.eigh((X @ X.T).astype(np.float64))
    kept = np.flatnonzero(squares > 1e-9 * max(squares[-1], 1e-30))[-_DIRECTIONS:]
    return ((vectors[:, kept] / squares[kept] * np.sqrt(len(X))).T @ X).astype(np.float32)
