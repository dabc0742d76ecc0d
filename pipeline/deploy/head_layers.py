"""Trained heads as Keras layers with the same scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import RequestError
from features.runtime.keras_runtime import import_keras

from ..heads.calibration import Sigmoids
from ..heads.dense.search import DenseHead
from ..heads.linear_head import LinearHead
from ..heads.registry import Classifier
from ..heads.svm.search import Svm, class_pairs
from ..heads.svm.voting import Vote

if TYPE_CHECKING:
    import keras


def apply_head(head: Classifier, features: keras.KerasTensor, n_classes: int, name: str) -> keras.KerasTensor:
    """Return probabilities of all classes, (n, n_classes), of features, (n, n_features), float32.

    Parameters
    ----------
    head : Classifier
    features : KerasTensor
    n_classes : int
        Those of the data; classes that were not in the training rows have probability zero.
    name : str
        What the user calls the head.

    Raises
    ------
    RequestError
        If the head is no function that layers can compute.
    """
    if isinstance(head, LinearHead):
        found = _linear(features, head.coef_, head.intercept_, head.sigmoids_)
    elif isinstance(head, Svm):
        found = _svm(features, head)
    elif isinstance(head, Vote):
        parts = [(each.head, features[:, each.first : each.last]) for each in head.members_]
        chances = [apply_head(member, part, n_classes, name) for member, part in parts]
        return import_keras().ops.mean(import_keras().ops.stack(chances), axis=0)
    elif isinstance(head, DenseHead):
        found = head.model_(features)
        if len(head.classes_) == 2 and found.shape[1] == 1:  # the probability of the second class
            found = _affine(found, np.array([[-1.0, 1.0]]), np.array([1.0, 0.0]))
    else:
        raise RequestError(
            f"an exported head must be a function that layers compute; {name} looks up training rows, or branches. "
            "Train another on the same store, such as --head rbf-svm or logistic, or use python -m pipeline predict"
        )
    if np.array_equal(head.classes_, np.arange(n_classes)):
        return found
    return _affine(found, np.eye(n_classes)[head.classes_], np.zeros(n_classes))


def _affine(x: Any, kernel: np.ndarray, bias: np.ndarray, activation: str | None = None) -> Any:
    layer = import_keras().layers.Dense(kernel.shape[1], activation=activation, dtype=x.dtype)
    made = layer(x)
    layer.set_weights([kernel.astype(x.dtype), bias.astype(x.dtype)])
    return made


def _linear(x: Any, kernel: np.ndarray, bias: np.ndarray, sigmoids: Sigmoids | None) -> Any:
    """Return probabilities of scores that are linear in x; one score says how much the second of two classes is ahead."""
    slopes, offsets = (np.ones(1), np.zeros(1)) if sigmoids is None else (sigmoids.slopes, sigmoids.offsets)
    kernel, bias = kernel * slopes, bias * slopes + offsets
    if len(bias) == 1:
        return _affine(x, np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0)), "softmax")
    if sigmoids is None:
        return _affine(x, kernel, bias, "softmax")
    ops, chances = import_keras().ops, _affine(x, kernel, bias, "sigmoid")
    return chances / ops.maximum(ops.sum(chances, axis=1, keepdims=True), 1e-37)


def _svm(x: Any, head: Svm) -> Any:
    ops, gamma = import_keras().ops, head.gamma_
    assert isinstance(head.support_vectors_, np.ndarray)  # as of every head that was loaded
    support = (head.support_vectors_ / head.scale_).astype(np.float64)
    # In doubles: squared distances are small differences of large numbers, and many kernels add up to one score.
    x = ops.cast(x, "float64")
    if gamma is None:
        return _pairs(x, support.T @ head.weights_, head)
    # exp(-gamma |a - b|^2) of scaled rows, its square written out.
    squares = _affine(ops.square(x), -gamma / np.square(head.scale_, dtype=np.float64)[:, None], np.zeros(1))
    lengths = np.square(head.support_vectors_, dtype=np.float64).sum(axis=1)
    products = _affine(x, 2 * gamma * support.T, -gamma * lengths)
    return _pairs(ops.exp(ops.minimum(products + squares, 0.0)), head.weights_, head)


def _pairs(x: Any, kernel: np.ndarray, head: Svm) -> Any:
    """Return probabilities of the scores of pairs of classes, which are linear in x; see `join_pairs`."""
    n_classes = len(head.classes_)
    pairs = import_keras().ops.cast(_affine(x, kernel, head.intercept_), "float32")
    if n_classes == 2:
        return _linear(pairs, np.eye(1), np.zeros(1), head.sigmoids_)
    votes = import_keras().ops.tanh(pairs)
    return _linear(votes, class_pairs(n_classes), np.zeros(n_classes), head.sigmoids_)
