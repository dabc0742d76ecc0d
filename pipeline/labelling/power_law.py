"""A power law with a floor through the errors at several numbers of training images, and what it says of larger numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

LEVEL = 0.9  # of intervals
_EXPONENTS = np.linspace(0.05, 1.5, 59)
_FLOORS = np.linspace(0, 1, 61)[:-1]  # as a share of the least mean error seen
_GRID = 400  # points of an interval's distribution
_LEAST_SPREAD = (
    0.01  # of one fit, relative to its error: heads that make no mistake at all would seem to be known exactly
)


@dataclass(frozen=True)
class PowerLaw:
    """The posterior of ``error(n) = floor + a n^-b`` on a grid of exponents b and floors.

    For each pair, a is linear in the errors, so its posterior is normal. The floor is what more images of the same kind do not
    remove: without it, extrapolations are too good (Hestness et al. 2017, "Deep learning scaling is predictable, empirically";
    Mahmood et al. 2022, "How much more data do I need?"). All exponents are equally likely before, and floors the less, the nearer
    they are to the least error seen, at which more images would bring nothing: with all floors equally likely, extrapolations are
    too bad.

    Attributes
    ----------
    sizes : ndarray of shape (n_sizes,)
        Numbers of training images, ascending; the last is all there are, of which the others are subsets.
    errors : tuple of ndarray
        The errors of the fits to each number of images, one per draw.
    splits : tuple of ndarray
        The number of the split that each fit is of. What is told is the mean of one fit per split.
    """

    sizes: np.ndarray
    errors: tuple[np.ndarray, ...]
    splits: tuple[np.ndarray, ...]

    @cached_property
    def means(self) -> np.ndarray:
        """Mean errors over draws, (n_sizes,)."""
        return np.array([each.mean() for each in self.errors])

    @property
    def fits(self) -> int:
        """How many fits the error that is told is the mean of."""
        return len(np.unique(np.concatenate(self.splits)))

    @cached_property
    def spread(self) -> float:
        """Standard deviation of one fit's error, relative to the error, between fits that share no image.

        Subsets of n of a split's N images share images, so their fits differ less: if each image adds its part to an error, by the
        share ``1 - n / N`` of the variance, as means of samples of a finite population do (Cochran 1977, "Sampling techniques",
        section 2.6). Errors of several splits are leveled, which takes away a part of what differs between them, so draws are
        compared within a split, unless there is only one of each.
        """
        whole, found = self.sizes[-1], []
        for n, each, split, mean in zip(self.sizes, self.errors, self.splits, self.means, strict=True):
            found += [(each[split == own], mean, 1 - n / whole) for own in np.unique(split)]
        if all(len(draws) == 1 for draws, _, _ in found):
            found = [(each, mean, 1.0) for each, mean in zip(self.errors, self.means, strict=True)]
        several = [
            (len(draws) - 1, draws.var(ddof=1) / max(mean, 1e-12) ** 2 / share)
            for draws, mean, share in found
            if len(draws) > 1
        ]
        freedom = sum(count for count, _ in several)
        if not freedom:
            return _LEAST_SPREAD
        return max(float(np.sqrt(sum(count * variance for count, variance in several) / freedom)), _LEAST_SPREAD)

    @cached_property
    def _posterior(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Exponents, floors, and of each pair: probability, and mean and variance of a; flat arrays."""
        b, share = (each.ravel() for each in np.meshgrid(_EXPONENTS, _FLOORS, indexing="ij"))
        floor = share * self.means.min()
        counts = np.array([len(each) for each in self.errors])
        scale = np.maximum(self.means, self.means.mean() / 10)  # a mean of no errors is not known exactly
        weights = counts / (self.spread * scale) ** 2
        x = self._x(self.sizes, b)  # (n_pairs, n_sizes)
        information = (weights * x**2).sum(axis=1)
        a = np.maximum((weights * x * (self.means - floor[:, None])).sum(axis=1) / information, 0)
        misfit = (weights * (self.means - floor[:, None] - a[:, None] * x) ** 2).sum(axis=1)
        log = -misfit / 2 - np.log(information) / 2 + np.log(1 - share)
        p = np.exp(log - log.max())
        return b, floor, p / p.sum(), a, 1 / information

    def _x(self, n: np.ndarray, b: np.ndarray) -> np.ndarray:
        middle = np.exp(np.log(self.sizes).mean())
        return (np.asarray(n, float) / middle) ** -b[:, None]

    def at(self, n: float) -> tuple[float, float, float]:
        """Return the mean error to expect of `fits` fits to n images, and its 90 % interval: (mean, low, high)."""
        b, floor, p, a, variance = self._posterior
        x = self._x(np.array([n]), b)[:, 0]
        mean = floor + a * x
        low, high = _quantiles(mean, np.sqrt(variance * x**2 + (self.spread * mean) ** 2 / self.fits), p)
        return float(p @ mean), max(0.0, low), high

    def gain(self, n: float, more: float, relative: float = 0.0) -> tuple[float, float, float]:
        """Return by how much the error falls from n to more images, and its 90 % interval: (mean, low, high).

        Parameters
        ----------
        n, more : float
        relative : float
            Standard error of the error due to the choice of test images, relative to the error; a gain varies with it in
            proportion.
        """
        b, _, p, a, variance = self._posterior
        x = -np.diff(self._x(np.array([n, more]), b), axis=1)[:, 0]
        mean = a * x
        low, high = _quantiles(mean, np.sqrt(variance * x**2 + (relative * mean) ** 2), p)
        return float(p @ mean), max(0.0, low), max(0.0, high)


def _quantiles(means: np.ndarray, spreads: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """Return the ends of the middle 90 % of a mixture of normal distributions with probabilities p."""
    kept = p > 1e-6 * p.max()
    means, spreads, p = means[kept], np.maximum(spreads[kept], 1e-12), p[kept] / p[kept].sum()
    values = np.linspace((means - 5 * spreads).min(), (means + 5 * spreads).max(), _GRID)
    below = p @ ndtr((values - means[:, None]) / spreads[:, None])
    low, high = np.interp(((1 - LEVEL) / 2, (1 + LEVEL) / 2), below, values)
    return float(low), float(high)
