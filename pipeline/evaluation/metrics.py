"""The table of metrics: how each is computed under row weights, which direction is better, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .weighted_rows import BINS, WeightedRows


@dataclass(frozen=True)
class Metric:
    """A metric of a classifier on held-out rows.

    Attributes
    ----------
    name : str
        Its name in ``run.json``, ``compare.json`` and ``compare.csv``.
    of : callable
        ``of(rows)`` returns the metric of `WeightedRows` under each draw of weights, (n_draws,); nan if undefined.
    title : str
        Column title.
    help : str
        Human-readable description.
    greater_is_better : bool
    digits : int
        Number of decimals shown.
    interval : {'share', 'bootstrap'} or None
        Method of its interval on one split: ``share`` for a share of rows, ``bootstrap`` for others; None if it has none.
    in_table : bool
        Whether it is a column of ``compare.md``; all other outputs contain every metric.
    bounds : (float, float)
        Of its values.
    ranks : bool
        Whether it depends only on the order of the rows by each class's probability.
    """

    name: str
    of: Callable[[WeightedRows], np.ndarray]
    title: str
    help: str
    greater_is_better: bool = True
    digits: int = 3
    interval: Literal["share", "bootstrap"] | None = "bootstrap"
    in_table: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    ranks: bool = False

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        shown = {"roc": "ROC", "auc": "AUC", "mcc": "MCC", "f1": "F1", "cohen": "Cohen's"}
        return " ".join(shown.get(word, word) for word in self.name.split("_"))


def _accuracy(rows: WeightedRows) -> np.ndarray:
    return rows.mean(rows.correct)


def _balanced_accuracy(rows: WeightedRows) -> np.ndarray:
    """Return the mean recall of the classes present."""
    counts, _, hits = rows.by_class
    return _mean_of_known(hits / counts)


def _macro_f1(rows: WeightedRows) -> np.ndarray:
    """Return the mean F1 of the classes present."""
    counts, calls, hits = rows.by_class
    return _mean_of_known(np.where(counts > 0, 2 * hits / (counts + calls), np.nan))


def _roc_auc(rows: WeightedRows) -> np.ndarray:
    """Return the area under the ROC curve, of either of two classes, or the mean of one-vs-rest areas of more classes."""
    areas, _ = rows.ranking
    return _mean_of_known(areas)


def _average_precision(rows: WeightedRows) -> np.ndarray:
    """Return the average precision of the rarer of two classes, or the mean of one-vs-rest ones of more classes."""
    _, precisions = rows.ranking
    return _mean_of_known(precisions)


def _log_loss(rows: WeightedRows) -> np.ndarray:
    """Return the mean negative log-likelihood in nats, with probabilities clipped to machine epsilon."""
    tiny = np.finfo(rows.probabilities.dtype).eps
    return rows.mean(-np.log(np.clip(rows.probabilities[np.arange(len(rows.y)), rows.y], tiny, 1 - tiny)))


def _mcc(rows: WeightedRows) -> np.ndarray:
    """Return Matthews' correlation of true and predicted classes (Gorodkin 2004, "Comparing two K-category assignments").

    0 if all rows are of one class, or are predicted as one.
    """
    true, said, agreed = rows.both
    covariance = rows.total * agreed - (true * said).sum(axis=1)
    spreads = (rows.total**2 - (true**2).sum(axis=1)) * (rows.total**2 - (said**2).sum(axis=1))
    return np.where(spreads > 0, covariance / np.sqrt(spreads), 0.0)


def _cohen_kappa(rows: WeightedRows) -> np.ndarray:
    """Return the agreement of true and predicted classes beyond chance (Cohen 1960, "A coefficient of agreement").

    nan if all rows are of one class and predicted as it.
    """
    true, said, agreed = rows.both
    by_chance = (true * said).sum(axis=1) / rows.total
    return (agreed - by_chance) / (rows.total - by_chance)


def _calibration_error(rows: WeightedRows) -> np.ndarray:
    """Return the expected calibration error (Guo et al. 2017, "On calibration of modern neural networks").

    The mean over rows of ``|accuracy - mean confidence|`` of the row's bin. Bins have equal width; confidence is the
    probability of the predicted class.
    """
    confidence = rows.probabilities.max(axis=1)
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    surplus = np.where(places[:, None] == np.arange(BINS), (rows.correct - confidence)[:, None], 0.0)
    return np.abs(rows.weights @ surplus).sum(axis=1) / rows.total


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return means over the classes with a finite value, (n_draws,); nan if there is none."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


# Heads are ranked by the first metric unless another is asked for.
METRICS = (
    Metric("accuracy", _accuracy, "accuracy", "fraction of test images classified correctly", interval="share"),
    Metric("balanced_accuracy", _balanced_accuracy, "balanced", "mean recall of the classes", in_table=False),
    Metric("macro_f1", _macro_f1, "macro F1", "mean F1 of the classes"),
    Metric("roc_auc", _roc_auc, "ROC AUC", "area under the ROC curve", ranks=True),
    Metric("average_precision", _average_precision, "avg. pr.", "average precision of the rarer class, or mean over more", in_table=False, ranks=True),
    Metric("mcc", _mcc, "MCC", "Matthews' correlation of true and predicted classes", in_table=False, bounds=(-1.0, 1.0)),
    Metric(
        "cohen_kappa", _cohen_kappa, "kappa", "agreement of true and predicted classes beyond chance",
        in_table=False, bounds=(-1.0, 1.0),
    ),
    Metric(
        "log_loss", _log_loss, "log loss", "mean negative log-likelihood, in nats",
        greater_is_better=False, bounds=(0.0, math.inf),
    ),
    Metric(
        "calibration_error", _calibration_error, "calib.",
        f"calibration error: mean absolute difference between confidence and accuracy, {BINS} bins",
        greater_is_better=False, interval=None, in_table=False,  # its bootstrap is biased upwards
    ),
)  # fmt: skip


def find_metric(name: str) -> Metric:
    """Return a row of `METRICS` by its name."""
    return next(each for each in METRICS if each.name == name)


def evaluate(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Compute all metrics of predicted probabilities against labels.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Indices of the true classes.
    probabilities : ndarray of shape (n_samples, n_classes)
        Rows sum to one; the class with the highest probability is the prediction.

    Returns
    -------
    scores : dict of str to float
        Name of each of `METRICS` → its value; nan if undefined, as is ROC AUC if all rows have one class.
    """
    once = WeightedRows(y, probabilities, np.ones((1, len(y))))
    return {name: float(values[0]) for name, values in figures_of(METRICS, once).items()}


def value_of(metric: Metric, y: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute one metric; see `evaluate`."""
    return float(figures_of([metric], WeightedRows(y, probabilities, np.ones((1, len(y)))))[metric.name][0])


def figures_of(metrics: Iterable[Metric], rows: WeightedRows) -> dict[str, np.ndarray]:
    """Return each metric's name → its value under each draw of weights, (n_draws,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {each.name: each.of(rows) for each in metrics}
