"""A loaded run: the head, the features it reads, and its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import UnsafeFile
from features.store.provenance import Provenance

from ..evaluation.decisions import novelty
from ..evaluation.decisions.class_sets import ClassSets
from ..evaluation.decisions.novelty import Novelty
from ..heads.contract import Classifier
from .checksums import check_sums
from .feature_spec import Reading
from .folders import read_run
from .head_file import load_head

if TYPE_CHECKING:
    from ..evaluation.decisions.operating_point import OperatingPoint


@dataclass(frozen=True)
class Trained:
    """A loaded result of ``train_head``.

    Attributes
    ----------
    folder : Path
    name : str
        Name of the head.
    head : Classifier
    reading : Reading
    class_names : tuple of str
    store : Path
        The store on which the head was trained.
    made : Provenance
        Provenance of that store.
    settings : dict
        The head's chosen settings.
    point : OperatingPoint or None
        From which probability on an image is predicted as one of two classes; without one, the likeliest class is predicted.
    sets : ClassSets or None
        Which classes may be the true one of an image.
    novelty : Novelty or None
        How unlike all training images an image is; runs of earlier versions do not know.
    group : str or None
        The column that named each training image's group, or ``near-copies``.
    """

    folder: Path
    name: str
    head: Classifier
    reading: Reading
    class_names: tuple[str, ...]
    store: Path
    made: Provenance
    settings: dict[str, Any]
    point: OperatingPoint | None = None
    sets: ClassSets | None = None
    novelty: Novelty | None = None
    group: str | None = None

    def unlike(self, X: np.ndarray) -> np.ndarray | None:
        """Return how unlike all training images are images, (n_images,), by the features that `reading` returns."""
        if self.novelty is None:
            return None
        try:
            return self.novelty.of(self.reading.averaged(X))
        except (ValueError, IndexError) as error:
            raise self._mismatch(error) from error

    def places(self, X: np.ndarray, predicted: np.ndarray) -> np.ndarray | None:
        """Return images by the directions in which training images vary, (n_images, n_directions); see `Drift.of`."""
        if self.novelty is None or self.novelty.drift is None:
            return None
        return self.novelty.drift.of(self.novelty.unit_of(self.reading.averaged(X)), predicted)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the index of the predicted class of each row of probabilities, (n_images,)."""
        if self.point is None:
            return probabilities.argmax(axis=1)
        return self.point.decide(probabilities, self.class_names)

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_images, n_classes), from the features that `reading` returns.

        Raises
        ------
        UnsafeFile
            If the head does not match its classes or features.
        """
        try:
            return self.reading.probabilities(self.head, X, len(self.class_names))
        except (ValueError, IndexError) as error:
            raise self._mismatch(error) from error

    def _mismatch(self, error: Exception) -> UnsafeFile:
        return UnsafeFile(f"the head of {self.folder} must match its classes and features; {error}. Train it again.")


def load_trained(folder: str | Path, allow_joblib: bool = False) -> Trained:
    """Load a run; see `load_head` and `read_run` for errors."""
    told = read_run(folder)
    names = tuple(map(str, told["class_names"]))
    check_sums(Path(folder), novelty.FILE)
    return Trained(
        folder=Path(folder),
        name=told["head"],
        head=load_head(folder, allow_joblib),
        reading=Reading.from_json(told["reading"], str(folder)),
        class_names=names,
        store=Path(told["store"]),
        made=Provenance.from_json(told["provenance"], f"{folder}/run.json"),
        settings=told.get("settings") or {},
        point=_read_point(told, f"{folder}/run.json"),
        sets=told.get("sets") and ClassSets.from_json(told["sets"], names, f"{folder}/run.json"),
        novelty=Novelty.load(Path(folder), told.get("n_features")),
        group=told.get("group"),
    )


def _read_point(told: dict[str, Any], where: str) -> OperatingPoint | None:
    if told.get("operating_point") is None:
        return None
    from ..evaluation.decisions.operating_point import OperatingPoint  # imports scipy.stats, which takes a second

    return OperatingPoint.from_json(told["operating_point"], list(map(str, told["class_names"])), where)
