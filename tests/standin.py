"""A base and an engine in numpy that start at once, for tests of what happens to files around them.

Said so wherever it is used: its features are sums over patches of the image and mean nothing.
"""

import sys
from types import SimpleNamespace

import numpy as np

import features.extraction.run  # noqa: F401 - its module, not the function of the same name, is patched
from features.engines.selection import Checked

extract_module = sys.modules["features.extraction.run"]
SHAPE = (4, 4, 96)
calls = []  # number of images of each batch, padding included


class StandInEngine:
    """Post-ReLU-like float32 maps, (batch, 4, 4, 96), that depend on every pixel."""

    name = "stand-in 1, cpu, float32"

    def __init__(self):
        self._mix = np.random.default_rng(0).normal(size=(3, SHAPE[2])).astype(np.float32)

    def run(self, images):
        """See `features.engines.registry.Engine`."""
        calls.append(len(images))
        side = images.shape[1] // 4 * 4
        patches = images[:, :side, :side].reshape(len(images), 4, side // 4, 4, side // 4, 3)
        return {"maps": np.maximum(patches.mean((2, 4), dtype=np.float32) @ self._mix, 0)}


def install(module=extract_module):
    """Make `extract` use the stand-in."""
    weights = SimpleNamespace(origin="none: a stand-in", sha256="0" * 64)
    base = SimpleNamespace(layers={"maps": SHAPE}, weights=weights)
    module.load_base = lambda options: base
    module.Frozen = lambda base, size, batch_size, pool: None
    module.pick_batch_size = lambda *arguments: 16
    module.pick_engine = lambda *arguments: "stand-in"
    module.describe_engine = lambda name: StandInEngine.name
    module.make_checked = lambda name, frozen, batch: Checked(StandInEngine(), 0.0, 0.01)
