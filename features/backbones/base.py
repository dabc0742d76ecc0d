"""A frozen base, of any library."""

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
        Maps preprocessed images to a dict with the output of each of `layers`.
    layers : dict of str to tuple
        Layer → shape of its output for one image.
    preprocess : callable
        Maps float32 RGB in 0..255, (n, h, w, 3), to the input the base was trained on.
    kinds : dict of str to str
        Layer → kind of its output, a member of ``KINDS``.
    weights : Weights
    library : str
        Only engines for this library can run the base.
    """

    model: keras.Model
    layers: dict[str, tuple[int, ...]]
    preprocess: Callable[[Any], Any]
    kinds: dict[str, str]
    weights: Weights
    library: str = "keras"
