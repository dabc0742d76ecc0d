"""Converts a Keras model into a `features.engines.winograd.graph.LayerGraph`, folding what it can into convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import EngineError
from .graph import NO_PADDING, Convolution, FeatureMap, LayerGraph, Operation, Padding, Pair, Pool, Sum

if TYPE_CHECKING:
    import keras


def read_layers(model: keras.Model) -> LayerGraph:
    """Read a model that maps one image to a dict of outputs.

    Raises
    ------
    EngineError
        If a layer or one of its options is not supported.
    """
    reader = _Reader(model)
    for layer in model.layers:
        reader.read(layer)
    return reader.finish()


class _Reader:
    def __init__(self, model: keras.Model):
        self._outputs = dict(model.output)
        self._uses = Counter(id(tensor) for layer in model.layers for tensor in _inputs(layer))
        self._uses.update(id(tensor) for tensor in self._outputs.values())
        self._operations: list[Operation] = []
        self._maps: list[FeatureMap] = []
        self._numbers: dict[int, int] = {}  # tensor → number of its feature map
        self._paddings: dict[int, Padding] = {}  # tensor → zeros around it
        self._joined: list[tuple[list[int], int]] = []  # feature maps to concatenate, and the result

    def read(self, layer: keras.Layer) -> None:
        kind = type(layer).__name__
        if len(layer._inbound_nodes) != 1 and kind != "InputLayer":  # Keras has no public name for it
            raise EngineError(f"numba supports only layers that are used once; {layer.name} is not.")
        if kind not in _READ:
            raise EngineError(f"numba does not support layers of type {kind}, such as {layer.name}.")
        _READ[kind](self, layer)

    def finish(self) -> LayerGraph:
        uses = Counter(source for operation in self._operations for source in operation.sources)
        uses.update(self._numbers[id(tensor)] for tensor in self._outputs.values())
        uses.update(source for sources, _ in self._joined for source in sources)
        made = {operation.y for operation in self._operations} | {number for _, number in self._joined}
        for sources, number in reversed(self._joined):
            joined = self._maps[number]
            channel = joined.channel
            for source in sources:
                depth = self._maps[source].shape[2]
                if uses[source] == 1 and source in made:
                    self._maps[source] = replace(self._maps[source], whole=joined.whole, channel=channel)
                else:
                    part = self._new((*joined.shape[:2], depth), joined.whole, channel)
                    self._insert(Sum((source,), part), number)
                channel += depth
        outputs = {name: self._numbers[id(tensor)] for name, tensor in self._outputs.items()}
        if 0 in outputs.values():
            raise EngineError("numba returns only feature maps, not the image itself.")
        return LayerGraph(self._operations, self._maps, outputs)

    def _insert(self, copy: Sum, number: int) -> None:
        """Insert a copy into a concatenation before the first operation that reads it."""
        whole = self._maps[number].whole
        readers = (
            i for i, each in enumerate(self._operations) if any(self._maps[x].whole == whole for x in each.sources)
        )
        self._operations.insert(next(readers, len(self._operations)), copy)

    def _new(self, shape: tuple[int, int, int], whole: int | None = None, channel: int = 0) -> int:
        number = len(self._maps)
        self._maps.append(FeatureMap(shape, number if whole is None else whole, channel))
        return number

    def _add(self, layer: keras.Layer, make: Callable[[int], Operation]) -> None:
        number = self._new(tuple(layer.output.shape[1:]))
        self._numbers[id(layer.output)] = number
        self._operations.append(make(number))

    def _source(self, tensor: Any) -> int:
        if id(tensor) in self._paddings:
            raise EngineError("numba supports zero padding only before convolutions and pools.")
        return self._numbers[id(tensor)]

    def _folds(self, tensor: Any) -> Convolution | Sum | None:
        """Return the operation that computes a tensor if it has only one reader and no ReLU yet."""
        if self._uses[id(tensor)] != 1 or id(tensor) in self._paddings:
            return None
        number = self._numbers[id(tensor)]
        made = next((each for each in self._operations if each.y == number), None)
        return None if made is None or isinstance(made, Pool) or made.relu else made

    def _fold(self, layer: keras.Layer, old: Operation, new: Operation, last: bool = False) -> None:
        place = self._operations.index(old)
        self._operations[place : place + 1] = [] if last else [new]
        self._operations += [new] * last
        self._numbers[id(layer.output)] = new.y

    def _read_image(self, layer: keras.Layer) -> None:
        self._numbers[id(layer.output)] = self._new(tuple(layer.output.shape[1:]))

    def _read_convolution(self, layer: keras.Layer) -> None:
        config = layer.get_config()
        _want(layer, data_format="channels_last", dilation_rate=(1, 1), groups=1, activation=("linear", "relu"))
        kernel, *bias = layer.get_weights()
        source, padding = self._with_padding(layer, config, kernel.shape[:2])
        shift = bias[0] if bias else np.zeros(config["filters"], np.float32)
        relu = config["activation"] == "relu"
        self._add(layer, lambda y: Convolution(source, y, kernel, shift, tuple(config["strides"]), padding, relu))

    def _read_pool(self, layer: keras.Layer) -> None:
        config = layer.get_config()
        _want(layer, data_format="channels_last")
        window, strides = tuple(config["pool_size"]), tuple(config["strides"])
        source, padding = self._with_padding(layer, config, window)
        zeros, mean = id(layer.input) in self._paddings, type(layer).__name__.startswith("Average")
        self._add(layer, lambda y: Pool(source, y, window, strides, padding, mean, zeros))

    def _with_padding(self, layer: keras.Layer, config: dict[str, Any], window: Pair) -> tuple[int, Padding]:
        given = self._paddings.get(id(layer.input), NO_PADDING)
        if config["padding"] == "same":
            if given != NO_PADDING:
                raise EngineError(f"numba does not support zero padding before {layer.name}, which pads itself.")
            sides = zip(layer.input.shape[1:3], config["strides"], window, strict=True)
            down, across = (_same(size, stride, taps) for size, stride, taps in sides)
            given = (down, across)
        return self._numbers[id(layer.input)], given

    def _read_padding(self, layer: keras.Layer) -> None:
        if id(layer.input) in self._paddings or any(layer.output is tensor for tensor in self._outputs.values()):
            raise EngineError(f"numba supports zero padding only before convolutions and pools; {layer.name} is not.")
        self._numbers[id(layer.output)] = self._numbers[id(layer.input)]
        down, across = layer.get_config()["padding"]
        self._paddings[id(layer.output)] = (tuple(down), tuple(across))

    def _read_norm(self, layer: keras.Layer) -> None:
        _want(layer, axis=(-1, 3, [-1], [3]))
        scale, shift = _affine(layer)
        old = self._folds(layer.input)
        if isinstance(old, Convolution) and old.residual is None:
            kernel, bias = old.kernel * scale, old.bias * scale + shift  # in float64
            new = replace(old, kernel=kernel.astype(np.float32), bias=bias.astype(np.float32))
            self._fold(layer, old, new)
        else:
            source, scale, shift = self._source(layer.input), scale.astype(np.float32), shift.astype(np.float32)
            self._add(layer, lambda y: Sum((source,), y, scale, shift))

    def _read_relu(self, layer: keras.Layer) -> None:
        if type(layer).__name__ == "Activation":
            _want(layer, activation="relu")
        else:
            _want(layer, max_value=None, negative_slope=0, threshold=0)
        old = self._folds(layer.input)
        if old is None:
            source = self._source(layer.input)
            self._add(layer, lambda y: Sum((source,), y, relu=True))
        else:
            self._fold(layer, old, replace(old, relu=True))

    def _read_sum(self, layer: keras.Layer) -> None:
        tensors = list(layer.input)
        if len({tuple(tensor.shape) for tensor in tensors}) != 1:
            raise EngineError(f"numba adds only maps of equal size; {layer.name} adds unequal ones.")
        if len(tensors) != 2:
            raise EngineError(f"numba adds exactly two maps; {layer.name} adds {len(tensors)}.")
        for one, other in (tensors[::-1], tensors):
            old = self._folds(one)
            if isinstance(old, Convolution) and old.residual is None:
                self._fold(layer, old, replace(old, residual=self._source(other)), last=True)
                return
        sources = tuple(map(self._source, tensors))
        self._add(layer, lambda y: Sum(sources, y))

    def _read_scaled_sum(self, layer: keras.Layer) -> None:
        """Read InceptionResNetV2's own layer: the sum of a map and a scaled map."""
        one, other = layer.input
        old = self._folds(other)
        if not isinstance(old, Convolution) or old.residual is not None or one is other:
            raise EngineError(f"numba scales only a convolution's output; {layer.name} scales another.")
        scale = np.float32(layer.scale)
        scaled = replace(old, kernel=old.kernel * scale, bias=old.bias * scale, residual=self._source(one))
        self._fold(layer, old, scaled, last=True)

    def _read_concatenation(self, layer: keras.Layer) -> None:
        _want(layer, axis=(-1, 3))
        number = self._new(tuple(layer.output.shape[1:]))
        self._numbers[id(layer.output)] = number
        self._joined.append(([self._source(tensor) for tensor in layer.input], number))


_READ: dict[str, Callable[[_Reader, Any], None]] = {
    "InputLayer": _Reader._read_image,
    "Conv2D": _Reader._read_convolution,
    "MaxPooling2D": _Reader._read_pool,
    "AveragePooling2D": _Reader._read_pool,
    "ZeroPadding2D": _Reader._read_padding,
    "BatchNormalization": _Reader._read_norm,
    "Activation": _Reader._read_relu,
    "ReLU": _Reader._read_relu,
    "Add": _Reader._read_sum,
    "CustomScaleLayer": _Reader._read_scaled_sum,
    "Concatenate": _Reader._read_concatenation,
}


def _inputs(layer: keras.Layer) -> list[Any]:
    return (
        [] if type(layer).__name__ == "InputLayer" else layer.input if isinstance(layer.input, list) else [layer.input]
    )


def _want(layer: keras.Layer, **wanted: Any) -> None:
    """Raise EngineError unless each option of a layer equals the wanted value, or is one of the wanted values."""
    config = layer.get_config()
    for name, values in wanted.items():
        value = tuple(config[name]) if name == "dilation_rate" else config[name]
        if value != values and not (isinstance(values, tuple) and value in values):
            raise EngineError(
                f"numba does not support {type(layer).__name__} with {name} {value!r}, such as {layer.name}."
            )


def _same(size: int, stride: int, taps: int) -> Pair:
    """Return TensorFlow's padding 'same', with any odd zero after the values."""
    missing = max((-(-size // stride) - 1) * stride + taps - size, 0)
    return missing // 2, missing - missing // 2


def _affine(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return a BatchNormalization's scale and shift, float64."""
    weights = {weight.name: np.asarray(weight, np.float64) for weight in layer.weights}
    scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + layer.epsilon)
    return scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale
