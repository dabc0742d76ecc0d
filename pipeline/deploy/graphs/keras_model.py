"""One Keras model of base and head: from uint8 RGB images of any size to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from features.backbones.base import Base
from features.errors import RequestError, option
from features.pooling import pools_of, tokens_before
from features.runtime.keras_runtime import import_keras
from features.store.provenance import FeatureSpec

from ...runs.trained_run import Trained
from .head_layers import apply_head
from .novelty_layers import apply_novelty
from .pillow_resize import resize_as_pillow

if TYPE_CHECKING:
    import keras

# How each view of ``dihedral`` is made from the image: whether height and width are swapped, then the axes that are flipped. In
# the order of features/images/views.py; the first two are the views of ``hflip``.
_VIEWS: tuple[tuple[bool, tuple[int, ...]], ...] = (
    (False, ()), (False, (2,)), (False, (1,)), (False, (1, 2)), (True, ()), (True, (1, 2)), (True, (1,)), (True, (2,)),
)  # fmt: skip


def build_model(base: Base, trained: Trained, with_novelty: bool = False) -> keras.Model:
    """Join a base and a head, with the preprocessing, pooling and rounding that the provenance states.

    Parameters
    ----------
    base : Base
    trained : Trained
    with_novelty : bool
        See `check_novelty`.

    Returns
    -------
    model : keras.Model
        Maps ``images``, (n, height, width, 3), uint8, to probabilities, (n, n_classes), float32. If the run has sets of classes, or
        with novelty, to a dict of ``probabilities``, ``set``, (n, n_classes), bool, and ``novelty``, (n,), float32. It consists
        only of Keras' own layers and operations.

    Raises
    ------
    RequestError
        If the head or the views cannot be computed by layers.
    """
    keras = import_keras()
    layers, spec, reading = keras.layers, trained.made.spec, trained.reading
    check_views(trained)
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    resized = resize_as_pillow(images, spec.image_size, spec.resize, spec.fit)
    prepare, features = _preprocessing(base), []
    for view in range(reading.views):
        maps = base.model(prepare(view_of(resized, view)), training=False)  # dropout and random layers only pass on
        parts = [pooled_as_stored(maps[layer], pool, spec) for layer, pool in reading.layers]
        features.append(layers.Concatenate()(parts) if len(parts) > 1 else parts[0])
    if len(features) > 1 and reading.views_as == "mean":
        features = [layers.Average()(features)]
    chances = [apply_head(trained.head, each, len(trained.class_names), trained.name) for each in features]
    found = layers.Average()(chances) if len(chances) > 1 else chances[0]
    found = layers.Identity(name="probabilities")(found)
    outputs = {"probabilities": found}
    if trained.sets is not None:
        held = keras.ops.greater_equal(found, [list(trained.sets.least.values())])
        outputs["set"] = layers.Identity(name="set", dtype="bool")(held)
    if with_novelty and trained.novelty is not None:
        mean = layers.Average()(features) if len(features) > 1 else features[0]
        outputs["novelty"] = apply_novelty(trained.novelty, mean)
    return keras.Model(images, outputs if len(outputs) > 1 else found, name="classifier")


def check_views(trained: Trained) -> None:
    """Raise RequestError unless the views that a head reads can be made of any image."""
    augment = trained.made.spec.augment
    if trained.reading.views > 1 and augment.seed is not None:
        raise RequestError(
            f"views of an exported model must be flips and rotations; those of augment {augment.name} depend on each file's hash. "
            f"Train the head on the images themselves: {option('views', 1)}"
        )


def _preprocessing(base: Base) -> Any:
    """Return the base's preprocessing as a layer; every preprocessing is an affine function of a pixel's three values."""
    pixels = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)])[:, None, None]  # float64
    made = np.array(base.preprocess(pixels.copy()))[:, 0, 0].astype(np.float64)
    bias, kernel = made[0], (made[1:] - made[0]) / 255
    if np.array_equal(kernel, np.eye(3)) and not bias.any():
        return lambda images: images
    layer = import_keras().layers.Conv2D(3, 1, name="preprocess")
    layer.build((None, None, None, 3))
    layer.set_weights([kernel[None, None].astype(np.float32), bias.astype(np.float32)])
    return layer


def view_of(images: Any, view: int) -> Any:
    """Return a view, by its number, of images, (n, side, side, 3)."""
    ops = import_keras().ops
    swapped, flipped = _VIEWS[view]
    images = ops.transpose(images, (0, 2, 1, 3)) if swapped else images
    return ops.flip(images, flipped) if flipped else images


_OVER_TOKENS = {"avg": "GlobalAveragePooling1D", "max": "GlobalMaxPooling1D"}
_OVER_CELLS = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}


def pooled_as_stored(maps: Any, pool: str, spec: FeatureSpec) -> Any:
    """Return a layer's output as the head reads it: pooled and rounded as in the store, then pooled as on reading."""
    layers, ops = import_keras().layers, import_keras().ops

    def pooled(each: Any, pool: str) -> Any:
        if pool == "flatten":
            return layers.Flatten()(each)
        over = {3: _OVER_TOKENS, 4: _OVER_CELLS}[len(each.shape)]
        seen = each[:, tokens_before(each.shape[1]) :] if len(each.shape) == 3 else each
        made = [each[:, 0] if name == "cls" else getattr(layers, over[name])()(seen) for name in pools_of(pool)]
        return layers.Concatenate()(made) if len(made) > 1 else made[0]

    if spec.pool != "none" and len(maps.shape) > 2:
        maps = pooled(maps, spec.pool)
    if spec.dtype == "float16":
        maps = ops.cast(ops.cast(maps, "float16"), "float32")
    return maps if len(maps.shape) == 2 else pooled(maps, pool)
