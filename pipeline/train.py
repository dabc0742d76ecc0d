"""Fit one head on one store, choose its hyper-parameter, and save the run."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from features.errors import RequestError, missing_extra
from features.layout import Rows
from features.pooling import check_pool, pooled_shape
from features.runtime import import_keras
from features.splits import SPLITS, stratified_folds
from features.store import FeatureStore

from .bootstrap import bootstrap_intervals
from .choice import Choice, Grid
from .dense import DenseSearch
from .evaluate import evaluate
from .headfile import save_head
from .heads import Classifier, Head, Settings, check_heads, find_head
from .plots import plot_history
from .predictions import save_predictions
from .reading import Reading, class_probabilities
from .request import Request
from .runs import whole_folder
from .sample import Features, Sample
from .stream import Matrix, Stored

FOLDS = 5
_PREDICT_BYTES = 64 << 20  # features that are predicted on at once


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
    intervals : dict of str to tuple
        Of test figures; see `bootstrap_intervals`.
    fit_seconds, predict_seconds : float
        Choosing and fitting; predicting the test rows.
    probabilities : ndarray of shape (n_images, n_classes)
        Of test rows by the head fitted on train and val; of the others by the one fitted on train alone.
    history : dict of str to list, optional
        Learning curves, of heads that train by epochs; see `Choice`.
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
    intervals: dict[str, tuple[float, float]]
    fit_seconds: float
    predict_seconds: float
    probabilities: np.ndarray
    history: dict[str, list[float]] | None = None

    def told(self) -> dict[str, Any]:
        """Return all but the probabilities."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "probabilities"}


@dataclass(frozen=True)
class Fitted:
    """The head behind a result: fitted on train and val, and how it learnt, where it learns by epochs."""

    estimator: Classifier
    choice: Choice


def fit_head(
    name: str,
    features: Features,
    rows: Rows,
    splits: np.ndarray,
    seed: int = 0,
    select: str = "cv",
    settings: Settings = MappingProxyType({}),
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
        at val. A Dense head's settings and epoch are always chosen on val.
    settings : dict of str to tuple
        See `find_head`.
    """
    head, views_given = find_head(name, settings), features.views
    if head.views == "mean":
        features = features.averaged()
    y = rows.labels
    train, val, test = (splits == SPLITS[split] for split in ("train", "val", "test"))
    learn = ~test
    if len(np.unique(y[train])) < 2:
        raise RequestError("the training rows must be of two classes at least; got one. Add images.")
    if not val.any():
        raise RequestError("val must have an image; got none. Add images.")
    sample = take_sample(features, rows, learn, val, seed)
    if head.search is DenseSearch:
        import_keras()  # before the clock starts
    started = time.perf_counter()
    search = head.search(sample, _grid(head, features))
    choice = search.choose(sample.pairs(select))
    watcher = search.fit(choice.settings, ~sample.val)
    estimator = search.fit(choice.settings, sample.everything)
    fitted = time.perf_counter()
    probabilities = np.empty((len(y), len(rows.class_names)))
    probabilities[test] = all_classes(estimator, features, test, len(rows.class_names))
    predicted = time.perf_counter()
    probabilities[learn] = all_classes(watcher, features, learn, len(rows.class_names))
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
        intervals=bootstrap_intervals(y[test], probabilities[test]),
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
        probabilities=probabilities,
        history=choice.history,
    )
    return result, Fitted(estimator, choice)


def take_sample(features: Features, rows: Rows, images: np.ndarray, val: np.ndarray, seed: int) -> Sample:
    """Return the images given by a mask as what a head may learn from, dealt out to folds."""
    keys = [rows.sha256[row].tobytes() for row in np.flatnonzero(images)]
    folds = stratified_folds(rows.strata[images], keys, FOLDS, seed)
    return Sample(features.only(images), rows.labels[images], val[images], folds, seed)


def _grid(head: Head, features: Features) -> Grid:
    """Return a head's grid, without the scale of all features where it is that of the one layer."""
    if "scale" in head.grid and len(features.widths) == 1:
        return {**head.grid, "scale": tuple(each for each in head.grid["scale"] if each != "all")}
    return head.grid


def train_head(
    store: str | Path,
    head: str = "logistic",
    *,
    tensorboard: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Train one head on a store and save the run.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    head : str
        A key of ``HEADS``, or the dotted name of a scikit-learn classifier.
    tensorboard : path-like, optional
        Folder for TensorBoard's logs of a Dense head's learning curves.
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
    check_heads([head], asked.settings)
    if tensorboard is not None:
        _check_tensorboard(head)
    folder = asked.folder(head)
    with FeatureStore(store) as opened:
        features = read_features(opened, head, asked)
        rows, provenance = opened.rows.images(), opened.provenance
        say(f"store    {store}: {describe_rows(rows, features.views)}")
        streamed = (
            "" if isinstance(features.X, np.ndarray) else f", {features.X.block_rows} rows at a time from the store"
        )
        say(f"head     {head} on {features.layer}, {features.pool}: {features.X.shape[1]} features{streamed}")
        result, fitted = fit_head(head, features, rows, rows.splits, asked.seed, asked.select, asked.settings)
    run = {
        **{name: value for name, value in result.told().items() if name != "history"},
        "val": _without_nan(result.val),
        "test": _without_nan(result.test),
        "intervals": {name: None if math.isnan(ends[0]) else ends for name, ends in result.intervals.items()},
        "select": asked.select,
        "seed": asked.seed,
        "store": str(store),
        "class_names": list(rows.class_names),
        "rows": rows.counts(),
        "reading": Reading(features.parts, features.views, find_head(head).views).to_json(),
        "provenance": provenance,
    }
    with whole_folder(folder, asked.overwrite) as unfinished:
        run["head_file"] = save_head(fitted.estimator, unfinished, asked.joblib)
        (unfinished / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_predictions(unfinished / "predictions.csv", rows, result.probabilities)
        tested = result.probabilities[rows.splits == SPLITS["test"]]
        save_predictions(unfinished, rows, [rows.splits], {head: [result.told()]}, {head: [tested]})
        if fitted.choice.history:
            _write_history(unfinished, fitted.choice)
    if tensorboard is not None:
        _log_history(fitted, Path(tensorboard) / folder.name)
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
    ways, pools, widths = [], [], []
    for name in names:
        shape = store.dataset(name).shape[1:]
        is_map = len(shape) == 3
        ways.append(asked.pool or (find_head(head).pool if is_map else "flatten"))
        check_pool(ways[-1], shape, str(store.path))
        pools.append(ways[-1] if is_map else store.provenance["pool"])
        times = pools[-1].count("+") + 1  # average and maximum have each a scale of their own
        widths += [math.prod(pooled_shape(shape, ways[-1])) // times] * times

    def read(some: np.ndarray | None) -> np.ndarray:
        parts = [store.read(name, pool, some) for name, pool in zip(names, ways, strict=True)]
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    return Features(
        X=_in_memory_or_stored(store, head, asked, rows, sum(widths), read),
        widths=tuple(widths),
        views=views,
        layer="+".join(names),
        pool=", ".join(dict.fromkeys(pools)),
        parts=tuple(zip(names, ways, strict=True)),
    )


def _in_memory_or_stored(
    store: FeatureStore,
    head: str,
    asked: Request,
    rows: np.ndarray | None,
    n_features: int,
    read: Callable[[np.ndarray | None], np.ndarray],
) -> Matrix:
    """Return a matrix that is read, or one that stays in the store where it is too large and the head can stream it."""
    chosen = np.arange(len(store)) if rows is None else rows
    row_bytes = 4 * n_features
    if row_bytes * len(chosen) <= asked.memory_bytes:
        return read(rows)
    if find_head(head).search is not DenseSearch:
        raise RequestError(
            f"features must fit into {asked.memory_bytes / 1e9:.2g} GB; {head} needs {row_bytes * len(chosen) / 1e9:.2g} GB "
            f"for {len(chosen)} rows of {n_features}. Pool them: --pool avg, use --head dense, or allow more: --memory GB"
        )
    # A block is there twice, as it is read and as TensorFlow has it, while its rows are being pooled.
    block_rows = int(asked.memory_bytes / 4 / row_bytes)
    if block_rows < 1:
        raise RequestError(
            f"memory must hold four rows of {row_bytes} bytes at least; got {asked.memory} GB. Raise it."
        )
    return Stored((len(chosen), n_features), lambda some: read(chosen[some]), block_rows)


def describe_rows(rows: Rows, views: int) -> str:
    """Return a line about the images of a store."""
    times = f", {views} views each" if views > 1 else ""
    return f"{len(rows)} images{times}, classes {', '.join(rows.class_names)}"


def all_classes(estimator: Classifier, features: Features, images: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities of all classes of images given by a mask, some at a time; see `class_probabilities`."""
    numbers, views = np.flatnonzero(images), features.views
    step = max(1, _PREDICT_BYTES // (4 * views * features.X.shape[1]))
    blocks = [
        class_probabilities(
            estimator,
            features.X[(numbers[start : start + step, None] * views + np.arange(views)).ravel()],
            n_classes,
            views,
        )
        for start in range(0, len(numbers), step)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, n_classes))


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


def _check_tensorboard(head: str) -> None:
    if find_head(head).search is not DenseSearch:
        raise RequestError(f"tensorboard must be left out: {head} does not learn by epochs. Use --head dense or mlp")
    if importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard", "--tensorboard")


def _log_history(fitted: Fitted, folder: Path) -> None:
    keras, model, settings = import_keras(), fitted.estimator.model_, fitted.choice.settings  # type: ignore[attr-defined]
    model.compile(keras.optimizers.get(settings["optimizer"]))  # the callback logs its rate
    model.optimizer.learning_rate = settings["learning_rate"]
    log = keras.callbacks.TensorBoard(folder, write_graph=False)
    log.set_model(model)
    history = fitted.choice.history or {}
    for epoch, values in enumerate(zip(*history.values(), strict=True)):
        log.on_epoch_end(epoch, dict(zip(history, values, strict=True)))
    log.on_train_end()


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
