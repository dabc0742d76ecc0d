"""A replay of labelling: how many labels the queue would have saved against labelling at random, on a labelled store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from scipy.special import stdtrit

from features.errors import RequestError, called
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.splits import SPLITS
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.training_data import Features
from ..evaluation.metrics import Metric, find_metric, value_of
from ..heads.contract import Search
from ..heads.registry import find_head
from ..options import METRIC, ReplayOptions
from ..runs.feature_spec import all_classes
from ..runs.folders import read_run
from ..training.fits.fitting import take_sample
from ..training.loading import read_features, request_of
from ..training.relabelling import FILE as CORRECTIONS
from ..training.request import corrections_of
from ..training.splitting import with_groups
from .label_budget import told_gain
from .queue import order_queue

DRAWS, ROUNDS = 10, 8  # of which each adds as many labels as there were at first
FIRST = 10  # labels of each class at first
LEVEL = 0.95

Choose = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True, repr=False)
class ReplayedQueue:
    """The result of `replay_queue`.

    Attributes
    ----------
    run, head, metric : str
    labels : list of int
        Numbers of labels after each round.
    queue, random : list of list of float
        Test figure after each round of each draw, labelled in the queue's order and at random.
    gain : float
        Mean lead of the queue over rounds and draws; positive if it is better.
    gain_interval : (float, float)
        95 %, Student's t over draws.
    saved : float
        How many of the last number of labels the queue would have saved, to be as good as random labels are then.
    saved_interval : (float, float)
    words : str
    """

    run: str
    head: str
    metric: str
    labels: list[int]
    queue: list[list[float]]
    random: list[list[float]]
    gain: float
    gain_interval: tuple[float, float]
    saved: float
    saved_interval: tuple[float, float]
    words: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    def __repr__(self) -> str:
        return self.words


@takes(ReplayOptions)
def replay_queue(run: str | Path, **options: Unpack[ReplayOptions]) -> ReplayedQueue:
    """Hide the labels of a run's training images, and label them again in the queue's order and at random.

    Each draw starts with the same few random labels of each class. After each round the head, with the settings of the run, is
    fitted to what is labelled, and tested on the test images.

    Parameters
    ----------
    run : path-like
        The folder of a trained head, whose store still exists.
    **options

    Returns
    -------
    replayed : ReplayedQueue

    Raises
    ------
    RequestError
        If there is no such run, fewer than 3 draws are asked for, or there are too few images.
    """
    draws, told = options.get("draws", DRAWS), read_run(run)
    if draws < 3:
        raise RequestError(f"{called('draws')} must be at least 3; got {draws}. Leave it out for {DRAWS}.")
    metric, name = find_metric(told.get("metric", METRIC)), told["head"]
    with FeatureStore(told["store"]) as store:
        asked = request_of(store, told, told.get("seed", 0))
        asked = replace(asked, group=told.get("group"), **corrections_of(told, Path(run) / CORRECTIONS))
        if asked.group is not None:
            asked = with_groups(store, asked)
        rows, features = asked.rows(store), read_features(store, name, asked)
    world = _World.of(told, rows, features, metric)
    curves: dict[str, list[list[float]]] = {"queue": [], "random": []}
    with Progress(2 * draws * (ROUNDS + 1), "fits") as progress:
        for number in range(draws):
            random = np.random.default_rng([options.get("seed", 0), number])
            first = world.first(random)
            ways: dict[str, Choose] = {"queue": order_queue, "random": lambda p, *_, r=random: r.permutation(len(p))}
            for way, choose in ways.items():
                curves[way].append(world.label(first, choose, progress))
    step = len(first)
    labels = [step * (number + 1) for number in range(ROUNDS + 1)]
    found = _summary(metric, labels, curves, step)
    replayed = ReplayedQueue(str(run), name, metric.name, labels, curves["queue"], curves["random"], *found)
    log.info(f"replay   {replayed.words}")
    return replayed


@dataclass(frozen=True)
class _World:
    """What is labelled in a replay, and what tests it."""

    search: Search
    settings: dict[str, Any]
    features: Features
    rows: Rows
    unit: np.ndarray
    learn: np.ndarray
    metric: Metric

    @classmethod
    def of(cls, told: dict[str, Any], rows: Rows, features: Features, metric: Metric) -> _World:
        head = find_head(told["head"], {})
        if head.views == "mean":
            features = features.averaged()
        learn = rows.splits != SPLITS["test"]
        if int(learn.sum()) < (ROUNDS + 1) * FIRST * len(rows.class_names):
            raise RequestError(
                f"a replay needs at least {(ROUNDS + 1) * FIRST * len(rows.class_names)} images in train and val; got "
                f"{int(learn.sum())}. Add images."
            )
        sample = take_sample(
            features, rows, learn, rows.splits == SPLITS["val"], told.get("seed", 0), told.get("group")
        )
        averaged = features.averaged().only(learn)
        X = averaged.X[np.arange(len(sample.y))]
        unit = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
        return cls(head.search(sample), told["settings"], features, rows, unit, learn, metric)

    def first(self, random: np.random.Generator) -> np.ndarray:
        """Return the images labelled at first."""
        y = self.search.sample.y
        return np.concatenate([random.permutation(np.flatnonzero(y == label))[:FIRST] for label in np.unique(y)])

    def label(self, first: np.ndarray, choose: Choose, progress: Any) -> list[float]:
        """Return the test figure at first and after each round."""
        n_classes, test = len(self.rows.class_names), ~self.learn
        sample, found = self.search.sample, []
        labelled = np.zeros(len(sample.y), bool)
        labelled[first] = True
        for number in range(ROUNDS + 1):
            estimator = self.search.fit(self.settings, labelled)
            tested = all_classes(estimator, self.features, test, n_classes)
            found.append(value_of(self.metric, self.rows.labels[test], tested))
            if number < ROUNDS:
                rest = np.flatnonzero(~labelled)
                chances = all_classes(estimator, sample.features, ~labelled, n_classes)
                labelled[rest[choose(chances, self.unit[rest], self.unit[labelled], len(first))[: len(first)]]] = True
            progress.update()
        return found


def _summary(
    metric: Metric, labels: list[int], curves: dict[str, list[list[float]]], step: int
) -> tuple[float, tuple[float, float], float, tuple[float, float], str]:
    sign = 1 if metric.greater_is_better else -1
    queue, random = (sign * np.array(curves[way]) for way in ("queue", "random"))
    gains = (queue - random)[:, 1:].mean(axis=1)
    goal = random[:, -1].mean()
    mean, leave = np.maximum.accumulate(queue.mean(axis=0)), len(queue) * queue.mean(axis=0)
    saved = labels[-1] - _reach(labels, mean, goal)
    # Delete-one jackknife: a draw alone is too noisy to say when it reaches the goal.
    parts = [
        labels[-1]
        - _reach(
            labels,
            np.maximum.accumulate((leave - one) / (len(queue) - 1)),
            (len(random) * goal - last) / (len(random) - 1),
        )
        for one, last in zip(queue, random[:, -1], strict=True)
    ]
    t, n = float(stdtrit(len(queue) - 1, (1 + LEVEL) / 2)), len(queue)
    half = t * float(np.std(gains, ddof=1)) / math.sqrt(n)
    wide = t * math.sqrt((n - 1) / n * float(np.sum((np.array(parts) - np.mean(parts)) ** 2)))
    gain, ends = float(gains.mean()), (float(gains.mean()) - half, float(gains.mean()) + half)
    around = (max(0.0, saved - wide), min(float(labels[-1] - step), saved + wide))
    told = f"{metric.words} with the queue's labels {told_gain(metric, gain, ends)}"
    if ends[0] > 0:
        words = (
            f"the queue would have saved {saved:.0f} [{around[0]:.0f}, {around[1]:.0f}] of {labels[-1]} labels: {told}"
        )
    else:
        words = f"the queue does not pay here, random labels do as well: {told} on average up to {labels[-1]} labels"
    return gain, ends, saved, around, words


def _reach(labels: list[int], curve: np.ndarray, goal: float) -> float:
    """Return at how many labels a rising curve reaches a goal, at most the last number."""
    if curve[-1] < goal:
        return float(labels[-1])
    place = int(np.argmax(curve >= goal))
    if place == 0:
        return float(labels[0])
    share = (goal - curve[place - 1]) / max(curve[place] - curve[place - 1], 1e-12)
    return float(labels[place - 1] + share * (labels[place] - labels[place - 1]))
