"""A frozen base, of any library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .weights import Weights

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Base:
    """A frozen convolutional base, ready to run.

    Attributes
    ----------
    build : callable
        Returns `model`; called only where the model itself is needed, since importing Keras takes seconds.
    layers : dict of str to tuple
        Layer → shape of its output for one image.
    preprocess : callable
        Maps float32 RGB in 0..255, (n, h, w, 3), to the input the base was trained on.
    kinds : dict of str to str
        Layer → kind of its output, a member of ``KINDS``.
    weights : Weights
    library : str
        Only engines for this library can run the base.
    identity : mapping, optional
        What decides the base's features, JSON-serialisable; None if what is made of the base cannot be kept for later.
    """

    build: Callable[[], keras.Model]
    layers: dict[str, tuple[int, ...]]
    preprocess: Callable[[Any], Any]
    kinds: dict[str, str]
    weights: Weights
    library: str = "keras"
    identity: Mapping[str, Any] | None = None

    @cached_property
    def model(self) -> keras.Model:
        """Maps preprocessed images to a dict with the output of each of `layers`."""
        return self.build()
