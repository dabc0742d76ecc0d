"""The MNN engine, on the CPU in float32; its 3x3 convolutions use Winograd's method, with fewer multiplications.

MNN's converter is called through its C entry point ``_tools.mnnconvert`` in a separate process, because its protobuf conflicts
with TensorFlow's. The module ``MNN.tools`` and its commands are never used, since they send telemetry and install packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..errors import EngineError
from ..runtime.atomic import written_whole
from ..runtime.keras_runtime import quiet
from ..runtime.machine import cores
from ..runtime.user_cache import cache_folder
from .frozen_graph import Frozen
from .per_core import Lanes

_CONVERT = "import sys, _tools; sys.exit(0 if _tools.mnnconvert(['mnnconvert', *sys.argv[1:]]) else 1)"
_KEPT = 16  # converted models; the least recently used are removed


class MNNEngine:
    """See `features.engines.registry.Engine`.

    Each core computes whole images, one at a time, because MNN's rounding depends on an image's position in a larger batch
    (by as much as its distance from TensorFlow) and on the number of cores that share an image.
    """

    def __init__(self, frozen: Frozen):
        single = frozen.of_batch(1)
        path = _converted(single.graph())
        self._frozen = frozen
        self._lanes = Lanes([_Lane(path, single).run for _ in range(min(cores(), frozen.batch_size))], 1)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        return self._frozen.named(self._lanes.run(images))


class _Lane:
    """One core's copy of the model, since an interpreter runs one session at a time."""

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


def _converted(graph: bytes) -> Path:
    """Return the file of a converted graph, from the per-user cache or converted now.

    The file name contains the SHA-256 of the graph (which covers weights, layers, size, batch, preprocessing and pooling),
    MNN's version, and the SHA-256 of the file itself, which is checked on each use; a damaged file is rebuilt.
    """
    folder, name = cache_folder() / "converted", f"mnn-{version('mnn')}-{hashlib.sha256(graph).hexdigest()[:32]}"
    for path in folder.glob(f"{name}-*"):
        if path.name == f"{name}-{_digest(path)}":
            os.utime(path)
            return path
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as place:
        convert(graph, Path(place) / "model")
        path = folder / f"{name}-{_digest(Path(place) / 'model')}"
        with written_whole(path) as new:
            shutil.copyfile(Path(place) / "model", new)
    _forget(folder)
    return path


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _forget(folder: Path) -> None:
    """Remove the least recently used models."""
    by_age = sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-_KEPT]:
        path.unlink(missing_ok=True)


def convert(graph: bytes, to: Path) -> None:
    """Convert a frozen TensorFlow graph to MNN's format, in a separate process.

    Raises
    ------
    EngineError
        If MNN has no equivalent of an operation; the message contains the converter's last line.
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
        raise EngineError(f"MNN cannot run this base ({words[-1][:200]}).")
