"""How a head's test figure grows with the number of training images, and what more of them would bring."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from scipy.special import ndtri

from features.errors import RequestError, called
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.store.reader import FeatureStore

from ..evaluation.held_out import MIN_REPEATS
from ..evaluation.metrics import Metric, find_metric
from ..heads.registry import check_heads, expand_heads
from ..options import BudgetOptions
from ..training.fits.fit_cache import Fits
from ..training.fits.results import Result
from ..training.loading import describe_rows
from ..training.request import Request
from ..training.splitting import check_repeats, draw_splits, with_groups
from .power_law import LEVEL, PowerLaw
from .subsets import Subsets

HEADS, REPEATS, DRAWS, DRAWS_OF_SPLIT = ("logistic",), 5, 5, 2  # defaults; the last with drawn splits
TIMES = (2, 4)  # how many times as many images the curve is continued to
HARDLY = 0.005  # a gain from twice as many images that surely stays below is not worth the labels


@dataclass(frozen=True, repr=False)
class LabelBudget:
    """The result of `budget`; a notebook displays its table.

    Attributes
    ----------
    heads : list of dict
        For each head: ``points`` (number of training ``images``, the test ``values`` of each draw, and there the curve's ``value`` and
        ``interval``), ``curve`` (``images``, ``value``, ``interval``), ``more`` (for 2 and 4 times as many images: ``images``,
        ``value``, ``interval``, ``gain``, ``gain_interval``) and ``words``. Intervals are of 90 %: that of a value is for one fit per
        split, tested on its test images; that of a gain is for new images.
    metric : str
    images : int
        Number of images in train and val.
    draws, seed, repeats : int
        Draws of subsets per split, and how many splits were drawn; 1: the store's own.
    group : str or None
    store, out : str
        The store used, and the folder with the results.
    provenance : dict
        Of the store.
    """

    heads: list[dict[str, Any]]
    metric: str
    images: int
    draws: int
    seed: int
    repeats: int
    group: str | None
    store: str
    provenance: dict[str, Any]
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return format_budget(self.to_json())

    _repr_markdown_ = __repr__


@takes(BudgetOptions)
def budget(store: str | Path, heads: Sequence[str] | None = None, **options: Unpack[BudgetOptions]) -> LabelBudget:
    """Tell what more labelled images of the same kind would bring, by training on nested subsets of those there are.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    heads : sequence of str, optional
        Keys of ``HEADS``, or dotted names of scikit-learn classifiers; by default, ``logistic``.
    **options

    Returns
    -------
    found : LabelBudget

    Raises
    ------
    RequestError
        If a head, a layer or a setting does not exist, `out` exists already, there are fewer than 2 draws of the store's own split, or
        too few images for subsets.
    StoreError
        If the store is missing or damaged.

    Examples
    --------
    >>> found = pipeline.budget("cache/photos.h5", ["logistic", "rbf-svm"])   # doctest: +SKIP
    >>> print(found.heads[0]["words"])   # doctest: +SKIP
    """
    asked, names = Request.of(store, options), expand_heads(heads or HEADS)
    check_heads(names, asked.settings)
    folder, metric = asked.folder("budget"), find_metric(asked.metric)
    with FeatureStore(store) as opened:
        repeats = options.get("repeats", _usual_repeats(opened))
        check_repeats(repeats)
        usual, least = (DRAWS, 2) if repeats == 1 else (DRAWS_OF_SPLIT, 1)
        draws = options.get("draws", usual)
        if draws < least:
            raise RequestError(f"{called('draws')} must be at least {least}; got {draws}. Leave it out for {usual}.")
        log.info(f"store    {store}: {describe_rows(asked.rows(opened), asked.views or opened.views)}")
        asked, provenance = with_groups(opened, asked, repeats), opened.provenance
        rows = asked.rows(opened)
        # Two splits are enough here, of which `draw_splits` warns.
        splits = draw_splits(rows, repeats if repeats == 1 else max(repeats, MIN_REPEATS), asked.seed, asked.group)
        each_split = [replace(rows, splits=split) for split in splits[:repeats]]
        drawn = Subsets.of(each_split, draws, asked.seed, asked.group)
        log.info(
            f"subsets  {len(drawn.splits)} of train and val, of {min(drawn.counts)} to {drawn.images} images, in {draws} draws"
            + (f" of each of {repeats} splits" if repeats > 1 else "")
        )
        fits = Fits(opened, rows, drawn.splits, folder.path.parent / ".fits", asked.fresh)
        fits.fill([(name, asked) for name in names])
        with Progress(len(names) * len(drawn.splits), "fits") as progress:
            found = [_head(name, drawn, fits.of(name, asked, progress), metric) for name in names]
    told: dict[str, Any] = {
        "heads": found,
        "metric": metric.name,
        "images": drawn.images,
        "draws": draws,
        "seed": asked.seed,
        "repeats": repeats,
        "group": asked.group,
        "store": str(store),
        "provenance": provenance,
    }
    with folder.written() as unfinished:
        (unfinished / "budget.md").write_text(format_budget(told) + "\n", encoding="utf-8")
        (unfinished / "budget.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    log.info(f"written  {folder.path}/budget.md, budget.json")
    return LabelBudget(**told, out=str(folder.path))


def _usual_repeats(store: FeatureStore) -> int:
    """Return the number of splits that are told of unasked: several, whose mean is told more surely, unless the source has its own test."""
    origin = store.made.origin
    return REPEATS if origin is not None and "test" in origin.drawn else 1


def _head(name: str, drawn: Subsets, results: Sequence[Result], metric: Metric) -> dict[str, Any]:
    """Return what is told of one head; see `LabelBudget`."""
    values = np.array([each.test[metric.name] for each in results])
    if np.isnan(values).any():
        raise RequestError(
            f"{metric.name} must be defined on the test images; it is not for {name}. Take another {called('metric')}"
        )
    law, whole = law_of(drawn, metric, values), np.flatnonzero(drawn.steps == 0)
    sizes = law.sizes
    points = [
        {"images": float(size), "values": values[those].tolist(), **_told(metric, law.at(size))}
        for size, those in zip(sizes, drawn.by_step, strict=True)
    ]
    # Test images of several splits overlap, so a gain is taken to be known as well as on those of one.
    now, relative = drawn.images, float(np.mean([_relative_error(metric, results[each]) for each in whole.tolist()]))
    curve = [
        {"images": float(n), **_told(metric, law.at(n))} for n in np.geomspace(sizes[0], max(TIMES) * now, 40).round(1)
    ]
    more = []
    for times in TIMES:
        gain, low, high = law.gain(now, times * now, relative)
        more.append(
            {
                "times": times,
                "images": times * now,
                **_told(metric, law.at(times * now)),
                "gain": gain,
                "gain_interval": [low, high],
            }
        )
    told = {"head": name, "points": points, "now": float(values[whole].mean()), "curve": curve, "more": more}
    return {**told, "words": _words(name, metric, now, told, len(whole))}


def law_of(drawn: Subsets, metric: Metric, values: np.ndarray) -> PowerLaw:
    """Return the power law through a metric's values, (n_subsets,), that tells the mean of one fit per split."""
    errors = _leveled(_error(metric, values), drawn)
    sizes = np.array([drawn.counts[those].mean() for those in drawn.by_step])
    return PowerLaw(sizes, *(tuple(each[those] for those in drawn.by_step) for each in (errors, drawn.repeats)))


def _leveled(errors: np.ndarray, drawn: Subsets) -> np.ndarray:
    """Return errors less what is their split's own at all sizes alike, since its test images are easier or harder than others'."""
    splits = [drawn.repeats == number for number in np.unique(drawn.repeats)]
    common = set.intersection(*(set(drawn.steps[own].tolist()) for own in splits))
    means = np.array([[errors[own & (drawn.steps == step)].mean() for step in sorted(common)] for own in splits])
    return errors - (means - means.mean(axis=0)).mean(axis=1)[drawn.repeats]


def _error(metric: Metric, values: np.ndarray) -> np.ndarray:
    """Return what falls as a head gets better: 1 minus a metric whose best value is 1, or the metric itself."""
    return 1 - values if metric.greater_is_better else values


def _told(metric: Metric, error: tuple[float, float, float]) -> dict[str, Any]:
    value, *ends = (1 - each if metric.greater_is_better else each for each in error)
    return {"value": value, "interval": sorted(ends)}


def _relative_error(metric: Metric, result: Result) -> float:
    """Return the standard error of a result's error due to the choice of test images, relative to the error."""
    low, high = result.intervals.get(metric.name, (math.nan, math.nan))
    error = float(_error(metric, np.array([result.test[metric.name]]))[0])
    if math.isnan(low) or error <= 0:
        return 1.0
    return min(1.0, (high - low) / 2 / float(ndtri(0.975)) / error)


def _words(name: str, metric: Metric, now: int, told: dict[str, Any], repeats: int) -> str:
    """Return what more images would bring, in words."""
    parts = [
        f"{each['images'] - now:,} more labels would bring {told_gain(metric, each['gain'], each['gain_interval'])} of {metric.words}"
        for each in told["more"]
    ]
    mean = f", on average over {repeats} splits," if repeats > 1 else ""
    said = f"{name} has {metric.words} {told['now']:.{metric.digits}f}{mean} with {now:,} training images. "
    if told["more"][0]["gain_interval"][1] < HARDLY:
        said += "More images of the same kind will hardly help: "
    return f"{said}{parts[0]}, {parts[1]}."


def told_gain(metric: Metric, gain: float, interval: Sequence[float]) -> str:
    """Return a gain with its interval in words: in points, or of a metric that falls as heads get better, in its own unit."""
    unit, factor, form = ("points", 100, "+.1f") if metric.greater_is_better else ("less", 1, ".3f")
    low, high = (f"{factor * end:{form.lstrip('+')}}" for end in interval)
    return f"{factor * gain:{form}} [{low}, {high}] {unit}"


def format_budget(told: dict[str, Any]) -> str:
    """Return a budget as Markdown: one table of all heads, and what it says in words."""
    metric = find_metric(told["metric"])
    curve = f"by the curve [{100 * LEVEL:.0f} %]"
    titles = ["head", "training images", f"test {metric.title}, measured", curve, f"gain, {curve}"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    digits = metric.digits

    def ends(interval: Sequence[float]) -> str:
        return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"

    for head in told["heads"]:
        for each in (*head["points"], *head["more"]):
            measured = f"{np.mean(each['values']):.{digits}f}" if "values" in each else "-"
            gain = f"{each['gain']:.{digits}f} {ends(each['gain_interval'])}" if "gain" in each else "-"
            value = f"{each['value']:.{digits}f} {ends(each['interval'])}"
            lines.append(f"| {head['head']} | {each['images']:,.0f} | {measured} | {value} | {gain} |")
    return "\n".join([*lines, "", *(head["words"] for head in told["heads"])])
