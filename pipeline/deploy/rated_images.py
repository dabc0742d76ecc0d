"""What a head tells of images, one by one and as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from features.errors import counted
from features.runtime.log import log

from ..evaluation.decisions.drift import LEAST_FOLDER, P_VALUE
from ..evaluation.decisions.novelty import Novelty
from .prediction import Predicted

_SAME = 1e-3  # novelty up to which an image is a training image itself


class Rated(NamedTuple):
    """Probabilities of an image, (n_classes,), and its novelty and its place among training images, if the run knows."""

    chances: np.ndarray
    novelty: float | None
    place: np.ndarray | None


def judge_folder(rated: Sequence[Rated], known: Novelty | None) -> tuple[int | None, float | None]:
    """Return how many images are unlike all training images, and the p-value for all of them being of their kind.

    Parameters
    ----------
    rated : sequence of Rated
    known : Novelty or None
        What the run knows of its training images.
    """
    if known is None:
        return None, None
    novelty = np.array([each.novelty for each in rated], float)
    new = [each for each in rated if each.novelty is not None and each.novelty > _SAME]
    p_value = None
    if known.drift is not None and new:
        places = np.stack([each.place for each in new if each.place is not None])
        p_value = known.drift.p_value(places, np.array([each.chances.argmax() for each in new]))
    return int(np.sum(novelty > 1)), p_value


def tell_of_folder(predicted: Predicted, known: Novelty | None) -> None:
    """Log how many images have an empty set or are unlike all training images, and warn of a folder that is not of their kind."""
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
    if predicted.drift is not None and predicted.drift < P_VALUE:
        p = "< 0.001" if predicted.drift < 0.001 else f"{predicted.drift:.3f}"
        log.warning(
            f"these images as a whole are not like the training images (p {p}), as from another camera or crop: the run's figures do "
            "not tell how well it does on them. Label some of them and test it."
        )
