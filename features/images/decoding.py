"""One file → upright RGB uint8 of the asked size, or the reason why not."""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import UnreadableImage, called, must_be_one_of

# Content decides how a file is decoded. Pillow's other formats stay shut: EPS would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
RESIZE = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_PIXELS = 100_000_000  # 300 MB as RGB; refused from the header, before memory is taken
MAX_BYTES = 1 << 30

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

# Sizes are checked below, with a reason that reaches the user; Pillow's own warning would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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


def decode(data: bytes, size: int, resize: str = "bilinear") -> np.ndarray:
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

    Returns
    -------
    image : ndarray of shape (size, size, 3), uint8

    Raises
    ------
    UnreadableImage
        With the reason, if the bytes are no whole image of an accepted format.
    """
    check_resize(resize)
    image = _turn_upright(_open(data))
    if image.mode == "L":  # the same bytes as of three equal channels, in a third of the time
        return np.asarray(_to_rgb(image.resize((size, size), RESIZE[resize])))
    return np.asarray(_to_rgb(image).resize((size, size), RESIZE[resize]))


def decode_whole(data: bytes) -> np.ndarray:
    """Decode an image file's bytes as `decode` does, at the image's own size: (height, width, 3), uint8."""
    return np.asarray(_to_rgb(_turn_upright(_open(data))))


def check_resize(resize: str) -> None:
    """Raise RequestError unless `resize` is a known rule."""
    if resize not in RESIZE:
        raise must_be_one_of(called("resize"), RESIZE, resize)


def _open(data: bytes) -> Image.Image:
    """Return the first frame, its pixels loaded."""
    if not data:
        raise UnreadableImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
        return image
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"no image in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels; refused as a possible decompression bomb") from error
    except Exception as error:
        # Pillow's plugins raise whatever a broken file leads them to (SyntaxError, struct.error, IndexError, ...).
        # The file is reported and the pass goes on, so nothing is hidden.
        raise UnreadableImage(f"broken: {type(error).__name__}: {error}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        orientation = 1  # a broken EXIF block says nothing about which way is up; the pixels are whole
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
