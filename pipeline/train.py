"""Fit one head on one store, choose its hyper-parameter, and save the run."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import RequestError
from features.layout import Rows
from features.runtime import import_keras
from features.splits import SPLITS, stratified_folds
from features.store import FeatureStore

from .choice import Choice, Grid
from .dense import DenseSearch
from .evaluate import evaluate
from .heads import Classifier, Head, find_head
from .plots import plot_history
from .request import Request
from .runs import save_head, whole_folder
from .sample import Features, Sample

FOLDS = 5


@dataclass(frozen=True)
class Result:
    """What came of fitting a head on one split.

    Attributes
    ----------
    head, layer, pool : str
    views, n_features : int
    settings : dict
        Chosen within train and val.
    tried : list of dict
        See `Choice`.
    val, test : dict
        See `evaluate`.
    fit_seconds, predict_seconds : float
        Choosing and fitting; predicting the test rows.
    probabilities : ndarray of shape (n_images, n_classes)
        Of test rows by the head fitted on train and val; of the others by the one fitted on train alone.
    """

    head: str
    layer: str
    pool: str
    views: int
    n_features: int
    settings: dict[str, Any]
    tried: list[dict[str, Any]]
    val: dict[str, float]
    test: dict[str, float]
    fit_seconds: float
    predict_seconds: float
    probabilities: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """The head behind a result: fitted on train and val, and how it learnt, where it learns by epochs."""

    estimator: Classifier
    choice: Choice


def fit_head(
    name: str, features: Features, rows: Rows, splits: np.ndarray, seed: int = 0, select: str = "cv"
) -> tuple[Result, Fitted]:
    """Choose a head's settings within train and val, fit it on both, and look once at test.

    Parameters
    ----------
    name : str
        A key of ``HEADS``, or the dotted name of a scikit-learn classifier.
    features : Features
    rows : Rows
        One an image.
    splits : ndarray of shape (n_images,)
        Values of ``SPLITS``.
    seed : int
    select : {'cv', 'val'}
        What settings are chosen by: five-fold cross-validation within train and val, or fitting on train and looking
        at val. A Dense head's epoch is always chosen on val.
    """
    head, views_given = find_head(name), features.views
    if head.views == "mean":
        features = features.averaged()
    y, views = rows.labels, features.views
    train, val, test = (splits == SPLITS[split] for split in ("train", "val", "test"))
    learn = ~test
    if len(np.unique(y[train])) < 2:
        raise RequestError("the training rows must be of two classes at least; got one. Add images.")
    if not val.any():
        raise RequestError("val must have an image; got none. Add images.")
    keys = [rows.sha256[row].tobytes() for row in np.flatnonzero(learn)]
    folds = stratified_folds(rows.strata[learn], keys, FOLDS, seed)
    sample = Sample(replace(features, X=features.of(learn)), y[learn], ~train[learn], folds, seed)
    if head.search is DenseSearch:
        import_keras()  # before the clock starts
    started = time.perf_counter()
    search = head.search(sample, _grid(head, features))
    choice = search.choose(sample.pairs(select))
    watcher = search.fit(choice.settings, ~sample.val)
    estimator = search.fit(choice.settings, sample.everything)
    fitted = time.perf_counter()
    probabilities = np.empty((len(y), len(rows.class_names)))
    probabilities[test] = _all_classes(estimator, features.of(test), len(rows.class_names), views)
    predicted = time.perf_counter()
    probabilities[learn] = _all_classes(watcher, features.of(learn), len(rows.class_names), views)
    result = Result(
        head=name,
        layer=features.layer,
        pool=features.pool,
        views=views_given,
        n_features=features.X.shape[1],
        settings=choice.settings,
        tried=choice.tried,
        val=evaluate(y[val], probabilities[val]),
        test=evaluate(y[test], probabilities[test]),
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
        probabilities=probabilities,
    )
    return result, Fitted(estimator, choice)


def _grid(head: Head, features: Features) -> Grid:
    """Return a head's grid, without the scale of all features where it is that of the one layer."""
    if "scale" in head.grid and len(features.widths) == 1:
        return {**head.grid, "scale": tuple(each for each in head.grid["scale"] if each != "all")}
    return head.grid


def train_head(
    store: str | Path, head: str = "logistic", *, say: Callable[[str], None] = lambda line: None, **options: Any
) -> dict[str, Any]:
    """Train one head on a store and save the run.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    head : str
        A key of ``HEADS``, or the dotted name of a scikit-learn classifier.
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
    find_head(head)
    folder = asked.folder(head)
    with FeatureStore(store) as opened:
        features = read_features(opened, head, asked)
        rows, provenance = opened.rows.images(), opened.provenance
    say(f"store    {store}: {describe_rows(rows, features.views)}")
    say(f"head     {head} on {features.layer}, {features.pool}: {features.X.shape[1]} features")
    result, fitted = fit_head(head, features, rows, rows.splits, asked.seed, asked.select)
    run = {
        **{each.name: getattr(result, each.name) for each in fields(result) if each.name != "probabilities"},
        "val": _without_nan(result.val),
        "test": _without_nan(result.test),
        "select": asked.select,
        "seed": asked.seed,
        "store": str(store),
        "class_names": list(rows.class_names),
        "rows": rows.counts(),
        "provenance": provenance,
    }
    with whole_folder(folder, asked.overwrite) as unfinished:
        (unfinished / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_head(fitted.estimator, unfinished)
        _write_predictions(unfinished / "predictions.csv", rows, result.probabilities)
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
    parts, pools, widths = [], [], []
    for name in names:
        is_map = len(store.dataset(name).shape) == 4
        pool = asked.pool or (find_head(head).pool if is_map else "flatten")
        parts.append(store.read(name, pool, rows))
        pools.append(pool if is_map else store.provenance["pool"])
        times = pools[-1].count("+") + 1  # average and maximum have each a scale of their own
        widths += [parts[-1].shape[1] // times] * times
    return Features(
        X=parts[0] if len(parts) == 1 else np.hstack(parts),
        widths=tuple(widths),
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
    plot_history(history, choice.settings["epochs"], folder / "history.png")


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
