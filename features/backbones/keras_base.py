"""The registry: name → Keras application, its own preprocessing, default layer and size; one model, many outputs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, must_be_one_of
from ..runtime.keras_runtime import import_keras
from .custom_model import input_side, load_own
from .weights import Weights, load_weights

if TYPE_CHECKING:
    import keras

PREPROCESS = ("imagenet", "rescale", "none")


@dataclass(frozen=True)
class Backbone:
    """A model family of ``keras.applications``, or a model of the user's own.

    Attributes
    ----------
    module, constructor : str
        Where its constructor and its ``preprocess_input`` are; of the user's own model the file.
    layer : str
        The last feature map, by name or index, which is cached unless another layer is asked for.
    image_size, smallest : int
        Default and smallest side of an image, in pixels.
    prepared : bool
        The model does its own preprocessing, so that it takes RGB in 0..255.
    build : callable, optional
        Of a base of another library than Keras: from layers, image size, preprocessing, weights and their SHA-256 to a `Base`.
    """

    module: str
    constructor: str
    layer: str
    image_size: int
    smallest: int = 32
    prepared: bool = False
    build: Callable[..., Base] | None = None

    @property
    def preprocess(self) -> str:
        """What is done to images by default."""
        return "imagenet" if self.module else "none"


_APPLICATIONS = "keras.applications."
BACKBONES = {
    "vgg16": Backbone(_APPLICATIONS + "vgg16", "VGG16", "block5_pool", 224),
    "vgg19": Backbone(_APPLICATIONS + "vgg19", "VGG19", "block5_pool", 224),
    "resnet50": Backbone(_APPLICATIONS + "resnet", "ResNet50", "conv5_block3_out", 224),
    "resnet101": Backbone(_APPLICATIONS + "resnet", "ResNet101", "conv5_block3_out", 224),
    "resnet50_v2": Backbone(_APPLICATIONS + "resnet_v2", "ResNet50V2", "post_relu", 224),
    "inception_v3": Backbone(_APPLICATIONS + "inception_v3", "InceptionV3", "mixed10", 299, 75),
    "inception_resnet_v2": Backbone(_APPLICATIONS + "inception_resnet_v2", "InceptionResNetV2", "conv_7b_ac", 299, 75),
    "xception": Backbone(_APPLICATIONS + "xception", "Xception", "block14_sepconv2_act", 299, 71),
    "mobilenet_v2": Backbone(_APPLICATIONS + "mobilenet_v2", "MobileNetV2", "out_relu", 224),
    "mobilenet_v3_large": Backbone(_APPLICATIONS + "mobilenet_v3", "MobileNetV3Large", "-1", 224, prepared=True),
    "densenet121": Backbone(_APPLICATIONS + "densenet", "DenseNet121", "relu", 224),
    "efficientnet_v2_b0": Backbone(
        _APPLICATIONS + "efficientnet_v2", "EfficientNetV2B0", "top_activation", 224, prepared=True
    ),
    "efficientnet_v2_s": Backbone(
        _APPLICATIONS + "efficientnet_v2", "EfficientNetV2S", "top_activation", 384, prepared=True
    ),
    "convnext_tiny": Backbone(_APPLICATIONS + "convnext", "ConvNeXtTiny", "-1", 224, prepared=True),
    "nasnet_mobile": Backbone(_APPLICATIONS + "nasnet", "NASNetMobile", "-1", 224),
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
    library : str
        Engines that run bases of this library can run it.
    """

    model: keras.Model
    layers: dict[str, tuple[int, ...]]
    preprocess: Callable[[Any], Any]
    weights: Weights
    library: str = "keras"


def _rescale(images: Any) -> Any:
    return images / 255.0


def _as_it_is(images: Any) -> Any:
    return images


_PREPARE = {"rescale": _rescale, "none": _as_it_is}


def find_backbone(name: str) -> Backbone:
    """Return the entry of the registry, or one made for a file ``*.keras``; without TensorFlow.

    Raises
    ------
    RequestError
        If there is no such entry or file, with the nearest name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if not name.endswith(".keras"):
        raise must_be_one_of("backbone", BACKBONES, name, "Or name a model of your own: FILE.keras")
    return Backbone("", name, "-1", input_side(Path(name)), smallest=1, prepared=True)


def check_request(name: str, image_size: int, preprocess: str) -> None:
    """Raise RequestError unless the backbone takes images of this side, preprocessed so."""
    backbone = find_backbone(name)
    if image_size < backbone.smallest:
        raise RequestError(
            f"image-size must be at least {backbone.smallest} for {name}; got {image_size}. "
            f"Enlarge the images: --image-size {backbone.smallest}"
        )
    if preprocess not in PREPROCESS:
        raise must_be_one_of("preprocess", PREPROCESS, preprocess)
    allowed = PREPROCESS[:2] if not backbone.prepared else PREPROCESS[:1] if backbone.module else PREPROCESS[1:]
    if preprocess not in allowed:
        why = (
            "its own preprocessing is inside the model"
            if backbone.prepared
            else "it was trained on preprocessed images"
        )
        raise RequestError(
            f"preprocess must be {' or '.join(allowed)} for {name}, since {why}; got {preprocess!r}. Leave it out."
        )


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
        A key of ``BACKBONES``, or a file ``*.keras`` that keras.saving wrote.
    layers : sequence of str
        Names of layers, or their indices in Keras' list (``-2``).
    image_size : int
        Side of the images, in pixels.
    preprocess : {'imagenet', 'rescale', 'none'}, optional
        The application's own preprocessing, division by 255, or RGB in 0..255 as it is, which models of one's own get
        unless told otherwise.
    weights, weights_sha256 : str
        See `load_weights`. Of a model of one's own the SHA-256 is the file's.

    Raises
    ------
    RequestError
        If a name or the size is not one the base has.
    WeightsError
        If the weights cannot be had or checked.
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
                f"weights of {name} are in the file itself; got {weights!r} beside it. Leave --weights out."
            )
        prepare = _PREPARE[preprocess]
        model, loaded = load_own(Path(name), image_size, weights_sha256)
    model.trainable = False
    by_name = canonical_names(model)
    chosen = [resolve_layer(layer, list(by_name)) for layer in layers]
    if backbone.module:
        loaded = load_weights(model, name, weights, weights_sha256, lambda: construct(weights="imagenet", **shape))
    outputs = {layer: by_name[layer].output for layer in chosen}
    return Base(
        model=keras.Model(model.inputs[0], outputs, name="base"),
        layers={layer: tuple(output.shape[1:]) for layer, output in outputs.items()},
        preprocess=prepare,
        weights=loaded,
    )


def list_layers(name: str, image_size: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return the layers of a backbone and the shapes of their outputs for one image; needs no weights."""
    backbone = find_backbone(name)
    size = image_size or backbone.image_size
    check_request(name, size, backbone.preprocess)
    if backbone.module:
        import_keras()
        _, construct = _application(backbone)
        model = construct(weights=None, include_top=False, input_shape=(size, size, 3))
    else:
        model, _ = load_own(Path(name), size, None)
    return {layer: tuple(each.output.shape[1:]) for layer, each in canonical_names(model).items()}


def _application(backbone: Backbone) -> tuple[Any, Callable[..., Any]]:
    """Return the module with a backbone's ``preprocess_input``, and its constructor, which some modules lack."""
    module, parent = importlib.import_module(backbone.module), importlib.import_module(_APPLICATIONS.rstrip("."))
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


def _is_auto_named(layer: keras.Layer) -> bool:
    stem = re.sub(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    return re.fullmatch(rf"{stem}(_\d+)?", layer.name) is not None
