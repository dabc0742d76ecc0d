"""Train one head on one store, and save the run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from features.errors import called, listed
from features.options import takes
from features.runtime.log import log
from features.splits import SPLITS
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.parallel import on_cluster, spread
from ..data.store_ref import Place
from ..data.training_data import Features
from ..evaluation.decisions.aim import Aim
from ..evaluation.decisions.class_sets import ClassSets, check_level, units_needed
from ..evaluation.decisions.novelty import Novelty, thinned
from ..evaluation.decisions.operating_point import OperatingPoint
from ..evaluation.held_out import unit_numbers
from ..evaluation.metrics import find_metric
from ..evaluation.significance import agresti_coull, effective_rows
from ..heads.registry import check_heads, find_head
from ..options import TrainHeadOptions
from ..runs.feature_spec import Reading
from ..runs.folders import place_of
from ..runs.head_file import save_head
from ..runs.learning_curves import check_tensorboard, log_history, write_history
from ..runs.predictions import save_predictions, write_predictions
from .fits.fitting import FOLDS, Fitted, fit_head, fit_stored
from .fits.results import Result
from .fits.time_estimate import TimeEstimate, expected_cost
from .fits.trained_head import TrainedHead
from .loading import (
    describe_features,
    describe_rows,
    find_features,
    is_by_products,
    read_features,
    warn_of_majority,
)
from .relabelling import keep_corrections, measure_corrections
from .request import Request
from .splitting import side_keys, units_among, with_groups
from .summary import slices_of, told_options

_BYTES = 1 << 18  # of features read at once for novelty


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
        If the head, a layer or a setting does not exist, `out` exists already, the head contains types that cannot be
        loaded safely, options for an operating point contradict each other or the number of classes, or features are larger than
        the memory and the head cannot be fitted to parts of them.
    StoreError
        If the store is missing or damaged.
    ClusterError
        If the cluster cannot be reached or is lost, or a worker is unfit.

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
    level = options.get("conformal")
    if level is not None:
        check_level(level)
    folder = asked.folder(head)
    with FeatureStore(store) as opened:
        features = find_features(opened, head, asked)
        log.info(f"store    {store}: {describe_rows(asked.rows(opened), features.views)}")
        asked, provenance = with_groups(opened, asked), opened.provenance
        rows = asked.rows(opened)
        aim = Aim.of(options, rows.class_names, rows.labels[rows.splits != SPLITS["test"]])
        warn_of_majority(rows, asked.metric)
        log.info(f"head     {head} on {describe_features(features, asked)}")
        result, fitted, read = _fit(opened, head, asked)
        known = _know(read or features, rows, result, fitted)
        tested = result.probabilities[rows.splits == SPLITS["test"]]
        after = replace(result, probabilities=tested)
        corrections = measure_corrections(opened, head, asked, [rows.splits], [after], folder.path.parent / ".fits")
    point = None if aim is None else _choose_point(aim, rows, result, fitted)
    sets = None if level is None else _choose_sets(level, rows, result, fitted)
    run: dict[str, Any] = {
        **{name: value for name, value in result.told().items() if name != "history"},
        "val": _without_nan(result.val),
        "test": _without_nan(result.test),
        "intervals": {name: None if math.isnan(ends[0]) else ends for name, ends in result.intervals.items()},
        "operating_point": point and point.to_json(),
        "sets": sets and sets.to_json(),
        "novelty": known.told,
        "slices": slices_of(head, [after], rows, [rows.splits], find_metric(asked.metric)),
        "corrections": corrections,
        "select": "val" if find_head(head).searcher.by_epochs else asked.select,  # what was done
        "metric": asked.metric,
        "seed": asked.seed,
        **place_of(store, folder.path),
        "class_names": list(rows.class_names),
        "rows": rows.counts(),
        "reading": Reading(features.read, features.views, find_head(head).views).to_json(),
        "provenance": provenance,
        "asked": told_options(options),
    }
    with folder.written() as unfinished:
        known.novelty.save(unfinished)
        keep_corrections(asked, unfinished)
        run["head_file"] = save_head(fitted.estimator, unfinished, asked.joblib)
        (unfinished / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        decide = None if point is None else partial(point.decide, class_names=rows.class_names)
        write_predictions(unfinished / "predictions.csv", rows, tested, fitted.out_of_fold, decide)
        save_predictions(unfinished, rows, [rows.splits], {head: [result.told()]}, {head: [tested]})
        if fitted.choice.history:
            write_history(unfinished, fitted.choice)
    if tensorboard is not None:
        log_history(Path(tensorboard) / folder.path.name, fitted.estimator, fitted.choice)
    log.info(f"run      {folder.path}")
    return TrainedHead(**run, out=str(folder.path))


def _fit(opened: FeatureStore, head: str, asked: Request) -> tuple[Result, Fitted, Features | None]:
    """Fit a head here or on a cluster, also out of fold; return the features, too, if they were read here."""
    rows = asked.rows(opened)
    with on_cluster(asked.cluster, asked.skip_unfit):
        if asked.cluster is None or is_by_products(opened, head, asked):
            whole, estimate = read_features(opened, head, asked), TimeEstimate()
            cost = expected_cost(head, whole, rows.labels, rows.splits, asked.fitting)
            estimate.add(head, cost, fits=2 + FOLDS)
            estimate.tell()
            result, fitted = fit_head(head, whole, rows, rows.splits, asked.fitting)
            return result, fitted.finished(len(rows.class_names)), whole
        call = Place.of(opened), head, asked.for_any_machine(), rows.splits, True
        ((result, fitted),) = spread(fit_stored, [call])
    return result, fitted, None


class _Known(NamedTuple):
    """What tells images that are unlike all training images, and what ``run.json`` says of it."""

    novelty: Novelty
    told: dict[str, Any]


def _know(features: Features, rows: Rows, result: Result, fitted: Fitted) -> _Known:
    """Calibrate novelty on train and val, and measure its false alarms on test."""
    test = rows.splits == SPLITS["test"]
    learn = np.flatnonzero(~test)
    some, units = thinned(np.arange(len(learn))), unit_numbers(side_keys(rows, result.group))
    guessed = np.nan_to_num(fitted.out_of_fold).argmax(axis=1)
    novelty = Novelty.calibrate(
        _images(features, learn[some]), units[learn[some]], guessed[some],
        contents=rows.sha256[learn[some]],
    )  # fmt: skip
    distances = np.concatenate([novelty.of(each) for each in _images(features, np.flatnonzero(test))])
    unlike = distances > 1
    rows_told = effective_rows(unlike, np.unique(units[test], return_inverse=True)[1])
    told = {"test": float(unlike.mean()), "interval": list(agresti_coull(float(unlike.mean()), rows_told))}
    return _Known(novelty, {**novelty.summary, **told})


def _images(features: Features, images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the features of some images at a time, the mean over an image's views; they need little memory."""
    views, X = features.views, features.X
    at_once = max(1, _BYTES // (X.shape[1] * views * np.dtype(np.float32).itemsize))
    for part in np.array_split(images, max(1, -(-len(images) // at_once))):
        read = X[(part[:, None] * views + np.arange(views)).ravel()]
        yield read.reshape(-1, views, X.shape[1]).mean(axis=1)


def _choose_sets(level: float, rows: Rows, result: Result, fitted: Fitted) -> ClassSets:
    """Return sets calibrated on out-of-fold probabilities of train and val, with their figures on test."""
    test, names = rows.splits == SPLITS["test"], rows.class_names
    sets = ClassSets.calibrate(
        level, rows.labels[~test], fitted.out_of_fold, names, units_among(rows, ~test, result.group)
    )
    if sets.unbounded:
        log.warning(
            f"{listed(sets.unbounded)} will be in every set: {called('conformal')} {level} needs at least "
            f"{units_needed(level)} {'groups' if result.group else 'images'} of a class in train and val. Add "
            f"{'images of other groups' if result.group else 'images'}, or lower it."
        )
    return sets.measured(rows.labels[test], result.probabilities[test], units_among(rows, test, result.group))


def _choose_point(aim: Aim, rows: Rows, result: Result, fitted: Fitted) -> OperatingPoint:
    """Return the operating point, chosen on out-of-fold probabilities of train and val, with its figures on test."""
    test, names = rows.splits == SPLITS["test"], rows.class_names
    learned, tested = (units_among(rows, some, result.group) for some in (~test, test))
    point = OperatingPoint.choose(aim, rows.labels[~test], fitted.out_of_fold, names, learned)
    log.info(f"decides  {point}")
    return point.measured(rows.labels[test], result.probabilities[test], names, tested)


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
