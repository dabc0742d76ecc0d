"""The registry: name → how a head is made, which pooling and which values of its main hyper-parameter it tries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from features.errors import RequestError, must_be_one_of

from .linear import Logistic


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
        ``make(value, seed)`` returns an estimator with ``fit(X, y)``, `value` being the hyper-parameter's.
    parameter : str
        The main hyper-parameter, which is chosen on the validation split; empty if there is none.
    values : tuple
        What is tried. For a Dense head: the largest number of epochs.
    pool : str
        How stored feature maps become vectors unless the user says otherwise.
    calibrate : callable, optional
        Turns the chosen estimator into one with ``predict_proba``, if it has none.
    """

    make: Callable[[Any, int], Any]
    parameter: str = ""
    values: tuple[Any, ...] = (None,)
    pool: str = "avg"
    calibrate: Callable[[Any, np.ndarray, int], Any] | None = None


class GlobalScaler(TransformerMixin, BaseEstimator):
    """Divide all features by one number, so that rows have a mean squared length of one.

    Post-ReLU features are sparse and share one unit: scaling each by itself would blow up the rare ones. With lengths
    near one, the same values of C suit few features and many.

    Attributes
    ----------
    scale_ : float
    """

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> GlobalScaler:
        """Measure X, (n_samples, n_features)."""
        self.scale_ = float(np.sqrt(np.mean(np.square(X), dtype=np.float64) * X.shape[1])) or 1.0
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return X divided by the scale."""
        return X / np.float32(self.scale_)


def _logistic(C: float, seed: int) -> Any:
    return make_pipeline(GlobalScaler(), Logistic(C=C, max_iter=2000, random_state=seed))


def _linear_svm(C: float, seed: int) -> Any:
    return make_pipeline(GlobalScaler(), SVC(kernel="linear", C=C, random_state=seed))


def _rbf_svm(C: float, seed: int) -> Any:
    return make_pipeline(GlobalScaler(), SVC(kernel="rbf", gamma="scale", C=C, random_state=seed))


def _majority(value: None, seed: int) -> Any:
    return DummyClassifier(strategy="prior", random_state=seed)


def _dense(epochs: int, seed: int) -> Any:
    from .dense import DenseHead

    return DenseHead(epochs=epochs, seed=seed)


def _platt(estimator: Any, y: np.ndarray, seed: int) -> Any:
    """Wrap an SVM so that it gives probabilities (Platt scaling on cross-validated decision values)."""
    folds = min(5, int(np.bincount(y)[np.unique(y)].min()))
    if folds < 2:
        raise RequestError(
            "an SVM's probabilities need at least 2 training rows of each class; got 1. Add images, or use --head logistic"
        )
    # Shuffled: rows come sorted by path, so that neighbours are alike and unshuffled folds are not.
    shuffled = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return CalibratedClassifierCV(estimator, method="sigmoid", ensemble=False, cv=shuffled)


HEADS = {
    "dense": Head(_dense, "epochs", (30,), pool="flatten"),
    "logistic": Head(_logistic, "C", (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)),
    "linear-svm": Head(_linear_svm, "C", (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), calibrate=_platt),
    "rbf-svm": Head(_rbf_svm, "C", (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), calibrate=_platt),
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


def choose(head: Head, X: np.ndarray, y: np.ndarray, X_val: np.ndarray, y_val: np.ndarray, seed: int) -> Choice:
    """Fit a head for each value on the training rows and keep the best on the validation rows.

    Of equally accurate values the middle one wins, away from the cliffs at either end of a plateau. A Dense head
    takes the epoch with the lowest validation loss.

    Parameters
    ----------
    head : Head
    X, X_val : ndarray of shape (n_samples, n_features)
    y, y_val : ndarray of shape (n_samples,), int
    seed : int
    """
    if head.parameter == "epochs":
        estimator = head.make(head.values[-1], seed).fit(X, y, X_val, y_val)
        accuracies = dict(enumerate(estimator.history_["val_accuracy"], start=1))
        return Choice(estimator.best_epoch_, accuracies, estimator, estimator.history_)
    fitted = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a value that does not converge loses, or is as good
        for value in head.values:
            fitted[value] = head.make(value, seed).fit(X, y)
        accuracies = {value: float(np.mean(each.predict(X_val) == y_val)) for value, each in fitted.items()}
    equal = [value for value in accuracies if accuracies[value] == max(accuracies.values())]
    best = equal[len(equal) // 2]
    return Choice(best, accuracies, fitted[best])


def refit(head: Head, value: Any, X: np.ndarray, y: np.ndarray, seed: int) -> Classifier:
    """Fit a head with its chosen value, so that it gives probabilities."""
    estimator = head.make(value, seed)
    return (head.calibrate(estimator, y, seed) if head.calibrate else estimator).fit(X, y)
