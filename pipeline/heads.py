"""The registry: name → how a head is made, which pooling and which values of its main hyper-parameter it tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from features.errors import RequestError, must_be_one_of

from .kernel import RbfSvm, fit_rbf_path
from .linear import Logistic, block_scale, fit_path

Widths = tuple[int, ...] | None


class Classifier(Protocol):
    """What a head is once it is fitted."""

    classes_: np.ndarray

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X, (n_samples, n_features)."""
        ...

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes), in the order of `classes_`."""
        ...


@dataclass(frozen=True)
class Head:
    """One entry of the registry.

    Attributes
    ----------
    make : callable
        ``make(value, seed, widths)`` returns an estimator with ``fit(X, y)``: `value` is the hyper-parameter's, `widths`
        the number of features of each layer.
    parameter : str
        The main hyper-parameter, which is chosen on the validation split; empty if there is none.
    values : tuple
        What is tried, rising. For a Dense head: the largest number of epochs.
    pool : str
        How stored feature maps become vectors unless the user says otherwise.
    path : callable, optional
        ``path(X, y, values, widths)`` fits all values at once, where that is cheaper than one by one.
    calibrate : callable, optional
        Turns the chosen estimator into one with ``predict_proba``, if it has none.
    """

    make: Callable[[Any, int, Widths], Any]
    parameter: str = ""
    values: tuple[Any, ...] = (None,)
    pool: str = "avg"
    path: Callable[[np.ndarray, np.ndarray, Sequence[Any], Widths], Sequence[Any]] | None = None
    calibrate: Callable[[Any, np.ndarray, int, int], Any] | None = None


class BlockScaler(TransformerMixin, BaseEstimator):
    """Divide the features of each layer by one number, so that its rows have a mean squared length of one.

    Post-ReLU features are sparse and share one unit: scaling each by itself would blow up the rare ones. With lengths
    near one, the same values of C suit few features and many, and no layer drowns another.

    Parameters
    ----------
    widths : tuple of int, optional
        Number of features of each layer; one layer if left out.

    Attributes
    ----------
    scale_ : ndarray of shape (n_features,)
    """

    def __init__(self, widths: Widths = None):
        self.widths = widths

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> BlockScaler:
        """Measure X, (n_samples, n_features)."""
        self.scale_ = block_scale(X, self.widths or (X.shape[1],))
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return X divided by the scale."""
        return X / self.scale_


def _logistic(C: float, seed: int, widths: Widths) -> Any:
    return Logistic(C, widths)


def _linear_svm(C: float, seed: int, widths: Widths) -> Any:
    return make_pipeline(BlockScaler(widths), SVC(kernel="linear", C=C, random_state=seed))


def _rbf_svm(C: float, seed: int, widths: Widths) -> Any:
    return RbfSvm(C, widths)


def _majority(value: None, seed: int, widths: Widths) -> Any:
    return DummyClassifier(strategy="prior", random_state=seed)


def _dense(epochs: int, seed: int, widths: Widths) -> Any:
    from .dense import DenseHead

    return DenseHead(epochs=epochs, seed=seed)


def _platt(estimator: Any, y: np.ndarray, seed: int, views: int) -> Any:
    """Wrap an SVM so that it gives probabilities (Platt scaling on cross-validated decision values)."""
    return CalibratedClassifierCV(estimator, method="sigmoid", ensemble=False, cv=_folds(y, seed, views))


def _platt_rbf(estimator: RbfSvm, y: np.ndarray, seed: int, views: int) -> Any:
    return estimator.set_params(folds=_folds(y, seed, views))


def _folds(y: np.ndarray, seed: int, views: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows of up to five stratified folds; all views of an image are in one.

    Shuffled: rows come sorted by path, so that neighbours are alike and unshuffled folds are not.
    """
    times = min(5, int(np.bincount(y)[np.unique(y)].min()))
    if times < 2:
        raise RequestError(
            "an SVM's probabilities need at least 2 training rows of each class; got 1. Add images, or use --head logistic"
        )
    shuffled = StratifiedKFold(times, shuffle=True, random_state=seed).split(y, y)
    return [tuple((each[:, None] * views + np.arange(views)).ravel() for each in fold) for fold in shuffled]  # type: ignore[misc]


HEADS = {
    "dense": Head(_dense, "epochs", (30,), pool="flatten"),
    "logistic": Head(_logistic, "C", (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0), path=fit_path),
    "linear-svm": Head(_linear_svm, "C", (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), calibrate=_platt),
    "rbf-svm": Head(_rbf_svm, "C", (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), path=fit_rbf_path, calibrate=_platt_rbf),
    "majority": Head(_majority),
}


def check_heads(names: Sequence[str]) -> None:
    """Raise RequestError unless all are in the registry."""
    for name in names:
        if name not in HEADS:
            raise must_be_one_of("head", HEADS, name)


@dataclass(frozen=True)
class Choice:
    """A head's hyper-parameter as chosen on the validation rows, and the estimator that it was chosen by.

    Attributes
    ----------
    value : object
    accuracies : dict
        Value → validation accuracy.
    estimator : Classifier
        Fitted on the training rows alone.
    history : dict, optional
        Learning curves, of heads that train by epochs: ``{name: [value of each epoch]}``.
    """

    value: Any
    accuracies: dict[Any, float]
    estimator: Any
    history: dict[str, list[float]] | None = None


def choose(
    head: Head,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray,
    y_val: np.ndarray,
    seed: int,
    widths: Widths = None,
    views: int = 1,
) -> Choice:
    """Fit a head for each value on the training rows and keep the best on the validation rows.

    Of equally accurate values the middle one wins, away from the cliffs at either end of a plateau. A Dense head
    takes the epoch with the lowest validation loss.

    Parameters
    ----------
    head : Head
    X, X_val : ndarray of shape (n_samples * views, n_features)
        Consecutive rows are the views of one image.
    y, y_val : ndarray of shape (n_samples,), int
    seed : int
    widths : tuple of int, optional
        Number of features of each layer in X.
    views : int
    """
    labels = np.repeat(y, views)
    if head.parameter == "epochs":
        estimator = head.make(head.values[-1], seed, widths).fit(X, labels, X_val, np.repeat(y_val, views))
        accuracies = dict(enumerate(estimator.history_["val_accuracy"], start=1))
        return Choice(estimator.best_epoch_, accuracies, estimator, estimator.history_)
    if head.path:
        fitted = dict(zip(head.values, head.path(X, labels, head.values, widths), strict=True))
    else:
        fitted = {value: head.make(value, seed, widths).fit(X, labels) for value in head.values}
    accuracies = {value: float(np.mean(classify(each, X_val, views) == y_val)) for value, each in fitted.items()}
    equal = [value for value in accuracies if accuracies[value] == max(accuracies.values())]
    best = equal[len(equal) // 2]
    return Choice(best, accuracies, fitted[best])


def refit(
    head: Head, value: Any, X: np.ndarray, y: np.ndarray, seed: int, widths: Widths = None, views: int = 1
) -> Classifier:
    """Fit a head with its chosen value, so that it gives probabilities; see `choose`."""
    estimator = head.make(value, seed, widths)
    labels = np.repeat(y, views)
    return (head.calibrate(estimator, y, seed, views) if head.calibrate else estimator).fit(X, labels)


def classify(estimator: Any, X: np.ndarray, views: int) -> np.ndarray:
    """Return the class of each image, by the mean over its views of what the estimator gives for a row."""
    score = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.decision_function
    scores = score(X).reshape(len(X) // views, views, -1).mean(axis=1)
    chosen = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)
    return estimator.classes_[chosen]
