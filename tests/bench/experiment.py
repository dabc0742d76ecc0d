"""One experiment, the lecture's head for its 30 epochs, from a store and as the lecture ran it.

    .venv/bin/python tests/bench/experiment.py --store cache/elpv-vgg16.h5

The lecture sends 10 batches of 20 images to train on and 50 to watch through the frozen base in every epoch. A few of them
are measured and the rest extrapolated, in turns with ours. The store must be of whole maps of VGG16 at 224 px.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from features import FeatureStore
from features.backbones.keras_base import build_base
from features.runtime.keras_runtime import import_keras
from features.sources.load import load_source
from features.splits import SPLITS
from pipeline.heads.dense.config import Recipe, Schedule
from pipeline.heads.dense.search import train_heads

EPOCHS, BATCH, STEPS, VAL_STEPS = 30, 20, 10, 50
MEASURED = 3  # batches of each kind


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mine, yours = ours(options.store), lecture(Path(folder))
        mine()  # traces and compiles
        taken = [(clock(mine), yours()) for _ in range(options.rounds)]
    ratios = sorted(other / one for one, other in taken)
    one, other = np.median(taken, axis=0)
    print("| what | ours s | theirs s | ratio: median [min, max] |\n|---|---|---|---|")
    print(
        f"| the lecture's head, 30 epochs, read, trained and tested | {one:.2f} | {other:.2f} "
        f"| {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
    )


def clock(run):
    """Return the seconds of a run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ours(path):
    """Open a store, train the lecture's head on it, and test it."""
    schedule = Schedule(EPOCHS, BATCH, steps=STEPS, val_steps=VAL_STEPS, keep_best=False, scaled=False)

    def run():
        with FeatureStore(path) as store:
            X, rows = store.read(pool="flatten"), store.rows
        train, val, test = (np.flatnonzero(rows.splits == SPLITS[name]) for name in ("train", "val", "test"))
        (trained,) = train_heads([Recipe()], schedule, X, rows.labels.astype(np.int64), train, val)
        assert len(trained.history["val_accuracy"]) == EPOCHS
        np.asarray(trained.model(X[test]))

    return run


def lecture(folder):
    """Train as the lecture did: the base, frozen, is a part of the model."""
    keras = import_keras()
    import tensorflow as tf

    source = load_source("elpv", limit=400)
    for row in range(len(source)):
        place = folder / source.class_names[source.labels[row]]
        place.mkdir(exist_ok=True)
        (place / f"{row}.png").symlink_to(source.file(row).resolve())
    base = build_base("vgg16", ["block5_pool"], 224).model
    base.trainable = False
    inputs = keras.Input((224, 224, 3))
    hidden = keras.layers.Dense(10, activation="relu")(
        keras.layers.Flatten()(base(inputs, training=False)["block5_pool"])
    )
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
        flow = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255).flow_from_directory(
            folder, (224, 224), batch_size=BATCH, class_mode="binary"
        )
    batches = ((flow[number % len(flow)]) for number in range(1 << 30))
    model.train_on_batch(*next(batches))
    model.test_on_batch(*next(batches))

    def run():
        step = clock(lambda: [model.train_on_batch(*next(batches)) for _ in range(MEASURED)]) / MEASURED
        look = clock(lambda: [model.test_on_batch(*next(batches)) for _ in range(MEASURED)]) / MEASURED
        return EPOCHS * (STEPS * step + VAL_STEPS * look)

    return run


if __name__ == "__main__":
    main()
