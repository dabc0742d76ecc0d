"""Formats of image files, recognised by their first bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import UnreadableImage

HEAD = 132  # bytes that tell every format
# Endings by which images are recognised without a look at them; the decoder is chosen by content.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
# Of ISO base media files (ISO/IEC 14496-12, 4.3), by their brands.
_AVIF, _HEIF = {b"avif", b"avis"}, {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51\0": "JPEG2000",
}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # bytes; "BM" alone also begins a text


def format_of(head: bytes) -> str | None:
    """Return the name of the format of a file that begins with these bytes, ``HEAD`` of them; None if it is no image."""
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        end = min(len(head), max(16, int.from_bytes(head[:4], "big")))
        brands = {head[at : at + 4] for at in (8, *range(16, end - 3, 4))}
        return "AVIF" if brands & _AVIF else "HEIF" if brands & _HEIF else None
    return "DICOM" if head[128:132] == b"DICM" else None


def is_image(path: str | Path) -> bool:
    """Return whether a file is an image by its ending or, if that tells nothing, by its content.

    Pipes, sockets and devices are never opened, and a file that cannot be read is none.
    """
    if os.path.splitext(path)[1].lower() in EXTENSIONS:  # noqa: PTH122 — called for every file of a source
        return True
    try:
        return format_of(read_head(path)) is not None
    except UnreadableImage:
        return False


def read_head(path: str | Path) -> bytes:
    """Return the first bytes of a regular file.

    Raises
    ------
    UnreadableImage
        With the reason, if it is no regular file or cannot be read.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UnreadableImage("not a regular file")
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error
