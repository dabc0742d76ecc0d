"""Many Dense heads trained on one stream of features, each as if it were alone.

Training a head on wide features is memory-bound: every batch is read once for the forward pass and once for the gradient.
Heads that differ in learning rate, width or dropout share those reads, since their first layers are concatenated into one
matrix, as in DINOv2's linear evaluation (Oquab et al. 2023, arXiv 2304.07193, appendix B.3). The matrix is split along the
features, so that each piece is updated while it is in a core's cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from features.runtime.keras_runtime import import_keras, quiet

from ...data.row_blocks import Block
from .config import Recipe

if TYPE_CHECKING:
    import keras

LOOK = 1024  # rows evaluated at once
TINY = 1e-7  # the least probability in a loss, as in Keras
LARGE = 1 << 17  # first-layer weights above which training is compiled by XLA
_PIECE = 1 << 17  # weights updated at once: with their gradient and the optimizer's state they fit into 2 MB
Shape = tuple[tuple[int, ...], float]  # widths, dropout


@lru_cache(maxsize=4)
def find_bank(shapes: tuple[Shape, ...], n_features: int, n_classes: int, optimizer: str, decays: bool) -> Bank:
    """Return a bank of this architecture, cached because building its graph takes longer than training a small head."""
    return Bank(shapes, n_features, n_classes, optimizer, decays)


class Bank:
    """The weights of several heads and the graph that trains them; see `train_heads` in `search`."""

    def __init__(self, shapes: tuple[Shape, ...], n_features: int, n_classes: int, optimizer: str, decays: bool):
        import_keras()
        import keras
        import tensorflow as tf

        self._tf, self._shapes, self._n_features, self._n_classes = tf, shapes, n_features, n_classes
        self.models = [_build(shape, n_features, n_classes, 1.0) for shape in shapes]
        self._first = [model.layers[1] for model in self.models]
        self._tails = [
            keras.Sequential([keras.Input((first.units,)), *model.layers[2:]]) if model.layers[2:] else None
            for first, model in zip(self._first, self.models, strict=True)
        ]
        ends = np.cumsum([first.units for first in self._first])
        self._columns = [slice(end - first.units, end) for first, end in zip(self._first, ends, strict=True)]
        # Transposed, so that the gradient is written along the features: a third faster for wide features.
        pieces = np.array_split(np.arange(n_features), -(-ends[-1] * n_features // _PIECE))
        self._widths = [len(piece) for piece in pieces]
        self._kernel = [
            keras.Variable(np.zeros((ends[-1], width), np.float32), name="kernel") for width in self._widths
        ]
        self._bias = keras.Variable(np.zeros(ends[-1], np.float32), name="bias")
        self._scale = tf.Variable(1.0)
        self._class_weights = tf.Variable(np.ones((len(shapes), n_classes), np.float32))
        rests = [tail.trainable_variables if tail else [] for tail in self._tails]
        self._variables = [*self._kernel, self._bias, *(each for rest in rests for each in rest)]
        self._unit_rates = tf.Variable(np.ones((ends[-1], 1), np.float32)), tf.Variable(np.ones(ends[-1], np.float32))
        self._head_rates = [tf.Variable(1.0) for _ in shapes]
        rates = [self._unit_rates[0]] * len(self._kernel) + [self._unit_rates[1]]
        for rate, rest in zip(self._head_rates, rests, strict=True):
            rates += [rate] * len(rest)
        self._unit_decays = tf.Variable(np.zeros((ends[-1], 1), np.float32))
        self._head_decays = [tf.Variable(0.0) for _ in shapes]
        # Only of kernels, which are two-dimensional, and not of biases.
        shrunk: list[Any] = [self._unit_decays] * len(self._kernel) + [None]
        for decay, rest in zip(self._head_decays, rests, strict=True):
            shrunk += [decay if len(each.shape) == 2 else None for each in rest]
        self._optimizer = _with_rates(optimizer, self._variables, rates, shrunk if decays else [None] * len(shrunk))
        self._fresh = [variable.numpy() for variable in self._optimizer.variables]
        # XLA compiles an epoch into one program, and the optimizer's updates of the wide first layer into one kernel.
        compiled = ends[-1] * n_features > LARGE
        values, numbers = tf.TensorSpec([None, n_features]), tf.TensorSpec([None], tf.int64)
        batches = tf.TensorSpec([None, None], tf.int64)
        self._run = tf.function(self._run_batches, [values, numbers, batches], jit_compile=compiled)
        self._traced = False
        self._look = tf.function(self._look_at, [values, numbers])

    def reset(self, recipes: Sequence[Recipe], seed: int, scale: float, counts: np.ndarray) -> None:
        """Reinitialise weights from a seed, and reset the optimizer."""
        import keras

        self._divisor = scale
        self._scale.assign(1 / scale)
        bias = np.zeros(self._bias.shape, np.float32)
        kernel = np.zeros((len(bias), self._n_features), np.float32)
        rates, decays = np.empty(len(bias), np.float32), np.empty((len(bias), 1), np.float32)
        for number, (recipe, model, columns) in enumerate(zip(recipes, self.models, self._columns, strict=True)):
            for depth, layer in enumerate(model.layers[1:]):
                if isinstance(layer, keras.layers.Dropout):
                    layer.seed_generator.state.assign([seed, depth])
                    continue
                drawn = keras.initializers.GlorotUniform(seed=seed + depth)(layer.kernel.shape)
                layer.set_weights([drawn, np.zeros(layer.bias.shape)])
            kernel[columns] = np.transpose(model.layers[1].kernel)
            rates[columns], decays[columns] = recipe.learning_rate, recipe.weight_decay
            self._head_decays[number].assign(recipe.weight_decay)
            self._head_rates[number].assign(recipe.learning_rate)
            weights = np.ones(self._n_classes) if recipe.class_weight == "none" else counts.sum() / len(counts) / counts
            self._class_weights[number].assign(weights.astype(np.float32))
        for piece, values in zip(self._kernel, np.split(kernel, np.cumsum(self._widths)[:-1], axis=1), strict=True):
            piece.assign(values)
        self._bias.assign(bias)
        self._unit_rates[0].assign(rates[:, None])
        self._unit_rates[1].assign(rates)
        self._unit_decays.assign(decays)
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)

    def train(self, stream: Iterable[Block], targets: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
        """Take one step per batch; return each head's mean training loss and accuracy, (n_heads,) each."""
        with contextlib.nullcontext() if self._traced else quiet():  # XLA logs its start
            self._traced = True
            return self._mean(
                [
                    self._run(_tensor(values), targets[rows], batches)
                    for values, rows, order in stream
                    for batches in _whole_batches(order, batch_size)
                ]
            )

    def look(self, stream: Iterable[Block]) -> np.ndarray:
        """Return each head's probabilities of the rows of a stream, in its order, (n_heads, n_rows, n_classes)."""
        found = []
        for values, _, order in stream:
            places, back = np.unique(order, return_inverse=True)  # a row drawn several times is evaluated once
            parts = [places[start : start + LOOK] for start in range(0, len(places), LOOK)]
            chances = np.concatenate([self._look(_tensor(values), part).numpy() for part in parts], axis=1)
            found.append(chances[:, back])
        return np.concatenate(found, axis=1)

    def weights(self, head: int) -> list[np.ndarray]:
        """Return a copy of one head's weights, in the order of its model's weights."""
        columns, tail = self._columns[head], self._tails[head]
        kernel = np.concatenate([piece.numpy()[columns].T for piece in self._kernel])
        first = [kernel, self._bias.numpy()[columns].copy()]
        return first + ([variable.numpy() for variable in tail.trainable_variables] if tail else [])

    def model(self, head: int, weights: list[np.ndarray]) -> keras.Model:
        """Return a separate model of one head with the given weights."""
        model = _build(self._shapes[head], self._n_features, self._n_classes, self._divisor)
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
        return model

    def _mean(self, sums: list[Any]) -> dict[str, np.ndarray]:
        loss, hits, rows = np.sum([each.numpy() for each in sums], axis=0)
        return {"loss": loss / rows, "accuracy": hits / rows}

    def _run_batches(self, values: Any, targets: Any, batches: Any) -> Any:
        tf = self._tf
        total = tf.zeros((3, len(self.models)))
        for batch in tf.range(tf.shape(batches)[0]):
            rows = batches[batch]
            total += self._take_step(tf.gather(values, rows), tf.gather(targets, rows))
        return total

    def _take_step(self, x: Any, y: Any) -> Any:
        tf = self._tf
        with tf.GradientTape() as tape:
            losses, hits = self._figures(x, y)
            weights = tf.gather(self._class_weights, y, axis=1)
            total = tf.reduce_sum(losses * weights) / tf.cast(tf.size(y), tf.float32)  # heads share no weights
        self._optimizer.apply(tape.gradient(total, self._variables), self._variables)
        return tf.stack([tf.reduce_sum(tf.cast(each, tf.float32), axis=1) for each in (losses, hits, losses >= 0)])

    def _look_at(self, values: Any, rows: Any) -> Any:
        return self._tf.stack(self._forward(self._tf.gather(values, rows), training=False))

    def _figures(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return each head's loss on each row in training and whether its prediction is correct, (n_heads, n_rows) each."""
        tf, found = self._tf, self._forward(x, training=True)
        losses = [-tf.math.log(tf.maximum(tf.gather(chances, y, batch_dims=1), TINY)) for chances in found]
        return tf.stack(losses), tf.stack([tf.argmax(chances, axis=1) == y for chances in found])

    def _forward(self, x: Any, training: bool) -> list[Any]:
        """Return each head's probabilities, (n_rows, n_classes)."""
        tf = self._tf
        pieces = zip(tf.split(x, self._widths, axis=1), self._kernel, strict=True)
        side_by_side = tf.add_n([tf.matmul(part, piece, transpose_b=True) for part, piece in pieces])
        side_by_side = side_by_side * self._scale + self._bias
        found = []
        for first, columns, tail in zip(self._first, self._columns, self._tails, strict=True):
            out = first.activation(side_by_side[:, columns])
            out = tail(out, training=training) if tail else out
            found.append(tf.concat([1 - out, out], axis=1) if self._n_classes == 2 else out)
        return found


def _whole_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the rows of whole batches, (n_batches, batch_size), and those of a shorter last batch, (1, n)."""
    whole = len(order) - len(order) % batch_size
    parts = order[:whole].reshape(-1, batch_size), order[whole:][None]
    return [part for part in parts if part.size]


def _build(shape: Shape, n_features: int, n_classes: int, scale: float) -> keras.Model:
    """Return a head: Dense(relu) and dropout per width, then one sigmoid for two classes or a softmax for more."""
    import keras

    widths, dropout = shape
    layers = [keras.Input((n_features,), name="features"), keras.layers.Rescaling(1 / scale, name="scale")]
    for depth, width in enumerate(widths, start=1):
        layers.append(keras.layers.Dense(width, activation="relu", name=f"hidden_{depth}"))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, seed=depth, name=f"dropout_{depth}"))
    two = n_classes == 2
    layers.append(
        keras.layers.Dense(1 if two else n_classes, activation="sigmoid" if two else "softmax", name="probability")
    )
    return keras.Sequential(layers)


def _with_rates(name: str, variables: list[Any], rates: list[Any], decays: list[Any]) -> Any:
    """Return a Keras optimizer with a separate learning rate and weight decay per variable, or per unit of a variable.

    Decay is decoupled from the gradient: each step takes the rate times the decay of each weight from it (Loshchilov and Hutter
    2019, "Decoupled weight decay regularization").
    """
    import keras

    of = {id(each.value): own for each, *own in zip(variables, rates, decays, strict=True)}

    class WithRates(type(keras.optimizers.get(name))):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate, decay = of[id(variable)]
            if decay is not None:
                self.assign_sub(variable, rate * decay * variable)
            super().update_step(gradient, variable, rate)

    optimizer = WithRates()
    optimizer.build(variables)
    return optimizer


def _tensor(values: np.ndarray) -> Any:
    """Return a matrix as a tensor, sharing memory if it is aligned to a cache line as TensorFlow requires."""
    import tensorflow as tf

    if values.ctypes.data % 64 == 0 and values.flags.c_contiguous and values.flags.writeable:
        return tf.experimental.dlpack.from_dlpack(values.__dlpack__())
    return tf.constant(values)
