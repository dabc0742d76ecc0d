"""The interface of a head: its search over settings, its fitted form, and its entry in the registry.

A scikit-learn classifier needs only a row in the registry; see `sklearn_heads`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from features.runtime.progress import Progress, Shares, Tell, untold

from ..data.training_data import Pair, Sample
from ..options import METRIC
from .settings import Choice, Grid

if TYPE_CHECKING:
    import keras

DELAY = 10  # seconds after which a search, or a fit, shows its progress
Settings = Mapping[str, tuple[Any, ...]]


class Extent(NamedTuple):
    """The numbers that decide how long a head takes.

    Attributes
    ----------
    images, val, test : int
        Images to learn from, how many of them are in val, and images to test on.
    views : int
        Rows per image.
    features, classes : int
    folds : int
        How many times a head is fitted to rate a setting.
    """

    images: int
    val: int
    test: int
    views: int
    features: int
    classes: int
    folds: int

    @property
    def rows(self) -> int:
        """Rows to learn from."""
        return self.images * self.views

    @property
    def looked_at(self) -> float:
        """Rows that a fold leaves out, and rates."""
        return self.rows / self.folds if self.folds > 1 else float(self.val * self.views)

    @property
    def scores(self) -> int:
        """Scores per row."""
        return 1 if self.classes == 2 else self.classes


class Pace(NamedTuple):
    """How fast this machine computes, in seconds.

    Attributes
    ----------
    product : float
        Of a multiply-add in a product of large matrices in float32, on all cores.
    step : float
        Of a function of one number in a long array, on one core.
    cores : int
    """

    product: float
    step: float
    cores: int

    def rotation(self, rows: int, features: int) -> float:
        """Return the seconds of a rotation into the singular basis: products in float64, and a decomposition."""
        most, least = max(rows, features), min(rows, features)
        return (4 * most * least**2 + 20 * least**3) * self.product


class Cost(NamedTuple):
    """About how many seconds a head takes.

    Attributes
    ----------
    choosing : float
        For the choice of its settings.
    fitting : float
        For one fit with these.
    """

    choosing: float
    fitting: float


@dataclass(frozen=True)
class Saved:
    """The contents of a fitted head's files, except its classes.

    Attributes
    ----------
    told : dict
        JSON-serialisable settings.
    arrays : dict of str to ndarray or Stored
        A stored matrix is written block by block, and read back as an array.
    estimator : estimator, optional
        A fitted scikit-learn estimator.
    path : Path
        The file that `told` was read from, for messages.
    """

    told: Mapping[str, Any]
    arrays: Mapping[str, Any]
    estimator: Any = None
    path: Path = Path("head.json")


class Classifier(ABC):
    """A fitted head.

    Attributes
    ----------
    kind : str
        Its name in files. It never changes, so that files of earlier versions stay readable.
    has_estimator : bool
        Whether a scikit-learn estimator is saved with it.
    classes_ : ndarray of shape (n_classes,), int
    model_ : keras.Model or None
        The model of a head that is trained by epochs.
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
        """Return everything from which `from_saved` rebuilds the head."""

    @classmethod
    @abstractmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> Classifier:
        """Return a saved head. The contents of the file must not decide which code runs.

        Raises
        ------
        KeyError, ValueError, TypeError, IndexError, AttributeError, UnsafeFile
            If the saved data is not a valid head of this kind.
        """

    def as_layers(self, features: keras.KerasTensor) -> keras.KerasTensor | None:
        """Return probabilities, (n, n_classes), of features, (n, n_features), float32; None if layers cannot compute them."""
        return None

    def coefficients(self, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a linear head's coefficients, (n_features, n_classes), and intercepts, for unscaled features."""
        raise TypeError(f"not a linear head: {type(self).__name__}")


class Search(ABC):
    """Search over the settings of one head type on one sample.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Setting → values to try.

    Attributes
    ----------
    read_as : tuple of type
        Classes as which a fitted head of this type is loaded.
    streams : {'no', 'batches', 'products'}
        How the head is fitted to features larger than memory: not at all, by batches of rows, or by inner products of all
        pairs of rows.
    by_epochs : bool
        Whether the head is trained by epochs; its `Choice` then has a history.
    """

    read_as: ClassVar[tuple[type[Classifier], ...]]
    streams: ClassVar[Literal["no", "batches", "products"]] = "no"
    by_epochs: ClassVar[bool] = False

    def __init__(self, sample: Sample, grid: Grid):
        self.sample, self.grid = sample, grid

    @classmethod  # noqa: B027
    def warm_up(cls) -> None:
        """Import slow modules before timing starts."""

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace, *_: Any, **arguments: Any) -> Cost | None:
        """Return about how long the head takes, by its law: how work grows with each number; None if that is not known.

        Its factors are those that were measured; see the lab book. `arguments` are those of `Head`.

        Raises
        ------
        RequestError
            If the head would refuse so many rows or classes.
        """
        return None

    def progress(self, total: int, what: str = "heads") -> Progress:
        """Return the progress of a search that fits so many heads, or trains so many epochs, shown if it takes long."""
        return Progress(total, f"{what} of {len(self.sample.y)} images", delay=DELAY)

    def fits(self, total: int, what: str) -> Shares:
        """Return the progress of so many fits with chosen settings, shown if they take long."""
        return Shares(total, f"{what} of {len(self.sample.y)} images", delay=DELAY)

    @abstractmethod
    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return the settings with the best metric on the images that the pairs score on; see `best_of`.

        The metric is that of the probabilities which heads with these settings give, calibrated if `fit` calibrates them.
        """

    @abstractmethod
    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> Classifier:
        """Return the head with the given settings, fitted to images given by a mask; a fit that may take long tells its shares."""


@dataclass(frozen=True)
class Head:
    """One entry of the registry.

    Attributes
    ----------
    searcher : type of Search
    grid : dict of str to tuple
        Setting → values to try, in ascending order. For a Dense head's ``epochs``, every epoch up to the given one.
    pool : str
        Default pooling of stored feature maps into vectors.
    views : {'rows', 'mean'}
        ``rows``: an image's views are separate rows, and their scores are averaged. ``mean``: the views' features are
        averaged, for heads whose cost grows with the square of the number of rows.
    linear : bool
        Whether its scores are discriminative and linear in the features for any number of classes, so that a report can
        show where it looked. False for class means and priors, although they are linear.
    arguments : dict
        Further arguments of `searcher`.
    """

    searcher: type[Search]
    grid: Grid = field(default_factory=dict)
    pool: str = "avg"
    views: Literal["rows", "mean"] = "rows"
    linear: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def cost(self, extent: Extent, grid: Grid, pace: Pace) -> Cost | None:
        """Return about how long the head takes; see `Search.cost`."""
        cost: Callable[..., Cost | None] = self.searcher.cost
        return cost(extent, grid, pace, **self.arguments)

    def search(self, sample: Sample, grid: Grid | None = None) -> Search:
        """Return the search on a sample, by default over the head's own grid."""
        searcher: Callable[..., Search] = self.searcher
        return searcher(sample, self.grid if grid is None else grid, **self.arguments)
