"""The operating point of a classifier of two classes: chosen on out-of-fold probabilities, and measured on test rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from features.errors import RequestError, UnsafeFile, called

from ..intervals import intervals_of
from ..metrics import evaluate, find_metric
from .aim import DECIDED, Aim
from .by_class import ClassFigures, figures_by_class
from .thresholds import choose_threshold


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability on an image is predicted as the positive class.

    Attributes
    ----------
    positive, other : str
        The two classes.
    threshold : float
        Images whose probability of `positive` is at least this are predicted as it.
    chosen_for : str
        The aim, in words.
    out_of_fold, test : dict
        Figures at this threshold: ``sensitivity`` (recall of `positive`), ``specificity`` (recall of `other`), ``precision``,
        the metrics of predicted classes, the numbers of ``positives`` and ``others`` and, of `test`, ``intervals``. The threshold
        was chosen on the rows of `out_of_fold`.
    """

    positive: str
    other: str
    threshold: float
    chosen_for: str
    out_of_fold: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.positive} from probability {self.threshold:.6g} on, else {self.other} (chosen for {self.chosen_for})"

    @classmethod
    def choose(
        cls,
        aim: Aim,
        y: np.ndarray,
        probabilities: np.ndarray,
        class_names: Sequence[str],
        units: np.ndarray | None = None,
    ) -> OperatingPoint:
        """Choose the threshold on out-of-fold probabilities.

        Parameters
        ----------
        aim : Aim
        y : ndarray of shape (n_samples,), int
        probabilities : ndarray of shape (n_samples, 2)
            Of heads that were not fitted to the row; nan where there is none.
        class_names : sequence of str
        units : ndarray of shape (n_samples,), int, optional
            The group of each row; by default, each row is a group.

        Raises
        ------
        RequestError
            If one of the classes has no row with probabilities.
        """
        known = np.isfinite(probabilities).all(axis=1)
        y, probabilities, units = y[known], probabilities[known], None if units is None else units[known]
        if len(np.unique(y)) < 2:
            raise RequestError(
                f"{called(aim.way)} needs out-of-fold probabilities of both classes; the folds gave those of one. Add images."
            )
        number = class_names.index(aim.positive)
        threshold = choose_threshold(aim, y == number, probabilities[:, number], units)
        point = cls(aim.positive, class_names[1 - number], threshold, str(aim))
        return replace(point, out_of_fold=point.measure(y, probabilities, class_names))

    def decide(self, probabilities: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Return the index of the predicted class of each row of probabilities, (n_samples, 2)."""
        number = class_names.index(self.positive)
        return np.where(probabilities[:, number] >= self.threshold, number, 1 - number)

    def measure(self, y: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the figures of labelled rows at this threshold, without intervals."""
        predicted = self.decide(probabilities, class_names)
        positive, other = self._both(figures_by_class(y, predicted, class_names))
        metrics = evaluate(y, np.eye(2)[predicted])
        return {
            "sensitivity": positive.recall,
            "specificity": other.recall,
            "precision": positive.precision,
            **{name: None if math.isnan(metrics[name]) else metrics[name] for name in DECIDED},
            "positives": positive.support,
            "others": other.support,
        }

    def measured(
        self, y: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], units: np.ndarray | None = None
    ) -> OperatingPoint:
        """Return the same point with the figures of test rows, and their intervals; see `intervals_of`."""
        predicted = self.decide(probabilities, class_names)
        positive, other = self._both(figures_by_class(y, predicted, class_names, units))
        drawn = intervals_of(y, np.eye(2)[predicted], units, [find_metric(name) for name in DECIDED])
        intervals = {
            "sensitivity": positive.recall_interval,
            "specificity": other.recall_interval,
            "precision": positive.precision_interval,
            **{name: None if math.isnan(drawn[name][0]) else drawn[name] for name in DECIDED},
        }
        test = {**self.measure(y, probabilities, class_names), "intervals": intervals}
        return replace(self, test=test)

    def _both(self, figures: Sequence[ClassFigures]) -> tuple[ClassFigures, ClassFigures]:
        """Return the figures of the positive class and of the other."""
        one, two = figures
        return (one, two) if one.name == self.positive else (two, one)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any] | None, class_names: Sequence[str], where: str) -> OperatingPoint | None:
        """Return the point that `to_json` wrote, or None where there is none; `where` is the file, for messages.

        Raises
        ------
        UnsafeFile
            If it is not a valid operating point of these classes.
        """
        if told is None:
            return None
        try:
            point = cls(**told)
            valid = sorted((point.positive, point.other)) == sorted(class_names) and 0 <= point.threshold < 2
        except (TypeError, AttributeError):
            valid = False
        if not valid:
            raise UnsafeFile(
                f"{where} must contain an operating point of its two classes; got {str(told)[:200]}. Train it again."
            )
        return point
