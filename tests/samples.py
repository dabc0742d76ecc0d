"""Made-up features that classes can be told by, and rows of a store for them."""

import numpy as np

from features.store.schema import Rows


def rows_of(y, splits, n_classes):
    """Return rows of images that are all different."""
    names = tuple(map(str, range(n_classes)))
    numbers = np.arange(len(y), dtype="<u4")
    sha256 = np.pad(numbers[:, None].view(np.uint8), ((0, 0), (0, 28)))
    return Rows(names, tuple(map(str, numbers)), y, splits, y, np.zeros(len(y), np.uint8), sha256)


def blobs(n_classes, rows=30, features=12, seed=0):
    """Return separable X of post-ReLU kind, y and splits, `rows` a class."""
    random = np.random.default_rng(seed)
    y = np.tile(np.arange(n_classes), rows)
    X = random.exponential(1.0, (len(y), features)).astype(np.float32)
    X[np.arange(len(y)), y] += 8
    return X, y, np.repeat([0, 1, 2], [len(y) // 2, len(y) // 4, len(y) - len(y) // 2 - len(y) // 4]).astype(np.uint8)
