"""Fit one head on one store, choose its hyper-parameter, and save the run."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import RequestError
from features.layout import Rows
from features.splits import SPLITS
from features.store import FeatureStore

from .evaluate import evaluate
from .heads import HEADS, Choice, Classifier, check_heads, choose, refit
from .plots import plot_history
from .request import Request
from .runs import save_head, whole_folder

RESULTS = (
    "run.json",
    "compare.json",
    "probe.json",
    "lecture.json",
)  # a folder that holds one of these may be overwritten


@dataclass(frozen=True)
class Fitted:
    """A head fitted on one split of one matrix.

    Attributes
    ----------
    choice : Choice
        The hyper-parameter's value, chosen by fitting on train and looking at val.
    estimator : Classifier
        Fitted with that value on train and val together.
    probabilities : ndarray of shape (n_images, n_classes)
        Of test rows by `estimator`; of train and val rows by the head that was fitted on train alone.
    val, test : dict
        See `evaluate`.
    fit_seconds, predict_seconds : float
        Choosing and fitting; predicting the test rows.
    """

    choice: Choice
    estimator: Classifier
    probabilities: np.ndarray
    val: dict[str, float]
    test: dict[str, float]
    fit_seconds: float
    predict_seconds: float


@dataclass(frozen=True)
class Features:
    """What a head is given of a store.

    Attributes
    ----------
    X : ndarray of shape (n_images * views, n_features), float32
        Consecutive rows are the views of one image.
    widths : tuple of int
        Number of features of each layer in X.
    views : int
    layer, pool : str
        Where they come from, for people.
    """

    X: np.ndarray
    widths: tuple[int, ...]
    views: int
    layer: str
    pool: str

    def of(self, images: np.ndarray) -> np.ndarray:
        """Return the rows, all views, of images given by a mask."""
        return self.X if images.all() else self.X[np.repeat(images, self.views)]


def fit_head(name: str, features: Features, y: np.ndarray, splits: np.ndarray, n_classes: int, seed: int = 0) -> Fitted:
    """Choose a head's hyper-parameter on val, fit it on train and val, and look once at test.

    It trains on all views of an image as on images of their own, and averages its probabilities over them.

    Parameters
    ----------
    name : str
        A key of ``HEADS``.
    features : Features
    y : ndarray of shape (n_images,), int
    splits : ndarray of shape (n_images,)
        Values of ``SPLITS``.
    n_classes : int
    seed : int
    """
    head = HEADS[name]
    train, val, test = (splits == SPLITS[split] for split in ("train", "val", "test"))
    if len(np.unique(y[train])) < 2:
        raise RequestError("the training rows must be of two classes at least; got one. Extract more images.")
    widths, views = features.widths, features.views
    head.make(head.values[0], seed, widths)  # imports what it needs before the clock starts
    started = time.perf_counter()
    X_train = features.of(train)
    choice = choose(head, X_train, y[train], features.of(val), y[val], seed, widths, views)
    watcher = refit(head, choice.value, X_train, y[train], seed, widths, views) if head.calibrate else choice.estimator
    estimator = refit(head, choice.value, features.of(~test), y[~test], seed, widths, views)
    fitted = time.perf_counter()
    probabilities = np.empty((len(y), n_classes))
    probabilities[test] = _all_classes(estimator, features.of(test), n_classes, views)
    predicted = time.perf_counter()
    probabilities[~test] = _all_classes(watcher, features.of(~test), n_classes, views)
    return Fitted(
        choice=choice,
        estimator=estimator,
        probabilities=probabilities,
        val=evaluate(y[val], probabilities[val]),
        test=evaluate(y[test], probabilities[test]),
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
    )


def train_head(
    store: str | Path, head: str = "logistic", *, say: Callable[[str], None] = lambda line: None, **options: Any
) -> dict[str, Any]:
    """Train one head on a store and save the run.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    head : str
        A key of ``HEADS``.
    say : callable
        Takes each line that tells what was decided.
    **options
        Other fields of `Request`.

    Returns
    -------
    run : dict
        What ``run.json`` holds: ``head``, ``val``, ``test``, ``fit_seconds`` and how it came to be.
    """
    asked = Request(store, **options)
    check_heads([head])
    folder = asked.folder(head)
    with FeatureStore(store) as opened:
        features = read_features(opened, head, asked)
        rows, provenance = opened.rows.images(), opened.provenance
    say(f"store    {store}: {describe_rows(rows, features.views)}")
    say(f"head     {head} on {features.layer}, {features.pool}: {features.X.shape[1]} features")
    fitted = fit_head(head, features, rows.labels, rows.splits, len(rows.class_names), asked.seed)
    run = {
        "head": head,
        "layer": features.layer,
        "pool": features.pool,
        "views": features.views,
        "parameter": HEADS[head].parameter,
        "value": fitted.choice.value,
        "val_accuracies": {str(value): accuracy for value, accuracy in fitted.choice.accuracies.items()},
        "val": _without_nan(fitted.val),
        "test": _without_nan(fitted.test),
        "fit_seconds": fitted.fit_seconds,
        "predict_seconds": fitted.predict_seconds,
        "seed": asked.seed,
        "store": str(store),
        "class_names": list(rows.class_names),
        "rows": rows.counts(),
        "provenance": provenance,
    }
    with whole_folder(folder, asked.overwrite) as unfinished:
        (unfinished / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_head(fitted.estimator, unfinished)
        _write_predictions(unfinished / "predictions.csv", rows, fitted.probabilities)
        if fitted.choice.history:
            _write_history(unfinished, fitted.choice)
    say(f"run      {folder}")
    return {**run, "out": str(folder)}


def read_features(store: FeatureStore, head: str, asked: Request) -> Features:
    """Read what a head wants of a store: layers are pooled each by itself and joined side by side."""
    views = asked.views or store.views
    if not 1 <= views <= store.views or asked.views == 0:
        raise RequestError(
            f"views must be between 1 and {store.views}, those of {store.path}; got {asked.views}. Leave it out for all."
        )
    rows = None if views == store.views else np.flatnonzero(store.rows.views < views)
    names = asked.layer.split(",") if asked.layer else [list(store.layers)[-1]]
    parts, pools = [], []
    for name in names:
        is_map = len(store.dataset(name).shape) == 4
        pool = asked.pool or (HEADS[head].pool if is_map else "flatten")
        parts.append(store.read(name, pool, rows))
        pools.append(pool if is_map else store.provenance["pool"])
    return Features(
        X=parts[0] if len(parts) == 1 else np.hstack(parts),
        widths=tuple(part.shape[1] for part in parts),
        views=views,
        layer="+".join(names),
        pool=", ".join(dict.fromkeys(pools)),
    )


def describe_rows(rows: Rows, views: int) -> str:
    """Return a line about the images of a store."""
    times = f", {views} views each" if views > 1 else ""
    return f"{len(rows)} images{times}, classes {', '.join(rows.class_names)}"


def _all_classes(estimator: Classifier, X: np.ndarray, n_classes: int, views: int) -> np.ndarray:
    """Return probabilities of all classes, means over views: zero for classes that were not in the training rows."""
    probabilities = np.zeros((len(X) // views, n_classes))
    if len(X):
        of_rows = estimator.predict_proba(X).astype(np.float64)
        probabilities[:, estimator.classes_] = of_rows.reshape(len(probabilities), views, -1).mean(axis=1)
        probabilities /= probabilities.sum(axis=1, keepdims=True)  # heads in float32 sum to one but for rounding
    return probabilities


def _write_predictions(path: Path, rows: Rows, probabilities: np.ndarray) -> None:
    names, splits = rows.class_names, {code: split for split, code in SPLITS.items()}
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "label", "predicted", *(f"p({name})" for name in names)])
        for row, chances in enumerate(probabilities):
            predicted = names[int(chances.argmax())]
            label, split = names[rows.labels[row]], splits[int(rows.splits[row])]
            table.writerow([rows.paths[row], split, label, predicted, *(f"{chance:.6f}" for chance in chances)])


def _write_history(folder: Path, choice: Choice) -> None:
    history = choice.history or {}
    with open(folder / "history.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["epoch", *history])
        table.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True), start=1))
    plot_history(history, choice.value, folder / "history.png")


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
