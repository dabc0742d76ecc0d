"""Thumbnails of many images in a few sheets, which a page decodes only when it needs one of theirs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

ACROSS = 32  # thumbnails per row and column of a sheet
MOST = 20_000  # thumbnails of a page
_SIDES = ((4_000, 64), (10_000, 48), (MOST, 32))  # up to so many thumbnails, their side in pixels
_QUALITY = 72


@dataclass(frozen=True)
class Sprite:
    """Sheets of thumbnails.

    Attributes
    ----------
    sheets : tuple of str
        JPEGs of ``ACROSS`` by ``ACROSS`` thumbnails as data URIs.
    places : tuple of int
        Place of each image's thumbnail, counted row by row through all sheets; -1 if it has none.
    side : int
        In pixels.
    """

    sheets: tuple[str, ...]
    places: tuple[int, ...]
    side: int


def side_for(count: int) -> int:
    """Return the side in pixels of so many thumbnails, so that a page stays below about 20 MB."""
    return next((side for most, side in _SIDES if count <= most), _SIDES[-1][1])


def make_sprite(images: Sequence[np.ndarray | None], side: int) -> Sprite:
    """Return the sprite of images, (side, side, 3), uint8, or None."""
    usable = [image for image in images if image is not None]
    sheets = []
    for start in range(0, len(usable), ACROSS**2):
        some = usable[start : start + ACROSS**2]
        sheet = Image.new("RGB", (ACROSS * side, -(-len(some) // ACROSS) * side))
        for number, image in enumerate(some):
            sheet.paste(Image.fromarray(image), (number % ACROSS * side, number // ACROSS * side))
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=_QUALITY, optimize=True)
        sheets.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    places, next_place = [], 0
    for each in images:
        places.append(-1 if each is None else next_place)
        next_place += each is not None
    return Sprite(tuple(sheets), tuple(places), side)
