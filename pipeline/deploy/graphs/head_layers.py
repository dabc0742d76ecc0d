"""Trained heads as Keras layers with the same scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from features.errors import RequestError, command, option

from ...heads.contract import Classifier
from ...heads.linear_head import affine

if TYPE_CHECKING:
    import keras


def apply_head(head: Classifier, features: keras.KerasTensor, n_classes: int, name: str) -> keras.KerasTensor:
    """Return probabilities of all classes, (n, n_classes), computed from features, (n, n_features), float32.

    Parameters
    ----------
    head : Classifier
    features : KerasTensor
    n_classes : int
        Number of classes in the data; classes without training rows have probability zero.
    name : str
        The head's name, for messages.

    Raises
    ------
    RequestError
        If the head cannot be computed by layers.
    """
    found = head.as_layers(features)
    if found is None:
        raise RequestError(
            f"an exported head must be computable by layers; {name} is not, like all heads that look up training rows or branch. "
            f"Train another on the same store, such as {option('head', 'rbf-svm')} or logistic, or use {command('predict')}"
        )
    if np.array_equal(head.classes_, np.arange(n_classes)):
        return found
    return affine(found, np.eye(n_classes)[head.classes_], np.zeros(n_classes))
