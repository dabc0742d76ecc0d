"""Colours of an image in sRGB, by the ICC profile that its file embeds."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # Pillow's mode → the colour space of a profile that fits it
_PROFILES = 64  # kept ready; a source has few different ones


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image in sRGB, as RGB or unchanged if it has no profile, that of sRGB, or one that does not fit its pixels."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in _SPACES:
        return image
    transform = _transform(profile, image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(_PROFILES)
def _transform(profile: bytes, mode: str) -> Any:
    """Return what converts pixels of this mode to sRGB; None if nothing is to be done, or the profile is broken."""
    try:
        held = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if held.profile.xcolor_space.strip() != _SPACES[mode] or _is_srgb(held):
            return None
        return ImageCms.buildTransform(held, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # as viewers do: a broken profile says nothing about colours


def _is_srgb(held: ImageCms.ImageCmsProfile) -> bool:
    return (held.profile.profile_description or "").lower().startswith("srgb")
