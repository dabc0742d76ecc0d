"""A frozen base, whatever library it is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .weights import Weights

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Base:
    """A frozen convolutional base, ready to run.

    Attributes
    ----------
    model : keras.Model
        From preprocessed images to a dict with the output of each of `layers`.
    layers : dict of str to tuple
        Name of each layer and the shape of its output for one image.
    preprocess : callable
        From float32 RGB in 0..255, (n, h, w, 3), to what the base was trained on.
    kinds : dict of str to str
        What each layer's output is: a member of ``KINDS``.
    weights : Weights
    library : str
        Engines that run bases of this library can run it.
    """

    model: keras.Model
    layers: dict[str, tuple[int, ...]]
    preprocess: Callable[[Any], Any]
    kinds: dict[str, str]
    weights: Weights
    library: str = "keras"
