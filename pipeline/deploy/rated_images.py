"""What a head tells of images, one by one and as a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from features.errors import counted, listed
from features.runtime.log import log
from features.splits import NEAR_COPIES

from ..evaluation.decisions.drift import LEAST_FOLDER, P_VALUE
from ..runs.trained_run import Trained
from .prediction import Predicted

_SAME = 1e-3  # novelty up to which an image is a training image itself


class Rated(NamedTuple):
    """Probabilities of an image, (n_classes,), and its novelty and its place among training images, if the run knows."""

    chances: np.ndarray
    novelty: float | None
    place: np.ndarray | None


class Classified(NamedTuple):
    """Predictions of images that were classified together; and of each distinct content what is told of it, and its first path."""

    predicted: Predicted
    rated: Mapping[bytes, Rated]
    names: Mapping[bytes, str]


class _New(NamedTuple):
    """An image that is no training image: the folder it lies in, its predicted class, and its place."""

    folder: str
    predicted: int
    place: np.ndarray


class Folder:
    """Images that were classified, to tell of them as a whole.

    Parameters
    ----------
    trained : Trained
        The run, which may know its training images.

    Attributes
    ----------
    images, empty : int
        How many there are, and how many of them have a set without a class.
    unlike : int or None
        How many of them are unlike all training images, if the run knows these.
    """

    def __init__(self, trained: Trained):
        self._trained, self._resumed = trained, 0
        self._new: dict[bytes, _New] = {}  # by content: copies say nothing more of where images come from
        self.images, self.empty, self.unlike = 0, 0, None if trained.novelty is None else 0

    def add(self, found: Classified) -> None:
        """Add images that were classified together."""
        self._count((each.novelty, each.classes == ()) for each in found.predicted.predictions)
        for key, each in found.rated.items():
            if each.place is not None and each.novelty is not None and each.novelty > _SAME:
                folder = str(PurePath(found.names[key]).parent) if self._has_groups() else ""
                self._new.setdefault(key, _New(folder, int(each.chances.argmax()), each.place))

    def resume(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Add images that an earlier call classified, by the rows of its table; their places are not known."""
        self._count((float(row["novelty"]) if "novelty" in row else None, row.get("set") == "") for row in rows)
        self._resumed += len(rows)

    def _count(self, told: Iterable[tuple[float | None, bool]]) -> None:
        for novelty, empty in told:
            self.images += 1
            self.empty += empty
            if self.unlike is not None and novelty is not None:
                self.unlike += novelty > 1

    def tell(self) -> float | None:
        """Log how many images have an empty set or are unlike all training images, and warn of a folder not of their kind.

        Returns
        -------
        drift : float or None
            The p-value for all images being of their kind; see `Drift.p_value`.
        """
        trained, known, of = self._trained, self._trained.novelty, counted(self.images, "image")
        if self.empty and trained.sets is not None:
            log.info(
                f"empty    {self.empty} of {of} with a set without a class: less typical of each class than "
                f"{trained.sets.level:.0%} of the known images are of their own"
            )
        if known is None:
            return None
        log.info(f"unlike   {self.unlike} of {of} (novelty above 1: unlike all training images)")
        if known.drift is None:
            if self.images >= LEAST_FOLDER:
                log.info(
                    "folder   of this run cannot be compared as a whole; a run trained today, on some 100 images, can"
                )
            return None
        if self._resumed and self.images >= LEAST_FOLDER:
            log.info(
                f"folder   as a whole: the {counted(self.images - self._resumed, 'image')} of this call, without those "
                "predicted before"
            )
        drift = self._drift()
        folders = {each.folder for each in self._new.values()}
        if drift is not None and len(folders) > 1:
            log.info(f"folders  each of {len(folders)} counts as one {trained.group} of its own, as a whole")
        if drift is not None and drift < P_VALUE:
            from ..evaluation.significance import told_p  # imports scipy.stats, which takes a second

            log.warning(
                f"these images as a whole are not like the training images (p {told_p(drift)}), as from another camera or crop: the "
                "run's figures do not tell how well it does on them. Label some of them and test it."
            )
        return drift

    def _drift(self) -> float | None:
        known, new = self._trained.novelty, list(self._new.values())
        if known is None or known.drift is None or not new:
            return None
        folders = [each.folder for each in new] if self._has_groups() else None
        predicted = np.array([each.predicted for each in new])
        return known.drift.p_value(np.stack([each.place for each in new]), predicted, folders)

    def _has_groups(self) -> bool:
        """Return whether a column named each training image's group, so that a folder of new images is one, too."""
        return self._trained.group not in (None, NEAR_COPIES)


def tell_of_head(trained: Trained) -> None:
    """Log which head predicts, and how it decides."""
    log.info(f"head     {trained.name} of {trained.folder}, classes {listed(trained.class_names)}")
    if trained.point is not None:
        log.info(f"decides  {trained.point}")
    if trained.sets is not None:
        log.info(f"sets     hold the true class with probability {trained.sets.level:g}")
