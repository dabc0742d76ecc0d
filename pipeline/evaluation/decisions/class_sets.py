"""Sets of classes that hold the true one with a given probability: conformal prediction, class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from features.errors import RequestError, UnsafeFile, called

_ROUNDING = 1e-9  # of sums and ratios of shares


@dataclass(frozen=True)
class ClassSets:
    """From which probability on a class is in an image's set.

    A set may hold several classes, where the head is unsure, or none, where an image is less typical of every class than
    nearly all of its images.

    Attributes
    ----------
    level : float
        Probability with which the set of a new image holds its true class, whichever that is.
    least : dict of str to float
        Class → the probability from which on it is in the set; 0 for a class with too few images to exclude it from any set.
    images : dict of str to int
        Class → number of images that this was set by.
    unbounded : list of str
        The classes that are in every set, since they have too few images; see `units_needed`.
    test : dict
        Of the test images: ``coverage`` with its 95 % ``interval``, ``by_class`` (the same for each class), ``mean_size``, and
        the shares of ``empty`` sets and of those with ``one`` class.
    """

    level: float
    least: dict[str, float]
    images: dict[str, int]
    unbounded: list[str] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def calibrate(
        cls,
        level: float,
        y: np.ndarray,
        probabilities: np.ndarray,
        class_names: Sequence[str],
        units: np.ndarray | None = None,
    ) -> ClassSets:
        """Set the probabilities by images that the head was not fitted on.

        Of n images of a class, a new one's probability of it is as likely to have any place among theirs, so it is at least their
        ``ceil((n + 1) level)``-th largest with probability `level` (Vovk, Gammerman & Shafer 2005; by class: Vovk 2013, "Conditional
        validity of inductive conformal predictors"). Out-of-fold probabilities make it cross-conformal (Vovk 2015): all images
        of train and val set it, and the head of the run is fitted to more images than those of the folds. With groups, each
        group weighs the same, as for an image of a new group (Lee, Barber & Willett 2024, "Distribution-free inference with
        hierarchical data").

        Parameters
        ----------
        level : float
        y : ndarray of shape (n_samples,), int
        probabilities : ndarray of shape (n_samples, n_classes)
            Out of fold; rows of nan are ignored.
        class_names : sequence of str
        units : ndarray of shape (n_samples,), int, optional
            The group of each row; by default, each row is a group.
        """
        known = np.isfinite(probabilities).all(axis=1)
        units = np.arange(len(y)) if units is None else units
        least, images, unbounded = {}, {}, []
        for label, name in enumerate(class_names):
            own = np.flatnonzero(known & (y == label))
            least[name] = _least(probabilities[own, label], units[own], level)
            images[name] = len(own)
            if len(np.unique(units[own])) < units_needed(level):
                unbounded.append(name)
        return cls(level, least, images, unbounded)

    def hold(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which classes are in each set, (n_samples, n_classes), bool."""
        return probabilities >= np.array(list(self.least.values()))

    def measured(self, y: np.ndarray, probabilities: np.ndarray, units: np.ndarray | None = None) -> ClassSets:
        """Return the same with the figures of test images; intervals are Agresti and Coull's, of groups of the effective number of rows."""
        sets = self.hold(probabilities)
        covered, sizes = sets[np.arange(len(y)), y], sets.sum(axis=1)
        units = np.arange(len(y)) if units is None else units
        names = [(name, y == label) for label, name in enumerate(self.least)]
        test = {
            **_coverage(covered, units),
            "by_class": [{"name": name, **_coverage(covered[own], units[own])} for name, own in names if own.any()],
            "mean_size": float(sizes.mean()),
            "empty": float(np.mean(sizes == 0)),
            "one": float(np.mean(sizes == 1)),
        }
        return replace(self, test=test)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any], class_names: Sequence[str], where: str) -> ClassSets:
        """Return what `to_json` wrote; `where` is the file, for messages.

        Raises
        ------
        UnsafeFile
            If it is not valid for these classes.
        """
        try:
            sets = cls(**told)
            valid = list(sets.least) == list(class_names) and all(0 <= each <= 1 for each in sets.least.values())
            valid = valid and 0 < sets.level < 1
        except (TypeError, AttributeError):
            valid = False
        if not valid:
            raise UnsafeFile(f"{where} must say what sets of its classes hold; got {str(told)[:200]}. Train it again.")
        return sets


def check_level(level: float) -> None:
    """Refuse a level that is no probability, such as 90."""
    if not 0.5 <= level < 1:
        raise RequestError(f"{called('conformal')} must be at least 0.5 and below 1; got {level}. For instance 0.9.")


def units_needed(level: float) -> int:
    """Return how many images of a class, or groups, some of a class's images can be kept out of sets with: n / (n + 1) >= level."""
    return math.ceil(level / (1 - level) - _ROUNDING)


def _least(probabilities: np.ndarray, units: np.ndarray, level: float) -> float:
    """Return the probability that a new image of a class exceeds with probability `level`; 0 if the images are too few."""
    if not len(probabilities):
        return 0.0
    _, of_row, counts = np.unique(units, return_inverse=True, return_counts=True)
    weights = 1 / counts[of_row] / (len(counts) + 1)  # of the new image: one part
    order = np.argsort(-probabilities, kind="stable")
    enough = np.flatnonzero(np.cumsum(weights[order]) >= level - _ROUNDING)
    return float(probabilities[order[enough[0]]]) if len(enough) else 0.0


def _coverage(covered: np.ndarray, units: np.ndarray) -> dict[str, Any]:
    from ..significance import agresti_coull, effective_rows  # imports scipy.stats, which predictions need not wait for

    share = float(covered.mean())
    rows = effective_rows(covered, np.unique(units, return_inverse=True)[1])
    return {"images": len(covered), "coverage": share, "interval": list(agresti_coull(share, rows))}
