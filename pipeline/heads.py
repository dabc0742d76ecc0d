"""The registry: name → how a head is searched for, which settings are tried and what features it wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from features.errors import must_be_one_of

from .choice import Choice, Grid
from .dense import DenseSearch
from .estimators import EstimatorSearch, NearestMean, find_estimator
from .kernel import SvmSearch
from .linear import LogisticSearch
from .sample import Pair, Sample
from .scaling import SCALES


class Classifier(Protocol):
    """What a head is once it is fitted."""

    classes_: np.ndarray

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X, (n_samples, n_features)."""
        ...

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes), in the order of `classes_`."""
        ...


class Search(Protocol):
    """Heads of one kind on one sample."""

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the settings that are best on the images that each pair looks at."""
        ...

    def fit(self, settings: dict[str, Any], images: np.ndarray) -> Classifier:
        """Return the head with some settings, fitted to images given by a mask."""
        ...


@dataclass(frozen=True)
class Head:
    """One entry of the registry.

    Attributes
    ----------
    search : callable
        ``search(sample, grid)`` returns a `Search`.
    grid : dict of str to tuple
        Setting → what is tried, rising. For a Dense head: the largest number of epochs.
    pool : str
        How stored feature maps become vectors unless the user says otherwise.
    views : {'rows', 'mean'}
        Whether an image's views are rows of their own, whose scores are averaged, or their features are averaged:
        for heads whose cost grows with the square of the rows.
    """

    search: Callable[[Sample, Grid], Search]
    grid: Grid = field(default_factory=dict)
    pool: str = "avg"
    views: str = "rows"


def _estimator(make: Callable[..., Any], views: str = "rows", **grid: tuple[Any, ...]) -> Head:
    return Head(partial(EstimatorSearch, make=make), grid, views=views)


_C = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
HEADS = {
    "dense": Head(DenseSearch, {"epochs": (30,)}, pool="flatten"),
    "logistic": Head(LogisticSearch, {"scale": SCALES, "C": (*_C, 1000.0, 3000.0)}),
    "linear-svm": Head(SvmSearch, {"scale": SCALES, "C": _C}, views="mean"),
    "rbf-svm": Head(SvmSearch, {"scale": SCALES, "gamma": (0.3, 1.0, 3.0), "C": _C}, views="mean"),
    "ridge": _estimator(RidgeClassifier, scale=SCALES, alpha=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)),
    "lda": _estimator(partial(LinearDiscriminantAnalysis, "lsqr"), shrinkage=(0.01, 0.03, 0.1, 0.3, 0.6)),
    "knn": _estimator(partial(KNeighborsClassifier, metric="cosine"), "mean", n_neighbors=(1, 3, 5, 10, 20)),
    "nearest-mean": _estimator(NearestMean, scale=SCALES),
    "hist-gradient-boosting": _estimator(partial(HistGradientBoostingClassifier, early_stopping=False), "mean"),
    "majority": _estimator(DummyClassifier),
}


def find_head(name: str) -> Head:
    """Return a head of the registry, or one made of a scikit-learn classifier given by its dotted name.

    Raises
    ------
    RequestError
        If there is none.
    """
    if name in HEADS:
        return HEADS[name]
    if "." not in name:
        raise must_be_one_of("head", HEADS, name)
    return _estimator(find_estimator(name))
