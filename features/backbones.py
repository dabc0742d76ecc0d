"""The registry: name → Keras application, its own preprocessing, default layer and size; one model, many outputs."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import RequestError, must_be_one_of
from .weights import Weights, load_weights

if TYPE_CHECKING:
    import keras

PREPROCESS = ("imagenet", "rescale")


@dataclass(frozen=True)
class Backbone:
    """A model family of ``keras.applications``.

    Attributes
    ----------
    module, constructor : str
        Where its constructor and its ``preprocess_input`` are.
    layer : str
        The last feature map, which is cached unless another layer is asked for.
    image_size, smallest : int
        Default and smallest side of an image, in pixels.
    """

    module: str
    constructor: str
    layer: str
    image_size: int
    smallest: int


BACKBONES = {
    "vgg16": Backbone("keras.applications.vgg16", "VGG16", "block5_pool", 224, 32),
    "vgg19": Backbone("keras.applications.vgg19", "VGG19", "block5_pool", 224, 32),
    "inception_v3": Backbone("keras.applications.inception_v3", "InceptionV3", "mixed10", 299, 75),
}


@dataclass(frozen=True)
class Base:
    """A frozen convolutional base, ready to run.

    Attributes
    ----------
    model : keras.Model
        From preprocessed images to a dict with the output of each of `layers`.
    layers : dict of str to tuple
        Name of each layer and the shape of its output for one image.
    preprocess : callable
        From float32 RGB in 0..255, (n, h, w, 3), to what the base was trained on.
    weights : Weights
    """

    model: keras.Model
    layers: dict[str, tuple[int, ...]]
    preprocess: Callable[[Any], Any]
    weights: Weights


def check_backbone(name: str) -> Backbone:
    """Return the entry of the registry, or raise RequestError with the nearest name."""
    if name not in BACKBONES:
        raise must_be_one_of("backbone", BACKBONES, name)
    return BACKBONES[name]


def check_image_size(name: str, image_size: int) -> None:
    """Raise RequestError unless the backbone takes images of this side."""
    smallest = check_backbone(name).smallest
    if image_size < smallest:
        raise RequestError(
            f"image-size must be at least {smallest} for {name}; got {image_size}. Enlarge the images: --image-size {smallest}"
        )


def build_base(
    name: str,
    layers: Sequence[str],
    image_size: int,
    preprocess: str = "imagenet",
    weights: str = "imagenet",
    weights_sha256: str | None = None,
) -> Base:
    """Build a frozen base with its weights loaded and checked.

    Parameters
    ----------
    name : str
        A key of ``BACKBONES``.
    layers : sequence of str
        Names of layers, or their indices in Keras' list (``-2``).
    image_size : int
        Side of the images, in pixels.
    preprocess : {'imagenet', 'rescale'}
        The application's own preprocessing, or division by 255.
    weights, weights_sha256 : str
        See `load_weights`.

    Raises
    ------
    RequestError
        If a name or the size is not one the base has.
    WeightsError
        If the weights cannot be had or checked.
    """
    backbone = check_backbone(name)
    check_image_size(name, image_size)
    if preprocess not in PREPROCESS:
        raise must_be_one_of("preprocess", PREPROCESS, preprocess)
    keras = import_keras()
    application = importlib.import_module(backbone.module)
    shape = {"include_top": False, "input_shape": (image_size, image_size, 3)}
    construct = getattr(application, backbone.constructor)
    model = construct(weights=None, **shape)
    model.trainable = False
    by_name = canonical_names(model)
    chosen = [resolve_layer(layer, list(by_name)) for layer in layers]
    loaded = load_weights(model, name, weights, weights_sha256, lambda: construct(weights="imagenet", **shape))
    outputs = {layer: by_name[layer].output for layer in chosen}
    return Base(
        model=keras.Model(model.input, outputs),
        layers={layer: tuple(output.shape[1:]) for layer, output in outputs.items()},
        preprocess=application.preprocess_input if preprocess == "imagenet" else lambda images: images / 255.0,
        weights=loaded,
    )


def resolve_layer(layer: str, names: Sequence[str]) -> str:
    """Return the name of a layer given by name or index.

    Raises
    ------
    RequestError
        If there is no such layer.
    """
    if re.fullmatch(r"-?\d+", layer):
        if -len(names) <= int(layer) < len(names):
            return names[int(layer)]
        raise RequestError(f"layer index must be between {-len(names)} and {len(names) - 1}; got {layer}. Give a name.")
    if layer not in names:
        raise must_be_one_of("layer", names, layer)
    return layer


def canonical_names(model: keras.Model) -> dict[str, keras.Layer]:
    """Return a model's layers by the names they have in a fresh process.

    Keras numbers unnamed layers (``activation_93``) on through a process, so a second InceptionV3 has other names.
    """
    parts = {layer: re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name) for layer in model.layers if _is_auto_named(layer)}
    numbered = {layer: (match[1], int(match[2] or 0)) for layer, match in parts.items() if match}
    first: dict[str, int] = {}
    for stem, number in numbered.values():
        first[stem] = min(first.get(stem, number), number)
    names = {}
    for layer in model.layers:
        name = layer.name
        if layer in numbered:
            stem, number = numbered[layer]
            name = stem if number == first[stem] else f"{stem}_{number - first[stem]}"
        names[name] = layer
    return names


def import_keras() -> Any:
    """Import Keras on TensorFlow and find its devices."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with contextlib.nullcontext() if "tensorflow" in sys.modules else quiet():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
    return keras


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what TensorFlow's C++ libraries write as they start, which no log level of theirs does.

    Errors are raised, not written, so none is lost. Set ``TF_CPP_MIN_LOG_LEVEL`` to see it all.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _is_auto_named(layer: keras.Layer) -> bool:
    stem = re.sub(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    return re.fullmatch(rf"{stem}(_\d+)?", layer.name) is not None
