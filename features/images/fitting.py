"""How an image of any shape becomes a square: stretched, cropped to its middle, or padded with black."""

from __future__ import annotations

import re

from PIL import Image

from ..errors import RequestError, called, must_be_one_of, option

FITS = ("stretch", "crop", "pad")  # and crop:SHARE
# Of the shorter side, as ImageNet's networks are tested: 224 of 256 pixels (Krizhevsky et al., 2012, section 4.1).
_USUAL_SHARE = 0.875
_CROP = re.compile(r"crop:(0?\.\d{1,6}|1)")
Box = tuple[float, float, float, float]  # left, upper, right and lower, in pixels


def check_fit(fit: str, name: str = "fit") -> None:
    """Raise RequestError unless `fit`, an option of this name, is a member of ``FITS``, or as `crop_of` returns it."""
    if fit in FITS:
        return
    if not fit.startswith("crop:"):
        raise must_be_one_of(called(name), FITS, fit)
    share = float(fit[5:]) if _CROP.fullmatch(fit) else 0.0
    if not share:
        raise RequestError(
            f"{called('fit')} must be crop:SHARE with a share of the shorter side, above 0 and at most 1; got {fit!r}. For instance: {option(name, 'crop:0.9')}"
        )
    if fit != crop_of(share):  # one crop has one name, by which stores are told apart
        raise RequestError(f"{called('fit')} must be {crop_of(share)}; got {fit!r}. Use {option(name, crop_of(share))}")


def crop_of(share: float) -> str:
    """Return the fit that crops to a share of the shorter side."""
    return "crop" if share == _USUAL_SHARE else f"crop:{share:.6g}"


def cropped_share(fit: str) -> float | None:
    """Return which share of the shorter side a fit leaves; None if it does not crop."""
    kind, _, share = fit.partition(":")
    return None if kind != "crop" else float(share or _USUAL_SHARE)


def least_side(size: int, fit: str) -> int:
    """Return the shorter side of an image that is to be `size` pixels after `fit`."""
    return -int(-size // (cropped_share(fit) or 1.0))


def crop_box(box: Box, share: float) -> Box:
    """Return the square in the middle of a box, of a share of its shorter side."""
    left, upper, right, lower = box
    width, height = right - left, lower - upper
    side = share * min(width, height)
    left, upper = left + (width - side) / 2, upper + (height - side) / 2
    return left, upper, left + side, upper + side


def padded_sides(width: float, height: float, size: int) -> tuple[int, int]:
    """Return width and height of an image within a square; black on both sides is equally wide."""
    longer = max(width, height)
    across, down = (size - 2 * round((size - size * each / longer) / 2) for each in (width, height))
    return max(across, 2 - size % 2), max(down, 2 - size % 2)


def resize_to_square(
    image: Image.Image, size: int, rule: Image.Resampling, fit: str = "stretch", box: Box | None = None
) -> Image.Image:
    """Return an image, or the part of it in a box, as a square of its mode."""
    whole = box or (0.0, 0.0, float(image.width), float(image.height))
    share = cropped_share(fit)
    if share is not None:
        return image.resize((size, size), rule, crop_box(whole, share))
    if fit == "stretch":
        return image.resize((size, size), rule, box)
    across, down = padded_sides(whole[2] - whole[0], whole[3] - whole[1], size)
    square = Image.new(image.mode, (size, size))
    square.paste(image.resize((across, down), rule, box), ((size - across) // 2, (size - down) // 2))
    return square
