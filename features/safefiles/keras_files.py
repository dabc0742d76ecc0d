"""Checks of untrusted Keras files and configurations: they may name only Keras' own layers.

``safe_mode`` is not a security boundary: a configuration may name any importable function or class. So all names are checked
against a list before Keras reads them.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import h5py

from ..errors import UnsafeFile
from .hdf5 import check_own_values
from .json_files import parse_json
from .npz import open_archive

_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
# Layers that only compute on their inputs. Lambda, TFSMLayer, TorchModuleWrapper, JaxLayer and the like run code or open
# files; lookup layers read vocabulary files.
LAYERS = frozenset(
    [
        "InputLayer",
        "Activation",
        "Add",
        "Average",
        "AveragePooling1D",
        "AveragePooling2D",
        "BatchNormalization",
        "CenterCrop",
        "Concatenate",
        "Conv1D",
        "Conv2D",
        "Conv2DTranspose",
        "Cropping2D",
        "Dense",
        "DepthwiseConv2D",
        "Dot",
        "Dropout",
        "ELU",
        "Embedding",
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
        "MultiHeadAttention",
        "Multiply",
        "Normalization",
        "PReLU",
        "Permute",
        "RMSNormalization",
        "RandomBrightness",
        "RandomContrast",
        "RandomFlip",
        "RandomRotation",
        "RandomTranslation",
        "RandomZoom",
        "ReLU",
        "RepeatVector",
        "Rescaling",
        "Reshape",
        "Resizing",
        "SeparableConv2D",
        "Softmax",
        "SpatialDropout2D",
        "Subtract",
        "UnitNormalization",
        "UpSampling2D",
        "ZeroPadding2D",
    ]
)
# Module → names that a configuration may use from it.
_ALLOWED = {
    "keras": {"DTypePolicy", "Functional", "Sequential"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.applications.convnext": {"LayerScale"},
    "keras.layers": LAYERS,
    None: {"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"},
}
# Initializers, regularizers, constraints and single operations, which only compute on numbers.
_ALLOWED_MODULES = re.compile(r"keras\.(initializers|regularizers|constraints)|keras\.src\.ops\.(numpy|nn|math)")


def check_model_file(path: Path) -> dict[str, Any]:
    """Check a ``.keras`` file, and return its configuration.

    Raises
    ------
    UnsafeFile
        If it contains anything but Keras' own layers and their weights.
    """
    with open_archive(path) as archive:
        others = set(archive.namelist()) - _MEMBERS
        if others or "config.json" not in archive.namelist():
            raise _unsafe(path, f"it holds {', '.join(sorted(others)) or 'no config.json'}")
        config = parse_json(archive.read("config.json"), f"config.json of {path}")
        check_config({name: value for name, value in config.items() if name != "compile_config"}, path)
        if "model.weights.h5" in archive.namelist():
            try:
                with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                    check_own_values(file, f"model.weights.h5 of {path}")
                    _check_widths(config, _longest(file), path)
            except (OSError, RuntimeError, KeyError) as error:
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


def _check_widths(config: Any, longest: int, path: Path) -> None:
    """Check claimed layer widths, since Keras allocates memory for them before it reads the weights."""
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for name, value in node.items():
                if (
                    name in ("units", "filters", "input_dim", "output_dim")
                    and isinstance(value, int)
                    and value > longest
                ):
                    raise _unsafe(path, f"it claims {value:,} {name}, but its weights have at most {longest:,}")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _longest(file: h5py.File) -> int:
    longest = [0]
    file.visititems(lambda name, node: longest.extend(node.shape) if isinstance(node, h5py.Dataset) else None)
    return max(longest)


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
