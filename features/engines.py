"""What runs the base: a batch of uint8 images in, the asked layers' float32 features out."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from .backbones import Base
from .runtime import import_keras, quiet


class Engine(Protocol):
    """What the pass needs of an engine."""

    name: str
    """Engine, version, device and precision; part of the store's fingerprint."""

    batch_size: int

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return each layer's features of one batch.

        Parameters
        ----------
        images : ndarray of shape (batch_size, size, size, 3), uint8
            RGB. The batch is always full, so that a row's values do not depend on how many others there are.

        Returns
        -------
        features : dict of str to ndarray of shape (batch_size, h, w, channels) or (batch_size, channels), float32
        """
        ...


class TensorFlowEngine:
    """The base as one frozen TensorFlow graph: variables made constants, so that BatchNorm folds into convolutions.

    Parameters
    ----------
    base : Base
    image_size, batch_size : int
    pool : {'none', 'avg', 'max', 'avg+max'}
        Pool feature maps over space, in float32, before they leave the device.
    """

    def __init__(self, base: Base, image_size: int, batch_size: int, pool: str = "none"):
        import_keras()
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        self.batch_size = batch_size
        self.device = use_gpus(tf)
        self.name = f"tensorflow {version('tensorflow')}, {self.device}, float32"
        self._tf, self._layers = tf, list(base.layers)
        reduce = {"avg": tf.reduce_mean, "max": tf.reduce_max}

        def forward(images: Any) -> list[Any]:
            maps = base.model(base.preprocess(tf.cast(images, tf.float32)), training=False)
            return [pooled(maps[layer]) for layer in base.layers]

        def pooled(layer: Any) -> Any:
            if pool == "none" or layer.shape.rank != 4:
                return layer
            return tf.concat([reduce[name](layer, axis=(1, 2)) for name in pool.split("+")], axis=1)

        shape = tf.TensorSpec((batch_size, image_size, image_size, 3), tf.uint8)
        with quiet():
            self._run = convert_variables_to_constants_v2(tf.function(forward).get_concrete_function(shape))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        outputs = self._run(self._tf.constant(images))
        return {layer: output.numpy() for layer, output in zip(self._layers, outputs, strict=True)}


def use_gpus(tf: Any) -> str:
    """Set up TensorFlow's GPUs, if there are any, and return the device's name."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # TF32 would round features by 1e-3
    return "gpu " + tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown")
