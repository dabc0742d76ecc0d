"""SVMs on each layer and on all layers together; their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from features.runtime.keras_runtime import import_keras
from features.runtime.progress import Tell, untold

from ...data.training_data import Features, Pair, Sample
from ...options import METRIC
from ..contract import Classifier, Cost, Extent, Pace, Saved, Search
from ..linear_head import LinearHead
from ..settings import Choice, Grid
from .classifier import Svm
from .search import SvmSearch

if TYPE_CHECKING:
    import keras

KERNELS = ("linear", "rbf")


@dataclass(frozen=True)
class Member:
    """One member of a vote.

    Attributes
    ----------
    head : Svm or LinearHead
    first, last : int
        Its range of feature columns, `last` excluded.
    """

    head: Svm | LinearHead
    first: int
    last: int


class Vote(Classifier):
    """Heads on parts of the features; the probability of a class is the mean over the members.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    members : sequence of Member
    """

    kind = "vote"

    def __init__(self, classes: np.ndarray, members: Sequence[Member]):
        self.classes_, self.members_ = classes, tuple(members)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        return np.mean([each.head.predict_proba(X[:, each.first : each.last]) for each in self.members_], axis=0)

    def to_saved(self) -> Saved:
        """Return each member with its columns; its arrays are prefixed by its number."""
        members: list[dict[str, Any]] = []
        arrays: dict[str, Any] = {}
        for number, each in enumerate(self.members_):
            saved = each.head.to_saved()
            members.append({"kind": each.head.kind, **saved.told, "first": each.first, "last": each.last})
            arrays |= {f"{number}.{name}": array for name, array in saved.arrays.items()}
        return Saved({"members": members}, arrays)

    @classmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> Vote:
        """Return the saved head."""
        if not saved.told["members"]:
            raise ValueError("a vote must have members")
        return cls(classes, [_load_member(classes, saved, number) for number in range(len(saved.told["members"]))])

    def as_layers(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return probabilities, (n, n_classes)."""
        ops = import_keras().ops
        chances = [each.head.as_layers(features[:, each.first : each.last]) for each in self.members_]
        return ops.mean(ops.stack(chances), axis=0)


def _load_member(classes: np.ndarray, saved: Saved, number: int) -> Member:
    told, kinds = saved.told["members"][number], {each.kind: each for each in (LinearHead, Svm)}
    if told["kind"] not in kinds:
        raise ValueError("a member must be an SVM")
    named = ((name.partition("."), array) for name, array in saved.arrays.items())
    own = {name: array for (of, _, name), array in named if of == str(number)}
    head = kinds[told["kind"]].from_saved(classes, Saved(told, own, path=saved.path))
    return Member(head, int(told["first"]), int(told["last"]))


class VoteSearch(Search):
    """The SVMs on one sample, each with its own settings; see `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
        With one view per image.
    grid : dict of str to tuple
        Values of ``scale``, ``gamma``, ``C`` and ``class_weight``.
    """

    read_as = (Vote,)

    def __init__(self, sample: Sample, grid: Grid):
        super().__init__(sample, grid)
        self._members = {
            f"{kernel} {name}": (kernel, features, columns)
            for name, features, columns in _parts(sample.features)
            for kernel in KERNELS
        }

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace) -> Cost:
        """Return about how long the members take on one layer; see `SvmSearch.cost`."""
        costs = [SvmSearch.cost(extent, _grid_of(kernel, grid), pace) for kernel in KERNELS]
        return Cost(*map(sum, zip(*costs, strict=True)))

    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return each member's settings with the best metric on the images that the pairs score on."""
        chosen = {name: self._search(name).choose(pairs, metric) for name in self._members}
        return Choice(
            {name: choice.settings for name, choice in chosen.items()},
            [{"member": name, **each} for name, choice in chosen.items() for each in choice.tried],
        )

    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> Vote:
        """Return the head with the given settings, fitted to images given by a mask."""

        def tell_part(share: float) -> None:
            tell(share / len(self._members))

        members = [
            Member(self._search(name).fit(settings[name], images, tell_part), *columns)
            for name, (_, _, columns) in self._members.items()
        ]
        return Vote(members[0].head.classes_, members)

    def _search(self, name: str) -> SvmSearch:
        """Return a new search for one member; keeping the kernels of all members would fill the memory."""
        kernel, features, _ = self._members[name]
        return SvmSearch(replace(self.sample, features=features), _grid_of(kernel, self.grid))


def _grid_of(kernel: str, grid: Grid) -> Grid:
    """Return the settings of members with a kernel."""
    return {name: values for name, values in grid.items() if kernel == "rbf" or name != "gamma"}


def _parts(features: Features) -> list[tuple[str, Features, tuple[int, int]]]:
    """Return name, features and columns of each layer, and of all layers together if there are several."""
    each, ends = len(features.widths) // len(features.parts), np.cumsum(features.widths)
    found, first = [], 0
    for number, part in enumerate(features.parts):
        widths, last = features.widths[number * each : (number + 1) * each], int(ends[(number + 1) * each - 1])
        X = np.ascontiguousarray(features.matrix[:, first:last])
        found.append((part.layer, replace(features, X=X, widths=widths, parts=(part,)), (first, last)))
        first = last
    return found if len(features.parts) == 1 else [*found, ("all", features, (0, first))]
