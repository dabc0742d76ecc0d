"""Choice of a head's settings: the best by a metric of the probabilities that they give held-out rows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.errors import RequestError, option
from features.runtime.progress import Progress

from ..data.training_data import Pair, Sample
from ..evaluation.metrics import figures_of, find_metric
from ..evaluation.weighted_rows import WeightedRows
from ..options import METRIC

Grid = dict[str, tuple[Any, ...]]
Rating = dict[
    str, float | None
]  # accuracy, the metric and log loss; None if undefined, or if the setting is impossible
Output = tuple[np.ndarray, np.ndarray]  # a fitted head's classes and its outputs for rows, (n_rows, n_outputs)

CLASS_WEIGHTS = ("none", "balanced")
TIES = "log_loss"  # decides between settings that the metric does not tell apart


@dataclass(frozen=True)
class Choice:
    """The chosen settings of a head.

    Attributes
    ----------
    settings : dict
        Name → value.
    tried : list of dict
        All settings that were tried, each with its ``accuracy``, metric and ``log_loss`` on held-out rows.
    history : dict, optional
        Learning curves of heads that are trained by epochs: ``{name: [value of each epoch]}``.
    """

    settings: dict[str, Any]
    tried: list[dict[str, Any]]
    history: dict[str, list[float]] | None = None


class Judge:
    """Rates settings by the probabilities that they give held-out images.

    Parameters
    ----------
    sample : Sample
    pairs : sequence of Pair
        Each image's probabilities come from a head that was fitted on the first mask of the pair that looks at it.
    metric : str
        Name of a metric.

    Attributes
    ----------
    jobs : sequence of Pair
        What a head must be fitted to and looked at for `rate`.
    names : tuple of str
        Of the figures in a rating: accuracy, the metric, and log loss.
    rows : int
        Number of held-out images.
    """

    def __init__(self, sample: Sample, pairs: Sequence[Pair], metric: str):
        self.jobs, self.metric, self.names = pairs, metric, tuple(dict.fromkeys(("accuracy", metric, TIES)))
        self._classes = np.unique(sample.y)
        self._targets = [np.searchsorted(self._classes, sample.y[look]) for _, look in pairs]
        self.rows = sum(map(len, self._targets))

    def rate(self, outputs: Sequence[Output | None]) -> Rating:
        """Return the rating of a setting from its probabilities of the rows of each job; views of an image are averaged.

        An output is None if the setting is impossible there (20 neighbours of 9 rows).
        """
        known = [each for each in outputs if each is not None]
        if len(known) < len(outputs):
            return dict.fromkeys(self.names)
        found = []
        for (classes, probabilities), targets in zip(known, self._targets, strict=True):
            of_all = np.zeros((len(targets), len(self._classes)))
            of_images = probabilities.reshape(len(targets), -1, len(classes)).mean(axis=1)
            of_all[:, np.searchsorted(self._classes, classes)] = of_images
            found.append(of_all)
        targets = np.concatenate(self._targets)
        rows = WeightedRows(targets, np.concatenate(found), np.ones((1, len(targets))))
        figures = figures_of(map(find_metric, self.names), rows)
        return {name: float(values[0]) if np.isfinite(values[0]) else None for name, values in figures.items()}

    def rate_all(self, outputs: Iterable[Output | None], progress: Progress) -> list[Rating]:
        """Return the rating of each setting, from the outputs of its jobs, setting by setting, as they come."""
        ratings, own = list[Rating](), list[Output | None]()
        for output in outputs:
            own.append(output)
            progress.update()
            if len(own) == len(self.jobs):
                ratings.append(self.rate(own))
                own.clear()  # the outputs of one setting at a time: those of all may be many times the features
        return ratings


def rank(rating: Rating, metric: str) -> tuple[float, float]:
    """Return a sort key: of two ratings, the better one is greater. Ties are broken by log loss."""
    value, loss = rating[metric], rating[TIES]
    sign = 1 if find_metric(metric).greater_is_better else -1
    # Metrics that are equal up to the rounding of their sums are a tie.
    return -math.inf if value is None else round(sign * value, 12), -math.inf if loss is None else -loss


def least_accuracy(best: float, rows: int) -> float:
    """Return the accuracy down to which settings count as accurate as the best: one standard error below it.

    The rule of Breiman et al. 1984, "Classification and regression trees", section 3.4.3. The standard error is that of Agresti
    and Coull 1998, "Approximate is better than 'exact' for interval estimation of binomial proportions", of two more rows that
    are right and two that are wrong: it is not 0 where all rows are right.
    """
    share = (best * rows + 2) / (rows + 4)
    return best - math.sqrt(share * (1 - share) / (rows + 4))


def best_of(
    settings: Sequence[dict[str, Any]], ratings: Sequence[Rating], metric: str, rows: int, by_folds: bool = True
) -> Choice:
    """Choose the best-rated settings on so many images; among several of one rating the middle one.

    By accuracy, which a few images decide, all settings down to `least_accuracy` count as one rating, and the lowest log loss
    is chosen.

    Raises
    ------
    RequestError
        If the metric is undefined on the held-out rows. Unless `by_folds`, cross-validation is no remedy.
    """
    if all(each[metric] is None for each in ratings) and any(each[TIES] is not None for each in ratings):
        others = f"another metric: {option('metric', TIES)}"
        if by_folds:
            others = f"another metric or by cross-validation: {option('metric', TIES)}, {option('select', 'cv')}"
        raise RequestError(
            f"{metric} must be defined on the rows by which settings are chosen; they have one class. Add images to val, "
            f"or choose by {others}"
        )
    ranks = [rank(each, metric) for each in ratings]
    if metric == METRIC and (best := max(ranks)[0]) >= 0:
        ranks = [(float(value >= least_accuracy(best, rows)), loss) for value, loss in ranks]
    equal = [each for each, place in zip(settings, ranks, strict=True) if place == max(ranks)]
    return Choice(equal[len(equal) // 2], [{**each, **rating} for each, rating in zip(settings, ratings, strict=True)])


def combinations(grid: Grid) -> list[dict[str, Any]]:
    """Return all combinations of a grid's values; the last name varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def row_weights(y: np.ndarray, rows: np.ndarray, class_weight: str) -> np.ndarray:
    """Return how much each row counts, (n_rows,): 0 outside the mask; balanced weights have mean 1, and equal sums by class."""
    if class_weight == "none":
        return rows.astype(np.float64)
    _, of, counts = np.unique(y[rows], return_inverse=True, return_counts=True)
    weights = np.zeros(len(y))
    weights[rows] = (len(of) / len(counts) / counts)[of]
    return weights


def describe_settings(chosen: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]]) -> str:
    """Return the settings with several tried values as text; of several choices, each value, the most frequent first."""
    told = []
    for name in chosen[0]:
        if len({each.get(name) for each in tried}) < 2:
            continue
        values = Counter(f"{each[name]:g}" if isinstance(each[name], float) else str(each[name]) for each in chosen)
        told.append(f"{name} {', '.join(value for value, _ in values.most_common())}")
    return "; ".join(told)
