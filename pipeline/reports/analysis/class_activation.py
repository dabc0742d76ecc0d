"""Class activation maps: the contribution of each cell of the stored feature maps to a linear head's score."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from features.pooling import pools_of, tokens_before

_FOR, _AGAINST = (240, 120, 0), (40, 110, 255)  # evidence for a class, and against it
_SIDE = 56  # of a heat map, in pixels; the page enlarges it smoothly


def grid_of(shape: Sequence[int], pool: str) -> tuple[int, int, int] | None:
    """Return height, width and channels of the cells that a head reads; None for vectors, and tokens that have no place.

    Parameters
    ----------
    shape : sequence of int
        Of a map, tokens or a vector, for one image.
    pool : str
        How the head reads it.
    """
    if len(shape) == 3:
        height, width, channels = shape
        return height, width, channels
    if len(shape) == 1 or not set(pools_of(pool)) <= {"avg", "max"}:
        return None
    count = shape[0] - tokens_before(shape[0])
    side = math.isqrt(count)
    return (side, side, shape[1]) if side**2 == count else None


def cells_of(values: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Return features of images, of any shape, as maps, (n, h, w, channels); patches come last among tokens."""
    return values.reshape(len(values), -1)[:, -math.prod(grid) :].reshape(len(values), *grid)


def activation_maps(maps: np.ndarray, coef: np.ndarray, pool: str) -> np.ndarray:
    """Return the contribution of each cell of a feature map to each class's score.

    Class activation maps (Zhou et al. 2016, "Learning deep features for discriminative localization"), for every pooling:
    the score is the mean over cells plus the intercept. With average pooling every cell contributes, with maximum pooling
    the cell of the maximum, and with flattening each cell has its own weights.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, channels)
    coef : ndarray of shape (n_features, n_classes)
    pool : {'flatten', 'avg', 'max', 'avg+max'}
        How the maps were pooled into the head's features.

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
    """Return one class's map as a data URI of a translucent PNG: orange is evidence for the class, blue against it.

    Parameters
    ----------
    added : ndarray of shape (h, w)
    top : float
        Absolute value drawn at full strength.
    """
    smooth = Image.fromarray(added.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth) / (top or 1.0), -1, 1)
    pixels = np.empty((_SIDE, _SIDE, 4), np.uint8)
    pixels[..., :3] = np.where(strength[..., None] > 0, _FOR, _AGAINST)
    pixels[..., 3] = np.rint(np.abs(strength) * 15) * 13  # 16 levels, to make the file smaller
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def pick(labels: np.ndarray, probabilities: np.ndarray, each: int = 4) -> dict[str, list[int]]:
    """Return rows to show: the most confident mistakes, the least confident, and the most confident correct of each class.

    Parameters
    ----------
    labels : ndarray of shape (n_test,)
    probabilities : ndarray of shape (n_test, n_classes)
    each : int
        Maximum number of rows of each kind; no row occurs twice.

    Returns
    -------
    chosen : dict of str to list of int
        Title of each kind → rows.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = np.flatnonzero(predicted == labels)
    surest = right[np.argsort(-confidence[right], kind="stable")]
    rank = np.array([np.sum(labels[surest[:place]] == labels[row]) for place, row in enumerate(surest)], int)
    wrong = np.flatnonzero(predicted != labels)
    kinds = {
        "Most confident mistakes": wrong[np.argsort(-confidence[wrong], kind="stable")],
        "Least confident": np.argsort(confidence, kind="stable"),
        "Most confident and correct": surest[
            np.argsort(rank, kind="stable")
        ],  # the first of every class, then the second
    }
    taken: set[int] = set()
    chosen = {}
    for kind, order in kinds.items():
        chosen[kind] = [int(row) for row in order if int(row) not in taken][:each]
        taken |= set(chosen[kind])
    return chosen
