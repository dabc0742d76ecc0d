"""Numba compiles our own convolutions for chains of 3x3 ones, such as VGG's: on a CPU, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .backbones import Base
from .errors import EngineError
from .frozen import Frozen
from .pooling import pool_maps
from .runtime import cores

if TYPE_CHECKING:
    import keras

    from .winograd import Convolution

# What any processor's `vectors.PANEL` divides, and the most that `vectors.ROWS` is: the same bases are taken everywhere.
_CHANNELS, _SMALLEST = 32, 14


class NumbaEngine:
    """See `features.engines.Engine`.

    Raises
    ------
    EngineError
        If the base is no chain of 3x3 convolutions and 2x2 max pools, or the processor has no AVX2.
    """

    def __init__(self, frozen: Frozen):
        if frozen.image_size < _SMALLEST:
            raise EngineError(f"numba takes images of at least {_SMALLEST} px; got {frozen.image_size}.")
        layers, places = _read_chain(frozen.base)
        from .winograd import Chain

        self._frozen, self._places = frozen, places
        self._chain = Chain(layers, cores(), frozen.batch_size, frozen.image_size, set(places.values()))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.Engine.run`."""
        frozen = self._frozen
        maps = self._chain.run(np.asarray(frozen.base.preprocess(images.astype(np.float32)), np.float32))
        features = {layer: maps[place] for layer, place in self._places.items()}
        if frozen.pool == "none":
            return features
        return {layer: pool_maps(values, frozen.pool) for layer, values in features.items()}


def _read_chain(base: Base) -> tuple[list[Convolution | None], dict[str, int]]:
    """Return a base's convolutions and pools (None) in their order, and the place of each layer that is asked for."""
    chain: list[Convolution | None] = []
    places: dict[str, int] = {}
    last = base.model.inputs[0]
    for layer in base.model.layers[1:]:
        if layer.input is not last:
            raise EngineError(f"numba takes chains of layers alone; {layer.name} comes after another branch.")
        chain.append(_read_layer(layer, first=not chain))
        last = layer.output
        places |= {name: len(chain) - 1 for name, output in base.model.output.items() if output is last}
    return chain, places


def _read_layer(layer: keras.Layer, first: bool) -> Convolution | None:
    config, kind = layer.get_config(), type(layer).__name__
    if kind == "MaxPooling2D" and not first:
        wanted: dict[str, Any] = {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}
        if all(config[name] == value for name, value in wanted.items()):
            return None
    if kind == "Conv2D":
        wanted = {
            "kernel_size": (3, 3), "strides": (1, 1), "padding": "same", "dilation_rate": (1, 1), "groups": 1,
            "activation": "relu",
        }  # fmt: skip
        if all(config[name] == value for name, value in wanted.items()) and config["filters"] % _CHANNELS == 0:
            kernel, *bias = layer.get_weights()
            return kernel, bias[0] if bias else np.zeros(config["filters"], np.float32)
    raise EngineError(
        f"numba takes 3x3 convolutions to a multiple of {_CHANNELS} channels with ReLU, and 2x2 max pools; "
        f"{layer.name} is none."
    )
