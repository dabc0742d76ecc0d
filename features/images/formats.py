"""Formats of image files, recognised by their first bytes."""

from __future__ import annotations

import importlib.util
import os
import stat
from functools import cache
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
# Formats that need a further package: its name, its module and our extra.
_PACKAGES = {"HEIF": ("pillow-heif", "pillow_heif", "heic"), "DICOM": ("pydicom", "pydicom", "dicom")}
_CALLED = {"HEIF": "HEIC"}
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


def why_no_image(path: str | Path) -> str | None:
    """Return None if a file is an image by its ending or, if that tells nothing, by its content; else the reason why it is not read.

    Pipes, sockets and devices are never opened.
    """
    if os.path.splitext(path)[1].lower() in EXTENSIONS:  # noqa: PTH122 — called for every file of a source
        return None
    try:
        name = format_of(_read_head(path))
    except UnreadableImage as error:
        return str(error)
    return "no image" if name is None else lacking(name)


def lacking(name: str) -> str | None:
    """Return which package a format needs that is not installed; None if it can be read."""
    package, module, extra = _PACKAGES.get(name, ("", "", ""))
    if not package or installed(module):
        return None
    return f"{_CALLED.get(name, name)}, which needs the package {package}: pip install -e '.[{extra}]'"


@cache
def installed(module: str) -> bool:
    """Return whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def _read_head(path: str | Path) -> bytes:
    """Return the first bytes of a regular file; raise UnreadableImage, with the reason, if there is none."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("not a regular file")
        with open(path, "rb") as file:
            return file.read(min(HEAD, status.st_size))  # as `read_bytes`
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error
