"""How unlike all training images an image is, as Keras layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.errors import RequestError, command, option
from features.runtime.keras_runtime import import_keras

from ...evaluation.decisions.novelty import Novelty
from ...runs.trained_run import Trained

if TYPE_CHECKING:
    import keras

_MOST = 2**24  # numbers of training images' features in a model, which are 64 MiB


def check_novelty(trained: Trained) -> Novelty:
    """Return what a run knows of its training images, if it can be part of a model.

    Raises
    ------
    RequestError
        If the run does not know, or it is too much.
    """
    known, remedy = trained.novelty, f"Leave out {option('novelty', True)}, and use {command('predict')} for it."
    if known is None:
        raise RequestError(
            f"novelty must be known to be exported; {trained.folder} is of an earlier version. Train it again."
        )
    if known.sketch is not None:
        n_features = len(known.sketch.order)
        raise RequestError(f"novelty can be exported of at most 4,096 features per image; got {n_features:,}. {remedy}")
    if known.unit.size > _MOST:
        raise RequestError(
            f"novelty can be exported of at most {_MOST:,} numbers (64 MiB); got {len(known.unit):,} training images of "
            f"{known.unit.shape[1]:,} features. {remedy}"
        )
    return known


def apply_novelty(known: Novelty, features: keras.KerasTensor) -> keras.KerasTensor:
    """Return the novelty of images, (n,), from features, (n, n_features), both float32; see `Novelty.of`."""
    keras = import_keras()
    ops = keras.ops
    squares = ops.sum(ops.square(features), axis=1, keepdims=True)
    unit = features / ops.maximum(ops.sqrt(squares), 1e-12)
    layer = keras.layers.Dense(len(known.unit), use_bias=False, name="training_images")
    layer.build((None, known.unit.shape[1]))
    layer.set_weights([np.ascontiguousarray(known.unit.T)])
    nearest = ops.maximum(1 - ops.max(layer(unit), axis=1), 0) / known.threshold
    return keras.layers.Identity(name="novelty")(nearest)
