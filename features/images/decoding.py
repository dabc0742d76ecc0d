"""One file → upright RGB uint8 of the asked size, or the reason why not."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import RequestError, UnreadableImage, called, must_be_one_of, option
from .bounds import MAX_PIXELS, Room, check_content, check_size

# Content decides how a file is decoded. Pillow's other formats stay shut: EPS would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
RESIZE = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# `scaled`: libjpeg computes a large photo at an eighth, a quarter or a half of its size, which takes a fraction of the time.
DECODE = ("scaled", "full")
# Rules that weigh many pixels smoothly, so that after scaled decoding they give nearly the same; the others cut at pixels' edges.
SMOOTH = ("bilinear", "bicubic", "lanczos")
_LEFT = 2  # times the asked side that scaled decoding leaves at least
MAX_BYTES = 1 << 30

# What Pillow's plugins raise for a file that is not theirs, as ``Image.open`` has it.
_OTHER = (SyntaxError, IndexError, TypeError, struct.error)
_ROOM = Room(MAX_PIXELS)
Box = tuple[float, float, float, float]  # left, upper, right and lower, in pixels

# How to turn an image upright, by EXIF orientation (Exif 2.3, 4.6.4 A, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_bytes(path: str | Path) -> bytes:
    """Return the bytes of an image file.

    Raises
    ------
    UnreadableImage
        If there is no regular file of at most 1 GiB; pipes, sockets and devices are never opened.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImage(f"{status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImage(f"cannot be read: {reason}") from error


def decode(data: bytes, size: int, resize: str = "bilinear", decoding: str = "full") -> np.ndarray:
    """Decode an image file's bytes.

    The first frame, turned upright by EXIF, as 8-bit RGB, resized to a square: grey is repeated, a palette
    looked up, alpha dropped (not composited), CMYK taken as (1-C)(1-K), 16 bits scaled to 8.

    Parameters
    ----------
    data : bytes
        The whole file.
    size : int
        Side of the square, in pixels.
    resize : str
        A key of ``RESIZE``. All but ``nearest`` are antialiased.
    decoding : str
        A member of ``DECODE``. With ``scaled``, a JPEG of at least four times `size` in both directions is decoded at the
        smallest of 1/8, 1/4 and 1/2 of its size that leaves twice `size`, and then resized. All others are decoded in full.

    Returns
    -------
    image : ndarray of shape (size, size, 3), uint8

    Raises
    ------
    UnreadableImage
        With the reason, if the bytes are no whole image of an accepted format.
    """
    check_resize(resize, decoding)
    with _opened(data) as image:
        box, orientation = _load(image, _LEFT * size if decoding == "scaled" else None), _orientation(image)
        if box is None:
            return np.asarray(_resize(_turn_upright(image, orientation), size, resize))
        return np.asarray(_turn_upright(_resize(image, size, resize, box), orientation))


def decode_whole(data: bytes) -> np.ndarray:
    """Decode an image file's bytes as `decode` does, at the image's own size: (height, width, 3), uint8."""
    with _opened(data) as image:
        return upright(image)


def is_reduced(data: bytes, size: int) -> bool:
    """Return whether `decode` with ``scaled`` decodes a file at a reduced size for this side; reads its header alone."""
    with _opened(data) as image, _reasons():
        return _reduce(image, _LEFT * size) is not None


def upright(image: Image.Image) -> np.ndarray:
    """Return an image of Pillow's as `decode_whole` returns a file: (height, width, 3), uint8.

    Raises
    ------
    UnreadableImage
        With the reason, if its pixels cannot be loaded or have no agreed meaning.
    """
    check_size(*image.size)
    _load(image)
    return np.asarray(_to_rgb(_turn_upright(image, _orientation(image))))


def check_resize(resize: str, decoding: str = "full") -> None:
    """Raise RequestError unless `resize` is a known rule, and goes with this way of decoding."""
    if resize not in RESIZE:
        raise must_be_one_of(called("resize"), RESIZE, resize)
    if decoding not in DECODE:
        raise must_be_one_of(called("decode"), DECODE, decoding)
    if decoding == "scaled" and resize not in SMOOTH:
        raise RequestError(
            f"{called('decode')} must be full with resize {resize}; got scaled, which needs {', '.join(SMOOTH)}. "
            f"Use {option('decode', 'full')}"
        )


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Yield the first frame of a file, its pixels not loaded yet, once there is room for them."""
    if not data:
        raise UnreadableImage("empty file")
    check_content(data)
    with _reasons():
        image = _identify(data)
    check_size(*image.size)
    with _ROOM.taken(image.width * image.height):
        yield image


def _identify(data: bytes) -> Image.Image:
    """Return what ``Image.open`` does, but for its own limit of pixels, which is below the photos of today's phones."""
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        found = accept is None or accept(data[:16])
        if found and not isinstance(found, str):  # a text says why the format is not supported
            with contextlib.suppress(*_OTHER):
                return factory(io.BytesIO(data), "")
    raise UnidentifiedImageError


def _load(image: Image.Image, least: int | None = None) -> Box | None:
    """Load an image's pixels; return where the photo is in them if they were decoded at a reduced size.

    A JPEG of at least twice `least` in both directions is reduced to no less than `least`. If the factor does not divide
    its sides, the last row and column lie only partly within the photo.
    """
    with _reasons():
        box = _reduce(image, least) if least else None
        image.load()
        return box


def _reduce(image: Image.Image, least: int) -> Box | None:
    """Have an image decoded at a reduced size, if it is a large JPEG; see `_load`."""
    reduced = image.draft(None, (least, least)) if min(image.size) >= 2 * least else None
    return None if reduced is None else reduced[1]


@contextmanager
def _reasons() -> Iterator[None]:
    """Raise UnreadableImage, with the reason, for whatever Pillow raises."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"no image in one of the formats {', '.join(FORMATS)}") from error
    except Exception as error:
        # Pillow's plugins raise whatever a broken file leads them to (SyntaxError, struct.error, IndexError, ...).
        # The file is reported and the pass goes on, so nothing is hidden.
        raise UnreadableImage(f"broken: {type(error).__name__}: {error}") from error


def _resize(image: Image.Image, size: int, resize: str, box: Box | None = None) -> Image.Image:
    """Return an image, or the part of it in a box, as a square in RGB."""
    if image.mode == "L":  # the same bytes as of three equal channels, in a third of the time
        return _to_rgb(image.resize((size, size), RESIZE[resize], box))
    return _to_rgb(image).resize((size, size), RESIZE[resize], box)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if there is none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # a broken EXIF block says nothing about which way is up; the pixels are whole


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image.convert("I"))
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        raise UnreadableImage("32-bit integer pixels have no agreed range; convert to 8 or 16 bits")
    if image.mode == "F":
        pixels = np.asarray(image)
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise UnreadableImage("float pixels outside 0..1 have no agreed range; convert to 8 or 16 bits")
        return Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")  # by way of RGBA: Pillow warns about palettes with transparency
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise UnreadableImage(f"mode {image.mode} cannot be shown as RGB") from error
