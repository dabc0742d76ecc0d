"""The base as one frozen graph, with variables as constants, so that BatchNorm can be folded into convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..backbones.base import Base
from ..pooling import pooled_shape, pools_of, tokens_before
from ..runtime.keras_runtime import import_keras, leaves, quiet


@dataclass(frozen=True)
class Frozen:
    """Preprocessing, base and pooling as one graph, which every engine runs or converts.

    For Keras' bases it is a TensorFlow graph, made here; for ONNX models see `join_graph`.

    Its input is RGB, (batch_size, image_size, image_size, 3), uint8. Each output is one layer's features of the whole
    batch, float32, channels last, flattened. Flattening gives each output a separate operation and this order of values,
    even if the layer has successors or an engine uses another memory layout.

    Attributes
    ----------
    base : Base
    image_size, batch_size : int
    pool : {'none', 'avg', 'max', 'avg+max', 'cls', 'cls+avg'}
        Pooling of feature maps over space, in float32, before they leave the device.
    precision : {'float32', 'float16'}
        Precision of the layers. Preprocessing and pooling are always in float32.
    """

    base: Base
    image_size: int
    batch_size: int
    pool: str = "none"
    precision: str = "float32"
    _made: dict[tuple[int, str], Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def function(self) -> Any:
        """TensorFlow's concrete function, created on first use, which takes seconds."""
        kind = self.batch_size, self.precision
        if kind not in self._made:
            self._made[kind] = _freeze(self)
        return self._made[kind]

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Layer → shape of its features for one image."""
        return {layer: pooled_shape(shape, self.pool) for layer, shape in self.base.layers.items()}

    @property
    def kinds(self) -> dict[str, str]:
        """What each layer's features for one image are: a member of ``KINDS``."""
        return {layer: kind if self.pool == "none" else "vector" for layer, kind in self.base.kinds.items()}

    @property
    def input(self) -> str:
        """Name of the graph's input."""
        return self.function.inputs[0].op.name

    @property
    def outputs(self) -> list[str]:
        """Name of the operation that computes each layer's output."""
        return [output.op.inputs[0].op.name for output in self.function.outputs]

    def graph(self) -> bytes:
        """Return the serialised graph, the same bytes for the same base in every fresh process."""
        return self.function.graph.as_graph_def().SerializeToString(deterministic=True)

    def compute(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return features of a few images by TensorFlow, operation by operation: in a fraction of the time and memory of freezing."""
        import_keras()
        import tensorflow as tf

        with quiet(), tf.device("cpu"):
            return self.named([output.numpy() for output in _forward(self, tf.constant(images))], len(images))

    def of_batch(self, batch_size: int) -> Frozen:
        """Return the same graph for another batch size."""
        return replace(self, batch_size=batch_size)

    def of_precision(self, precision: str) -> Frozen:
        """Return the same graph with layers in another precision."""
        return replace(self, precision=precision)

    def named(self, outputs: Sequence[np.ndarray], count: int) -> dict[str, np.ndarray]:
        """Return flat outputs of so many images as layer → features."""
        shapes = {layer: (count, *shape) for layer, shape in self.layers.items()}
        return {layer: flat.reshape(shape) for (layer, shape), flat in zip(shapes.items(), outputs, strict=True)}


def _freeze(frozen: Frozen) -> Any:
    import_keras()
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    side = frozen.image_size
    shape = tf.TensorSpec((frozen.batch_size, side, side, 3), tf.uint8)
    with quiet(), _computing_in(frozen.base.model, frozen.precision):
        forward = tf.function(lambda images: _forward(frozen, images))
        return convert_variables_to_constants_v2(forward.get_concrete_function(shape))


def _forward(frozen: Frozen, images: Any) -> list[Any]:
    """Return each layer's flat features of a tensor of images."""
    import tensorflow as tf

    base, pool, reduce = frozen.base, frozen.pool, {"avg": tf.reduce_mean, "max": tf.reduce_max}

    def pooled(layer: Any) -> Any:
        if pool == "none" or layer.shape.rank == 2:
            return layer
        over = tuple(range(1, layer.shape.rank - 1))
        seen = layer[:, tokens_before(layer.shape[1]) :] if layer.shape.rank == 3 else layer
        each = [layer[:, 0] if name == "cls" else reduce[name](seen, axis=over) for name in pools_of(pool)]
        return tf.concat(each, axis=1)

    maps = base.model(base.preprocess(tf.cast(images, tf.float32)), training=False)
    return [tf.reshape(pooled(tf.cast(maps[layer], tf.float32)), (-1,)) for layer in base.layers]


@contextmanager
def _computing_in(model: Any, precision: str) -> Iterator[None]:
    """Temporarily make a model's layers compute in another precision; its weights are unchanged."""
    layers = list(leaves(model)) if precision != "float32" else []
    kept = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = f"mixed_{precision}"
    try:
        yield
    finally:
        for layer, policy in zip(layers, kept, strict=True):
            layer.dtype_policy = policy
