"""Made-up features that classes can be told by, rows of a store for them, and the store."""

from dataclasses import replace

import h5py
import numpy as np

from features.pooling import kind_of
from features.store import schema
from features.store.provenance import CPU, Augment, EngineSpec, FeatureSpec, Provenance
from features.store.schema import Rows
from pipeline.data.training_data import Features, Part, Sample


def provenance_of(shapes, dtype="float16", compression="gzip"):
    """Return a provenance, made up but for what it says of the layers: name and shape of a row."""
    engine = EngineSpec("tensorflow", "2", CPU, "float32")
    spec = FeatureSpec(
        "tiny", tuple(shapes), "0" * 64, 16, "bilinear", "imagenet", "none", Augment("none"), dtype, engine
    )
    kinds = {layer: kind_of(shape) for layer, shape in shapes.items()}
    return Provenance(spec, 1, 0, 16, "imagenet", "made up", tuple(shapes), compression=compression, kinds=kinds)


def write_store(path, values, rows, made):
    """Write a store of some values, by layer, digests and all."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        schema.create(file, {layer: each.shape[1:] for layer, each in values.items()}, made, len(rows))
        digests = {layer: schema.write_layer(file, layer, each) for layer, each in values.items()}
        schema.write_rows(file, rows)
        schema.write_skipped(file, [])
        made = replace(made, values=schema.digest_values(digests, list(values)))
        schema.write_attributes(file, made.to_json())
    return path


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


def sample_of(X, y, folds=5):
    """Return all rows as a sample of one layer, its first fold being val."""
    number = np.arange(len(y)) // 2 % folds
    return Sample(Features(X, (X.shape[1],), 1, (Part("layer", "avg"),)), y, number == 0, number)
