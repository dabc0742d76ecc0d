"""A base as few operations on feature maps: convolutions with all that can be folded into them, pools and sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # rows above and below, columns left and right
# Each operation makes a map whose channels are a multiple of the first, and no more than the second.
CHANNELS, MOST_CHANNELS = 16, 1 << 14
NO_PADDING: Padding = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False)
class Convolution:
    """y = x * kernel + bias (+ residual), with a ReLU or without.

    Attributes
    ----------
    x, y : int
        Numbers of feature maps.
    kernel, bias : ndarray of shape (kh, kw, c, k) and (k,), float32
    strides : tuple of int
    padding : Padding
        Zeros around x.
    relu : bool
        Whether negative values of the sum become 0, after the residual was added.
    residual : int, optional
        Number of the feature map that is added.
    """

    x: int
    y: int
    kernel: np.ndarray
    bias: np.ndarray
    strides: Pair
    padding: Padding
    relu: bool = False
    residual: int | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the feature maps that are read."""
        return (self.x,) if self.residual is None else (self.x, self.residual)


@dataclass(frozen=True, eq=False)
class Pool:
    """Largest or mean value of windows; the padding counts as zeros where `zeros`, else not at all."""

    x: int
    y: int
    window: Pair
    strides: Pair
    padding: Padding
    mean: bool
    zeros: bool

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the feature maps that are read."""
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Sum:
    """y = (sum of sources) * scale + shift, with a ReLU or without; scale and shift (c,), float32."""

    sources: tuple[int, ...]
    y: int
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    relu: bool = False


Operation = Convolution | Pool | Sum


@dataclass(frozen=True)
class FeatureMap:
    """A feature map of one image: all channels of a map of its own, or some of a concatenation.

    Attributes
    ----------
    shape : tuple of int
        (height, width, channels)
    whole : int
        Number of the map that this one is part of: its own number, if of no other.
    channel : int
        Where in `whole` its channels begin.
    """

    shape: tuple[int, int, int]
    whole: int
    channel: int = 0


@dataclass(frozen=True)
class LayerGraph:
    """Operations in an order in which they can be done.

    Attributes
    ----------
    operations : list of Operation
    maps : list of FeatureMap
        By number; 0 is the image.
    outputs : dict of str to int
        Name of each layer that is asked for and the number of its feature map.
    """

    operations: list[Operation]
    maps: list[FeatureMap]
    outputs: dict[str, int]
