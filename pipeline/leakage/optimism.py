"""How much better a head looks on images of groups that it has seen: cross-validation with and without whole groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features.runtime.progress import Progress
from features.splits import SPLITS, check_numbers, stratified_folds, stratified_split
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..evaluation.bootstrap import NUMBERS, half_of, tail_of
from ..evaluation.held_out import effective_units, unit_numbers
from ..evaluation.metrics import METRICS, Metric, figures_of
from ..evaluation.weighted_rows import WeightedRows
from ..training.fits.fit_cache import Fits
from ..training.fits.fitting import FOLDS
from ..training.request import Request
from ..training.splitting import side_keys

_VAL = 0.2  # of the images that are not tested
_DRAWS = 1000


def measure_optimism(
    store: FeatureStore, rows: Rows, head: str, asked: Request, repeats: int, kept: Path
) -> dict[str, Any]:
    """Cross-validate a head on five folds drawn image by image, then on five that keep groups whole, and compare its figures.

    Every image is tested once in each way, by a head that was trained, settings and all, on four fifths of the images.

    Parameters
    ----------
    store : FeatureStore
    rows : Rows
        One per image, with the column of the group.
    head : str
    asked : Request
        With its group.
    repeats : int
        How often folds are drawn.
    kept : Path
        Folder of cached fits.

    Returns
    -------
    optimism : dict
        ``group``, ``groups`` (their number), ``folds``, ``repeats``, and per metric its value ``random`` and ``grouped``, the
        ``difference`` random - grouped, and its 95 % ``interval`` (None if undefined): over whole groups; see `compare_ways`.

    Raises
    ------
    RequestError
        If a class has too few groups, or the head cannot be fitted.
    """
    group = asked.group
    assert group is not None
    keys = side_keys(rows, group)
    check_numbers(rows.labels, keys, rows.class_names, group, len(SPLITS), "splits")
    ways = {"random": None, "grouped": group}
    seeds = range(asked.seed, asked.seed + repeats)
    tested: dict[str, list[np.ndarray]] = {"random": [], "grouped": []}
    with Progress(len(ways) * repeats * FOLDS, "fits") as progress:
        for seed in seeds:
            for way, column in ways.items():
                splits = list(_fold_splits(rows, side_keys(rows, column), seed))
                request = replace(asked, group=column, clusters=asked.clusters if column else None)
                fits = Fits(store, rows, splits, kept, asked.fresh)
                fits.fill([(head, request)])
                probabilities = np.empty((len(rows), len(rows.class_names)))
                for split, result in zip(splits, fits.of(head, request, progress), strict=True):
                    probabilities[split == SPLITS["test"]] = result.probabilities
                tested[way].append(probabilities)
    found = compare_ways(rows.labels, tested["random"], tested["grouped"], keys)
    return {"group": group, "groups": len(set(keys)), "folds": FOLDS, "repeats": repeats, **found}


def _fold_splits(rows: Rows, keys: Sequence[str | bytes], seed: int) -> Iterator[np.ndarray]:
    """Yield a split for each fold, whose images are its test; val is drawn from the others. Equal keys stay together."""
    folds = stratified_folds(rows.strata, keys, FOLDS, seed)
    for fold in range(FOLDS):
        split = np.where(folds == fold, SPLITS["test"], SPLITS["train"]).astype(np.uint8)
        rest = np.flatnonzero(split == SPLITS["train"])
        chosen = stratified_split(rows.strata[rest], [keys[row] for row in rest.tolist()], _VAL, seed)
        split[rest[chosen]] = SPLITS["val"]
        yield split


def compare_ways(
    y: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray], groups: Sequence[str | bytes]
) -> dict[str, dict[str, Any]]:
    """Return metrics of two ways to predict the same images, their difference and its interval.

    Parameters
    ----------
    y : ndarray of shape (n_images,), int
    first, second : sequence of ndarray of shape (n_images, n_classes)
        Probabilities of each repeat; metrics are means over repeats.
    groups : sequence of length n_images
        Whole groups are resampled, for both ways together, as `bootstrap_intervals` does for one; the interval also holds Student's t.
    """
    of_row = unit_numbers(groups)
    units, random = int(of_row.max()) + 1, np.random.default_rng(0)
    tail = tail_of(effective_units(of_row)) if units > 1 else math.nan
    metrics = [each for each in METRICS if each.interval]
    once, draws = _values(y, first, second, metrics, np.ones((1, len(y)))), []
    step = max(1, NUMBERS // len(y))
    for start in range(0, _DRAWS, step):
        weights = random.multinomial(units, np.full(units, 1 / units), min(step, _DRAWS - start)).astype(np.float64)
        draws.append(_values(y, first, second, metrics, weights[:, of_row]))
    found = {}
    for each in metrics:
        values = [float(value[0]) for value in once[each.name]]
        drawn = np.concatenate([part[each.name][0] - part[each.name][1] for part in draws])
        drawn, difference, ends = drawn[np.isfinite(drawn)], values[0] - values[1], None
        if len(drawn) and units > 1:
            # The draws of a loss, which has no upper end, are lopsided: Student's t reaches too far to the other side.
            half = half_of(drawn, tail) if math.isfinite(each.bounds[1]) else 0.0
            low, high = np.quantile(drawn, (tail, 1 - tail))
            ends = [float(min(low, difference - half)), float(max(high, difference + half))]
        found[each.name] = {
            "random": values[0],
            "grouped": values[1],
            "difference": difference,
            "interval": ends,
        }
    return found


def _values(
    y: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    metrics: Sequence[Metric],
    weights: np.ndarray,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each metric under each draw of weights, the mean over repeats, for both ways, (n_draws,) each."""
    ways = [[figures_of(metrics, WeightedRows(y, each, weights)) for each in way] for way in (first, second)]
    return {
        each.name: (
            np.mean([figures[each.name] for figures in ways[0]], axis=0),
            np.mean([figures[each.name] for figures in ways[1]], axis=0),
        )
        for each in metrics
    }
