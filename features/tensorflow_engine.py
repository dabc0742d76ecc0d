"""TensorFlow runs the frozen graph itself: on a GPU where there is one, and what other engines are checked against."""

from __future__ import annotations

from typing import Any

import numpy as np

from .frozen import Frozen


class TensorFlowEngine:
    """See `features.engines.Engine`."""

    def __init__(self, frozen: Frozen):
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)  # TF32 would round features by 1e-3
        self._tf, self._frozen = tf, frozen

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.Engine.run`."""
        outputs = self._frozen.function(self._tf.constant(images))
        return self._frozen.named([output.numpy() for output in outputs])


def find_device() -> str:
    """Return the device that TensorFlow runs on: ``cpu``, or ``gpu`` and its name."""
    import tensorflow as tf

    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return "gpu " + tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown")
