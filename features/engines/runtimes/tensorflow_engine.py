"""The TensorFlow engine, on a GPU if there is one; the reference for other engines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import EngineError, batch_too_large
from ...runtime.keras_runtime import import_keras
from ...runtime.machine import cores, gpu_in_sight
from ...store.provenance import CPU, Device
from ..frozen_graph import Frozen
from ..per_core import Lanes

_PIECE = 4  # images per core at once, enough to outweigh TensorFlow's overhead of starting operations


class TensorFlowEngine:
    """See `features.engines.registry.Engine`.

    Parameters
    ----------
    frozen : Frozen
    precision : {'float32', 'float16'}
        float16 accumulates in float32, as a GPU's tensor cores do.
    xla : bool
        Compile the graph with XLA.
    device : Device, optional
        The device that TensorFlow uses; by default, detected.

    Raises
    ------
    EngineError
        If float16 is requested without a GPU; in `run`, if the batch does not fit into memory.
    """

    def __init__(self, frozen: Frozen, precision: str = "float32", xla: bool = False, device: Device | None = None):
        import_keras()
        import tensorflow as tf

        self._device = device or find_device()
        on_cpu = self._device.kind == "cpu"
        if precision != "float32" and on_cpu:
            raise EngineError(f"TensorFlow computes in {precision} only on a GPU.")
        tf.config.experimental.enable_tensor_float_32_execution(False)  # TF32 would round features by 1e-3
        self._tf, self._frozen = tf, frozen
        piece = frozen.batch_size if xla or not on_cpu else math.gcd(frozen.batch_size, _PIECE)
        graph = frozen.of_precision(precision).of_batch(piece).function
        self._function = tf.function(lambda images: graph(images), jit_compile=True) if xla else graph
        self._lanes = Lanes([self._compute] * min(cores(), frozen.batch_size // piece), piece)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        try:
            return self._frozen.named(self._lanes.run(images), len(images))
        except self._tf.errors.ResourceExhaustedError as error:
            raise batch_too_large(str(self._device), *images.shape[:2]) from error

    def _compute(self, images: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in self._function(self._tf.constant(images))]


def find_device() -> Device:
    """Return the device that TensorFlow uses; it is imported only where there may be a GPU."""
    if not gpu_in_sight():
        return CPU
    import_keras()
    import tensorflow as tf

    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    if not gpus:
        return CPU
    return Device("gpu", tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown"))
