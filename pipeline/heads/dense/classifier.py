"""A trained Keras Dense head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.runtime.keras_runtime import import_keras
from features.safefiles.keras_files import check_config

from ..contract import Classifier, Saved
from ..linear_head import affine

if TYPE_CHECKING:
    import keras

# Layers that a head's file may contain.
_LAYERS = frozenset(
    ["InputLayer", "Activation", "BatchNormalization", "Dense", "Dropout", "LayerNormalization", "ReLU", "Rescaling"]
)


class DenseHead(Classifier):
    """A Keras model trained on features.

    Parameters
    ----------
    model : keras.Model
        Maps features, (n, n_features), to probabilities: one column for two classes, else one per class.
    classes : ndarray of shape (n_classes,)

    Attributes
    ----------
    model_, classes_
    """

    kind = "dense"
    model_: keras.Model

    def __init__(self, model: keras.Model, classes: np.ndarray):
        self.model_, self.classes_ = model, classes

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        # Called in blocks instead of model.predict, which retraces a graph for every head.
        blocks = [np.asarray(self.model_(X[start : start + 1024], training=False)) for start in range(0, len(X), 1024)]
        scores = np.concatenate(blocks).astype(np.float64)
        if scores.shape[1] == 1 < len(self.classes_):
            return np.hstack([1 - scores, scores])
        return scores / scores.sum(axis=1, keepdims=True)

    def to_saved(self) -> Saved:
        """Return the model's configuration and its weights."""
        weights = {f"weights{number}": array for number, array in enumerate(self.model_.get_weights())}
        return Saved({"model": self.model_.get_config()}, weights)

    @classmethod
    def from_saved(cls, classes: np.ndarray, saved: Saved) -> DenseHead:
        """Build a model from allowed layers, after checking that its weights have the sizes it claims."""
        config = saved.told["model"]
        check_config(config, saved.path, _LAYERS)
        weights = [saved.arrays[f"weights{number}"] for number in range(len(saved.arrays))]
        lengths = {length for array in weights for length in array.shape}
        for layer in config["layers"]:
            claimed = [layer["config"].get("units"), *(layer["config"].get("batch_shape") or ())]
            if not {each for each in claimed if each is not None} <= lengths:
                raise ValueError(f"a layer claims the sizes {claimed}, which its weights do not have")
        model = import_keras().Sequential.from_config(config)
        model.set_weights(weights)
        return cls(model, classes)

    def as_layers(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return probabilities, (n, n_classes)."""
        found = self.model_(features)
        if len(self.classes_) == 2 and found.shape[1] == 1:  # the probability of the second class
            return affine(found, np.array([[-1.0, 1.0]]), np.array([1.0, 0.0]))
        return found
