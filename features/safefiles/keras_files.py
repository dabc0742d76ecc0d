"""Checks of untrusted Keras files and configurations: they may name only Keras' own layers.

``safe_mode`` is not a security boundary: a configuration may name any importable function or class. So all names are checked
against a list before Keras reads them.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import h5py

from ..errors import UnsafeFile
from .hdf5 import DAMAGE, check_own_values
from .json_files import parse_json
from .npz import open_archive, reading_archive

_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
# Layers that only compute on their inputs. Lambda, TFSMLayer, TorchModuleWrapper, JaxLayer and the like run code or open
# files; lookup layers read vocabulary files.
LAYERS = frozenset(
    [
        "InputLayer",
        "Activation",
        "Add",
        "AlphaDropout",
        "AugMix",
        "AutoContrast",
        "Average",
        "AveragePooling1D",
        "AveragePooling2D",
        "BatchNormalization",
        "CenterCrop",
        "Concatenate",
        "Conv1D",
        "Conv2D",
        "Conv2DTranspose",
        "Cropping1D",
        "Cropping2D",
        "CutMix",
        "Dense",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "Dot",
        "Dropout",
        "ELU",
        "EinsumDense",
        "Embedding",
        "Equalization",
        "Flatten",
        "GaussianDropout",
        "GaussianNoise",
        "GlobalAveragePooling1D",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling1D",
        "GlobalMaxPooling2D",
        "GroupNormalization",
        "Identity",
        "LayerNormalization",
        "LeakyReLU",
        "MaxPooling1D",
        "MaxPooling2D",
        "Maximum",
        "Minimum",
        "MixUp",
        "MultiHeadAttention",
        "Multiply",
        "Normalization",
        "PReLU",
        "Permute",
        "RMSNormalization",
        "RandAugment",
        "RandomBrightness",
        "RandomColorDegeneration",
        "RandomColorJitter",
        "RandomContrast",
        "RandomCrop",
        "RandomElasticTransform",
        "RandomErasing",
        "RandomFlip",
        "RandomGaussianBlur",
        "RandomGrayscale",
        "RandomHue",
        "RandomInvert",
        "RandomPerspective",
        "RandomPosterization",
        "RandomRotation",
        "RandomSaturation",
        "RandomSharpness",
        "RandomShear",
        "RandomTranslation",
        "RandomZoom",
        "ReLU",
        "RepeatVector",
        "Rescaling",
        "Reshape",
        "Resizing",
        "SeparableConv1D",
        "SeparableConv2D",
        "Softmax",
        "Solarization",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "Subtract",
        "UnitNormalization",
        "UpSampling1D",
        "UpSampling2D",
        "ZeroPadding1D",
        "ZeroPadding2D",
    ]
)
# Module → names that a configuration may use from it.
_ALLOWED = {
    "keras": {"DTypePolicy", "Functional", "Sequential"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.applications.convnext": {"LayerScale"},
    "keras.layers": LAYERS,
    "keras.src.ops.core": {"Cast"},
    None: {"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"},
}
# Options of layers that are sides of their kernels, and those whose product is at most one kernel.
_WIDTHS = (
    "units",
    "filters",
    "input_dim",
    "output_dim",
    "depth_multiplier",
    "num_heads",
    "key_dim",
    "value_dim",
    "kernel_size",
    "output_shape",
)
_TOGETHER = (("kernel_size", "filters"), ("kernel_size", "depth_multiplier"), ("num_heads", "key_dim"))
# Initializers, regularizers, constraints and single operations, which only compute on numbers.
_ALLOWED_MODULES = re.compile(r"keras\.(initializers|regularizers|constraints)|keras\.src\.ops\.(numpy|nn|math)")


def check_model_file(path: Path) -> dict[str, Any]:
    """Check a ``.keras`` file, and return its configuration.

    Raises
    ------
    UnsafeFile
        If it contains anything but Keras' own layers and their weights.
    """
    with open_archive(path) as archive, reading_archive(path):
        others = set(archive.namelist()) - _MEMBERS
        if others or "config.json" not in archive.namelist():
            raise _unsafe(path, f"it holds {', '.join(sorted(others)) or 'no config.json'}")
        config = parse_json(archive.read("config.json"), f"config.json of {path}")
        check_config({name: value for name, value in config.items() if name != "compile_config"}, path)
        if "model.weights.h5" in archive.namelist():
            try:
                with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                    check_own_values(file, f"model.weights.h5 of {path}")
                    _check_widths(config, _sizes(file), path)
            except DAMAGE as error:
                raise _unsafe(path, f"its weights are damaged ({error})") from error
    return config


def check_config(config: Any, where: str | Path, layers: frozenset[str] = LAYERS) -> None:
    """Raise UnsafeFile unless a configuration names only allowed Keras objects; `layers` are the allowed layers."""
    waiting = [config]
    while waiting:  # not recursive: a configuration can be nested deeply
        node = waiting.pop()
        if isinstance(node, dict):
            if "class_name" in node:
                _check_name(node, where, layers)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check_widths(config: Any, sizes: tuple[int, int], path: Path) -> None:
    """Check claimed sizes of weights against the stored ones, since Keras allocates memory before it reads the weights.

    `sizes` are the longest side and the most values of a stored array. A layer's kernel has a side for each of its widths, so
    none may be longer than any stored side, nor may their product be more than any array holds.
    """
    longest, most = sizes
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            claimed = {name: _product(node[name]) for name in _WIDTHS if name in node}
            for name, value in claimed.items():
                if value > (most if name in ("kernel_size", "output_shape") else longest):
                    raise _unsafe(path, f"it claims {value:,} {name}, but its weights have at most {longest:,}")
            for names in _TOGETHER:
                value = math.prod(claimed.get(name, 1) for name in names)
                if value > most:
                    raise _unsafe(
                        path, f"it claims {value:,} {' x '.join(names)}, but its arrays hold at most {most:,}"
                    )
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _product(value: Any) -> int:
    """Return the product of a claimed size's whole numbers; 1 for what is none, such as null."""
    numbers = value if isinstance(value, list) else [value]
    return math.prod(each for each in numbers if isinstance(each, int))


def _sizes(file: h5py.File) -> tuple[int, int]:
    """Return the longest side and the most values of a stored array."""
    longest, most = [1], [1]

    def look(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            longest.extend(node.shape)
            most.append(math.prod(node.shape))

    file.visititems(look)
    return max(longest), max(most)


def _check_name(node: dict[str, Any], where: str | Path, layers: frozenset[str]) -> None:
    module, name = node.get("module"), node["class_name"]
    if not isinstance(name, str) or not (module is None or isinstance(module, str)):
        raise _unsafe(where, f"it names {str(name)[:80]!r}")
    allowed = layers if module == "keras.layers" else _ALLOWED.get(module, ())
    if name not in allowed and not (module and _ALLOWED_MODULES.fullmatch(module) and name != "function"):
        raise _unsafe(where, f"it names {name[:80]!r} of {(module or 'no module')[:80]!r}")


def _unsafe(where: str | Path, why: str) -> UnsafeFile:
    return UnsafeFile(
        f"{where} must hold Keras' own layers and nothing that runs code; {why}. Save the model without it, as .keras."
    )
