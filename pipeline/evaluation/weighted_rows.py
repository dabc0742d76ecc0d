"""Test rows with a head's predictions, under many row weightings at once; metrics are computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BINS = 15  # confidence bins of equal width
_FEW = 32  # up to so many classes, or positive rows, a product with each is cheaper than sorting


@dataclass(frozen=True)
class WeightedRows:
    """Labels, probabilities and row weights. Quantities that several metrics share are computed once.

    Attributes
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
    weights : ndarray of shape (n_draws, n_samples), float64
        How often each row counts in each draw; integer-valued.
    """

    y: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return weighted means, (n_draws,), of per-row values, (n_samples,)."""
        return self.weights @ values / self.total

    @cached_property
    def total(self) -> np.ndarray:
        """Number of rows per draw, (n_draws,)."""
        return self.weights.sum(axis=1)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class of each row, (n_samples,)."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each row is classified correctly, (n_samples,)."""
        return self.predicted == self.y

    @cached_property
    def present(self) -> np.ndarray:
        """The classes that occur in `y`, (n_present,)."""
        return np.unique(self.y)

    @cached_property
    def by_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per present class: its rows, the rows predicted as it, and the rows that are both, (n_draws, n_present) each."""
        hit = np.where(self.correct, self.y, -1)
        true, said, both = (_count(labels, self.present, self.weights) for labels in (self.y, self.predicted, hit))
        return true, said, both

    @cached_property
    def both(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per class: its rows, and the rows predicted as it, (n_draws, n_classes) each; rows predicted correctly, (n_draws,)."""
        names = np.arange(self.probabilities.shape[1])
        true, said = (_count(labels, names, self.weights) for labels in (self.y, self.predicted))
        return true, said, self.weights @ self.correct

    @cached_property
    def ranking(self) -> tuple[np.ndarray, np.ndarray]:
        """Area under the ROC curve and average precision of each class against the rest, (n_draws, n_ranked) each.

        With two classes, only the rarer of `y` is ranked (of equally many rows, the second); with more, all that are present. nan if
        one side is empty.
        """
        if self.probabilities.shape[1] == 2:
            rarer = int(2 * np.sum(self.y) <= len(self.y))
            sides = [
                (self.y == rarer, self.probabilities[:, 1] * (1 if rarer else -1))
            ]  # one order, whichever is rarer
        else:
            sides = [(self.y == label, self.probabilities[:, label]) for label in self.present]
        ranked = [_rank(positive, scores, self.weights) for positive, scores in sides]
        areas, precisions = (np.stack(each, axis=1) for each in zip(*ranked, strict=True))
        return areas, precisions


def _count(labels: np.ndarray, names: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each draw's number of rows of each label in `names`, which ascend: (n_draws, n_names)."""
    if len(names) <= _FEW:
        return weights @ (labels[:, None] == names)
    order = np.argsort(labels, kind="stable")
    first, last = (np.searchsorted(labels[order], names, side) for side in ("left", "right"))
    sums = np.zeros((len(weights), len(labels) + 1))
    np.cumsum(weights[:, order], axis=1, out=sums[:, 1:])
    return sums[:, last] - sums[:, first]


def _rank_few(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `_rank` from sums at the scores of positive rows alone, all that either figure depends on."""
    thresholds, of_positive = np.unique(scores[positive]), weights[:, positive]
    reached, level = scores[:, None] >= thresholds, scores[:, None] == thresholds
    ups, above = of_positive @ level[positive], of_positive @ reached[positive]
    tied = level.any(axis=1)
    every, at = weights @ reached, weights[:, tied] @ level[tied]
    n_ups = of_positive.sum(axis=1)
    n_downs = weights.sum(axis=1) - n_ups
    below = n_downs[:, None] - (every - above)
    area = (ups * (below + (at - ups) / 2)).sum(axis=1) / (n_ups * n_downs)
    precision = np.nansum(ups * above / every, axis=1) / n_ups
    return area, np.where(n_downs > 0, precision, np.nan)


def _rank(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the area under the ROC curve and the average precision, (n_draws,) each; nan if one side is empty."""
    if positive.sum() <= _FEW:
        return _rank_few(positive, scores, weights)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # rows of equal scores are one threshold
    ups = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    downs = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    above, below = ups.cumsum(axis=1), downs.cumsum(axis=1)
    n_ups, n_downs = above[:, -1], below[:, -1]
    area = (downs * (above - ups / 2)).sum(axis=1) / (n_ups * n_downs)
    precision = np.nansum(ups * above / (above + below), axis=1) / n_ups
    return area, np.where(n_downs > 0, precision, np.nan)
