"""What a head is asked: how it is searched for, what it is once it is fitted, and what it says of itself.

A scikit-learn classifier is a head by its row in the registry alone; see `sklearn_heads`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..data.training_data import Pair, Sample
from .settings import Choice, Grid

if TYPE_CHECKING:
    import keras

Settings = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Saved:
    """What a fitted head is on disk, but for its classes.

    Attributes
    ----------
    told : dict
        Settings, as JSON.
    arrays : dict of str to ndarray or Stored
        Numbers. A stored one is written block by block, and read back as an array.
    estimator : estimator, optional
        A fitted one of scikit-learn's.
    path : Path
        The file that `told` was read from, for messages.
    """

    told: Mapping[str, Any]
    arrays: Mapping[str, Any]
    estimator: Any = None
    path: Path = Path("head.json")


class Classifier(ABC):
    """What a head is once it is fitted.

    Attributes
    ----------
    kind : str
        What its file calls it. Files of earlier versions are read for good.
    has_estimator : bool
        Whether an estimator of scikit-learn's is saved with it.
    classes_ : ndarray of shape (n_classes,), int
    model_ : keras.Model or None
        That of a head that learns by epochs.
    """

    kind: ClassVar[str]
    has_estimator: ClassVar[bool] = False
    classes_: np.ndarray
    model_: keras.Model | None = None

    @abstractmethod
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes), of X, (n_samples, n_features), in the order of `classes_`."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    @abstractmethod
    def to_saved(self) -> Saved:
        """Return all that `from_saved` makes the head of."""

    @classmethod
    @abstractmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> Classifier:
        """Return a head that was saved; nothing that is told may decide which code runs.

        Raises
        ------
        KeyError, ValueError, TypeError, IndexError, AttributeError, UnsafeFile
            If what was saved is no such head.
        """

    def as_layers(self, features: keras.KerasTensor) -> keras.KerasTensor | None:
        """Return probabilities, (n, n_classes), of features, (n, n_features), float32; None if layers cannot compute them."""
        return None

    def coefficients(self, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a linear head's coefficients, (n_features, n_classes), and intercepts, for features as they are."""
        raise TypeError(f"no linear head: {type(self).__name__}")


class Search(ABC):
    """Heads of one sort on one sample.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Setting → values to try.

    Attributes
    ----------
    read_as : tuple of type
        Classes that a fitted head of this sort is read back as.
    streams : {'no', 'batches', 'products'}
        How it is fitted to features that are larger than the memory: not at all, by batches of rows, or by inner products
        of all pairs of rows.
    by_epochs : bool
        Whether it learns by epochs, of which its `Choice` has the history.
    """

    read_as: ClassVar[tuple[type[Classifier], ...]]
    streams: ClassVar[Literal["no", "batches", "products"]] = "no"
    by_epochs: ClassVar[bool] = False

    def __init__(self, sample: Sample, grid: Grid):
        self.sample, self.grid = sample, grid

    @classmethod  # noqa: B027
    def warm_up(cls) -> None:
        """Import what takes long to import, before the clock starts."""

    @abstractmethod
    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the settings that are best on the images that each pair looks at."""

    @abstractmethod
    def fit(self, settings: dict[str, Any], images: np.ndarray) -> Classifier:
        """Return the head with some settings, fitted to images given by a mask."""


@dataclass(frozen=True)
class Head:
    """One entry of the registry.

    Attributes
    ----------
    searcher : type of Search
    grid : dict of str to tuple
        Setting → what is tried, rising. Of a Dense head's epochs all up to the one given.
    pool : str
        How stored feature maps become vectors unless the user says otherwise.
    views : {'rows', 'mean'}
        Whether an image's views are rows of their own, whose scores are averaged, or their features are averaged:
        for heads whose cost grows with the square of the rows.
    linear : bool
        Whether its scores are linear in the features, whatever the number of classes, and weigh them against each other, so
        that a report can show where it looked. Class means and priors, linear as they are, do not claim it.
    arguments : dict
        Further ones that `searcher` takes.
    """

    searcher: type[Search]
    grid: Grid = field(default_factory=dict)
    pool: str = "avg"
    views: Literal["rows", "mean"] = "rows"
    linear: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def search(self, sample: Sample, grid: Grid | None = None) -> Search:
        """Return the search on a sample, over the head's own grid if none is given."""
        searcher: Callable[..., Search] = self.searcher
        return searcher(sample, self.grid if grid is None else grid, **self.arguments)
