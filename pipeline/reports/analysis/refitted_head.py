"""A linear head of a run, refitted with its chosen settings: its coefficients and out-of-sample predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from features.splits import SPLITS
from features.store.reader import FeatureStore

from ...data.training_data import Features
from ...heads.registry import HEADS, find_head
from ...runs.feature_spec import all_classes
from ...runs.predictions import Predictions
from ...training.fits.fitting import take_sample
from ...training.fits.folds import out_of_fold
from ...training.loading import read_features, request_of

LINEAR = tuple(name for name, head in HEADS.items() if head.linear)


@dataclass(frozen=True)
class Refitted:
    """A linear head on the first split of a run.

    Attributes
    ----------
    name : str
    settings : dict
    of_run : bool
        Whether it is one of the run's heads; otherwise it is a logistic regression fitted because the run has no linear head.
    features : Features
    coef : ndarray of shape (n_features, n_classes)
    intercept : ndarray of shape (n_classes,)
        Scores of the classes are ``features @ coef + intercept``; with two classes, one is the negative of the other.
    probabilities : ndarray of shape (n_test, n_classes)
        Of the split's test rows, by the head fitted on train and val.
    out_of_fold : ndarray of shape (n_images, n_classes)
        Of every row, by a head fitted on the other four of five folds; copies of an image, and images of a group, share a fold.
    """

    name: str
    settings: dict[str, Any]
    of_run: bool
    features: Features
    coef: np.ndarray
    intercept: np.ndarray
    probabilities: np.ndarray
    out_of_fold: np.ndarray


def refit(
    store: FeatureStore,
    predictions: Predictions,
    ranked: Sequence[str],
    seed: int,
    select: str,
    corrections: dict[str, Any] | None = None,
) -> Refitted:
    """Refit the best linear head of a run; if there is none, fit a logistic regression on the best head's features.

    Parameters
    ----------
    store : FeatureStore
        The run's store.
    predictions : Predictions
    ranked : sequence of str
        The run's heads, best first.
    seed : int
    select : {'cv', 'val'}
    corrections : dict, optional
        Options of a `Request` by which the run corrected labels.
    """
    rows, split = predictions.rows, predictions.splits[0]
    name = next((each for each in ranked if each in LINEAR), None)
    told = predictions.told[name or ranked[0]][0]
    asked = replace(request_of(store, told, seed), **(corrections or {}))
    features = read_features(store, name or "logistic", asked)
    head = find_head(name or "logistic")
    test, val = split == SPLITS["test"], split == SPLITS["val"]
    group = told.get("group")  # runs of earlier versions have none
    sample = take_sample(features, rows, ~test, val, seed, group)
    search = head.search(sample)
    settings = told["settings"] if name else search.choose(sample.pairs(select)).settings
    estimator = search.fit(settings, sample.everything)
    coef, intercept = estimator.coefficients(len(rows.class_names))
    everything = np.ones(len(rows), bool)
    whole = take_sample(features, rows, everything, ~everything, seed, group)
    return Refitted(
        name=name or "logistic",
        settings=settings,
        of_run=name is not None,
        features=features,
        coef=coef,
        intercept=intercept,
        probabilities=all_classes(estimator, features, test, len(rows.class_names)),
        out_of_fold=out_of_fold(head.search(whole), settings, len(rows.class_names)),
    )
