"""A base's layers as few operations: convolutions with all that can be folded into them, pools, sums, concatenations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[int, int]
Border = tuple[Pair, Pair]  # rows above and below, columns left and right
# Maps that operations make have a multiple of the first, and no more than the second.
CHANNELS, MOST_CHANNELS = 16, 1 << 14
NO_BORDER: Border = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False)
class Convolution:
    """y = x * kernel + bias (+ residual), ReLU or not.

    Attributes
    ----------
    x, y : int
        Numbers of feature maps.
    kernel, bias : ndarray of shape (kh, kw, c, k) and (k,), float32
    strides : tuple of int
    border : Border
        Zeros around x.
    residual : int, optional
        What is added.
    """

    x: int
    y: int
    kernel: np.ndarray
    bias: np.ndarray
    strides: Pair
    border: Border
    relu: bool = False
    residual: int | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """What it reads."""
        return (self.x,) if self.residual is None else (self.x, self.residual)


@dataclass(frozen=True, eq=False)
class Pool:
    """Largest or mean value of windows; the border counts as zeros where `zeros`, else not at all."""

    x: int
    y: int
    window: Pair
    strides: Pair
    border: Border
    mean: bool
    zeros: bool

    @property
    def sources(self) -> tuple[int, ...]:
        """What it reads."""
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Sum:
    """y = (sum of sources) * scale + shift, ReLU or not; scale and shift (c,), float32."""

    sources: tuple[int, ...]
    y: int
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    relu: bool = False


Operation = Convolution | Pool | Sum


@dataclass(frozen=True)
class Maps:
    """Where a feature map of one image lies: (height, width, channels) from channel `start` of the map `inside`."""

    shape: tuple[int, int, int]
    inside: int
    start: int = 0


@dataclass(frozen=True)
class LayerGraph:
    """Operations in an order in which they can be done.

    Attributes
    ----------
    operations : list of Operation
    maps : list of Maps
        By number; 0 is the image.
    outputs : dict of str to int
        Name of each layer that is asked for and its feature map.
    """

    operations: list[Operation]
    maps: list[Maps]
    outputs: dict[str, int]
