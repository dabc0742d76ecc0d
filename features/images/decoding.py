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

from ..errors import UnreadableImage, UnreadableNow
from .bounds import MAX_PIXELS, PillowLimit, Room, check_content, check_size
from .colour import to_srgb
from .dicom import read_dicom
from .fitting import Box, resize_to_square
from .formats import HEAD, format_of, lacking
from .image_spec import ImageSpec

# Content decides how a file is decoded. Pillow's other formats stay shut: EPS would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000")
RESIZE = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LEFT = 2  # times the asked side that scaled decoding leaves at least
MAX_BYTES = 1 << 30

# What Pillow's plugins raise for a file that is not theirs, as ``Image.open`` has it.
_OTHER = (SyntaxError, IndexError, TypeError, struct.error)
_ROOM, _PILLOW = Room(MAX_PIXELS), PillowLimit()

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
    UnreadableNow
        If there is no regular file of at most 1 GiB; pipes, sockets and devices are never opened.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableNow("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableNow(f"{status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
        with open(path, "rb") as file:
            return file.read(status.st_size)  # no more, since some files of /proc say that they are empty and never end
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableNow(f"cannot be read: {reason}") from error


def decode(data: bytes, spec: ImageSpec) -> np.ndarray:
    """Decode an image file's bytes.

    The first frame, turned upright by EXIF, as 8-bit RGB, resized to a square: grey is repeated, a palette looked up, CMYK without
    a profile taken as (1-C)(1-K); colours, transparency and values of more than 8 bits as `spec` says.

    Parameters
    ----------
    data : bytes
        The whole file.
    spec : ImageSpec

    Returns
    -------
    image : ndarray of shape (size, size, 3), uint8

    Raises
    ------
    UnreadableImage
        With the reason, if the bytes are no whole image of an accepted format.
    """
    spec.check()
    with opened(data, spec.max_pixels) as image, _reasons():
        box, orientation = _load(image, _LEFT * spec.least if spec.decode == "scaled" else None), _orientation(image)
        if box is None:
            return np.asarray(_resize(_turn_upright(image, orientation), spec))
        return np.asarray(_turn_upright(_resize(image, spec, box), orientation))


def decode_whole(data: bytes, spec: ImageSpec) -> np.ndarray:
    """Decode an image file's bytes as `decode` does, at the image's own size: (height, width, 3), uint8."""
    with opened(data, spec.max_pixels) as image:
        return upright(image, spec)


def is_reduced(data: bytes, spec: ImageSpec) -> bool:
    """Return whether `decode` with ``scaled`` decodes a file at a reduced size; reads its header alone."""
    with opened(data, spec.max_pixels) as image, _reasons():
        return _reduce(image, _LEFT * spec.least) is not None


def upright(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Return an image of Pillow's as `decode_whole` returns a file: (height, width, 3), uint8.

    Raises
    ------
    UnreadableImage
        With the reason, if its pixels cannot be loaded or have no agreed meaning.
    """
    check_size(*image.size, spec.max_pixels)
    with _reasons():
        _load(image)
        return np.asarray(_to_rgb(_turn_upright(image, _orientation(image)), spec))


@contextmanager
def opened(data: bytes, most: int) -> Iterator[Image.Image]:
    """Yield the first frame of a file of at most so many pixels, which are not loaded yet, once there is room for them."""
    if not data:
        raise UnreadableImage("empty file")
    check_content(data, most)
    with _PILLOW.raised(most):
        with _reasons():
            image = _identify(data, most)
        check_size(*image.size, most)
        with _ROOM.taken(image.width * image.height):
            yield image


def _identify(data: bytes, most: int) -> Image.Image:
    """Return what ``Image.open`` does, without its warnings of images that are not too large for us."""
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.preinit()  # the usual formats; all others take a while to import
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        found = accept is None or accept(data[:16])
        if found and not isinstance(found, str):  # a text says why the format is not supported
            with contextlib.suppress(*_OTHER):
                return factory(io.BytesIO(data), "")
    return _identify_rare(data, most)


def _identify_rare(data: bytes, most: int) -> Image.Image:
    """Return an image of a format that needs a further package."""
    name = format_of(data[:HEAD])
    if name not in ("DICOM", "HEIF"):
        raise UnidentifiedImageError
    missing = lacking(name)
    if missing is not None:
        raise UnreadableImage(missing)
    if name == "DICOM":
        return read_dicom(data, most)
    from pillow_heif import HeifImageFile

    return HeifImageFile(io.BytesIO(data), "")


def _load(image: Image.Image, least: int | None = None) -> Box | None:
    """Load an image's pixels; return where the photo is in them if they were decoded at a reduced size.

    A JPEG of at least twice `least` in both directions is reduced to no less than `least`. If the factor does not divide
    its sides, the last row and column lie only partly within the photo.
    """
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
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"no image in one of the formats {', '.join(FORMATS)}, HEIC or DICOM") from error
    except MemoryError as error:
        raise UnreadableNow("no memory to decode it") from error
    except Exception as error:
        # Pillow's plugins raise whatever a broken file leads them to (SyntaxError, struct.error, IndexError, ...).
        # The file is reported and the pass goes on, so nothing is hidden.
        raise UnreadableImage(f"broken: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _resize(image: Image.Image, spec: ImageSpec, box: Box | None = None) -> Image.Image:
    """Return an image, or the part of it in a box, as a square in RGB."""
    rule = RESIZE[spec.resize]
    if image.mode == "L" and not image.has_transparency_data:  # as of three equal channels, in a third of the time
        return _to_rgb(resize_to_square(image, spec.size, rule, spec.fit, box), spec)
    return resize_to_square(_to_rgb(image, spec), spec.size, rule, spec.fit, box)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if there is none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # a broken EXIF block says nothing about which way is up; the pixels are whole


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, spec: ImageSpec) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_levels(image, spec)).convert("RGB")
    try:
        if not image.has_transparency_data and image.mode not in ("P", "PA"):
            return _colours(image, spec).convert("RGB")
        layered = image.convert("RGBA")  # Pillow warns about palettes with transparency that become RGB at once
        colours = _colours(layered.convert("RGB"), spec)
        if spec.behind is None or not image.has_transparency_data:
            return colours
        canvas = Image.new("RGB", image.size, spec.behind)
        canvas.paste(colours, mask=layered.getchannel("A"))
        return canvas
    except ValueError as error:
        raise UnreadableImage(f"mode {image.mode} cannot be shown as RGB") from error


def _colours(image: Image.Image, spec: ImageSpec) -> Image.Image:
    return to_srgb(image) if spec.colour == "srgb" else image


def _to_levels(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Return integer or float values as uint8, (height, width)."""
    ends = spec.ends or image.info.get("window")
    if image.mode.startswith("I;16") and ends is None:
        values = np.asarray(image.convert("I"))
        bits = spec.bits or 16
        if values.max() >> bits:
            raise UnreadableImage(f"values up to {values.max()} do not fit into the range {spec.range}")
        return (values >> (bits - 8)).astype(np.uint8)
    values = np.asarray(image.convert("I") if image.mode.startswith("I;16") else image, np.float64)
    if ends is None and image.mode == "I":
        raise UnreadableImage(
            "signed or 32-bit integer pixels have no agreed range; the option range, LOW:HIGH, names it"
        )
    low, high = ends or (0.0, 1.0)
    if not np.isfinite(values).all() or (ends is None and (values.min() < low or values.max() > high)):
        raise UnreadableImage("float pixels outside 0..1 have no agreed range; the option range, LOW:HIGH, names it")
    levels = np.rint((values - low).clip(0, high - low) / (high - low) * 255).astype(np.uint8)
    return 255 - levels if image.info.get("inverted") else levels
