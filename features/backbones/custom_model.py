"""The user's own model as a backbone: a file written by keras.saving."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, WeightsError, called, find_near, option
from ..runtime.keras_runtime import import_keras, leaves
from ..safefiles.keras_files import check_model_file
from ..safefiles.regular_files import hash_file
from .weights import Weights

if TYPE_CHECKING:
    import keras


def input_side(path: Path) -> int:
    """Return the image side of a Keras model from its file's configuration; 224 if the model accepts any.

    Raises
    ------
    RequestError
        If there is no such file, or the model does not take RGB images.
    UnsafeFile
        See `check_model_file`.
    """
    if not path.is_file():
        raise RequestError(f"backbone {path} is not there. {find_near(path)}")
    config = json.dumps(check_model_file(path))
    found = re.search(r'"batch_(?:input_)?shape": \[null, (\d+|null), (\d+|null), 3\]', config)
    if found is None:
        raise RequestError(
            f"backbone {path} must take RGB images, (n, side, side, 3); its input has another shape. Name another."
        )
    if found[1] != found[2]:
        raise RequestError(
            f"backbone {path} must take square images; it takes {found[1]} x {found[2]}. Save it with an input of "
            f"(None, None, 3), or of equal sides."
        )
    return 224 if found[1] == "null" else int(found[1])


def load_own(path: Path, image_size: int, sha256: str | None) -> tuple[keras.Model, Weights]:
    """Load the user's own model, which may consist only of Keras' own layers; see `check_model_file`.

    Raises
    ------
    RequestError
        If Keras cannot load it, or it takes images of another size.
    WeightsError
        If the file does not have this SHA-256.
    UnsafeFile
        See `check_model_file`.
    """
    check_model_file(path)
    keras = import_keras()
    found = hash_file(path)
    if sha256 not in (None, found):
        raise WeightsError(
            f"{path} must have SHA-256 {sha256}; it has {found}. If this is the model you want: {option('weights_sha256', found)}"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        inputs, side = len(model.inputs), model.inputs[0].shape[1]
    except (ValueError, TypeError, OSError, AttributeError) as error:
        raise RequestError(
            f"backbone {path} must be a functional or sequential model that Keras can load; {str(error).splitlines()[0][:200]}. Save it again."
        ) from error
    if inputs != 1:
        raise RequestError(
            f"backbone {path} must have one input, the images; it has {inputs}. Save the part that reads images alone: "
            "keras.Model(model.inputs[0], the output of one of its layers)"
        )
    if side not in (None, image_size):
        raise RequestError(f"{called('image_size')} must be {side} for {path}; got {image_size}. Leave it out.")
    try:
        model = _bare(model, image_size)
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"backbone {path} must be a model of images of {image_size} x {image_size}; {str(error).splitlines()[0][:200]}. "
            f"Give another size: {option('image_size')}"
        ) from error
    return model, Weights(f"file {path.name}", found)


def _bare(model: keras.Model, side: int) -> keras.Model:
    """Return a model without its random layers and, if it takes images of any size, of images of `side`.

    Random layers only pass images on here, but some hold a seed that they change whenever they are called, which cannot be
    frozen; and only of images of a known size do all layers have outputs of known shapes.
    """
    images = model.inputs[0]
    if images.shape[1] is not None and not any(map(_is_random, leaves(model))):
        return model
    keras = import_keras()

    def copy(layer: Any) -> Any:
        if _is_random(layer):
            return keras.layers.Identity(name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    inputs = keras.Input((side, side, 3), dtype=images.dtype, name=images.name)
    made = keras.models.clone_model(model, inputs, clone_function=copy, recursive=True)
    for old, new in zip(leaves(model), leaves(made), strict=True):
        if not _is_random(old):
            new.set_weights(old.get_weights())
    return made


def _is_random(layer: Any) -> bool:
    """Return whether a layer changes images at random in training, and not at all otherwise."""
    name = type(layer).__name__
    return (name.startswith("Random") and name != "RandomCrop") or name in ("AugMix", "CutMix", "MixUp", "RandAugment")
