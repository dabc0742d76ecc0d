"""How a head's test figure grows with the number of training images, and what more of them would bring."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from scipy.special import ndtri

from features.errors import RequestError, called
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.splits import SPLITS, stratified_split
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..evaluation.metrics import Metric, find_metric
from ..heads.registry import check_heads
from ..options import BudgetOptions
from ..training.fits.fit_cache import Fits
from ..training.fits.results import Result
from ..training.loading import describe_rows
from ..training.request import Request
from ..training.splitting import LEFT_OUT, side_keys, with_groups
from .power_law import LEVEL, PowerLaw

HEADS, DRAWS = ("logistic",), 5  # defaults
TIMES = (2, 4)  # how many times as many images the curve is continued to
SIZES, STEP = 8, math.sqrt(2)  # sizes of subsets: each the STEPth part of the next larger one
LEAST_UNITS = 5  # images, or groups, of the rarest class in a subset
HARDLY = 0.005  # a gain from twice as many images that surely stays below is not worth the labels


@dataclass(frozen=True, repr=False)
class LabelBudget:
    """The result of `budget`; a notebook displays its table.

    Attributes
    ----------
    heads : list of dict
        For each head: ``points`` (number of training ``images`` and the test ``values`` of each draw), ``curve`` (images, value,
        low, high), ``more`` (for 2 and 4 times as many images: ``images``, ``value``, ``interval``, ``gain``, ``gain_interval``)
        and ``words``. Intervals are of 90 %: that of a value is for one fit, tested on these test images; that of a gain is for
        new images.
    metric : str
    images : int
        Number of images in train and val.
    draws, seed : int
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
        If a head, a layer or a setting does not exist, `out` exists already, there are fewer than 2 draws, or too few images
        for subsets.
    StoreError
        If the store is missing or damaged.

    Examples
    --------
    >>> found = pipeline.budget("cache/photos.h5", ["logistic", "rbf-svm"])   # doctest: +SKIP
    >>> print(found.heads[0]["words"])   # doctest: +SKIP
    """
    draws, asked = options.get("draws", DRAWS), Request.of(store, options)
    names = list(dict.fromkeys(heads or HEADS))
    check_heads(names, asked.settings)
    if draws < 2:
        raise RequestError(f"{called('draws')} must be at least 2; got {draws}. Leave it out for {DRAWS}.")
    folder, metric = asked.folder("budget"), find_metric(asked.metric)
    with FeatureStore(store) as opened:
        log.info(f"store    {store}: {describe_rows(asked.rows(opened), asked.views or opened.views)}")
        asked, provenance = with_groups(opened, asked), opened.provenance
        rows = asked.rows(opened)
        steps, subsets = draw_subsets(rows, draws, asked.seed, asked.group)
        counts = [int(np.sum((each != SPLITS["test"]) & (each != LEFT_OUT))) for each in subsets]
        log.info(f"subsets  {len(subsets)} of train and val, of {min(counts)} to {counts[0]} images, in {draws} draws")
        fits = Fits(opened, rows, subsets, folder.path.parent / ".fits", asked.fresh)
        if asked.cluster is not None:
            fits.fill([(name, asked) for name in names])
        with Progress(len(names) * len(subsets), "fits") as progress:
            found = [_head(name, steps, counts, fits.of(name, asked, progress), metric) for name in names]
    told: dict[str, Any] = {
        "heads": found,
        "metric": metric.name,
        "images": counts[0],
        "draws": draws,
        "seed": asked.seed,
        "group": asked.group,
        "store": str(store),
        "provenance": provenance,
    }
    with folder.written() as unfinished:
        (unfinished / "budget.md").write_text(format_budget(told) + "\n", encoding="utf-8")
        (unfinished / "budget.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    log.info(f"written  {folder.path}/budget.md, budget.json")
    return LabelBudget(**told, out=str(folder.path))


def draw_subsets(rows: Rows, draws: int, seed: int, group: str | None = None) -> tuple[list[int], list[np.ndarray]]:
    """Return splits whose train and val are nested stratified subsets of the store's: first all of it, then draw by draw.

    Groups, and copies of an image, are in a subset as a whole. Test stays as it is; what is in no subset is `LEFT_OUT`. Subsets get
    smaller as long as each class is in train, and any in val, which may end sooner where groups are large.

    Returns
    -------
    steps : list of int
        How often each subset was made smaller: 0 for all of train and val.
    splits : list of ndarray of shape (n_images,), uint8

    Raises
    ------
    RequestError
        If there are too few images for three sizes.
    """
    learn = np.flatnonzero((rows.splits != SPLITS["test"]) & (rows.splits != LEFT_OUT))
    keys, strata = side_keys(rows, group), rows.strata * 2 + (rows.splits == SPLITS["val"])
    units = [len({keys[row] for row in learn[rows.labels[learn] == label]}) for label in np.unique(rows.labels[learn])]
    sizes = 1 + min(SIZES - 1, int(math.log(max(1.0, min(units) / LEAST_UNITS), STEP)))
    steps, subsets = [0], [rows.splits]
    for number in range(seed, seed + draws):
        kept = learn
        for size in range(1, sizes):
            share = len(learn) / STEP**size / len(kept)
            kept = kept[stratified_split(strata[kept], [keys[row] for row in kept], share, number * SIZES + size)]
            split = np.where(rows.splits == SPLITS["test"], rows.splits, LEFT_OUT).astype(np.uint8)
            split[kept] = rows.splits[kept]
            if not _can_be_fitted(rows.labels, split):
                break
            steps.append(size)
            subsets.append(split)
    if len(set(steps)) < 3:
        raise RequestError(
            f"each class must have at least {2 * LEAST_UNITS} {'groups' if group else 'different images'} in train and val to "
            f"look at subsets of them, both in train and in val; one has {min(units)}. Add images."
        )
    return steps, subsets


def _can_be_fitted(labels: np.ndarray, split: np.ndarray) -> bool:
    """Return whether each class is in train, and any in val."""
    train, val = (split == SPLITS[name] for name in ("train", "val"))
    return bool(val.any()) and len(np.unique(labels[train])) == len(np.unique(labels[split != LEFT_OUT]))


def _head(
    name: str, steps: Sequence[int], counts: Sequence[int], results: Sequence[Result], metric: Metric
) -> dict[str, Any]:
    """Return what is told of one head; see `LabelBudget`."""
    values = np.array([each.test[metric.name] for each in results])
    if np.isnan(values).any():
        raise RequestError(
            f"{metric.name} must be defined on the test images; it is not for {name}. Take another {called('metric')}"
        )
    by_step = [np.flatnonzero(np.array(steps) == step).tolist() for step in sorted(set(steps), reverse=True)]
    sizes = np.array([np.mean([counts[each] for each in those]) for those in by_step])
    law = PowerLaw(sizes, tuple(_error(metric, values[those]) for those in by_step))
    points = [
        {"images": float(size), "values": values[those].tolist()} for size, those in zip(sizes, by_step, strict=True)
    ]
    now, relative = counts[0], _relative_error(metric, results[0])
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
    told = {"head": name, "points": points, "now": float(values[0]), "curve": curve, "more": more}
    return {**told, "words": _words(name, metric, now, told)}


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


def _words(name: str, metric: Metric, now: int, told: dict[str, Any]) -> str:
    """Return what more images would bring, in words."""
    unit, factor = ("points", 100) if metric.greater_is_better else ("less", 1)
    parts = []
    for each in told["more"]:
        low, high = (factor * end for end in each["gain_interval"])
        sign, digits = ("+", 1) if metric.greater_is_better else ("", 3)
        gain = f"{sign}{factor * each['gain']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] {unit}"
        parts.append(f"{each['images'] - now:,} more labels would bring {gain} of {metric.words}")
    said = f"{name} has {metric.words} {told['now']:.{metric.digits}f} with {now:,} training images. "
    if told["more"][0]["gain_interval"][1] < HARDLY:
        said += "More images of the same kind will hardly help: "
    return f"{said}{parts[0]}, {parts[1]}."


def format_budget(told: dict[str, Any]) -> str:
    """Return a budget as Markdown: one table of all heads, and what it says in words."""
    metric = find_metric(told["metric"])
    titles = ["head", "training images", f"test {metric.title} [{LEVEL:.0%}]", "gain"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for head in told["heads"]:
        for point in head["points"]:
            values = point["values"]
            lines.append(f"| {head['head']} | {point['images']:,.0f} | {np.mean(values):.{metric.digits}f} | |")
        for each in head["more"]:
            low, high = each["interval"]
            ends = f"[{low:.{metric.digits}f}, {high:.{metric.digits}f}]"
            gain = f"{each['gain']:.{metric.digits}f} [{each['gain_interval'][0]:.{metric.digits}f}, {each['gain_interval'][1]:.{metric.digits}f}]"
            lines.append(
                f"| {head['head']} | {each['images']:,} (expected) | {each['value']:.{metric.digits}f} {ends} | {gain} |"
            )
    return "\n".join([*lines, "", *(head["words"] for head in told["heads"])])
