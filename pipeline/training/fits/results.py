"""What a head is once it is fitted, and its result on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FittedHead:
    """Which head was fitted to which features, and with which settings.

    Attributes
    ----------
    head, layer, pool : str
    parts : list of (str, str, str)
        What `layer` and `pool` say for people; see `Part`.
    views, n_features : int
    settings : dict
        Chosen within train and val.
    tried : list of dict
        Settings that were tried, each with its score; see `Choice`.
    """

    head: str
    layer: str
    pool: str
    parts: Sequence[Sequence[str]]
    views: int
    n_features: int
    settings: dict[str, Any]
    tried: list[dict[str, Any]]


@dataclass(frozen=True)
class Result(FittedHead):
    """The result of fitting a head on one split, beside what `FittedHead` says.

    Attributes
    ----------
    val, test : dict
        See `evaluate`.
    intervals : dict of str to tuple
        Of the test metrics; see `intervals_of`.
    fit_seconds, predict_seconds : float
        Time to choose and fit; time to predict the test rows.
    probabilities : ndarray of shape (n_images, n_classes)
        Test rows: from the head fitted on train and val; other rows: from the one fitted on train alone, nan if left out.
    history : dict of str to list, optional
        Learning curves of heads that train by epochs; see `Choice`.
    group : str, optional
        The column that names each row's group; a group shared a fold.
    by_class : list of dict
        Test figures of each class; see `ClassFigures`. Results of earlier versions have none.
    """

    val: dict[str, float]
    test: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    fit_seconds: float
    predict_seconds: float
    probabilities: np.ndarray
    history: dict[str, list[float]] | None = None
    group: str | None = None
    by_class: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """Return everything but the probabilities."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "probabilities"}
