"""Where a linear head looked: its score, cell by cell of the stored feature maps, without a second pass."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from features.pooling import pools_of

_FOR, _AGAINST = (240, 120, 0), (40, 110, 255)  # evidence for a class, and against it
_SIDE = 56  # of a heat map in pixels; the page enlarges it smoothly


def activation_maps(maps: np.ndarray, coef: np.ndarray, pool: str) -> np.ndarray:
    """Return how much each cell of a feature map adds to each class's score.

    Class activation maps (Zhou et al. 2016, "Learning deep features for discriminative localization"), for every way in
    which maps become vectors: the mean over cells, plus the intercept, is the score. An average takes from every cell,
    a maximum from the cell where it is, and a flattened map has weights of its own in every cell.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, channels)
    coef : ndarray of shape (n_features, n_classes)
    pool : {'flatten', 'avg', 'max', 'avg+max'}
        How the head's features were made of the maps.

    Returns
    -------
    added : ndarray of shape (n, h, w, n_classes)
    """
    n, h, w, channels = maps.shape
    cells = maps.reshape(n, h * w, channels).astype(np.float64)
    if pool == "flatten":
        added = h * w * np.einsum("npc,pck->npk", cells, coef.reshape(h * w, channels, -1))
        return added.reshape(n, h, w, -1)
    added = np.zeros((n, h * w, coef.shape[1]))
    for name, weights in zip(pools_of(pool), np.split(coef, len(pools_of(pool))), strict=True):
        if name == "avg":
            added += cells @ weights
        else:
            peaks = cells.argmax(axis=1)[:, None]
            kept = np.zeros_like(cells)
            np.put_along_axis(kept, peaks, np.take_along_axis(cells, peaks, 1), 1)
            added += h * w * (kept @ weights)
    return added.reshape(n, h, w, -1)


def heat(added: np.ndarray, top: float) -> str:
    """Return one class's map as a data URI of a half-transparent PNG: orange speaks for the class, blue against it.

    Parameters
    ----------
    added : ndarray of shape (h, w)
    top : float
        What is drawn in full strength.
    """
    smooth = Image.fromarray(added.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth) / (top or 1.0), -1, 1)
    pixels = np.empty((_SIDE, _SIDE, 4), np.uint8)
    pixels[..., :3] = np.where(strength[..., None] > 0, _FOR, _AGAINST)
    pixels[..., 3] = np.rint(np.abs(strength) * 15) * 13  # 16 steps: a fraction of the bytes
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def pick(labels: np.ndarray, probabilities: np.ndarray, each: int = 4) -> dict[str, list[int]]:
    """Return rows to look at: the surest mistakes, the least sure, and the surest that are right, class by class.

    Parameters
    ----------
    labels : ndarray of shape (n_test,)
    probabilities : ndarray of shape (n_test, n_classes)
    each : int
        At most so many of each kind; no row twice.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = np.flatnonzero(predicted == labels)
    surest = right[np.argsort(-confidence[right], kind="stable")]
    rank = np.array([np.sum(labels[surest[:place]] == labels[row]) for place, row in enumerate(surest)], int)
    wrong = np.flatnonzero(predicted != labels)
    kinds = {
        "Surest mistakes": wrong[np.argsort(-confidence[wrong], kind="stable")],
        "Least sure": np.argsort(confidence, kind="stable"),
        "Surest and right": surest[np.argsort(rank, kind="stable")],  # the surest of every class, then the second
    }
    taken: set[int] = set()
    chosen = {}
    for kind, order in kinds.items():
        chosen[kind] = [int(row) for row in order if int(row) not in taken][:each]
        taken |= set(chosen[kind])
    return chosen
