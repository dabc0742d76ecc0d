"""Heads from scikit-learn: any estimator, on scaled features."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, ClassifierMixin, is_classifier
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from features.errors import RequestError, counted, option
from features.runtime.progress import Tell, untold

from ..data.training_data import Pair, Sample
from ..options import METRIC
from .calibration import CalibratedSearch, ScoreJudge, Sigmoids
from .contract import Classifier, Cost, Extent, Pace, Saved
from .linear_head import LinearHead
from .settings import Choice, Grid, Judge, Output, Rating, best_of, combinations

Make = Callable[..., Any]
# Functions per distance, probability, feature, score, and bin of a leaf.
_NEIGHBOUR, _CHANCE, _MEAN, _SIGMOIDS, _BIN = 10, 100, 10, 450, 7
_GLANCE = 1  # seconds between looks at how far an estimator is
# Boosting fits a tree for each class in each round: estimator → its number of rounds.
_ROUNDS = {HistGradientBoostingClassifier: "max_iter", GradientBoostingClassifier: "n_estimators"}
MAX_TREES = 10_000  # 100 rounds of 100 classes; more take hours to fit, and many seconds to read back


class NearestMean(ClassifierMixin, BaseEstimator):
    """Predicts the class with the nearest mean. scikit-learn's NearestCentroid refuses constant features.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    means_ : ndarray of shape (n_classes, n_features)
    """

    def fit(self, X: np.ndarray, y: np.ndarray) -> NearestMean:
        """Fit to X, (n_samples, n_features), and y, (n_samples,)."""
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == name].mean(axis=0, dtype=np.float64) for name in self.classes_])
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the negative squared distance to each mean, (n_samples, n_classes); for two classes, second minus first.

        Distances of a row omit the row's own squared length, which is the same for all classes.
        """
        nearness = 2 * X @ self.means_.T - (self.means_**2).sum(axis=1)
        return nearness[:, 1] - nearness[:, 0] if len(self.classes_) == 2 else nearness

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]


class Neighbours(KNeighborsClassifier):
    """Nearest neighbours by cosine distance, none of whose probabilities is 0, since one mistake would then cost any log loss.

    One more neighbour is shared among the classes: the mean of a proportion under Perks' prior (Perks 1947, "Some observations on
    inverse probability including a new indifference rule").
    """

    def __init__(self, n_neighbors: int = 5):
        super().__init__(n_neighbors, metric="cosine")

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        k = self.n_neighbors
        return (super().predict_proba(X) * k + 1 / len(self.classes_)) / (k + 1)


class ScaledEstimator(Classifier):
    """A fitted scikit-learn classifier on scaled features.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scale_ : ndarray of shape (n_features,)
        Features are divided by it.
    estimator_ : estimator
    sigmoids_ : Sigmoids or None
        Calibration of an estimator without ``predict_proba``.
    """

    kind = "estimator"
    has_estimator = True

    def __init__(self, estimator: Any, scale: np.ndarray, sigmoids: Sigmoids | None = None):
        self.classes_, self.scale_, self.estimator_, self.sigmoids_ = estimator.classes_, scale, estimator, sigmoids

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        if self.sigmoids_ is None:
            return self.estimator_.predict_proba(X / self.scale_)
        return self.sigmoids_.probabilities(self.estimator_.decision_function(X / self.scale_))

    def to_saved(self) -> Saved:
        """Return the estimator, the scale and the sigmoids."""
        sigmoids = {} if self.sigmoids_ is None else self.sigmoids_.to_arrays()
        return Saved({}, {**sigmoids, "scale": self.scale_}, self.estimator_)

    @classmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> ScaledEstimator:
        """Return the saved head; its classes are those of the estimator."""
        return cls(saved.estimator, saved.arrays["scale"], Sigmoids.from_arrays(saved.arrays))


class EstimatorSearch(CalibratedSearch):
    """scikit-learn classifiers on one sample; see `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Values of ``scale`` (by default ``layer``), which comes first, and of the estimator's own parameters.
    make : callable
        ``make(**parameters)`` returns an estimator; its ``random_state``, if it has one, is set to the sample's seed.

    Raises
    ------
    RequestError
        If boosting would fit more than `MAX_TREES` trees.
    """

    read_as = (LinearHead, ScaledEstimator)

    def __init__(self, sample: Sample, grid: Grid, make: Make):
        super().__init__(sample, grid)
        self._make = make
        n_classes = len(np.unique(sample.y))
        for settings in combinations(grid):
            _check_trees(self._estimator(settings), n_classes)

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace, make: Make) -> Cost | None:
        """Return about how long neighbours, means and boosting by histograms take; of other estimators that is not known."""
        settings = combinations(grid)
        estimator = make(
            **{name: value for name, value in settings[0].items() if name not in ("scale", "class_weight")}
        )
        _check_trees(estimator, extent.classes)
        rows, features, out = extent.rows, extent.features, extent.looked_at
        if isinstance(estimator, Neighbours):
            look = (features * pace.product + _NEIGHBOUR * pace.step) * rows
            rated = rows * extent.classes * _CHANCE * pace.step
            return Cost(len(settings) * (extent.folds * look * out + rated), (look * (rows + extent.test) + rated) / 2)
        if isinstance(estimator, NearestMean):
            fit = _MEAN * rows * features * pace.step
            scores = (2 * features * pace.product + _SIGMOIDS * pace.step) * rows * extent.scores
            return Cost(len(settings) * (extent.folds * fit + scores), extent.folds * fit + scores)
        if isinstance(estimator, HistGradientBoostingClassifier):
            leaves, bins = estimator.max_leaf_nodes or 2**10, estimator.max_bins
            tree = features * (rows * math.log2(leaves) + leaves * bins * _BIN) * pace.step / pace.cores
            trees = estimator.max_iter * extent.scores
            return Cost(0 if len(settings) == 1 else len(settings) * extent.folds * trees * tree, trees * tree)
        return Cost(0, 0) if isinstance(estimator, DummyClassifier) else None

    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return the settings with the best metric on the images that the pairs score on."""
        settings = combinations(self.grid)
        if len(settings) == 1:
            return Choice(settings[0], [])
        only_scores = _gives_only_scores(self._estimator(settings[0]))
        judge = ScoreJudge(self.sample, pairs, metric) if only_scores else Judge(self.sample, pairs, metric)
        ratings: list[Rating] = []
        progress = self.progress(len(settings) * len(judge.jobs))
        for scale, those in itertools.groupby(settings, lambda each: each.get("scale", "layer")):
            X = self.sample.features.matrix / self.sample.features.scale(scale)
            # Threads, since the work is done in BLAS and compiled code, and threads share X.
            jobs = [
                delayed(_look)(self._estimator(each), X, self.sample, pair) for each in those for pair in judge.jobs
            ]
            ratings += judge.rate_all(Parallel(-1, require="sharedmem", return_as="generator")(jobs), progress)
        progress.close()
        if isinstance(judge, ScoreJudge):
            return self._choose_by(judge, settings, ratings)
        return best_of(settings, ratings, metric, judge.rows)

    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> ScaledEstimator | LinearHead:
        """Return the head with the given settings, fitted to images given by a mask.

        Raises
        ------
        RequestError
            If the estimator cannot be fitted to these images.
        """
        sample = self.sample
        scale = sample.features.scale(settings.get("scale", "layer"))

        def fit(some: np.ndarray, tell: Tell = untold) -> Any:
            estimator = self._estimator(settings)
            with _rounds_told(estimator, tell):
                return estimator.fit(sample.features.of(some) / scale, sample.labels(some))

        def score(some: np.ndarray, look: np.ndarray) -> np.ndarray:
            return fit(some).decision_function(sample.features.of(look) / scale)

        try:
            estimator = fit(images, untold if _gives_only_scores(self._estimator(settings)) else tell)
        except ValueError as error:
            raise RequestError(
                f"this head cannot be fitted to {counted(images.sum(), 'image')}: {error}. Add images, or use {option('head', 'logistic')}"
            ) from error
        sigmoids = self._calibrate(settings, images, score, tell) if _gives_only_scores(estimator) else None
        return _as_linear(estimator, scale, sigmoids) or ScaledEstimator(estimator, scale, sigmoids)

    def _estimator(self, settings: dict[str, Any]) -> Any:
        parameters = {name: value for name, value in settings.items() if name != "scale"}
        if parameters.get("class_weight") == "none":
            parameters["class_weight"] = None  # scikit-learn's name for it
        estimator = self._make(**parameters)
        return (
            estimator.set_params(random_state=self.sample.seed)
            if "random_state" in estimator.get_params()
            else estimator
        )


def _check_trees(estimator: Any, n_classes: int) -> None:
    """Refuse boosting with more trees than `MAX_TREES`."""
    rounds = next((getattr(estimator, name) for kind, name in _ROUNDS.items() if isinstance(estimator, kind)), 0)
    trees = rounds * (1 if n_classes == 2 else n_classes)
    if trees > MAX_TREES:
        raise RequestError(
            f"boosting may fit {MAX_TREES:,} trees, one per class and round; {n_classes} classes and {rounds} rounds need "
            f"{trees:,}. Use {option('head', 'logistic')}, which fits all classes at once"
        )


@contextmanager
def _rounds_told(estimator: Any, tell: Tell) -> Iterator[None]:
    """Tell how far an estimator is that counts its rounds while it is fitted, as boosting does; a thread looks at it."""
    rounds = estimator.get_params().get("max_iter")
    if tell is untold or not rounds:
        yield
        return
    ended, told = Event(), 0

    def look() -> None:
        nonlocal told
        while not ended.wait(_GLANCE):
            done = getattr(estimator, "n_iter_", 0)
            if isinstance(done, int) and done > told:
                told, new = done, done - told
                tell(new / rounds)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _as_linear(estimator: Any, scale: np.ndarray, sigmoids: Sigmoids | None) -> LinearHead | None:
    """Return the same head as coefficients of unscaled features if its scores are linear in them, else None."""
    if isinstance(estimator, RidgeClassifier | LinearDiscriminantAnalysis):
        coefficients, intercept = np.atleast_2d(estimator.coef_).T, estimator.intercept_
    elif isinstance(estimator, NearestMean):
        coefficients, intercept = 2 * estimator.means_.T, -(estimator.means_**2).sum(axis=1)
    elif isinstance(estimator, DummyClassifier):
        intercept = np.log(estimator.class_prior_)
        coefficients = np.zeros((len(scale), len(intercept)))
    else:
        return None
    if len(estimator.classes_) == 2 and coefficients.shape[1] == 2:  # one score: second class minus first
        coefficients, intercept = np.diff(coefficients), np.diff(intercept)
    return LinearHead(estimator.classes_, coefficients / scale[:, None], np.atleast_1d(intercept), sigmoids)


def find_estimator(name: str) -> Make:
    """Return a scikit-learn classifier's class by its dotted name, such as ``sklearn.naive_bayes.GaussianNB``.

    Raises
    ------
    RequestError
        If there is no such class, it is not a classifier, or it needs arguments.
    """
    module, _, attribute = name.rpartition(".")
    try:
        make = getattr(importlib.import_module(module), attribute)
        fits = is_classifier(make())
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RequestError(
            f"head must be a built-in head or a classifier's dotted name; {name!r} cannot be created: {error}. "
            f"For example {option('head', 'sklearn.naive_bayes.GaussianNB')}"
        ) from None
    if not fits:
        raise RequestError(
            f"head must be a classifier; {name!r} is not one. For example {option('head', 'sklearn.naive_bayes.GaussianNB')}"
        )
    return make


def _gives_only_scores(estimator: Any) -> bool:
    return not hasattr(estimator, "predict_proba")


def _look(estimator: Any, X: np.ndarray, sample: Sample, pair: Pair) -> Output | None:
    """Return classes, and probabilities or scores of the rows to look at; None if a setting is impossible."""
    (fit, look), views = pair, sample.features.views
    try:
        fitted = estimator.fit(X[np.repeat(fit, views)], sample.labels(fit))
        score = fitted.decision_function if _gives_only_scores(fitted) else fitted.predict_proba
        return fitted.classes_, score(X[np.repeat(look, views)])
    except ValueError:
        return None
