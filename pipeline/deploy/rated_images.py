"""What a head tells of images, one by one and as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from features.errors import counted
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


def judge_folder(rated: Sequence[Rated], names: Sequence[str], trained: Trained) -> tuple[int | None, float | None]:
    """Return how many images are unlike all training images, and the p-value for all of them being of their kind.

    Parameters
    ----------
    rated : sequence of Rated
    names : sequence of str
        The path of each image.
    trained : Trained
        The run, which may know its training images.
    """
    known = trained.novelty
    if known is None:
        return None, None
    novelty = np.array([each.novelty for each in rated], float)
    new = np.flatnonzero(novelty > _SAME).tolist()
    p_value = None
    if known.drift is not None and new:
        places = np.stack([place for each in new if (place := rated[each].place) is not None])
        predicted = np.array([rated[each].chances.argmax() for each in new])
        folders = [_folder_of(names[each]) for each in new] if _has_groups(trained) else None
        p_value = known.drift.p_value(places, predicted, folders)
    return int(np.sum(novelty > 1)), p_value


def _has_groups(trained: Trained) -> bool:
    """Return whether a column named each training image's group, so that a folder of new images is one, too."""
    return trained.group not in (None, NEAR_COPIES)


def _folder_of(name: str) -> str:
    return str(PurePath(name).parent)


def tell_of_folder(predicted: Predicted, trained: Trained) -> None:
    """Log how many images have an empty set or are unlike all training images, and warn of a folder that is not of their kind."""
    known = trained.novelty
    count, empty = len(predicted.predictions), sum(each.classes == () for each in predicted.predictions)
    if empty:
        log.info(
            f"empty    {empty} of {counted(count, 'image')} with a set without a class: less typical of each class than "
            f"{predicted.level:.0%} of the known images are of their own"
        )
    if known is not None:
        log.info(
            f"unlike   {predicted.unlike} of {counted(count, 'image')} (novelty above 1: unlike all training images)"
        )
        if known.drift is None and count >= LEAST_FOLDER:
            log.info("folder   of this run cannot be compared as a whole; a run trained today, on some 100 images, can")
    new = [each for each in predicted.predictions if each.novelty is not None and each.novelty > _SAME]
    folders = {_folder_of(each.path) for each in new} if _has_groups(trained) else ()
    if predicted.drift is not None and len(folders) > 1:
        log.info(f"folders  each of {len(folders)} counts as one {trained.group} of its own, as a whole")
    if predicted.drift is not None and predicted.drift < P_VALUE:
        p = "< 0.001" if predicted.drift < 0.001 else f"{predicted.drift:.3f}"
        log.warning(
            f"these images as a whole are not like the training images (p {p}), as from another camera or crop: the run's figures do "
            "not tell how well it does on them. Label some of them and test it."
        )
