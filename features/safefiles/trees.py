"""Checks of untrusted scikit-learn trees, whose nodes compiled code follows without bounds checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def check_trees(estimator: Any) -> None:
    """Raise ValueError unless every node of an estimator's trees refers to later nodes and existing features."""
    for left, right, leaf, feature in _trees(estimator):
        here, inner = np.arange(len(leaf)), ~leaf
        children = np.concatenate([left[inner], right[inner]]).astype(np.int64)
        parents = np.concatenate([here[inner], here[inner]])
        asked = feature[inner].astype(np.int64)
        inside = (children > parents).all() and (children < len(leaf)).all()
        if not (len(leaf) and inside and (asked >= 0).all() and (asked < estimator.n_features_in_).all()):
            raise ValueError("a tree's nodes refer to missing nodes or features")


def _trees(estimator: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (left, right, is_leaf, feature) of the nodes of each tree."""
    for stage in getattr(estimator, "_predictors", ()):  # of HistGradientBoosting
        for predictor in stage:
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise ValueError("a tree has categorical splits")
            yield nodes["left"], nodes["right"], nodes["is_leaf"].astype(bool), nodes["feature_idx"]
    for each in np.ravel(getattr(estimator, "estimators_", [estimator])):
        tree = getattr(each, "tree_", None)
        if tree is not None:
            yield tree.children_left, tree.children_right, tree.children_left == -1, tree.feature
