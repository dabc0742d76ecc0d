"""Pillow's resizing built from Keras operations, for images of any size, so that it can be part of a model.

Pillow resizes in two passes, one per direction, in integer arithmetic, and rounds to integers after each (`Resample.c`). Here
each pass is a matrix product with weights that are computed from the image size and rounded as Pillow rounds them. float64
represents all values exactly, so the results equal Pillow's. Keras' own Resizing does not round between passes, differs by one
level in 8 to 20 % of all values, and cannot be exported to ONNX if antialiased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from features.runtime.keras_runtime import import_keras

_ONE = float(1 << 22)  # Pillow's PRECISION_BITS

if TYPE_CHECKING:
    import keras


def resize_as_pillow(images: keras.KerasTensor, size: int, rule: str) -> keras.KerasTensor:
    """Resize images to a square.

    Parameters
    ----------
    images : KerasTensor of shape (n, h, w, 3)
        Integers from 0 to 255.
    size : int
        Side of the square, in pixels.
    rule : str
        A key of ``images.RESIZE``.

    Returns
    -------
    resized : KerasTensor of shape (n, size, size, 3), float32
        Integers from 0 to 255.
    """
    ops = import_keras().ops
    images = ops.cast(images, "float64")
    ones_down, ones_across = ops.ones_like(images[:1, :, 0, 0]), ops.ones_like(images[:1, 0, :, 0])
    down, across = _weights(ones_down, size, rule), _weights(ones_across, size, rule)

    def pass_down(each: Any) -> Any:
        return _whole_levels(ops.einsum("nhwc,oh->nowc", each, down))

    def pass_across(each: Any) -> Any:
        return _whole_levels(ops.einsum("nhwc,ow->nhoc", each, across))

    # Pillow 13 resizes horizontally first, unless the vertical pass removes more than twice as many rows as the horizontal
    # pass removes columns.
    higher, wider = (ops.reshape(ops.sum(ones), (1, 1, 1, 1)) - size for ones in (ones_down, ones_across))
    down_first = ops.greater(higher, ops.maximum(2.0 * wider, 0.0))
    resized = ops.where(down_first, pass_across(pass_down(images)), pass_down(pass_across(images)))
    return ops.cast(resized, "float32")


def _weights(ones: Any, size: int, rule: str) -> Any:
    """Return the weight of each input pixel in each output pixel, (size, n), in units of 1 / _ONE, given n ones, (1, n)."""
    ops = import_keras().ops
    # TensorFlow's graph optimizer replaces division by a constant with multiplication by its reciprocal, which rounds differently.
    not_constant = size * ones[:, :1]
    pixels, scale = ops.cumsum(ones, axis=1) - 1.0, ops.sum(ones, axis=1, keepdims=True) / not_constant
    if rule == "nearest":  # Pillow accumulates the positions step by step
        centres = ops.cumsum(scale * np.r_[0.5, np.ones(size - 1)][:, None], axis=0)
        return _ONE * ops.cast(ops.equal(pixels, ops.floor(centres)), "float64")
    centres = scale * (np.arange(size)[:, None] + 0.5)
    lobes, weigh = _FILTERS[rule]
    stretched = ops.maximum(scale, 1.0)
    first, last = ops.floor(centres - lobes * stretched + 0.5), ops.floor(centres + lobes * stretched + 0.5)
    near = ops.logical_and(ops.greater_equal(pixels, first), ops.less(pixels, last))
    weights = weigh((pixels - centres + 0.5) * (1.0 / stretched)) * ops.cast(near, "float64")
    weights = weights * (1.0 / ops.sum(weights, axis=1, keepdims=True))
    return ops.sign(weights) * ops.floor(ops.absolute(weights) * _ONE + 0.5)


def _whole_levels(values: Any) -> Any:
    ops = import_keras().ops
    return ops.clip(ops.floor((values + _ONE / 2) / _ONE), 0.0, 255.0)


def _box(x: Any) -> Any:
    ops = import_keras().ops
    return ops.cast(ops.logical_and(ops.greater(x, -0.5), ops.less_equal(x, 0.5)), "float64")


def _triangle(x: Any) -> Any:
    ops = import_keras().ops
    return ops.relu(1.0 - ops.absolute(x))


def _cubic(x: Any) -> Any:
    """Keys' cubic convolution with a = -0.5."""
    ops = import_keras().ops
    x = ops.absolute(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x * -0.5 + 2.0
    return ops.where(ops.less(x, 1.0), near, ops.where(ops.less(x, 2.0), far, ops.zeros_like(x)))


def _lanczos(x: Any) -> Any:
    """Lanczos' window of three lobes."""
    ops = import_keras().ops

    def sinc(x: Any) -> Any:
        turned = ops.maximum(ops.absolute(np.pi * x), 1e-6)
        return ops.sin(turned) / turned

    return ops.where(ops.less(ops.absolute(x), 3.0), sinc(x) * sinc(x / 3.0), ops.zeros_like(x))


# Rule → support of its filter, in pixels of the smaller image, and the filter.
_FILTERS: dict[str, tuple[float, Callable[[Any], Any]]] = {
    "box": (0.5, _box), "bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic), "lanczos": (3.0, _lanczos),
}  # fmt: skip
