"""A base and an engine in numpy that start at once, for tests of what happens to files around them.

They are rows of the registries, as a base of another library would be. Said so wherever it is used: its features are sums
over patches of the image and mean nothing.
"""

import numpy as np

from features.backbones.base import Base
from features.backbones.registry import BACKBONES, Backbone
from features.backbones.weights import Weights
from features.engines.registry import ENGINES, EngineKind

SHAPE = (4, 4, 96)
calls = []  # number of images of each batch


class StandInEngine:
    """Post-ReLU-like float32 maps, (batch, 4, 4, 96), that depend on every pixel."""

    def __init__(self, frozen):
        self._mix = np.random.default_rng(0).normal(size=(3, SHAPE[2])).astype(np.float32)

    def run(self, images):
        """See `features.engines.registry.Engine`."""
        calls.append(len(images))
        side = images.shape[1] // 4 * 4
        patches = images[:, :side, :side].reshape(len(images), 4, side // 4, 4, side // 4, 3)
        return {"maps": np.maximum(patches.mean((2, 4), dtype=np.float32) @ self._mix, 0)}


def build(*asked):
    """Return the base, whatever layers and weights are asked for."""
    return Base(None, {"maps": SHAPE}, None, {"maps": "map"}, Weights("none: a stand-in", "0" * 64), library="stand-in")


ENGINE = EngineKind(StandInEngine, "numpy", "numpy", 0.0, runs=("stand-in",))


def rows(engine=ENGINE):
    """Return the registries and the rows that make ``tiny`` and ``vgg16`` the stand-in."""
    base = Backbone("", "stand-in", "maps", 16, 8, prepared=True, build=build, library="stand-in")
    return [(BACKBONES, "tiny", base), (BACKBONES, "vgg16", base), (ENGINES, "stand-in", engine)]


def install(engine=ENGINE):
    """Make this process use the stand-in."""
    for registry, name, row in rows(engine):
        registry[name] = row
