"""The user's own model as a backbone: a file written by keras.saving."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError, WeightsError, called, option
from ..runtime.keras_runtime import import_keras
from ..safefiles.keras_files import check_model_file
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
        raise RequestError(f"backbone {path} is not there. Check: ls {path.parent}")
    config = json.dumps(check_model_file(path))
    found = re.search(r'"batch_(?:input_)?shape": \[null, (\d+|null), (\d+|null), 3\]', config)
    if found is None:
        raise RequestError(
            f"backbone {path} must take RGB images, (n, side, side, 3); its input has another shape. Name another."
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
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 not in (None, found):
        raise WeightsError(
            f"{path} must have SHA-256 {sha256}; it has {found}. If this is the model you want: {option('weights_sha256', found)}"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        side = model.inputs[0].shape[1]
    except (ValueError, TypeError, OSError, AttributeError) as error:
        raise RequestError(
            f"backbone {path} must be a functional or sequential model that Keras can load; {str(error).splitlines()[0][:200]}. Save it again."
        ) from error
    if side not in (None, image_size):
        raise RequestError(f"{called('image_size')} must be {side} for {path}; got {image_size}. Leave it out.")
    return model, Weights(f"file {path.name}", found)
