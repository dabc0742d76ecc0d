"""The registry of backbones: name → Keras model family, preprocessing, default layer and size; needs no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError, called, must_be_one_of, option, shell
from .custom_model import input_side
from .normalisation import PRESETS, Normalisation
from .onnx.description import describe_file
from .onnx.onnx_base import build_from_file
from .onnx.packaged import PACKAGED, build_packaged
from .onnx.timm_facts import PREFIX, find_facts
from .onnx.timm_models import FEATURES, build_timm, layers_of_timm, recall_fingerprint
from .weights import recall_sha256

if TYPE_CHECKING:
    from .base import Base

_HUBS = ("torch.hub:", "torchhub:", "torch_hub:", "keras_hub:", "keras-hub:", "hf-hub:", "hf_hub:")
LAST_MAP = "last-map"  # as a layer: a model's last feature map, or its last layer if it has none
PREPROCESS = ("imagenet", "rescale", "none")


@dataclass(frozen=True)
class Backbone:
    """A model family of ``keras.applications``, or the user's own model.

    Attributes
    ----------
    module, constructor : str
        Module with ``preprocess_input``, and name of the constructor; for the user's own model, empty and the file.
    layer : str
        Default layer, the last feature map, by name or index.
    image_size, smallest : int
        Default and smallest side of an image, in pixels.
    kind : {'caffe', 'tf', 'torch', 'none', ''}
        See `Preprocessing`.
    prepared : bool
        Whether the model includes its preprocessing, so that it takes RGB in 0..255.
    build : callable, optional
        For a library other than Keras: builds a `Base` from layers, image size, preprocessing, weights and their SHA-256.
    library : str
        Only engines for this library can run it; see `Base`.
    shapes : callable, optional
        For a library other than Keras: returns layer → shape of its output for one image, of images of a side.
    sha256 : callable, optional
        For a library other than Keras: returns the SHA-256 of weights, see `load_weights`; None if it is not known yet.
    own : bool
        Whether it is the user's own model, so that its name is a path.
    usual : str
        Default preprocessing of a model that says it itself: the user's own in ONNX, or one of timm; empty if it does not.
    fit : str
        How images of any shape become squares by default; see `ImageSpec`.
    resize : str
        The default rule of resizing; see `ImageSpec`.
    """

    module: str
    constructor: str
    layer: str
    image_size: int
    smallest: int = 32
    kind: str = ""
    prepared: bool = False
    build: Callable[..., Base] | None = None
    library: str = "keras"
    shapes: Callable[[int], dict[str, tuple[int, ...]]] | None = None
    sha256: Callable[[str], str | None] | None = None
    own: bool = False
    usual: str = ""
    fit: str = "stretch"
    resize: str = "bilinear"

    @property
    def preprocess(self) -> str:
        """The default preprocessing."""
        if self.usual or (self.own and self.library == "onnx"):
            return self.usual
        return "imagenet" if self.module or self.library == "onnx" else "none"


_APPLICATIONS = "keras.applications."
BACKBONES = {
    "vgg16": Backbone(_APPLICATIONS + "vgg16", "VGG16", "block5_pool", 224, kind="caffe"),
    "vgg19": Backbone(_APPLICATIONS + "vgg19", "VGG19", "block5_pool", 224, kind="caffe"),
    "resnet50": Backbone(_APPLICATIONS + "resnet", "ResNet50", "conv5_block3_out", 224, kind="caffe"),
    "resnet101": Backbone(_APPLICATIONS + "resnet", "ResNet101", "conv5_block3_out", 224, kind="caffe"),
    "resnet50_v2": Backbone(_APPLICATIONS + "resnet_v2", "ResNet50V2", "post_relu", 224, kind="tf"),
    "inception_v3": Backbone(_APPLICATIONS + "inception_v3", "InceptionV3", "mixed10", 299, 75, "tf"),
    "inception_resnet_v2": Backbone(
        _APPLICATIONS + "inception_resnet_v2", "InceptionResNetV2", "conv_7b_ac", 299, 75, "tf"
    ),
    "xception": Backbone(_APPLICATIONS + "xception", "Xception", "block14_sepconv2_act", 299, 71, "tf"),
    "mobilenet_v2": Backbone(_APPLICATIONS + "mobilenet_v2", "MobileNetV2", "out_relu", 224, kind="tf"),
    "mobilenet_v3_large": Backbone(
        _APPLICATIONS + "mobilenet_v3", "MobileNetV3Large", "-1", 224, kind="none", prepared=True
    ),
    "densenet121": Backbone(_APPLICATIONS + "densenet", "DenseNet121", "relu", 224, kind="torch"),
    "efficientnet_v2_b0": Backbone(
        _APPLICATIONS + "efficientnet_v2", "EfficientNetV2B0", "top_activation", 224, kind="none", prepared=True
    ),
    "efficientnet_v2_s": Backbone(
        _APPLICATIONS + "efficientnet_v2", "EfficientNetV2S", "top_activation", 384, kind="none", prepared=True
    ),
    "convnext_tiny": Backbone(_APPLICATIONS + "convnext", "ConvNeXtTiny", "-1", 224, kind="none", prepared=True),
    "nasnet_mobile": Backbone(_APPLICATIONS + "nasnet", "NASNetMobile", "-1", 224, kind="tf"),
}


def _packaged(name: str) -> Backbone:
    packaged = PACKAGED[name]

    def shapes(side: int) -> dict[str, tuple[int, ...]]:
        return {layer: each.shape for layer, each in packaged.describe(side).tensors.items()}

    return Backbone(
        "", "", packaged.layer, packaged.image_size, prepared=True, library="onnx",
        build=partial(build_packaged, name), shapes=shapes, sha256=lambda _: packaged.sha256,
    )  # fmt: skip


BACKBONES |= {name: _packaged(name) for name in PACKAGED}


def find_backbone(name: str) -> Backbone:
    """Return the entry of the registry, or one for a file ``*.keras`` or ``*.onnx`` or for ``timm:NAME``; needs no TensorFlow.

    Raises
    ------
    RequestError
        If there is no such entry, file or model; the message names the nearest entry.
    UnsafeFile
        If the file cannot be trusted.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.endswith((".h5", ".hdf5")) and Path(name).is_file():
        old, new = (json.dumps(each, ensure_ascii=False) for each in (name, str(Path(name).with_suffix(".keras"))))
        code = f"import keras; keras.saving.load_model({old}, compile=False).save({new})"
        raise RequestError(
            f"{called('backbone')} must be a file of Keras' own format, .keras; got {name}. Convert it, if it is your own: "
            f"{shell('python', '-c', code)}"
        )
    if name.endswith(".keras"):
        return Backbone("", name, LAST_MAP, input_side(Path(name)), smallest=1, prepared=True, own=True)
    if name.endswith(".onnx"):
        return _find_onnx(Path(name))
    if name.startswith(PREFIX):
        return _find_timm(name)
    if name.lower().startswith(_HUBS):
        raise RequestError(
            f"{called('backbone')} must be timm:NAME, FILE.onnx, FILE.keras or a name in features/README.md; got {name}, of a hub whose models bring "
            f"code of their own, which is not run here. Export it in a script of yours (features/README.md, Models of hubs), then: "
            f"{option('backbone', 'own.onnx')}"
        )
    raise must_be_one_of(
        called("backbone"), BACKBONES, name, "Or name a model of timm, timm:NAME, or your own: FILE.onnx or FILE.keras"
    )


def format_of(name: str) -> str:
    """Return the format of a backbone's model, ``keras`` or ``onnx``, by its name alone: its file need not be there any more."""
    if name in BACKBONES:
        return BACKBONES[name].library
    return "onnx" if name.endswith(".onnx") or name.startswith(PREFIX) else "keras"


def _find_timm(name: str) -> Backbone:
    facts = find_facts(name)
    return Backbone(
        "", name, FEATURES, facts.side, smallest=1, prepared=True, library="torch", usual=facts.normalisation, fit=facts.fit,
        resize=facts.resize, build=partial(build_timm, name), shapes=partial(layers_of_timm, name), sha256=partial(recall_fingerprint, name),
    )  # fmt: skip


def _find_onnx(path: Path) -> Backbone:
    described = describe_file(path)

    def shapes(side: int) -> dict[str, tuple[int, ...]]:
        return {layer: each.shape for layer, each in describe_file(path, side).tensors.items()}

    return Backbone(
        "", str(path), described.default, described.side, smallest=1, own=True, library="onnx", usual=described.preprocess,
        build=partial(build_from_file, path), shapes=shapes, sha256=lambda _: described.sha256,
    )  # fmt: skip


def find_sha256(name: str, weights: str) -> str | None:
    """Return the SHA-256 of a backbone's weights, if it is known without loading them into a model, else None."""
    backbone = find_backbone(name)
    return recall_sha256(name, weights) if backbone.sha256 is None else backbone.sha256(weights)


def check_size(name: str, image_size: int) -> None:
    """Raise RequestError unless the backbone takes images of this side."""
    backbone = find_backbone(name)
    if image_size < backbone.smallest:
        raise RequestError(
            f"{called('image_size')} must be at least {backbone.smallest} for {name}; got {image_size}. "
            f"Enlarge the images: {option('image_size', backbone.smallest)}"
        )


def check_request(name: str, image_size: int, preprocess: str) -> None:
    """Raise RequestError unless the backbone takes images of this side and preprocessing."""
    backbone = find_backbone(name)
    check_size(name, image_size)
    if backbone.own and backbone.library == "onnx":
        _check_normalisation(name, preprocess)
        return
    if backbone.usual:
        if preprocess != backbone.usual:
            raise RequestError(
                f"{called('preprocess')} must be {backbone.usual!r} for {name}, as it was trained; got {preprocess!r}. Leave it out."
            )
        return
    if preprocess not in PREPROCESS:
        raise must_be_one_of(called("preprocess"), PREPROCESS, preprocess)
    included = PREPROCESS[:1] if backbone.preprocess == "imagenet" else PREPROCESS[1:]
    allowed = included if backbone.prepared else PREPROCESS[:2]
    if preprocess not in allowed:
        why = (
            "its own preprocessing is inside the model"
            if backbone.prepared
            else "it was trained on preprocessed images"
        )
        raise RequestError(
            f"{called('preprocess')} must be {' or '.join(allowed)} for {name}, since {why}; got {preprocess!r}. Leave it out."
        )


def _check_normalisation(name: str, preprocess: str) -> None:
    if not preprocess:
        raise RequestError(
            f"{called('preprocess')} must be said for {name}, since the file does not say it: one of {', '.join(PRESETS)}, or "
            f"{called('mean')} and {called('std')}; got none. Most models that were trained with PyTorch: {option('preprocess', 'imagenet')}"
        )
    Normalisation.of(preprocess)
