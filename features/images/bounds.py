"""What one image may cost: bounds that are checked before memory or time is spent on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UnreadableImage

MAX_PIXELS = 250_000_000  # phones take photos of 200 million
MAX_SIDE = 65_535  # JPEG's own limit; resizing a single row or column of millions of pixels takes gigabytes
MAX_SCANS = 100  # progressive JPEGs have about ten, and each is as much work as the whole image
_SOS = b"\xff\xda"  # start of scan; within a scan, FF is followed by 00 or by a restart marker (ITU-T T.81, B.1.1.5)


def check_size(width: int, height: int) -> None:
    """Refuse an image by its size in pixels.

    Raises
    ------
    UnreadableImage
    """
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"{width} x {height} pixels; refused as a possible decompression bomb, since at most {MAX_PIXELS:,} are read"
        )
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"{width} x {height} pixels; at most {MAX_SIDE:,} per side are read")


def check_content(data: bytes) -> None:
    """Refuse by their bytes images that Pillow would spend much on before it tells their size.

    Raises
    ------
    UnreadableImage
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # Pillow allocates a WebP's canvas when it opens the file
        check_size(*_webp_size(data))
    if data[:2] == b"\xff\xd8" and data.count(_SOS) > MAX_SCANS:
        raise UnreadableImage(f"a JPEG of {data.count(_SOS):,} scans; at most {MAX_SCANS} are read")


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
