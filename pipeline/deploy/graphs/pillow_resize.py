"""Pillow's resizing built from Keras operations, for images of any size, so that it can be part of a model.

Pillow resizes in two passes, one per direction, in integer arithmetic, and rounds to integers after each (`Resample.c`). Here
each pass is a matrix product with weights that are computed from the image size and rounded as Pillow rounds them. float64
represents all values exactly, so the results equal Pillow's. Keras' own Resizing does not round between passes, differs by one
level in 8 to 20 % of all values, and cannot be exported to ONNX if antialiased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from features.images.fitting import cropped_share
from features.runtime.keras_runtime import import_keras

_ONE = float(1 << 22)  # Pillow's PRECISION_BITS

if TYPE_CHECKING:
    import keras


def resize_as_pillow(images: keras.KerasTensor, size: int, rule: str, fit: str = "stretch") -> keras.KerasTensor:
    """Resize images to a square as `features.images.fitting.resize_to_square` does.

    Parameters
    ----------
    images : KerasTensor of shape (n, h, w, 3)
        Integers from 0 to 255.
    size : int
        Side of the square, in pixels.
    rule : str
        A key of ``RESIZE``.
    fit : str
        See `features.images.image_spec.ImageSpec`.

    Returns
    -------
    resized : KerasTensor of shape (n, size, size, 3), float32
        Integers from 0 to 255.
    """
    ops = import_keras().ops
    images = ops.cast(images, "float64")
    ones_down, ones_across = ops.ones_like(images[:1, :, 0, 0]), ops.ones_like(images[:1, 0, :, 0])
    height, width = (ops.sum(ones, axis=1, keepdims=True) for ones in (ones_down, ones_across))
    rows, columns = (_Span.of(each, height, width, size, fit) for each in (height, width))
    down, across = _weights(ones_down, size, rule, rows), _weights(ones_across, size, rule, columns)

    def pass_down(each: Any) -> Any:
        return _whole_levels(ops.einsum("nhwc,oh->nowc", each, down))

    def pass_across(each: Any) -> Any:
        return _whole_levels(ops.einsum("nhwc,ow->nhoc", each, across))

    # Pillow 13 resizes horizontally first, unless the vertical pass removes more than twice as many rows as the horizontal
    # pass removes columns.
    higher, wider = (ops.reshape(own - each.count, (1, 1, 1, 1)) for own, each in ((height, rows), (width, columns)))
    down_first = ops.greater(higher, ops.maximum(2.0 * wider, 0.0))
    resized = ops.where(down_first, pass_across(pass_down(images)), pass_down(pass_across(images)))
    return ops.cast(resized, "float32")


class _Span(NamedTuple):
    """What part of an image's rows or columns becomes which of the square's; tensors of shape (1, 1), float64."""

    first: Any  # of the image's, in pixels
    length: Any
    count: Any  # of the square's, in its middle

    @classmethod
    def of(cls, own: Any, height: Any, width: Any, size: int, fit: str) -> _Span:
        """Return the rows or columns of an image of this height and width; `own` is one of the two."""
        ops = import_keras().ops
        count = size * ops.ones_like(own)
        share = cropped_share(fit)
        if share is not None:
            side = share * ops.minimum(height, width)
            first = (own - side) / 2.0
            ends = [ops.cast(each, "float32") for each in (first, first + side)]  # as Pillow takes a box
            return cls(ops.cast(ends[0], "float64"), ops.cast(ends[1] - ends[0], "float64"), count)
        if fit == "pad":
            black = ops.round((size - size * own / ops.maximum(height, width)) / 2.0)
            count = ops.maximum(count - 2.0 * black, float(2 - size % 2))
        return cls(ops.zeros_like(own), own, count)


def _weights(ones: Any, size: int, rule: str, span: _Span) -> Any:
    """Return the weight of each input pixel in each output pixel, (size, n), in units of 1 / _ONE, given n ones, (1, n)."""
    ops = import_keras().ops
    # TensorFlow's graph optimizer replaces division by a constant with multiplication by its reciprocal, which rounds differently;
    # `count` depends on the image, so it is none.
    pixels, scale = ops.cumsum(ones, axis=1) - 1.0, span.length / span.count
    places = (span.count - size) / 2.0 + np.arange(size)[:, None]
    inside = ops.cast(ops.logical_and(places >= 0.0, places < span.count), "float64")
    if rule == "nearest":  # Pillow accumulates the positions step by step
        starts = ops.cast(ops.equal(places, 0.0), "float64")
        centres = ops.cumsum(inside * (starts * (span.first + 0.5 * scale) + (1.0 - starts) * scale), axis=0)
        return _ONE * inside * ops.cast(ops.equal(pixels, ops.floor(centres)), "float64")
    centres = span.first + scale * (places + 0.5)
    lobes, weigh = _FILTERS[rule]
    stretched = ops.maximum(scale, 1.0)
    first, last = ops.floor(centres - lobes * stretched + 0.5), ops.floor(centres + lobes * stretched + 0.5)
    near = ops.logical_and(ops.greater_equal(pixels, first), ops.less(pixels, last))
    weights = weigh((pixels - centres + 0.5) * (1.0 / stretched)) * ops.cast(near, "float64")
    total = ops.sum(weights, axis=1, keepdims=True)
    weights = inside * weights * (1.0 / ops.where(inside > 0.0, total, ops.ones_like(total)))
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
