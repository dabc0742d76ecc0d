"""How images become the input of a base: as the base was trained, on arrays without importing Keras."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

# The kinds of `keras.applications.imagenet_utils.preprocess_input`: caffe is BGR minus the mean of ImageNet's pixels.
_CAFFE_MEAN = (103.939, 116.779, 123.68)
_TORCH_MEAN, _TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Maps float32 RGB in 0..255, (n, h, w, 3), to the input of a base; arrays of NumPy and tensors of Keras.

    Attributes
    ----------
    name : {'imagenet', 'rescale', 'none'}
    kind : {'caffe', 'tf', 'torch', 'none', ''}
        The application's own preprocessing; empty if only its `module` knows it.
    module : str
        Module with ``preprocess_input``.
    """

    name: str
    kind: str
    module: str

    def __call__(self, images: Any) -> Any:
        """Return preprocessed images; NumPy's arrays have the same bits as from Keras."""
        if self.name == "rescale":
            return images / 255.0
        if self.name == "none" or self.kind == "none":
            return images
        if self.kind and isinstance(images, np.ndarray):
            return _on_array(self.kind, images)
        return importlib.import_module(self.module).preprocess_input(images)


def _on_array(kind: str, images: np.ndarray) -> np.ndarray:
    if kind == "caffe":
        return images[..., ::-1] - np.array(_CAFFE_MEAN, images.dtype)
    if kind == "tf":
        return images / 127.5 - 1.0
    scaled = images / 255.0
    return (scaled - np.array(_TORCH_MEAN, images.dtype)) / np.array(_TORCH_DEVIATION, images.dtype)
