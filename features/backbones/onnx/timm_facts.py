"""What timm says of its models: size, normalisation, fit and rule of resizing; it is asked once for each, and the answer kept."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version

from ...errors import RequestError, called, missing_extra
from ...images.fitting import crop_of
from ...images.image_spec import RESIZE_RULES
from ...runtime.keras_runtime import import_torch
from ...runtime.user_cache import recall, remember
from ...runtime.versions import own_source
from ..normalisation import Normalisation

PREFIX = "timm:"


@dataclass(frozen=True)
class Facts:
    """What timm says of a model, apart from its weights.

    Attributes
    ----------
    side : int
        Of the images that it was trained on, in pixels.
    normalisation : str
        See `Normalisation.of`.
    fit : str
        ``crop:SHARE`` for a model that timm tests on the middle of images, ``pad`` for one that it tests on whole images with a
        border; else ``stretch``.
    resize : str
        The rule by which timm resizes; ``bilinear`` if it states none of ``RESIZE_RULES``.
    fixed : bool
        Whether it must be built for the size of its images, as those with embedded positions must.
    """

    side: int
    normalisation: str
    fit: str
    resize: str
    fixed: bool


@functools.cache
def find_facts(name: str) -> Facts:
    """Return what timm says of ``timm:NAME``; without importing timm, once it was asked.

    Raises
    ------
    RequestError
        If timm has no such model, or is not installed.
    """
    for package in ("torch", "timm"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "torch", f"the backbone {name}")
    key = {"name": name, "timm": version("timm"), "source": own_source()}
    held = recall("timm", key)
    if held is None:
        held = asdict(_ask(name.removeprefix(PREFIX)))
        remember("timm", key, held)
    return Facts(**held)


def _ask(model: str) -> Facts:
    import_torch()
    import timm

    # timm would also take names of folders and of hubs, such as hf-hub:NAME.
    if not re.fullmatch(r"[\w.]+", model) or not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.3)
        raise RequestError(
            f"{called('backbone')} must be a model of timm {version('timm')}; got {PREFIX}{model}. Nearest: "
            f"{', '.join(PREFIX + each for each in near) or 'none'}. All: python -c 'import timm; print(timm.list_models())'"
        )
    try:
        told = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        tags = [each for each in timm.list_models(pretrained=True) if each.split(".")[0] == model.split(".")[0]]
        raise RequestError(
            f"{called('backbone')} must name weights that timm knows; got {PREFIX}{model}. Take one of: {', '.join(PREFIX + each for each in tags)}"
        ) from error
    channels, height, width = told.input_size
    if channels != 3 or height != width:
        raise RequestError(
            f"{called('backbone')} must take square RGB images; {PREFIX}{model} takes {channels}x{height}x{width}. Take another model."
        )
    normalisation = Normalisation(mean=tuple(told.mean), std=tuple(told.std))
    fit = {"center": crop_of(told.crop_pct), "border": "pad"}.get(told.crop_mode, "stretch")
    resize = told.interpolation if told.interpolation in RESIZE_RULES else "bilinear"
    return Facts(height, str(normalisation), fit, resize, bool(told.fixed_input_size))
