"""How an image of any shape becomes a square: stretched, cropped to its middle, or padded with black."""

from __future__ import annotations

from PIL import Image

from ..errors import called, must_be_one_of

FITS = ("stretch", "crop", "pad")
# Of the shorter side, as ImageNet's networks are tested: 224 of 256 pixels (Krizhevsky et al., 2012, section 4.1).
CROPPED = 0.875
Box = tuple[float, float, float, float]  # left, upper, right and lower, in pixels


def check_fit(fit: str) -> None:
    """Raise RequestError unless `fit` is a member of ``FITS``."""
    if fit not in FITS:
        raise must_be_one_of(called("fit"), FITS, fit)


def least_side(size: int, fit: str) -> int:
    """Return the shorter side of an image that is to be `size` pixels after `fit`."""
    return -int(-size // CROPPED) if fit == "crop" else size


def crop_box(box: Box) -> Box:
    """Return the square in the middle of a box, of ``CROPPED`` times its shorter side."""
    left, upper, right, lower = box
    width, height = right - left, lower - upper
    side = CROPPED * min(width, height)
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
    if fit == "crop":
        return image.resize((size, size), rule, crop_box(whole))
    if fit == "stretch":
        return image.resize((size, size), rule, box)
    across, down = padded_sides(whole[2] - whole[0], whole[3] - whole[1], size)
    square = Image.new(image.mode, (size, size))
    square.paste(image.resize((across, down), rule, box), ((size - across) // 2, (size - down) // 2))
    return square
