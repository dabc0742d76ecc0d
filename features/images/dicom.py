"""DICOM files, by the package pydicom: the first frame, in the window that the file names."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UnreadableImage
from .bounds import check_size

_GREYS = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # which pydicom gives as RGB


def read_dicom(data: bytes, most: int) -> Image.Image:
    """Return the first frame of a DICOM file of at most so many pixels: RGB, or float values whose ``info`` tells what becomes black and white.

    Raises
    ------
    UnreadableImage
        If the file holds no pixels, more than are read, or colours that are not known.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    held = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in held:
        raise UnreadableImage("a DICOM file without pixels")
    check_size(int(held.Columns), int(held.Rows), most)
    pixels, kind = np.asarray(pixel_array(held, index=0)), str(held.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        bits = int(held.RedPaletteColorLookupTableDescriptor[2])
        return Image.fromarray(_to_8_bits(apply_color_lut(pixels, held)[..., :3], bits))
    if kind in _COLOURS:
        return Image.fromarray(_to_8_bits(pixels, int(held.BitsStored)))
    if kind not in _GREYS or pixels.ndim != 2:
        raise UnreadableImage(f"a DICOM file of {kind}, which is not read")
    image = Image.fromarray(np.asarray(apply_modality_lut(pixels, held), np.float32))
    image.info["window"] = _window(held)
    image.info["inverted"] = kind == "MONOCHROME1"
    return image


def _to_8_bits(colours: np.ndarray, bits: int) -> np.ndarray:
    """Return colours of so many bits as uint8."""
    most = (1 << bits) - 1
    if colours.dtype.kind != "u" or colours.max() > most:
        raise UnreadableImage(f"a DICOM file with colours outside 0 to {most}, as its {bits} bits have it")
    return np.rint(colours * (255 / most)).astype(np.uint8)


def _window(held: Any) -> tuple[float, float]:
    """Return the values that become black and white: the file's first window, else all that its bits can hold.

    The window's ends are those of the linear function in DICOM PS3.3, C.11.2.1.2.1.
    """
    centre, width = (_first(getattr(held, name, None)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width > 1:
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    bits, signed = int(getattr(held, "BitsStored", 16)), int(getattr(held, "PixelRepresentation", 0))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    slope, start = (_first(getattr(held, name, None)) for name in ("RescaleSlope", "RescaleIntercept"))
    ends = sorted((slope or 1.0) * end + (start or 0.0) for end in (low, high))
    return ends[0], ends[1]


def _first(value: Any) -> float | None:
    """Return a number, or the first of several; None if there is none."""
    values = np.atleast_1d([] if value in (None, "") else value)
    return float(values[0]) if len(values) else None
