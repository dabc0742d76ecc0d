"""How unlike all training images an image is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from features.errors import UnsafeFile
from features.safefiles.npz import read_arrays, save_arrays

from .drift import Drift

FILE = "novelty.npz"
RATE = 0.01  # of images of the same kind that are called unlike
_KEPT, _HELD = 10_000, 4_000  # most training images kept, and of these most by which the threshold is set
_COMPONENTS = 2048  # numbers kept of an image with more features
_BLOCK = 1024


class Sketch(NamedTuple):
    """Many features as few sums of features with random signs, whose inner products are right in the mean.

    The count sketch (Charikar, Chen & Farach-Colton 2002), by Weinberger et al. 2009 as feature hashing.

    Attributes
    ----------
    order : ndarray of shape (n_features,), int
        Features in the order of the sums that they are part of.
    starts : ndarray of shape (n_components,), int
        Where each sum starts in that order.
    signs : ndarray of shape (n_features,), int8
        In that order.
    """

    order: np.ndarray
    starts: np.ndarray
    signs: np.ndarray

    @classmethod
    def draw(cls, n_features: int) -> Sketch:
        """Return a random sketch of `_COMPONENTS` sums of equally many features."""
        random = np.random.default_rng(0)
        starts = np.linspace(0, n_features, _COMPONENTS, endpoint=False).astype(np.int64)
        return cls(random.permutation(n_features), starts, random.choice(np.array([-1, 1], np.int8), n_features))

    def of(self, X: np.ndarray) -> np.ndarray:
        """Return the sums of X, (n, n_features), as (n, n_components)."""
        return np.add.reduceat(X[:, self.order] * self.signs, self.starts, axis=1)


@dataclass(frozen=True)
class Novelty:
    """Training images, to tell images that are unlike all of them.

    The distance of an image is one minus the cosine of its features with those of the nearest training image. It is called
    unlike if the distance is above the threshold, which a share of `RATE` of the training images exceed, each compared with all
    others but its copies and its group.

    Attributes
    ----------
    unit : ndarray of shape (n_images, n_components), float32
        Features of training images as unit vectors.
    distances : ndarray of shape (n_held,), float32
        Of training images among the others.
    threshold : float
    drift : Drift or None
        Tells whether a folder as a whole is like them; None of too few images, and in runs of earlier versions.
    sketch : Sketch or None
        How many features become few components.
    contents : ndarray of shape (n_images, 32), uint8, or None
        SHA-256 of the images' files.
    """

    unit: np.ndarray
    distances: np.ndarray
    threshold: float
    drift: Drift | None = None
    sketch: Sketch | None = None
    contents: np.ndarray | None = None

    @classmethod
    def calibrate(
        cls,
        blocks: Iterable[np.ndarray],
        units: np.ndarray,
        predicted: np.ndarray,
        rate: float = RATE,
        contents: np.ndarray | None = None,
    ) -> Novelty:
        """Keep training images, and set the threshold by them.

        Parameters
        ----------
        blocks : iterable of ndarray of shape (n, n_features)
            The images' features, some images at a time.
        units : ndarray of shape (n_images,), int
            Images with the same number are copies or of one group, and are not compared.
        predicted : ndarray of shape (n_images,), int
            The class that a head which did not see the image predicts.
        rate : float
        contents : ndarray of shape (n_images, 32), uint8, optional
            SHA-256 of the images' files, by which the nearest are found again.
        """
        sketch: Sketch | None = None
        short: list[np.ndarray] = []
        for X in blocks:
            if not short and X.shape[1] > 2 * _COMPONENTS:
                sketch = Sketch.draw(X.shape[1])
            short.append(_unit(X, sketch).astype(np.float16))
        unit = _unit(np.concatenate(short).astype(np.float32))  # as it is saved and read again
        held = spaced(len(unit), _HELD)
        distances = np.concatenate(
            [
                _nearest(unit[some], unit, units[some][:, None] == units)
                for some in np.array_split(held, -(-len(held) // _BLOCK))
            ]
        )
        known = np.isfinite(distances)  # all others may be copies
        distances = distances[known]
        place = math.ceil((len(distances) + 1) * (1 - rate)) - 1
        threshold = float(np.sort(distances)[min(place, len(distances) - 1)]) if len(distances) else math.inf
        drift = Drift.calibrate(unit[held], predicted[held], np.unique(units[held], return_inverse=True)[1])
        return cls(unit, distances, max(threshold, 1e-6), drift, sketch, contents)

    def unit_of(self, X: np.ndarray) -> np.ndarray:
        """Return the features of images as unit vectors, to be compared with `unit`."""
        return _unit(X, self.sketch)

    def distance(self, X: np.ndarray) -> np.ndarray:
        """Return the distance of each image to the nearest training image by its features, (n_images,)."""
        return np.concatenate([_nearest(_unit(each, self.sketch), self.unit) for each in _blocks(X)])

    def nearest(self, X: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest training images of each image and their distances, (n_images, count) each, the nearest first."""
        distances = 1 - self.unit_of(X) @ self.unit.T
        order = np.argsort(distances, axis=1)[:, :count]
        return order, np.maximum(np.take_along_axis(distances, order, 1), 0)

    def of(self, X: np.ndarray) -> np.ndarray:
        """Return the distances in units of the threshold, (n_images,): images above 1 are unlike all training images."""
        return self.distance(X) / self.threshold

    def save(self, folder: Path) -> None:
        """Write ``novelty.npz``."""
        arrays: dict[str, np.ndarray] = {
            "unit": self.unit.astype(np.float16),
            "distances": self.distances.astype(np.float32),
            "threshold": np.array(self.threshold),
        }
        if self.drift is not None:
            arrays |= self.drift.arrays()
        if self.contents is not None:
            arrays["contents"] = self.contents
        if self.sketch is not None:
            arrays |= self.sketch._asdict()
        save_arrays(folder / FILE, arrays)

    @classmethod
    def load(cls, folder: Path, n_features: Any) -> Novelty | None:
        """Read ``novelty.npz``; None if the run has none, as those of earlier versions.

        Raises
        ------
        UnsafeFile
            If it does not fit the head's number of features.
        """
        if not (folder / FILE).is_file():
            return None
        held = read_arrays(folder / FILE)
        try:
            sketch = Sketch(held["order"], held["starts"], held["signs"]) if "order" in held else None
            found = cls(
                _unit(held["unit"].astype(np.float32)),
                held["distances"],
                float(held["threshold"]),
                Drift.of_arrays(held, held["unit"].shape[-1]),
                sketch,
                held.get("contents"),
            )
            _check(found, n_features)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise UnsafeFile(f"{folder / FILE} must fit the head of its run; {error}. Train it again.") from error
        return found

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {"images": len(self.unit), "held": len(self.distances), "rate": RATE, "threshold": self.threshold}


def _check(found: Novelty, n_features: Any) -> None:
    """Raise ValueError unless arrays have shapes and values that belong together."""
    if type(n_features) is not int:
        raise ValueError("run.json does not say how many features there are")
    sketch, width = found.sketch, n_features
    if sketch is not None:
        width = len(sketch.starts)
        if not np.array_equal(np.sort(sketch.order), np.arange(n_features)) or sketch.signs.shape != (n_features,):
            raise ValueError(f"its sketch is not of {n_features} features")
        if sketch.starts[0] or (np.diff(sketch.starts) <= 0).any() or sketch.starts[-1] >= n_features:
            raise ValueError("its sums of features do not rise")
    if found.unit.ndim != 2 or found.unit.shape[1] != width or not np.isfinite(found.unit).all():
        raise ValueError(f"it holds {found.unit.shape} numbers for images of {width}")
    contents = found.contents
    if contents is not None and (contents.shape != (len(found.unit), 32) or contents.dtype != np.uint8):
        raise ValueError(f"it names {len(contents)} files for {len(found.unit)} images")
    if found.distances.ndim != 1 or not found.threshold > 0:
        raise ValueError("its distances and threshold do not belong together")


def spaced(n: int, most: int) -> np.ndarray:
    """Return at most so many of n images, in equal steps."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))


def thinned(images: np.ndarray) -> np.ndarray:
    """Return at most `_KEPT` of some images, in equal steps."""
    return images[spaced(len(images), _KEPT)]


def _unit(X: np.ndarray, sketch: Sketch | None = None) -> np.ndarray:
    X = X if sketch is None else sketch.of(X)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def _nearest(unit: np.ndarray, others: np.ndarray, same: np.ndarray | None = None) -> np.ndarray:
    """Return one minus the largest cosine of each row with others, but for those that are the same; inf if all are."""
    cosines = unit @ others.T
    if same is not None:
        cosines[same] = -np.inf
    return np.maximum(1 - cosines.max(axis=1), 0)


def _blocks(X: np.ndarray) -> list[np.ndarray]:
    return np.array_split(X, max(1, -(-len(X) // _BLOCK)))
