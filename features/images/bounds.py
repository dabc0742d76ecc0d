"""What one image may cost: bounds that are checked before memory or time is spent on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from ..errors import RequestError, UnreadableImage, called, option

MAX_PIXELS = 250_000_000  # unless another number is asked for; phones take photos of 200 million
MAX_SIDE = 65_535  # JPEG's own limit; resizing a single row or column of millions of pixels takes gigabytes
MAX_SCANS = 100  # progressive JPEGs have about ten, and each is as much work as the whole image
_MAX_SEGMENTS = 100_000  # of a JPEG with many scans; the largest profile takes 255
_SOS, _EOI = b"\xff\xda", b"\xff\xd9"  # start of scan, end of image
# Markers that begin a segment, which says its length, and the end (ITU-T T.81, B.1.1). Without FF 00 and restarts, which stand within
# the data of a scan, and reserved markers, which libjpeg passes over when it looks for the next one.
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")


def check_max_pixels(most: int) -> None:
    """Raise RequestError unless `most` pixels are a limit that an image can have."""
    if not 1 <= most <= MAX_SIDE**2:
        raise RequestError(
            f"{called('max_pixels')} must be from 1 to {MAX_SIDE**2:,}; got {most}. Leave it out for {MAX_PIXELS:,}."
        )


def check_size(width: int, height: int, most: int) -> None:
    """Refuse an image by its size in pixels, of which `most` are allowed.

    Raises
    ------
    UnreadableImage
    """
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"{width} x {height} pixels; at most {MAX_SIDE:,} per side are read")
    if width * height > most:
        raise UnreadableImage(
            f"{width} x {height} pixels; refused as a possible decompression bomb, since at most {most:,} are read. "
            f"If it is a photo: {option('max_pixels', width * height)}"
        )


def check_content(data: bytes, most: int) -> None:
    """Refuse by their bytes images that Pillow would spend much on before it tells their size; see `check_size`.

    Raises
    ------
    UnreadableImage
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # Pillow allocates a WebP's canvas when it opens the file
        check_size(*_webp_size(data), most)
    if data[:2] == b"\xff\xd8" and data.count(_SOS) > MAX_SCANS:  # which may stand within segments, or behind the end
        _check_scans(data)


def _check_scans(data: bytes) -> None:
    """Refuse a JPEG of many scans, up to its end: videos, further images and noise stand behind that of a phone's photo."""
    at, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        found = _SEGMENT.search(data, at)
        if found is None or found[0] == _EOI:
            return
        scans += found[0] == _SOS
        if scans > MAX_SCANS:
            raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    raise UnreadableImage(f"a JPEG of more than {_MAX_SEGMENTS:,} segments")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk of a WebP file (RFC 9649, 2.5 to 2.7); 0 if it has none."""
    kind, at = data[12:16], 20
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[at + 1 : at + 5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


class Room:
    """A number of pixels that all threads together may hold while they decode.

    Parameters
    ----------
    pixels : int
    """

    def __init__(self, pixels: int):
        self._pixels, self._held, self._changed = pixels, 0, threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image, and hold it; a larger one than all room waits until it is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._pixels)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


class PillowLimit:
    """Pillow's own limit of pixels, which is one for all threads and below the photos of today's phones."""

    def __init__(self) -> None:
        self._raised: list[int] = []
        self._usual: int | None = None
        self._lock = threading.Lock()

    @contextmanager
    def raised(self, pixels: int) -> Iterator[None]:
        """Have Pillow take images of so many pixels without a warning, and put its limit back when no thread needs it."""
        with self._lock:
            if not self._raised:
                self._usual = Image.MAX_IMAGE_PIXELS
            self._raised.append(pixels)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._raised.remove(pixels)
                self._set()

    def _set(self) -> None:
        if self._usual is not None:  # None: there is no limit
            Image.MAX_IMAGE_PIXELS = max(self._usual, *self._raised) if self._raised else self._usual
