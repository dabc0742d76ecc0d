"""Reproduction of the lecture's two models, in their original and in a corrected form.

The lecture put Flatten, Dense(10, relu), Dense(1, sigmoid) on top of VGG16 and InceptionV3 and trained with RMSprop on ten
batches of 20 images per epoch. Images were resized by nearest neighbour and divided by 255. For InceptionV3 it used
``layers[-2]``, which is one branch of the last block, not the block's output.
"""

from __future__ import annotations

import csv
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from features.errors import WeightsError
from features.extraction.run import extract
from features.images.bounds import MAX_PIXELS
from features.options import takes
from features.runtime.log import log
from features.sources.load import source_name
from features.splits import SPLITS
from features.store.reader import FeatureStore

from ...data.training_data import Features
from ...evaluation.significance import accuracy_interval, with_interval
from ...heads.dense.classifier import DenseHead
from ...heads.dense.config import Recipe, Schedule
from ...heads.dense.search import train_heads
from ...options import LectureOptions
from ...runs.folders import ResultFolder
from ...runs.plots import plot_curves
from ..loading import read_features
from ..request import Request, check_seed
from ..splitting import check_repeats, draw_splits

EPOCHS, BATCH, STEPS, VAL_STEPS = 30, 20, 10, 50


@dataclass(frozen=True)
class Model:
    """One model: its extraction settings, and whether an epoch is the lecture's ten batches or all images."""

    name: str
    backbone: str
    layer: str
    preprocess: Literal["imagenet", "rescale", "none"]
    resize: Literal["bilinear", "nearest"]
    image_size: int
    whole_epochs: bool


MODELS = (
    Model("VGG16, as in the lecture", "vgg16", "block5_pool", "rescale", "nearest", 224, False),
    Model("VGG16, corrected", "vgg16", "block5_pool", "imagenet", "bilinear", 224, True),
    Model("InceptionV3, as in the lecture", "inception_v3", "-2", "rescale", "nearest", 224, False),
    Model("InceptionV3, corrected", "inception_v3", "mixed10", "imagenet", "bilinear", 299, True),
)


@takes(LectureOptions)
def lecture(data: str | Path, **options: Unpack[LectureOptions]) -> dict[str, Any]:
    """Run the lecture's models, original and corrected, on one source.

    Parameters
    ----------
    data : str
        See `load_source`; two classes or more.
    **options

    Returns
    -------
    results : dict
        ``models``: for each model its metrics, or ``error`` if its weights are not available.
    """
    repeats, seed, overwrite = options.get("repeats", 1), options.get("seed", 0), options.get("overwrite", False)
    check_repeats(repeats)
    check_seed(seed)
    name = source_name(str(data))
    folder = ResultFolder(options.get("out"), f"{name}-lecture", overwrite)
    models, histories = [], {}
    for model in MODELS:
        log.info(f"model    {model.name}")
        try:
            store = Path("cache") / f"{name}-lecture-{MODELS.index(model) + 1}.h5"
            extract(
                data, backbone=model.backbone, layers=(model.layer,), preprocess=model.preprocess, resize=model.resize,
                image_size=model.image_size, limit=options.get("limit"), seed=seed, out=store,
                max_pixels=options.get("max_pixels", MAX_PIXELS),
            )  # fmt: skip
        except WeightsError as error:
            log.error(str(error))
            models.append({"name": model.name, "error": str(error)})
            continue
        figures, histories[model.name] = _train(model, store, repeats, seed)
        models.append(figures)
    results = {"models": models, "data": data, "repeats": repeats, "seed": seed}
    with folder.written() as unfinished:
        (unfinished / "lecture.md").write_text(format_lecture(results) + "\n", encoding="utf-8")
        (unfinished / "lecture.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        _write_curves(unfinished, histories)
    log.info(f"written  {folder.path}/lecture.md, lecture.json, curves.csv, curves.png")
    return {**results, "out": str(folder.path)}


def format_lecture(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table, followed by the models that could not be run."""
    lines = [
        "| model | layer | features | val accuracy, last epoch | test accuracy [95 %] | fit s |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for model in results["models"]:
        if "error" in model:
            notes += ["", f"{model['name']} was not run: {model['error']}"]
            continue
        lines.append(
            f"| {model['name']} | {model['layer']} | {model['n_features']} | {model['val_accuracy']:.3f} "
            f"| {with_interval(model['accuracy'], model['accuracy_interval'], results['repeats'])} | {model['fit_seconds']:.1f} |"
        )
    return "\n".join(lines + notes)


def _train(model: Model, path: Path, repeats: int, seed: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Return a model's metrics, averaged over splits, and its learning curves on the first split."""
    with FeatureStore(path) as store:
        features, rows = read_features(store, "dense", Request(path, memory=math.inf)), store.rows
    started = time.perf_counter()
    splits = draw_splits(rows, repeats, seed)
    trained = [_fit(model, features, rows.labels, split, seed) for split in splits]
    accuracies = [accuracy for accuracy, _ in trained]
    n_train, n_test = (int(np.sum(splits[0] == SPLITS[name])) for name in ("train", "test"))
    figures = {
        "name": model.name,
        "layer": features.layer,
        "n_features": features.X.shape[1],
        "val_accuracy": float(np.mean([history["val_accuracy"][-1] for _, history in trained])),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_interval": accuracy_interval(accuracies, n_train, n_test),
        "fit_seconds": (time.perf_counter() - started) / repeats,
    }
    return figures, trained[0][1]


def _fit(
    model: Model, features: Features, labels: np.ndarray, split: np.ndarray, seed: int
) -> tuple[float, dict[str, list[float]]]:
    """Train one head for all epochs, without choosing an epoch by val, as the lecture did.

    Returns
    -------
    accuracy : float
        On the test rows.
    history : dict of str to list of float
        Learning curves.
    """
    train, val, test = (split == SPLITS[name] for name in ("train", "val", "test"))
    val &= np.isin(labels, labels[train])  # the head cannot predict other classes
    schedule = Schedule(
        epochs=EPOCHS, batch_size=BATCH, seed=seed, steps=None if model.whole_epochs else STEPS,
        val_steps=None if model.whole_epochs else VAL_STEPS, keep_best=False, scaled=model.whole_epochs,
    )  # fmt: skip
    classes = np.unique(labels[train])
    targets = np.searchsorted(classes, labels)
    (trained,) = train_heads([Recipe()], schedule, features.X, targets, np.flatnonzero(train), np.flatnonzero(val))
    head = DenseHead(trained.model, classes)
    return float(np.mean(head.predict(features.of(test)) == labels[test])), trained.history


def _write_curves(folder: Path, histories: dict[str, dict[str, list[float]]]) -> None:
    with open(folder / "curves.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["model", "epoch", "loss", "accuracy", "val_loss", "val_accuracy"])
        for name, history in histories.items():
            columns = (history[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy"))
            table.writerows([name, epoch, *values] for epoch, values in enumerate(zip(*columns, strict=True), start=1))
    plot_curves(histories).savefig(folder / "curves.png")
