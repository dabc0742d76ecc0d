"""What a source's images have in common that decides how they are read, found while their files are hashed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np

from ..errors import UnreadableImage, counted
from .bounds import MAX_PIXELS
from .decoding import opened
from .formats import HEAD, format_of
from .image_spec import ALL_BITS

_DEEP = ("PNG", "TIFF", "JPEG2000")  # formats whose values may have more than 8 bits


class Survey:
    """Counts of images; threads may add to it at once.

    Parameters
    ----------
    values : bool
        Look for the largest value of images of more than 8 bits, which decodes these.
    max_pixels : int
        See `ImageSpec`.

    Attributes
    ----------
    deep, largest : int
        Images of more than 8 bits, and their largest value.
    cut : int
        PNGs of 16 bits in colour, or grey with transparency, of which Pillow reads the highest eight.
    paged : int
        TIFFs of several pages.
    """

    def __init__(self, values: bool, max_pixels: int = MAX_PIXELS):
        self._values, self._max_pixels, self._lock = values, max_pixels, threading.Lock()
        self.deep, self.largest, self.cut, self.paged = 0, 0, 0, 0

    def look(self, data: bytes) -> None:
        """Add an image file's bytes."""
        kind = format_of(data[:HEAD])
        if kind not in _DEEP or (kind == "PNG" and data[24:25] != b"\x10"):  # its bit depth; 16
            return
        largest = 0
        try:
            with opened(data, self._max_pixels) as image:
                deep, pages = image.mode.startswith("I;16"), getattr(image, "n_frames", 1) if kind == "TIFF" else 1
                if deep and self._values:
                    with contextlib.suppress(Exception):  # as below: whatever a plugin raises for a broken file
                        largest = int(np.asarray(image.convert("I")).max())
        except UnreadableImage:
            return  # the pass tells why
        with self._lock:
            self.deep += deep
            self.largest = max(self.largest, largest)
            self.cut += kind == "PNG" and not deep
            self.paged += pages > 1

    @property
    def range(self) -> str:
        """The range of the bits in use."""
        return f"{max(8, self.largest.bit_length())}-bit" if self.deep else ALL_BITS

    def describe(self) -> Iterator[str]:
        """Yield what one should know, as text."""
        if self.deep and self._values:
            yield f"{counted(self.deep, 'image')} with values of more than 8 bits, the largest {self.largest}: read as {self.range}"
        if self.cut:
            yield f"{self.cut} PNGs in colour or with transparency have 16 bits per channel, of which the highest eight are read"
        if self.paged:
            yield f"{self.paged} TIFFs have several pages, of which the first is read"
