"""Precision, recall and F1 of each class, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..significance import agresti_coull, effective_rows


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is told from the others.

    Attributes
    ----------
    name : str
    support, predicted : int
        Rows of the class, and rows predicted as it.
    precision, recall, f1 : float or None
        Share of the rows predicted as the class that are of it, share of its rows that are predicted as it, and their harmonic
        mean; None if undefined.
    precision_interval, recall_interval : tuple of float or None
        Agresti and Coull's 95 % intervals.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    precision_interval: tuple[float, float] | None
    recall_interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)


def figures_by_class(
    y: np.ndarray, predicted: np.ndarray, names: Sequence[str], units: np.ndarray | None = None
) -> list[ClassFigures]:
    """Return the figures of each class, in the order of `names`.

    Parameters
    ----------
    y, predicted : ndarray of shape (n_samples,), int
        Indices of the true and of the predicted classes.
    names : sequence of str
        Names of the classes.
    units : ndarray of shape (n_samples,), int, optional
        The group of each row, numbered from 0. Intervals are then of the effective number of rows; see `effective_rows`.
    """
    units = np.arange(len(y)) if units is None else units

    def share(hits: np.ndarray, of: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
        if not of.any():
            return None, None
        value, among = float(hits[of].mean()), np.unique(units[of], return_inverse=True)[1]
        return value, agresti_coull(value, effective_rows(hits[of], among))

    found = []
    for number, name in enumerate(names):
        true, said = y == number, predicted == number
        (precision, of_precision), (recall, of_recall) = share(true, said), share(said, true)
        rows = int(true.sum()) + int(said.sum())
        f1 = 2 * int((true & said).sum()) / rows if true.any() else None
        found.append(
            ClassFigures(name, int(true.sum()), int(said.sum()), precision, recall, f1, of_precision, of_recall)
        )
    return found


def pooled(splits: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the figures of each class over several splits, in the form of `ClassFigures`; of one split, its own.

    Rows of several splits are counted together. They have no intervals, since splits share rows.
    """
    if len(splits) < 2:
        return [dict(each) for each in splits[0]] if splits else []
    found = []
    for of_class in zip(*splits, strict=True):
        support, predicted = (sum(each[name] for each in of_class) for name in ("support", "predicted"))
        hits = sum(round(each["recall"] * each["support"]) for each in of_class if each["recall"] is not None)
        shares = hits / predicted if predicted else None, hits / support if support else None
        f1 = 2 * hits / (support + predicted) if support else None
        found.append(ClassFigures(of_class[0]["name"], support, predicted, *shares, f1, None, None).to_json())
    return found
