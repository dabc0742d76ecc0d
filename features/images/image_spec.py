"""The settings by which an image file becomes the pixels that a base sees."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import RequestError, called, must_be_one_of, option
from .bounds import MAX_PIXELS, check_max_pixels
from .fitting import check_fit, least_side

RESIZE_RULES = ("nearest", "box", "bilinear", "bicubic", "lanczos")
# `scaled`: libjpeg computes a large photo at an eighth, a quarter or a half of its size, which takes a fraction of the time.
DECODE = ("scaled", "full")
# Rules that weigh many pixels smoothly, so that after scaled decoding they give nearly the same; the others cut at pixels' edges.
SMOOTH = ("bilinear", "bicubic", "lanczos")
COLOUR = ("srgb", "ignored")
BACKGROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}
DROPPED = "none"  # as a background: transparency is dropped
ALL_BITS = "16-bit"  # as a range: of the sixteen bits, the eight highest are kept
_HEX = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})")
_BITS = re.compile(r"(8|9|1[0-6])-bit")


@dataclass(frozen=True)
class ImageSpec:
    """How an image file becomes a square of 8-bit RGB. What is not given is as before it was a setting.

    Attributes
    ----------
    size : int
        Side of the square, in pixels.
    resize : str
        A member of ``RESIZE_RULES``. All but ``nearest`` are antialiased.
    decode : str
        A member of ``DECODE``. With ``scaled``, a JPEG of at least four times `size` in both directions is decoded at the
        smallest of 1/8, 1/4 and 1/2 of its size that leaves twice `size`, and then resized. All others are decoded in full; with
        ``crop``, `size` is that of the part which is left.
    colour : str
        A member of ``COLOUR``: whether colours are converted from the file's ICC profile to sRGB.
    background : str
        What shows through transparent pixels: a key of ``BACKGROUNDS`` or ``#rrggbb``; ``none`` drops transparency.
    range : str
        Which values of more than 8 bits become 0 to 255: ``12-bit``, those of so many bits; ``LOW:HIGH``, those between, the
        others being clipped.
    fit : str
        ``stretch`` changes the shape of an image; ``crop`` takes the square in its middle, of 0.875 of the shorter side, and
        ``crop:SHARE`` of another share; ``pad`` keeps the whole image between black.
    max_pixels : int
        Larger files are refused. It decides whether there are pixels, not which, so specs that differ in it are equal.
    """

    size: int
    resize: str = "bilinear"
    decode: str = "full"
    colour: str = "ignored"
    background: str = DROPPED
    range: str = ALL_BITS
    fit: str = "stretch"
    max_pixels: int = field(default=MAX_PIXELS, compare=False)

    def check(self) -> None:
        """Raise RequestError unless all settings are allowed, and go together."""
        if self.resize not in RESIZE_RULES:
            raise must_be_one_of(called("resize"), RESIZE_RULES, self.resize)
        if self.decode not in DECODE:
            raise must_be_one_of(called("decode"), DECODE, self.decode)
        if self.decode == "scaled" and self.resize not in SMOOTH:
            raise RequestError(
                f"{called('decode')} must be full with resize {self.resize}; got scaled, which needs {', '.join(SMOOTH)}. "
                f"Use {option('decode', 'full')}"
            )
        if self.colour not in COLOUR:
            raise must_be_one_of(called("colour"), COLOUR, self.colour)
        if self.background not in (DROPPED, *BACKGROUNDS) and not _HEX.fullmatch(self.background):
            raise RequestError(
                f"{called('background')} must be {', '.join(BACKGROUNDS)}, #rrggbb or {DROPPED}; got {self.background!r}. "
                f"For instance: {option('background', '#ff8000')}"
            )
        check_fit(self.fit)
        check_max_pixels(self.max_pixels)
        if self.bits is None and self.ends is None:
            raise RequestError(
                f"{called('range')} must be 8-bit to 16-bit, or LOW:HIGH with LOW below HIGH; got {self.range!r}. "
                f"For instance: {option('range', '12-bit')} or {option('range', '0:4095')}"
            )

    @property
    def least(self) -> int:
        """The shorter side, in pixels, of an image of which `size` pixels are left."""
        return least_side(self.size, self.fit)

    @property
    def bits(self) -> int | None:
        """How many bits hold the values of an image of more than 8; None if the ends of the range are given instead."""
        match = _BITS.fullmatch(self.range)
        return None if match is None else int(match[1])

    @property
    def ends(self) -> tuple[float, float] | None:
        """The values that become 0 and 255, if they are given."""
        try:
            low, high = map(float, self.range.split(":"))
        except ValueError:
            return None
        return (low, high) if -1e30 < low < high < 1e30 else None

    @property
    def behind(self) -> tuple[int, int, int] | None:
        """The background's red, green and blue; None if transparency is dropped."""
        match = _HEX.fullmatch(self.background)
        if match is not None:
            return int(match[1], 16), int(match[2], 16), int(match[3], 16)
        return BACKGROUNDS.get(self.background)
