"""How pixels become the input of a model that says nothing about it itself: scale, mean, deviation and channel order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import RequestError, called, must_be_one_of, option

Triple = tuple[float, float, float]
CHANNELS = ("rgb", "bgr")
_NUMBER = r"-?[0-9.]+(?:e[-+]?[0-9]+)?"
_TRIPLE = ",".join([_NUMBER] * 3)
_TEXT = re.compile(rf"scale=({_NUMBER}) mean=({_TRIPLE}) std=({_TRIPLE}) channels=(rgb|bgr)")


@dataclass(frozen=True)
class Normalisation:
    """Maps RGB in 0..255, channels last, to ``(pixels * scale - mean) / std``, an affine function of each channel.

    Attributes
    ----------
    scale : float
    mean, std : tuple of 3 floats
        Of the scaled pixels, in the model's order of channels.
    channels : {'rgb', 'bgr'}
        The model's order of channels.
    """

    scale: float = 1 / 255
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    channels: str = "rgb"

    @classmethod
    def of(cls, text: str) -> Normalisation:
        """Return a preset, or what `__str__` wrote.

        Raises
        ------
        RequestError
            If it is neither.
        """
        if text in PRESETS:
            return PRESETS[text]
        match = _TEXT.fullmatch(text)
        if match is None:
            raise must_be_one_of(called("preprocess"), PRESETS, text[:80])
        mean, std = (tuple(map(float, each.split(","))) for each in match.group(2, 3))
        return make_normalisation(float(match[1]), mean, std, match[4])

    def __str__(self) -> str:
        mean, std = (",".join(map(repr, each)) for each in (self.mean, self.std))
        return f"scale={self.scale!r} mean={mean} std={std} channels={self.channels}"

    @property
    def options(self) -> dict[str, Any]:
        """The options of `make_normalisation` that make it; those that are as usual are left out."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }

    @property
    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Factor and summand of each channel, in the model's order, (3,), float64."""
        std = np.array(self.std)
        return self.scale / std, -np.array(self.mean) / std

    def __call__(self, images: Any) -> Any:
        """Return the input of the model, channels last, in the dtype of `images`, (..., 3), a float."""
        factor, summand = self.affine
        ordered = images[..., ::-1] if self.channels == "bgr" else images
        return ordered * factor.astype(images.dtype) + summand.astype(images.dtype)


# imagenet: torchvision's and timm's; clip: OpenAI's CLIP; half: TensorFlow's and many of timm's ViTs, -1 to 1.
PRESETS = {
    "imagenet": Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "clip": Normalisation(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    "half": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "rescale": Normalisation(),
    "none": Normalisation(scale=1.0),
}


def make_normalisation(
    scale: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: str | None = None,
) -> Normalisation:
    """Return a normalisation from the options that are given; one number stands for all channels.

    Raises
    ------
    RequestError
        If there are not one or three numbers, or a deviation or the scale is not positive and finite.
    """
    usual = Normalisation()
    triples = {"mean": usual.mean if mean is None else mean, "std": usual.std if std is None else std}
    made: dict[str, Any] = {}
    for name, given in triples.items():
        numbers = tuple(map(float, given)) * (3 if len(given) == 1 else 1)
        if len(numbers) != 3 or not np.isfinite(numbers).all() or (name == "std" and min(numbers) <= 0):
            allowed = "one or three positive numbers" if name == "std" else "one or three numbers"
            raise RequestError(
                f"{called(name)} must be {allowed}; got {','.join(map(str, given))}. For example: {option(name, ('0.5',))}"
            )
        made[name] = numbers
    scale = usual.scale if scale is None else float(scale)
    if not (0 < scale < np.inf):
        raise RequestError(f"{called('scale')} must be above 0; got {scale}. Leave it out for 1/255.")
    if channels not in (None, *CHANNELS):
        raise must_be_one_of(called("channels"), CHANNELS, str(channels))
    return Normalisation(scale, channels=channels or usual.channels, **made)
