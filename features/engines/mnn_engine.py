"""MNN runs the base on the CPU, in float32; its 3x3 convolutions are Winograd's, with fewer multiplications.

MNN's converter is called through its C entry point ``_tools.mnnconvert`` in a process of its own: its protobuf and
TensorFlow's do not bear each other. The module ``MNN.tools`` and its commands are never touched: they report home and
install packages.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..errors import EngineError
from ..runtime.keras_runtime import quiet
from ..runtime.machine import cores
from .converted import converted
from .frozen_graph import Frozen
from .per_core import Lanes

_CONVERT = "import sys, _tools; sys.exit(0 if _tools.mnnconvert(['mnnconvert', *sys.argv[1:]]) else 1)"


class MNNEngine:
    """See `features.engines.registry.Engine`.

    Each core computes whole images, one at a time: in a larger batch MNN rounds an image otherwise at another place in it,
    by as much as it is away from TensorFlow; and shared among cores, otherwise on another number of them.
    """

    def __init__(self, frozen: Frozen):
        single = frozen.of_batch(1)
        path = converted(single.graph(), f"mnn-{version('mnn')}", convert)
        self._frozen = frozen
        self._lanes = Lanes([_Lane(path, single).run for _ in range(min(cores(), frozen.batch_size))], 1)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        return self._frozen.named(self._lanes.run(images))


class _Lane:
    """One core's own copy of the model: an interpreter runs one session at a time."""

    def __init__(self, path: Path, frozen: Frozen):
        with quiet():
            import MNN

            self._interpreter = MNN.Interpreter(str(path))
            options = {"backend": "CPU", "numThread": 1, "precision": "high"}
            self._session = self._interpreter.createSession(options)
        self._tensor, self._order = MNN.Tensor, MNN.Tensor_DimensionType_Tensorflow
        self._input = self._interpreter.getSessionInputAll(self._session)[frozen.input]
        found = self._interpreter.getSessionOutputAll(self._session)
        lost = [name for name in frozen.outputs if name not in found]
        if lost:
            raise EngineError(f"MNN's converter lost the output {lost[0]} of this base.")
        self._outputs = [found[name] for name in frozen.outputs]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the flat outputs for one image."""
        self._input.copyFrom(self._tensor(images.shape, self._input.getDataType(), images, self._order))
        self._interpreter.runSession(self._session)
        return [np.array(output.getNumpyData()) for output in self._outputs]


def convert(graph: bytes, to: Path) -> None:
    """Convert a frozen TensorFlow graph to MNN's format, in a process of its own.

    Raises
    ------
    EngineError
        If MNN has no equivalent of an operation, with the converter's last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "base.pb"
        source.write_bytes(graph)
        options = ["-f", "TF", "--modelFile", str(source), "--MNNModel", str(to), "--bizCode", "cached-features"]
        child = subprocess.run(
            [sys.executable, "-I", "-c", _CONVERT, *options], capture_output=True, text=True, errors="replace"
        )
    if child.returncode or not to.exists():
        words = (child.stdout + child.stderr).strip().splitlines() or [f"exit status {child.returncode}"]
        raise EngineError(f"MNN cannot take this base ({words[-1][:200]}).")
