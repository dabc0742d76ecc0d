"""Fit one head on one store, choose its hyper-parameter, and save the run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np

from features.errors import RequestError
from features.options import takes
from features.runtime.log import log
from features.splits import SPLITS, check_numbers, stratified_folds
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.parallel import on_cluster, spread
from ..data.store_ref import Place
from ..data.training_data import Features, Sample
from ..evaluation.intervals import intervals_of
from ..evaluation.metrics import evaluate
from ..heads.contract import Classifier, Head, Settings
from ..heads.registry import check_heads, find_head
from ..heads.settings import Choice, Grid
from ..options import SELECT, TrainHeadOptions
from ..runs.feature_spec import Reading, all_classes
from ..runs.folders import whole_folder
from ..runs.head_file import save_head
from ..runs.learning_curves import check_tensorboard, log_history, write_history
from ..runs.predictions import save_predictions, write_predictions
from .loading import describe_features, describe_rows, find_features, is_by_products, read_features, read_once
from .request import Request
from .splitting import find_group, side_keys

FOLDS = 5


@dataclass(frozen=True)
class Result:
    """The result of fitting a head on one split.

    Attributes
    ----------
    head, layer, pool : str
    parts : list of (str, str, str)
        What `layer` and `pool` say for people; see `Part`.
    views, n_features : int
    settings : dict
        Chosen within train and val.
    tried : list of dict
        See `Choice`.
    val, test : dict
        See `evaluate`.
    intervals : dict of str to tuple
        Of the test metrics; see `intervals_of`.
    fit_seconds, predict_seconds : float
        Time to choose and fit; time to predict the test rows.
    probabilities : ndarray of shape (n_images, n_classes)
        Test rows: from the head fitted on train and val; other rows: from the one fitted on train alone.
    history : dict of str to list, optional
        Learning curves of heads that train by epochs; see `Choice`.
    group : str, optional
        The column that names each row's group; a group shared a fold.
    """

    head: str
    layer: str
    pool: str
    parts: Sequence[Sequence[str]]
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
    group: str | None = None

    def told(self) -> dict[str, Any]:
        """Return everything but the probabilities."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "probabilities"}


@dataclass(frozen=True)
class Fitted:
    """The head behind a result, fitted on train and val, with its learning curves if it trains by epochs."""

    estimator: Classifier
    choice: Choice


def fit_head(
    name: str,
    features: Features,
    rows: Rows,
    splits: np.ndarray,
    seed: int = 0,
    select: str = SELECT,
    settings: Settings = MappingProxyType({}),
    group: str | None = None,
) -> tuple[Result, Fitted]:
    """Choose a head's settings within train and val, fit it on both, and evaluate it once on test.

    Parameters
    ----------
    name : str
        A key of ``HEADS``, or the dotted name of a scikit-learn classifier.
    features : Features
    rows : Rows
        One per image.
    splits : ndarray of shape (n_images,)
        Values of ``SPLITS``.
    seed : int
    select : {'cv', 'val'}
        How settings are chosen: by five-fold cross-validation within train and val, or by fitting on train and evaluating
        on val. A Dense head's settings and epoch are always chosen on val.
    settings : dict of str to tuple
        See `find_head`.
    group : str, optional
        Column that names each row's group; a group shares a fold.

    Raises
    ------
    RequestError
        If the head cannot be fitted to these images; the message names the head.
    """
    head, views_given = find_head(name, settings), features.views
    if head.views == "mean":
        features = features.averaged()
    y = rows.labels
    train, val, test = (splits == SPLITS[split] for split in ("train", "val", "test"))
    learn = ~test
    if len(np.unique(y[train])) < 2:
        raise RequestError("the training rows must have at least two classes; got one. Add images of another class.")
    if not val.any():
        raise RequestError("val must have an image; got none. Add images.")
    sample = take_sample(features, rows, learn, val, seed, group)
    with _naming(name):
        head.searcher.warm_up()
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
    keys = None if group is None else side_keys(rows, group)
    groups = keys and [key for key, tested in zip(keys, test, strict=True) if tested]
    result = Result(
        head=name,
        layer=features.layer,
        pool=features.pool,
        parts=features.parts,
        views=views_given,
        n_features=features.X.shape[1],
        settings=choice.settings,
        tried=choice.tried,
        val=evaluate(y[val], probabilities[val]),
        test=evaluate(y[test], probabilities[test]),
        intervals=intervals_of(y[test], probabilities[test], groups),
        fit_seconds=fitted - started,
        predict_seconds=predicted - fitted,
        probabilities=probabilities,
        history=choice.history,
        group=group,
    )
    return result, Fitted(estimator, choice)


@contextmanager
def _naming(head: str) -> Iterator[None]:
    """Name the head in errors raised while fitting it; scikit-learn's become RequestError."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{head}: {error}") from error
    except ValueError as error:
        told = " ".join(str(error).split())
        raise RequestError(
            f"{head}: it cannot be fitted to these images: {told.rstrip('.')}. Add images, or take another head."
        ) from error


def take_sample(
    features: Features, rows: Rows, images: np.ndarray, val: np.ndarray, seed: int, group: str | None = None
) -> Sample:
    """Return the images given by a mask as a sample for a head to learn from, dealt out to folds.

    Raises
    ------
    RequestError
        If a class has too few groups.
    """
    keys = [key for key, chosen in zip(side_keys(rows, group), images, strict=True) if chosen]
    if group is not None:
        check_numbers(rows.labels[images], keys, rows.class_names, group, 2, "folds")
    folds = stratified_folds(rows.strata[images], keys, FOLDS, seed)
    return Sample(features.only(images), rows.labels[images], val[images], folds, seed)


def _grid(head: Head, features: Features) -> Grid:
    """Return a head's grid, without scale ``all`` if there is one layer, where it means the same as the layer's scale."""
    if "scale" in head.grid and len(features.widths) == 1:
        return {**head.grid, "scale": tuple(each for each in head.grid["scale"] if each != "all")}
    return head.grid


@dataclass(frozen=True)
class TrainedHead:
    """The result of `train_head`: the content of ``run.json``, and where it is.

    Attributes
    ----------
    head, layer, pool : str
    parts : list of (str, str, str)
        What `layer` and `pool` say for people; see `Part`.
    views, n_features : int
    settings : dict
        Chosen within train and val.
    tried : list of dict
        Settings that were tried, each with its score.
    val, test : dict of str to float or None
        Metric → value; None if undefined.
    intervals : dict of str to tuple or None
        Metric → 95 % interval of its test value.
    fit_seconds, predict_seconds : float
    select : {'cv', 'val'}
    seed : int
    group : str or None
        The column that names each row's group; a group stayed on one side.
    store, head_file, out : str
        The store it was trained on, the head's file, and the folder of the run.
    class_names : list of str
    rows : dict
        Split → class → number of images.
    reading, provenance : dict
        How the head's input is made from features, and how the features were made.
    """

    head: str
    layer: str
    pool: str
    parts: Sequence[Sequence[str]]
    views: int
    n_features: int
    settings: dict[str, Any]
    tried: list[dict[str, Any]]
    val: dict[str, float | None]
    test: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    fit_seconds: float
    predict_seconds: float
    select: str
    seed: int
    group: str | None
    store: str
    class_names: list[str]
    rows: dict[str, dict[str, int]]
    reading: dict[str, Any]
    provenance: dict[str, Any]
    head_file: str
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@takes(TrainHeadOptions)
def train_head(store: str | Path, head: str = "logistic", **options: Unpack[TrainHeadOptions]) -> TrainedHead:
    """Train one head on a store and save the run.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    head : str
        A key of ``HEADS``, or the dotted name of a scikit-learn classifier.
    **options

    Returns
    -------
    run : TrainedHead

    Raises
    ------
    RequestError
        If the head, a layer or a setting does not exist, `out` exists already, or the head contains types that cannot be
        loaded safely.
    StoreError
        If the store is missing or damaged, or its features are a matrix larger than the memory.

    Examples
    --------
    >>> run = pipeline.train_head("cache/photos.h5", "logistic", settings={"C": (1.0, 10.0)})   # doctest: +SKIP
    >>> run.test["accuracy"], run.intervals["accuracy"]   # doctest: +SKIP
    """
    tensorboard = options.get("tensorboard")
    asked = Request.of(store, options)
    check_heads([head], asked.settings)
    if tensorboard is not None:
        check_tensorboard(head)
    folder = asked.folder(head)
    with FeatureStore(store) as opened:
        asked = replace(asked, group=find_group(opened, asked.group))
        rows, provenance, features = opened.rows.images(), opened.provenance, find_features(opened, head, asked)
        log.info(f"store    {store}: {describe_rows(rows, features.views)}")
        log.info(f"head     {head} on {describe_features(features, asked)}")
        with on_cluster(asked.cluster, asked.skip_unfit):
            if asked.cluster is None or is_by_products(opened, head, asked):
                whole = read_features(opened, head, asked)
                result, fitted = fit_head(
                    head, whole, rows, rows.splits, asked.seed, asked.select, asked.settings, asked.group
                )
            else:
                call = Place.of(opened), head, asked.for_any_machine(), rows.splits
                ((result, fitted),) = spread(fit_stored, [call])
    run: dict[str, Any] = {
        **{name: value for name, value in result.told().items() if name != "history"},
        "val": _without_nan(result.val),
        "test": _without_nan(result.test),
        "intervals": {name: None if math.isnan(ends[0]) else ends for name, ends in result.intervals.items()},
        "select": asked.select,
        "seed": asked.seed,
        "store": str(store),
        "class_names": list(rows.class_names),
        "rows": rows.counts(),
        "reading": Reading(features.read, features.views, find_head(head).views).to_json(),
        "provenance": provenance,
    }
    with whole_folder(folder, asked.overwrite) as unfinished:
        run["head_file"] = save_head(fitted.estimator, unfinished, asked.joblib)
        (unfinished / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_predictions(unfinished / "predictions.csv", rows, result.probabilities)
        tested = result.probabilities[rows.splits == SPLITS["test"]]
        save_predictions(unfinished, rows, [rows.splits], {head: [result.told()]}, {head: [tested]})
        if fitted.choice.history:
            write_history(unfinished, fitted.choice)
    if tensorboard is not None:
        log_history(Path(tensorboard) / folder.name, fitted.estimator, fitted.choice)
    log.info(f"run      {folder}")
    return TrainedHead(**run, out=str(folder))


def fit_stored(place: Place, head: str, asked: Request, splits: np.ndarray) -> tuple[Result, Fitted]:
    """Fit a head on a store opened by its path, in this or another process; see `fit_head`."""
    rows, features = read_once(place, head, asked)
    return fit_head(head, features, rows, splits, asked.seed, asked.select, asked.settings, asked.group)


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
