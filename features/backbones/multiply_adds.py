"""Multiply-adds of a base: what its convolutions and matrix products cost per image, whatever machine runs them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from ..runtime.user_cache import recall, remember
from .base import Base
from .onnx.multiply_adds import count_in_onnx

if TYPE_CHECKING:
    import keras

# Layers that apply each of their kernels once per place of their output.
_BY_PLACE = (
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
    "Dense",
)
# Products of two tensors, which no weights tell of.
_PRODUCTS = ("Attention", "AdditiveAttention", "Dot", "Einsum", "Inner", "Matmul", "Tensordot", "Vdot")


def count_multiply_adds(base: Base) -> int | None:
    """Return the multiply-adds of a base's convolutions and matrix products for one image, up to its layers.

    Additions, activations, pooling and normalisation are not counted, as is usual in published figures.

    Parameters
    ----------
    base : Base

    Returns
    -------
    count : int or None
        None if an operation of the base is none whose cost is known here.
    """
    if base.identity is None:
        return _count(base)
    kept = recall("multiply-adds", base.identity)
    if kept is None:
        kept = [_count(base)]
        remember("multiply-adds", base.identity, kept)
    return cast("int | None", kept[0])


def _count(base: Base) -> int | None:
    return count_in_onnx(base.build()) if base.is_onnx else count_in_keras(base.model)


def count_in_keras(model: keras.Model) -> int | None:
    """Return the multiply-adds of a Keras model for one image; see `count_multiply_adds`."""
    total = 0
    for layer in getattr(model, "operations", model.layers):  # which hold operations that are no layers too
        found = count_in_keras(layer) if hasattr(layer, "layers") else _count_in_layer(layer)
        if found is None:
            return None
        total += found
    return total


def _count_in_layer(layer: keras.Layer) -> int | None:
    if type(layer).__name__ in _PRODUCTS or len(layer._inbound_nodes) > 1:  # Keras has no public name for uses
        return None
    kernels = [math.prod(each.shape) for each in getattr(layer, "weights", ()) if len(each.shape) > 1]
    if not kernels:
        return 0
    if type(layer).__name__ not in _BY_PLACE or getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    return math.prod(layer.output.shape[1:-1]) * sum(kernels)
