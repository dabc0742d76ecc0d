"""Deterministic augmented copies of an image: view 0 is the image itself.

Cached features allow augmentation with a fixed number of views: each view is cached like an image, heads train on all views,
and predictions are averaged over an image's views.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from PIL import Image

from ..errors import RequestError, called, must_be_one_of, option

# The eight symmetries of the square, in the order of the views; for solar cells, aerial and microscope images.
_DIHEDRAL = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)
# Name → the largest number of views.
AUGMENT = {"none": 1, "hflip": 2, "dihedral": 8, "lecture": 256}
# Ranges of `lecture`, ± each: degrees, fraction of the side, and zoom factor minus one.
_ROTATE, _SHIFT, _ZOOM = 20.0, 0.1, 0.1


def check_views(views: int, augment: str) -> None:
    """Raise RequestError unless this augmentation has that many views."""
    if augment not in AUGMENT:
        raise must_be_one_of(called("augment"), AUGMENT, augment)
    if not 1 <= views <= AUGMENT[augment]:
        hint = (
            f"Name one: {option('augment', 'hflip')}, dihedral or lecture"
            if augment == "none"
            else f"Use {option('views', AUGMENT[augment])}"
        )
        raise RequestError(
            f"{called('views')} must be between 1 and {AUGMENT[augment]} with augment {augment}; got {views}. {hint}"
        )


def make_view(image: np.ndarray, augment: str, view: int, key: bytes, seed: int) -> np.ndarray:
    """Return one view of an image.

    Parameters
    ----------
    image : ndarray of shape (size, size, 3), uint8
    augment : str
        A key of ``AUGMENT``.
    view : int
        0 is the image itself.
    key : bytes
        Identifier of the image. Together with `seed` and `view` it determines a view of ``lecture``: rotated by up to 20
        degrees, shifted and zoomed by up to a tenth, possibly mirrored, with reflected borders.
    seed : int

    Returns
    -------
    view : ndarray of shape (size, size, 3), uint8
    """
    if view == 0:
        return image
    if augment != "lecture":
        turn = _DIHEDRAL[view]
        return image if turn is None else np.asarray(Image.fromarray(image).transpose(turn))
    return _distort(image, _uniforms(b"%d:%d:" % (seed, view) + key))


def _uniforms(text: bytes) -> list[float]:
    """Return five numbers in [-1, 1) that depend only on `text`."""
    words = np.frombuffer(hashlib.sha256(text).digest(), "<u4")[:5]
    return [float(word) / 2**31 - 1 for word in words]


def _distort(image: np.ndarray, numbers: list[float]) -> np.ndarray:
    size = len(image)
    angle, zoom = math.radians(_ROTATE * numbers[0]), 1 + _ZOOM * numbers[1]
    shift_x, shift_y = (_SHIFT * size * number for number in numbers[2:4])
    margin = size // 2
    padded = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric"))
    centre = margin + size / 2
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    # Maps a pixel of the view to a position in the padded image: rotate and zoom about the centre, then shift.
    place = (
        cos, sin, centre + shift_x - (cos + sin) * size / 2,
        -sin, cos, centre + shift_y - (cos - sin) * size / 2,
    )  # fmt: skip
    turned = padded.transform((size, size), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
    return np.asarray(turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if numbers[4] > 0 else turned)
