"""A frozen base, of any library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import RequestError, must_be_one_of
from .weights import Weights


@dataclass(frozen=True)
class Base:
    """A frozen convolutional base, ready to run.

    Attributes
    ----------
    build : callable
        Returns `model`, a ``keras.Model`` or an `OnnxModel`; called only where it is needed, since importing Keras takes seconds.
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
    module : callable, optional
        For a base of PyTorch, which is an ONNX model, too: returns a ``torch.nn.Module`` from float32 RGB in 0..255, (n, h, w, 3), to a
        list of the output of each of `layers`, channels last. Its weights are random unless the argument is True.
    """

    build: Callable[[], Any]
    layers: dict[str, tuple[int, ...]]
    preprocess: Callable[[Any], Any]
    kinds: dict[str, str]
    weights: Weights
    library: str = "keras"
    identity: Mapping[str, Any] | None = None
    module: Callable[[bool], Any] | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether its model is an `OnnxModel`."""
        return self.library in ("onnx", "torch")

    @cached_property
    def model(self) -> Any:
        """The model of its `library`. Keras' maps preprocessed images to a dict with the output of each of `layers`."""
        return self.build()


def resolve_layer(layer: str, names: Sequence[str]) -> str:
    """Return the name of a layer given by name or index.

    Raises
    ------
    RequestError
        If there is no such layer.
    """
    if re.fullmatch(r"-?\d+", layer):
        if -len(names) <= int(layer) < len(names):
            return names[int(layer)]
        raise RequestError(f"layer index must be between {-len(names)} and {len(names) - 1}; got {layer}. Give a name.")
    if layer not in names:
        raise must_be_one_of("layer", names, layer)
    return layer
