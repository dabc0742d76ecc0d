"""A frozen Keras base: one model with several outputs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, called, must_be_one_of
from ..pooling import kind_of
from ..runtime.keras_runtime import import_keras
from .base import Base
from .custom_model import load_own
from .registry import Backbone, check_request, find_backbone
from .weights import load_weights

if TYPE_CHECKING:
    import keras


def _rescale(images: Any) -> Any:
    return images / 255.0


def _as_it_is(images: Any) -> Any:
    return images


_PREPARE = {"rescale": _rescale, "none": _as_it_is}


def build_base(
    name: str,
    layers: Sequence[str],
    image_size: int,
    preprocess: str | None = None,
    weights: str = "imagenet",
    weights_sha256: str | None = None,
) -> Base:
    """Build a frozen base with its weights loaded and checked.

    Parameters
    ----------
    name : str
        A key of ``BACKBONES``, or a file ``*.keras`` written by keras.saving.
    layers : sequence of str
        Names of layers, or their indices in Keras' list (``-2``).
    image_size : int
        Side of the images, in pixels.
    preprocess : {'imagenet', 'rescale', 'none'}, optional
        The application's own preprocessing, division by 255, or RGB in 0..255 unchanged, the default for the user's own
        model.
    weights, weights_sha256 : str
        See `load_weights`. For the user's own model, the SHA-256 of its file.

    Raises
    ------
    RequestError
        If there is no such base or layer, or the base does not take this size or preprocessing.
    WeightsError
        If the weights cannot be found or do not have the expected SHA-256.
    """
    backbone = find_backbone(name)
    preprocess = preprocess or backbone.preprocess
    check_request(name, image_size, preprocess)
    if backbone.build is not None:
        return backbone.build(layers, image_size, preprocess, weights, weights_sha256)
    keras = import_keras()
    if backbone.module:
        shape = {"include_top": False, "input_shape": (image_size, image_size, 3)}
        application, construct = _application(backbone)
        model = construct(weights=None, **shape)
        prepare = application.preprocess_input if preprocess == "imagenet" else _PREPARE[preprocess]
    else:
        if weights != "imagenet":
            raise RequestError(
                f"{called('weights')} must be left out for {name}, which contains its own; got {weights!r}. Leave {called('weights')} out."
            )
        prepare = _PREPARE[preprocess]
        model, loaded = load_own(Path(name), image_size, weights_sha256)
    model.trainable = False
    by_name = canonical_names(model)
    chosen = [resolve_layer(layer, list(by_name)) for layer in layers]
    if backbone.module:
        loaded = load_weights(model, name, weights, weights_sha256, lambda: construct(weights="imagenet", **shape))
    outputs = {layer: by_name[layer].output for layer in chosen}
    shapes = {layer: tuple(output.shape[1:]) for layer, output in outputs.items()}
    return Base(
        model=keras.Model(model.inputs[0], outputs, name="base"),
        layers=shapes,
        preprocess=prepare,
        kinds={layer: kind_of(shape) for layer, shape in shapes.items()},
        weights=loaded,
    )


def list_layers(name: str, image_size: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return layer → shape of its output for one image, of all layers of a backbone; needs no weights."""
    backbone = find_backbone(name)
    size = backbone.image_size if image_size is None else image_size
    check_request(name, size, backbone.preprocess)
    if backbone.module:
        import_keras()
        _, construct = _application(backbone)
        model = construct(weights=None, include_top=False, input_shape=(size, size, 3))
    else:
        model, _ = load_own(Path(name), size, None)
    return {layer: tuple(each.output.shape[1:]) for layer, each in canonical_names(model).items()}


def _application(backbone: Backbone) -> tuple[Any, Callable[..., Any]]:
    """Return the module with a backbone's ``preprocess_input``, and its constructor, which may be in the parent module."""
    module, parent = importlib.import_module(backbone.module), importlib.import_module("keras.applications")
    return module, getattr(module, backbone.constructor, None) or getattr(parent, backbone.constructor)


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
    """Return a model's layers by the names that they have in a fresh process.

    Keras numbers unnamed layers (``activation_93``) consecutively within a process, so a second InceptionV3 has other names.
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


def _is_auto_named(layer: keras.Layer) -> bool:
    stem = re.sub(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    return re.fullmatch(rf"{stem}(_\d+)?", layer.name) is not None
