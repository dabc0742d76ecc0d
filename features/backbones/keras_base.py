"""A frozen Keras base: one model with several outputs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, called
from ..pooling import kind_of
from ..runtime.keras_runtime import import_keras
from ..runtime.user_cache import recall, remember
from ..runtime.versions import own_source
from .base import Base, resolve_layer
from .custom_model import load_own
from .preprocessing import Preprocessing
from .registry import LAST_MAP, Backbone, check_request, check_size, find_backbone
from .weights import Weights, are_expected, load_weights, recall_sha256

if TYPE_CHECKING:
    import keras


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
        A key of ``BACKBONES``, or the user's own model: a file ``*.keras`` written by keras.saving, or ``*.onnx``.
    layers : sequence of str
        Names of layers, or their indices in Keras' list (``-2``).
    image_size : int
        Side of the images, in pixels.
    preprocess : str, optional
        The application's own preprocessing, division by 255, or RGB in 0..255 unchanged, the default for the user's own
        Keras model. For an ONNX model, see `Normalisation.of`.
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
        construct = _constructor(backbone)
        model = construct(weights=None, **shape)
    else:
        if weights != "imagenet":
            raise RequestError(
                f"{called('weights')} must be left out for {name}, which contains its own; got {weights!r}. Leave {called('weights')} out."
            )
        model, loaded = load_own(Path(name), image_size, weights_sha256)
    model.trainable = False
    by_name = canonical_names(model)
    outputs_of = {name: _output(layer) for name, layer in by_name.items()}
    chosen = [_last_map(outputs_of) if layer == LAST_MAP else resolve_layer(layer, list(by_name)) for layer in layers]
    if backbone.module:
        loaded = load_weights(model, name, weights, weights_sha256, lambda: construct(weights="imagenet", **shape))
    outputs = {layer: outputs_of[layer] for layer in chosen}
    shapes = {layer: tuple(output.shape[1:]) for layer, output in outputs.items()}
    whole = keras.Model(model.inputs[0], outputs, name="base")
    kinds = {layer: kind_of(shape) for layer, shape in shapes.items()}
    return _base(lambda: whole, backbone, image_size, preprocess, shapes, kinds, loaded)


def find_base(
    name: str,
    layers: Sequence[str],
    image_size: int,
    preprocess: str | None = None,
    weights: str = "imagenet",
    weights_sha256: str | None = None,
) -> Base:
    """Return the base that `build_base` returns; one that was built earlier is built again only where its model is needed.

    Weights count as unchanged if the size, times and inode of their file are unchanged since they were loaded and hashed.
    """
    backbone = find_backbone(name)
    preprocess = preprocess or backbone.preprocess
    check_request(name, image_size, preprocess)
    asked: Any = (name, layers, image_size, preprocess, weights, weights_sha256)
    if backbone.build is not None:
        return build_base(*asked)
    sha256 = recall_sha256(name, weights)
    if (
        sha256 is not None
        and (backbone.module or weights == "imagenet")
        and are_expected(name, weights, weights_sha256, sha256)
    ):
        noted = recall("bases", _note(backbone, layers, image_size, sha256))
        if noted is not None:
            shapes = {layer: tuple(shape) for layer, shape in noted["layers"].items()}
            found = Weights(noted["origin"], sha256)
            return _base(
                lambda: build_base(*asked).model, backbone, image_size, preprocess, shapes, noted["kinds"], found
            )
    base = build_base(*asked)
    if recall_sha256(name, weights) == base.weights.sha256:  # known now, if not before
        told = {"layers": base.layers, "kinds": base.kinds, "origin": base.weights.origin}
        for each in {tuple(layers), tuple(base.layers)}:  # as asked for, maybe by index, and by name
            remember("bases", _note(backbone, each, image_size, base.weights.sha256), told)
    return base


def _note(backbone: Backbone, layers: Sequence[str], image_size: int, sha256: str) -> dict[str, Any]:
    """Return the key under which a base's layers are noted."""
    return {
        "backbone": [backbone.module, backbone.constructor if backbone.module else ""],
        "layers": list(layers),
        "image_size": image_size,
        "weights_sha256": sha256,
        "keras": version("keras"),
        "source": own_source(),
    }


def _base(
    build: Callable[[], keras.Model],
    backbone: Backbone,
    image_size: int,
    preprocess: str,
    layers: dict[str, tuple[int, ...]],
    kinds: dict[str, str],
    weights: Weights,
) -> Base:
    identity = _note(backbone, list(layers), image_size, weights.sha256) | {"preprocess": preprocess}
    prepare = Preprocessing(preprocess, backbone.kind, backbone.module)
    return Base(build, layers, prepare, kinds, weights, identity=identity)


def list_layers(name: str, image_size: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return layer → shape of its output for one image, of all layers of a backbone; needs no weights."""
    backbone = find_backbone(name)
    size = backbone.image_size if image_size is None else image_size
    check_size(name, size)
    if backbone.shapes is not None:
        return backbone.shapes(size)
    if backbone.module:
        import_keras()
        model = _constructor(backbone)(weights=None, include_top=False, input_shape=(size, size, 3))
    else:
        model, _ = load_own(Path(name), size, None)
    return {layer: tuple(_output(each).shape[1:]) for layer, each in canonical_names(model).items()}


def _output(layer: keras.Layer) -> Any:
    """Return a layer's output in its model; a nested model's own output is in a graph of its own."""
    if not hasattr(layer, "layers"):
        return layer.output
    nodes = layer._inbound_nodes  # Keras has no public name for where a layer is used
    return nodes[0].outputs[0] if nodes else layer.output


def _last_map(outputs: Mapping[str, Any]) -> str:
    """Return the last layer whose output is a feature map, not the logits after it; the last layer if there is none."""
    return next((name for name in reversed(list(outputs)) if len(outputs[name].shape) == 4), list(outputs)[-1])


def _constructor(backbone: Backbone) -> Callable[..., Any]:
    """Return a backbone's constructor, which may be in the parent of its module."""
    module, parent = importlib.import_module(backbone.module), importlib.import_module("keras.applications")
    return getattr(module, backbone.constructor, None) or getattr(parent, backbone.constructor)


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
