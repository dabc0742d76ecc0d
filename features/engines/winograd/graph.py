"""A base as a few operations on feature maps: convolutions with everything that can be folded into them, pools and sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # rows above and below, columns left and right
# The channels of each operation's output must be a multiple of the first, and at most the second.
CHANNELS, MOST_CHANNELS = 16, 1 << 14
NO_PADDING: Padding = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False)
class Convolution:
    """y = x * kernel + bias (+ residual), optionally with a ReLU.

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
        Number of the feature map to add.
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
    """Maximum or mean of windows; padding counts as zeros if `zeros`, otherwise it is ignored."""

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
    """y = (sum of sources) * scale + shift, optionally with a ReLU; scale and shift have shape (c,), float32."""

    sources: tuple[int, ...]
    y: int
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    relu: bool = False


Operation = Convolution | Pool | Sum


@dataclass(frozen=True)
class FeatureMap:
    """A feature map of one image: a separate map, or a range of channels of a concatenation.

    Attributes
    ----------
    shape : tuple of int
        (height, width, channels)
    whole : int
        Number of the map that this one is part of; its own number if it is separate.
    channel : int
        Its first channel in `whole`.
    """

    shape: tuple[int, int, int]
    whole: int
    channel: int = 0


@dataclass(frozen=True)
class LayerGraph:
    """Operations in an executable order.

    Attributes
    ----------
    operations : list of Operation
    maps : list of FeatureMap
        By number; 0 is the image.
    outputs : dict of str to int
        Requested layer → number of its feature map.
    """

    operations: list[Operation]
    maps: list[FeatureMap]
    outputs: dict[str, int]
