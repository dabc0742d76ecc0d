"""Choose one head's settings on one split of a store's images, fit it, and evaluate it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from features.errors import RequestError
from features.splits import SPLITS, check_numbers, stratified_folds
from features.store.schema import Rows

from ...data.store_ref import Place
from ...data.training_data import Features, Sample
from ...evaluation.decisions.by_class import figures_by_class
from ...evaluation.intervals import intervals_of
from ...evaluation.metrics import evaluate
from ...heads.contract import Classifier, Head, Search
from ...heads.registry import find_head
from ...heads.settings import CLASS_WEIGHTS, TIES, Choice, Grid
from ...options import METRIC
from ...runs.feature_spec import all_classes
from ..loading import read_once
from ..request import USUAL, Fitting, Request
from ..splitting import LEFT_OUT, side_keys, units_among
from .folds import out_of_fold
from .results import Result

FOLDS = 5


@dataclass(frozen=True)
class Fitted:
    """The head behind a result, fitted on train and val.

    Attributes
    ----------
    estimator : Classifier
    choice : Choice
        With its learning curves if it trains by epochs.
    search : Search or None
        On train and val; None once it is `finished`.
    out_of_fold : ndarray of shape (n_learn, n_classes)
        Probabilities of the images of train and val, nan until it is `finished` with them; see `out_of_fold`.
    """

    estimator: Classifier
    choice: Choice
    search: Search | None
    out_of_fold: np.ndarray

    def finished(self, n_classes: int | None) -> Fitted:
        """Return it without its features, to be sent to another process; given a number of classes, with `out_of_fold`."""
        if self.search is None or n_classes is None:
            return replace(self, search=None)
        return replace(self, search=None, out_of_fold=out_of_fold(self.search, self.choice.settings, n_classes))


def fit_head(
    name: str,
    features: Features,
    rows: Rows,
    splits: np.ndarray,
    how: Fitting = USUAL,
) -> tuple[Result, Fitted]:
    """Choose a head's settings within train and val, fit it on both, and evaluate it once on test.

    Parameters
    ----------
    name : str
        A key of ``HEADS``, or the dotted name of a scikit-learn classifier.
    features : Features
    rows : Rows
        One per image.
    splits : ndarray of shape (n_images,)
        Values of ``SPLITS``, or `LEFT_OUT`.
    how : Fitting

    Raises
    ------
    RequestError
        If the head cannot be fitted to these images; the message names the head.
    """
    head, views_given = find_head(name, how.settings), features.views
    if head.views == "mean":
        features = features.averaged()
    _check_sides(rows.labels, splits)
    val, test, n_classes = splits == SPLITS["val"], splits == SPLITS["test"], len(rows.class_names)
    learn = ~test & (splits != LEFT_OUT)
    sample = take_sample(features, rows, learn, val, how.seed, how.group)
    with _naming(name):
        head.searcher.warm_up()
        started = time.perf_counter()
        search = head.search(sample, grid_of(head, features, how))
        choice = search.choose(sample.pairs(how.select), how.metric)
        with search.fits(2, "final fits") as progress:
            watcher, estimator = (
                search.fit(choice.settings, images, tell)
                for images, tell in progress.each([~sample.val, sample.everything])
            )
        fitted = time.perf_counter()
        probabilities = np.full((len(rows), n_classes), np.nan)
        probabilities[test] = all_classes(estimator, features, test, n_classes)
        predicted = time.perf_counter()
        probabilities[learn] = all_classes(watcher, features, learn, n_classes)
    result = Result(
        head=name,
        layer=features.layer,
        pool=features.pool,
        parts=features.parts,
        views=views_given,
        n_features=features.X.shape[1],
        settings=choice.settings,
        tried=choice.tried,
        val=evaluate(rows.labels[val], probabilities[val]),
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
        probabilities=probabilities,
        history=choice.history,
        group=how.group,
        **evaluate_test(rows, test, probabilities[test], how.group),
    )
    return result, Fitted(estimator, choice, search, np.full((len(sample.y), n_classes), np.nan))


def _check_sides(labels: np.ndarray, splits: np.ndarray) -> None:
    """Refuse splits without rows to fit to, or to look at."""
    if len(np.unique(labels[splits == SPLITS["train"]])) < 2:
        raise RequestError("the training rows must have at least two classes; got one. Add images of another class.")
    if not (splits == SPLITS["val"]).any():
        raise RequestError("val must have an image; got none. Add images.")


def evaluate_test(rows: Rows, test: np.ndarray, probabilities: np.ndarray, group: str | None) -> dict[str, Any]:
    """Return the metrics of the test rows, their intervals, and the figures of each class."""
    y, units = rows.labels[test], units_among(rows, test, group)
    by_class = figures_by_class(y, probabilities.argmax(axis=1), rows.class_names, units)
    return {
        "test": evaluate(y, probabilities),
        "intervals": intervals_of(y, probabilities, units),
        "by_class": [each.to_json() for each in by_class],
    }


@contextmanager
def _naming(head: str) -> Iterator[None]:
    """Name the head in errors raised while fitting it; scikit-learn's become RequestError."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{head}: {error}") from error
    except ValueError as error:
        told = " ".join(str(error).split())
        raise RequestError(
            f"{head}: it cannot be fitted to these images: {told.rstrip('.')}. Add images, or take another head."
        ) from error


def take_sample(
    features: Features, rows: Rows, images: np.ndarray, val: np.ndarray, seed: int, group: str | None = None
) -> Sample:
    """Return the images given by a mask as a sample for a head to learn from, dealt out to folds.

    Raises
    ------
    RequestError
        If a class has too few groups.
    """
    keys = [key for key, chosen in zip(side_keys(rows, group), images, strict=True) if chosen]
    if group is not None:
        check_numbers(rows.labels[images], keys, rows.class_names, group, 2, "folds")
    folds = stratified_folds(rows.strata[images], keys, FOLDS, seed)
    return Sample(features.only(images), rows.labels[images], val[images], folds, seed)


def grid_of(head: Head, features: Features, how: Fitting) -> Grid:
    """Return the settings to try.

    If there is one layer, scale ``all`` means the same as the layer's scale, and is tried as that. Balanced class weights double the
    time of a search and do not raise accuracy or lower log loss, so they are tried only for other metrics.
    """
    grid = dict(head.grid)
    if "scale" in grid and len(features.widths) == 1:
        grid["scale"] = tuple(dict.fromkeys("layer" if each == "all" else each for each in grid["scale"]))
    if "class_weight" in grid and "class_weight" not in how.settings and how.metric not in (METRIC, TIES):
        grid["class_weight"] = CLASS_WEIGHTS
    return grid


def fit_stored(
    place: Place, head: str, asked: Request, splits: np.ndarray, folds: bool = False
) -> tuple[Result, Fitted]:
    """Fit a head on a store opened by its path, in this or another process, with `folds` out of fold too; see `fit_head`."""
    rows, features = read_once(place, head, asked)
    result, fitted = fit_head(head, features, rows, splits, asked.fitting)
    return result, fitted.finished(len(rows.class_names) if folds else None)
